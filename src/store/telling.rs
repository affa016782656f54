//! What the store's header and its small tables are told while the profile runs: interval, clock, totals, history,
//! modules.
//!
//! Promises: each is one word, or lies between marks that let a reader of the live file find it whole. Nothing here
//! allocates; `add_module` alone may make a system call.

use crate::sampler::weight::IntervalCode;
use crate::store::layout::{LossCells, Region};
use crate::store::picture::{ExactTotals, HistoryPoint, ModulePicture};
use crate::store::words::{get, set};
use crate::store::writer::Store;
use crate::store::{text, version};
use crate::sys::sync::{Ordering, fence};
use crate::units::{ModuleId, Ticks};

impl Store {
    /// The counters of loss; any thread may add.
    pub(crate) fn loss(&self) -> &'static LossCells {
        &self.tables.header.loss
    }

    /// The interval in force.
    pub(crate) fn set_interval(&self, interval: IntervalCode) {
        set(&self.tables.header.state.interval, u64::from(interval.0));
    }

    /// A better calibration of the event clock.
    pub(crate) fn set_ns_per_tick(&self, ns_per_tick: f64) {
        set(&self.tables.header.state.ns_per_tick, ns_per_tick.to_bits());
    }

    /// What the unwinder's self-test chose; 64 bytes are kept.
    pub(crate) fn set_unwinder(&self, name: &str) {
        let bytes = text::store(name, &self.tables.header.unwinder);
        set(&self.tables.header.process.unwinder_bytes, bytes);
    }

    /// Copies the exact totals, summed at `at`. The caller holds the aggregator's lock.
    pub(crate) fn set_exact_totals(&self, totals: &ExactTotals, at: Ticks) {
        let words = [
            totals.total_bytes,
            totals.total_blocks,
            totals.freed_bytes,
            totals.freed_blocks,
            totals.max_live_bytes,
            totals.max_live_blocks,
            totals.older_freed_bytes,
            totals.older_freed_blocks,
        ];
        version::write_next(&self.tables.header.exact, |cells| {
            for (cell, word) in cells.totals.iter().zip(words) {
                set(cell, word);
            }
            set(&cells.at, at.0);
        });
    }

    /// Appends a point to the history, over the oldest when it is full. The caller holds the aggregator's lock.
    pub(crate) fn push_history(&self, point: &HistoryPoint) {
        let state = &self.tables.header.state;
        let cells = &self.tables.header.regions[Region::History as usize];
        let number = get(&state.history_points);
        let index = number % self.layout.place(Region::History).capacity;
        #[expect(clippy::cast_possible_truncation, reason = "below the capacity")]
        let row = self.tables.history.get(index as usize);
        let Some(row) = row.filter(|_| index < self.tables.laid_out(Region::History)) else { return };
        let mark = number + 1;
        set(&row.end, 0);
        set(&row.begin, mark);
        // Release: the old point is gone before the new one comes.
        fence(Ordering::Release);
        set(&row.at_ns, point.at_ns);
        set(&row.live_bytes, point.live_bytes);
        set(&row.live_blocks, point.live_blocks);
        set(&row.total_bytes, point.total_bytes);
        set(&row.total_blocks, point.total_blocks);
        set(&row.resident_bytes, point.resident_bytes);
        // Release: the whole point comes before its mark.
        row.end.store((mark << 8) | u64::from(point.interval.0), Ordering::Release);
        set(&state.history_points, number + 1);
        // Release pairs with `Tables::used`.
        cells.used.store(get(&cells.used).max(index + 1), Ordering::Release);
    }

    /// Lists a module; `ModuleId(0)` (and a count) when the table is full. Called by the drain thread.
    pub(crate) fn add_module(&self, module: &ModulePicture) -> ModuleId {
        let _ = self.grow(Region::Modules, self.ahead_bytes);
        let _one = self.growth.lock();
        let cells = &self.tables.header.regions[Region::Modules as usize];
        let index = get(&cells.used);
        #[expect(clippy::cast_possible_truncation, reason = "the table has at most 4096 rows")]
        let (row, id) = (self.tables.modules.get(index as usize), ModuleId(index as u16));
        let Some(row) = row.filter(|_| index < self.tables.laid_out(Region::Modules)) else {
            // Relaxed: a counter.
            self.loss().unlisted_modules.fetch_add(1, Ordering::Relaxed);
            return ModuleId(0);
        };
        set(&row.bias, module.bias);
        set(&row.start, module.start);
        set(&row.end, module.end);
        set(&row.build_id_bytes, text::store_bytes(&module.build_id, &row.build_id));
        // Half a path would name another file.
        let path = if module.path.len() <= size_of_val(&row.path) { module.path.as_str() } else { "" };
        set(&row.path_bytes, text::store(path, &row.path));
        row.state.store(if module.loaded { 1 } else { 2 }, Ordering::Release);
        // Release pairs with `Tables::used`: a row in use is whole.
        cells.used.store(index + 1, Ordering::Release);
        id
    }

    /// The module is no longer mapped.
    pub(crate) fn mark_unloaded(&self, id: ModuleId) {
        if let Some(row) = self.tables.modules.get(usize::from(id.0)).filter(|_| id.0 != 0) {
            set(&row.state, 2);
        }
    }
}
