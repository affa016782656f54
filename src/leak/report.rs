//! The report: every judged site, worst first, with its evidence in numbers and what to do.
//!
//! Plain data, made by `assemble`. `F` is whatever the caller shows as a frame.

use super::memory::Memory;
use super::severity::{Severity, WEEK};
use super::state::State;
pub(crate) use crate::units::Estimate as Interval;
use crate::units::StackId;

/// A leak of less than this share of what is live, and this many bytes, is told after the others.
const TRIFLE_SHARE: f64 = 0.01;
const TRIFLE_BYTES: f64 = 100e6;

/// What a verdict rests on.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize)]
#[non_exhaustive]
pub struct Evidence {
    /// Sampled blocks that grew old.
    pub matured_samples: f64,
    /// Sampled blocks that are live.
    pub live_samples: f64,
    /// Share of all bytes ever allocated here that was freed.
    pub freed_share: f64,
    /// The age in epochs at which blocks counted as old in the test that decided; 0 if none did.
    pub old_after_epochs: u32,
    /// How strongly balance is refuted: ln of the evidence.
    pub log_evidence: f64,
    /// What that must exceed, given how many sites are judged.
    pub log_evidence_needed: f64,
    /// How long the growth has lasted.
    pub run_epochs: u32,
    /// Growth in the run's second half over that in its first; 1 is steady.
    pub second_half_ratio: f64,
    /// The same, from when the survivors were born.
    pub births_ratio: f64,
    /// Share of the run's time from which some blocks survive.
    pub surviving_share: f64,
    /// How often the largest table here grew in its present course of growth.
    pub table_growths: u32,
    /// The largest table here, in bytes.
    pub table_bytes: u64,
    /// The table's growth alone decided.
    pub by_table: bool,
    /// That is no table, but an arena: each block is about twice as large as the one before, and all are live.
    pub by_chunks: bool,
    /// It also grows in epochs in which the program is idle: in half of them or more. Said only where the program went
    /// idle three times at least, so that neither one burst nor a start-up makes all that follows look idle.
    pub grows_while_idle: bool,
    /// Epochs in which the program allocated under a tenth of what it does when busy; 0 where it is not sure that there
    /// were such.
    pub idle_epochs: u32,
    /// How many of these had births here.
    pub idle_births: u32,
    /// How many sizes its blocks have, at least; 64 is the most that is told.
    pub distinct_sizes: u32,
    /// Of the last [`watched_epochs`](Evidence::watched_epochs) those with births here; 0 where too few are known.
    pub growth_epochs: u32,
    /// Of these, those with a new peak of use: of the live blocks of that site (of those whose blocks come and go), or
    /// the number of threads, whose peaks these births fall on most often.
    pub growth_at_peaks: u32,
    /// The epochs that the last two were counted in, 128 at most.
    pub watched_epochs: u32,
    /// How many stacks were judged together; 1 for a site of its own.
    pub stacks: usize,
    /// What its scope ([`bounded`](crate::bounded)) declared to hold at most: it is judged against that.
    pub bound_bytes: Option<u64>,
    /// What is live in that scope, all of its call chains together.
    pub scope_live_bytes: Option<Interval>,
    /// The scope's live bytes certainly exceed its stated bound, and this call chain is one of those that hold them.
    pub exceeds_bound: bool,
}

/// A verdict that was withdrawn.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
#[non_exhaustive]
pub struct Withdrawn {
    /// Why.
    pub reason: &'static str,
    /// How long ago.
    pub seconds_ago: f64,
}

/// One judged site, or several stacks judged together.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Leak<F> {
    pub(super) state: State,
    pub(super) severity: Severity,
    pub(super) frames: Vec<F>,
    #[serde(skip)]
    pub(super) stacks: Vec<StackId>,
    pub(super) scope: Option<String>,
    pub(super) live_bytes: Interval,
    pub(super) live_blocks: Interval,
    pub(super) growth_bytes_per_minute: Interval,
    pub(super) growth_seconds: f64,
    /// Since when it has this verdict.
    pub(super) since_seconds: f64,
    pub(super) oldest_seconds: f64,
    pub(super) exhaustion_seconds: Option<f64>,
    pub(super) withdrawn: Option<Withdrawn>,
    pub(super) evidence: Evidence,
    pub(super) advice: String,
}

impl<F> Leak<F> {
    /// What the site is.
    pub fn state(&self) -> State {
        self.state
    }
    /// How grave that is.
    pub fn severity(&self) -> Severity {
        self.severity
    }
    /// Its call chain, leaf first. Of several stacks judged together, the functions that they share, as in the one that holds most:
    /// those at the inner end, and, behind a frame named `[24 ways]` that stands for what differs, those at the outer one.
    pub fn frames(&self) -> &[F] {
        &self.frames
    }
    /// The sites that are judged together here; one of a site by itself.
    pub(crate) fn stacks(&self) -> &[StackId] {
        &self.stacks
    }
    /// The scope of [`bounded`](crate::bounded) that it is judged against: of several within each other the one nearest to,
    /// or furthest beyond, its bound. `Evidence::bound_bytes` is the bound.
    pub fn scope(&self) -> Option<&str> {
        self.scope.as_deref()
    }
    /// Bytes alive now.
    pub fn live_bytes(&self) -> Interval {
        self.live_bytes
    }
    /// Blocks alive now.
    pub fn live_blocks(&self) -> Interval {
        self.live_blocks
    }
    /// Net growth over the run, or over the window where none is under way; of a growing table the pace at which it fills, so that it is
    /// the same between its growths.
    pub fn growth_bytes_per_minute(&self) -> Interval {
        self.growth_bytes_per_minute
    }
    /// How long it has had its verdict.
    pub fn since_seconds(&self) -> f64 {
        self.since_seconds
    }
    /// The time that growth was measured over.
    pub fn growth_seconds(&self) -> f64 {
        self.growth_seconds
    }
    /// Age of the oldest live blocks, to within a birth cohort's half width.
    pub fn oldest_seconds(&self) -> f64 {
        self.oldest_seconds
    }
    /// When memory runs out if only this site goes on growing as it does; `None` without growth or limit.
    pub fn exhaustion_seconds(&self) -> Option<f64> {
        self.exhaustion_seconds
    }
    /// A verdict on it that was withdrawn.
    pub fn withdrawn(&self) -> Option<&Withdrawn> {
        self.withdrawn.as_ref()
    }
    /// What the verdict rests on.
    pub fn evidence(&self) -> &Evidence {
        &self.evidence
    }
    /// What to do.
    pub fn advice(&self) -> &str {
        &self.advice
    }
}

/// What could not be judged.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize)]
#[non_exhaustive]
pub struct Unjudged {
    /// Sites that are 'unknown'.
    pub sites: usize,
    /// The upper end (95%) of what they hold together: so much could hide there.
    pub bytes: f64,
    /// Those of them that have few blocks, of which hardly one can have been missed (in exact mode none): of these a smaller sampling
    /// interval shows no more.
    pub seen_sites: usize,
    /// Records of sites beyond those that are watched (the first 16,384 of a profile).
    pub unwatched_records: u64,
    /// A leak smaller than this shows fewer samples than are needed, with a chance of one in twenty.
    pub smallest_visible_bytes: f64,
}

/// Which call chains leak, how sure, how bad, and what to do.
#[derive(Clone, Debug, serde::Serialize)]
pub struct LeakReport<F> {
    pub(super) has_leaks: bool,
    pub(super) is_growing: bool,
    pub(super) growth_percent: f64,
    pub(super) growth_mb_per_minute: f64,
    pub(super) window_seconds: f64,
    pub(super) epochs: u32,
    pub(super) suspect_after_epochs: u32,
    pub(super) baseline_bytes: Option<u64>,
    pub(super) current_bytes: u64,
    pub(super) allocated_bytes: u64,
    pub(super) limit_bytes: Option<u64>,
    pub(super) memory: Memory,
    pub(super) exhaustion_seconds: Option<f64>,
    pub(super) unjudged: Unjudged,
    pub(super) untold_changes: u64,
    pub(super) sites: Vec<Leak<F>>,
    pub(super) recommendations: Vec<String>,
}

impl<F> Default for LeakReport<F> {
    /// A report of nothing: no profile runs.
    fn default() -> LeakReport<F> {
        LeakReport {
            has_leaks: false,
            is_growing: false,
            growth_percent: 0.0,
            growth_mb_per_minute: 0.0,
            window_seconds: 0.0,
            epochs: 0,
            suspect_after_epochs: 0,
            baseline_bytes: None,
            current_bytes: 0,
            allocated_bytes: 0,
            limit_bytes: None,
            memory: Memory::default(),
            exhaustion_seconds: None,
            unjudged: Unjudged::default(),
            untold_changes: 0,
            sites: Vec::new(),
            recommendations: Vec::new(),
        }
    }
}

impl<F> Leak<F> {
    /// The same, as one whose scope keeps its bound again just now.
    pub(crate) fn within_its_bound_again(self) -> Leak<F> {
        let reason = "its scope keeps its bound again";
        Leak { withdrawn: Some(Withdrawn { reason, seconds_ago: 0.0 }), ..self }
    }
}

impl<F> LeakReport<F> {
    /// Is any site a leak?
    pub fn has_leaks(&self) -> bool {
        self.has_leaks
    }
    /// Did exact live bytes grow over the window by at least `LeakConfig::growth_threshold_percent`?
    pub fn is_growing(&self) -> bool {
        self.is_growing
    }
    /// Growth of exact live bytes over the window, in percent.
    pub fn growth_percent(&self) -> f64 {
        self.growth_percent
    }
    /// Growth of exact live bytes over the window, in MB (10⁶ bytes) a minute.
    pub fn growth_mb_per_minute(&self) -> f64 {
        self.growth_mb_per_minute
    }
    /// The window.
    pub fn window_seconds(&self) -> f64 {
        self.window_seconds
    }
    /// Epochs that have ended. Before the profile has lasted [`LeakReport::suspect_after_epochs`] nothing is suspected.
    pub fn epochs(&self) -> u32 {
        self.epochs
    }
    /// How many epochs growth must last to be suspected.
    pub fn suspect_after_epochs(&self) -> u32 {
        self.suspect_after_epochs
    }
    /// Live bytes when a baseline was set.
    pub fn baseline_bytes(&self) -> Option<u64> {
        self.baseline_bytes
    }
    /// Live bytes now, exactly.
    pub fn current_bytes(&self) -> u64 {
        self.current_bytes
    }
    /// Where the process's memory is: requested, usable, resident, its cgroup's, the limit.
    pub fn memory(&self) -> &Memory {
        &self.memory
    }
    /// Bytes ever allocated, exactly.
    pub fn allocated_bytes(&self) -> u64 {
        self.allocated_bytes
    }
    /// The memory limit that applies.
    pub fn limit_bytes(&self) -> Option<u64> {
        self.limit_bytes
    }
    /// When memory runs out if the process goes on growing as it does.
    pub fn exhaustion_seconds(&self) -> Option<f64> {
        self.exhaustion_seconds
    }
    /// What could not be judged, and how much could hide there.
    pub fn unjudged(&self) -> Unjudged {
        self.unjudged
    }
    /// Changes of verdicts that a listener ([`Builder::on_verdict`](crate::Builder::on_verdict)) was not told of, since it
    /// was busy and over 1,024 others waited. The sites themselves are in this report.
    pub fn untold_changes(&self) -> u64 {
        self.untold_changes
    }
    /// Every judged site, worst first.
    pub fn sites(&self) -> impl Iterator<Item = &Leak<F>> {
        self.sites.iter()
    }
    /// The sites to look at: leaks, suspects and backlogs, worst first.
    pub fn leaks(&self) -> impl Iterator<Item = &Leak<F>> {
        self.sites.iter().filter(|site| matches!(site.state, State::Leak | State::Suspected | State::Backlog))
    }
    /// Is it next to nothing, grave by its percentage alone? Chains that read like this leak hold so much together. Such are
    /// told after the others.
    pub(crate) fn is_trifle(&self, leak: &Leak<F>, live_bytes: f64) -> bool {
        let is_small = live_bytes < TRIFLE_SHARE * self.current_bytes as f64 && live_bytes < TRIFLE_BYTES;
        let is_urgent = leak.exhaustion_seconds.is_some_and(|seconds| seconds < WEEK);
        is_small && !is_urgent && !leak.evidence.exceeds_bound
    }
    /// What to do overall, most urgent first.
    pub fn recommendations(&self) -> &[String] {
        &self.recommendations
    }

    /// The same with other frames: what `frame` makes of each.
    pub(crate) fn with_frames<'a, G>(&'a self, mut frame: impl FnMut(&'a F) -> G) -> LeakReport<G> {
        let site = |leak: &'a Leak<F>| Leak {
            state: leak.state,
            severity: leak.severity,
            frames: leak.frames.iter().map(&mut frame).collect(),
            stacks: leak.stacks.clone(),
            live_bytes: leak.live_bytes,
            live_blocks: leak.live_blocks,
            growth_bytes_per_minute: leak.growth_bytes_per_minute,
            growth_seconds: leak.growth_seconds,
            scope: leak.scope.clone(),
            since_seconds: leak.since_seconds,
            oldest_seconds: leak.oldest_seconds,
            exhaustion_seconds: leak.exhaustion_seconds,
            withdrawn: leak.withdrawn.clone(),
            evidence: leak.evidence,
            advice: leak.advice.clone(),
        };
        LeakReport {
            has_leaks: self.has_leaks,
            is_growing: self.is_growing,
            growth_percent: self.growth_percent,
            growth_mb_per_minute: self.growth_mb_per_minute,
            window_seconds: self.window_seconds,
            epochs: self.epochs,
            suspect_after_epochs: self.suspect_after_epochs,
            baseline_bytes: self.baseline_bytes,
            current_bytes: self.current_bytes,
            allocated_bytes: self.allocated_bytes,
            limit_bytes: self.limit_bytes,
            memory: self.memory.clone(),
            exhaustion_seconds: self.exhaustion_seconds,
            unjudged: self.unjudged,
            untold_changes: self.untold_changes,
            sites: self.sites.iter().map(site).collect(),
            recommendations: self.recommendations.clone(),
        }
    }
}

impl Leak<()> {
    /// The finding with its frames and its advice, which need the other findings.
    pub(super) fn explained<F>(
        self,
        frames: Vec<F>,
        stacks: Vec<StackId>,
        scope: Option<String>,
        advice: String,
    ) -> Leak<F> {
        Leak {
            state: self.state,
            severity: self.severity,
            frames,
            stacks,
            scope,
            live_bytes: self.live_bytes,
            live_blocks: self.live_blocks,
            growth_bytes_per_minute: self.growth_bytes_per_minute,
            growth_seconds: self.growth_seconds,
            since_seconds: self.since_seconds,
            oldest_seconds: self.oldest_seconds,
            exhaustion_seconds: self.exhaustion_seconds,
            withdrawn: self.withdrawn,
            evidence: self.evidence,
            advice,
        }
    }
}

#[cfg(test)]
impl<F> LeakReport<F> {
    /// Another leak, as grave as said.
    pub(crate) fn and(mut self, other: LeakReport<F>, severity: Severity) -> LeakReport<F> {
        self.sites.extend(other.sites.into_iter().map(|leak| Leak { severity, ..leak }));
        self
    }

    /// One leak of these sites, among so much that is live.
    pub(crate) fn of_one(frames: Vec<F>, stacks: Vec<StackId>, leaked_bytes: f64, current_bytes: u64) -> LeakReport<F> {
        let leak = Leak {
            state: State::Leak,
            severity: Severity::Medium,
            frames,
            stacks,
            scope: None,
            live_bytes: Interval::exact(leaked_bytes),
            live_blocks: Interval::exact(10.0),
            growth_bytes_per_minute: Interval::exact(leaked_bytes / 10.0),
            growth_seconds: 600.0,
            since_seconds: 60.0,
            oldest_seconds: 600.0,
            exhaustion_seconds: None,
            withdrawn: None,
            evidence: Evidence::default(),
            advice: format!("it holds {}", crate::units::size(leaked_bytes)),
        };
        let (epochs, suspect_after_epochs, window_seconds) = (400, 60, 600.0);
        let sites = vec![leak];
        LeakReport {
            has_leaks: true,
            window_seconds,
            epochs,
            suspect_after_epochs,
            current_bytes,
            sites,
            ..LeakReport::default()
        }
    }
}
