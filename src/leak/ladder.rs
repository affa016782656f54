//! The age ladder: a sequential test that the old blocks of a site are not in balance.
//!
//! On each rung of age A two things happen to sampled blocks: M of them reach age A, D of those that had reached it
//! are freed. In a site that does not grow, a mature event is at least as likely a free as a maturation, so
//! E ← E·1.6^M·0.4^D is a supermartingale and by Ville's inequality exceeds x with a chance of at most 1/x, at
//! any time. So does the bet on a leak that frees next to nothing, 1.92^M·0.08^D, which needs a quarter fewer blocks where it
//! is right. Each restart (both fell to 1) is a new bet with a smaller share of the stake. What is tested is the mean of all of a
//! site's bets, weighted by their shares (`SHARES` of the rungs, `PURE_SHARE` of the two kinds, `stake` of the restarts): a mean of
//! supermartingales is one, whatever they have in common, and rungs that agree add up. Of α the site that became judgeable as the
//! i-th has the share `site_share(i)`; all of these together are 1.
//!
//! Blocks of one object graph move together, so an epoch's events are not independent: exponents are scaled by the
//! rung's pace (the recent mean of M an epoch, known before the epoch, so the process stays a supermartingale: x^c is
//! concave), births count at most once an epoch, frees in full. A batch that is born together and freed together is
//! then one event of either kind; a clean-up after n epochs of growth always outweighs these.
//!
//! Never looks at a clock; one `advance` an epoch, constant time.

use super::marks::Marks;

/// Rungs, in epochs. High rungs outlive churn.
pub(crate) const RUNG_EPOCHS: [u32; RUNGS] = [3, 6, 12, 24, 48];
/// How many rungs.
pub(crate) const RUNGS: usize = 5;

/// ln 1.6 and −ln 0.4: the likelihood ratio of 'four of five mature events are maturations' to 'one of two'.
const GAIN: f32 = 0.470_003_6;
const LOSS: f32 = 0.916_290_7;
/// ln 1.92 and −ln 0.08: 'twenty-four of twenty-five'. Never positive where the other bet is not.
const PURE_GAIN: f32 = 0.652_325_2;
const PURE_LOSS: f32 = 2.525_728_6;
const _: () = assert!(PURE_LOSS / PURE_GAIN > LOSS / GAIN, "a run that lives by the second bet lives by the first");

/// The second bet's share: what leaks with few samples is mostly never freed, and what is freed at times is seen often.
const PURE_SHARE: f64 = 0.75;
/// Each rung's share of the stake. The lowest two hear first of a leak of which nothing is freed; what leaks beside churn, which higher
/// ones hear of, is seen often, and has its evidence an epoch or two later.
const SHARES: [f64; RUNGS] = [0.5, 0.2, 0.1, 0.1, 0.1];
/// Sites up to about this one in order have even shares of the error; later ones fall like its square. A first site's share
/// is a fifth, the twentieth's 1/138, where 1/i(i+1) gave it 1/420.
const EVEN_ORDERS: f64 = 4.0;

/// Weight of one epoch in the pace: a memory of about 16 epochs.
const PACE_WEIGHT: f32 = 1.0 / 16.0;

/// What happened on one rung in one epoch, in samples.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Step {
    /// Blocks that reached the rung's age.
    pub(crate) matured: f32,
    /// In how many epochs these were born; at most that many count.
    pub(crate) occasions: f32,
    /// Epochs of births that were looked at; 0 if no cohort reached the rung in this epoch.
    pub(crate) width: f32,
    /// Frees of blocks that had reached the rung.
    pub(crate) died: f32,
}

/// A site in balance has runs of a few epochs all the time.
const CHANCE_RUN_EPOCHS: u16 = 8;

/// One rung's test and its run of growth. All-zero bytes are a valid start.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Rung {
    /// ln of the first bet, at least 0; 0: no run is under way.
    ln_e: f32,
    /// ln of the second bet; 0 without a run.
    ln_pure: f32,
    /// Recent mean of maturations an epoch.
    pace: f32,
    /// Maturations less mature frees since the run began.
    pub(crate) net: f32,
    /// The epoch in which the run began; meaningless while `ln_e` is 0.
    pub(crate) run_start: u32,
    /// Epochs of the run in which the site was not idle.
    pub(crate) run_active: u32,
    /// Restarts so far, saturating.
    restarts: u16,
    /// The longest run that was ended, saturating.
    longest: u16,
    /// `net` over `run_active`.
    marks: Marks,
}

impl Rung {
    /// No events yet.
    pub(crate) const NEW: Rung = Rung {
        ln_e: 0.0,
        ln_pure: 0.0,
        pace: 0.0,
        net: 0.0,
        run_start: 0,
        run_active: 0,
        restarts: 0,
        longest: 0,
        marks: Marks::EMPTY,
    };

    /// Takes one epoch's events in. `idle`: the site did nothing, so the run's own clock stands still.
    pub(crate) fn advance(&mut self, now: u32, step: Step, idle: bool) {
        let running = self.ln_e > 0.0;
        let unit = self.pace.max(1.0);
        let (matured, died) = ((step.matured / unit).min(step.occasions), step.died / unit);
        self.ln_e += matured * GAIN - died * LOSS;
        self.ln_pure += matured * PURE_GAIN - died * PURE_LOSS;
        if step.width > 0.0 {
            let weight = (PACE_WEIGHT * step.width).min(1.0);
            self.pace += (step.matured / step.width - self.pace) * weight;
        }
        if self.ln_e <= 0.0 {
            (self.ln_e, self.ln_pure) = (0.0, 0.0);
            if running {
                self.restarts = self.restarts.saturating_add(1);
                let length = u16::try_from(now.saturating_sub(self.run_start)).unwrap_or(u16::MAX);
                self.longest = self.longest.max(length);
                (self.net, self.run_active, self.marks) = (0.0, 0, Marks::default());
            }
            return;
        }
        if !running {
            (self.run_start, self.run_active, self.net, self.marks) = (now, 0, 0.0, Marks::default());
        }
        self.net += step.matured - step.died;
        if !idle {
            self.run_active = self.run_active.saturating_add(1);
            self.marks.note(self.run_active, self.net);
        }
    }

    /// An epoch in which nothing matured and no run was under way: only the pace falls.
    pub(crate) fn rest(&mut self, width: f32) {
        self.pace -= self.pace * (PACE_WEIGHT * width).min(1.0);
    }

    /// Converts what was counted to another measure of samples. Evidence once gathered stays.
    pub(crate) fn rescale(&mut self, scale: f32) {
        self.pace *= scale;
        self.net *= scale;
        self.marks.rescale(scale);
    }

    /// Begins anew, as after a regrouping.
    pub(crate) fn restart(&mut self) {
        *self = Rung { restarts: self.restarts.saturating_add(1), pace: self.pace, longest: self.longest, ..Rung::NEW };
    }

    /// ln of the mean of its two bets, less what its restarts cost. Negative without any evidence.
    fn log_evidence(&self) -> f64 {
        let (mixed, pure) = (f64::from(self.ln_e), f64::from(self.ln_pure));
        let larger = mixed.max(pure);
        let mean = (1.0 - PURE_SHARE) * (mixed - larger).exp() + PURE_SHARE * (pure - larger).exp();
        larger + (mean * stake(self.restarts)).ln()
    }

    /// The most that `log_evidence` can be, without a logarithm.
    pub(crate) fn log_evidence_at_most(&self) -> f64 {
        f64::from(self.ln_e.max(self.ln_pure)) + stake(0).ln()
    }

    /// ln of the first bet: what a balance lowers soonest.
    pub(crate) fn first_bet(&self) -> f32 {
        self.ln_e
    }

    /// Is a run of growth under way?
    pub(crate) fn is_running(&self) -> bool {
        self.ln_e > 0.0
    }

    /// The longest run that was ended, from the births of what matured first; 0 if none was longer than chance makes them.
    pub(crate) fn longest_run(&self, age: u32) -> u32 {
        if self.longest < CHANCE_RUN_EPOCHS { 0 } else { u32::from(self.longest) + age }
    }

    /// Net mature growth at `share` of the run, in samples.
    pub(crate) fn net_at(&self, share: f32) -> f32 {
        self.marks.value(self.run_active as f32 * share, self.run_active, self.net)
    }
}

/// What a rung has left to stake after so many restarts: ½/((k+½)(k+3/2)), two thirds at first, and 1 over all k.
fn stake(restarts: u16) -> f64 {
    let k = f64::from(restarts);
    0.5 / ((k + 0.5) * (k + 1.5))
}

/// ln of a site's evidence against balance: the mean of what its rungs have.
pub(crate) fn log_evidence(rungs: &[Rung; RUNGS]) -> f64 {
    let sum: f64 = rungs.iter().zip(SHARES).map(|(rung, share)| share * rung.log_evidence().exp()).sum();
    sum.ln()
}

/// Has this rung enough evidence to speak for a site? A fifth of what is needed: if all together have that, one of them does.
pub(crate) fn speaks(rungs: &[Rung; RUNGS], rung: usize, needed: f64) -> bool {
    rungs[rung].is_running() && SHARES[rung].ln() + rungs[rung].log_evidence() >= needed - (RUNGS as f64).ln()
}

/// What the evidence must reach: ln(1 / (α · share of the `order`-th site)).
pub(crate) fn threshold(order: u32, alpha: f64) -> f64 {
    -(alpha * site_share(order)).ln()
}

/// s/((i+s−1)(i+s)): over all i the sum is 1.
fn site_share(order: u32) -> f64 {
    let i = f64::from(order.max(1)) + EVEN_ORDERS;
    EVEN_ORDERS / ((i - 1.0) * i)
}

const _: () = assert!(size_of::<Rung>() == 56, "five rungs share a site's kilobyte");

#[cfg(test)]
mod tests {
    use super::*;

    fn leaks(per_epoch: f32) -> u32 {
        let mut rungs = [Rung::NEW; RUNGS];
        for now in 0..1000 {
            let occasions = per_epoch.min(1.0);
            rungs[0].advance(now, Step { matured: per_epoch, occasions, width: 1.0, died: 0.0 }, false);
            if log_evidence(&rungs) >= threshold(1, 0.01) {
                return now + 1;
            }
        }
        panic!("never rejected");
    }

    #[test]
    fn a_pure_leak_is_rejected_after_twelve_epochs_whatever_its_rate() {
        assert_eq!((leaks(1.0), leaks(10_000.0)), (12, 12));
    }

    /// Where half of the mature events are frees neither bet gains in the mean, nor does half the larger of them.
    #[test]
    fn both_bets_are_fair() {
        for (gain, loss) in [(GAIN, LOSS), (PURE_GAIN, PURE_LOSS)] {
            let mean = (gain.exp() + (-loss).exp()) / 2.0;
            assert!((mean - 1.0).abs() < 1e-6, "{mean}");
        }
    }

    #[test]
    fn alpha_is_spent_once() {
        let sites: f64 = (1..200_000).map(|order| (-threshold(order, 0.01)).exp()).sum();
        assert!((0.00999..=0.01).contains(&sites), "{sites}");
        let shares: f64 = SHARES.iter().sum();
        assert!((shares - 1.0).abs() < 1e-9, "{shares}");
        let restarts: f64 = (0..2000).map(stake).sum();
        assert!((0.999..=1.0 + 1e-9).contains(&restarts), "{restarts}");
        for restarts in [0, 1, 7, u16::MAX] {
            let begun = Rung { restarts, ..Rung::NEW };
            assert!(
                (begun.log_evidence().exp() - stake(restarts)).abs() < 1e-9,
                "nobody begins with more than the stake"
            );
        }
    }

    #[test]
    fn rungs_that_agree_add_up() {
        let mut rung = Rung::NEW;
        (0..10).for_each(|now| rung.advance(now, Step { matured: 1.0, occasions: 1.0, width: 1.0, died: 0.0 }, false));
        let alone = log_evidence(&[rung, Rung::NEW, Rung::NEW, Rung::NEW, Rung::NEW]);
        let all = log_evidence(&[rung; RUNGS]);
        assert!((all - alone + SHARES[0].ln()).abs() < 0.01, "{all} {alone}");
        assert!(rung.log_evidence() <= rung.log_evidence_at_most());
    }

    #[test]
    fn freeing_what_a_run_kept_ends_it() {
        let mut rung = Rung::default();
        for now in 0..100 {
            rung.advance(now, Step { matured: 50.0, occasions: 1.0, width: 1.0, died: 0.0 }, false);
        }
        assert!(rung.log_evidence() >= threshold(5000, 0.01));
        rung.advance(100, Step { matured: 0.0, occasions: 0.0, width: 1.0, died: 2600.0 }, false);
        assert_eq!((rung.ln_e, rung.net, rung.longest_run(3)), (0.0, 0.0, 103));
    }
}
