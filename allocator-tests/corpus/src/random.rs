//! Random numbers with a seed, the same on every machine: xorshift64*.

/// A stream of numbers.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Default for Random {
    fn default() -> Random {
        Random::new(0)
    }
}

impl Random {
    /// Equal seeds give equal streams.
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// 64 bits.
    pub fn word(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// In (0, 1].
    #[expect(clippy::cast_precision_loss, reason = "53 bits")]
    pub fn unit(&mut self) -> f64 {
        ((self.word() >> 11) + 1) as f64 / (1u64 << 53) as f64
    }

    /// True with probability `p`.
    pub fn chance(&mut self, p: f64) -> bool {
        self.unit() <= p
    }

    /// In 0..n.
    #[expect(clippy::cast_possible_truncation, reason = "below n")]
    pub fn below(&mut self, n: usize) -> usize {
        (self.word() % n.max(1) as u64) as usize
    }

    /// Exponential, in whole epochs, at least 0.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small number of epochs")]
    pub fn epochs(&mut self, mean: f64) -> u32 {
        (-self.unit().ln() * mean) as u32
    }

    /// Poisson, for means up to 500.
    pub fn poisson(&mut self, mean: f64) -> u32 {
        let (limit, mut product, mut n) = ((-mean.min(500.0)).exp(), self.unit(), 0);
        while product > limit {
            product *= self.unit();
            n += 1;
        }
        n
    }
}
