//! Attribution: one record changes its site's row, found or made by its stack, its size class's and the process's figures.
//!
//! Promises: a record is applied in whole or, in a file whose writer was killed, recognisably not: all its changes lie
//! between the two marks of its site's row, and the header names that row and the record before. No allocation, no
//! lock, no system call, no panic, no wait: it runs under the aggregator's lock, whose holder is the single writer. The
//! same code applies a dead process's unread records to a private copy of its file.
//!
//! **Peaks in O(1).** `t-gmax` wants every row's figures at the latest moment of highest live bytes. A peak ends with
//! the first event that lowers them; that counts a *generation*. A row whose generation is old has not changed since
//! that moment, so its live figures are those of the peak: they are kept when it is next changed, or shown as they are.
//!
//! **Rows.** A stack's row is its own for good, so that a free finds the row that its birth found. A stack for which no row is left
//! folds into the root's, which is counted, and both say so. Finding it stays beside `apply`: from a file of its own, and so a codegen
//! unit of its own, it makes each record 2 instructions dearer (measured).

use crate::ring::RingId;
use crate::ring::record::{Kind, Record};
use crate::sampler::weight::{BLOCKS_FRACTION_BITS, BYTES_FRACTION_BITS, IntervalCode, Weight};
use crate::store::fill::Fill;
use crate::store::layout::Region;
use crate::store::merge::Scratch;
use crate::store::observer::{Applied, Observer};
use crate::store::row::Row;
use crate::store::tables::Tables;
use crate::store::weights::{WeightCache, exactly};
use crate::store::words::{add, get, set, signed, sub};
use crate::sys::sync::{Ordering, fence};
use crate::tree::{FOLDED, SITE_MASK, TAINTED};
use crate::units::{SiteId, StackId, Ticks};

/// What attribution needs beside the tables; allocated once, before the lock.
#[derive(Debug)]
pub(crate) struct Attribution {
    weights: WeightCache,
    pub(super) base: u64,
    /// How the last drain found the rings.
    pub(crate) fill: Fill,
    pub(super) scratch: Scratch,
    /// The ring of the thread that drains, if it has one.
    pub(crate) near: Option<RingId>,
}

impl Attribution {
    /// For a profile that began at `base`, and whose `IntervalCode::FIXED` means `fixed_interval_bytes`.
    pub(crate) fn new(base: Ticks, fixed_interval_bytes: u64) -> Attribution {
        Attribution {
            weights: WeightCache::new(fixed_interval_bytes),
            base: base.0,
            fill: Fill::default(),
            scratch: Scratch::new(),
            near: None,
        }
    }

    /// Applies `record`, which stands at `source` (ring and index) or came by another way, and shows it to `observer`.
    /// The caller holds the aggregator's lock; after this it advances the ring.
    #[inline]
    pub(crate) fn apply(
        &mut self,
        tables: &Tables<'_>,
        record: &Record,
        source: Option<(RingId, u64)>,
        observer: &mut impl Observer,
    ) {
        // Twice the same code: with the weights of exact mode, which are constants but for the size, it is half as long.
        if record.interval == IntervalCode::EXACT && record.old_interval == IntervalCode::EXACT {
            let old = if record.kind == Kind::Resize { exactly(record.old_size) } else { Weight::default() };
            self.apply_weighted(tables, record, source, observer, &exactly(record.size), &old);
        } else {
            self.apply_sampled(tables, record, source, observer);
        }
    }

    #[inline(never)]
    fn apply_sampled(
        &mut self,
        tables: &Tables<'_>,
        record: &Record,
        source: Option<(RingId, u64)>,
        observer: &mut impl Observer,
    ) {
        let weight = self.weights.of(record.size, record.interval);
        let old = match record.kind {
            Kind::Resize => self.weights.of(record.old_size, record.old_interval),
            _ => Weight::default(),
        };
        self.apply_weighted(tables, record, source, observer, &weight, &old);
    }

    #[inline(always)]
    fn apply_weighted(
        &mut self,
        tables: &Tables<'_>,
        record: &Record,
        source: Option<(RingId, u64)>,
        observer: &mut impl Observer,
        weight: &Weight,
        old: &Weight,
    ) {
        let Some((index, row)) = site_row(&tables.ready(), record.stack) else { return };
        let epoch = get(&tables.header.state.epoch);
        let global = &tables.header.global;
        row.enter_epoch(epoch);
        mark_pending(tables, source, index, row);
        row.begin_change();

        let lowers = match record.kind {
            Kind::Alloc => false,
            Kind::Free | Kind::Forget => true,
            Kind::Resize => weight.bytes < old.bytes,
        };
        if lowers && get(&global.live_bytes) == get(&global.max_bytes) {
            add(&global.peak_generation, 1);
        }
        row.current.stamp_peak(get(&global.peak_generation));
        let class = size_class(tables, record.size, epoch);
        if record.interval != IntervalCode::EXACT {
            if matches!(record.kind, Kind::Alloc | Kind::Resize) {
                row.note_size(record.size);
            }
            // A block that is forgotten shrank: to what, nobody says.
            if matches!(record.kind, Kind::Resize | Kind::Forget) || record.old_size != 0 {
                row.note_resize();
            }
        }
        let cells = &row.current;
        let births =
            |weight: &Weight, birth: u64| u128::from(weight.blocks) * u128::from(birth.saturating_sub(self.base));
        match record.kind {
            Kind::Alloc => {
                cells.live_add(weight);
                cells.total_add(weight);
                cells.live_births.add(births(weight, record.at.0));
                if let Some(class) = class {
                    class.current.live_add(weight);
                    class.current.total_add(weight);
                }
                add(&global.live_bytes, weight.bytes);
                add(&global.live_blocks, weight.blocks);
            }
            Kind::Free | Kind::Forget => {
                cells.live_sub(weight);
                cells.live_births.sub(births(weight, record.birth.0));
                if record.kind == Kind::Free {
                    cells.freed(weight.blocks, record.at.0.saturating_sub(record.birth.0));
                }
                if let Some(class) = class {
                    class.current.live_sub(weight);
                }
                sub(&global.live_bytes, weight.bytes);
                sub(&global.live_blocks, weight.blocks);
            }
            Kind::Resize => {
                cells.live_sub(old);
                cells.live_add(weight);
                cells.total_add(weight);
                if weight.samples != 0 {
                    let (bytes, blocks) = covariance(record, old, weight);
                    cells.total_add_variance(bytes, blocks);
                }
                cells.live_births.sub(births(old, record.birth.0));
                cells.live_births.add(births(weight, record.birth.0));
                if let Some(class) = size_class(tables, record.old_size, epoch) {
                    class.current.live_sub(old);
                }
                if let Some(class) = class {
                    class.current.live_add(weight);
                    class.current.total_add(weight);
                }
                add(&global.live_bytes, weight.bytes.wrapping_sub(old.bytes));
                add(&global.live_blocks, weight.blocks.wrapping_sub(old.blocks));
            }
        }
        if !lowers {
            cells.raise_max();
            let live = get(&global.live_bytes);
            if signed(live) >= signed(get(&global.max_bytes)) {
                set(&global.max_bytes, live);
                set(&global.max_blocks, get(&global.live_blocks));
                set(&global.max_at, record.at.0);
            }
        }
        set(&global.last_at, record.at.0.max(get(&global.last_at)));
        row.end_change();
        observer.applied(&Applied { site: row_id(index), record, weight, old, ring: source.map(|(ring, _)| ring) });
    }
}

/// Says in the header whose records come next, for the readers of a dead writer's file, and that none is under way: `read` of
/// the ring's are.
#[inline]
pub(super) fn mark_ring(tables: &Tables<'_>, ring: RingId, read: u64) {
    let pending = &tables.header.pending;
    set(&pending.ring, 0);
    // Release: another ring's index never stands beside this one's number.
    fence(Ordering::Release);
    set(&pending.index, read.wrapping_sub(1));
    // Release: as above.
    pending.ring.store(u64::from(ring.0) + 1, Ordering::Release);
}

/// Says, once the ring is marked, which row and which of its records (of a streak the last one) are about to change. Until the
/// index is there, it is that of a record that was read.
#[inline(always)]
pub(super) fn mark_record(tables: &Tables<'_>, index: u64, row_index: u64, row: &Row) {
    let pending = &tables.header.pending;
    set(&pending.row, row_index);
    set(&pending.version, get(&row.begin));
    // Release: a mark that is half written names a record that was read.
    pending.index.store(index, Ordering::Release);
}

/// The same of a record by itself, of a ring or none.
#[inline]
pub(super) fn mark_pending(tables: &Tables<'_>, source: Option<(RingId, u64)>, row_index: u64, row: &Row) {
    let pending = &tables.header.pending;
    set(&pending.ring, 0);
    // Release: a mark that is half written names no ring.
    fence(Ordering::Release);
    set(&pending.row, row_index);
    set(&pending.version, get(&row.begin));
    if let Some((ring, index)) = source {
        set(&pending.index, index);
        // Release: as above.
        pending.ring.store(u64::from(ring.0) + 1, Ordering::Release);
    }
}

#[expect(clippy::cast_possible_truncation, reason = "rows have 30 bits")]
pub(super) fn row_id(index: u64) -> SiteId {
    SiteId(index as u32)
}

/// The row of `stack`, made if it has none; the root's where no row is left, or no such node. `tables.nodes` are laid out.
#[inline(always)]
pub(super) fn site_row<'a>(tables: &Tables<'a>, stack: StackId) -> Option<(u64, &'a Row)> {
    let index = match tables.nodes.get(stack.0 as usize) {
        Some(node) => {
            // Relaxed: this side alone writes the row's number.
            let number = node.site.load(Ordering::Relaxed) & SITE_MASK;
            match u64::from(number) {
                number if number > 1 && number <= get(&tables.header.regions[Region::Sites as usize].used) => {
                    number - 1
                }
                0 => new_site(tables, stack),
                _ if stack == StackId::ROOT => 0,
                _ => fold(tables, stack),
            }
        }
        None => count_folded(tables),
    };
    #[expect(clippy::cast_possible_truncation, reason = "below 2^30")]
    tables.sites.get(index as usize).map(|row| (index, row))
}

/// The row of `stack`, if it has one of its own.
pub(super) fn known_site_row<'a>(tables: &Tables<'a>, stack: StackId) -> Option<(SiteId, &'a Row)> {
    let node = tables.nodes.get(stack.0 as usize)?;
    // Relaxed: as in `site_row`.
    let number = node.site.load(Ordering::Relaxed) & SITE_MASK;
    let is_own = number > 1 && u64::from(stack.0) < tables.laid_out(Region::Nodes);
    let row = tables.sites.get(number.wrapping_sub(1) as usize)?;
    (is_own && u64::from(number) <= tables.used(Region::Sites)).then_some((SiteId(number - 1), row))
}

#[cold]
#[inline(never)]
fn new_site(tables: &Tables<'_>, stack: StackId) -> u64 {
    let used = &tables.header.regions[Region::Sites as usize].used;
    let index = get(used);
    let limit = tables.laid_out(Region::Sites).min(tables.sites.len() as u64).min(u64::from(SITE_MASK) - 1);
    #[expect(clippy::cast_possible_truncation, reason = "below `SITE_MASK`")]
    let row = tables.sites.get(index as usize).filter(|_| index < limit);
    let (Some(row), Some(node)) = (row, tables.nodes.get(stack.0 as usize)) else {
        return fold(tables, stack);
    };
    set(&row.key, u64::from(stack.0));
    // Release pairs with `Tables::used`: a row that is in use names its stack.
    used.store(index + 1, Ordering::Release);
    #[expect(clippy::cast_possible_truncation, reason = "below `SITE_MASK`")]
    // Relaxed, and no store: others set the taint at the same time, and order nothing by it.
    node.site.fetch_or(index as u32 + 1, Ordering::Relaxed);
    index
}

/// The root's row stands in for `stack`'s, now and for good: a free must find the row that its birth found.
#[cold]
#[inline(never)]
fn fold(tables: &Tables<'_>, stack: StackId) -> u64 {
    if let Some(node) = tables.nodes.get(stack.0 as usize)
        && stack != StackId::ROOT
    {
        // Relaxed: as in `new_site`; the row's number was 0 or already this.
        node.site.fetch_or(1 | TAINTED, Ordering::Relaxed);
    }
    if let Some(root) = tables.nodes.first() {
        // Relaxed: a flag for readers.
        root.site.fetch_or(FOLDED, Ordering::Relaxed);
    }
    count_folded(tables)
}

#[cold]
fn count_folded(tables: &Tables<'_>) -> u64 {
    add(&tables.header.loss.folded_sites, 1);
    0
}

/// The row of the size class of blocks of `size` bytes, ready for a change.
#[inline]
pub(super) fn size_class<'a>(tables: &Tables<'a>, size: u64, epoch: u64) -> Option<&'a Row> {
    // Of 0 bytes: the lowest, too.
    let class = (size | 1).ilog2();
    let row = tables.size_classes.get(class as usize)?;
    row.enter_epoch(epoch);
    Some(row)
}

/// What a resize adds to the variance of totals beyond its own block's: twice the covariance with the block's earlier
/// sizes, `2·W·s·(1-p)/p` for bytes with W = Σ s/p, `2·Σ(1/p)·(1-p)/p` for blocks. The record carries W; Σ 1/p is taken
/// to be W over the old size, which is exact for one earlier size and a little low for more.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "an estimate of a variance; float-to-int casts saturate, and NaN gives 0"
)]
fn covariance(record: &Record, old: &Weight, new: &Weight) -> (u128, u128) {
    let blocks_scale = f64::from(1u32 << BLOCKS_FRACTION_BITS);
    let missing_bytes = new.bytes as f64 / f64::from(1u32 << BYTES_FRACTION_BITS) - record.size as f64;
    let missing_blocks = new.blocks as f64 / blocks_scale - 1.0;
    let carried_bytes = f64::from(record.carried);
    let carried_blocks = (carried_bytes / record.old_size.max(1) as f64).max(old.blocks as f64 / blocks_scale);
    (
        (2.0 * carried_bytes * missing_bytes).max(0.0).round() as u128,
        (2.0 * carried_blocks * missing_blocks * blocks_scale).max(0.0).round() as u128,
    )
}
