//! The totals that go with a picture's sites: of the same moment.
//!
//! Threads count by themselves, and nobody can read their counters at one moment, let alone at the one that a drain stops at. So in
//! exact mode, where no record was lost, nothing is counted twice: each event of the profile's blocks, and no other, has a record,
//! so what was attributed up to a moment are the totals of that moment. All sites together are the whole then, however many threads
//! go on meanwhile, and in a dead process's file too. Blocks older than the profile have no records and are in no total of exact
//! mode; their frees alone are as they were counted, at the last tick.
//!
//! Where records were lost, and in a sample, the counters are the better ones, and may be some events apart from the sites.
//!
//! Promises: allocated − freed = live, which is never more than the maximum. 100 loads; nothing waits.

use crate::sampler::weight::{BLOCKS_FRACTION_BITS, BYTES_FRACTION_BITS};
use crate::store::layout::Region;
use crate::store::picture::{ExactTotals, round_fixed};
use crate::store::tables::Tables;
use crate::store::words::{get, not_negative};

/// The totals as attributed so far, where they are to be had; else as `counted`.
pub(crate) fn of_moment(tables: &Tables<'_>, counted: ExactTotals) -> ExactTotals {
    let is_exact = get(&tables.header.format.exact_mode) == 1;
    let mut totals = if are_attributed(tables) { attributed(tables, counted) } else { counted };
    let peak = if is_exact { tables.peak_whole() } else { (0, 0) };
    for (bytes, blocks) in [peak, totals.live()] {
        // Of equal ones the latest counts.
        if bytes >= totals.max_live_bytes {
            (totals.max_live_bytes, totals.max_live_blocks) = (bytes, blocks);
        }
    }
    totals
}

/// Has each event of the profile's blocks a record that reached its site?
pub(super) fn are_attributed(tables: &Tables<'_>) -> bool {
    let loss = &tables.header.loss;
    get(&tables.header.format.exact_mode) == 1 && get(&loss.dropped_records) == 0 && get(&loss.untracked_blocks) == 0
}

fn attributed(tables: &Tables<'_>, counted: ExactTotals) -> ExactTotals {
    let live_bytes = round_fixed(not_negative(get(&tables.header.global.live_bytes)), BYTES_FRACTION_BITS);
    let live_blocks = round_fixed(not_negative(get(&tables.header.global.live_blocks)), BLOCKS_FRACTION_BITS);
    // Each block is of one size class.
    let (mut bytes, mut blocks) = (0_u64, 0_u64);
    let used = usize::try_from(tables.used(Region::SizeClasses)).unwrap_or(usize::MAX);
    for row in tables.size_classes.iter().take(used) {
        bytes = bytes.wrapping_add(get(&row.current.total_bytes));
        blocks = blocks.wrapping_add(get(&row.current.total_blocks));
    }
    let total_bytes = round_fixed(not_negative(bytes), BYTES_FRACTION_BITS).max(live_bytes);
    let total_blocks = round_fixed(not_negative(blocks), BLOCKS_FRACTION_BITS).max(live_blocks);
    ExactTotals {
        total_bytes,
        total_blocks,
        freed_bytes: total_bytes - live_bytes,
        freed_blocks: total_blocks - live_blocks,
        max_live_bytes: 0,
        max_live_blocks: 0,
        ..counted
    }
}
