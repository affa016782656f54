//! One row of figures as it lies in the store: what the writer changes and how a reader gets it whole.
//!
//! Promises: one writer (who holds the aggregator's lock) changes a row between two marks, so a dead process's file
//! shows whether a row was being changed; and keeps beside the current figures those at the end of the last epoch, so
//! that a reader of a live file takes a closed epoch's figures without waiting.
//!
//! **Closed epochs.** The first change of a row in epoch `e` sets `epoch_begin = e`, copies `current` to `closed`, sets
//! `epoch_end = e`, and only then changes `current`. So, for a reader who wants the end of epoch `e - 1`:
//! - `epoch_end == e` seen before and `epoch_begin == e` seen after reading `closed`: `closed` is it;
//! - `epoch_end < e` seen after reading `current`: the row has not been changed since, `current` is it.
//!
//! **Marks.** `begin` grows by one before a change and `end` after it: `begin ≠ end` is a change under way.
//! Source: sequence locks (Lameter, OLS 2005; Boehm, MSPC 2012 for the fences).

use crate::store::figures::{FIGURE_WORDS, FigureCells};
use crate::store::picture::Figures;
use crate::store::words::{add, get, set};
use crate::sys::sync::{AtomicU64, Ordering, fence};
use crate::units::StackId;

/// One row: a site's, or a size class's.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct Row {
    /// The stack (`StackId`) of a site; the class's number.
    pub(crate) key: AtomicU64,
    /// Changes begun.
    pub(crate) begin: AtomicU64,
    /// Changes finished.
    pub(crate) end: AtomicU64,
    /// The epoch whose first change began to fill `closed`.
    pub(crate) epoch_begin: AtomicU64,
    /// The epoch of the last change; `closed` holds the figures at the end of the one before.
    pub(crate) epoch_end: AtomicU64,
    /// Bytes of the smallest block ever recorded here, in sampled mode; 0: none yet. Only falls, so it has no epoch.
    pub(crate) smallest_bytes: AtomicU64,
    /// 1: a block was resized here, in sampled mode.
    pub(crate) resized: AtomicU64,
    spare: AtomicU64,
    pub(crate) current: FigureCells,
    pub(crate) closed: FigureCells,
}

/// Words of a `Row`.
pub(crate) const ROW_WORDS: usize = 64;
/// Where the marks and both sets of figures lie in a row's words, for those who read rows as words.
pub(crate) const EPOCH_BEGIN_WORD: usize = 3;
/// As above.
pub(crate) const EPOCH_END_WORD: usize = 4;
/// As above.
pub(crate) const CURRENT_WORD: usize = 8;
/// As above.
pub(crate) const CLOSED_WORD: usize = CURRENT_WORD + FIGURE_WORDS;

#[cfg(not(loom))]
const _: () = {
    assert!(size_of::<Row>() == ROW_WORDS * 8, "the file format says 512 bytes a row");
    assert!(std::mem::offset_of!(Row, epoch_begin) == EPOCH_BEGIN_WORD * 8, "read as words");
    assert!(std::mem::offset_of!(Row, epoch_end) == EPOCH_END_WORD * 8, "read as words");
    assert!(std::mem::offset_of!(Row, current) == CURRENT_WORD * 8, "a cache line boundary, and read as words");
    assert!(std::mem::offset_of!(Row, closed) == CLOSED_WORD * 8, "read as words");
};

impl Row {
    /// The stack of a site's row.
    #[expect(clippy::cast_possible_truncation, reason = "stored from a `StackId`")]
    pub(crate) fn stack(&self) -> StackId {
        StackId(get(&self.key) as u32)
    }

    /// A block of `size` bytes was recorded by sampling: born, or resized to that.
    #[inline]
    pub(crate) fn note_size(&self, size: u64) {
        let (size, smallest) = (size.max(1), get(&self.smallest_bytes));
        if smallest == 0 || size < smallest {
            set(&self.smallest_bytes, size);
        }
    }

    /// A block of the sample changed its size, whether or not it stayed in the sample.
    pub(crate) fn note_resize(&self) {
        set(&self.resized, 1);
    }

    /// The current figures, given how many peaks the process has had and whether it is at its peak now.
    pub(crate) fn figures(&self, generation: u64, at_peak: bool) -> Figures {
        let mut figures = self.current.figures(generation, at_peak);
        let smallest_bytes = get(&self.smallest_bytes);
        figures.live.smallest_bytes = smallest_bytes;
        figures.total.smallest_bytes = smallest_bytes;
        figures.total.resized = get(&self.resized) != 0;
        figures
    }

    /// Makes the row ready for a change in `epoch`: the first change of an epoch keeps what was.
    #[inline]
    pub(crate) fn enter_epoch(&self, epoch: u64) {
        if get(&self.epoch_end) != epoch {
            self.close_epoch(epoch);
        }
    }

    #[cold]
    #[inline(never)]
    fn close_epoch(&self, epoch: u64) {
        set(&self.epoch_begin, epoch);
        // Release, with the readers' Acquire fence between reading `closed` and `epoch_begin`: who sees a word of the
        // copy below sees that it has begun.
        fence(Ordering::Release);
        self.current.copy_to(&self.closed);
        // Release pairs with the readers' Acquire: who sees the epoch sees the whole copy.
        self.epoch_end.store(epoch, Ordering::Release);
        // Release, with the readers' Acquire fence between reading `current` and `epoch_end`: who sees a change of
        // `current` in this epoch sees that the epoch has been entered.
        fence(Ordering::Release);
    }

    /// Opens a change.
    #[inline]
    pub(crate) fn begin_change(&self) {
        add(&self.begin, 1);
        // Release: the mark comes before every word of the change, also in a file whose writer is killed here.
        fence(Ordering::Release);
    }

    /// Closes a change.
    #[inline]
    pub(crate) fn end_change(&self) {
        // Release: the whole change comes before the mark.
        self.end.store(get(&self.begin), Ordering::Release);
    }
}
