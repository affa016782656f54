//! What a block counts for in the figures: its weight, remembered of those that came lately.
//!
//! Promises: a pure function of size and interval, whatever is remembered, so that a death takes away what the birth added. No
//! allocation after `new`.

use crate::sampler::weight::{BLOCKS_FRACTION_BITS, BYTES_FRACTION_BITS, IntervalCode, Weight};

/// The weight of a block that is recorded for certain.
#[inline(always)]
pub(crate) fn exactly(size: u64) -> Weight {
    Weight {
        bytes: size << BYTES_FRACTION_BITS,
        blocks: 1 << BLOCKS_FRACTION_BITS,
        bytes_variance: 0,
        blocks_variance: 0,
        samples: 0,
    }
}

/// Weights of recent (size, interval) pairs: the exponential costs more than all the rest of a record.
#[derive(Debug)]
pub(super) struct WeightCache {
    fixed_interval_bytes: u64,
    entries: Box<[(u64, Weight)]>,
}

/// A program has few hundred sizes at a time; 512 entries are 48 KiB.
const WEIGHT_ENTRIES_BITS: u32 = 9;

impl WeightCache {
    pub(super) fn new(fixed_interval_bytes: u64) -> WeightCache {
        // Interval code 0 is never looked up, so a key of 0 is no entry.
        WeightCache { fixed_interval_bytes, entries: vec![(0, Weight::default()); 1 << WEIGHT_ENTRIES_BITS].into() }
    }

    #[inline]
    pub(super) fn of(&mut self, size: u64, interval: IntervalCode) -> Weight {
        if interval == IntervalCode::EXACT {
            return exactly(size);
        }
        // Sizes have 48 bits, so the pair has a word of its own.
        let key = (size << 8) | u64::from(interval.0);
        // Fibonacci hashing (Knuth, TAOCP 3, 6.4).
        let slot = (key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - WEIGHT_ENTRIES_BITS)) as usize;
        match self.entries.get_mut(slot) {
            Some((known, weight)) if *known == key => *weight,
            Some(entry) => {
                *entry = (key, Weight::of(size, interval.interval_bytes(self.fixed_interval_bytes)));
                entry.1
            }
            None => Weight::of(size, interval.interval_bytes(self.fixed_interval_bytes)),
        }
    }
}
