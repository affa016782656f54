//! The short corpus: every case once, as real programs under the real profiler, at one of the samplings.
//!
//! Programs repeat exactly, the profiler's sample does not. So a bound that a sampled run misses is asked again with two
//! other seeds, and counts if one of those misses one as well. In simulation, of 440 leaks in exact mode and at 16 KiB none
//! was missed, and of 750 healthy runs none was called a leak at the end, so this fails by chance less than once in two
//! hundred times; the whole corpus, which shows figures, is `cargo run --release -p corpus`.

use std::path::Path;

use corpus::outcome::{Outcome, Sampling};
use corpus::sweep::{Run, run_all, short_plan};
use corpus::{bounds, cases};

fn outcomes(runs: &[Run]) -> Vec<Outcome> {
    let found = run_all(Path::new(env!("CARGO_BIN_EXE_corpus")), runs, &|_| ()).unwrap_or_else(|why| panic!("{why}"));
    assert_eq!(found.len(), runs.len());
    found.into_iter().map(|found| found.outcome).collect()
}

fn misses(outcome: &Outcome) -> bool {
    !bounds::breaches(&[outcome]).is_empty()
}

#[test]
fn every_case_comes_out_as_it_must() {
    let all: Vec<_> = cases::all().collect();
    let plan = short_plan(&all);
    let first = outcomes(&plan);
    let again: Vec<Run> = plan
        .iter()
        .zip(&first)
        .filter(|(run, outcome)| run.sampling != Sampling::Exact && misses(outcome))
        .flat_map(|(run, _)| [2, 3].map(|seed| Run { seed, ..*run }))
        .collect();
    let again = outcomes(&again);
    let stands = |outcome: &&Outcome| {
        let mut asked = again.iter().filter(|o| (&o.case, o.sampling) == (&outcome.case, outcome.sampling)).peekable();
        asked.peek().is_none() || asked.any(misses)
    };
    let kept: Vec<&Outcome> = first.iter().filter(stands).collect();
    let breaches = bounds::breaches(&kept);
    assert!(breaches.is_empty(), "{breaches:#?}");
}
