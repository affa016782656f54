//! What the runs of one version in one mode came to, whether that is right, and the page that shows all.

use std::fmt::Write as _;
use std::process::Command;

use crate::options::Options;
use crate::outcome::{Outcome, Since, mb};
use crate::programs::{CASES, Case, Kind};

/// The culprit's chain must be among so many.
const FIRST_PLACES: u64 = 3;
/// The leaking version must hold so many times what the mended one does, or the trigger does nothing.
const LEAST_RATIO: u64 = 2;

/// One version in one mode, over all seeds.
pub struct Row {
    case: &'static Case,
    pub kind: Kind,
    mode: String,
    pub outcomes: Vec<Outcome>,
}

impl Row {
    pub fn new(case: &'static Case, kind: Kind, mode: &str) -> Row {
        Row { case, kind, mode: mode.to_owned(), outcomes: Vec::new() }
    }

    pub fn version(&self) -> &'static str {
        if self.kind == Kind::Leaking { self.case.leaking } else { self.case.fixed }
    }

    /// What is not as it should be, by seed.
    pub fn failures(&self) -> Vec<String> {
        let found = self.outcomes.iter().zip(1..).filter_map(|(outcome, seed)| {
            let why = if self.kind == Kind::Leaking { unnamed(outcome) } else { accused(outcome) };
            let what = format!("{} {} {} seed {seed}", self.case.name, self.version(), self.mode);
            why.map(|why| format!("{what}: {why}; worst: {}", outcome.worst))
        });
        found.collect()
    }

    fn range(&self, value: impl Fn(&Outcome) -> Option<f64>, show: impl Fn(f64) -> String) -> String {
        let values: Vec<f64> = self.outcomes.iter().filter_map(value).collect();
        let least = values.iter().copied().fold(f64::INFINITY, f64::min);
        let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        match (show(least), show(most)) {
            _ if values.is_empty() => "–".to_owned(),
            (least, most) if least == most => least,
            (least, most) => format!("{least} to {most}"),
        }
    }

    fn since(&self, which: impl Fn(&Outcome) -> Option<Since>) -> String {
        let epochs = self.range(|outcome| which(outcome).map(|since| since.epoch as f64), |epoch| epoch.to_string());
        let bytes = self.range(|outcome| which(outcome).map(|since| since.bytes), mb);
        if epochs == "–" { epochs } else { format!("{epochs}: {bytes}") }
    }

    /// The culprit's states at the end, each with its number of seeds.
    fn states(&self) -> String {
        let mut counts: Vec<(&str, usize)> = Vec::new();
        for outcome in &self.outcomes {
            let state = outcome.state.as_deref().unwrap_or("not judged");
            match counts.iter_mut().find(|(known, _)| *known == state) {
                Some((_, count)) => *count += 1,
                None => counts.push((state, 1)),
            }
        }
        counts.iter().map(|(state, count)| format!("{count} {state}")).collect::<Vec<_>>().join(", ")
    }
}

/// Why a leaking version was not named as it should be.
fn unnamed(outcome: &Outcome) -> Option<String> {
    if outcome.state.as_deref() != Some("leak") {
        return Some(format!("not called a leak, but {}", outcome.state.as_deref().unwrap_or("not judged")));
    }
    if outcome.rank.is_none_or(|rank| rank > FIRST_PLACES) {
        return Some(format!("place {} in the report", outcome.rank.unwrap_or(0)));
    }
    let others = outcome.others_leak + outcome.others_suspected;
    (others > 0).then(|| format!("{others} innocent sites accused at the end"))
}

/// Why a mended version is not clean.
fn accused(outcome: &Outcome) -> Option<String> {
    if outcome.leak.is_some() || outcome.others_leak_ever > 0 {
        return Some("called a leak".to_owned());
    }
    (outcome.accused > 0).then(|| format!("{} sites suspected at the end", outcome.accused))
}

/// The leak must be there, whoever judges it.
pub fn difference(leaking: &Row, fixed: &Row) -> Vec<String> {
    let pairs = leaking.outcomes.iter().zip(&fixed.outcomes).zip(1..);
    let weak = pairs.filter(|((l, f), _)| l.live_bytes < LEAST_RATIO * f.live_bytes);
    let words = weak.map(|((l, f), seed)| {
        let (name, mode, leaks, clean) = (leaking.case.name, &leaking.mode, l.live_bytes, f.live_bytes);
        format!("{name} {mode} seed {seed}: the program does not make it leak: {leaks} live bytes, {clean} when mended")
    });
    words.collect()
}

/// The page.
pub fn page(rows: &[Row], options: &Options) -> String {
    let mut page = String::from("# Crates that leaked, and their next versions\n\n");
    let commit = said_by("git", &["describe", "--always", "--dirty", "--exclude=*", "--abbrev=12"]);
    let (date, rustc) = (said_by("date", &["+%F"]), said_by("rustc", &["--version"]));
    let (rounds, seeds) = (options.rounds, options.seeds);
    page += "By `bash allocator-tests/corpus/crates/run.sh --write`: one program for both versions of a crate, written to look \
             like a user's.\n\n";
    let _ = writeln!(page, "{date}, {rustc}, commit {commit}; {rounds} epochs, {seeds} seeds a line.\n");
    page += "| crate | what leaks |\n|---|---|\n";
    for case in CASES.iter().filter(|case| options.cases.contains(&case.name)) {
        let _ = writeln!(page, "| {} {} → {} | {} |", case.name, case.leaking, case.fixed, case.trigger);
    }
    page += "\n'Suspected' and 'leak': after how many epochs the first chain of the leak was called so, and what it held then. \
             'Others': innocent chains\naccused (suspected or leak), at any time and at the end. 'Live': the program's exact \
             live bytes at the end.\n\n";
    page += "| crate | version | interval | at the end | place | suspected | leak | others ever, at the end | live |\n";
    page += "|---|---|---|---|--:|--:|--:|--:|--:|\n";
    for row in rows {
        let ever: u64 = row.outcomes.iter().map(|o| o.others_suspected_ever + o.others_leak_ever).sum();
        let end: u64 = row.outcomes.iter().map(|o| o.others_suspected + o.others_leak).sum();
        let _ = writeln!(
            page,
            "| {} | {} | {} | {} | {} | {} | {} | {ever}, {end} | {} |",
            row.case.name,
            row.version(),
            row.mode,
            row.states(),
            row.range(|outcome| outcome.rank.map(|rank| rank as f64), |rank| rank.to_string()),
            row.since(|outcome| outcome.suspected),
            row.since(|outcome| outcome.leak),
            row.range(|outcome| Some(outcome.live_bytes as f64), mb),
        );
    }
    page
}

/// The first line of what a command prints.
fn said_by(command: &str, arguments: &[&str]) -> String {
    let output = Command::new(command).args(arguments).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    text.lines().next().unwrap_or("unknown").to_owned()
}
