//! Runs the corpus: `cargo run --release -p corpus -- [--cases a,b] [--modes exact,16K,64K] [--seeds N] [--short]
//! [--no-rivals] [--write]`. Without arguments: every case, the three samplings, three seeds.
//!
//! Ends with status 1, and says which, if a bound is missed. `--write` writes `docs/benchmarks/leak-corpus.md`, of a whole run
//! alone. `--run` and
//! `--rivals CASE SAMPLING SEED` are what it calls itself with; with `CORPUS_REPORT` in the environment `--run` also prints every
//! judged site with its evidence.

use std::process::ExitCode;
use std::time::Instant;

use corpus::case::Case;
use corpus::outcome::Sampling;
use corpus::sweep::{EPOCHS, Found, plan, run_all, short_plan};
use corpus::{bounds, cases, observe, rivals, table};

#[global_allocator]
static ALLOC: rivals::Watched<unfreed::Alloc> = rivals::Watched(unfreed::Alloc::system());

/// Where the table goes, below the repository's root.
const PAGE: &str = "docs/benchmarks/leak-corpus.md";
const USAGE: &str =
    "corpus [--cases a,b] [--modes exact,16K,64K] [--seeds N] [--short] [--no-rivals] [--write] [--help]";
/// With fewer a run is a part.
const SEEDS: u64 = 3;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let done = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ref given if given.contains(&"--help") || given.contains(&"-h") => {
            let names: Vec<&str> = cases::all().map(|case| case.name).collect();
            println!("usage: {USAGE}\n\ncases: {}\n--write: {PAGE}, of a whole run alone", names.join(", "));
            Ok(true)
        }
        [what @ ("--run" | "--rivals"), case, sampling, seed] => one(what, case, sampling, seed).map(|()| true),
        _ => Wanted::read(&arguments).and_then(|wanted| wanted.sweep()),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(why) => {
            eprintln!("corpus: {why}");
            ExitCode::from(2)
        }
    }
}

fn case_named(name: &str) -> Result<&'static Case, String> {
    cases::find(name).ok_or_else(|| {
        let names: Vec<&str> = cases::all().map(|case| case.name).collect();
        format!("there is no case '{name}'; there are {}", names.join(", "))
    })
}

fn one(what: &str, case: &str, sampling: &str, seed: &str) -> Result<(), String> {
    let (case, sampling) = (case_named(case)?, sampling.parse::<Sampling>()?);
    let seed = seed.parse().map_err(|_| format!("'{seed}' is no seed; allowed is a whole number"))?;
    let line = if what == "--run" {
        let outcome = observe::observe(case, sampling, seed, EPOCHS).map_err(|why| why.to_string())?;
        serde_json::to_string(&outcome)
    } else {
        serde_json::to_string(&rivals::run(case, sampling, seed, EPOCHS))
    };
    println!("{}", line.map_err(|why| why.to_string())?);
    Ok(())
}

struct Wanted {
    cases: Vec<&'static Case>,
    samplings: Vec<Sampling>,
    seeds: u64,
    short: bool,
    rivals: bool,
    write: bool,
}

impl Wanted {
    fn read(arguments: &[String]) -> Result<Wanted, String> {
        let mut wanted = Wanted {
            cases: cases::all().collect(),
            samplings: Sampling::SCORED.to_vec(),
            seeds: SEEDS,
            short: false,
            rivals: true,
            write: false,
        };
        // What leaves something out, as it was given: the page is of all.
        let mut parts = Vec::new();
        let mut arguments = arguments.iter();
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().ok_or_else(|| format!("{argument} needs a value; {USAGE}"));
            match argument.as_str() {
                "--cases" => wanted.cases = value()?.split(',').map(case_named).collect::<Result<_, _>>()?,
                "--modes" => wanted.samplings = value()?.split(',').map(str::parse).collect::<Result<_, _>>()?,
                "--seeds" => {
                    let text = value()?;
                    let seeds = text.parse().ok().filter(|seeds| (1..=1000).contains(seeds));
                    wanted.seeds = seeds.ok_or_else(|| format!("'{text}' seeds; allowed are 1 to 1000"))?;
                }
                "--short" => wanted.short = true,
                "--no-rivals" => wanted.rivals = false,
                "--write" => wanted.write = true,
                other => return Err(format!("'{other}' is no argument; {USAGE}")),
            }
            let leaves_out = match argument.as_str() {
                "--cases" | "--modes" | "--short" | "--no-rivals" => true,
                "--seeds" => wanted.seeds < SEEDS,
                _ => false,
            };
            if leaves_out {
                parts.push(argument.as_str());
            }
        }
        if wanted.write && !parts.is_empty() {
            return Err(format!(
                "--write is for a whole run, of {SEEDS} seeds or more, and replaces {PAGE}: leave out {}",
                parts.join(", ")
            ));
        }
        Ok(wanted)
    }

    /// True: every bound was kept.
    fn sweep(&self) -> Result<bool, String> {
        let runs = if self.short {
            short_plan(&self.cases)
        } else {
            plan(&self.cases, &self.samplings, self.seeds, self.rivals)
        };
        let began = Instant::now();
        let program = std::env::current_exe().map_err(|why| why.to_string())?;
        let found = run_all(&program, &runs, &progress)?;
        eprintln!("{} runs in {:.0} s", found.len(), began.elapsed().as_secs_f64());
        let page = table::page(&found, &when_and_where());
        if self.write {
            let path = format!("{}/../../{PAGE}", env!("CARGO_MANIFEST_DIR"));
            std::fs::write(&path, &page).map_err(|why| format!("{PAGE}: {why}"))?;
            eprintln!("written: {PAGE}");
        } else {
            println!("{page}");
        }
        let outcomes: Vec<_> = found.iter().map(|found| &found.outcome).collect();
        let breaches = bounds::breaches(&outcomes);
        breaches.iter().for_each(|breach| eprintln!("missed: {breach}"));
        Ok(breaches.is_empty())
    }
}

fn progress(found: &Found) {
    let outcome = &found.outcome;
    let states: Vec<&str> = outcome.culprits.iter().map(|culprit| culprit.state.as_str()).collect();
    let innocents = &outcome.innocents;
    eprintln!(
        "{} {} {}: {} ({} ms){}{}",
        outcome.case,
        outcome.sampling,
        outcome.seed,
        states.join(", "),
        outcome.took_ms,
        if innocents.ever_suspected.is_empty() { "" } else { "; suspected: " },
        innocents.ever_suspected.join(", "),
    );
}

fn when_and_where() -> String {
    let date = std::process::Command::new("date").args(["-u", "+%F"]).output();
    let date = date.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default();
    let cpus = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpus.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ")).map(|(_, name)| name);
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    format!("{date}, {cores} cores of {}", model.unwrap_or("an unnamed processor"))
}
