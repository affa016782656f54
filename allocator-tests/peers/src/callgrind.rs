//! Instructions an operation, by callgrind: of the whole process without its dump, as the difference between two numbers of
//! operations; the program's thread and the profiler's own apart. The clock of a program under valgrind runs about fifty
//! times too fast for it, so whatever a profiler's thread does by the clock (unfreed's wakes ten times a second) is counted
//! too dearly, not too cheaply.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;

use crate::builds::Programs;
use crate::plan::{AGAIN, Group, Variant, Work};
use crate::results::Results;
use crate::say;

/// The workload whose instructions are bounded, and the layouts of the heap that it is averaged over: malloc's share of
/// them differs by 15% between layouts, alike under all profilers.
const LAID_OUT: &str = "json";
const LAYOUTS: u32 = 3;

struct Job {
    group: Group,
    work: Work,
    variant: Variant,
}

/// Counts what the plan says is to be counted, two at a time: instructions don't mind company.
pub fn count(
    results: &mut Results,
    programs: &Programs,
    scratch: &Path,
    works: &[Work],
    wanted: &dyn Fn(&Variant) -> bool,
    divisor: u64,
) {
    if Command::new("valgrind").arg("--version").stdout(Stdio::null()).status().is_err() {
        say("valgrind is missing: no instructions are counted");
        return;
    }
    let mut jobs = Vec::new();
    for work in works.iter().filter(|work| work.counted_sampled > 0) {
        for group in [Group::Sampled, Group::Exact] {
            for variant in
                group.variants(work).into_iter().filter(|v| v.under.is_none() && v.name != AGAIN && wanted(v))
            {
                jobs.push(Job { group, work: *work, variant });
            }
        }
    }
    let total = jobs.len();
    let jobs = Mutex::new(jobs.into_iter().enumerate());
    let counted = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for worker in 0..2 {
            let (jobs, counted) = (&jobs, &counted);
            scope.spawn(move || {
                loop {
                    let Some((n, job)) = jobs.lock().expect("no panic").next() else { return };
                    if n % 8 == 0 {
                        say(&format!("counting instructions: {n} of {total}"));
                    }
                    let count = one(programs, &scratch.join(format!("callgrind-{worker}")), &job, divisor);
                    counted.lock().expect("no panic").push((job, count));
                }
            });
        }
    });
    for (job, count) in counted.into_inner().expect("no panic") {
        results.instructions.insert((job.group, job.work.label(), job.variant.name.to_owned()), count);
    }
}

/// Instructions an operation: of all threads, and of those that the profiler started.
#[derive(Clone, Copy, Debug)]
pub struct Count {
    pub all: f64,
    pub own_threads: f64,
}

fn one(programs: &Programs, scratch: &Path, job: &Job, divisor: u64) -> Result<Count, String> {
    let program = programs.of(job.variant.build)?;
    let work = &job.work;
    let most = if job.group == Group::Sampled { work.counted_sampled } else { work.counted_exact } / divisor;
    let least = most / 5;
    let layouts = if work.name == LAID_OUT { LAYOUTS } else { 1 };
    let mut mean = Count { all: 0.0, own_threads: 0.0 };
    for layout in 0..layouts {
        let many = instructions(program, scratch, &job.variant, work, most, layout)?;
        let few = instructions(program, scratch, &job.variant, work, least, layout)?;
        let share = |many: f64, few: f64| (many - few) / (most - least) as f64 / f64::from(layouts);
        mean.all += share(many.all, few.all);
        mean.own_threads += share(many.own_threads, few.own_threads);
    }
    Ok(mean)
}

fn instructions(
    program: &Path,
    scratch: &Path,
    variant: &Variant,
    work: &Work,
    operations: u64,
    layout: u32,
) -> Result<Count, String> {
    let _ = fs::remove_dir_all(scratch);
    fs::create_dir_all(scratch).map_err(|error| error.to_string())?;
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", "--separate-threads=yes"]);
    command.arg(format!("--callgrind-out-file={}", scratch.join("counts").display()));
    command.arg(program).args([variant.mode, work.name, "1", "0", &operations.to_string()]);
    command.arg(variant.frames.to_string()).arg(scratch).current_dir(scratch).env("PEERS_COUNTED", "1");
    command.env("PEERS_LAYOUT", layout.to_string());
    let output = command.stdin(Stdio::null()).output().map_err(|error| format!("does not start: {error}"))?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        let last = text.lines().last().unwrap_or_default();
        say(&format!("{} on {} under callgrind: {}: {last}", variant.name, work.name, output.status));
        return Err("fails there".to_owned());
    }
    let mut count = Count { all: 0.0, own_threads: 0.0 };
    // one file a thread, counted from 1
    for entry in fs::read_dir(scratch).map_err(|error| error.to_string())?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(thread) = name.strip_prefix("counts-").and_then(|number| number.parse::<u32>().ok()) else { continue };
        let text = fs::read_to_string(entry.path()).map_err(|error| error.to_string())?;
        let total = text.lines().find_map(|line| line.strip_prefix("totals: ")).ok_or("no count")?;
        let total: f64 = total.trim().parse().map_err(|_| "no count")?;
        count.all += total;
        count.own_threads += if thread == 1 { 0.0 } else { total };
    }
    if count.all > 0.0 { Ok(count) } else { Err("no count".to_owned()) }
}
