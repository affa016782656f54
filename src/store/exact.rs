//! One record of exact mode, straight from its words: what `attribution` does for any record, to the last bit, in a third
//! of the instructions.
//!
//! Why less is enough: weights are the sizes themselves; nothing is estimated, so there are no variances; and a resize
//! changes neither a block's count nor its birth, so that it leaves the sums of those as they are. The order of the
//! stores is that of `attribution`, whose promises hold here. `store::tests` holds the two against the same oracle.

use crate::ring::RingId;
use crate::ring::record::{Kind, RECORD_WORDS, SIZE_MASK, STACK_WORD, age_of};
use crate::sampler::weight::{BLOCKS_FRACTION_BITS, BYTES_FRACTION_BITS};
use crate::store::attribution::{Attribution, mark_record};
use crate::store::attribution::{row_id, site_row, size_class};
use crate::store::layout::Global;
use crate::store::observer::Observer;
use crate::store::row::Row;
use crate::store::tables::Tables;
use crate::store::words::{add, get, plus, set, signed, sub};
use crate::units::{SiteId, StackId, Ticks};

/// The weight of one block.
pub(super) const ONE: u64 = 1 << BLOCKS_FRACTION_BITS;

/// What happened to a block, as the judge needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exactly {
    Born,
    Freed { birth: Ticks },
    Resized { birth: Ticks, from: u64 },
}

/// A record of exact mode that was applied, for whoever watches the sites. Sizes in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AppliedExactly {
    pub(crate) site: SiteId,
    pub(crate) what: Exactly,
    pub(crate) size: u64,
    pub(crate) ring: RingId,
}

/// A change of one row that is under way, and all that it needs.
pub(super) struct Change<'a> {
    pub(super) row: &'a Row,
    pub(super) global: &'a Global,
    pub(super) site: SiteId,
    pub(super) epoch: u64,
}

impl Attribution {
    /// Applies the record of these words, which stands at `source`, in the ring that is marked. False: none of exact mode's
    /// three kinds, and nothing was done. 60 to 90 instructions, and what the observer takes.
    #[inline(always)]
    pub(super) fn apply_exactly(
        &mut self,
        tables: &Tables<'_>,
        words: &[u64; RECORD_WORDS],
        source: (RingId, u64),
        observer: &mut impl Observer,
    ) -> bool {
        // Above the size: the kind, and the codes of two intervals, which are 0.
        let kind = words[1] >> SIZE_MASK.count_ones();
        let size = words[1] & SIZE_MASK;
        let stack = stack_of(words);
        if kind == Kind::Alloc as u64 {
            let Some(change) = begin(tables, stack, source.1) else { return true };
            self.born(tables, &change, words[0], size);
            // Told in each of the three, so that what is told lies in registers.
            change.tell(words, Exactly::Born, size, source.0, observer);
        } else if kind == Kind::Free as u64 {
            let Some(change) = begin(tables, stack, source.1) else { return true };
            self.freed(tables, &change, words[0], words[2], size);
            change.tell(words, Exactly::Freed { birth: Ticks(words[2]) }, size, source.0, observer);
        } else if kind == Kind::Resize as u64 {
            let Some(change) = begin(tables, stack, source.1) else { return true };
            let from = words[2] & SIZE_MASK;
            resized(tables, &change, words[0], from, size);
            let birth = Ticks(words[0].saturating_sub(age_of(words)));
            change.tell(words, Exactly::Resized { birth, from }, size, source.0, observer);
        } else {
            return false;
        }
        true
    }

    #[inline(always)]
    fn born(&self, tables: &Tables<'_>, change: &Change<'_>, at: u64, size: u64) {
        let (bytes, cells) = (size << BYTES_FRACTION_BITS, &change.row.current);
        change.stamp(false);
        cells.live_rises_exactly(bytes, ONE);
        cells.total_add_exactly(bytes, ONE);
        cells.live_births.add(weighted(at.saturating_sub(self.base)));
        if let Some(class) = size_class(tables, size, change.epoch) {
            class.current.live_add_exactly(bytes, ONE);
            class.current.total_add_exactly(bytes, ONE);
        }
        change.rises(bytes, ONE, at);
    }

    #[inline(always)]
    fn freed(&self, tables: &Tables<'_>, change: &Change<'_>, at: u64, birth: u64, size: u64) {
        let (bytes, cells) = (size << BYTES_FRACTION_BITS, &change.row.current);
        change.stamp(true);
        cells.live_add_exactly(bytes.wrapping_neg(), ONE.wrapping_neg());
        cells.live_births.sub(weighted(birth.saturating_sub(self.base)));
        cells.freed(ONE, at.saturating_sub(birth));
        if let Some(class) = size_class(tables, size, change.epoch) {
            class.current.live_add_exactly(bytes.wrapping_neg(), ONE.wrapping_neg());
        }
        sub(&change.global.live_bytes, bytes);
        sub(&change.global.live_blocks, ONE);
    }
}

#[inline(always)]
fn resized(tables: &Tables<'_>, change: &Change<'_>, at: u64, from: u64, to: u64) {
    let (old, new, cells) = (from << BYTES_FRACTION_BITS, to << BYTES_FRACTION_BITS, &change.row.current);
    change.stamp(new < old);
    cells.live_add_exactly(new.wrapping_sub(old), 0);
    cells.total_add_exactly(new, ONE);
    if let Some(class) = size_class(tables, from, change.epoch) {
        class.current.live_add_exactly(old.wrapping_neg(), ONE.wrapping_neg());
    }
    if let Some(class) = size_class(tables, to, change.epoch) {
        class.current.live_add_exactly(new, ONE);
        class.current.total_add_exactly(new, ONE);
    }
    if new >= old {
        cells.raise_max();
        change.rises(new - old, 0, at);
    } else {
        sub(&change.global.live_bytes, old - new);
    }
}

/// The stack that these words name.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "the lower half")]
pub(super) fn stack_of(words: &[u64; RECORD_WORDS]) -> StackId {
    StackId(words[STACK_WORD] as u32)
}

/// `ticks` of one block.
#[inline(always)]
fn weighted(ticks: u64) -> u128 {
    u128::from(ticks) << BLOCKS_FRACTION_BITS
}

/// Begins a change of the row of `stack` by the record (of a streak the last one) of this index in the ring that is marked.
#[inline(always)]
pub(super) fn begin<'a>(tables: &Tables<'a>, stack: StackId, record: u64) -> Option<Change<'a>> {
    let (index, row) = site_row(tables, stack)?;
    let epoch = get(&tables.header.state.epoch);
    row.enter_epoch(epoch);
    mark_record(tables, record, index, row);
    row.begin_change();
    Some(Change { row, global: &tables.header.global, site: row_id(index), epoch })
}

impl Change<'_> {
    /// Keeps what was live at a peak that has ended, or that this change ends.
    #[inline(always)]
    pub(super) fn stamp(&self, lowers: bool) {
        let global = self.global;
        if lowers && get(&global.live_bytes) == get(&global.max_bytes) {
            add(&global.peak_generation, 1);
        }
        self.row.current.stamp_peak(get(&global.peak_generation));
    }

    /// So much more is live in the process, and the peak that it reaches.
    #[inline(always)]
    pub(super) fn rises(&self, bytes: u64, blocks: u64, at: u64) {
        let global = self.global;
        add(&global.live_blocks, blocks);
        let live = plus(&global.live_bytes, bytes);
        if signed(live) >= signed(get(&global.max_bytes)) {
            set(&global.max_bytes, live);
            set(&global.max_blocks, get(&global.live_blocks));
            set(&global.max_at, at);
        }
    }

    /// Ends the change, and shows it to the observer.
    #[inline(always)]
    fn tell(&self, words: &[u64; RECORD_WORDS], what: Exactly, size: u64, ring: RingId, observer: &mut impl Observer) {
        self.end(words[0]);
        observer.applied_exactly(&AppliedExactly { site: self.site, what, size, ring });
    }

    #[inline(always)]
    pub(super) fn end(&self, at: u64) {
        set(&self.global.last_at, at.max(get(&self.global.last_at)));
        self.row.end_change();
    }
}
