//! What a site does epoch by epoch, for its advice: no verdict rests on this.
//!
//! Promises: O(1) a record, plain data, all-zero bytes being an empty one. Remembers of the last [`WATCHED_EPOCHS`] epochs in
//! which the site had births, and in which more of its blocks were live at once than ever before (a *peak*). In sampled
//! mode these are births and peaks of samples: small sites show few of them, and then nothing is said.

use super::activity::Activity;
use super::history::Block;
use super::tally::Tally;
use crate::sampler::weight::BLOCKS_FRACTION_BITS;

/// Epochs that are remembered, one bit each: about the report's window.
pub(crate) const WATCHED_EPOCHS: u32 = 128;
/// Blocks come and go where so many times as many were born as were ever live at once.
const TURNOVER: u64 = 5;
/// And so many samples at least.
const FEWEST_BORN: u32 = 20;

/// One bit an epoch, the latest lowest.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Epochs([u64; 2]);

impl Epochs {
    pub(super) fn push(&mut self, bit: bool) {
        let [low, high] = self.0;
        self.0 = [(low << 1) | u64::from(bit), (high << 1) | (low >> 63)];
    }

    /// How many.
    pub(crate) fn count(self) -> u32 {
        self.0[0].count_ones() + self.0[1].count_ones()
    }

    /// Those in both.
    pub(crate) fn and(self, other: Epochs) -> Epochs {
        Epochs([self.0[0] & other.0[0], self.0[1] & other.0[1]])
    }
}

/// The bit of 64 that stands for a size.
#[inline(always)]
pub(super) fn size_bit(size: u64) -> u64 {
    // The top bits of a product with 2^64 over the golden ratio.
    1 << (size.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 58)
}

/// See the module. Blocks are counted by their weights, in 1/2^12, so that a change of the sampling interval is no peak.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Habits {
    /// One of 64 bits a size: sizes that were seen.
    sizes: u64,
    /// Epochs with births.
    pub(crate) births: Epochs,
    /// Epochs with a new peak.
    pub(crate) peaks: Epochs,
    /// Live now; the most ever live at once before this epoch; in it; born ever, all saturating.
    live: u64,
    most: u64,
    most_now: u64,
    born: u64,
    /// Samples ever born, saturating.
    samples: u32,
    /// Idle epochs of the program in which this site had births, saturating.
    pub(crate) idle_births: u16,
    had_births: u8,
}

const _: () = assert!(size_of::<Habits>() <= 88, "habits are one in twelve of what a site costs");

impl Habits {
    /// So many equal blocks were born.
    #[inline]
    pub(crate) fn born(&mut self, block: &Block, times: u64) {
        self.count(block, times);
        self.live = self.live.saturating_add(block.weight.blocks.saturating_mul(times));
        self.most_now = self.most_now.max(self.live);
    }

    #[inline]
    fn count(&mut self, block: &Block, times: u64) {
        self.sized(block.size);
        self.born = self.born.saturating_add(block.weight.blocks.saturating_mul(times));
        self.samples = self.samples.saturating_add(u32::try_from(times).unwrap_or(u32::MAX));
        self.had_births = 1;
    }

    /// A block has this size.
    #[inline]
    fn sized(&mut self, size: u64) {
        self.sizes |= size_bit(size);
    }

    /// All that was tallied in the open epoch, of exact mode.
    pub(super) fn tallied(&mut self, tally: &Tally) {
        let weight = |blocks: u64| blocks.saturating_mul(1 << BLOCKS_FRACTION_BITS);
        self.sizes |= tally.sizes;
        if tally.born != 0 {
            self.born = self.born.saturating_add(weight(tally.born));
            self.samples = self.samples.saturating_add(u32::try_from(tally.born).unwrap_or(u32::MAX));
            self.had_births = 1;
            self.most_now = self.most_now.max(self.live.saturating_add(weight(tally.most)));
        }
        self.live = match tally.born.checked_sub(tally.gone) {
            Some(more) => self.live.saturating_add(weight(more)),
            None => self.live.saturating_sub(weight(tally.gone - tally.born)),
        };
    }

    /// In this epoch, were so many exact blocks more than `live` ones live at once?
    pub(crate) fn has_reached(&self, more: u64) -> bool {
        self.live.saturating_add(more.saturating_mul(1 << BLOCKS_FRACTION_BITS)) <= self.most_now
    }

    /// A block is no longer live, or no longer in the sample.
    #[inline]
    pub(crate) fn left(&mut self, block: &Block) {
        self.live = self.live.saturating_sub(block.weight.blocks);
    }

    /// A block changed its size.
    pub(crate) fn resized(&mut self, old: &Block, new: &Block) {
        self.sized(new.size);
        self.live = self.live.saturating_sub(old.weight.blocks).saturating_add(new.weight.blocks);
    }

    /// The epoch is over; the program was idle in it, or not.
    pub(crate) fn end_epoch(&mut self, is_idle: bool) {
        let had_births = self.had_births != 0;
        self.had_births = 0;
        self.idle_births = self.idle_births.saturating_add(u16::from(is_idle && had_births));
        self.births.push(had_births);
        self.peaks.push(self.most_now > self.most);
        self.most = self.most.max(self.most_now);
        self.most_now = self.live;
    }

    /// How many sizes were seen, at least; 64 is all that can be told apart.
    pub(crate) fn distinct_sizes(&self) -> u32 {
        self.sizes.count_ones()
    }

    /// Do its blocks come and go, so that how many are live at once tells of concurrent use?
    pub(crate) fn comes_and_goes(&self) -> bool {
        self.samples >= FEWEST_BORN && self.born >= self.most.max(self.most_now).saturating_mul(TURNOVER)
    }
}

/// What all sites do, and the program as a whole.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ways {
    /// By the numbers of the sites' histories.
    pub(crate) habits: Vec<Habits>,
    pub(crate) activity: Activity,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sampler::weight::Weight;

    fn block(size: u64) -> Block {
        Block { size, interval_bytes: 0.0, weight: Weight::of(size, 0.0), thread: 0 }
    }

    #[test]
    fn peaks_are_epochs_in_which_more_were_live_at_once_than_ever_before() {
        let mut habits = Habits::default();
        for most in [3, 2, 3, 5, 5, 0, 6] {
            if most > 0 {
                habits.born(&block(64), most);
            }
            (0..most).for_each(|_| habits.left(&block(64)));
            habits.end_epoch(false);
        }
        assert_eq!(habits.peaks, Epochs([0b100_1001, 0]));
        assert_eq!(habits.births, Epochs([0b111_1101, 0]));
        assert_eq!((habits.peaks.count(), habits.births.and(habits.peaks).count()), (3, 3));
        assert!(!habits.comes_and_goes(), "24 births are four times its peak");
        for _ in 0..100 {
            habits.born(&block(64), 1);
            habits.left(&block(64));
        }
        assert!(habits.comes_and_goes());
        assert_eq!(habits.distinct_sizes(), 1);
        (1..100).for_each(|size| habits.resized(&block(64), &block(size * 16)));
        assert!(habits.distinct_sizes() > 16);
    }

    #[test]
    fn the_oldest_epochs_are_forgotten_and_idle_births_are_counted() {
        let mut habits = Habits::default();
        for epoch in 0..1000 {
            if epoch % 4 == 0 {
                habits.born(&block(8), 1);
            }
            habits.end_epoch(epoch % 8 < 4);
        }
        assert_eq!((habits.births.count(), habits.idle_births), (WATCHED_EPOCHS / 4, 125));
    }
}
