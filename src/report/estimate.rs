//! An estimated figure with its 95% interval.
//!
//! Blocks that were almost surely recorded (p > 0.99) are exact. The rest, y = Σw over k samples with estimated
//! variance v, gets a gamma interval (Fay and Feuer 1997), which for equal weights is Garwood's exact Poisson
//! interval (1936):
//!
//! * low: the 2.5% point of a gamma variable with mean y and variance v;
//! * high: its 97.5% point with mean y + w and variance v + w², w being the weight of the heaviest sample that may
//!   have been missed. While v is less than `SURE_SAMPLES`·w², w counts in full; from there on it shrinks towards w/2,
//!   as in the mid-P interval, since the full w is conservative;
//! * no sample at all: 0 to 3.69·w.
//!
//! **In bytes** every sample weighs about R, whatever its size, so w is the coarsest R that held: P(no sample of T
//! bytes) = exp(−T/R). It is also no less than v/y and y/k, which are larger for blocks of several R.
//!
//! **In blocks** a sample weighs 1/p, about R/s: what was missed may weigh a thousand times what was seen, if it was
//! small. w is the weight of the smallest block that was ever recorded at the site, which the store keeps, where there
//! is enough to go by: the figure is at least `ENOUGH`·w, or `PLENTY`·w where sizes are mixed, or the site's total is.
//! Else the site may have blocks of any size that the process is known to use, and w is the weight of its smallest: such
//! an interval is wide, and says by that that nobody can know. So it is for the total of a site that resizes its blocks:
//! each counts with several sizes, of which the smallest are met least, and mostly never: w is that of a block of `FIRST_BYTES`.
//!
//! **What holds**: at least 93% everywhere in bytes. In blocks too, but at a site whose many samples hide a kind of
//! block much smaller than all of them, and so few that none was met: less than 3.69·R bytes together. No sample can
//! tell that such a site is not one of large blocks alone. At most 97% where 20 samples with p < 0.1 are expected under
//! one interval, in blocks where these are of one size. Tests below, and through the real hook in
//! `allocator-tests/tests/unbiased.rs`.

use super::gamma::{LOWER, UPPER, quantile};
use crate::sampler::weight::{BLOCKS_FRACTION_BITS, BYTES_FRACTION_BITS, probability};
use crate::store::picture::Amount;
pub use crate::units::Estimate;

/// 97.5% point of the mean of a Poisson variable of which nothing was seen: −ln 0.025.
const NONE_SEEN: f64 = 3.688_879_454_113_936;
/// Up to here the next sample counts in full, as in Garwood's interval; beyond, that would cover up to 96.9%.
const SURE_SAMPLES: f64 = 9.0;
/// A figure in blocks of so many heaviest samples bounds what else is there: the smallest size is known. Fewer are
/// too few where sizes are mixed; if more were asked for, 20 expected samples of one size would often be too few, and
/// cover more than 97% (P(k < 10) = 0.5%).
const ENOUGH: f64 = 10.0;
/// The same where sizes are mixed, or of all blocks that the site ever had, which may be of other sizes.
const PLENTY: f64 = 30.0;
/// Samples are alike if their mean weight is no less than this share of the heaviest.
const ALIKE: f64 = 0.5;

/// What a block that was not recorded may have stood for, in blocks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Unseen {
    /// One as small as the smallest that was recorded there.
    known: f64,
    /// The same, or one of any size that the process uses, where too little is known.
    likely: f64,
    /// One of any size that the process uses, and of the sizes that a block may have had before it grew.
    earlier: f64,
}

/// Blocks that grow begin with so many bytes at least, as the standard library's collections do: mostly one of their small sizes was
/// never sampled, at this site or any.
const FIRST_BYTES: u64 = 8;

impl Unseen {
    /// Exact mode: every block was recorded.
    pub(crate) const NONE: Unseen = Unseen { known: 0.0, likely: 0.0, earlier: 0.0 };

    /// At a site whose blocks over all time are `total`. The coarsest mean interval so far was `interval_bytes`, the
    /// smallest block of the process `smallest_bytes`.
    pub(crate) fn of(total: &Amount, interval_bytes: f64, smallest_bytes: u64) -> Unseen {
        let weight = |bytes| 1.0 / probability(bytes, interval_bytes);
        let part = Part::blocks(total);
        let known = match total.smallest_bytes {
            // A file of an earlier release.
            0 => part.mean_weight(),
            bytes => weight(bytes),
        };
        let sure = known > 0.0 && !total.resized && part.sampled >= PLENTY * known;
        let possible = known.max(weight(smallest_bytes));
        let earlier = possible.max(weight(FIRST_BYTES));
        Unseen { known, likely: if sure { known } else { possible }, earlier }
    }

    /// Among blocks of at least `bytes` each.
    pub(crate) fn of_class(bytes: u64, interval_bytes: f64) -> Unseen {
        let weight = 1.0 / probability(bytes, interval_bytes);
        Unseen { known: weight, likely: weight, earlier: weight }
    }
}

impl Estimate {
    /// A figure that is known. For tests.
    #[cfg(test)]
    pub(crate) const fn exact(value: f64) -> Estimate {
        Estimate { value, low: value, high: value }
    }

    /// Bytes, where the largest mean interval used so far was `interval_bytes` (0.0: exact mode).
    pub(crate) fn bytes(amount: &Amount, interval_bytes: f64) -> Estimate {
        Part::bytes(amount).estimate(interval_bytes)
    }

    /// Blocks, of which those not recorded may have stood for `unseen`.
    pub(crate) fn blocks(amount: &Amount, unseen: Unseen) -> Estimate {
        let part = Part::blocks(amount);
        let alike = part.mean_weight() >= ALIKE * unseen.known;
        let enough = part.sampled > 0.0 && part.sampled >= if alike { ENOUGH } else { PLENTY } * unseen.known;
        part.estimate(match (amount.resized, enough) {
            (true, _) => unseen.earlier,
            (false, true) => unseen.known,
            (false, false) => unseen.likely,
        })
    }

    /// `gain − loss` of two independent estimates, by Zou and Donner's recovery of variances (2008): unlike the
    /// normal interval it keeps their asymmetry, and it is `gain`'s own where there is no loss.
    pub(crate) fn difference(gain: Estimate, loss: Estimate) -> Estimate {
        let value = gain.value - loss.value;
        Estimate {
            value,
            low: value - (gain.value - gain.low).hypot(loss.high - loss.value),
            high: value + (gain.high - gain.value).hypot(loss.value - loss.low),
        }
    }
}

/// An amount in one unit, out of fixed point.
struct Part {
    /// The nearly exact part.
    exact: f64,
    /// The sampled part: y.
    sampled: f64,
    /// v.
    variance: f64,
    /// k.
    samples: f64,
}

#[expect(clippy::cast_precision_loss, reason = "53 bits are enough for a figure with an interval")]
impl Part {
    fn bytes(amount: &Amount) -> Part {
        let scale = f64::from(1u32 << BYTES_FRACTION_BITS);
        Part {
            exact: amount.bytes.saturating_sub(amount.sampled_bytes) as f64 / scale,
            sampled: amount.sampled_bytes as f64 / scale,
            variance: amount.bytes_variance as f64,
            samples: amount.samples as f64,
        }
    }

    fn blocks(amount: &Amount) -> Part {
        let scale = f64::from(1u32 << BLOCKS_FRACTION_BITS);
        Part {
            exact: amount.blocks.saturating_sub(amount.sampled_blocks) as f64 / scale,
            sampled: amount.sampled_blocks as f64 / scale,
            variance: amount.blocks_variance as f64 / scale,
            samples: amount.samples as f64,
        }
    }

    fn mean_weight(&self) -> f64 {
        if self.samples > 0.0 { self.sampled / self.samples } else { 0.0 }
    }

    /// `unseen`: the weight of the heaviest sample that may have been missed.
    fn estimate(&self, unseen: f64) -> Estimate {
        let value = self.exact + self.sampled;
        if self.samples <= 0.0 || self.sampled <= 0.0 {
            return Estimate { value, low: value, high: value + NONE_SEEN * unseen };
        }
        let (mean, variance) = (self.sampled, self.variance);
        let low = if variance > 0.0 { gamma_point(mean, variance, LOWER) } else { mean };
        let next = (variance / mean).max(self.mean_weight()).max(unseen);
        let next = next * next_share(variance / (next * next));
        let high = gamma_point(mean + next, variance + next * next, UPPER);
        Estimate { value, low: self.exact + low.min(mean), high: self.exact + high.max(mean) }
    }
}

/// How much of one more sample's weight w the upper end allows for, by the number v/w² of samples of such weight.
fn next_share(heavy_samples: f64) -> f64 {
    if heavy_samples <= SURE_SAMPLES { 1.0 } else { 0.5 + 0.5 * SURE_SAMPLES / heavy_samples }
}

/// A quantile of the gamma distribution with this mean and variance.
fn gamma_point(mean: f64, variance: f64, level: super::gamma::Level) -> f64 {
    quantile(mean * mean / variance, level) * variance / mean
}

#[cfg(test)]
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small whole numbers")]
mod tests {
    use super::*;
    use crate::report::snapshot::add;
    use crate::report::synthetic::{Random, times};
    use crate::sampler::weight::Weight;

    const INTERVALS: [u64; 4] = [1 << 10, 1 << 14, 1 << 16, 1 << 19];
    /// The bounds that the interval is made for.
    const COVERAGE_MIN: f64 = 0.93;
    const COVERAGE_MAX: f64 = 0.97;

    fn holds(estimate: Estimate, truth: f64) -> bool {
        // Weights are rounded to 1/256 byte and 1/4096 block.
        estimate.low <= truth * (1.0 + 1e-6) && truth * (1.0 - 1e-6) <= estimate.high
    }

    /// The probability that the intervals in bytes and in blocks hold the truth of `count` blocks of one size: the
    /// number of samples is binomial, so it is a sum, with no chance in it.
    fn coverage(size: u64, interval: f64, count: u64) -> (f64, f64) {
        let (p, n) = (probability(size, interval), count as f64);
        let weight = Weight::of(size, interval);
        let (mut bytes, mut blocks) = (0.0, 0.0);
        let mut ln_pmf = n * (-p).ln_1p();
        for k in 0..=count.min((n * p + 12.0 * (n * p).sqrt() + 40.0) as u64) {
            let smallest_bytes = if k > 0 { size } else { 0 };
            let amount = Amount { smallest_bytes, ..times(&weight, k) };
            if holds(Estimate::bytes(&amount, interval), n * size as f64) {
                bytes += ln_pmf.exp();
            }
            if holds(Estimate::blocks(&amount, Unseen::of(&amount, interval, 8)), n) {
                blocks += ln_pmf.exp();
            }
            ln_pmf += ((count - k) as f64 / (k + 1) as f64 * p / (1.0 - p)).ln();
        }
        (bytes, blocks)
    }

    /// Exact computation: it cannot fail by chance.
    #[test]
    fn one_size_is_covered_as_promised() {
        let mut cells = 0;
        let mut at_most_97 = 0;
        for interval in INTERVALS.map(|bytes| bytes as f64) {
            for size in [8u64, 24, 100, 1000, 10_000, 65_536, 250_000, 1 << 20, 4 << 20] {
                let p = probability(size, interval);
                if p > 0.99 {
                    continue;
                }
                for step in 0..60 {
                    let expected = 0.1 * 1.16f64.powi(step);
                    let count = (expected / p).round().max(1.0);
                    let (bytes, blocks) = coverage(size, interval, count as u64);
                    let cell =
                        format!("{size} B at {interval}, {count} blocks: {bytes:.4} of bytes, {blocks:.4} of blocks");
                    assert!(bytes >= COVERAGE_MIN && blocks >= COVERAGE_MIN, "{cell}");
                    if count * p >= 20.0 && p < 0.1 {
                        assert!(bytes <= COVERAGE_MAX && blocks <= COVERAGE_MAX, "{cell}");
                        at_most_97 += 1;
                    }
                    cells += 1;
                }
            }
        }
        assert!(cells > 1000 && at_most_97 > 100, "{cells} cells, {at_most_97} of them bounded above");
    }

    const TRIALS: u32 = 10_000;

    /// Simulates sites that mix sizes. With 10,000 trials a coverage is measured to ±0.25% (standard error); the
    /// tightest of these cells lies 4 standard errors from its bound, and 4 are allowed for the means too: about
    /// 120 checks at 6e-5, one run in a hundred over random seeds, and none at this seed.
    #[test]
    fn mixed_sizes_are_unbiased_and_covered() {
        const SEED: u64 = 0x5EED_0FE5;
        println!("seed {SEED:#x}");
        let mut random = Random(SEED);
        for interval in INTERVALS {
            for expected in [0.5, 2.0, 5.0, 12.0, 25.0, 60.0, 150.0] {
                for (name, sizes) in [
                    ("all sizes", [8u64, 64, 512, 4096, 32_768, 262_144, 4 << 20].as_slice()),
                    ("small and huge", &[16, 4 << 20]),
                    ("about the interval", &[interval / 4, interval, 4 * interval]),
                    ("mostly large", &[16, interval, 2 * interval, 3 * interval, 4 * interval]),
                    ("a growing string", &[8, 16, 32, 64, 128, 256]),
                    ("uniform", &[16, 112, 208, 304, 400, 496, 592, 688, 784, 880, 976]),
                ] {
                    check(&mut random, name, sizes, interval as f64, expected);
                }
            }
        }
    }

    /// So many blocks of each size that each brings `expected` samples in the mean, or is there once.
    fn check(random: &mut Random, name: &str, sizes: &[u64], interval: f64, expected: f64) {
        let kinds: Vec<(Weight, f64, u64)> = sizes
            .iter()
            .map(|&size| {
                let p = probability(size, interval);
                (Weight::of(size, interval), p, (expected / sizes.len() as f64 / p).round().max(1.0) as u64)
            })
            .collect();
        let mut truth = (0.0, 0.0);
        let mut variance = (0.0, 0.0);
        let mut fine_samples = 0.0;
        for (&size, &(_, p, count)) in sizes.iter().zip(&kinds) {
            let (s, n) = (size as f64, count as f64);
            truth = (truth.0 + n * s, truth.1 + n);
            variance = (variance.0 + n * s * s * (1.0 - p) / p, variance.1 + n * (1.0 - p) / p);
            fine_samples += if p < 0.1 { n * p } else { 0.0 };
        }
        let (mut sum, mut covered) = ((0.0, 0.0), (0u32, 0u32));
        for _ in 0..TRIALS {
            let mut amount = Amount::default();
            for (&size, (weight, p, count)) in sizes.iter().zip(&kinds) {
                let k = random.binomial(*count, *p);
                let smallest_bytes = if k > 0 { size } else { 0 };
                add(&mut amount, &Amount { smallest_bytes, ..times(weight, k) });
            }
            let bytes = Estimate::bytes(&amount, interval);
            let blocks = Estimate::blocks(&amount, Unseen::of(&amount, interval, 8));
            sum = (sum.0 + bytes.value, sum.1 + blocks.value);
            covered.0 += u32::from(holds(bytes, truth.0));
            covered.1 += u32::from(holds(blocks, truth.1));
        }
        let trials = f64::from(TRIALS);
        let cell = format!("{name} at {interval}, {expected} samples");
        for (what, sum, truth, variance) in
            [("bytes", sum.0, truth.0, variance.0), ("blocks", sum.1, truth.1, variance.1)]
        {
            let (mean, error) = (sum / trials, (variance / trials).sqrt());
            // Rounding of weights shows where nothing else does.
            let allowed = 4.0 * error + 1e-4 * truth;
            assert!((mean - truth).abs() <= allowed, "{cell}: mean {mean} of {what}, truth {truth} ± {error}");
        }
        let coverage = f64::from(covered.0) / trials;
        let of_blocks = f64::from(covered.1) / trials;
        println!("{cell}: covers {coverage:.4} in bytes, {of_blocks:.4} in blocks");
        assert!(coverage >= COVERAGE_MIN, "{cell}: covers {coverage} in bytes");
        assert!(of_blocks >= COVERAGE_MIN, "{cell}: covers {of_blocks} in blocks");
        if fine_samples >= 20.0 {
            assert!(coverage <= COVERAGE_MAX, "{cell}: covers {coverage} in bytes");
        }
        // In blocks the smallest size's samples are those that count; see `PLENTY`.
        let (_, p, count) = kinds[0];
        if p < 0.1 && count as f64 * p >= 2.0 * PLENTY {
            assert!(of_blocks <= COVERAGE_MAX, "{cell}: covers {of_blocks} in blocks");
        }
    }

    /// What the naive formulas would give: the tests above are sharp enough to refuse them.
    #[test]
    fn the_normal_interval_would_be_refused() {
        let (size, interval, count) = (8u64, 524_288.0, 5 * 65_536);
        let (p, n) = (probability(size, interval), count as f64);
        let weight = 1.0 / p;
        let mut ln_pmf = n * (-p).ln_1p();
        let mut covered = 0.0;
        for k in 0..60 {
            let (value, deviation) = (f64::from(k) * weight, (f64::from(k) * (1.0 - p)).sqrt() * weight);
            if (value - n).abs() <= 1.96 * deviation {
                covered += ln_pmf.exp();
            }
            ln_pmf += ((n - f64::from(k)) / f64::from(k + 1) * p / (1.0 - p)).ln();
        }
        assert!(covered < COVERAGE_MIN, "{covered}");
    }

    /// Where little was seen, an interval in blocks allows for the smallest blocks that the process is known to have;
    /// where enough was seen, for blocks like those.
    #[test]
    fn few_samples_do_not_tell_how_small_blocks_may_be() {
        let (interval, size) = (65_536.0, 32_768u64);
        let (weight, p) = (Weight::of(size, interval), probability(size, interval));
        let high = |k: u64, of: u64| {
            let amount = |k| Amount { smallest_bytes: size, ..times(&weight, k) };
            Estimate::blocks(&amount(k), Unseen::of(&amount(of), interval, 16)).high
        };
        let tiny = NONE_SEEN / probability(16, interval);
        for (k, of) in [(0, 0), (0, 3), (1, 5), (9, 20)] {
            assert!(high(k, of) >= tiny * (1.0 - 1e-9), "{k} of {of}: {}", high(k, of));
        }
        assert!((high(0, 30) - NONE_SEEN / p).abs() < 1e-3, "{}", high(0, 30));
        assert!(high(12, 12) < 30.0 / p && high(3, 40) < 15.0 / p);
        // The very mixture that this is for: 100 blocks of 16 B, of which most probably none was met.
        let three = high(3, 3);
        assert!(three > 100.0, "{three}");
    }

    /// Garwood's interval for equal light weights, from his table.
    #[test]
    fn few_samples_get_garwoods_interval() {
        let (interval, size) = (1e9, 1000);
        let weight = Weight::of(size, interval);
        for (k, low, high) in [(0, 0.0, 3.6889), (1, 0.0253, 5.5716), (3, 0.6187, 8.7673), (9, 4.1154, 17.0848)] {
            let found = Estimate::bytes(&times(&weight, k), interval);
            assert!((found.low / interval - low).abs() < 2e-4, "{k}: {found:?}");
            assert!((found.high / interval - high).abs() < 2e-4, "{k}: {found:?}");
        }
    }

    #[test]
    fn exact_figures_have_no_interval() {
        let amount = times(&Weight::of(100, 0.0), 7);
        assert_eq!(Estimate::bytes(&amount, 0.0), Estimate::exact(700.0));
        assert_eq!(Estimate::blocks(&amount, Unseen::NONE), Estimate::exact(7.0));
        assert_eq!(Estimate::bytes(&Amount::default(), 0.0), Estimate::exact(0.0));
    }

    #[test]
    fn a_difference_without_loss_is_the_gain() {
        let gain = Estimate { value: 10.0, low: 4.0, high: 19.0 };
        assert_eq!(Estimate::difference(gain, Estimate::exact(0.0)), gain);
        assert_eq!(Estimate::difference(gain, Estimate::exact(3.0)), Estimate { value: 7.0, low: 1.0, high: 16.0 });
    }
}
