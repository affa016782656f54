//! An estimated figure with its 95% interval.
//!
//! Blocks that were almost surely recorded (p > 0.99) are exact. The rest, y = Σw over k samples with estimated
//! variance v, gets a gamma interval (Fay and Feuer 1997), which for equal weights is Garwood's exact Poisson
//! interval (1936):
//!
//! * low: the 2.5% point of a gamma variable with mean y and variance v;
//! * high: its 97.5% point with mean y + w and variance v + w², w being the weight of one more sample: Σw²(1−p)/Σw,
//!   but no less than the mean weight y/k (for blocks with p near 1 the former vanishes, yet one more may be missing).
//!   From `SURE_SAMPLES` on w shrinks towards w/2, as in the mid-P interval, since the full w is conservative;
//! * no sample at all: 0 to 3.69·R bytes, as P(no sample of T bytes) = exp(−T/R) whatever their sizes.
//!
//! It covers at least 93% everywhere, at most 97% where 20 samples with p < 0.1 are expected (tests below).
//! **Limit**: in bytes this holds for any mixture of sizes. In blocks it holds where a site's blocks are of like
//! size: no sample can tell how many 8-byte blocks a site has whose samples were all of 1 MB.

use super::gamma::{LOWER, UPPER, quantile};
use crate::sampler::weight::{BLOCKS_FRACTION_BITS, BYTES_FRACTION_BITS};
use crate::store::picture::Amount;
pub use crate::units::Estimate;

/// 97.5% point of the mean of a Poisson variable of which nothing was seen: −ln 0.025.
const NONE_SEEN: f64 = 3.688_879_454_113_936;
/// Up to here the next sample counts in full, as in Garwood's interval; beyond, that would cover up to 96.9%.
const SURE_SAMPLES: f64 = 10.0;

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

    /// Blocks. `unseen` is what a block that was not recorded would have stood for: the mean weight of the site's
    /// blocks over all time, or 0.0 where none is known.
    pub(crate) fn blocks(amount: &Amount, unseen: f64) -> Estimate {
        Part::blocks(amount).estimate(unseen)
    }

    /// The mean weight in blocks of an amount's samples; 0.0 where it has none.
    pub(crate) fn mean_block_weight(amount: &Amount) -> f64 {
        Part::blocks(amount).mean_weight()
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

    /// `unseen`: the weight of a block where there is no sample to tell.
    fn estimate(&self, unseen: f64) -> Estimate {
        let value = self.exact + self.sampled;
        if self.samples <= 0.0 || self.sampled <= 0.0 {
            return Estimate { value, low: value, high: value + NONE_SEEN * unseen };
        }
        let (mean, variance) = (self.sampled, self.variance);
        let low = if variance > 0.0 { gamma_point(mean, variance, LOWER) } else { mean };
        let effective_samples = mean * mean / variance.max(f64::MIN_POSITIVE);
        let next = (variance / mean).max(self.mean_weight()) * next_share(effective_samples);
        let high = gamma_point(mean + next, variance + next * next, UPPER);
        Estimate { value, low: self.exact + low.min(mean), high: self.exact + high.max(mean) }
    }
}

/// How much of one more sample's weight the upper end allows for, by the effective number of samples y²/v.
fn next_share(effective_samples: f64) -> f64 {
    if effective_samples <= SURE_SAMPLES { 1.0 } else { 0.5 + 0.5 * SURE_SAMPLES / effective_samples }
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
    use crate::sampler::weight::{Weight, probability};

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
            let amount = times(&weight, k);
            if holds(Estimate::bytes(&amount, interval), n * size as f64) {
                bytes += ln_pmf.exp();
            }
            if holds(Estimate::blocks(&amount, 1.0 / p), n) {
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
        let (mut sum, mut covered) = ((0.0, 0.0), 0u32);
        for _ in 0..TRIALS {
            let mut amount = Amount::default();
            for (weight, p, count) in &kinds {
                add(&mut amount, &times(weight, random.binomial(*count, *p)));
            }
            let bytes = Estimate::bytes(&amount, interval);
            let blocks = Estimate::blocks(&amount, 1.0);
            sum = (sum.0 + bytes.value, sum.1 + blocks.value);
            covered += u32::from(holds(bytes, truth.0));
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
        let coverage = f64::from(covered) / trials;
        assert!(coverage >= COVERAGE_MIN, "{cell}: covers {coverage}");
        if fine_samples >= 20.0 {
            assert!(coverage <= COVERAGE_MAX, "{cell}: covers {coverage}");
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

    /// Garwood's interval for equal light weights, from his table.
    #[test]
    fn few_samples_get_garwoods_interval() {
        let (interval, size) = (1e9, 1000);
        let weight = Weight::of(size, interval);
        for (k, low, high) in [(0, 0.0, 3.6889), (1, 0.0253, 5.5716), (3, 0.6187, 8.7673), (10, 4.7954, 18.3904)] {
            let found = Estimate::bytes(&times(&weight, k), interval);
            assert!((found.low / interval - low).abs() < 2e-4, "{k}: {found:?}");
            assert!((found.high / interval - high).abs() < 2e-4, "{k}: {found:?}");
        }
    }

    #[test]
    fn exact_figures_have_no_interval() {
        let amount = times(&Weight::of(100, 0.0), 7);
        assert_eq!(Estimate::bytes(&amount, 0.0), Estimate::exact(700.0));
        assert_eq!(Estimate::blocks(&amount, 0.0), Estimate::exact(7.0));
        assert_eq!(Estimate::bytes(&Amount::default(), 0.0), Estimate::exact(0.0));
    }

    #[test]
    fn a_difference_without_loss_is_the_gain() {
        let gain = Estimate { value: 10.0, low: 4.0, high: 19.0 };
        assert_eq!(Estimate::difference(gain, Estimate::exact(0.0)), gain);
        assert_eq!(Estimate::difference(gain, Estimate::exact(3.0)), Estimate { value: 7.0, low: 1.0, high: 16.0 });
    }
}
