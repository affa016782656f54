//! The end of an epoch, for readers of the live file.
//!
//! Promises: O(1). The process's figures are closed here, where they lie twice (`version`); each row closes its own at its first
//! change in the next epoch (`row`). One writer, who holds the aggregator's lock.

use crate::store::layout::Global;
use crate::store::tables::Tables;
use crate::store::version;
use crate::store::words::{get, set};
use crate::sys::sync::Ordering;
use crate::units::Ticks;

/// Ends the open epoch at `at`: from here on its figures stay as they are for readers of the live file. The caller
/// holds the aggregator's lock.
pub(crate) fn end_epoch(tables: &Tables<'_>, at: Ticks) {
    let header = tables.header;
    let epoch = get(&header.state.epoch);
    version::write_next(&header.closed, |closed| {
        set(&closed.epoch, epoch);
        set(&closed.at, at.0);
        copy_global(&header.global, &closed.global);
    });
    // Release: every row as it was in the epoch that ends comes before the epoch that begins.
    header.state.epoch.store(epoch.wrapping_add(1), Ordering::Release);
}

/// Copies the process's figures.
pub(crate) fn copy_global(from: &Global, to: &Global) {
    let words = [
        (&from.live_bytes, &to.live_bytes),
        (&from.live_blocks, &to.live_blocks),
        (&from.max_bytes, &to.max_bytes),
        (&from.max_blocks, &to.max_blocks),
        (&from.max_at, &to.max_at),
        (&from.peak_generation, &to.peak_generation),
        (&from.last_at, &to.last_at),
    ];
    for (from, to) in words {
        set(to, get(from));
    }
}
