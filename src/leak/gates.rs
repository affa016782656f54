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
/// The ratio of halves is the noisier one; that of the survivors' births says the same with a quarter of the samples. So the halves
/// need only not to speak against a verdict: to begin one, and to keep one, they may be below the gate by so many standard errors.
const BEGIN_HALVES: f32 = 1.0;
const HOLD_HALVES: f32 = 3.0;
/// Births speak against a leak where they speak for growth like √t by so much (ln): odds of 12 to 1. A steady leak of 40 samples gets
/// there in three of a thousand cases.
pub(super) const ROOT_ODDS: f32 = 2.5;
/// Steady growth and growth like √t are equally likely at an exponent of 0.72: their births' ratio is 0.65, 1.08 times the gate's.
const BETWEEN: f32 = 1.08;
/// What was loaded at a run's beginning is set aside where what came later is steady by these odds (ln): the second, where it is
/// no more than growth like √t has there.
const SET_ASIDE_ODDS: f32 = 4.0;
const SET_ASIDE_ODDS_OF_FEW: f32 = 7.0;
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

    /// How survivors' births, from epoch `from` to `to`, are spread over that time.
    fn births(&self, from: u32, to: u32) -> Births {
        let span = (to.saturating_sub(from) + 1) as f32;
        // ∫ ln(span/t) dt = t·ln(span/t) + t
        let integral = |t: f32| if t <= 0.0 { 0.0 } else { t * (span / t).ln() + t };
        let (mut count, mut logs, mut times, mut first) = (0.0, 0.0, 0.0, (0.0, 0.0));
        // Where time begins with the site's first sample, that one says nothing of how the others are spread.
        let mut opening: f32 = if from == self.origin { 1.0 } else { 0.0 };
        for (live, left, right) in self.stretches(from, span) {
            let live = live - opening.min(live);
            opening = 0.0;
            count += live;
            times += live * (left + right) / (2.0 * span);
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
        Births { count, exponent, mean_time: if count > 0.0 { times / count } else { 0.5 } }
    }

    /// What was loaded in the run's first cohort beyond an even share, if from then on growth is certainly steady: ln of the odds
    /// against growth like √t, of what was born after the first cohort alone, enough. With the births after it.
    fn set_aside(&self, from: u32, to: u32) -> Option<(f32, Births)> {
        let span = (to.saturating_sub(from) + 1) as f32;
        let (mut loaded, mut end, mut later) = (0.0, 0.0, 0.0);
        for (live, left, right) in self.stretches(from, span) {
            if left == 0.0 {
                (loaded, end) = (live, right);
            } else {
                later += live;
            }
        }
        let even = later * end / (span - end).max(1.0);
        if loaded <= 2.0 * even {
            return None;
        }
        // Growth like √t has the density ½t^-½ / (√span − √end) from `end` on, a steady one 1 / (span − end).
        let scale = 2.0 / (span.sqrt() + end.sqrt());
        let after = self.stretches(from, span).filter(|&(_, left, _)| left > 0.0);
        let odds: f32 = after.map(|(live, left, right)| live * (scale * ((left + right) / 2.0).sqrt()).ln()).sum();
        // Growth like √t, too, has much in its first cohort.
        let is_more_than_root = loaded > 1.5 * (end / span).sqrt() * (loaded + later);
        if odds < if is_more_than_root { SET_ASIDE_ODDS } else { SET_ASIDE_ODDS_OF_FEW } {
            return None;
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "whole epochs, not negative")]
        let start = from + end as u32;
        Some((loaded - even, self.births(start, to)))
    }

    /// Cohorts with survivors, and where in the `span` epochs since `from` they lie.
    fn stretches(&self, from: u32, span: f32) -> impl Iterator<Item = (f32, f32, f32)> + '_ {
        (0u32..).zip(&self.live).filter_map(move |(k, &live)| {
            let start = (self.origin + k * self.width) as f32 - from as f32;
            let (left, right) = (start.max(0.0), (start + self.width as f32).min(span));
            (live > 0.0 && left < right).then_some((live, left, right))
        })
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

/// When survivors were born.
#[derive(Clone, Copy, Debug)]
struct Births {
    count: f32,
    /// b of growth like t^b, by maximum likelihood for a power-law process (Crow 1974: n / Σ ln(T/tᵢ)). 1 is a steady leak, ½
    /// grows like √t. It uses every survivor's birth, so it tells these two apart with a quarter of the samples that halves need.
    exponent: f32,
    /// The mean of t/T: one half for a steady leak.
    mean_time: f32,
}

impl Births {
    /// ln of the odds for growth like t^2c against t^c, Σ ln(2u^c), where both are as likely at the exponent `between`. For 0.72, where
    /// the default's is, these are a steady leak and √t. The sign is sure from some 40 samples on.
    fn against_slower(&self, between: f32) -> f32 {
        self.count * std::f32::consts::LN_2 * (1.0 - between / self.exponent)
    }

    /// ln of the odds for a steady leak against what saturates, like 1 − exp(−2.5·t/T): Σ ln((1 − e^-2.5) / 2.5·e^-2.5u).
    fn against_saturation(&self) -> f32 {
        self.count * (2.5 * self.mean_time - 1.0018)
    }
}

/// One rung read at one moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reading {
    /// Index into `RUNG_EPOCHS`.
    pub(crate) rung: usize,
    /// How long the growth has lasted, from the births of what matured first; and without the site's idle time.
    pub(crate) run_epochs: u32,
    pub(crate) active_epochs: u32,
    /// Net mature growth in the second half over that in the first.
    pub(crate) ratio: f32,
    /// Its standard error.
    pub(crate) ratio_error: f32,
    /// The same ratio as the survivors' births have it: 2^b − 1 for growth like t^b, with its standard error.
    pub(crate) births_ratio: f32,
    pub(crate) births_error: f32,
    /// ln of the odds that the births give a steady leak against growth like √t.
    pub(crate) steady_odds: f32,
    /// Net growth in the last quarter over an even quarter's, with its standard error.
    pub(crate) recent: f32,
    pub(crate) recent_error: f32,
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
    // What is seen first was on average born a gap after the growth began: that much belongs to the run, if it was watched.
    let unseen = if state.net > 1.0 { gap_epochs(mature_epochs, state.net) } else { 0 };
    let run_epochs = mature_epochs.saturating_add(age).saturating_add(unseen).min(at.now);
    let needed = f64::from(at.config.suspect_after_epochs.max(age))
        .max(at.config.age_share * f64::from(at.now))
        .max(at.config.cleanup_factor * f64::from(state.longest_run(age)));
    let active = state.run_active.saturating_add(age).saturating_add(unseen);
    // At least a quarter of the time must have been observed, not only inferred from the blocks' ages.
    let observed = state.run_active.saturating_mul(4) >= at.config.suspect_after_epochs;
    let lasted = f64::from(run_epochs) >= needed && active >= at.config.suspect_after_epochs && observed;

    let last_birth = at.now.saturating_sub(age);
    let first_birth = survivors.first_births((state.run_start + 1).saturating_sub(age)).min(last_birth);
    let spread = survivors.spread(first_birth, last_birth);
    let (loaded, births) = survivors
        .set_aside(first_birth, last_birth)
        .unwrap_or_else(|| (0.0, survivors.births(first_birth, last_birth)));

    let net = state.net - loaded;
    let first = state.net_at(0.5) - loaded;
    let second = net - first;
    let (ratio, ratio_error) = if first <= 0.0 {
        (if second > 0.0 { 2.0 } else { 0.0 }, 0.0)
    } else {
        let ratio = second / first;
        (ratio, (second.abs() + ratio * ratio * first).sqrt() / first)
    };
    // Where cohorts are wide, maturations come in lumps: look back over one and a half of them at least.
    let quarter = (1.5 * survivors.width as f32 / (state.run_active.max(1)) as f32).clamp(0.25, 0.5);
    let late = net + loaded - state.net_at(1.0 - quarter);
    let even = net * quarter;
    let (recent, recent_error) =
        if even > 0.0 { (late / even, (late.max(0.0) + 1.0).sqrt() / even) } else { (0.0, 0.0) };
    let exponent = births.exponent;
    let births_ratio = exponent.exp2() - 1.0;
    let births_error = exponent.exp2() * std::f32::consts::LN_2 * exponent / births.count.max(1.0).sqrt();

    #[expect(clippy::cast_possible_truncation, reason = "thresholds of one or two digits")]
    let (steady, cohorts) = (at.config.steady_ratio as f32, at.config.surviving_cohorts as f32);
    let holds = held >= Tier::Suspected;
    let slack = if holds { HOLD_HALVES } else { BEGIN_HALVES } * ratio_error;
    let steady_odds = births.against_slower((1.0 + steady * BETWEEN).log2());
    let births_slowed = steady_odds < -ROOT_ODDS;
    let shut = if net <= 0.0 {
        Some(Withdrawal::Freed)
    } else if ratio + slack < steady || births_slowed {
        Some(Withdrawal::Slowed)
    } else if spread < cohorts {
        Some(Withdrawal::Batches)
    } else if late <= 0.0
        || (if holds { recent + slack < LEAST_RECENT_HELD } else { recent + recent_error < LEAST_RECENT })
    {
        Some(Withdrawal::Stopped)
    } else {
        None
    };
    // The births say it with a quarter of the noise; the halves need only not to speak against it.
    let strict = shut.is_none()
        && ratio + ratio_error >= steady
        && births.against_saturation() >= 0.0
        && recent + 0.5 * recent_error >= LEAST_RECENT;
    Reading {
        rung,
        run_epochs,
        active_epochs: active,
        ratio,
        ratio_error,
        births_ratio,
        births_error,
        steady_odds,
        recent,
        recent_error,
        spread,
        lasted,
        strict,
        shut,
    }
}

/// The mean time between the samples of a run, in whole epochs.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "not negative, below `epochs`")]
fn gap_epochs(epochs: u32, samples: f32) -> u32 {
    (epochs as f32 / samples) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The exponent at which t and √t are as likely: 1 / 2 ln 2.
    const ROOT_BETWEEN: f32 = 0.721_347_5;

    /// Survivors of 32 epochs, one cohort each, of which `share(t)` had been born by t of 1, and the one that began time.
    fn survivors(count: f32, share: impl Fn(f32) -> f32) -> Survivors {
        let mut survivors = Survivors::empty(0, 1);
        for (k, live) in (0u8..).zip(&mut survivors.live) {
            *live = count * (share(f32::from(k + 1) / 32.0) - share(f32::from(k) / 32.0));
        }
        survivors.live[0] += 1.0;
        survivors
    }

    #[test]
    fn the_births_tell_a_leak_from_a_root_and_from_what_saturates() {
        let steady = survivors(80.0, |t| t).births(0, 31);
        assert!((steady.exponent - 1.0).abs() < 0.02, "{steady:?}");
        // ln 2 − ½ and 2.5/2 − 1.0018 a sample.
        assert!(
            (steady.against_slower(ROOT_BETWEEN) - 80.0 * 0.193).abs() < 1.0,
            "{}",
            steady.against_slower(ROOT_BETWEEN)
        );
        assert!((steady.against_saturation() - 80.0 * 0.248).abs() < 0.5, "{}", steady.against_saturation());
        let root = survivors(80.0, f32::sqrt).births(0, 31);
        assert!((root.exponent - 0.5).abs() < 0.03, "{root:?}");
        assert!(
            (root.against_slower(ROOT_BETWEEN) + 80.0 * 0.307).abs() < 4.0,
            "{}",
            root.against_slower(ROOT_BETWEEN)
        );
        let full = survivors(80.0, |t| (1.0 - (-2.5 * t).exp()) / (1.0 - (-2.5f32).exp())).births(0, 31);
        assert!(full.against_saturation() < -10.0, "{}", full.against_saturation());
    }

    #[test]
    fn what_was_loaded_first_is_set_aside_where_the_rest_is_steady() {
        let mut loaded = survivors(200.0, |t| t);
        loaded.live[0] += 300.0;
        let (aside, later) = loaded.set_aside(0, 31).expect("three hundred and one more than even");
        assert!((aside - 301.0).abs() < 1.0, "{aside}");
        assert!((later.exponent - 1.0).abs() < 0.03, "{later:?}");
        assert!(loaded.births(0, 31).against_slower(ROOT_BETWEEN) < -100.0, "they would have spoken against a leak");
        assert!(survivors(1000.0, f32::sqrt).set_aside(0, 31).is_none());
        assert!(survivors(1000.0, |t| t).set_aside(0, 31).is_none());
        assert!(survivors(1000.0, |t| (1.0 + 30.0 * t).ln() / 31f32.ln()).set_aside(0, 31).is_none());
    }
}
