//! What happened at a site in the open epoch and has not been told to its history yet: sums, in one cache line.
//!
//! In exact mode nearly every record is of a block that was born in the open epoch, at a site whose largest table it does
//! not touch. Of such a record the history keeps sums alone, so that it may hear of many at once, and later:
//! [`Tally::settle`] leaves what they leave one by one. Whatever else happens must be told at once, after the tally was
//! settled: then the history sees everything in order, but for births, frees and resizes of one epoch among themselves.
//! For these no order matters, as long as no block is freed before it is born; where a late record turns that around, the
//! tally has the true sum and the history by itself would count a block too many.
//!
//! Promises: O(1), plain data, all-zero bytes being an empty tally of a site that must be asked about everything. Exact
//! mode's alone: a sample counts whole, and weights are the sizes.

use super::habits::{Habits, size_bit};
use super::history::History;

/// See the module. Counts in blocks, sizes in bytes.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(super) born: u64,
    pub(super) gone: u64,
    /// Of births, and of what blocks were resized to.
    pub(super) born_bytes: u64,
    /// What is live more than before; wraps below zero.
    pub(super) live_bytes: u64,
    /// The most that were live at once more than before.
    pub(super) most: u64,
    /// `habits::size_bit` of sizes that were seen.
    pub(super) sizes: u64,
    /// The table does not hear of births of up to so many bytes.
    pub(super) quiet_births: u64,
    /// It hears of frees of this size alone; 0: of all.
    pub(super) loud_free: u64,
}

/// No block has this size.
const NONE: u64 = u64::MAX;

const _: () = assert!(size_of::<Tally>() == 64, "a record touches one line");

impl Tally {
    /// So many blocks were born. False: nothing was done, for the history may have to hear of it.
    #[inline(always)]
    pub(crate) fn born(&mut self, size: u64, times: u64) -> bool {
        let quiet = self.is_quiet_birth(size);
        if quiet {
            self.count_births(size, times);
        }
        quiet
    }

    /// So many blocks were born, and each was freed before the next. False: as above.
    #[inline(always)]
    pub(crate) fn paired(&mut self, size: u64, times: u64) -> bool {
        let quiet = self.is_quiet_birth(size) && self.is_quiet_free(size);
        if quiet {
            self.count_pairs(size, times);
        }
        quiet
    }

    /// A block that was born in the open epoch was freed. False: as above.
    #[inline(always)]
    pub(crate) fn freed(&mut self, size: u64) -> bool {
        let quiet = self.is_quiet_free(size);
        if quiet {
            self.count_free(size);
        }
        quiet
    }

    /// A block that was born in the open epoch changed its size. False: as above.
    #[inline(always)]
    pub(crate) fn resized(&mut self, old: u64, new: u64) -> bool {
        // Four sevenths of what is quiet: not above the largest table, which is all that it can grow beyond.
        let quiet =
            new.saturating_mul(7) <= self.quiet_births.saturating_mul(4) && (new >= old || self.is_quiet_free(old));
        if quiet {
            self.count_resize(old, new);
        }
        quiet
    }

    /// Does the table not hear of it?
    #[inline(always)]
    fn is_quiet_birth(&self, size: u64) -> bool {
        // A size of 0 is none, and never quiet.
        size.wrapping_sub(1) < self.quiet_births
    }

    /// As above, of a block that was born in the open epoch.
    #[inline(always)]
    fn is_quiet_free(&self, size: u64) -> bool {
        self.loud_free != 0 && size != self.loud_free
    }

    /// So many births that the table does not hear of.
    #[inline(always)]
    pub(crate) fn count_births(&mut self, size: u64, times: u64) {
        let bytes = size.wrapping_mul(times);
        self.born = self.born.wrapping_add(times);
        self.born_bytes = self.born_bytes.wrapping_add(bytes);
        self.live_bytes = self.live_bytes.wrapping_add(bytes);
        self.reach(self.born.wrapping_sub(self.gone));
        self.sizes |= size_bit(size);
    }

    /// So many births, each followed by the free of that block, that the table does not hear of.
    #[inline(always)]
    pub(crate) fn count_pairs(&mut self, size: u64, times: u64) {
        self.reach(self.born.wrapping_sub(self.gone).wrapping_add(1));
        self.born = self.born.wrapping_add(times);
        self.gone = self.gone.wrapping_add(times);
        self.born_bytes = self.born_bytes.wrapping_add(size.wrapping_mul(times));
        self.sizes |= size_bit(size);
    }

    /// A free that the table does not hear of.
    #[inline(always)]
    pub(crate) fn count_free(&mut self, size: u64) {
        self.gone = self.gone.wrapping_add(1);
        self.live_bytes = self.live_bytes.wrapping_sub(size);
    }

    /// A resize that the table does not hear of.
    #[inline(always)]
    pub(crate) fn count_resize(&mut self, old: u64, new: u64) {
        self.born_bytes = self.born_bytes.wrapping_add(new);
        self.live_bytes = self.live_bytes.wrapping_add(new).wrapping_sub(old);
        self.sizes |= size_bit(new);
    }

    /// What is live more than before, in blocks; wraps below zero.
    pub(crate) fn live(&self) -> u64 {
        self.born.wrapping_sub(self.gone)
    }

    /// Were so many more than now live at once?
    pub(crate) fn has_reached(&self, more: u64) -> bool {
        signed(self.live().wrapping_add(more)) <= signed(self.most)
    }

    #[inline(always)]
    fn reach(&mut self, more: u64) {
        if signed(more) > signed(self.most) {
            self.most = more;
        }
    }

    /// Tells the site's history and habits of all that was tallied in epoch `now`, and forgets it.
    pub(crate) fn settle(&mut self, now: u32, history: &mut History, habits: &mut Habits) {
        if self.born != 0 || self.gone != 0 || self.sizes != 0 {
            history.tallied(now, self);
            habits.tallied(self);
            *self = Tally { quiet_births: self.quiet_births, loud_free: self.loud_free, ..Tally::default() };
        }
    }

    /// Asks the history anew what it must hear of at once.
    pub(crate) fn listen(&mut self, history: &History) {
        (self.quiet_births, self.loud_free) = if history.is_exact() { history.spine.ears() } else { (0, 0) };
    }

    /// From here on the history must be asked about everything.
    pub(crate) fn listen_to_all(&mut self) {
        (self.quiet_births, self.loud_free) = (0, 0);
    }
}

/// What [`Tally::listen`] takes: births that are quiet, and the free that is loud, of a table's capacity in bytes.
pub(super) fn ears(capacity_bytes: u64, awaits_free: bool, is_chained: bool) -> (u64, u64) {
    // What is no more than this neither begins a table nor doubles it.
    let quiet_births = capacity_bytes.saturating_add(capacity_bytes / 4 * 3);
    let loud_free = match (awaits_free, is_chained) {
        (true, _) => 0,
        (false, true) => capacity_bytes,
        (false, false) => NONE,
    };
    (quiet_births, loud_free)
}

/// A difference that may be below zero, as it was meant.
#[expect(clippy::cast_possible_wrap, reason = "that is its purpose")]
#[inline(always)]
pub(super) fn signed(word: u64) -> i64 {
    word as i64
}

#[cfg(test)]
mod tests;
