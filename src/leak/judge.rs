//! Closing an epoch over all sites: ladders advance, verdicts begin, worsen or are withdrawn.
//!
//! Promises: no allocation, no clock, O(1) a site (a site without refuted balance costs five additions). Errors are
//! shared over all sites that ever become judgeable, so the bound holds while sites are still being found.

use super::config::{LeakConfig, LeakConfigError};
use super::gates::{Moment, Survivors};
use super::history::History;
use super::ladder::threshold;
use super::pool::Group;
use super::state::{Change, Tier, Withdrawal};

/// An epoch with fewer allocations than this share of the usual is idle.
const IDLE_SHARE: f64 = 0.1;

/// A process of a few allocations an epoch has epochs without any by chance.
const IDLE_SLACK: f64 = 4.0;

/// For so many epochs the usual is the geometric mean of all: a start-up that allocates a hundred times as much as what follows
/// must not make that look idle.
const SETTLING_EPOCHS: u32 = 32;

/// Who a change is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Subject {
    /// The history at this index.
    Site(usize),
    /// The group at this index.
    Group(usize),
}

/// The judge of one profile.
#[derive(Clone, Debug)]
pub(crate) struct Judge {
    pub(crate) config: LeakConfig,
    /// How many sites and groups became judgeable.
    orders: u32,
    /// The epoch last closed.
    pub(crate) now: u32,
    /// No ladder rejects below this.
    least_threshold: f64,
    /// Allocations in a usual epoch.
    usual_activity: f64,
    /// Groups of sites too thin to be judged each by itself.
    pub(crate) groups: Vec<Group>,
}

impl Judge {
    /// A judge for a profile; its first epoch is 0.
    ///
    /// # Errors
    /// A threshold that makes no sense.
    pub(crate) fn new(config: LeakConfig) -> Result<Judge, LeakConfigError> {
        config.validate()?;
        let least_threshold = threshold(1, config.alpha);
        Ok(Judge { config, least_threshold, orders: 0, now: 0, usual_activity: 0.0, groups: Vec::new() })
    }

    /// The moment of judging: the last closed epoch.
    pub(crate) fn moment(&self) -> Moment<'_> {
        Moment { now: self.now, config: &self.config }
    }

    /// Closes epoch `now`, after all its events. `allocations`: the process's exact count of blocks allocated in the
    /// epoch, by which idle epochs are told. `on_change` hears what began, worsened or was withdrawn.
    pub(crate) fn end_epoch(
        &mut self,
        now: u32,
        allocations: u64,
        histories: &mut [History],
        on_change: &mut dyn FnMut(Subject, Change),
    ) {
        self.now = now;
        let idle = self.note_activity(allocations);
        for group in &mut self.groups {
            group.begin_epoch();
        }
        for (index, history) in histories.iter_mut().enumerate() {
            if !history.is_in_use() {
                continue;
            }
            let steps = history.end_epoch(now);
            let born_now = history.last_birth == now;
            let idle = idle && !born_now;
            if history.is_tainted() {
                let change = history.case.set_tier(now, Tier::None, Withdrawal::RecordsLost);
                tell(change, Subject::Site(index), on_change);
                continue;
            }
            self.admit(history);
            // A group has the evidence of its members' ages, and each of its own, should it leave: each is a test with a share of
            // the error of its own. A table that grows is a site's own, and judged as such.
            if let Some(group) = (history.group as usize).checked_sub(1).and_then(|g| self.groups.get_mut(g)) {
                group.add(history, &steps, idle);
            }
            history.case.advance(now, &steps, idle);
            let change = self.judge_site(history);
            tell(change, Subject::Site(index), on_change);
        }
        self.end_groups(histories, on_change);
    }

    /// Gives a site its order once it has enough samples; out of its group, if it was in one that lets it go. It keeps what its own
    /// events gave; the group gathers its evidence anew, from those that stay.
    fn admit(&mut self, history: &mut History) {
        #[expect(clippy::cast_precision_loss, reason = "at most 1,000")]
        if history.case.order != 0 || history.matured < self.config.minimum_samples as f32 {
            return;
        }
        let group = (history.group as usize).checked_sub(1).and_then(|group| self.groups.get(group));
        if group.is_some_and(|group| group.keeps(history, &self.config)) {
            return;
        }
        self.orders = self.orders.saturating_add(1);
        history.case.order = self.orders;
        if history.group != 0 {
            if let Some(group) = self.groups.get_mut(history.group as usize - 1) {
                self.orders = self.orders.saturating_add(1);
                group.case.restart(self.orders);
                group.matured -= history.matured;
            }
            history.group = 0;
        }
    }

    /// The next place in the order of judgeable sites and groups.
    pub(crate) fn next_order(&mut self) -> u32 {
        self.orders = self.orders.saturating_add(1);
        self.orders
    }

    fn judge_site(&self, history: &mut History) -> Option<Change> {
        let at = self.moment();
        let held = history.case.tier();
        let spine = history.spine.tier(at.now, held, at.config);
        let quiet = history.case.rungs.iter().all(|rung| rung.log_evidence_at_most() < self.least_threshold);
        if quiet && held == Tier::None && spine == Tier::None {
            history.case.rest();
            return None;
        }
        let History { case, live, born, origin, width_shift, spine: table, .. } = history;
        case.judge(&|| Survivors::new(live, born, *origin, *width_shift), spine, table.why_withdrawn(at.now), at)
    }

    fn end_groups(&mut self, histories: &[History], on_change: &mut dyn FnMut(Subject, Change)) {
        let at = Moment { now: self.now, config: &self.config };
        for (index, group) in self.groups.iter_mut().enumerate() {
            let change = group.end_epoch(at, histories);
            tell(change, Subject::Group(index), on_change);
        }
    }

    /// Is the process idle in this epoch? Its usual activity is a slow mean, which idle epochs hardly lower.
    fn note_activity(&mut self, allocations: u64) -> bool {
        let activity = allocations as f64;
        let idle = activity + IDLE_SLACK < self.usual_activity * IDLE_SHARE;
        if self.now < SETTLING_EPOCHS {
            let logarithm = |activity: f64| activity.max(1.0).ln();
            let step = (logarithm(activity) - logarithm(self.usual_activity)) / f64::from(self.now + 1);
            self.usual_activity = (logarithm(self.usual_activity) + step).exp();
            return idle && self.now > 0;
        }
        self.usual_activity += (activity - self.usual_activity) / if idle { 256.0 } else { 16.0 };
        idle
    }
}

fn tell(change: Option<Change>, subject: Subject, on_change: &mut dyn FnMut(Subject, Change)) {
    if let Some(change) = change {
        on_change(subject, change);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Which of `epochs` are idle, if in each so much is allocated.
    fn idle(epochs: u32, allocated: impl Fn(u32) -> u64) -> Vec<u32> {
        let mut judge = Judge::new(LeakConfig::default()).expect("valid defaults");
        (0..epochs)
            .filter(|&now| {
                judge.now = now;
                judge.note_activity(allocated(now))
            })
            .collect()
    }

    #[test]
    fn nights_are_idle_and_what_follows_a_costly_start_is_not() {
        assert_eq!(idle(200, |now| if (40..60).contains(&now) { 3 } else { 1000 }), (40..60).collect::<Vec<_>>());
        let after_start = idle(200, |now| if now == 0 { 100_000 } else { 500 });
        assert!(after_start.len() <= 3, "{after_start:?}");
        assert_eq!(idle(200, |_| 40), [0; 0]);
    }
}
