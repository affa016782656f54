//! Horvitz-Thompson weights of sampled blocks, in fixed point so that a birth and a death cancel to the last bit.
//!
//! A block of s bytes under mean interval R is in the sample with p = 1 - exp(-s/R); it stands for 1/p blocks and
//! s/p bytes, with variance contribution s²(1-p)/p² (Horvitz and Thompson 1952; tcmalloc's `docs/sampling.md`).
//! Weights are a pure function of (size, interval): whoever computes them, at birth, at death or from a dead
//! process's file, gets the same integers.

/// Which mean interval R a block's budget was drawn with.
///
/// 0 is exact mode (every block, p = 1); 1 is the fixed interval named in the profile's header; k ≥ 2 is 2^k bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub(crate) struct IntervalCode(pub(crate) u8);

impl IntervalCode {
    /// Every block is recorded.
    pub(crate) const EXACT: IntervalCode = IntervalCode(0);
    /// The interval that `Builder::sample_interval` fixed, held in the store's header.
    pub(crate) const FIXED: IntervalCode = IntervalCode(1);

    /// The mean interval in bytes; 0.0 in exact mode.
    pub(crate) fn interval_bytes(self, fixed_bytes: u64) -> f64 {
        match self.0 {
            0 => 0.0,
            #[expect(clippy::cast_precision_loss, reason = "an interval above 2^53 bytes is refused by the builder")]
            1 => fixed_bytes as f64,
            k => f64::from(k.min(62)).exp2(),
        }
    }
}

/// Fractional bits of weights in bytes. 2^56 bytes of headroom: 2 years of 1 GB/s at one site.
pub(crate) const BYTES_FRACTION_BITS: u32 = 8;
/// Fractional bits of weights in blocks: the rounding of 1/p is below 0.02%.
pub(crate) const BLOCKS_FRACTION_BITS: u32 = 12;
/// Blocks whose p exceeds this enter intervals as exact.
pub(crate) const NEARLY_EXACT_P: f64 = 0.99;

/// What one sampled block stands for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Weight {
    /// s/p, in 1/2^8 bytes.
    pub(crate) bytes: u64,
    /// 1/p, in 1/2^12 blocks.
    pub(crate) blocks: u64,
    /// s²(1-p)/p², in bytes²; 0 where p > 0.99.
    pub(crate) bytes_variance: u128,
    /// (1-p)/p², in 1/2^12 blocks²; 0 where p > 0.99.
    pub(crate) blocks_variance: u128,
    /// 1 where the block counts as a sample (p ≤ 0.99), 0 where it is as good as exact.
    pub(crate) samples: u64,
}

/// The probability that a block of `size` bytes is in the sample under a mean interval of `interval_bytes`.
/// A zero-sized request never reaches a global allocator; it counts as one byte.
pub(crate) fn probability(size: u64, interval_bytes: f64) -> f64 {
    if interval_bytes <= 0.0 {
        return 1.0;
    }
    #[expect(clippy::cast_precision_loss, reason = "block sizes are below 2^48")]
    let size = size.max(1) as f64;
    -(-size / interval_bytes).exp_m1()
}

impl Weight {
    /// The weight of a block of `size` bytes whose sample point was drawn with mean `interval_bytes` (0.0: exact).
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "finite non-negative values, rounded; float-to-int casts saturate"
    )]
    pub(crate) fn of(size: u64, interval_bytes: f64) -> Weight {
        let p = probability(size, interval_bytes);
        if p >= 1.0 {
            return Weight {
                bytes: size << BYTES_FRACTION_BITS,
                blocks: 1 << BLOCKS_FRACTION_BITS,
                ..Weight::default()
            };
        }
        let s = size as f64;
        let scale_bytes = f64::from(1u32 << BYTES_FRACTION_BITS);
        let scale_blocks = f64::from(1u32 << BLOCKS_FRACTION_BITS);
        let sampled = p <= NEARLY_EXACT_P;
        let variance = if sampled { (1.0 - p) / (p * p) } else { 0.0 };
        Weight {
            bytes: (s / p * scale_bytes).round() as u64,
            blocks: (scale_blocks / p).round() as u64,
            bytes_variance: (s * s * variance).round() as u128,
            blocks_variance: (variance * scale_blocks).round() as u128,
            samples: u64::from(sampled),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exact_mode_weighs_one() {
        let w = Weight::of(100, 0.0);
        assert_eq!((w.bytes, w.blocks, w.samples), (100 << 8, 1 << 12, 0));
    }

    #[test]
    fn small_blocks_stand_for_about_an_interval() {
        let w = Weight::of(64, 1_048_576.0);
        let bytes = w.bytes as f64 / 256.0;
        assert!((bytes - 1_048_608.0).abs() < 1.0, "{bytes}");
        assert_eq!(w.samples, 1);
    }

    #[test]
    fn variance_matches_the_formula() {
        let r = 1000.0;
        let p: f64 = 1.0 - (-0.5f64).exp();
        let w = Weight::of(500, r);
        let expected = 500.0 * 500.0 * (1.0 - p) / (p * p);
        assert!((w.bytes_variance as f64 - expected).abs() < 1.0);
    }
}
