//! Random numbers for sampling: one small generator a thread, no locks, no system calls after seeding.
//!
//! wyrand (Wang Yi): one multiplication a number, passes the usual test batteries. Exponential variates by inversion.

/// A thread's generator.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Random {
    state: u64,
}

impl Random {
    /// Seeds from whatever distinguishes threads and moments; any value will do.
    pub(crate) const fn new(seed: u64) -> Random {
        Random { state: seed }
    }

    /// 64 random bits.
    #[inline]
    pub(crate) fn bits(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0xA076_1D64_78BD_642F);
        let wide = u128::from(self.state) * u128::from(self.state ^ 0xE703_7ED1_A0B4_28DB);
        #[expect(clippy::cast_possible_truncation, reason = "folds the two halves")]
        {
            (wide >> 64) as u64 ^ wide as u64
        }
    }

    /// Uniform in (0, 1]: never 0, so that its logarithm is finite.
    #[inline]
    pub(crate) fn unit(&mut self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "53 bits fit")]
        let upper = ((self.bits() >> 11) + 1) as f64;
        upper * (1.0 / 9_007_199_254_740_992.0)
    }

    /// The distance in bytes to the next sample point: exponential with mean `interval_bytes`, rounded down so that a
    /// point within a block's bytes samples that block. At most 2^48.
    #[expect(clippy::cast_possible_truncation, reason = "clamped to 2^48 first")]
    pub(crate) fn distance(&mut self, interval_bytes: f64) -> i64 {
        (-self.unit().ln() * interval_bytes).min(281_474_976_710_656.0) as i64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// False-failure rate: each bound is 6 standard errors, below one in 10^8.
    #[test]
    fn distances_are_exponential() {
        let mut random = Random::new(42);
        let (n, mean) = (400_000, 65_536.0);
        let mut sum = 0.0;
        let mut beyond = 0u32;
        for _ in 0..n {
            #[expect(clippy::cast_precision_loss, reason = "small")]
            let d = random.distance(mean) as f64 + 0.5;
            sum += d;
            beyond += u32::from(d > mean);
        }
        let n = f64::from(n);
        assert!((sum / n / mean - 1.0).abs() < 6.0 / n.sqrt(), "{}", sum / n / mean);
        let p = (-1.0f64).exp();
        assert!((f64::from(beyond) / n - p).abs() < 6.0 * (p * (1.0 - p) / n).sqrt());
    }
}
