//! Instructions an operation, by callgrind: of the whole process, the profiler's own threads included, as the difference
//! between two numbers of operations. The clock of a program under valgrind runs about fifty times too fast for it, so
//! whatever a profiler does by the clock (unfreed's drain thread ten times a second) is counted too dearly, not too cheaply.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;

use crate::builds::Programs;
use crate::plan::{Group, Variant, Work};
use crate::results::Results;
use crate::say;

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
            for variant in group.variants(work).into_iter().filter(|v| v.under.is_none() && wanted(v)) {
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

fn one(programs: &Programs, scratch: &Path, job: &Job, divisor: u64) -> Result<f64, String> {
    let program = programs.of(job.variant.build)?;
    let work = &job.work;
    let most = if job.group == Group::Sampled { work.counted_sampled } else { work.counted_exact } / divisor;
    let least = most / 5;
    let many = instructions(program, scratch, &job.variant, work, most)?;
    let few = instructions(program, scratch, &job.variant, work, least)?;
    Ok((many - few) / (most - least) as f64)
}

fn instructions(
    program: &Path,
    scratch: &Path,
    variant: &Variant,
    work: &Work,
    operations: u64,
) -> Result<f64, String> {
    let _ = fs::remove_dir_all(scratch);
    fs::create_dir_all(scratch).map_err(|error| error.to_string())?;
    let mut command = Command::new("valgrind");
    command.arg("--tool=callgrind").arg(format!("--callgrind-out-file={}", scratch.join("counts").display()));
    command.arg(program).args([variant.mode, work.name, "1", "0", &operations.to_string()]);
    command.arg(variant.frames.to_string()).arg(scratch).current_dir(scratch);
    let output = command.stdin(Stdio::null()).output().map_err(|error| format!("does not start: {error}"))?;
    let text = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        let last = text.lines().last().unwrap_or_default();
        say(&format!("{} on {} under callgrind: {}: {last}", variant.name, work.name, output.status));
        return Err("fails there".to_owned());
    }
    let line = text.lines().find_map(|line| line.split_once("Collected :").map(|(_, count)| count.trim()));
    line.and_then(|count| count.parse().ok()).ok_or_else(|| "no count".to_owned())
}
