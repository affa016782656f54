//! The page that a whole run writes: a summary against its bounds, then the leaks and the healthy by case.

use std::fmt::Write;

use crate::bounds::{self, is_named, must_be_named};
use crate::case::{Case, Expect};
use crate::cases;
use crate::outcome::{Culprit, Outcome, RIVALS, RivalSaid, Sampling};
use crate::sweep::{EPOCHS, Found};

/// The whole page. `when_and_where`: the date and the machine.
#[must_use]
pub fn page(found: &[Found], when_and_where: &str) -> String {
    let mut page = String::new();
    let seeds = found.iter().map(|found| found.outcome.seed).max().unwrap_or(0);
    let _ = write!(
        page,
        "# The corpus: real programs under the real profiler\n\n\
         Written by `cargo run --release -p corpus -- --write`; {when_and_where}. {} runs: each case at each sampling with \
         {seeds} seeds, {EPOCHS} epochs a run, in a process of its own, beside a steady service of a dozen sites. The rival \
         rules saw the same programs with the same seeds at the same intervals, sampled by draws of their own. A bound \
         that was missed fails the command.\n\n",
        found.len()
    );
    summary(&mut page, found);
    leaks(&mut page, found);
    healthy(&mut page, found);
    page
}

struct Tally {
    right: usize,
    all: usize,
}

impl Tally {
    fn of<T>(all: impl Iterator<Item = T>, right: impl Fn(&T) -> bool) -> Tally {
        let mut tally = Tally { right: 0, all: 0 };
        for one in all {
            tally.all += 1;
            tally.right += usize::from(right(&one));
        }
        tally
    }
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} of {}", self.right, self.all)
    }
}

/// The case of a run; runs of cases that are no longer there are not made.
fn case_of(outcome: &Outcome) -> &'static Case {
    cases::find(&outcome.case).expect("a case of the registry")
}

fn all_named(outcome: &Outcome) -> bool {
    outcome.culprits.iter().all(|culprit| is_named(case_of(outcome), culprit))
}

fn worst_rank(outcome: &Outcome) -> usize {
    outcome.culprits.iter().map(|culprit| culprit.rank.unwrap_or(usize::MAX)).max().unwrap_or(usize::MAX)
}

/// The slowest, or `None` if one never got there.
fn slowest<'a>(outcomes: impl Iterator<Item = &'a Outcome>, when: impl Fn(&Culprit) -> Option<u32>) -> Option<u32> {
    outcomes.flat_map(|outcome| &outcome.culprits).map(when).try_fold(0, |latest, this| Some(latest.max(this?)))
}

fn suspected(culprit: &Culprit) -> Option<u32> {
    culprit.suspected.map(|reached| reached.epochs)
}

fn leak(culprit: &Culprit) -> Option<u32> {
    culprit.leak.map(|reached| reached.epochs)
}

fn shown(epochs: Option<u32>) -> String {
    epochs.map_or_else(|| "never".to_owned(), |epochs| epochs.to_string())
}

fn summary(page: &mut String, found: &[Found]) {
    let all = || found.iter().map(|found| &found.outcome);
    let leaks = |sampling| all().filter(move |o| o.sampling == sampling && case_of(o).expect != Expect::Healthy);
    let steady = |sampling| {
        leaks(sampling).filter(|o| case_of(o).steady && case_of(o).expect == Expect::Leak && must_be_named(o))
    };
    let healthy = || all().filter(|outcome| case_of(outcome).expect == Expect::Healthy);
    page.push_str("| | exact | 16 KiB | 64 KiB |\n|---|---|---|---|\n");
    let mut row = |name: &str, cell: &dyn Fn(Sampling) -> String| {
        let _ = writeln!(page, "| {name} | {} |", Sampling::SCORED.map(cell).join(" | "));
    };
    row("leaks named at the end, of those with enough samples", &|sampling| {
        Tally::of(leaks(sampling).filter(|o| must_be_named(o)), |o| all_named(o)).to_string()
    });
    row("also named, with fewer than 40 samples", &|sampling| {
        Tally::of(leaks(sampling).filter(|o| !must_be_named(o)), |o| all_named(o)).to_string()
    });
    row("all culprits among the first three", &|sampling| {
        let asked = leaks(sampling).filter(|o| must_be_named(o));
        Tally::of(asked, |o| worst_rank(o) <= bounds::LAST_RANK).to_string()
    });
    row("slowest 'suspected' of a steady leak, epochs from its onset", &|s| shown(slowest(steady(s), suspected)));
    row("slowest 'leak'", &|s| shown(slowest(steady(s), leak)));
    let (suspected_by, leak_by) = bounds::LATEST;
    row(&format!("steady leaks within {suspected_by} and {leak_by} epochs"), &|sampling| {
        Tally::of(steady(sampling), |o| !bounds::is_slow(o)).to_string()
    });
    row("innocent sites beside a leak, ever suspected", &|sampling| {
        Tally::of(leaks(sampling), |o| !o.innocents.ever_suspected.is_empty()).to_string()
    });
    row("the same, called a leak at the end", &|sampling| {
        Tally::of(leaks(sampling), |o| !o.innocents.leak_at_end.is_empty()).to_string()
    });
    for (name, list) in [
        ("healthy runs ever suspected", (|o| &o.innocents.ever_suspected) as fn(&Outcome) -> &Vec<String>),
        ("healthy runs ever called a leak", |o| &o.innocents.ever_leak),
        ("healthy runs suspected at the end", |o| &o.innocents.suspected_at_end),
        ("healthy runs called a leak at the end", |o| &o.innocents.leak_at_end),
        ("healthy runs called a backlog at the end", |o| &o.innocents.backlog_at_end),
    ] {
        row(name, &|sampling| {
            Tally::of(healthy().filter(|o| o.sampling == sampling), |o| !list(o).is_empty()).to_string()
        });
    }
    page.push('\n');
    rivals(page, found);
}

fn rivals(page: &mut String, found: &[Found]) {
    let said = |healthy: bool, rule: usize| {
        let runs = found.iter().filter(move |found| (case_of(&found.outcome).expect == Expect::Healthy) == healthy);
        runs.filter_map(move |found| found.rivals.as_ref().map(|rivals| rivals.said[rule]))
    };
    if found.iter().all(|found| found.rivals.is_none()) {
        return;
    }
    page.push_str("On the same programs:\n\n| | names the leaks at the end | accuses an innocent beside a leak, at the end | calls a healthy run a leak, ever | at the end |\n|---|---|---|---|---|\n");
    let ours = |healthy: bool| {
        found.iter().map(|f| &f.outcome).filter(move |o| (case_of(o).expect == Expect::Healthy) == healthy)
    };
    let _ = writeln!(
        page,
        "| unfreed | {} | {} | {} | {} |",
        Tally::of(ours(false), |o| all_named(o)),
        Tally::of(ours(false), |o| !o.innocents.leak_at_end.is_empty()),
        Tally::of(ours(true), |o| !o.innocents.ever_leak.is_empty()),
        Tally::of(ours(true), |o| !o.innocents.leak_at_end.is_empty()),
    );
    for (rule, name) in RIVALS.iter().enumerate() {
        let _ = writeln!(
            page,
            "| {name} | {} | {} | {} | {} |",
            Tally::of(said(false, rule), |said| said.names_culprits),
            Tally::of(said(false, rule), |said| said.accuses_at_end),
            Tally::of(said(true, rule), |said| said.accused_ever),
            Tally::of(said(true, rule), |said| said.accuses_at_end),
        );
    }
    page.push('\n');
}

/// The runs of one case at one sampling.
fn runs_of<'a>(found: &'a [Found], case: &Case, sampling: Option<Sampling>) -> Vec<&'a Found> {
    let wanted = |f: &&Found| f.outcome.case == case.name && sampling.is_none_or(|s| s == f.outcome.sampling);
    found.iter().filter(wanted).collect()
}

fn leaks(page: &mut String, found: &[Found]) {
    page.push_str(
        "## Leaks\n\nOf all seeds the slowest and the worst. Bytes: what the culprit held when it was first said. Innocents: \
         runs in which one was ever suspected / ever called a leak / called so at the end. Rivals: runs in which \
         Scalene's formula, the old-blocks rule and the slope test named the culprit, and after the stroke, accused \
         an innocent at the end.\n\n\
         | case | at | named | states | rank | samples | suspected after | at bytes | leak after | at bytes | innocents | rivals |\n\
         |---|---|---|---|---|---|---|---|---|---|---|---|\n",
    );
    for case in cases::all().filter(|case| case.expect != Expect::Healthy) {
        for sampling in Sampling::SCORED {
            let runs = runs_of(found, case, Some(sampling));
            if !runs.is_empty() {
                leak_row(page, case, sampling, &runs);
            }
        }
    }
    page.push('\n');
}

fn leak_row(page: &mut String, case: &Case, sampling: Sampling, runs: &[&Found]) {
    let outcomes = || runs.iter().map(|found| &found.outcome);
    let culprits = || outcomes().flat_map(|outcome| &outcome.culprits);
    let mut states: Vec<&str> = culprits().map(|culprit| culprit.state.as_str()).collect();
    states.sort_unstable();
    states.dedup();
    let rank = outcomes().map(worst_rank).max().filter(|rank| *rank < usize::MAX);
    let samples = culprits().map(|culprit| culprit.live_samples).fold(f64::INFINITY, f64::min);
    let most = |bytes: &dyn Fn(&Culprit) -> Option<f64>| culprits().filter_map(bytes).fold(0.0, f64::max);
    let ever = |list: fn(&Outcome) -> &Vec<String>| outcomes().filter(|o| !list(o).is_empty()).count();
    let _ = writeln!(
        page,
        "| {} | {sampling} | {} | {} | {} | {samples:.0} | {} | {} | {} | {} | {}/{}/{} | {} |",
        case.name,
        Tally::of(outcomes(), |o| all_named(o)),
        states.join(", "),
        rank.map_or_else(|| "–".to_owned(), |rank| rank.to_string()),
        shown(slowest(outcomes(), suspected)),
        size(most(&|culprit| culprit.suspected.map(|reached| reached.bytes))),
        shown(slowest(outcomes(), leak)),
        size(most(&|culprit| culprit.leak.map(|reached| reached.bytes))),
        ever(|o| &o.innocents.ever_suspected),
        ever(|o| &o.innocents.ever_leak),
        ever(|o| &o.innocents.leak_at_end),
        each_rival(runs, |said| said.names_culprits, |said| said.accuses_at_end),
    );
}

fn healthy(page: &mut String, found: &[Found]) {
    page.push_str(
        "## Healthy\n\nRuns in which some site was ever suspected, suspected at the end, ever called a leak, called so at \
         the end. Rivals: runs in which each rule ever called one a leak / did at the end.\n\n\
         | case | what it does | runs | suspected ever, at the end | leak ever, at the end | rivals |\n|---|---|---|---|---|---|\n",
    );
    for case in cases::all().filter(|case| case.expect == Expect::Healthy) {
        let runs = runs_of(found, case, None);
        if runs.is_empty() {
            continue;
        }
        let count = |list: fn(&Outcome) -> &Vec<String>| runs.iter().filter(|f| !list(&f.outcome).is_empty()).count();
        let _ = writeln!(
            page,
            "| {} | {} | {} | {}, {} | {}, {} | {} |",
            case.name,
            case.what,
            runs.len(),
            count(|o| &o.innocents.ever_suspected),
            count(|o| &o.innocents.suspected_at_end),
            count(|o| &o.innocents.ever_leak),
            count(|o| &o.innocents.leak_at_end),
            each_rival(&runs, |said| said.accused_ever, |said| said.accuses_at_end),
        );
    }
}

/// `2/0 3/1 3/3`: two counts for each rule.
fn each_rival(runs: &[&Found], first: fn(&RivalSaid) -> bool, second: fn(&RivalSaid) -> bool) -> String {
    let count = |rule: usize, what: fn(&RivalSaid) -> bool| {
        runs.iter().filter_map(|found| found.rivals.as_ref()).filter(|rivals| what(&rivals.said[rule])).count()
    };
    let cells: Vec<String> =
        (0..RIVALS.len()).map(|rule| format!("{}/{}", count(rule, first), count(rule, second))).collect();
    cells.join(" ")
}

fn size(bytes: f64) -> String {
    match bytes {
        0.0 => "–".to_owned(),
        _ if bytes < 1e6 => format!("{:.0} KB", bytes / 1e3),
        _ => format!("{:.1} MB", bytes / 1e6),
    }
}
