//! One row of figures as it lies in the store: what the writer changes and how a reader gets it whole.
//!
//! Promises: one writer (who holds the aggregator's lock) changes a row between two marks, so a dead process's file
//! shows whether a row was being changed; and keeps beside the current figures those at the end of the last epoch, so
//! that a reader of a live file takes a closed epoch's figures without waiting. No arithmetic here can panic: sums
//! wrap, because a free may be applied before its birth arrives, and the two must cancel.
//!
//! **Closed epochs.** The first change of a row in epoch `e` sets `epoch_begin = e`, copies `current` to `closed`, sets
//! `epoch_end = e`, and only then changes `current`. So, for a reader who wants the end of epoch `e - 1`:
//! - `epoch_end == e` seen before and `epoch_begin == e` seen after reading `closed`: `closed` is it;
//! - `epoch_end < e` seen after reading `current`: the row has not been changed since, `current` is it.
//!
//! **Marks.** `begin` grows by one before a change and `end` after it: `begin ≠ end` is a change under way.
//! Source: sequence locks (Lameter, OLS 2005; Boehm, MSPC 2012 for the fences).

use crate::sampler::weight::{BLOCKS_FRACTION_BITS, Weight};
use crate::store::picture::{Amount, Figures};
use crate::sys::sync::{AtomicU64, Ordering, fence};
use crate::units::StackId;
use std::cmp;

/// Reads a word. Relaxed: either the caller is the single writer, or marks around the words say whether they belong
/// together.
#[inline]
pub(crate) fn get(word: &AtomicU64) -> u64 {
    word.load(Ordering::Relaxed)
}

/// Writes a word of which the caller is the only writer. Relaxed: published by the marks around it.
#[inline]
pub(crate) fn set(word: &AtomicU64, value: u64) {
    word.store(value, Ordering::Relaxed);
}

/// Adds to a word of which the caller is the only writer.
#[inline]
pub(crate) fn add(word: &AtomicU64, value: u64) {
    set(word, get(word).wrapping_add(value));
}

/// Subtracts from a word of which the caller is the only writer.
#[inline]
pub(crate) fn sub(word: &AtomicU64, value: u64) {
    set(word, get(word).wrapping_sub(value));
}

/// A number of 128 bits in two words, low first; one writer.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct Wide {
    low: AtomicU64,
    high: AtomicU64,
}

impl Wide {
    pub(crate) fn get(&self) -> u128 {
        u128::from(get(&self.low)) | (u128::from(get(&self.high)) << 64)
    }

    #[expect(clippy::cast_possible_truncation, reason = "the lower and the upper half")]
    #[inline]
    fn set(&self, value: u128) {
        set(&self.low, value as u64);
        set(&self.high, (value >> 64) as u64);
    }

    #[inline]
    pub(crate) fn add(&self, value: u128) {
        self.set(self.get().wrapping_add(value));
    }

    #[inline]
    pub(crate) fn sub(&self, value: u128) {
        self.set(self.get().wrapping_sub(value));
    }
}

/// The part of an amount that only sampled blocks (p ≤ 0.99) contribute to; all zero in exact mode.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct SampledCells {
    bytes: AtomicU64,
    blocks: AtomicU64,
    samples: AtomicU64,
    bytes_variance: Wide,
    blocks_variance: Wide,
}

impl SampledCells {
    fn add(&self, weight: &Weight) {
        add(&self.bytes, weight.bytes);
        add(&self.blocks, weight.blocks);
        add(&self.samples, weight.samples);
        self.bytes_variance.add(weight.bytes_variance);
        self.blocks_variance.add(weight.blocks_variance);
    }

    fn sub(&self, weight: &Weight) {
        sub(&self.bytes, weight.bytes);
        sub(&self.blocks, weight.blocks);
        sub(&self.samples, weight.samples);
        self.bytes_variance.sub(weight.bytes_variance);
        self.blocks_variance.sub(weight.blocks_variance);
    }
}

/// `Figures` as words. What exact mode touches comes first: two cache lines.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct FigureCells {
    pub(crate) live_bytes: AtomicU64,
    pub(crate) live_blocks: AtomicU64,
    total_bytes: AtomicU64,
    total_blocks: AtomicU64,
    max_bytes: AtomicU64,
    max_blocks: AtomicU64,
    gmax_bytes: AtomicU64,
    gmax_blocks: AtomicU64,
    /// How many of the process's peaks `gmax` knows of; where the process had more, the latest found this row as it
    /// still is.
    peak_generation: AtomicU64,
    freed_blocks: AtomicU64,
    pub(crate) live_births: Wide,
    ended_lifetimes: Wide,
    live: SampledCells,
    total: SampledCells,
}

/// Words of a `FigureCells`.
pub(crate) const FIGURE_WORDS: usize = 28;

impl FigureCells {
    /// Keeps the live figures as those at the process's peak number `generation`, unless that is done: call before a
    /// change, after the peak has ended.
    #[inline]
    pub(crate) fn stamp_peak(&self, generation: u64) {
        if get(&self.peak_generation) != generation {
            set(&self.gmax_bytes, get(&self.live_bytes));
            set(&self.gmax_blocks, get(&self.live_blocks));
            set(&self.peak_generation, generation);
        }
    }

    #[inline]
    pub(crate) fn live_add(&self, weight: &Weight) {
        add(&self.live_bytes, weight.bytes);
        add(&self.live_blocks, weight.blocks);
        if weight.samples != 0 {
            self.live.add(weight);
        }
    }

    #[inline]
    pub(crate) fn live_sub(&self, weight: &Weight) {
        sub(&self.live_bytes, weight.bytes);
        sub(&self.live_blocks, weight.blocks);
        if weight.samples != 0 {
            self.live.sub(weight);
        }
    }

    #[inline]
    pub(crate) fn total_add(&self, weight: &Weight) {
        add(&self.total_bytes, weight.bytes);
        add(&self.total_blocks, weight.blocks);
        if weight.samples != 0 {
            self.total.add(weight);
        }
    }

    /// Exact blocks join the live ones; negated: leave them.
    #[inline(always)]
    pub(crate) fn live_add_exactly(&self, bytes: u64, blocks: u64) {
        add(&self.live_bytes, bytes);
        add(&self.live_blocks, blocks);
    }

    /// Exact blocks are added to the totals.
    #[inline(always)]
    pub(crate) fn total_add_exactly(&self, bytes: u64, blocks: u64) {
        add(&self.total_bytes, bytes);
        add(&self.total_blocks, blocks);
    }

    /// The covariance of a block's totals with its own earlier sizes.
    pub(crate) fn total_add_variance(&self, bytes_variance: u128, blocks_variance: u128) {
        self.total.bytes_variance.add(bytes_variance);
        self.total.blocks_variance.add(blocks_variance);
    }

    /// Keeps the live figures as the row's own peak if they are at least as high: of equal peaks the latest counts.
    #[inline]
    pub(crate) fn raise_max(&self) {
        let live = get(&self.live_bytes);
        if signed(live) >= signed(get(&self.max_bytes)) {
            set(&self.max_bytes, live);
            set(&self.max_blocks, get(&self.live_blocks));
        }
    }

    /// Would so much more leave the row's peak as it is? So many exact blocks of so much weight in all.
    pub(crate) fn has_reached(&self, bytes: i64, blocks: u64) -> bool {
        let live = signed(get(&self.live_bytes)).saturating_add(bytes);
        let blocks = get(&self.live_blocks).wrapping_add(blocks << BLOCKS_FRACTION_BITS);
        match live.cmp(&signed(get(&self.max_bytes))) {
            cmp::Ordering::Less => true,
            // Of equal peaks the latest counts.
            cmp::Ordering::Equal => blocks == get(&self.max_blocks),
            cmp::Ordering::Greater => false,
        }
    }

    /// As `live_add_exactly` of one more block, `raise_max`, and the like `live_sub`; `at_peak`: the process stood at its peak
    /// number `generation` between.
    #[inline]
    pub(crate) fn live_blip(&self, bytes: u64, blocks: u64, at_peak: Option<u64>) {
        let (bytes, blocks) = (get(&self.live_bytes).wrapping_add(bytes), get(&self.live_blocks).wrapping_add(blocks));
        if signed(bytes) >= signed(get(&self.max_bytes)) {
            set(&self.max_bytes, bytes);
            set(&self.max_blocks, blocks);
        }
        if let Some(generation) = at_peak {
            set(&self.gmax_bytes, bytes);
            set(&self.gmax_blocks, blocks);
            set(&self.peak_generation, generation);
        }
    }

    /// A block of `blocks` (weight) that lived for `age` ticks was freed.
    #[inline]
    pub(crate) fn freed(&self, blocks: u64, age: u64) {
        add(&self.freed_blocks, blocks);
        self.ended_lifetimes.add(u128::from(blocks) * u128::from(age));
    }

    /// Blocks of weight `each` were freed, `blocks` (weight) in all, that lived for `ages` ticks together.
    #[inline]
    pub(crate) fn freed_together(&self, blocks: u64, each: u64, ages: u64) {
        add(&self.freed_blocks, blocks);
        self.ended_lifetimes.add(u128::from(each) * u128::from(ages));
    }

    /// As [`Row::figures`], but for what only the row knows.
    fn figures(&self, generation: u64, at_peak: bool) -> Figures {
        let sampled = |bytes, blocks, cells: &SampledCells| Amount {
            bytes,
            blocks,
            sampled_bytes: not_negative(get(&cells.bytes)).min(bytes),
            sampled_blocks: not_negative(get(&cells.blocks)).min(blocks),
            samples: not_negative(get(&cells.samples)),
            bytes_variance: wide_not_negative(cells.bytes_variance.get()),
            blocks_variance: wide_not_negative(cells.blocks_variance.get()),
            smallest_bytes: 0,
            resized: false,
        };
        let live_bytes = not_negative(get(&self.live_bytes));
        let live_blocks = not_negative(get(&self.live_blocks));
        let as_live = at_peak || get(&self.peak_generation) != generation;
        let gmax = |word: &AtomicU64, live| if as_live { live } else { not_negative(get(word)) };
        Figures {
            live: sampled(live_bytes, live_blocks, &self.live),
            total: sampled(not_negative(get(&self.total_bytes)), not_negative(get(&self.total_blocks)), &self.total),
            max_bytes: not_negative(get(&self.max_bytes)),
            max_blocks: not_negative(get(&self.max_blocks)),
            gmax_bytes: gmax(&self.gmax_bytes, live_bytes),
            gmax_blocks: gmax(&self.gmax_blocks, live_blocks),
            ended_lifetimes: self.ended_lifetimes.get(),
            live_births: wide_not_negative(self.live_births.get()),
            freed_blocks: not_negative(get(&self.freed_blocks)),
        }
    }
}

/// A sum that may be below zero for a moment, as it was meant.
#[expect(clippy::cast_possible_wrap, reason = "that is its purpose")]
#[inline]
pub(crate) fn signed(word: u64) -> i64 {
    word as i64
}

/// What to show of a sum that wrapped below zero: nothing.
pub(crate) fn not_negative(word: u64) -> u64 {
    if signed(word) < 0 { 0 } else { word }
}

#[expect(clippy::cast_possible_wrap, reason = "as `signed`")]
fn wide_not_negative(value: u128) -> u128 {
    if (value as i128) < 0 { 0 } else { value }
}

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
    assert!(size_of::<FigureCells>() == FIGURE_WORDS * 8, "figures are copied word by word");
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

    /// A block of `size` bytes was recorded by sampling, by a resize or not.
    #[inline]
    pub(crate) fn note_size(&self, size: u64, resized: bool) {
        let (size, smallest) = (size.max(1), get(&self.smallest_bytes));
        if smallest == 0 || size < smallest {
            set(&self.smallest_bytes, size);
        }
        if resized {
            set(&self.resized, 1);
        }
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
        copy_figures(&self.current, &self.closed);
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

fn copy_figures(from: &FigureCells, to: &FigureCells) {
    let (from, to) = (super::tables::words_of(from), super::tables::words_of(to));
    for (from, to) in from.iter().zip(to) {
        set(to, get(from));
    }
}
