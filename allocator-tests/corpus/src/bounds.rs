//! What the corpus must come out as, and where it did not.

use crate::case::{Case, Expect};
use crate::cases;
use crate::outcome::{Culprit, Outcome, Reached, Sampling};

/// With fewer live samples nobody can be asked to name a leak at 64 KiB.
pub const SAMPLES_TO_NAME: f64 = 40.0;
/// A culprit stands among so many first.
pub const LAST_RANK: usize = 3;
/// Epochs from the onset of a steady leak to 'suspected' and to 'leak', where every block is seen.
pub const LATEST: (u32, u32) = (75, 200);
/// At 16 KiB, where a leak of a sample in three epochs has to gather thirteen, one run in so many may take longer,
pub const SLOW_ONE_IN: usize = 20;
/// and none so long.
pub const LATEST_SAMPLED: (u32, u32) = (100, 240);
/// Of healthy runs, in which some site may ever be called a leak.
pub const EVER_LEAK_SHARE: f64 = 0.05;
/// And in which some site may be called a backlog at the end: few samples of what is freed in the order of birth look so by chance in up
/// to 4% of simulated cases.
pub const BACKLOG_SHARE: f64 = 0.05;

/// Is the leak large enough to be named at this interval? At the end every culprit must show enough samples where the
/// interval is coarse.
#[must_use]
pub fn must_be_named(outcome: &Outcome) -> bool {
    outcome.sampling.interval_bytes() <= 16 << 10
        || outcome.culprits.iter().all(|culprit| culprit.live_samples >= SAMPLES_TO_NAME)
}

/// Has it the state that it should have?
#[must_use]
pub fn is_named(case: &Case, culprit: &Culprit) -> bool {
    case.expect != Expect::Healthy && culprit.state == case.expect.state()
}

/// All breaches, in words.
#[must_use]
pub fn breaches(outcomes: &[&Outcome]) -> Vec<String> {
    let mut found = Vec::new();
    let (mut healthy, mut ever, mut backlogs) = (0u32, Vec::new(), Vec::new());
    for outcome in outcomes {
        let Some(case) = cases::find(&outcome.case) else {
            found.push(format!("{}: there is no such case", outcome.case));
            continue;
        };
        let run = format!("{} at {}, seed {}", outcome.case, outcome.sampling, outcome.seed);
        for chain in &outcome.innocents.leak_at_end {
            found.push(format!("{run}: called a leak at the end, and innocent: {chain}"));
        }
        if case.expect == Expect::Healthy {
            healthy += 1;
            backlogs.extend(outcome.innocents.backlog_at_end.first().map(|chain| format!("{run}: {chain}")));
            ever.extend(outcome.innocents.ever_leak.first().map(|chain| format!("{run}: {chain}")));
        } else {
            of_a_leak(case, outcome, &run, &mut found);
        }
    }
    let asked = |outcome: &&&Outcome| {
        let case = cases::find(&outcome.case);
        case.is_some_and(|case| {
            outcome.culprits.iter().any(|c| latest(case, outcome.sampling, c) == Some(LATEST_SAMPLED))
        })
    };
    let sampled: Vec<&&Outcome> = outcomes.iter().filter(asked).collect();
    let slow = sampled.iter().filter(|outcome| is_slow(outcome)).count();
    if slow > (sampled.len() / SLOW_ONE_IN).max(1) {
        found.push(format!("of {} steady leaks at 16 KiB {slow} took longer than {LATEST:?} epochs", sampled.len()));
    }
    let too_many = |runs: &Vec<String>, share: f64| {
        f64::from(u32::try_from(runs.len()).unwrap_or(u32::MAX)) > (f64::from(healthy) * share).max(1.0)
    };
    if too_many(&ever, EVER_LEAK_SHARE) {
        found.push(format!("of {healthy} healthy runs so many were ever called leaks: {ever:#?}"));
    }
    if too_many(&backlogs, BACKLOG_SHARE) {
        found.push(format!("of {healthy} healthy runs so many were called a backlog at the end: {backlogs:#?}"));
    }
    found
}

/// By when the verdicts on this culprit must have been told, if that is bounded.
fn latest(case: &Case, sampling: Sampling, culprit: &Culprit) -> Option<(u32, u32)> {
    match sampling {
        _ if !case.steady || case.expect != Expect::Leak => None,
        Sampling::Exact => Some(LATEST),
        Sampling::Every(bytes) if bytes <= 16 << 10 && culprit.live_samples >= SAMPLES_TO_NAME => Some(LATEST_SAMPLED),
        Sampling::Every(_) => None,
    }
}

/// Did a culprit's verdicts come later than they should where every block is seen?
#[must_use]
pub fn is_slow(outcome: &Outcome) -> bool {
    let late = |reached: Option<Reached>, latest: u32| reached.is_none_or(|reached| reached.epochs > latest);
    outcome.culprits.iter().any(|culprit| late(culprit.suspected, LATEST.0) || late(culprit.leak, LATEST.1))
}

fn of_a_leak(case: &Case, outcome: &Outcome, run: &str, found: &mut Vec<String>) {
    if !must_be_named(outcome) {
        return;
    }
    for (culprit, chain) in outcome.culprits.iter().zip(case.culprits) {
        let who = chain.first().copied().unwrap_or_default();
        if !is_named(case, culprit) {
            found.push(format!("{run}: {who} is '{}', not {}", culprit.state, case.expect.state()));
        } else if culprit.rank.is_none_or(|rank| rank > LAST_RANK) {
            found.push(format!("{run}: {who} stands at {:?} in the report", culprit.rank));
        }
        if let Some((suspected_by, leak_by)) = latest(case, outcome.sampling, culprit) {
            let late = |reached: Option<u32>, latest: u32| reached.is_none_or(|epochs| epochs > latest);
            let suspected = culprit.suspected.map(|reached| reached.epochs);
            let leak = culprit.leak.map(|reached| reached.epochs);
            if late(suspected, suspected_by) || late(leak, leak_by) {
                found.push(format!("{run}: {who} is suspected after {suspected:?} epochs, a leak after {leak:?}"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::Innocents;

    fn outcome(case: &str, sampling: Sampling, culprits: Vec<Culprit>) -> Outcome {
        Outcome { case: case.to_owned(), sampling, seed: 1, culprits, innocents: Innocents::default(), took_ms: 1 }
    }

    fn named() -> Culprit {
        let reached = |epochs| Some(Reached { epochs, bytes: 1.0 });
        Culprit {
            state: "leak".to_owned(),
            rank: Some(1),
            live_samples: 50.0,
            live_bytes: 1.0,
            suspected: reached(60),
            leak: reached(180),
        }
    }

    #[test]
    fn each_breach_is_found() {
        let find = |outcome: Outcome| breaches(&[&outcome]).len();
        assert_eq!(find(outcome("byte_pool", Sampling::Exact, vec![named()])), 0);
        let hidden = Culprit { state: "growing".to_owned(), ..named() };
        assert_eq!(find(outcome("byte_pool", Sampling::Exact, vec![hidden.clone()])), 1);
        let few = Culprit { live_samples: 39.0, ..hidden };
        assert_eq!(find(outcome("byte_pool", Sampling::Every(64 << 10), vec![few])), 0);
        let fourth = Culprit { rank: Some(4), ..named() };
        assert_eq!(find(outcome("byte_pool", Sampling::Exact, vec![fourth])), 1);
        let late = Culprit { leak: Some(Reached { epochs: 201, bytes: 1.0 }), ..named() };
        assert_eq!(find(outcome("byte_pool", Sampling::Exact, vec![late.clone()])), 1);
        assert_eq!(find(outcome("byte_pool", Sampling::Every(16 << 10), vec![late.clone()])), 0);
        let slow = outcome("byte_pool", Sampling::Every(16 << 10), vec![late.clone()]);
        assert_eq!(breaches(&[&slow, &slow]).len(), 1, "more than one in twenty");
        let untold = Culprit { suspected: Some(Reached { epochs: 187, bytes: 1.0 }), ..named() };
        assert_eq!(find(outcome("byte_pool", Sampling::Every(16 << 10), vec![untold])), 1);
        let mut accused = outcome("plain_churn", Sampling::Exact, Vec::new());
        accused.innocents.leak_at_end.push("somebody".to_owned());
        assert_eq!(find(accused), 1);
        let mut waiting = outcome("plain_churn", Sampling::Exact, Vec::new());
        waiting.innocents.backlog_at_end.push("somebody".to_owned());
        assert_eq!((find(waiting.clone()), breaches(&[&waiting, &waiting]).len()), (0, 1));
        let mut ever = outcome("plain_churn", Sampling::Exact, Vec::new());
        ever.innocents.ever_leak.push("somebody".to_owned());
        assert_eq!((find(ever.clone()), breaches(&[&ever, &ever]).len()), (0, 1));
    }
}
