//! The exact facts of a profile as plain data: totals, losses, modules, history.
//!
//! All fields are public and serializable; structs are non-exhaustive, so that later versions can add to them.

use serde::Serialize;

use super::estimate::Estimate;
use crate::store::picture::{ExactTotals, Life, Loss, ModulePicture};

/// Exact counts of all allocations, in every mode. In sampled mode since the process started; in exact mode of
/// blocks born after the profiler's start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Totals {
    /// Bytes allocated and not freed.
    pub live_bytes: u64,
    /// Blocks allocated and not freed.
    pub live_blocks: u64,
    /// Bytes ever allocated.
    pub total_bytes: u64,
    /// Blocks ever allocated; a reallocation counts as a block of the new size.
    pub total_blocks: u64,
    /// The largest `live_bytes`; never less than `live_bytes`. Sampled mode: the largest seen at a tick, every 100 ms, so a
    /// peak between two ticks is not in it; sites' figures at the peak are estimates of the whole one.
    pub max_live_bytes: u64,
    /// `live_blocks` at that moment.
    pub max_live_blocks: u64,
    /// Bytes freed.
    pub freed_bytes: u64,
    /// Blocks freed.
    pub freed_blocks: u64,
    /// Exact mode: bytes of frees of blocks older than the profiler, which are in no other figure.
    pub older_freed_bytes: u64,
    /// Exact mode: how many such frees.
    pub older_freed_blocks: u64,
}

impl Totals {
    pub(crate) fn of(exact: &ExactTotals) -> Totals {
        Totals {
            live_bytes: exact.total_bytes.saturating_sub(exact.freed_bytes),
            live_blocks: exact.total_blocks.saturating_sub(exact.freed_blocks),
            total_bytes: exact.total_bytes,
            total_blocks: exact.total_blocks,
            max_live_bytes: exact.max_live_bytes,
            max_live_blocks: exact.max_live_blocks,
            freed_bytes: exact.freed_bytes,
            freed_blocks: exact.freed_blocks,
            older_freed_bytes: exact.older_freed_bytes,
            older_freed_blocks: exact.older_freed_blocks,
        }
    }
}

/// How blocks were recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Mode {
    /// A sample; figures of sites are estimates.
    Sampled,
    /// Every block.
    Exact,
}

/// What became of the profiled process: a profile's last snapshot, and the file that is written at its end, are of a finished one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum ProcessState {
    /// The profiler was running.
    Running,
    /// The profiler was stopped in order.
    Finished,
    /// The process ended without stopping it.
    Killed,
}

impl ProcessState {
    pub(crate) fn of(life: Life) -> ProcessState {
        match life {
            Life::Running => ProcessState::Running,
            Life::Finished => ProcessState::Finished,
            Life::Killed => ProcessState::Killed,
        }
    }
}

/// What is missing from a profile, and why. All zero: nothing is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Losses {
    /// Records dropped because a thread's ring stayed full for 100 ms; their sites are 'unknown'.
    pub dropped_records: u64,
    /// Stacks cut at `max_frames`, or that could not be unwound to their end.
    pub truncated_stacks: u64,
    /// Stacks cut to a part, since the table of stacks was full; their sites are 'unknown'.
    pub folded_stacks: u64,
    /// Records that went to the root's site, since the table of sites was full.
    pub folded_sites: u64,
    /// Libraries beyond the table of modules; their frames have no names.
    pub unlisted_modules: u64,
    /// Sampled blocks that could not be followed to their end.
    pub untracked_blocks: u64,
    /// Sites that were being written when the process died.
    pub rows_in_doubt: u64,
    /// Threads that had no ring for a while, or for good: they attributed their records themselves.
    pub ringless_threads: u64,
    /// Debug mode: times that a replayed stack was not the unwound one.
    pub replay_disagreements: u64,
    /// Guards of [`bounded`](crate::bounded) that tagged nothing: too many names, or too many within each other.
    pub unlisted_scopes: u64,
}

impl Losses {
    pub(crate) fn of(loss: &Loss) -> Losses {
        Losses {
            dropped_records: loss.dropped_records,
            truncated_stacks: loss.truncated_stacks,
            folded_stacks: loss.folded_stacks,
            folded_sites: loss.folded_sites,
            unlisted_modules: loss.unlisted_modules,
            untracked_blocks: loss.untracked_blocks,
            rows_in_doubt: loss.rows_in_doubt,
            ringless_threads: loss.ringless_threads,
            replay_disagreements: loss.replay_disagreements,
            unlisted_scopes: loss.unlisted_scopes,
        }
    }

    /// Whether nothing at all was lost.
    pub fn is_none(&self) -> bool {
        *self == Losses::default()
    }
}

/// A program or library that was loaded while the profiler ran.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Module {
    /// The path it was loaded from.
    pub path: String,
    /// The GNU build id in hexadecimal, or empty.
    pub build_id: String,
    /// What is added to an address of its file to get one in the process.
    pub bias: u64,
    /// The first address of its code in the process.
    pub start: u64,
    /// One past the last.
    pub end: u64,
    /// Whether it was still loaded.
    pub loaded: bool,
}

impl Module {
    pub(crate) fn of(module: &ModulePicture) -> Module {
        Module {
            path: module.path.clone(),
            build_id: module.build_id.iter().map(|byte| format!("{byte:02x}")).collect(),
            bias: module.bias,
            start: module.start,
            end: module.end,
            loaded: module.loaded,
        }
    }
}

/// Exact counts at the end of one epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct HistoryPoint {
    /// Nanoseconds since the profiler's start.
    pub at_ns: u64,
    /// Bytes allocated and not freed.
    pub live_bytes: u64,
    /// Blocks allocated and not freed.
    pub live_blocks: u64,
    /// Bytes ever allocated.
    pub total_bytes: u64,
    /// Blocks ever allocated.
    pub total_blocks: u64,
    /// The process's resident memory.
    pub resident_bytes: u64,
    /// The mean sample interval in force; 0 in exact mode.
    pub sample_interval_bytes: u64,
}

/// What blocks of one range of sizes amount to.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct SizeClass {
    /// The smallest size in it, in bytes: a power of two.
    pub min_bytes: u64,
    /// The largest size in it, in bytes.
    pub max_bytes: u64,
    /// Bytes of these blocks allocated and not freed.
    pub live_bytes: Estimate,
    /// These blocks allocated and not freed.
    pub live_blocks: Estimate,
    /// Bytes of these blocks ever allocated.
    pub total_bytes: Estimate,
    /// These blocks ever allocated.
    pub total_blocks: Estimate,
}
