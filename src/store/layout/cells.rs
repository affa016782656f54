//! The header and the rows of fixed tables as they lie in the file: plain words, valid when zeroed.
//!
//! Who writes what, and in which order, is in `docs/store-format.md`; sizes and places are checked at compile time.

use super::{BUILD_ID_BYTES, PATH_BYTES, REGION_COUNT, SCOPE_NAME_BYTES, TEXT_BYTES};
#[cfg(not(loom))]
use super::{HEADER_BYTES, PAGE_BYTES};
#[cfg(not(loom))]
use crate::store::words::Wide;
use crate::sys::sync::AtomicU64;
#[cfg(not(loom))]
use crate::tree::TreeState;
#[cfg(not(loom))]
use std::mem::offset_of;

/// Where the format begins: never changed after creation.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct Format {
    /// Stored last, so that a file without it is not yet one.
    pub(crate) magic: AtomicU64,
    pub(crate) version: AtomicU64,
    pub(crate) byte_order: AtomicU64,
    pub(crate) file_bytes: AtomicU64,
    /// Records a ring; a power of two.
    pub(crate) ring_records: AtomicU64,
    /// 1: every block is recorded; 0: a sample.
    pub(crate) exact_mode: AtomicU64,
    /// What interval code 1 means, in bytes.
    pub(crate) fixed_interval_bytes: AtomicU64,
    spare: AtomicU64,
}

/// Whose file it is: never changed after creation, but for the unwinder's name.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) pid: AtomicU64,
    /// Field 22 of `/proc/PID/stat`: ticks since boot.
    pub(crate) start_time: AtomicU64,
    /// The inode of `/proc/self/ns/pid`.
    pub(crate) pid_namespace: AtomicU64,
    pub(crate) uid: AtomicU64,
    /// `/proc/sys/kernel/random/boot_id`, 36 characters.
    pub(crate) boot_id: [AtomicU64; 5],
    pub(crate) started_unix_ns: AtomicU64,
    /// The event clock when the profile began.
    pub(crate) base_ticks: AtomicU64,
    pub(crate) command_bytes: AtomicU64,
    pub(crate) executable_bytes: AtomicU64,
    pub(crate) unwinder_bytes: AtomicU64,
    /// Field 28 of `/proc/PID/stat`: the address of its first stack's begin; 0: not known.
    pub(crate) stack_start: AtomicU64,
    spare: AtomicU64,
}

/// What changes seldom.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct State {
    /// 1 running, 2 finished.
    pub(crate) life: AtomicU64,
    /// The interval code in force.
    pub(crate) interval: AtomicU64,
    /// The open epoch, from 1.
    pub(crate) epoch: AtomicU64,
    /// Nanoseconds a tick, `f64` bits.
    pub(crate) ns_per_tick: AtomicU64,
    /// How often space could not be had: the bound, or a full file system.
    pub(crate) refused_growth: AtomicU64,
    /// Points ever pushed into the history ring.
    pub(crate) history_points: AtomicU64,
    spare: [AtomicU64; 2],
}

/// Which change is under way: the writer's mark for those who read its file after its death.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct Pending {
    /// The ring + 1 whose record is being applied; 0: none, or no ring's.
    pub(crate) ring: AtomicU64,
    /// That record's index in its ring.
    pub(crate) index: AtomicU64,
    /// The site's row.
    pub(crate) row: AtomicU64,
    /// The row's `begin` before the change.
    pub(crate) version: AtomicU64,
    spare: [AtomicU64; 4],
}

/// The figures of the whole process, attributed (fixed point as in `Amount`).
#[repr(C)]
#[derive(Debug)]
pub(crate) struct Global {
    pub(crate) live_bytes: AtomicU64,
    pub(crate) live_blocks: AtomicU64,
    pub(crate) max_bytes: AtomicU64,
    pub(crate) max_blocks: AtomicU64,
    /// Ticks of the latest event that reached the peak.
    pub(crate) max_at: AtomicU64,
    /// How often a peak was left.
    pub(crate) peak_generation: AtomicU64,
    /// Ticks of the latest record applied.
    pub(crate) last_at: AtomicU64,
    spare: AtomicU64,
}

/// Words of a `Global`.
pub(crate) const GLOBAL_WORDS: usize = 8;

/// The process's figures at the end of an epoch, between marks as in a `Row`. There are two, written in turns, so that
/// one is whole at every moment, even where the writer was interrupted within the other.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct ClosedEpoch {
    /// The number of the version that is here, or is being written.
    pub(crate) begin: AtomicU64,
    /// The number of the version that is here.
    pub(crate) end: AtomicU64,
    /// The epoch that ended; 0: none yet.
    pub(crate) epoch: AtomicU64,
    /// When.
    pub(crate) at: AtomicU64,
    spare: [AtomicU64; 4],
    pub(crate) global: Global,
}

/// The exact totals as last copied; two, as with `ClosedEpoch`.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct ExactCells {
    pub(crate) begin: AtomicU64,
    pub(crate) end: AtomicU64,
    /// When.
    pub(crate) at: AtomicU64,
    /// `ExactTotals` in its order.
    pub(crate) totals: [AtomicU64; 8],
    spare: [AtomicU64; 5],
}

/// The counters of loss, `picture::Loss` as words; any thread adds to them.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct LossCells {
    pub(crate) dropped_records: AtomicU64,
    pub(crate) truncated_stacks: AtomicU64,
    pub(crate) folded_stacks: AtomicU64,
    pub(crate) folded_sites: AtomicU64,
    pub(crate) unlisted_modules: AtomicU64,
    pub(crate) untracked_blocks: AtomicU64,
    pub(crate) rows_in_doubt: AtomicU64,
    pub(crate) ringless_threads: AtomicU64,
    pub(crate) replay_disagreements: AtomicU64,
    pub(crate) unlisted_scopes: AtomicU64,
    spare: [AtomicU64; 6],
}

/// One line of the region table.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct RegionCells {
    /// From the start of the file, in bytes.
    pub(crate) offset: AtomicU64,
    pub(crate) row_bytes: AtomicU64,
    /// Rows that would fit.
    pub(crate) capacity: AtomicU64,
    /// Rows whose space exists; grows only.
    pub(crate) laid_out: AtomicU64,
    /// Rows in use (for nodes, the tree's own words say).
    pub(crate) used: AtomicU64,
    spare: [AtomicU64; 3],
}

/// The first page of the file.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct Header {
    pub(crate) format: Format,
    pub(crate) process: Process,
    pub(crate) state: State,
    pub(crate) pending: Pending,
    pub(crate) global: Global,
    pub(crate) closed: [ClosedEpoch; 2],
    pub(crate) exact: [ExactCells; 2],
    pub(crate) loss: LossCells,
    pub(crate) regions: [RegionCells; REGION_COUNT],
    pub(crate) unwinder: [AtomicU64; 8],
    pub(crate) command: [AtomicU64; TEXT_BYTES / 8],
    pub(crate) executable: [AtomicU64; TEXT_BYTES / 8],
    spare: [AtomicU64; 48],
}

/// One loaded object.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct ModuleRow {
    /// 0 empty, 1 loaded, 2 unloaded; stored last.
    pub(crate) state: AtomicU64,
    pub(crate) bias: AtomicU64,
    pub(crate) start: AtomicU64,
    pub(crate) end: AtomicU64,
    pub(crate) path_bytes: AtomicU64,
    pub(crate) build_id_bytes: AtomicU64,
    spare: [AtomicU64; 2],
    pub(crate) build_id: [AtomicU64; BUILD_ID_BYTES / 8],
    pub(crate) path: [AtomicU64; PATH_BYTES / 8],
}

/// A scope that says how much it may hold; all zero where there is none of this number.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct ScopeRow {
    /// The most bytes that may be live in it.
    pub(crate) bound_bytes: AtomicU64,
    /// Stored last.
    pub(crate) name_bytes: AtomicU64,
    pub(crate) name: [AtomicU64; SCOPE_NAME_BYTES / 8],
}

/// One point of the history ring, whole when both numbers agree.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct HistoryRow {
    /// The point's number + 1, stored first.
    pub(crate) begin: AtomicU64,
    pub(crate) at_ns: AtomicU64,
    pub(crate) live_bytes: AtomicU64,
    pub(crate) live_blocks: AtomicU64,
    pub(crate) total_bytes: AtomicU64,
    pub(crate) total_blocks: AtomicU64,
    pub(crate) resident_bytes: AtomicU64,
    /// (The point's number + 1) << 8 | interval code, stored last.
    pub(crate) end: AtomicU64,
}

#[cfg(not(loom))]
const _: () = {
    assert!(size_of::<Header>() as u64 == HEADER_BYTES, "the header is one page");
    assert!(size_of::<Format>() == 64 && size_of::<Process>() == 128 && size_of::<State>() == 64, "whole lines");
    assert!(size_of::<Pending>() == 64 && size_of::<Global>() == GLOBAL_WORDS * 8, "whole lines");
    assert!(size_of::<ClosedEpoch>() == 128 && size_of::<ExactCells>() == 128, "whole lines");
    assert!(size_of::<LossCells>() == 128 && size_of::<RegionCells>() == 64, "whole lines");
    assert!(
        size_of::<ModuleRow>() == 1024 && size_of::<HistoryRow>() == 64 && size_of::<ScopeRow>() == 128,
        "the file format says so"
    );
    assert!(size_of::<TreeState>() as u64 <= PAGE_BYTES, "the tree's own words have one page");
    assert!(size_of::<Wide>() == 16, "two words");
    // The words that docs/store-format.md names.
    assert!(offset_of!(Header, process) == 8 * 8 && offset_of!(Header, state) == 24 * 8, "documented");
    assert!(offset_of!(Header, pending) == 32 * 8 && offset_of!(Header, global) == 40 * 8, "documented");
    assert!(offset_of!(Header, closed) == 48 * 8 && offset_of!(Header, exact) == 80 * 8, "documented");
    assert!(offset_of!(Header, loss) == 112 * 8 && offset_of!(Header, regions) == 128 * 8, "documented");
    assert!(offset_of!(Header, unwinder) == 200 * 8 && offset_of!(Header, command) == 208 * 8, "documented");
    assert!(offset_of!(Header, executable) == 336 * 8, "documented");
};
