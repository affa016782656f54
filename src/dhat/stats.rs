//! The figures of the profile that runs.
//!
//! Promises: totals and current figures are the exact counters', the maximum is the attribution's after a flush, so all
//! six are exact for what the calling thread did before. A call waits for the drain thread once: tens of microseconds.

use super::{Kind, Phase, phase};
use crate::profiler;

/// Figures of a heap profile.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct HeapStats {
    /// Blocks allocated so far; a reallocation counts as one.
    pub total_blocks: u64,
    /// Bytes allocated so far; a reallocation counts its new size.
    pub total_bytes: u64,
    /// Blocks alive now.
    pub curr_blocks: usize,
    /// Bytes alive now.
    pub curr_bytes: usize,
    /// Blocks that were alive when `curr_bytes` was largest.
    pub max_blocks: usize,
    /// Bytes that were alive when `curr_bytes` was largest.
    pub max_bytes: usize,
}

/// Figures of an ad hoc profile.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AdHocStats {
    /// Events so far.
    pub total_events: u64,
    /// The sum of their weights.
    pub total_units: u64,
}

/// Of what the profiler that runs is a profile.
enum Asked {
    Heap(profiler::Ticket),
    Blind,
    AdHoc(AdHocStats),
}

/// `what` is asked for; panics in the dhat crate's words where nothing runs.
fn running(what: &str) -> Asked {
    let reason = match &*phase() {
        Phase::Running(running) => match &running.kind {
            Kind::Heap(profiler) => return Asked::Heap(profiler.ticket()),
            Kind::Blind(_) => return Asked::Blind,
            Kind::AdHoc(ad_hoc) => {
                let (total_events, total_units) = ad_hoc.totals();
                return Asked::AdHoc(AdHocStats { total_events, total_units });
            }
        },
        Phase::Ready => "when no profiler is running",
        Phase::Asserted => "after the profiler has asserted",
    };
    panic!("dhat: getting {what} stats {reason}");
}

impl HeapStats {
    /// The figures now.
    ///
    /// # Panics
    /// If no profiler runs, or one that is not a heap profiler, or after a failed assertion.
    #[must_use]
    pub fn get() -> HeapStats {
        let totals = match running("heap") {
            Asked::Heap(ticket) => profiler::totals(ticket).unwrap_or_default(),
            Asked::Blind => crate::store::picture::ExactTotals::default(),
            Asked::AdHoc(_) => panic!("dhat: getting heap stats while doing ad hoc profiling"),
        };
        let word = |value: u64| usize::try_from(value).unwrap_or(usize::MAX);
        HeapStats {
            total_blocks: totals.total_blocks,
            total_bytes: totals.total_bytes,
            curr_blocks: word(totals.total_blocks.saturating_sub(totals.freed_blocks)),
            curr_bytes: word(totals.total_bytes.saturating_sub(totals.freed_bytes)),
            max_blocks: word(totals.max_live_blocks),
            max_bytes: word(totals.max_live_bytes),
        }
    }
}

impl AdHocStats {
    /// The figures now.
    ///
    /// # Panics
    /// If no profiler runs, or one that is not an ad hoc profiler, or after a failed assertion.
    #[must_use]
    pub fn get() -> AdHocStats {
        match running("ad hoc") {
            Asked::AdHoc(stats) => stats,
            Asked::Heap(_) | Asked::Blind => panic!("dhat: getting ad hoc stats while doing heap profiling"),
        }
    }
}
