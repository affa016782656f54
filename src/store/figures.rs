//! A row's figures as words: what blocks that are born, resized and freed do to them, and how they are read back.
//!
//! Promises: one writer, under the aggregator's lock, between the marks of its row (`row`). What is added by a birth is taken away by
//! its free, whichever comes first. The figures at the process's peak are kept without looking at other rows: see `attribution`.

use std::cmp;

use crate::sampler::weight::{BLOCKS_FRACTION_BITS, Weight};
use crate::store::picture::{Amount, Figures};
use crate::store::words::{Wide, add, get, not_negative, plus, set, signed, sub, wide_not_negative};
use crate::sys::sync::AtomicU64;

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
    pub(crate) total_bytes: AtomicU64,
    pub(crate) total_blocks: AtomicU64,
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

    /// Exact blocks join the live ones, and the row's peak that they reach: as `raise_max`.
    #[inline(always)]
    pub(crate) fn live_rises_exactly(&self, bytes: u64, blocks: u64) {
        add(&self.live_blocks, blocks);
        let live = plus(&self.live_bytes, bytes);
        if signed(live) >= signed(get(&self.max_bytes)) {
            set(&self.max_bytes, live);
            set(&self.max_blocks, get(&self.live_blocks));
        }
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

    /// As `Row::figures`, but for what only the row knows.
    pub(super) fn figures(&self, generation: u64, at_peak: bool) -> Figures {
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

    /// Copies all of them.
    pub(super) fn copy_to(&self, to: &FigureCells) {
        let (from, to) = (super::tables::words_of(self), super::tables::words_of(to));
        for (from, to) in from.iter().zip(to) {
            set(to, get(from));
        }
    }
}

#[cfg(not(loom))]
const _: () = assert!(size_of::<FigureCells>() == FIGURE_WORDS * 8, "figures are copied word by word");
