//! Making a report of what the judge holds.
//!
//! Pure: figures, frames and the process's memory come from the caller (`Source`, `Process`), so the same report is
//! made of a running process and of a dead one's file. Changes nothing.

use std::cmp::Ordering;

use super::advice::advise;
use super::case::Case;
use super::classify::{
    SAMPLES_TO_DECIDE, SEEN_INTERVALS, classify, is_growing_in_few, is_hardly_freed, is_undecided, mature_live,
    may_be_backlog,
};
use super::clues::Function;
use super::gates::{Moment, Reading};
use super::growth::{Growth, Scale, growth_of, growth_of_all};
use super::habits::Ways;
use super::history::History;
use super::judge::{Judge, Subject};
use super::ladder::{RUNG_EPOCHS, log_evidence, threshold};
use super::memory::Memory;
use super::pool::Group;
use super::recommend::recommend;
use super::relations::Relations;
use super::report::{Evidence, Interval, Leak, LeakReport, Unjudged, Withdrawn};
use super::severity::{Burden, Severity, severity};
use super::state::{State, Tier};
use super::surroundings::{Chains, surroundings};
use crate::units::StackId;

/// A site's figures, as the store has them.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct SiteFigures {
    pub(crate) live_bytes: Interval,
    pub(crate) live_blocks: Interval,
    /// Bytes ever allocated.
    pub(crate) total_bytes: f64,
    /// Other stacks were folded into this one.
    pub(crate) folded: bool,
    /// The scope that it is judged against.
    pub(crate) bound: Option<Bound>,
}

/// A scope that declared what it may hold, as a site of it sees it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bound {
    pub(crate) max_bytes: u64,
    /// What is live in the whole scope.
    pub(crate) live_bytes: Interval,
    /// It certainly holds more than it may.
    pub(crate) is_exceeded: bool,
    /// This site is one of those that hold it.
    pub(crate) is_held_here: bool,
}

/// Where figures and frames come from.
pub(crate) trait Source<F> {
    /// A history's site.
    fn figures(&self, history: usize) -> SiteFigures;
    /// The frames to show, leaf first: a site's own, or what a group's stacks share.
    fn frames(&self, subject: Subject) -> Vec<F>;
    /// The sites that a subject is made of.
    fn stacks(&self, _: Subject) -> Vec<StackId> {
        Vec::new()
    }
    /// The name of the scope of a site's `SiteFigures::bound`.
    fn scope(&self, subject: Subject) -> Option<String>;
    /// The functions of its chain, leaf first, the standard library's left out.
    fn functions(&self, _: Subject) -> Vec<Function> {
        Vec::new()
    }
    /// Is a history's block that of an `Arc` or `Rc`? `None`: its frames do not tell.
    fn is_shared_pointer(&self, _: usize) -> Option<bool> {
        None
    }
}

/// A figure now, and at the window's start.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Course {
    pub(crate) now_bytes: u64,
    pub(crate) before_bytes: u64,
}

impl Course {
    /// Growth in bytes, negative where it shrank.
    fn growth(self) -> f64 {
        self.now_bytes as f64 - self.before_bytes as f64
    }

    /// The same in percent.
    fn percent(self) -> f64 {
        100.0 * self.growth() / (self.before_bytes.max(1) as f64)
    }
}

/// The process as a whole.
#[derive(Clone, Debug, Default)]
pub(crate) struct Process {
    pub(crate) epoch_seconds: f64,
    /// Epochs that have ended.
    pub(crate) epochs: u32,
    /// From the window's start (`LeakConfig::window_epochs` ago, or the profile's start) to now.
    pub(crate) window_seconds: f64,
    /// Exact live bytes.
    pub(crate) live: Course,
    /// Exact bytes ever allocated.
    pub(crate) allocated_bytes: u64,
    /// Where its memory is.
    pub(crate) memory: Memory,
    /// The smallest limit that applies, and what counts against it now.
    pub(crate) limit_bytes: Option<u64>,
    pub(crate) used_bytes: u64,
    pub(crate) baseline_bytes: Option<u64>,
    /// The sampling interval in force; 0.0 in exact mode.
    pub(crate) interval_bytes: f64,
    /// Records of sites that have no history.
    pub(crate) unwatched_records: u64,
    /// Changes of verdicts that nobody was told of.
    pub(crate) untold_changes: u64,
}

impl Process {
    fn exhaustion(&self, bytes_per_minute: f64) -> Option<f64> {
        let left = self.limit_bytes?.saturating_sub(self.used_bytes) as f64;
        (bytes_per_minute > 0.0).then(|| left / bytes_per_minute * 60.0)
    }
}

/// Makes the report of the last closed epoch.
pub(crate) fn report<F>(
    judge: &Judge,
    histories: &[History],
    ways: &Ways,
    process: &Process,
    source: &dyn Source<F>,
) -> LeakReport<F> {
    let mut findings: Vec<Finding> = Vec::new();
    for (index, history) in histories.iter().enumerate() {
        if history.is_in_use() && is_judged_alone(history) {
            findings.push(of_site(judge, histories, index, process, source.figures(index)));
        }
    }
    for (index, group) in judge.groups.iter().enumerate() {
        if group.members.iter().any(|&member| histories.get(member).is_some_and(|history| !is_judged_alone(history))) {
            findings.push(of_group(judge, histories, index, group, process, source));
        }
    }
    let relations = Relations::of(judge, histories, ways);
    let chains = Chains::of(&relations, source);
    let is_seen = |found: &&Finding| found.leak.state == State::Unknown && found.is_seen(process.interval_bytes);
    let seen_sites = findings.iter().filter(is_seen).count();
    let mut sites: Vec<Leak<F>> = findings
        .into_iter()
        .map(|mut finding| {
            observe(&mut finding, ways, &relations);
            let around = surroundings(&finding, &relations, &chains, process, source);
            let advice = advise(finding.leak.state, &finding.leak.evidence, &around);
            explained(finding, source, advice)
        })
        .collect();
    sites.sort_by(worst_first);
    // Sites' errors are independent, so those of sums grow with the root of the number of sites. No more can hide than is live beside
    // what the others hold at least.
    let total = |of: fn(&Leak<F>) -> bool| {
        sites.iter().filter(|&site| of(site)).fold(Interval::default(), |total, site| total.plus(site.live_bytes))
    };
    let (unknown, judged) = (total(|site| site.state == State::Unknown), total(|site| site.state != State::Unknown));
    let room = (process.live.now_bytes as f64 - judged.low).max(0.0);
    let unjudged = Unjudged {
        sites: sites.iter().filter(|site| site.state == State::Unknown).count(),
        bytes: unknown.high.min(room),
        seen_sites,
        unwatched_records: process.unwatched_records,
        smallest_visible_bytes: visible_bytes(judge.config.minimum_samples, process.interval_bytes),
    };
    let minutes = (process.window_seconds / 60.0).max(f64::MIN_POSITIVE);
    let growth_per_minute = process.live.growth() / minutes;
    let mut report = LeakReport {
        has_leaks: sites.iter().any(|site| site.state == State::Leak),
        is_growing: process.live.percent() >= judge.config.growth_threshold_percent,
        growth_percent: process.live.percent(),
        growth_mb_per_minute: growth_per_minute / 1e6,
        window_seconds: process.window_seconds,
        epochs: process.epochs,
        suspect_after_epochs: judge.config.suspect_after_epochs,
        baseline_bytes: process.baseline_bytes,
        current_bytes: process.live.now_bytes,
        allocated_bytes: process.allocated_bytes,
        limit_bytes: process.limit_bytes,
        memory: process.memory.clone(),
        exhaustion_seconds: process.exhaustion(growth_per_minute),
        unjudged,
        untold_changes: process.untold_changes,
        sites,
        recommendations: Vec::new(),
    };
    report.recommendations = recommend(&report);
    report
}

/// One finding alone, as it stands: for news of its verdict.
pub(crate) fn one<F>(
    judge: &Judge,
    histories: &[History],
    ways: &Ways,
    process: &Process,
    source: &dyn Source<F>,
    relations: &Relations,
    subject: Subject,
) -> Option<Leak<F>> {
    let mut found = match subject {
        Subject::Site(index) => {
            histories.get(index)?;
            of_site(judge, histories, index, process, source.figures(index))
        }
        Subject::Group(index) => of_group(judge, histories, index, judge.groups.get(index)?, process, source),
    };
    observe(&mut found, ways, relations);
    let around = surroundings(&found, relations, &Chains::of(relations, source), process, source);
    let advice = advise(found.leak.state, &found.leak.evidence, &around);
    Some(explained(found, source, advice))
}

/// With its frames and its advice, which need the other findings.
fn explained<F>(finding: Finding, source: &dyn Source<F>, advice: String) -> Leak<F> {
    let Finding { subject, leak, .. } = finding;
    leak.explained(source.frames(subject), source.stacks(subject), source.scope(subject), advice)
}

/// Adds what the site does epoch by epoch to its evidence: what advice rests on.
fn observe(finding: &mut Finding, ways: &Ways, relations: &Relations) {
    let Subject::Site(index) = finding.subject else { return };
    let Some(habits) = ways.habits.get(index) else { return };
    let evidence = &mut finding.leak.evidence;
    evidence.idle_epochs = ways.activity.idle_epochs();
    evidence.idle_births = u32::from(habits.idle_births).min(evidence.idle_epochs);
    evidence.grows_while_idle = evidence.idle_epochs > 0 && evidence.idle_births * 2 >= evidence.idle_epochs;
    evidence.distinct_sizes = habits.distinct_sizes();
    if let Some(found) = relations.use_of(index) {
        evidence.growth_epochs = found.growths;
        evidence.growth_at_peaks = found.at_peaks;
        evidence.watched_epochs = found.epochs;
    }
}

/// Is it reported by itself? In a group it is if its table grows, which its own case says.
pub(crate) fn is_judged_alone(history: &History) -> bool {
    history.group == 0 || history.case.tier() != Tier::None
}

/// By severity, then the verdict, then the lower bound of growth, then size.
fn worst_first<F>(a: &Leak<F>, b: &Leak<F>) -> Ordering {
    let rank = |site: &Leak<F>| match site.state {
        State::Leak => 4,
        State::Suspected | State::Backlog => 3,
        State::Growing => 2,
        State::Sublinear => 1,
        _ => 0,
    };
    (b.severity.cmp(&a.severity))
        .then(rank(b).cmp(&rank(a)))
        .then(b.growth_bytes_per_minute.low.total_cmp(&a.growth_bytes_per_minute.low))
        .then(b.live_bytes.value.total_cmp(&a.live_bytes.value))
}

/// A finding before frames and advice, which need the others.
pub(super) struct Finding {
    pub(super) subject: Subject,
    pub(super) leak: Leak<()>,
    pub(super) within_bound: bool,
    pub(super) beyond_bound: bool,
    /// Records were lost, or stacks were folded into it: it is never judged.
    pub(super) is_lost: bool,
}

impl Finding {
    /// Has it few blocks, which are so large that a smaller interval would show no more of them?
    pub(super) fn is_seen(&self, interval_bytes: f64) -> bool {
        let Leak { live_bytes, live_blocks, evidence, .. } = &self.leak;
        let is_large = live_bytes.value >= f64::from(SEEN_INTERVALS) * interval_bytes * live_blocks.value;
        !self.is_lost && live_bytes.value > 0.0 && evidence.live_samples < f64::from(SAMPLES_TO_DECIDE) && is_large
    }
}

fn of_site(judge: &Judge, histories: &[History], index: usize, process: &Process, figures: SiteFigures) -> Finding {
    let history = &histories[index];
    let at = judge.moment();
    let (mut state, reading) = classify(history, at);
    if figures.folded {
        state = State::Unknown;
    }
    let exceeded = figures.bound.is_some_and(|bound| bound.is_exceeded);
    // That more is live than was declared needs no evidence of growth, but every record.
    let is_known = !figures.folded && !history.is_tainted();
    let beyond_bound = exceeded && is_known && figures.bound.is_some_and(|bound| bound.is_held_here);
    let may_grow = matches!(state, State::Leak | State::Suspected | State::Growing | State::Sublinear | State::Backlog);
    let within_bound = !exceeded && figures.bound.is_some() && may_grow;
    if beyond_bound {
        state = State::Leak;
    } else if within_bound {
        state = State::Growing;
    }
    let mut evidence = evidence_of(&history.case, reading, judge);
    evidence.matured_samples = f64::from(history.matured);
    evidence.live_samples = f64::from(history.live_samples());
    evidence.freed_share = freed_share(&figures);
    evidence.table_growths = u32::from(history.spine.growths);
    evidence.table_bytes = history.spine.capacity_bytes;
    evidence.by_table = history.case.tier() >= Tier::Suspected && reading.is_none();
    evidence.by_chunks = history.spine.is_of_chunks();
    evidence.stacks = 1;
    evidence.bound_bytes = figures.bound.map(|bound| bound.max_bytes);
    evidence.scope_live_bytes = figures.bound.map(|bound| bound.live_bytes);
    evidence.exceeds_bound = beyond_bound;
    let growth = growth_of(history, reading, scale(at, process));
    let case = &history.case;
    let oldest = f64::from(history.oldest_age(at.now).unwrap_or(0)) * process.epoch_seconds;
    let found = finding(
        Subject::Site(index),
        state,
        figures,
        growth,
        case,
        oldest,
        evidence,
        (within_bound, beyond_bound),
        judge,
        process,
    );
    Finding { is_lost: !is_known, ..found }
}

fn scale(at: Moment<'_>, process: &Process) -> Scale {
    Scale { now: at.now, window_epochs: at.config.window_epochs, epoch_seconds: process.epoch_seconds }
}

/// Is it what too few members have left, which still allocate and hardly free?
fn is_thin(group: &Group, histories: &[History], at: Moment<'_>) -> bool {
    let members = || group.members.iter().filter_map(|&member| histories.get(member));
    let age = at.now.saturating_sub(members().map(|history| history.origin).min().unwrap_or(at.now));
    let silent = at.now.saturating_sub(members().map(|history| history.last_birth).max().unwrap_or(0));
    let live = members().map(History::live_samples).sum();
    let mature = members().map(|history| mature_live(history, at.now)).sum();
    silent <= (age / 2).max(at.config.suspect_after_epochs / 2) && is_hardly_freed(live, mature, group.matured)
}

fn of_group<F>(
    judge: &Judge,
    histories: &[History],
    index: usize,
    group: &Group,
    process: &Process,
    source: &dyn Source<F>,
) -> Finding {
    let at = judge.moment();
    let reading = group.case.read(&|| group.survivors(histories), at).map(|(_, reading)| reading);
    let live = |backlog: bool| -> f32 {
        let members = group.members.iter().filter_map(|&member| histories.get(member));
        members.filter(|history| may_be_backlog(history, at.now) == backlog).map(History::live_samples).sum()
    };
    let members = || {
        let all = group.members.iter().filter_map(|&member| Some((member, histories.get(member)?)));
        all.filter(|(_, history)| !is_judged_alone(history))
    };
    let pooled: Vec<&History> = members().map(|(_, history)| history).collect();
    let state = match group.case.tier() {
        Tier::Leak | Tier::Suspected if live(true) > live(false) => State::Backlog,
        Tier::Leak => State::Leak,
        Tier::Suspected => State::Suspected,
        Tier::Growing => State::Growing,
        Tier::None if is_growing_in_few(&pooled, at) => State::Growing,
        Tier::None if is_undecided(&group.case, live(true) + live(false)) => State::Unknown,
        Tier::None if is_thin(group, histories, at) => State::Unknown,
        // A tenth of what grew old is still there: a steady stock.
        Tier::None if live(true) + live(false) >= 0.1 * group.matured => State::Plateau,
        Tier::None => State::Churn,
    };
    let mut figures = SiteFigures::default();
    let mut evidence = evidence_of(&group.case, reading, judge);
    let mut oldest = 0;
    for (member, history) in members() {
        let own = source.figures(member);
        figures.live_bytes = figures.live_bytes.plus(own.live_bytes);
        figures.live_blocks = figures.live_blocks.plus(own.live_blocks);
        figures.total_bytes += own.total_bytes;
        evidence.matured_samples += f64::from(history.matured);
        evidence.live_samples += f64::from(history.live_samples());
        oldest = oldest.max(history.oldest_age(at.now).unwrap_or(0));
    }
    evidence.freed_share = freed_share(&figures);
    evidence.stacks = pooled.len();
    let growth = growth_of_all(pooled.iter().copied(), reading, scale(at, process));
    let oldest = f64::from(oldest) * process.epoch_seconds;
    let subject = Subject::Group(index);
    finding(subject, state, figures, growth, &group.case, oldest, evidence, (false, false), judge, process)
}

#[expect(clippy::too_many_arguments, reason = "one place where all that is known of a site meets")]
fn finding(
    subject: Subject,
    state: State,
    figures: SiteFigures,
    growth: Growth,
    case: &Case,
    oldest_seconds: f64,
    evidence: Evidence,
    (within_bound, beyond_bound): (bool, bool),
    judge: &Judge,
    process: &Process,
) -> Finding {
    let burden = Burden {
        live_low_bytes: figures.live_bytes.low,
        growth_low_percent: growth.low_percent,
        exhaustion_seconds: process.exhaustion(growth.per_minute.low),
        limit_bytes: process.limit_bytes,
    };
    let seconds = |epoch: u32| f64::from(judge.now.saturating_sub(epoch)) * process.epoch_seconds;
    let leak = Leak {
        state,
        severity: if within_bound { Severity::Low } else { severity(state, burden) },
        frames: Vec::new(),
        stacks: Vec::new(),
        scope: None,
        live_bytes: figures.live_bytes,
        live_blocks: figures.live_blocks,
        growth_bytes_per_minute: growth.per_minute,
        growth_seconds: growth.seconds,
        since_seconds: seconds(case.since),
        oldest_seconds,
        exhaustion_seconds: process.exhaustion(growth.per_minute.value),
        withdrawn: case.withdrawal().map(|(why, when)| Withdrawn { reason: why.reason(), seconds_ago: seconds(when) }),
        evidence,
        advice: String::new(),
    };
    Finding { subject, leak, within_bound, beyond_bound, is_lost: false }
}

fn evidence_of(case: &Case, reading: Option<Reading>, judge: &Judge) -> Evidence {
    let Some(reading) = reading else { return Evidence::default() };
    Evidence {
        old_after_epochs: RUNG_EPOCHS[reading.rung],
        log_evidence: log_evidence(&case.rungs),
        log_evidence_needed: threshold(case.order, judge.config.alpha),
        run_epochs: reading.run_epochs,
        second_half_ratio: f64::from(reading.ratio),
        births_ratio: f64::from(reading.births_ratio),
        surviving_share: f64::from(reading.spread),
        ..Evidence::default()
    }
}

fn freed_share(figures: &SiteFigures) -> f64 {
    if figures.total_bytes <= 0.0 {
        0.0
    } else {
        (1.0 - figures.live_bytes.value / figures.total_bytes).clamp(0.0, 1.0)
    }
}

/// Live bytes of small blocks that show at least `samples` samples in 19 of 20 cases, at mean interval R: the mean m of a
/// Poisson variable with P(X < samples) = 5%, times R. (8 samples: 13.1·R.)
fn visible_bytes(samples: u32, interval_bytes: f64) -> f64 {
    let missed = |mean: f64| {
        let (mut term, mut total) = ((-mean).exp(), 0.0);
        for k in 0..samples {
            total += term;
            term *= mean / f64::from(k + 1);
        }
        total
    };
    let (mut low, mut high) = (0.0, 3.0 * f64::from(samples) + 10.0);
    for _ in 0..60 {
        let middle = (low + high) / 2.0;
        if missed(middle) > 0.05 { low = middle } else { high = middle }
    }
    interval_bytes * high
}
