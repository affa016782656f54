//! The gates: what must hold besides a refuted balance before growth is called a leak. They reject warm-ups,
//! batches, and whatever did not last. Pure functions of a rung, its site's cohorts and the moment.

use super::config::LeakConfig;
use super::history::{COHORTS, COHORTS_U32, History, SAMPLE};
use super::ladder::{RUNG_EPOCHS, Rung};
use super::state::{Tier, Withdrawal};

/// Growth in the run's last quarter, as a share of what an even run would have had there: to begin a verdict (a cache that
/// has just filled is below), and to keep one.
const LEAST_RECENT: f32 = 0.5;
const LEAST_RECENT_HELD: f32 = 0.2;
/// A verdict that holds is withdrawn only when a ratio is below the gate by so many standard errors: of that of halves,
/// which is the noisier one, and of that of the survivors' births.
const HOLD_HALVES: f32 = 3.0;
const HOLD_BIRTHS: f32 = 1.5;
/// Expected survivors per stretch of the run when it is asked in how many stretches some survive.
const SURVIVORS_PER_STRETCH: f32 = 3.0;

/// The moment of judging.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment<'a> {
    /// The epoch just ended; 0 was the profile's first.
    pub(crate) now: u32,
    pub(crate) config: &'a LeakConfig,
}

/// Survivors by birth over one stretch of time: a site's cohorts, or the sum of a group's.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Survivors {
    /// In samples; index k: births from `origin + k·width`.
    pub(crate) live: [f32; COHORTS],
    pub(crate) born: [f32; COHORTS],
    pub(crate) origin: u32,
    pub(crate) width: u32,
}

impl Survivors {
    /// Those of one site: `History`'s fields.
    pub(crate) fn new(live: &[u32; COHORTS], born: &[u32; COHORTS], origin: u32, width_shift: u8) -> Survivors {
        let samples = |units: &[u32; COHORTS]| units.map(|units| units as f32 / SAMPLE as f32);
        Survivors { live: samples(live), born: samples(born), origin, width: 1 << width_shift }
    }

    /// Those of one site.
    pub(crate) fn of(history: &History) -> Survivors {
        Survivors::new(&history.live, &history.born, history.origin, history.width_shift)
    }

    /// None yet, for `width` epochs a cohort.
    pub(crate) fn empty(origin: u32, width: u32) -> Survivors {
        Survivors { live: [0.0; COHORTS], born: [0.0; COHORTS], origin, width }
    }

    /// Adds another site's, each sample for `worth` of one. Its cohorts are spread evenly where they are wider.
    pub(crate) fn add(&mut self, history: &History, worth: f32) {
        let other = Survivors::of(history);
        for (k, i) in (0u32..).zip(0..COHORTS) {
            if other.born[i] == 0.0 {
                continue;
            }
            for part in 0..(other.width / self.width).max(1) {
                let birth = other.origin + k * other.width + part * self.width;
                let slot = (birth.saturating_sub(self.origin) / self.width).min(COHORTS_U32 - 1) as usize;
                let share = worth / (other.width / self.width).max(1) as f32;
                self.live[slot] += other.live[i] * share;
                self.born[slot] += other.born[i] * share;
            }
        }
    }

    /// Where a run's own births begin, if those that matured first were born before `end`: with the first cohort that
    /// lies in the run as a whole, since the one before it holds older blocks, too; or with the site.
    fn first_births(&self, end: u32) -> u32 {
        let relative = end.saturating_sub(self.origin);
        if relative <= self.width {
            return self.origin;
        }
        self.origin + (relative - 1).div_ceil(self.width) * self.width
    }

    /// How survivors' births grew with time t since `from`: the exponent b of t^b, by maximum likelihood for a power-law
    /// process (Crow 1974: n / Σ ln(T/tᵢ)), and n. 1 is a steady leak, ½ grows like √t. It uses every survivor's
    /// birth, so it tells these two apart with a quarter of the samples that halves need.
    fn exponent(&self, from: u32, to: u32) -> (f32, f32) {
        let span = (to.saturating_sub(from) + 1) as f32;
        // ∫ ln(span/t) dt = t·ln(span/t) + t
        let integral = |t: f32| if t <= 0.0 { 0.0 } else { t * (span / t).ln() + t };
        let (mut count, mut logs, mut first) = (0.0, 0.0, (0.0, 0.0));
        for (k, &live) in (0u32..).zip(&self.live) {
            let start = (self.origin + k * self.width) as f32 - from as f32;
            let (left, right) = (start.max(0.0), (start + self.width as f32).min(span));
            if live <= 0.0 || left >= right {
                continue;
            }
            count += live;
            if left == 0.0 {
                first = (live, (span / right).ln());
            } else {
                logs += live * (integral(right) - integral(left)) / (right - left);
            }
        }
        // In the first cohort births are not even if b is not 1: the mean of ln(right/t) is 1/b there.
        let mut exponent = 1.0;
        for _ in 0..3 {
            let sum: f32 = logs + first.0 * (first.1 + 1.0 / exponent);
            exponent = if sum > 0.0 { (count / sum).clamp(0.05, 20.0) } else { 1.0 };
        }
        (exponent, count)
    }

    /// Over births from epoch `from` to `to`: the share of stretches (each long enough for three survivors or so)
    /// that have survivors, among those that had births.
    fn spread(&self, from: u32, to: u32) -> f32 {
        let first = (from.saturating_sub(self.origin) / self.width).min(COHORTS_U32 - 1) as usize;
        let last = (to.saturating_sub(self.origin) / self.width).min(COHORTS_U32 - 1) as usize;
        let (live, born) = (&self.live[first..=last.max(first)], &self.born[first..=last.max(first)]);
        let total: f32 = live.iter().sum();
        let stretches = (total / SURVIVORS_PER_STRETCH).clamp(4.0, COHORTS as f32);
        let per = (live.len() as f32 / stretches).max(1.0);
        let (mut with_births, mut with_survivors) = (0.0f32, 0.0f32);
        let (mut any_born, mut any_live, mut edge) = (false, false, per);
        for i in 0..live.len() {
            any_born |= born[i] > 0.0;
            any_live |= live[i] > 0.0;
            if (i + 1) as f32 >= edge - 1e-3 || i + 1 == live.len() {
                with_births += f32::from(u8::from(any_born));
                with_survivors += f32::from(u8::from(any_live));
                (any_born, any_live) = (false, false);
                edge += per;
            }
        }
        if with_births == 0.0 { 0.0 } else { with_survivors / with_births }
    }
}

/// One rung read at one moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reading {
    /// Index into `RUNG_EPOCHS`.
    pub(crate) rung: usize,
    /// How long the growth has lasted, from the births of what matured first.
    pub(crate) run_epochs: u32,
    /// Net mature growth in the second half over that in the first.
    pub(crate) ratio: f32,
    /// Its standard error.
    pub(crate) ratio_error: f32,
    /// The same ratio as the survivors' births have it: 2^b − 1 for growth like t^b, with its standard error.
    pub(crate) births_ratio: f32,
    pub(crate) births_error: f32,
    /// Net growth in the last quarter over an even quarter's.
    pub(crate) recent: f32,
    /// Share of the run's cohorts that have survivors.
    pub(crate) spread: f32,
    /// Has the run lasted (gate 1)?
    pub(crate) lasted: bool,
    /// Would the gates be open for a site without a verdict, too?
    pub(crate) strict: bool,
    /// The first of the other gates that is shut.
    pub(crate) shut: Option<Withdrawal>,
}

/// Reads every gate for one rung. `held`: the tier that the site has.
pub(crate) fn read(rung: usize, state: &Rung, survivors: &Survivors, held: Tier, at: Moment<'_>) -> Reading {
    let age = RUNG_EPOCHS[rung];
    let mature_epochs = at.now.saturating_sub(state.run_start);
    let run_epochs = mature_epochs.saturating_add(age);
    let needed = f64::from(at.config.suspect_after_epochs.max(age))
        .max(at.config.age_share * f64::from(at.now))
        .max(at.config.cleanup_factor * f64::from(state.longest_run(age)));
    let active = state.run_active.saturating_add(age);
    // At least a quarter of the time must have been observed, not only inferred from the blocks' ages.
    let observed = state.run_active.saturating_mul(4) >= at.config.suspect_after_epochs;
    let lasted = f64::from(run_epochs) >= needed && active >= at.config.suspect_after_epochs && observed;

    let first = state.net_at(0.5);
    let second = state.net - first;
    let (ratio, ratio_error) = if first <= 0.0 {
        (if second > 0.0 { 2.0 } else { 0.0 }, 0.0)
    } else {
        let ratio = second / first;
        (ratio, (second.abs() + ratio * ratio * first).sqrt() / first)
    };
    // Where cohorts are wide, maturations come in lumps: look back over one and a half of them at least.
    let quarter = (1.5 * survivors.width as f32 / (state.run_active.max(1)) as f32).clamp(0.25, 0.5);
    let late = state.net - state.net_at(1.0 - quarter);
    let recent = if state.net > 0.0 { late / (state.net * quarter) } else { 0.0 };
    let last_birth = at.now.saturating_sub(age);
    let first_birth = survivors.first_births((state.run_start + 1).saturating_sub(age)).min(last_birth);
    let spread = survivors.spread(first_birth, last_birth);
    let (exponent, count) = survivors.exponent(first_birth, last_birth);
    let births_ratio = exponent.exp2() - 1.0;
    let births_error = exponent.exp2() * std::f32::consts::LN_2 * exponent / count.max(1.0).sqrt();

    #[expect(clippy::cast_possible_truncation, reason = "thresholds of one or two digits")]
    let (steady, cohorts) = (at.config.steady_ratio as f32, at.config.surviving_cohorts as f32);
    let holds = f32::from(u8::from(held >= Tier::Suspected));
    let (slack, births_slack) = (holds * HOLD_HALVES * ratio_error, holds * HOLD_BIRTHS * births_error);
    let shut = if state.net <= 0.0 {
        Some(Withdrawal::Freed)
    } else if ratio + slack < steady || births_ratio + births_slack < steady {
        Some(Withdrawal::Slowed)
    } else if spread < cohorts {
        Some(Withdrawal::Batches)
    } else if late <= 0.0 || recent + slack < if held >= Tier::Suspected { LEAST_RECENT_HELD } else { LEAST_RECENT } {
        Some(Withdrawal::Stopped)
    } else {
        None
    };
    // The births say it with a quarter of the noise; the halves need only not to speak against it.
    let strict = shut.is_none() && ratio + ratio_error >= steady && births_ratio >= steady && recent >= LEAST_RECENT;
    Reading { strict, rung, run_epochs, ratio, ratio_error, births_ratio, births_error, recent, spread, lasted, shut }
}
