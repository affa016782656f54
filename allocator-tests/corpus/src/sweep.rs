//! Many runs, each in a fresh process, since a process has one global allocator and one profile at a time.
//!
//! Promises: at most two at a time; a run that hangs is killed and reported with its command; the order of what is
//! returned is that of the plan.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;

use crate::case::{Case, Expect};
use crate::outcome::{Outcome, RivalsOutcome, Sampling};

/// At a time: more would disturb each other's time limits on small machines.
const WORKERS: usize = 2;
/// A run takes about a second.
const LONGEST: Duration = Duration::from_secs(180);

/// Epochs of a run: enough for a leak that begins at 40% of it to be named, with a quarter of the run to spare.
pub const EPOCHS: u32 = 400;

/// One run.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    /// What is run.
    pub case: &'static Case,
    /// How it is sampled.
    pub sampling: Sampling,
    /// Its seed.
    pub seed: u64,
    /// With the rival rules beside it.
    pub with_rivals: bool,
}

/// What one run gave.
#[derive(Clone, Debug)]
pub struct Found {
    /// Under the profiler.
    pub outcome: Outcome,
    /// Under the rival rules, if they were asked.
    pub rivals: Option<RivalsOutcome>,
}

/// Every case at every sampling with every seed.
#[must_use]
pub fn plan(cases: &[&'static Case], samplings: &[Sampling], seeds: u64, with_rivals: bool) -> Vec<Run> {
    let mut runs = Vec::new();
    for &case in cases {
        for &sampling in samplings {
            runs.extend((1..=seeds).map(|seed| Run { case, sampling, seed, with_rivals }));
        }
    }
    runs
}

/// Each case once: the seed is 1, the samplings take turns, and rivals are not asked. Leaks are not sampled at the coarsest,
/// where one in some hundred comes out late.
#[must_use]
pub fn short_plan(cases: &[&'static Case]) -> Vec<Run> {
    let run = |number: usize, case: &'static Case| {
        let among = if case.expect == Expect::Healthy { 3 } else { 2 };
        Run { case, sampling: Sampling::SCORED[number % among], seed: 1, with_rivals: false }
    };
    cases.iter().enumerate().map(|(number, &case)| run(number, case)).collect()
}

/// Runs all by `program`, the binary of this package. `on_done` hears of each.
///
/// # Errors
/// The first run that failed, with its command and what it printed.
pub fn run_all(program: &Path, runs: &[Run], on_done: &(dyn Fn(&Found) + Sync)) -> Result<Vec<Found>, String> {
    let next = Mutex::new(0..runs.len());
    let found: Mutex<Vec<Option<Found>>> = Mutex::new(vec![None; runs.len()]);
    let failed: Mutex<Option<String>> = Mutex::new(None);
    std::thread::scope(|scope| {
        for _ in 0..WORKERS.min(runs.len()) {
            scope.spawn(|| {
                loop {
                    let index = next.lock().expect("no panic here").next();
                    let Some(index) = index.filter(|_| failed.lock().expect("no panic here").is_none()) else { return };
                    match one(program, &runs[index]) {
                        Ok(done) => {
                            on_done(&done);
                            found.lock().expect("no panic here")[index] = Some(done);
                        }
                        Err(why) => *failed.lock().expect("no panic here") = Some(why),
                    }
                }
            });
        }
    });
    match failed.into_inner().expect("no panic here") {
        Some(why) => Err(why),
        None => Ok(found.into_inner().expect("no panic here").into_iter().flatten().collect()),
    }
}

fn one(program: &Path, run: &Run) -> Result<Found, String> {
    let outcome = ask(program, "--run", run)?;
    let rivals = if run.with_rivals { Some(ask(program, "--rivals", run)?) } else { None };
    Ok(Found { outcome, rivals })
}

/// Runs the program and reads the one line of JSON that it prints.
fn ask<T: DeserializeOwned>(program: &Path, what: &str, run: &Run) -> Result<T, String> {
    let mut command = Command::new(program);
    command.args([what, run.case.name, &run.sampling.to_string(), &run.seed.to_string()]);
    // A user's settings are not the corpus's.
    command.env_remove("UNFREED_SLOTS").stdin(Stdio::null()).stdout(Stdio::piped());
    let named = format!("{what} {} {} {}", run.case.name, run.sampling, run.seed);
    let child = command.spawn().map_err(|why| format!("{named}: {why}"))?;
    let text = wait(child).map_err(|why| format!("{named}: {why}"))?;
    serde_json::from_str(&text).map_err(|why| format!("{named}: {why} in '{text}'"))
}

/// Waits for a program that prints less than a pipe holds.
fn wait(mut child: Child) -> Result<String, String> {
    let began = Instant::now();
    loop {
        if child.try_wait().map_err(|why| why.to_string())?.is_some() {
            break;
        }
        if began.elapsed() > LONGEST {
            let _ = child.kill();
            let _ = child.wait();
            return Err(format!("it hung and was killed after {LONGEST:?}"));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    let output = child.wait_with_output().map_err(|why| why.to_string())?;
    if output.status.success() {
        String::from_utf8(output.stdout).map_err(|why| why.to_string())
    } else {
        Err(output.status.to_string())
    }
}
