//! What the drain thread is given of the hot side and of the profiler, so that it knows neither: `drain::worker::Surroundings`, made.
//!
//! Promises: runs on the drain thread, and asks the program's allocator for nothing. The exact totals take the registry's lock of the
//! threads; the rest waits for nobody, but for a signal's end, which writes the results.

use super::news::Desk;
use super::stop;
use crate::config::Config;
use crate::drain::worker::Surroundings;
use crate::hook;
use crate::sampler::governor;
use crate::slots::{Half, RANGE};
use crate::store::Store;
use crate::store::picture::{ExactTotals, ModulePicture};
use crate::units::ModuleId;
use crate::unwind::{self, LoadedModule, ModuleSink};

/// For a profile of this configuration and store, whose changes of verdicts go over this desk.
pub(super) fn of(config: &Config, store: &'static Store, desk: Desk) -> Surroundings {
    let (config, told) = (config.clone(), desk.telling());
    Surroundings {
        totals: exact_totals,
        requested,
        hooks_memory,
        refresh_modules: |store| unwind::refresh(&mut Modules(store)),
        govern: |live, drained_ns| {
            governor::drained(drained_ns);
            governor::tick(live)
        },
        store_is_full: governor::store_is_full,
        end_by_signal: Box::new(move |evidence, signal| stop::end_by_signal(&config, store, evidence, &told, signal)),
        news: Box::new(desk),
    }
}

/// The exact totals in the report's terms.
fn exact_totals(exact_mode: bool) -> Option<ExactTotals> {
    let all = hook::thread::totals()?;
    let c = if exact_mode { all.profile } else { all.process };
    let live = |allocated: u64, freed: u64, older: u64| {
        // A process that frees what was there before its first count (none known) can't be below nothing.
        let live = allocated.wrapping_sub(freed).wrapping_add(older);
        if live.cast_signed() < 0 { 0 } else { live }
    };
    let (older_bytes, older_blocks) = if exact_mode { (c.older_bytes, c.older_blocks) } else { (0, 0) };
    let total_bytes = c.alloc_bytes.wrapping_add(c.kept_bytes);
    let total_blocks = c.alloc_blocks.wrapping_add(c.reallocs);
    Some(ExactTotals {
        total_bytes,
        total_blocks,
        freed_bytes: total_bytes.saturating_sub(live(c.alloc_bytes, c.free_bytes, older_bytes)),
        freed_blocks: total_blocks.saturating_sub(live(c.alloc_blocks, c.free_blocks, older_blocks)),
        max_live_bytes: 0,
        max_live_blocks: 0,
        older_freed_bytes: c.older_bytes,
        older_freed_blocks: c.older_blocks,
    })
}

/// What the process requested and has not freed.
fn requested() -> u64 {
    exact_totals(false).map_or(0, |totals| totals.total_bytes.saturating_sub(totals.freed_bytes))
}

/// The most memory that the program's slots, and our own blocks, take.
fn hooks_memory() -> (u64, u64) {
    (RANGE.memory_bytes(Half::Sampled) as u64, RANGE.memory_bytes(Half::Own) as u64)
}

/// The unwinder's modules, listed in the store.
pub(super) struct Modules(pub(super) &'static Store);

impl ModuleSink for Modules {
    fn add(&mut self, module: &LoadedModule) -> ModuleId {
        self.0.add_module(&ModulePicture {
            path: module.path.clone(),
            build_id: module.build_id.clone(),
            bias: module.bias,
            start: module.text.start,
            end: module.text.end,
            loaded: true,
        })
    }

    fn unload(&mut self, id: ModuleId) {
        self.0.mark_unloaded(id);
    }
}
