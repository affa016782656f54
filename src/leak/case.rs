//! One case before the judge, a site's or a group's: its ladder, and how far the verdict has got.

use super::gates::{Moment, Reading, Survivors, read};
use super::ladder::{RUNGS, Rung, Step, log_evidence, speaks, threshold};
use super::state::{Change, Tier, Withdrawal};

/// Of the last 32 epochs, in how many must all gates have held before 'leak' is said.
const LEAK_PASSES: u32 = 24;

/// No verdict begins, and no pass for 'leak' counts, while so much of the evidence is lost again: eight epochs of balance.
const MOST_LOSS: f32 = 4.0;

/// Plain data; all-zero bytes are a new case.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Case {
    pub(crate) rungs: [Rung; RUNGS],
    /// The order in which it became judgeable, from 1; 0: not yet.
    pub(crate) order: u32,
    /// Since when it has its tier.
    pub(crate) since: u32,
    withdrawn_at: u32,
    /// The most that the best rung's first bet ever had when a cohort had just reached it, and how much less that was the last time.
    peak: f32,
    loss: f32,
    /// Did all gates hold? One bit an epoch, latest lowest.
    pub(crate) passes: u32,
    /// Epochs in which half or more of what was live was freed after it had grown old.
    pub(crate) cleanups: u16,
    /// The cohort in which the last one was.
    pub(super) cleaned_in: u8,
    tier: u8,
    withdrawal: u8,
    /// The table gave the verdict, and the ages of blocks don't.
    by_table: bool,
}

impl Case {
    /// No evidence yet.
    pub(crate) const NEW: Case = Case {
        rungs: [Rung::NEW; RUNGS],
        order: 0,
        since: 0,
        withdrawn_at: 0,
        peak: 0.0,
        loss: 0.0,
        passes: 0,
        cleanups: 0,
        cleaned_in: 0,
        tier: 0,
        withdrawal: 0,
        by_table: false,
    };

    /// Takes one epoch's events in.
    pub(crate) fn advance(&mut self, now: u32, steps: &[Step; RUNGS], idle: bool) {
        for (rung, step) in self.rungs.iter_mut().zip(steps) {
            if !rung.is_running() && step.matured == 0.0 {
                rung.rest(step.width);
            } else {
                rung.advance(now, *step, idle);
            }
        }
        let (best, width) = (self.rungs.iter().zip(steps)).fold((0.0f32, 0.0), |best, (rung, step)| {
            if rung.first_bet() > best.0 { (rung.first_bet(), step.width) } else { best }
        });
        if best <= 0.0 {
            (self.peak, self.loss) = (0.0, 0.0);
        } else if width > 0.0 {
            self.peak = self.peak.max(best);
            self.loss = self.peak - best;
        }
    }

    /// Converts all counts to another measure of samples.
    pub(crate) fn rescale(&mut self, scale: f32) {
        self.rungs.iter_mut().for_each(|rung| rung.rescale(scale));
    }

    /// Gathers evidence anew, as another case: after a regrouping.
    pub(crate) fn restart(&mut self, order: u32) {
        self.rungs.iter_mut().for_each(Rung::restart);
        (self.peak, self.loss) = (0.0, 0.0);
        self.order = order;
    }

    /// The strongest tier that the rungs reach now, and the rung that says so. `None`: no balance is refuted.
    pub(crate) fn read(&self, survivors: &dyn Fn() -> Survivors, at: Moment<'_>) -> Option<(Tier, Reading)> {
        if self.order == 0 {
            return None;
        }
        let needed = threshold(self.order, at.config.alpha);
        if log_evidence(&self.rungs) < needed {
            return None;
        }
        let held = self.tier();
        let mut best: Option<(Tier, Reading)> = None;
        let mut known = None;
        for (i, rung) in self.rungs.iter().enumerate() {
            if !speaks(&self.rungs, i, needed) {
                continue;
            }
            let reading = read(i, rung, known.get_or_insert_with(survivors), held, at);
            let open = reading.shut.is_none() && reading.lasted && (held >= Tier::Suspected || self.loss <= MOST_LOSS);
            let long = reading.run_epochs.min(reading.active_epochs) >= at.config.leak_after_epochs;
            let tier = match (open, long) {
                (false, _) => Tier::Growing,
                (true, false) => Tier::Suspected,
                (true, true) => Tier::Leak,
            };
            if best.as_ref().is_none_or(|(found, _)| tier > *found) {
                best = Some((tier, reading));
            }
            if tier == Tier::Leak {
                break;
            }
        }
        best
    }

    /// Nothing to judge in this epoch.
    pub(crate) fn rest(&mut self) {
        self.passes <<= 1;
    }

    /// Judges the case. `spine`: what its table's growth amounts to; `table_ended`: why that would be no verdict's ground any more.
    pub(crate) fn judge(
        &mut self,
        survivors: &dyn Fn() -> Survivors,
        spine: Tier,
        table_ended: Withdrawal,
        at: Moment<'_>,
    ) -> Option<Change> {
        let held = self.tier();
        let best = self.read(survivors, at);
        let reached = best.map_or(Tier::None, |(tier, _)| tier);
        let passed =
            best.is_some_and(|(tier, reading)| tier >= Tier::Suspected && reading.strict) && self.loss <= MOST_LOSS;
        self.passes = (self.passes << 1) | u32::from(passed);
        let tier = if reached == Tier::Leak && held < Tier::Leak && self.passes.count_ones() < LEAK_PASSES {
            Tier::Suspected
        } else {
            reached
        };
        let why = match best {
            _ if self.by_table => table_ended,
            Some((_, reading)) => reading.shut.unwrap_or(Withdrawal::Restarted),
            None => Withdrawal::Freed,
        };
        self.by_table = spine >= Tier::Suspected && spine > tier;
        self.set_tier(at.now, tier.max(spine), why)
    }

    /// How far the verdict has got.
    pub(crate) fn tier(&self) -> Tier {
        match self.tier {
            1 => Tier::Growing,
            2 => Tier::Suspected,
            3 => Tier::Leak,
            _ => Tier::None,
        }
    }

    /// Sets the tier; `why` is noted where that withdraws a verdict. Returns the change that users are told.
    pub(crate) fn set_tier(&mut self, now: u32, tier: Tier, why: Withdrawal) -> Option<Change> {
        let before = self.tier();
        if tier == before {
            return None;
        }
        (self.tier, self.since) = (tier as u8, now);
        match tier {
            Tier::Leak => Some(Change::Leak),
            Tier::Suspected if before < Tier::Suspected => Some(Change::Suspected),
            Tier::None | Tier::Growing if before >= Tier::Suspected => {
                (self.withdrawal, self.withdrawn_at) = (why as u8 + 1, now);
                Some(Change::Withdrawn(why))
            }
            _ => None,
        }
    }

    /// Why a verdict was last withdrawn, and when.
    pub(crate) fn withdrawal(&self) -> Option<(Withdrawal, u32)> {
        let index = usize::from(self.withdrawal).checked_sub(1)?;
        Withdrawal::ALL.get(index).map(|&reason| (reason, self.withdrawn_at))
    }
}
