//! Pooling: sites whose evidence is split over many stacks (recursion, unrolled loops, async) are judged together.
//!
//! Leaf-first: outermost frames are dropped until the stacks that share the rest have enough samples. Groups are
//! disjoint, so a sample is evidence once. Frames are compared by their functions, so that two lines of one function are one. A
//! group's key must name a function outside the standard library, or it would say
//! nothing ('everything that a `Vec` allocated'). A site may join a group at any time (which group takes a future event
//! is settled before the event, so the test stays valid); a site that gains enough samples of its own may leave (`keeps`), and
//! then the group begins anew, as a case of its own in the order.
//!
//! Runs off the aggregator's lock: it allocates. Cost: a sort of the thin sites' stacks, every few epochs.

use super::case::Case;
use super::config::LeakConfig;
use super::gates::{Moment, Survivors};
use super::history::{COHORTS_U32, History, REFERENCE_HOLD_EPOCHS};
use super::judge::Judge;
use super::ladder::{RUNGS, Step};
use super::state::{Change, Tier, Withdrawal};

/// At most so many groups; then thin sites stay unjudged.
const MOST_GROUPS: usize = 4096;

/// Whose code a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Whose {
    /// The allocator's, or the way into it: every stack begins there.
    Allocator,
    /// The standard library's or the runtime's, or unknown.
    Library,
    /// The program's, or a crate's that it uses.
    Program,
}

/// With so many times the fewest samples a site leaves a group that found nothing.
const ALONE: f32 = 4.0;

/// One frame of a site's key, as the caller numbers frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct KeyFrame {
    /// Equal for equal functions.
    pub(crate) key: u64,
    /// In the standard library or the runtime, which say nothing about whose leak it is.
    pub(crate) library: bool,
}

/// Collapses repeated neighbours, so that recursion of any depth has one key. In place; leaf first.
pub(crate) fn collapse_runs(frames: &mut Vec<KeyFrame>) {
    frames.dedup();
}

/// Sites judged together.
#[derive(Clone, Debug)]
pub(crate) struct Group {
    /// The frames that its members share, leaf first.
    pub(crate) frames: Vec<KeyFrame>,
    /// Indices of the members' histories.
    pub(crate) members: Vec<usize>,
    pub(crate) case: Case,
    steps: [Step; RUNGS],
    idle: bool,
    /// Samples of its members that reached the first rung.
    pub(crate) matured: f32,
    /// The interval that its samples are measured by, whatever its members are by themselves; bytes.
    reference_interval: f32,
}

impl Group {
    /// No evidence yet.
    fn new(frames: Vec<KeyFrame>, order: u32) -> Group {
        let mut case = Case::NEW;
        case.order = order;
        Group {
            frames,
            members: Vec::new(),
            case,
            steps: [Step::default(); RUNGS],
            idle: false,
            matured: 0.0,
            reference_interval: 0.0,
        }
    }

    /// Forgets the last epoch's events.
    pub(crate) fn begin_epoch(&mut self) {
        (self.steps, self.idle) = ([Step::default(); RUNGS], true);
    }

    /// Does a member that could be judged alone stay? It does where the evidence is spread, as over the stacks of an
    /// unrolled loop, until it has so much that it needs nobody; and in any case once balance is refuted together.
    pub(crate) fn keeps(&self, member: &History, config: &LeakConfig) -> bool {
        let enough = config.minimum_samples as f32;
        let leads = member.matured * 2.0 >= self.matured || member.matured >= enough * ALONE;
        self.case.tier() != Tier::None || !leads
    }

    /// Adds a member's events.
    pub(crate) fn add(&mut self, history: &History, steps: &[Step; RUNGS], idle: bool) {
        self.idle &= idle;
        self.matured += steps[0].matured;
        let worth = history.in_measure_of(self.reference_interval);
        for (sum, step) in self.steps.iter_mut().zip(steps) {
            sum.matured += step.matured * worth;
            sum.died += step.died * worth;
            // Members' births of one epoch move together: an occasion is one, whoever had it.
            sum.occasions = sum.occasions.max(step.occasions);
            sum.width = sum.width.max(step.width);
        }
    }

    /// Closes the epoch.
    pub(crate) fn end_epoch(&mut self, at: Moment<'_>, histories: &[History]) -> Option<Change> {
        let steps = self.steps;
        self.case.advance(at.now, &steps, self.idle);
        self.measure(at.now, histories);
        let (members, reference) = (&self.members, self.reference_interval);
        self.case.judge(&|| survivors(members, histories, reference), Tier::None, Withdrawal::TableFilled, at)
    }

    /// Members are measured by the interval of their own last births, and most have none for long: their sum is measured
    /// by the largest one of those that were born into lately. When that changes, what was counted so far is
    /// converted, as what is live now is.
    fn measure(&mut self, now: u32, histories: &[History]) {
        let members = || self.members.iter().filter_map(|&member| histories.get(member));
        let lately = members().filter(|history| history.last_birth.saturating_add(REFERENCE_HOLD_EPOCHS) > now);
        let wanted = lately.map(History::reference_interval).fold(0.0, f32::max);
        #[expect(clippy::float_cmp, reason = "the very same interval, not a computed one")]
        if wanted == 0.0 || wanted == self.reference_interval {
            return;
        }
        if self.reference_interval > 0.0 {
            let live = |interval| members().map(|member| member.live_samples() * member.in_measure_of(interval)).sum();
            let (before, after): (f32, f32) = (live(self.reference_interval), live(wanted));
            if before > 0.0 {
                self.case.rescale(after / before);
            }
        }
        self.reference_interval = wanted;
    }

    /// Its members' survivors.
    pub(crate) fn survivors(&self, histories: &[History]) -> Survivors {
        survivors(&self.members, histories, self.reference_interval)
    }
}

fn survivors(members: &[usize], histories: &[History], reference_interval: f32) -> Survivors {
    let members = || members.iter().filter_map(|&member| histories.get(member));
    let origin = members().map(|history| history.origin).min().unwrap_or(0);
    let end = members().map(|history| history.origin + (COHORTS_U32 << history.width_shift)).max().unwrap_or(1);
    let mut width = 1;
    while end.saturating_sub(origin) > COHORTS_U32 * width {
        width *= 2;
    }
    let mut sum = Survivors::empty(origin, width);
    members().for_each(|history| sum.add(history, history.in_measure_of(reference_interval)));
    sum
}

/// Forms groups among the sites that are too thin, and lets new thin sites join the groups there are. `frames_of`
/// gives a history's key, leaf first and collapsed.
pub(crate) fn regroup<'f>(judge: &mut Judge, histories: &mut [History], frames_of: &dyn Fn(usize) -> &'f [KeyFrame]) {
    for (g, group) in judge.groups.iter_mut().enumerate() {
        group.members.retain(|&member| histories.get(member).is_some_and(|history| history.group as usize == g + 1));
    }
    let is_thin = |history: &History| {
        history.is_in_use() && history.case.order == 0 && history.group == 0 && !history.is_tainted()
    };
    let mut thin: Vec<(usize, &'f [KeyFrame])> = Vec::new();
    for index in 0..histories.len() {
        if is_thin(&histories[index]) && histories[index].matured > 0.0 {
            let frames = frames_of(index);
            match judge.groups.iter().position(|group| frames.starts_with(&group.frames)) {
                Some(g) => join(judge, histories, g, index),
                None => thin.push((index, frames)),
            }
        }
    }
    thin.sort_by(|a, b| a.1.cmp(b.1));
    let enough = judge.config.minimum_samples as f32;
    form(judge, histories, &thin, 0, enough);
}

/// Looks at sites that share their first `depth` frames: longer keys first, then what is left of them together.
/// Returns the sites that found no group.
fn form(
    judge: &mut Judge,
    histories: &mut [History],
    sites: &[(usize, &[KeyFrame])],
    depth: usize,
    enough: f32,
) -> Vec<usize> {
    if sites.len() < 2 {
        return sites.iter().map(|&(index, _)| index).collect();
    }
    // Sorted, so the first and the last share what all share.
    let (first, last) = (sites[0].1, sites[sites.len() - 1].1);
    let shared = depth + first[depth..].iter().zip(&last[depth..]).take_while(|(a, b)| a == b).count();
    let mut left = Vec::new();
    let mut start = 0;
    for end in 1..=sites.len() {
        if end == sites.len() || sites[end].1.get(shared) != sites[start].1.get(shared) {
            if sites[start].1.len() > shared && end - start < sites.len() {
                left.extend(form(judge, histories, &sites[start..end], shared + 1, enough));
            } else {
                left.extend(sites[start..end].iter().map(|&(index, _)| index));
            }
            start = end;
        }
    }
    let samples: f32 = left.iter().map(|&index| histories[index].matured).sum();
    let key = &first[..shared];
    let speaks = key.iter().any(|frame| !frame.library);
    if left.len() < 2 || samples < enough || !speaks || judge.groups.len() >= MOST_GROUPS {
        return left;
    }
    let order = judge.next_order();
    judge.groups.push(Group::new(key.to_vec(), order));
    let g = judge.groups.len() - 1;
    left.into_iter().for_each(|index| join(judge, histories, g, index));
    let now = judge.now;
    judge.groups[g].measure(now, histories);
    Vec::new()
}

fn join(judge: &mut Judge, histories: &mut [History], group: usize, index: usize) {
    #[expect(clippy::cast_possible_truncation, reason = "at most MOST_GROUPS")]
    let number = group as u32 + 1;
    histories[index].group = number;
    judge.groups[group].matured += histories[index].matured;
    judge.groups[group].members.push(index);
}
