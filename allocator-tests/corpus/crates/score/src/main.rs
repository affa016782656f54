//! Six crates that leaked, each in the leaking and in the mended version, one program for both.
//!
//! Promises: exits with 0 only where every leaking version was called a leak, its chain among the first three and nothing
//! else accused, every mended one was never called a leak and accused of nothing at the end, and the leak was really
//! there, by the exact totals. Progress goes to stderr, the table to stdout; `--write` puts it into `docs/benchmarks`.

mod options;
mod outcome;
mod programs;
mod table;

use std::process::ExitCode;
use std::time::Instant;

use options::{Options, USAGE};
use programs::{CASES, Kind, Programs};
use table::Row;

fn main() -> ExitCode {
    if std::env::args().skip(1).any(|argument| argument == "--help" || argument == "-h") {
        println!("usage: {USAGE}\n\nnames: {}", CASES.map(|case| case.name).join(" "));
        return ExitCode::SUCCESS;
    }
    match run() {
        Ok(failures) if failures.is_empty() => ExitCode::SUCCESS,
        Ok(failures) => {
            eprintln!("\n{} failed:", failures.len());
            failures.iter().for_each(|failure| eprintln!("  {failure}"));
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}

/// What was not as it should be.
fn run() -> Result<Vec<String>, String> {
    let options = Options::parse(std::env::args().skip(1))?;
    let began = Instant::now();
    let programs = Programs::build(&options.cases)?;
    eprintln!("built in {} s", began.elapsed().as_secs());

    let mut rows = Vec::new();
    let mut failures = Vec::new();
    for case in CASES.iter().filter(|case| options.cases.contains(&case.name)) {
        for mode in &options.modes {
            let [leaking, fixed] = [Kind::Leaking, Kind::Fixed].map(|kind| Row::new(case, kind, mode));
            let (mut leaking, mut fixed) = (leaking, fixed);
            for seed in 1..=options.seeds {
                // Side by side: epochs are rounds, so that no verdict depends on how long one takes.
                let run = |kind| programs.run(case.name, kind, mode, seed, options.rounds);
                let outcomes = std::thread::scope(|scope| {
                    let other = scope.spawn(|| run(Kind::Fixed));
                    [run(Kind::Leaking), other.join().unwrap_or(Err("a run panicked".to_owned()))]
                });
                for (row, outcome) in [&mut leaking, &mut fixed].into_iter().zip(outcomes) {
                    let outcome = outcome?;
                    eprintln!("{:<17} {:<8} {mode:<5} seed {seed}: {}", case.name, row.version(), outcome.in_words());
                    row.outcomes.push(outcome);
                }
            }
            failures.extend(leaking.failures());
            failures.extend(fixed.failures());
            failures.extend(table::difference(&leaking, &fixed));
            rows.extend([leaking, fixed]);
        }
    }
    let page = table::page(&rows, &options);
    println!("{page}");
    if options.write {
        programs.write_page(&page)?;
    }
    eprintln!("{} runs in {} s with building", rows.len() as u64 * options.seeds, began.elapsed().as_secs());
    Ok(failures)
}
