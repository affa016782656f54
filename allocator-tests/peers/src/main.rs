//! The bench: builds one program of workloads under every profiler, runs them in turn (A B C … A B C …), checks that all
//! did the same work, and writes the page of ratios, its plot, and the README's table.
//!
//! No figure is typed in: a profiler that does not build, does not start, crashes or does other work has a word in its place.

mod bounds;
mod builds;
mod callgrind;
mod lanes;
mod machine;
mod page;
mod plan;
mod plot;
mod process;
mod readme;
mod results;
mod round;
mod server;
mod statistics;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::OnceLock;
use std::time::Instant;

use builds::Programs;
use lanes::Bench;
use machine::{Machine, Usage};
use page::Page;
use plan::{Group, Scale, Slicing, Variant, WORKS, Work};
use results::Results;
use round::Round;

const USAGE: &str = "usage: peers [--quick | --long] [--rounds N] [--only WORKLOAD,…] [--profilers NAME,…] [--no-callgrind]
             [--no-build] [--out DIRECTORY] [--slices N] [--slices-to FILE] [--help]

  --quick, --long   about 5 minutes and about 110, where the default is about 35 on two cores; building not counted
  --rounds N        rounds of all profilers, and no more of those whose cost is promised
  --only            workloads, as in the page: pair, churn, json, grow, handoff, buffers, deep, server, mail, batch, threads
  --profilers       those whose names contain one of these; what they are compared with is run in any case
  --no-callgrind    counts no instructions
  --no-build        runs the programs that an earlier call built, whatever has changed since
  --out DIRECTORY   the page and plot go there, and the README is left alone; the default is docs/benchmarks, and the README's
                    table is written, if everything was run (no --quick or other option
                    that leaves something out)
  --slices N        the same work of the sampling profilers, cut into so many slices
  --slices-to FILE  what each slice took, as JSON: for choosing their length and number";

/// From here on a machine is called busy: what others took of it.
const BUSY_SHARE: f64 = 0.03;

/// Progress, with the time since the start.
pub fn say(what: &str) {
    static BEGIN: OnceLock<Instant> = OnceLock::new();
    let seconds = BEGIN.get_or_init(Instant::now).elapsed().as_secs();
    eprintln!("[{:3}:{:02}] {what}", seconds / 60, seconds % 60);
}

struct Options {
    scale: Scale,
    only: Vec<String>,
    profilers: Vec<String>,
    callgrind: bool,
    build: bool,
    out: Option<PathBuf>,
    slices: Option<usize>,
    slices_to: Option<PathBuf>,
}

impl Options {
    fn read() -> Result<Options, String> {
        let mut options = Options {
            scale: plan::DEFAULT,
            only: vec![],
            profilers: vec![],
            callgrind: true,
            build: true,
            out: None,
            slices: None,
            slices_to: None,
        };
        let mut rounds = None;
        let mut arguments = std::env::args().skip(1);
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().ok_or_else(|| format!("{argument} wants a value\n{USAGE}"));
            let list = |text: String| text.split(',').map(|name| name.trim().to_owned()).collect::<Vec<_>>();
            match argument.as_str() {
                "--quick" => options.scale = plan::QUICK,
                "--long" => options.scale = plan::LONG,
                "--rounds" => {
                    let text = value()?;
                    rounds =
                        Some(text.parse::<usize>().ok().filter(|n| (1..=1000).contains(n)).ok_or_else(|| {
                            format!("--rounds is '{text}'; allowed are whole numbers from 1 to 1000")
                        })?);
                }
                "--only" => options.only = list(value()?),
                "--profilers" => options.profilers = list(value()?),
                "--no-callgrind" => options.callgrind = false,
                "--no-build" => options.build = false,
                "--out" => options.out = Some(PathBuf::from(value()?)),
                "--slices" => {
                    let text = value()?;
                    options.slices =
                        Some(text.parse().ok().filter(|n| (1..=1000).contains(n)).ok_or_else(|| {
                            format!("--slices is '{text}'; allowed are whole numbers from 1 to 1000")
                        })?);
                }
                "--slices-to" => options.slices_to = Some(PathBuf::from(value()?)),
                other => return Err(format!("'{other}' is not an option\n{USAGE}")),
            }
        }
        if let Some(rounds) = rounds {
            options.scale.rounds = rounds;
            options.scale.exact_rounds = rounds;
            options.scale.promised_rounds = rounds;
            options.scale.server_rounds = rounds;
        }
        if let Some(name) = options.only.iter().find(|name| !WORKS.iter().any(|work| work.name == **name)) {
            return Err(format!("no workload '{name}'\n{USAGE}"));
        }
        let all = || plan::SAMPLED.iter().chain(&plan::EXACT).chain(&plan::EXACT_AT_DEPTH);
        if let Some(name) = options.profilers.iter().find(|name| !all().any(|v| v.name.contains(name.as_str()))) {
            let names: Vec<&str> = all().map(|variant| variant.name).collect();
            return Err(format!("no profiler '{name}'; there are: {}", names.join(", ")));
        }
        Ok(options)
    }

    fn wants(&self, variant: &Variant) -> bool {
        let named = |variant: &Variant| self.profilers.iter().any(|name| variant.name.contains(name.as_str()));
        let all = || plan::SAMPLED.iter().chain(&plan::EXACT).chain(&plan::EXACT_AT_DEPTH);
        self.profilers.is_empty()
            || named(variant)
            || variant.name == plan::AGAIN
            || variant.is_base() && all().any(|other| other.base == variant.name && named(other))
    }

    /// The same work, cut as asked.
    fn cut(&self, group: Group, slicing: Slicing) -> Slicing {
        match self.slices {
            Some(slices) if group == Group::Sampled => {
                Slicing { slice: slicing.slice * slicing.slices as u64 / slices as u64, slices, ..slicing }
            }
            _ => slicing,
        }
    }

    /// A part is no result for the README.
    fn is_whole(&self) -> bool {
        self.only.is_empty()
            && self.profilers.is_empty()
            && self.scale.name != plan::QUICK.name
            && self.callgrind
            && self.build
            && self.slices.is_none()
    }
}

fn main() -> ExitCode {
    if std::env::args().skip(1).any(|argument| argument == "--help" || argument == "-h") {
        println!("{USAGE}");
        return ExitCode::SUCCESS;
    }
    match Options::read().and_then(|options| bench(&options)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("peers: {error}");
            ExitCode::FAILURE
        }
    }
}

fn bench(options: &Options) -> Result<(), String> {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = package.join("../..").canonicalize().map_err(|error| format!("the repository: {error}"))?;
    std::env::set_current_dir(&root).map_err(|error| format!("{}: {error}", root.display()))?;
    let machine = Machine::here();
    let works: Vec<Work> = WORKS
        .into_iter()
        .filter(|work| options.only.is_empty() || options.only.iter().any(|name| name == work.name))
        .collect();

    let mut features: Vec<&str> = Vec::new();
    for variant in plan::SAMPLED.iter().chain(&plan::EXACT).filter(|variant| options.wants(variant)) {
        if !features.contains(&variant.build) {
            features.push(variant.build);
        }
    }
    let (programs, load) =
        if options.build { builds::build(package, &features)? } else { builds::found(package, &features) };

    let scratch = std::env::temp_dir().join(format!("unfreed-peers-{}", std::process::id()));
    fs::create_dir_all(&scratch).map_err(|error| format!("{}: {error}", scratch.display()))?;
    let bench = Bench { scratch: scratch.clone(), load };
    let begin = Instant::now();
    let before = Usage::now();
    let mut results = Results::default();
    for (group, rounds) in [(Group::Sampled, options.scale.rounds), (Group::Exact, options.scale.exact_rounds)] {
        for round in 0..rounds {
            say(&format!("{group:?} profilers: round {} of {rounds}", round + 1));
            one_round(options, &bench, &programs, &mut results, (&works, group, round), &|_| true);
        }
    }
    let promised = |variant: &Variant| plan::PROMISED.contains(&variant.name);
    let most = works.iter().map(|work| options.scale.promised_rounds_of(work)).max().unwrap_or(0);
    for round in options.scale.rounds..most {
        let mut wanted = works.clone();
        wanted.retain(|work| round < options.scale.promised_rounds_of(work));
        say(&format!("what is promised, by itself: round {} of {most}, {} workloads", round + 1, wanted.len()));
        one_round(options, &bench, &programs, &mut results, (&wanted, Group::Sampled, round), &promised);
    }
    say("what the exact profilers count");
    one_round(options, &bench, &programs, &mut results, (&works, Group::Counts, 0), &|_| true);
    if let Some(path) = &options.slices_to {
        fs::write(path, results.slices().to_string()).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    let (others, stolen) = Usage::now().others_since(&before);
    if options.callgrind {
        let wanted = |variant: &Variant| options.wants(variant);
        callgrind::count(&mut results, &programs, &scratch, &works, &wanted, options.scale.divisor);
    }
    let _ = fs::remove_dir_all(&scratch);
    let minutes = begin.elapsed().as_secs() / 60;

    let mut warnings = Vec::new();
    if others > BUSY_SHARE || stolen > BUSY_SHARE {
        warnings.push(format!(
            "The machine was busy: others used {:.0}% of its processors and its host took {:.0}%. These figures are noisy.",
            others * 100.0,
            stolen * 100.0
        ));
    }
    if !options.is_whole() {
        warnings.push(format!("A part of the bench (scale '{}'), for a first look: not a result.", options.scale.name));
    }
    for warning in &warnings {
        say(warning);
    }
    write(options, &root, &machine, &works, &results, &warnings, minutes)
}

/// A round of each of these works, under the variants among these.
fn one_round(
    options: &Options,
    bench: &Bench,
    programs: &Programs,
    results: &mut Results,
    (works, group, number): (&[Work], Group, usize),
    among: &dyn Fn(&Variant) -> bool,
) {
    for work in works {
        let mut variants = group.variants(work);
        variants.retain(|variant| options.wants(variant) && among(variant));
        let slicing = options.cut(group, group.slicing(work, &options.scale));
        Round { work, group, number, variants, slicing }.run(bench, programs, results);
    }
}

fn write(
    options: &Options,
    root: &Path,
    machine: &Machine,
    works: &[Work],
    results: &Results,
    warnings: &[String],
    minutes: u64,
) -> Result<(), String> {
    let directory = options.out.clone().unwrap_or_else(|| root.join("docs/benchmarks"));
    fs::create_dir_all(&directory).map_err(|error| format!("{}: {error}", directory.display()))?;
    let part = if options.is_whole() { "" } else { "-part" };
    let name = format!("{}-{}{part}", machine.date, machine.slug());
    let plot = format!("{name}.svg");
    let title = format!("{}, {} cores, {}: unfreed beside its peers", machine.cpu, machine.cores, machine.date);
    plot::draw(&directory.join(&plot), results, works, &title).map_err(|error| format!("the plot: {error}"))?;
    let rows = bounds::rows(results, works);
    let page = Page { machine, scale: &options.scale, works, results, rows: &rows, warnings, plot: &plot, minutes };
    let path = directory.join(format!("{name}.md"));
    fs::write(&path, page.text()).map_err(|error| format!("{}: {error}", path.display()))?;
    say(&format!("written: {} and its plot", path.display()));
    for row in &rows {
        println!("{:55} {:24} {:18} {}", row.what, row.measured, row.at_most, row.verdict.text().replace("**", ""));
    }
    if options.is_whole() && options.out.is_none() {
        let readme = root.join("README.md");
        let text = fs::read_to_string(&readme).map_err(|error| format!("{}: {error}", readme.display()))?;
        let table = readme::short_table(&rows, &format!("docs/benchmarks/{name}.md"), machine, warnings);
        let text = readme::with_table(&text, &table).ok_or("README.md has no markers for the table of speed")?;
        fs::write(&readme, text).map_err(|error| format!("{}: {error}", readme.display()))?;
        say("written: the table in README.md");
    }
    Ok(())
}
