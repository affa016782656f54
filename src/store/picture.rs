//! A decoded picture of a store at one moment: plain owned data, no atomics, no mapping, no raw offsets.
//!
//! The reader makes one (from a dead file, from another process's live file, or from our own mapping); `report`
//! asks it questions. Everything that was wrong with the source has been found, or refused, before it gets here.

use crate::sampler::weight::{BLOCKS_FRACTION_BITS, BYTES_FRACTION_BITS, IntervalCode};
use crate::units::{FrameKey, StackId};

/// A sum of weights over blocks: the Horvitz-Thompson estimate and what its interval needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Amount {
    /// Σ s/p over all recorded blocks, in 1/2^8 bytes.
    pub(crate) bytes: u64,
    /// Σ 1/p over all recorded blocks, in 1/2^12 blocks.
    pub(crate) blocks: u64,
    /// The part of `bytes` that blocks with p ≤ 0.99 contributed.
    pub(crate) sampled_bytes: u64,
    /// The part of `blocks` that blocks with p ≤ 0.99 contributed.
    pub(crate) sampled_blocks: u64,
    /// How many recorded blocks had p ≤ 0.99.
    pub(crate) samples: u64,
    /// Σ of estimated variance, bytes².
    pub(crate) bytes_variance: u128,
    /// Σ of estimated variance, in 1/2^12 blocks².
    pub(crate) blocks_variance: u128,
    /// The smallest block that was ever recorded where these were; 0: not known.
    pub(crate) smallest_bytes: u64,
    /// Of totals: a block may be in them several times, with several sizes.
    pub(crate) resized: bool,
}

impl Amount {
    /// The smallest block known of two amounts together.
    pub(crate) fn smaller(a: u64, b: u64) -> u64 {
        if a == 0 || b == 0 { a.max(b) } else { a.min(b) }
    }

    /// The estimate in whole bytes, rounded.
    pub(crate) fn whole_bytes(&self) -> u64 {
        round_fixed(self.bytes, BYTES_FRACTION_BITS)
    }

    /// The estimate in whole blocks, rounded.
    pub(crate) fn whole_blocks(&self) -> u64 {
        round_fixed(self.blocks, BLOCKS_FRACTION_BITS)
    }
}

/// A fixed-point number, rounded to the nearest whole.
pub(crate) fn round_fixed(value: u64, fraction_bits: u32) -> u64 {
    (value >> fraction_bits) + ((value >> (fraction_bits - 1)) & 1)
}

/// The figures of one site.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Figures {
    /// Blocks alive now.
    pub(crate) live: Amount,
    /// All blocks ever; a realloc adds a block of the new size.
    pub(crate) total: Amount,
    /// The site's own peak of live bytes (fixed point as in `Amount`), the latest of equal peaks.
    pub(crate) max_bytes: u64,
    /// Live blocks (fixed point) at that moment.
    pub(crate) max_blocks: u64,
    /// Live bytes (fixed point) when the whole process was at its peak.
    pub(crate) gmax_bytes: u64,
    /// Live blocks (fixed point) when the whole process was at its peak.
    pub(crate) gmax_blocks: u64,
    /// Σ over freed blocks of weight (1/2^12 blocks) × lifetime in ticks.
    pub(crate) ended_lifetimes: u128,
    /// Σ over live blocks of weight (1/2^12 blocks) × birth in ticks since the profile's start.
    pub(crate) live_births: u128,
    /// Σ of weights (1/2^12 blocks) of blocks freed (not those thinned out by a shrink).
    pub(crate) freed_blocks: u64,
}

/// One site: a whole stack and its figures.
#[derive(Clone, Debug)]
pub(crate) struct SitePicture {
    pub(crate) stack: StackId,
    /// Leaf first.
    pub(crate) frames: Vec<FrameKey>,
    pub(crate) figures: Figures,
    /// Records of this stack were dropped: what is live here is not known.
    pub(crate) tainted: bool,
    /// Other stacks were folded into this one because the tree was full.
    pub(crate) folded: bool,
    /// The scopes that it was allocated in, the innermost first; most have none.
    pub(crate) scopes: Box<[u32]>,
}

/// A scope that says how much it may hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ScopePicture {
    /// Empty where there is no scope of this number.
    pub(crate) name: String,
    pub(crate) bound_bytes: u64,
}

/// One loaded object: the program, a shared library, the vdso.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ModulePicture {
    /// The path it was loaded from; empty for the vdso.
    pub(crate) path: String,
    /// The GNU build id, or empty.
    pub(crate) build_id: Vec<u8>,
    /// What is added to an address of its file to get an address in the process.
    pub(crate) bias: u64,
    /// The first address of its executable range in the process.
    pub(crate) start: u64,
    /// One past the last.
    pub(crate) end: u64,
    /// Still loaded at the time of the picture.
    pub(crate) loaded: bool,
}

/// What was lost, and why; each counted where it happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Loss {
    /// Records dropped because a ring stayed full for 100 ms.
    pub(crate) dropped_records: u64,
    /// Captured stacks cut at `max_frames` or that could not be unwound to their end.
    pub(crate) truncated_stacks: u64,
    /// Captures folded into a prefix because the tree was full.
    pub(crate) folded_stacks: u64,
    /// Records whose site had no row left; they went to the root's row.
    pub(crate) folded_sites: u64,
    /// Modules beyond the table's size; their frames are bare addresses.
    pub(crate) unlisted_modules: u64,
    /// Sampled blocks that could not be tracked (no slot and no table entry); they are in the totals alone.
    pub(crate) untracked_blocks: u64,
    /// Rows that were being written when the process died.
    pub(crate) rows_in_doubt: u64,
    /// Threads whose records went through the shared path because no ring was left.
    pub(crate) ringless_threads: u64,
    /// Times that replayed and full unwinding differed (debug mode).
    pub(crate) replay_disagreements: u64,
    /// Guards of scopes that had no number or no room in their thread's nesting.
    pub(crate) unlisted_scopes: u64,
}

/// Exact counters. `live = allocated − freed` in bytes and in blocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ExactTotals {
    pub(crate) total_bytes: u64,
    pub(crate) total_blocks: u64,
    pub(crate) freed_bytes: u64,
    pub(crate) freed_blocks: u64,
    pub(crate) max_live_bytes: u64,
    pub(crate) max_live_blocks: u64,
    /// Exact mode: frees of blocks born before `start()`, counted apart.
    pub(crate) older_freed_bytes: u64,
    pub(crate) older_freed_blocks: u64,
}

impl ExactTotals {
    /// Live bytes and blocks.
    pub(crate) fn live(&self) -> (u64, u64) {
        (self.total_bytes.saturating_sub(self.freed_bytes), self.total_blocks.saturating_sub(self.freed_blocks))
    }
}

/// In which state the source was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Life {
    /// A running profiler.
    #[default]
    Running,
    /// Stopped in order.
    Finished,
    /// Its process is gone without having stopped it.
    Killed,
}

/// The totals at the end of one epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct HistoryPoint {
    /// Nanoseconds since the profile's start.
    pub(crate) at_ns: u64,
    pub(crate) live_bytes: u64,
    pub(crate) live_blocks: u64,
    pub(crate) total_bytes: u64,
    pub(crate) total_blocks: u64,
    pub(crate) resident_bytes: u64,
    /// The interval in force.
    pub(crate) interval: IntervalCode,
}

/// Live and total amounts of blocks of 2^k to 2^(k+1) - 1 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct SizeClassPicture {
    pub(crate) live: Amount,
    pub(crate) total: Amount,
}

/// A decoded store.
#[derive(Clone, Debug, Default)]
pub(crate) struct Picture {
    pub(crate) life: Life,
    pub(crate) exact_mode: bool,
    /// The interval in bytes that `IntervalCode::FIXED` means; 0 where governed or exact.
    pub(crate) fixed_interval_bytes: u64,
    /// The interval in force now.
    pub(crate) interval: IntervalCode,
    /// `framehop + replay`, say: what the self-test chose.
    pub(crate) unwinder: String,
    pub(crate) pid: u32,
    pub(crate) command: String,
    /// Wall clock at start, nanoseconds since 1970.
    pub(crate) started_unix_ns: u64,
    /// From start to this picture, nanoseconds.
    pub(crate) elapsed_ns: u64,
    /// From start to the process's peak, nanoseconds.
    pub(crate) gmax_ns: u64,
    /// Ticks since the profile's start at this picture.
    pub(crate) now_ticks: u64,
    /// Nanoseconds a tick.
    pub(crate) ns_per_tick: f64,
    /// How old the exact totals may be at most, nanoseconds (0 for our own process after a flush).
    pub(crate) totals_stale_ns: u64,
    pub(crate) epoch: u64,
    pub(crate) exact: ExactTotals,
    /// Attributed live bytes and blocks at the peak (fixed point).
    pub(crate) gmax_bytes: u64,
    pub(crate) gmax_blocks: u64,
    pub(crate) loss: Loss,
    pub(crate) modules: Vec<ModulePicture>,
    pub(crate) sites: Vec<SitePicture>,
    /// Index k: blocks of 2^k to 2^(k+1) - 1 bytes.
    pub(crate) size_classes: Vec<SizeClassPicture>,
    /// By number; as many as have a name.
    pub(crate) scopes: Vec<ScopePicture>,
    pub(crate) history: Vec<HistoryPoint>,
}

impl Picture {
    /// The highest that attributed live bytes have been, and the blocks at that moment, in whole numbers.
    pub(crate) fn peak_whole(&self) -> (u64, u64) {
        (round_fixed(self.gmax_bytes, BYTES_FRACTION_BITS), round_fixed(self.gmax_blocks, BLOCKS_FRACTION_BITS))
    }
}
