//! The cold state of one thread: what its cold path keeps from event to event.
//!
//! Promises: a word is written by the thread that owns the block, or under the registry's lock; each says which. Others read two of
//! the owner's, `busy` and `seen`, and its baseline, which is read whole or not at all (`counts`). No method waits, allocates or
//! takes a lock.

use std::cell::{Cell, UnsafeCell};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, compiler_fence, fence};

use super::counts::Baseline;
use crate::hook::hot::{Counters, Hot};
use crate::hook::session::{Mode, State};
use crate::ring::{Producer, RingId};
use crate::sampler::governor::Untold;
use crate::sampler::random::Random;
use crate::sampler::weight::IntervalCode;
use crate::slots::Kept;
use crate::sys::barrier;
use crate::unwind::ThreadStacks;

/// The cold state of one thread. Lives in a slab of ours; reused when the thread has ended.
pub(in crate::hook) struct ThreadBlock {
    /// The thread's hot words.
    hot: *const Hot,
    /// The registry's list, or its free list. Under the registry's lock.
    pub(super) next: Cell<*mut ThreadBlock>,
    pub(super) previous: Cell<*mut ThreadBlock>,
    /// In the sum that is being made. Under the registry's lock.
    pub(super) marked: Cell<bool>,
    /// The thread's number.
    pub(super) id: u32,
    /// 1 while the thread is inside the cold path. By the owner; read by `stop`.
    busy: AtomicU32,
    /// The state that the thread has adopted (`State` as a word). By the owner; read by `stop`.
    seen: AtomicU64,
    /// What the profile's counts begin with. By the owner.
    pub(super) baseline: Baseline,
    /// The state in which exact mode's lean way is open: adopted, and with a ring. Otherwise `State::NONE`. The owner's.
    pub(in crate::hook) lean: Cell<State>,
    /// It was in exact mode once, and may keep slots. The owner's.
    was_exact: Cell<bool>,
    /// What only the owner touches.
    own: UnsafeCell<Own>,
}

/// The part of a thread's cold state that nobody else ever looks at.
pub(in crate::hook) struct Own {
    /// Rounds of destructors seen at the thread's end.
    pub(super) rounds: u32,
    /// Bytes to the next sample point beyond the budget that the hot path holds.
    pub(in crate::hook) reserve: i64,
    /// The interval that this distance was drawn with.
    pub(in crate::hook) interval: IntervalCode,
    pub(in crate::hook) random: Random,
    pub(in crate::hook) ring: Option<(RingId, Producer<'static>)>,
    /// It asked for a ring when there was none left, and was counted for that.
    pub(in crate::hook) was_ringless: bool,
    /// Exact mode: free slots.
    pub(in crate::hook) kept: Kept,
    pub(in crate::hook) stacks: ThreadStacks,
    /// For the governor.
    pub(in crate::hook) untold: Untold,
}

impl ThreadBlock {
    /// Of the thread with these words, this number and these free slots, in no list. Inlined: it would be copied into its place.
    #[inline(always)]
    pub(super) fn new(hot: &Hot, id: u32, seed: u64, kept: Kept) -> ThreadBlock {
        ThreadBlock {
            hot: std::ptr::from_ref(hot),
            next: Cell::new(null_mut()),
            previous: Cell::new(null_mut()),
            marked: Cell::new(false),
            id,
            busy: AtomicU32::new(0),
            seen: AtomicU64::new(State::NONE.word()),
            baseline: Baseline::new(),
            lean: Cell::new(State::NONE),
            was_exact: Cell::new(false),
            own: UnsafeCell::new(Own {
                rounds: 0,
                reserve: 0,
                interval: IntervalCode::EXACT,
                random: Random::new(seed),
                ring: None,
                was_ringless: false,
                kept,
                stacks: ThreadStacks::new(),
                untold: Untold::new(),
            }),
        }
    }

    /// The owner's part.
    ///
    /// # Safety
    /// - Called by the thread whose block this is.
    /// - No other reference from this call is alive: `depth` keeps the cold path from being entered twice.
    #[expect(clippy::mut_from_ref, reason = "the cell is the owner's alone, as the duties say")]
    pub(in crate::hook) unsafe fn own(&self) -> &mut Own {
        // SAFETY: the caller's duties.
        unsafe { &mut *self.own.get() }
    }

    /// The state that this thread adopted last.
    pub(in crate::hook) fn seen(&self) -> State {
        State::of(self.seen.load(Ordering::Relaxed))
    }

    pub(in crate::hook) fn set_seen(&self, state: State) {
        self.was_exact.set(self.was_exact.get() || state.mode() == Mode::Exact);
        self.seen.store(state.word(), Ordering::Relaxed);
    }

    /// Was it in exact mode once? By the owner.
    pub(super) fn was_exact(&self) -> bool {
        self.was_exact.get()
    }

    /// Marks the thread as inside the cold path. `session::barrier` orders this before a stopper's look.
    #[inline]
    pub(in crate::hook) fn set_busy(&self, busy: bool) {
        // Release: what was done inside is done before 'not busy' is seen; pairs with the Acquire in `is_busy`.
        self.busy.store(u32::from(busy), Ordering::Release);
        // Keeps the compiler from moving the look at the state before the mark.
        compiler_fence(Ordering::SeqCst);
        if busy && !barrier::is_granted() {
            // SeqCst: our mark before our look at the state; pairs with the fence in `barrier::everywhere`.
            fence(Ordering::SeqCst);
        }
    }

    /// Is the thread inside the cold path? By anyone.
    pub(super) fn is_busy(&self) -> bool {
        // Acquire: pairs with the Release that ends the cold path, so that its last budget is seen.
        self.busy.load(Ordering::Acquire) != 0
    }

    /// Begins a profile for this thread: what is counted from here on is the profile's.
    pub(in crate::hook) fn begin_profile(&self, profile: u32, counted: Counters) {
        self.baseline.begin(profile, counted);
    }

    /// Exact mode: a block older than the profile left.
    pub(in crate::hook) fn count_older(&self, bytes: usize) {
        self.baseline.count_older(bytes as u64);
    }

    /// Exact mode's lean way: a remembered stack was truncated.
    #[inline(always)]
    pub(in crate::hook) fn count_truncated(&self) {
        self.baseline.count_truncated();
    }

    /// The thread's hot words. Under the registry's lock, or by the owner.
    pub(super) fn hot(&self) -> &Hot {
        // SAFETY: the block is registered and the registry's lock held (or this is its own thread): the thread can't
        // end, so its words exist.
        unsafe { &*self.hot }
    }
}
