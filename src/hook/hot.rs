//! The words that every allocation and every free touch: one cache line of thread-local storage, written by its thread
//! alone but for four that `start`, `stop` and a change of mode write too.
//!
//! Promises: no lock, no shared write, no system call, no branch but 'go cold'. On x86-64 an alloc adds 3 instructions
//! to the inner allocator's and a free 8 (`hot/admit.rs`), and each 1 to find the line (`hot/place.rs`; 2 where the C library is not
//! glibc); `allocator-tests/tests/cost.rs` counts them. A thread's first event goes cold, whatever it is, because the initial words say so.
//!
//! **Bytes allocated are not counted: the budget is.** Each grant of budget is added to `granted`, so that allocated =
//! granted − budget at any moment. What the inner allocator refuses is taken back: requests above [`INSTALMENT_BYTES`], which
//! always go cold, of every allocator; smaller ones of all but those that refuse them only when memory is at its end
//! (`inner`), where they are counted as if they had succeeded, unless a limit is set that lets an allocator be refused
//! memory (`sys::refusal`): then there is no budget, and everything goes cold.
//!
//! **Calling a thread to the cold path.** Others subtract [`CALL`] from its budget by an atomic operation; its next
//! allocation finds it negative. The owner's own subtraction is one instruction without a lock prefix, so it may
//! overwrite that call, but only while it is being executed: after a barrier on all threads (`sys::barrier`) the
//! caller looks whether its call stands, and repeats it if not. Nothing that the owner subtracted can be lost, because
//! the caller's operation is atomic. On other processors the owner's subtraction is an atomic one, with release (`admit`).

mod admit;
mod place;

use std::cell::Cell;
use std::sync::atomic::{AtomicI64, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence};

use super::thread::ThreadBlock;
pub(crate) use admit::Admission;
pub(crate) use place::HOT;

/// Budget is handed to the hot path in instalments of at most this many bytes, so that every larger request goes cold:
/// there its failure is seen. Small enough for that, large enough that going cold once an instalment (about 40
/// instructions) adds less than a hundredth of an instruction a byte.
pub(crate) const INSTALMENT_BYTES: i64 = 64 * 1024;

/// A budget that no request fits: while we are inside, and in exact mode, every allocation goes cold.
const NO_BUDGET: i64 = -1;

/// What others subtract from a budget to call its thread. Far beyond any budget, and far from overflow.
const CALL: i64 = 1 << 61;

/// The furthest below zero that a budget goes by blocks that there are: exact mode's lean way counts by it, and grants nothing. What is
/// further off is a request that the hot path has just subtracted, and that may be refused.
const OVERDRAFT: i64 = 1 << 30;

/// Below this a budget holds a call.
const CALLED: i64 = -(CALL / 2);

/// The words. Aligned so that the first eight share one cache line.
#[repr(C, align(64))]
pub(crate) struct Hot {
    /// Bytes until the next cold allocation, which is the one that would make it negative. By the owner; others call.
    budget: AtomicI64,
    /// Blocks allocated, reallocs not counted. Written by the owner.
    alloc_blocks: AtomicU64,
    /// Bytes freed, shrinks included. Written by the owner.
    free_bytes: AtomicU64,
    /// Blocks freed. Written by the owner.
    free_blocks: AtomicU64,
    /// Frees go cold where ptr − base < span. Written by adoption, and by others to call.
    range_base: AtomicUsize,
    range_span: AtomicUsize,
    /// Frees go cold above this size. As above.
    look_above: AtomicUsize,
    /// How deep we are inside the profiler in this thread; our own threads stay at 1.
    pub(super) depth: Cell<u64>,

    // The second line: cold, or reallocs alone.
    /// Σ of budget granted, modulo 2^64. Written by the owner, together with `budget` under `sequence`.
    granted: AtomicU64,
    /// Bytes that reallocs carried over, min(old, new): in the totals, not in the live figures. By the owner.
    kept_bytes: AtomicU64,
    /// Reallocs. By the owner.
    reallocs: AtomicU64,
    /// Odd while `granted` and `budget` are being changed together. By the owner.
    sequence: AtomicU32,
    /// The thread's cold state: null before registration, `retired()` after the thread's end.
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

impl Hot {
    #[cfg(any(test, not(all(target_arch = "x86_64", target_os = "linux", target_env = "gnu"))))]
    const fn new() -> Hot {
        Hot {
            budget: AtomicI64::new(0),
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

    /// Takes back what a refused admission subtracted.
    pub(super) fn undo(&self, bytes: usize) {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as in `admit_alloc`: one instruction, so that no call is overwritten after a barrier.
        unsafe {
            core::arch::asm!(
                "add qword ptr [{hot}], {bytes}",
                hot = in(reg) std::ptr::from_ref(self),
                bytes = in(reg) bytes,
                options(nostack),
            );
        }
        #[cfg(not(target_arch = "x86_64"))]
        self.budget.fetch_add(bytes.cast_signed() as i64, Ordering::Release);
    }

    /// Counts `bytes` as allocated: less budget is as good as more granted. The other way round of [`Hot::undo`].
    pub(super) fn charge(&self, bytes: usize) {
        self.undo(bytes.wrapping_neg());
    }

    /// Every event goes cold from here on: the thread ends. By the owner, and not by a call: two that met would be subtracted twice.
    pub(super) fn close(&self) {
        self.set_words(None);
        self.change_budget(NO_BUDGET, 0);
    }

    /// Calls the thread: its next event, alloc or free, is to go cold. By whoever holds the registry's lock; see [`Hot::is_called`].
    pub(crate) fn call(&self) {
        // One word alone, with which every address lies in the range: of several some could meet the owner's, who sets them at the same
        // time, and a base that was changed with a length that was not would let frees of slots pass.
        self.range_span.store(usize::MAX, Ordering::Relaxed);
        if self.budget.load(Ordering::Relaxed) >= CALLED {
            self.budget.fetch_sub(CALL, Ordering::SeqCst);
        }
    }

    /// Does the call stand? To be asked after a barrier on all threads, of a thread that is not inside.
    pub(crate) fn is_called(&self) -> bool {
        self.budget.load(Ordering::SeqCst) < CALLED && self.frees_are_cold()
    }

    /// Is the budget to be drawn anew, or called? By the owner, on the lean way.
    #[inline(always)]
    pub(super) fn is_overdrawn(&self) -> bool {
        self.budget.load(Ordering::Relaxed) < -OVERDRAFT
    }

    /// Do all frees go cold?
    pub(super) fn frees_are_cold(&self) -> bool {
        self.range_span.load(Ordering::SeqCst) == usize::MAX
    }

    /// Sets what frees look at. By the owner; `None`: every one goes cold.
    pub(super) fn set_words(&self, words: Option<((usize, usize), usize)>) {
        if let Some(((base, span), look_above)) = words {
            self.range_base.store(base, Ordering::Relaxed);
            self.look_above.store(look_above, Ordering::Relaxed);
            // Release: after the others also for a handler on this thread.
            self.range_span.store(span, Ordering::Release);
        } else {
            // The base stays: a signal's handler may free a block between two stores.
            self.range_span.store(usize::MAX, Ordering::Relaxed);
        }
    }

    /// Takes the budget away, so that whatever allocates while we are inside goes cold. Returns what was left.
    pub(super) fn take_budget(&self) -> i64 {
        let left = uncalled(self.budget.load(Ordering::Relaxed));
        self.change_budget(NO_BUDGET, 0);
        left
    }

    /// Gives the hot path `budget` bytes, and counts `bytes` as allocated. `None`: every allocation goes cold.
    pub(super) fn grant_budget(&self, budget: Option<i64>, bytes: u64) {
        self.change_budget(budget.unwrap_or(NO_BUDGET), bytes);
    }

    /// allocated = granted − budget grows by `bytes` exactly. Overwrites a call: whoever called repeats it while we are
    /// busy, and we look at the state in force whenever we are inside.
    fn change_budget(&self, budget: i64, bytes: u64) {
        let old = uncalled(self.budget.load(Ordering::Relaxed));
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

    /// An admitted request of `size` bytes that the inner allocator refused. The budget stays: what was allocated is
    /// less because less was granted.
    #[cold]
    pub(super) fn take_back_alloc(&self, size: usize) {
        bump(&self.granted, (size as u64).wrapping_neg());
        bump(&self.alloc_blocks, u64::MAX);
    }

    /// An admitted realloc that the inner allocator refused.
    #[cold]
    pub(super) fn take_back_realloc(&self, old: usize, new: usize) {
        bump(&self.granted, (new.saturating_sub(old) as u64).wrapping_neg());
        bump(&self.kept_bytes, (old.min(new) as u64).wrapping_neg());
        bump(&self.free_bytes, (old.saturating_sub(new) as u64).wrapping_neg());
        bump(&self.reallocs, u64::MAX);
    }

    /// Uncounts what this thread counted.
    pub(super) fn take_back(&self, counted: Counters) {
        bump(&self.granted, counted.alloc_bytes.wrapping_neg());
        bump(&self.alloc_blocks, counted.alloc_blocks.wrapping_neg());
        bump(&self.kept_bytes, counted.kept_bytes.wrapping_neg());
        bump(&self.reallocs, counted.reallocs.wrapping_neg());
        bump(&self.free_bytes, counted.free_bytes.wrapping_neg());
        bump(&self.free_blocks, counted.free_blocks.wrapping_neg());
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

    /// Reads the allocations alone. Retries while the owner changes the pair, or is in the first instructions of a request that is larger
    /// than any overdraft: it is not known yet whether that will be served. A stopped owner is not waited for long.
    pub(crate) fn allocs(&self) -> Counters {
        let mut alloc_bytes = 0;
        for round in 0..10_000u32 {
            // Acquire: pairs with the last Release in `change_budget`.
            let before = self.sequence.load(Ordering::Acquire);
            let granted = self.granted.load(Ordering::Acquire);
            let budget = self.budget.load(Ordering::Acquire);
            let budget = uncalled(budget);
            alloc_bytes = granted.wrapping_sub(budget.cast_unsigned());
            // The lean way lets one small block pass before it draws anew.
            let is_settled = (-2 * OVERDRAFT..=INSTALMENT_BYTES).contains(&budget);
            // Acquire: pairs with the Release fence in `change_budget`.
            fence(Ordering::Acquire);
            if is_settled && before.is_multiple_of(2) && self.sequence.load(Ordering::Relaxed) == before {
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

/// A budget without the call that it may hold.
fn uncalled(budget: i64) -> i64 {
    if budget < CALLED { budget.wrapping_add(CALL) } else { budget }
}

/// One `add [mem], reg`: the cell is its owner's, so a load and a store need no lock prefix.
#[inline(always)]
fn bump(cell: &AtomicU64, by: u64) {
    cell.store(cell.load(Ordering::Relaxed).wrapping_add(by), Ordering::Release);
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;

    struct Called(Hot);

    // SAFETY: `depth` alone is not to be shared, and nobody touches it here.
    unsafe impl Sync for Called {}

    /// Runs `own` as the owner of words that another thread calls all the time, `rounds` times.
    fn while_called(rounds: u64, mut own: impl FnMut(&Hot, u64)) -> Hot {
        let (called, is_over) = (Called(Hot::new()), AtomicBool::new(false));
        std::thread::scope(|scope| {
            let (called, is_over) = (&called, &is_over);
            scope.spawn(move || {
                let Called(hot) = called;
                while !is_over.load(Ordering::Relaxed) {
                    hot.call();
                }
            });
            (0..rounds).for_each(|round| own(&called.0, round));
            is_over.store(true, Ordering::Relaxed);
        });
        called.0
    }

    /// A thread that ended while a start or a stop called it had counted 2^61 bytes too many.
    #[test]
    fn a_call_that_meets_the_threads_end_is_subtracted_once() {
        let hot = while_called(1_000_000, |hot, _| {
            // All that is granted is left.
            hot.grant_budget(Some(1000), 0);
            hot.close();
        });
        assert_eq!(hot.allocs().alloc_bytes, 0);
    }

    /// A call that met the setting of these words left the base of no range with the length of one: frees of slots were not looked at.
    #[test]
    fn a_call_that_meets_the_setting_of_words_leaves_all_frees_cold_or_none() {
        let (base, span) = (1 << 40, 1 << 30);
        let mut mixed = 0;
        while_called(60_000_000, |hot, round| {
            hot.set_words((round % 4 != 0).then_some(((base, span), 1000)));
            let found = (hot.range_base.load(Ordering::Relaxed), hot.range_span.load(Ordering::Relaxed));
            mixed += u32::from(found.1 != usize::MAX && found != (base, span));
        });
        assert_eq!(mixed, 0);
    }

    /// Nothing is served here, and nothing is granted: whatever is read is a request before it was refused.
    #[test]
    fn requests_that_are_refused_are_never_counted() {
        let (words, is_over) = (AtomicPtr::new(std::ptr::null_mut()), AtomicBool::new(false));
        std::thread::scope(|scope| {
            let (words, is_over) = (&words, &is_over);
            scope.spawn(move || {
                HOT.with(|hot| {
                    words.store(std::ptr::from_ref(hot).cast_mut(), Ordering::Release);
                    while !is_over.load(Ordering::Relaxed) {
                        for size in [1 << 40, 1_000_000_000_000_000, 1 << 61, isize::MAX.cast_unsigned()] {
                            assert!(!Hot::admit_alloc(size));
                            hot.undo(size);
                        }
                    }
                });
            });
            let hot = loop {
                // SAFETY: null, or the thread's words, which are there until it ends, in this scope.
                if let Some(hot) = unsafe { words.load(Ordering::Acquire).as_ref() } {
                    break hot;
                }
                std::thread::yield_now();
            };
            for _ in 0..2_000_000 {
                let found = hot.allocs().alloc_bytes;
                if found != 0 {
                    is_over.store(true, Ordering::Relaxed);
                }
                assert_eq!(found, 0);
            }
            is_over.store(true, Ordering::Relaxed);
        });
    }
}
