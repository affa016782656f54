//! The words that every allocation and every free touch: one cache line of thread-local storage, written by its thread
//! alone but for the four that `start`, `stop` and a change of mode write.
//!
//! Promises: no lock, no shared write, no system call, no branch but 'go cold'. An alloc adds 6 instructions to the
//! inner allocator's, a free 8 (x86-64; `allocator-tests/tests/cost.rs` counts them). A thread's first event goes cold,
//! whatever it is, because the initial words say so.
//!
//! Bytes allocated are not counted: the budget is. Each grant of budget is added to `granted`, so that allocated =
//! granted − budget at any moment. Failed small requests are the exception that this costs: requests above
//! [`INSTALMENT_BYTES`] always go cold and are undone when the inner allocator refuses them; smaller ones that fail
//! are counted as if they had succeeded.

use std::cell::Cell;
use std::sync::atomic::{AtomicI64, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence};

use super::thread::ThreadBlock;

/// Budget is handed to the hot path in instalments of at most this many bytes, so that every larger request goes cold:
/// there its failure is seen. Small enough for that, large enough that going cold once an instalment (about 40
/// instructions) adds less than a hundredth of an instruction a byte.
pub(crate) const INSTALMENT_BYTES: i64 = 64 * 1024;

/// A budget that no request fits: while we are inside, every allocation goes cold.
const NO_BUDGET: i64 = -1;

/// The words. Aligned so that the first eight share one cache line.
#[repr(C, align(64))]
pub(crate) struct Hot {
    /// Bytes until the next cold allocation. Written by the owner.
    budget: AtomicI64,
    /// Allocations go cold where budget − size < floor. Written by others (`i64::MAX`: always cold) and by adoption.
    floor: AtomicI64,
    /// Blocks allocated, reallocs not counted. Written by the owner.
    alloc_blocks: AtomicU64,
    /// Bytes freed, shrinks included. Written by the owner.
    free_bytes: AtomicU64,
    /// Blocks freed. Written by the owner.
    free_blocks: AtomicU64,
    /// Frees go cold where ptr − base < span. Written by others and by adoption.
    range_base: AtomicUsize,
    range_span: AtomicUsize,
    /// Frees go cold above this size. Written by others and by adoption.
    look_above: AtomicUsize,

    // The second line: cold, or reallocs alone.
    /// Σ of budget granted, modulo 2^64. Written by the owner, together with `budget` under `sequence`.
    granted: AtomicU64,
    /// Bytes that reallocs carried over, min(old, new): in the totals, not in the live figures. By the owner.
    kept_bytes: AtomicU64,
    /// Reallocs. By the owner.
    reallocs: AtomicU64,
    /// Odd while `granted` and `budget` are being changed together. By the owner.
    sequence: AtomicU32,
    /// How deep we are inside the profiler in this thread; our own threads stay at 1.
    pub(super) depth: Cell<u32>,
    /// The thread's cold state: null before registration, [`RETIRED`] after the thread's end.
    pub(super) block: AtomicPtr<ThreadBlock>,
}

/// What one thread counted, or all of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counters {
    /// Bytes allocated, growth by realloc included.
    pub(crate) alloc_bytes: u64,
    pub(crate) alloc_blocks: u64,
    pub(crate) kept_bytes: u64,
    pub(crate) reallocs: u64,
    /// Bytes freed, shrinks included.
    pub(crate) free_bytes: u64,
    pub(crate) free_blocks: u64,
    /// Exact mode: blocks born before this profile that were freed or reallocated during it.
    pub(crate) older_bytes: u64,
    pub(crate) older_blocks: u64,
}

impl Counters {
    /// Both together; each field modulo 2^64 (a thread that only frees has more freed than allocated).
    pub(crate) fn plus(self, other: Counters) -> Counters {
        self.zip(other, u64::wrapping_add)
    }

    /// What was counted since `earlier`.
    pub(crate) fn minus(self, earlier: Counters) -> Counters {
        self.zip(earlier, u64::wrapping_sub)
    }

    fn zip(self, other: Counters, f: fn(u64, u64) -> u64) -> Counters {
        Counters {
            alloc_bytes: f(self.alloc_bytes, other.alloc_bytes),
            alloc_blocks: f(self.alloc_blocks, other.alloc_blocks),
            kept_bytes: f(self.kept_bytes, other.kept_bytes),
            reallocs: f(self.reallocs, other.reallocs),
            free_bytes: f(self.free_bytes, other.free_bytes),
            free_blocks: f(self.free_blocks, other.free_blocks),
            older_bytes: f(self.older_bytes, other.older_bytes),
            older_blocks: f(self.older_blocks, other.older_blocks),
        }
    }
}

thread_local! {
    // `const` and without `Drop`: one fs-relative address in executables, usable at any moment of a thread's life.
    pub(crate) static HOT: Hot = const { Hot::new() };
}

impl Hot {
    const fn new() -> Hot {
        Hot {
            budget: AtomicI64::new(0),
            floor: AtomicI64::new(i64::MAX),
            alloc_blocks: AtomicU64::new(0),
            free_bytes: AtomicU64::new(0),
            free_blocks: AtomicU64::new(0),
            range_base: AtomicUsize::new(0),
            range_span: AtomicUsize::new(usize::MAX),
            look_above: AtomicUsize::new(0),
            granted: AtomicU64::new(0),
            kept_bytes: AtomicU64::new(0),
            reallocs: AtomicU64::new(0),
            sequence: AtomicU32::new(0),
            depth: Cell::new(0),
            block: AtomicPtr::new(std::ptr::null_mut()),
        }
    }

    /// Counts an allocation of `size` bytes; false: go cold, nothing was counted. 6 instructions.
    #[inline(always)]
    pub(crate) fn admit_alloc(&self, size: usize) -> bool {
        // Relaxed: the owner's own words, and a floor whose late arrival only delays going cold.
        let Some(left) = self.left(size) else { return false };
        // Release, here and in all counters: pairs with the Acquire in `counters`, so that a reader who sees a free
        // sees the allocation that it belongs to. A plain store on x86-64.
        self.budget.store(left, Ordering::Release);
        bump(&self.alloc_blocks, 1);
        true
    }

    /// The budget after `size` bytes, or `None` where that is below the floor. Can't overflow: a `Layout`'s size is below
    /// 2^63 and a budget at least −1.
    #[inline(always)]
    fn left(&self, size: usize) -> Option<i64> {
        let left = self.budget.load(Ordering::Relaxed).wrapping_sub(size.cast_signed() as i64);
        if left < self.floor.load(Ordering::Relaxed) { None } else { Some(left) }
    }

    /// Counts a free; false: go cold, nothing was counted. 8 instructions.
    #[inline(always)]
    pub(crate) fn admit_free(&self, ptr: *mut u8, size: usize) -> bool {
        if self.must_look(ptr, size) {
            return false;
        }
        bump(&self.free_bytes, size as u64);
        bump(&self.free_blocks, 1);
        true
    }

    /// Counts a realloc; false: go cold, nothing was counted.
    #[inline(always)]
    pub(crate) fn admit_realloc(&self, ptr: *mut u8, old: usize, new: usize) -> bool {
        if self.must_look(ptr, old) {
            return false;
        }
        let Some(left) = self.left(new.saturating_sub(old)) else { return false };
        bump(&self.kept_bytes, old.min(new) as u64);
        bump(&self.free_bytes, old.saturating_sub(new) as u64);
        bump(&self.reallocs, 1);
        self.budget.store(left, Ordering::Release);
        true
    }

    #[inline(always)]
    fn must_look(&self, ptr: *mut u8, size: usize) -> bool {
        // Relaxed: as the floor.
        let offset = ptr.addr().wrapping_sub(self.range_base.load(Ordering::Relaxed));
        offset < self.range_span.load(Ordering::Relaxed) || size > self.look_above.load(Ordering::Relaxed)
    }

    /// Has every event of this thread go cold, soon. By any thread.
    pub(crate) fn make_cold(&self) {
        self.range_base.store(0, Ordering::Relaxed);
        self.range_span.store(usize::MAX, Ordering::Relaxed);
        self.look_above.store(0, Ordering::Relaxed);
        self.floor.store(i64::MAX, Ordering::SeqCst);
    }

    /// Sets the four words. By the owner, which then looks again whether they still hold (`session`).
    pub(super) fn set_words(&self, floor: i64, range: (usize, usize), look_above: usize) {
        self.range_base.store(range.0, Ordering::Relaxed);
        self.range_span.store(range.1, Ordering::Relaxed);
        self.look_above.store(look_above, Ordering::Relaxed);
        self.floor.store(floor, Ordering::Relaxed);
    }

    /// Takes the budget away, so that whatever allocates while we are inside goes cold. Returns what was left.
    pub(super) fn take_budget(&self) -> i64 {
        let left = self.budget.load(Ordering::Relaxed);
        self.change_budget(NO_BUDGET, 0);
        left
    }

    /// Gives the hot path `budget` bytes, and counts `bytes` as allocated.
    pub(super) fn grant_budget(&self, budget: i64, bytes: u64) {
        self.change_budget(budget, bytes);
    }

    /// allocated = granted − budget grows by `bytes` exactly.
    fn change_budget(&self, budget: i64, bytes: u64) {
        let old = self.budget.load(Ordering::Relaxed);
        let difference = budget.wrapping_sub(old).cast_unsigned().wrapping_add(bytes);
        let sequence = self.sequence.load(Ordering::Relaxed);
        self.sequence.store(sequence.wrapping_add(1), Ordering::Relaxed);
        // Release: pairs with the Acquire fence in `counters`: who sees one of the new words sees the odd sequence.
        fence(Ordering::Release);
        self.granted.store(self.granted.load(Ordering::Relaxed).wrapping_add(difference), Ordering::Relaxed);
        self.budget.store(budget, Ordering::Relaxed);
        // Release: pairs with the Acquire load in `counters`.
        self.sequence.store(sequence.wrapping_add(2), Ordering::Release);
    }

    /// Counts blocks on the cold path; bytes go by `grant_budget`.
    pub(super) fn count_alloc(&self) {
        bump(&self.alloc_blocks, 1);
    }

    pub(super) fn count_free(&self, size: usize) {
        bump(&self.free_bytes, size as u64);
        bump(&self.free_blocks, 1);
    }

    pub(super) fn count_realloc(&self, old: usize, new: usize) {
        bump(&self.kept_bytes, old.min(new) as u64);
        bump(&self.free_bytes, old.saturating_sub(new) as u64);
        bump(&self.reallocs, 1);
    }

    /// Reads the frees alone: to be done for all threads before any [`Hot::allocs`].
    pub(crate) fn frees(&self) -> Counters {
        Counters {
            // Acquire: pairs with the Release in `bump`.
            free_bytes: self.free_bytes.load(Ordering::Acquire),
            free_blocks: self.free_blocks.load(Ordering::Acquire),
            ..Counters::default()
        }
    }

    /// Reads the allocations alone. Retries while the owner changes the pair; a stopped owner is not waited for long.
    pub(crate) fn allocs(&self) -> Counters {
        let mut alloc_bytes = 0;
        for round in 0..10_000u32 {
            // Acquire: pairs with the last Release in `change_budget`.
            let before = self.sequence.load(Ordering::Acquire);
            let granted = self.granted.load(Ordering::Acquire);
            let budget = self.budget.load(Ordering::Acquire);
            alloc_bytes = granted.wrapping_sub(budget.cast_unsigned());
            // Acquire: pairs with the Release fence in `change_budget`.
            fence(Ordering::Acquire);
            if before.is_multiple_of(2) && self.sequence.load(Ordering::Relaxed) == before {
                break;
            }
            if round > 100 {
                std::thread::yield_now();
            }
        }
        Counters {
            alloc_bytes,
            alloc_blocks: self.alloc_blocks.load(Ordering::Acquire),
            kept_bytes: self.kept_bytes.load(Ordering::Acquire),
            reallocs: self.reallocs.load(Ordering::Acquire),
            ..Counters::default()
        }
    }

    /// Both, for the thread itself.
    pub(super) fn counters(&self) -> Counters {
        let frees = self.frees();
        self.allocs().plus(frees)
    }
}

/// One `add [mem], reg`: the cell is its owner's, so a load and a store need no lock prefix.
#[inline(always)]
fn bump(cell: &AtomicU64, by: u64) {
    cell.store(cell.load(Ordering::Relaxed).wrapping_add(by), Ordering::Release);
}
