//! The cold state of each thread, and the registry of them all.
//!
//! Promises: registering takes no heap memory; a thread that ends is folded into the totals of the ended, exactly;
//! what it still allocates or frees afterwards (other libraries' destructors run after ours) is counted by shared
//! atomics. Whoever reads another thread's hot words holds the registry's lock, which that thread takes to end.

mod counts;

use std::cell::{Cell, UnsafeCell};
use std::ffi::c_void;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, compiler_fence, fence};

use super::hot::{Counters, HOT, Hot};
use super::session::{self, Mode, State};
use crate::ring::{Producer, RingId};
use crate::sampler::governor::Untold;
use crate::sampler::random::Random;
use crate::sampler::weight::IntervalCode;
use crate::slots::{Kept, RANGE};
use crate::sys::lock::{Held, Lock};
use crate::sys::thread::ExitKey;
use crate::sys::{barrier, clock, fork, map, refusal, thread};
use crate::unwind::ThreadStacks;
use counts::{Baseline, Shared, Truncated};

/// The cold state of one thread. Lives in a slab of ours; reused when the thread has ended.
pub(super) struct ThreadBlock {
    /// The thread's hot words.
    hot: *const Hot,
    /// The registry's list, or the slab's free list. Under the registry's lock.
    next: Cell<*mut ThreadBlock>,
    previous: Cell<*mut ThreadBlock>,
    /// In the sum that is being made. Under the registry's lock.
    marked: Cell<bool>,
    /// The thread's number.
    id: u32,
    /// 1 while the thread is inside the cold path. By the owner; read by `stop`.
    busy: AtomicU32,
    /// The state that the thread has adopted (`State` as a word). By the owner; read by `stop`.
    seen: AtomicU64,
    /// What the profile's counts begin with. By the owner.
    baseline: Baseline,
    /// The state in which exact mode's lean way is open: adopted, and with a ring. Otherwise `State::NONE`. The owner's.
    pub(super) lean: Cell<State>,
    /// It was in exact mode once, and may keep slots. The owner's.
    was_exact: Cell<bool>,
    /// What only the owner touches.
    own: UnsafeCell<Own>,
}

/// The part of a thread's cold state that nobody else ever looks at.
pub(super) struct Own {
    /// Rounds of destructors seen at the thread's end.
    rounds: u32,
    /// Bytes to the next sample point beyond the budget that the hot path holds.
    pub(super) reserve: i64,
    /// The interval that this distance was drawn with.
    pub(super) interval: IntervalCode,
    pub(super) random: Random,
    pub(super) ring: Option<(RingId, Producer<'static>)>,
    /// It asked for a ring when there was none left, and was counted for that.
    pub(super) was_ringless: bool,
    /// Exact mode: free slots.
    pub(super) kept: Kept,
    pub(super) stacks: ThreadStacks,
    /// For the governor.
    pub(super) untold: Untold,
}

/// Everything that the registry's lock guards.
struct Registry {
    lock: Lock,
    list: Cell<*mut ThreadBlock>,
    /// Blocks of ended threads.
    free: Cell<*mut ThreadBlock>,
    /// What is left of the slab's current step.
    slab: Cell<*mut ThreadBlock>,
    slab_left: Cell<usize>,
    /// Counters of ended threads, since the process's start.
    ended: Cell<Counters>,
    /// The same, since the profile's start.
    ended_in_profile: Cell<Counters>,
    profile: Cell<u32>,
    /// Truncated stacks, since the profile's start.
    truncated: Truncated,
    /// The process's sum when it was last made.
    latest: Cell<Counters>,
}

// SAFETY: the cells are touched only while the lock is held.
unsafe impl Sync for Registry {}

static REGISTRY: Registry = Registry {
    lock: Lock::new(),
    list: Cell::new(null_mut()),
    free: Cell::new(null_mut()),
    slab: Cell::new(null_mut()),
    slab_left: Cell::new(0),
    ended: Cell::new(ZERO),
    ended_in_profile: Cell::new(ZERO),
    profile: Cell::new(0),
    truncated: Truncated::new(),
    latest: Cell::new(ZERO),
};

const ZERO: Counters = Counters {
    alloc_bytes: 0,
    alloc_blocks: 0,
    kept_bytes: 0,
    reallocs: 0,
    free_bytes: 0,
    free_blocks: 0,
    older_bytes: 0,
    older_blocks: 0,
};

/// Since the process's start.
pub(super) static LATE: Shared = Shared::new();
/// Since the profile's start.
pub(super) static LATE_IN_PROFILE: Shared = Shared::new();

/// What `hot.block` says after the thread's end: no block any more, and none to be made.
pub(super) fn retired() -> *mut ThreadBlock {
    std::ptr::dangling_mut()
}

static EXIT: ExitKey = ExitKey::new();

/// Blocks of one slab step.
const SLAB_BYTES: usize = map::STEP_BYTES;

/// The calling thread's block, made on the first call. `None`: it has ended, or can't be registered.
pub(super) fn block(hot: &Hot) -> Option<*mut ThreadBlock> {
    // Relaxed: the owner's own word.
    let block = hot.block.load(Ordering::Relaxed);
    if block == retired() {
        return None;
    }
    if !block.is_null() {
        return Some(block);
    }
    register(hot)
}

/// Has the calling thread adopted this state?
pub(super) fn has_adopted(hot: &Hot, state: State) -> bool {
    let block = hot.block.load(Ordering::Relaxed);
    // SAFETY: neither null nor the mark of an ended thread: this thread's own block.
    !block.is_null() && block != retired() && unsafe { &*block }.seen() == state
}

#[cold]
fn register(hot: &Hot) -> Option<*mut ThreadBlock> {
    if fork::in_child() {
        return None;
    }
    refusal::look_first();
    let id = thread::id();
    let held = REGISTRY.lock.take()?;
    let fresh = take_slab(&held)?;
    // SAFETY: `fresh` is a block's worth of memory that nobody else uses.
    unsafe {
        fresh.write(ThreadBlock {
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
                random: Random::new(seed(id)),
                ring: None,
                was_ringless: false,
                kept: Kept::new(),
                stacks: ThreadStacks::new(),
                untold: Untold::new(),
            }),
        });
    }
    if !EXIT.arm(at_thread_exit, fresh.cast()) {
        // Without a callback its counters would be read after its memory is gone: it counts by the shared atomics.
        give_slab(&held, fresh);
        hot.block.store(retired(), Ordering::Relaxed);
        return None;
    }
    let first = REGISTRY.list.get();
    // SAFETY: just written, and ours.
    unsafe { &*fresh }.next.set(first);
    // SAFETY: null, or a live block of the list, whose lock is held.
    if let Some(first) = unsafe { first.as_ref() } {
        first.previous.set(fresh);
    }
    REGISTRY.list.set(fresh);
    drop(held);
    hot.block.store(fresh, Ordering::Relaxed);
    Some(fresh)
}

/// What a thread's sampling begins with: other than other threads', and other than in other runs.
fn seed(id: u32) -> u64 {
    static FIRST: AtomicU64 = AtomicU64::new(0);
    // Relaxed: any value will do; threads that race may well begin with different ones.
    let mut first = FIRST.load(Ordering::Relaxed);
    if first == 0 {
        first = clock::now().0 ^ (&raw const FIRST).addr() as u64 | 1;
        FIRST.store(first, Ordering::Relaxed);
    }
    first ^ u64::from(id) << 32
}

fn take_slab(_held: &Held<'_>) -> Option<*mut ThreadBlock> {
    let free = REGISTRY.free.get();
    if !free.is_null() {
        // SAFETY: a block of the free list, under the lock.
        REGISTRY.free.set(unsafe { &*free }.next.get());
        return Some(free);
    }
    if REGISTRY.slab_left.get() == 0 {
        let step = map::anonymous(SLAB_BYTES)?;
        REGISTRY.slab.set(step.as_ptr().cast());
        REGISTRY.slab_left.set(SLAB_BYTES / size_of::<ThreadBlock>());
    }
    let taken = REGISTRY.slab.get();
    // SAFETY: at least one more block fits in the step, so one past `taken` is within it or its end.
    REGISTRY.slab.set(unsafe { taken.add(1) });
    REGISTRY.slab_left.set(REGISTRY.slab_left.get() - 1);
    Some(taken)
}

fn give_slab(_held: &Held<'_>, block: *mut ThreadBlock) {
    // SAFETY: the block is its thread's no more, and the lock is held.
    unsafe { &*block }.next.set(REGISTRY.free.get());
    REGISTRY.free.set(block);
}

/// The round of key destructors in which we let go of the thread, so that other libraries' destructors are mostly done. By glibc
/// the standard library's are run before the first round, by others in the second. Each round takes some 350 instructions;
/// PTHREAD_DESTRUCTOR_ITERATIONS is 4 in glibc and musl.
const ROUNDS: u32 = if cfg!(target_env = "gnu") { 2 } else { 3 };

unsafe extern "C" fn at_thread_exit(value: *mut c_void) {
    let block: *mut ThreadBlock = value.cast();
    // SAFETY: the value that `register` armed: this thread's live block.
    let block_ref = unsafe { &*block };
    // SAFETY: by the owner, outside the cold path.
    let own = unsafe { block_ref.own() };
    own.rounds += 1;
    if own.rounds < ROUNDS && EXIT.arm(at_thread_exit, value) {
        return;
    }
    thread::keeping_errno(|| HOT.with(|hot| retire(hot, block)));
}

/// Ends the thread's registration: folds its counters, gives back what it holds.
fn retire(hot: &Hot, block: *mut ThreadBlock) {
    hot.call();
    if fork::in_child() {
        hot.block.store(retired(), Ordering::Relaxed);
        return;
    }
    let depth = hot.depth.replace(1);
    // SAFETY: this thread's own block.
    let me = unsafe { &*block };
    me.set_busy(true);
    // SAFETY: by the owner, and no cold path is open in it.
    let own = unsafe { me.own() };
    // While `stop` still sees us: the ring is the running profile's.
    if let Some((ring, _)) = own.ring.take()
        && me.seen().is_of_same_profile(session::state())
        && let Some(sink) = session::sink()
    {
        let started = clock::now();
        sink.release_ring(ring);
        own.untold.charge(clock::now().0.saturating_sub(started.0));
    }
    own.untold.tell();
    // Before the lock, whose holder may be waiting for all who are busy.
    me.set_busy(false);
    own.stacks.release();
    if me.was_exact.get() {
        RANGE.give_all(&mut own.kept);
    }
    let Some(held) = REGISTRY.lock.take() else { return };
    REGISTRY.ended.set(REGISTRY.ended.get().plus(hot.counters()));
    let profile = REGISTRY.profile.get();
    REGISTRY.ended_in_profile.set(REGISTRY.ended_in_profile.get().plus(me.in_profile(hot, profile)));
    REGISTRY.truncated.end(me.baseline.truncated(profile));
    unlink(&held, me);
    hot.block.store(retired(), Ordering::Relaxed);
    give_slab(&held, block);
    drop(held);
    hot.depth.set(depth);
}

fn unlink(_held: &Held<'_>, block: &ThreadBlock) {
    let (previous, next) = (block.previous.get(), block.next.get());
    // SAFETY: null, or a live block of the list, whose lock is held.
    match unsafe { previous.as_ref() } {
        Some(previous) => previous.next.set(next),
        None => REGISTRY.list.set(next),
    }
    // SAFETY: as above.
    if let Some(next) = unsafe { next.as_ref() } {
        next.previous.set(previous);
    }
}

impl ThreadBlock {
    /// The owner's part.
    ///
    /// # Safety
    /// - Called by the thread whose block this is.
    /// - No other reference from this call is alive: `depth` keeps the cold path from being entered twice.
    #[expect(clippy::mut_from_ref, reason = "the cell is the owner's alone, as the duties say")]
    pub(super) unsafe fn own(&self) -> &mut Own {
        // SAFETY: the caller's duties.
        unsafe { &mut *self.own.get() }
    }

    /// The state that this thread adopted last.
    pub(super) fn seen(&self) -> State {
        State::of(self.seen.load(Ordering::Relaxed))
    }

    pub(super) fn set_seen(&self, state: State) {
        self.was_exact.set(self.was_exact.get() || state.mode() == Mode::Exact);
        self.seen.store(state.word(), Ordering::Relaxed);
    }

    /// Marks the thread as inside the cold path. `session::barrier` orders this before a stopper's look.
    #[inline]
    pub(super) fn set_busy(&self, busy: bool) {
        // Release: what was done inside is done before 'not busy' is seen; pairs with the Acquire in `anyone_behind`.
        self.busy.store(u32::from(busy), Ordering::Release);
        // Keeps the compiler from moving the look at the state before the mark.
        compiler_fence(Ordering::SeqCst);
        if busy && !barrier::is_granted() {
            // SeqCst: our mark before our look at the state; pairs with the fence in `barrier::everywhere`.
            fence(Ordering::SeqCst);
        }
    }

    /// Begins a profile for this thread: what is counted from here on is the profile's.
    pub(super) fn begin_profile(&self, profile: u32, counted: Counters) {
        self.baseline.begin(profile, counted);
    }

    /// Exact mode: a block older than the profile left.
    pub(super) fn count_older(&self, bytes: usize) {
        self.baseline.count_older(bytes as u64);
    }

    /// Exact mode's lean way: a remembered stack was truncated.
    #[inline(always)]
    pub(super) fn count_truncated(&self) {
        self.baseline.count_truncated();
    }

    /// What this thread counted since it adopted `profile`; nothing if it has not yet. By the owner.
    fn in_profile(&self, hot: &Hot, profile: u32) -> Counters {
        self.baseline.of(profile).map_or(ZERO, |correction| hot.counters().plus(correction))
    }

    fn hot(&self) -> &Hot {
        // SAFETY: the block is registered and the registry's lock held (or this is its own thread): the thread can't
        // end, so its words exist.
        unsafe { &*self.hot }
    }
}

/// All threads' counters: since the process's start, and since the start of the profile.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct AllCounters {
    pub(crate) process: Counters,
    pub(crate) profile: Counters,
}

/// Sums all threads' counters; live figures from them are never negative. Tells the sink of their truncated stacks. Takes the
/// registry's lock: 20 ns a thread.
/// `None` where the calling thread holds that lock already.
pub(crate) fn totals() -> Option<AllCounters> {
    let _held = REGISTRY.lock.take()?;
    let profile = REGISTRY.profile.get();
    // All frees before all allocations.
    let late = LATE.read();
    let late_in_profile = LATE_IN_PROFILE.read();
    let mut process = REGISTRY.ended.get().plus(late);
    let mut in_profile = REGISTRY.ended_in_profile.get().plus(late_in_profile);
    let mut truncated = 0_u64;
    for_each(|block| {
        let frees = block.hot().frees();
        process = process.plus(frees);
        // A thread that adopts the profile between the two rounds is left out of both: what it counted since is younger
        // than this sum.
        let correction = block.baseline.of(profile);
        block.marked.set(correction.is_some());
        truncated = truncated.wrapping_add(block.baseline.truncated(profile));
        if let Some(correction) = correction {
            in_profile = in_profile.plus(frees).plus(correction);
        }
    });
    for_each(|block| {
        let allocs = block.hot().allocs();
        process = process.plus(allocs);
        if block.marked.get() {
            in_profile = in_profile.plus(allocs);
        }
    });
    REGISTRY.latest.set(process);
    if let Some(sink) = session::sink() {
        sink.truncated(REGISTRY.truncated.untold(truncated));
    }
    Some(AllCounters { process, profile: in_profile })
}

/// Visits every registered thread. The lock must be held.
fn for_each(mut f: impl FnMut(&ThreadBlock)) {
    let mut at = REGISTRY.list.get();
    // SAFETY: list pointers are live blocks while the lock is held.
    while let Some(block) = unsafe { at.as_ref() } {
        f(block);
        at = block.next.get();
    }
}

/// Calls every thread to the cold path, so that it adopts the state; returns when each has, or is sure to at its next
/// event. With `profile`: begins the sums of another profile. False: a thread stayed inside for 2 s.
pub(crate) fn call_all(now: State, profile: Option<u32>) -> bool {
    let Some(_held) = REGISTRY.lock.take() else { return false };
    if let Some(profile) = profile {
        REGISTRY.profile.set(profile);
        REGISTRY.ended_in_profile.set(ZERO);
        REGISTRY.truncated.begin();
        LATE_IN_PROFILE.zero();
    }
    let deadline = clock::monotonic_ns() + LONGEST_CALL_NS;
    for_each(|block| block.hot().call());
    loop {
        barrier::everywhere();
        let mut missed = false;
        for_each(|block| {
            // Acquire in `busy`: pairs with the Release that ends the cold path, so that its last budget is seen.
            let inside = block.busy.load(Ordering::Acquire) != 0;
            if block.seen() != now && (inside || !block.hot().is_called()) && block.id != thread::id() {
                missed = true;
                block.hot().call();
            }
        });
        if !missed {
            return true;
        }
        if clock::monotonic_ns() > deadline {
            return false;
        }
        std::thread::yield_now();
    }
}

/// Calls every thread once, without seeing to it that each hears at once: for a change that may come late.
pub(super) fn call_all_soon() {
    let Some(_held) = REGISTRY.lock.take() else { return };
    for_each(|block| block.hot().call());
}

/// The longest that a thread is waited for which stays inside: it does bounded work there, unless it was stopped.
const LONGEST_CALL_NS: u64 = 2_000_000_000;

/// Is any other thread inside the cold path under an older state than `now`?
pub(crate) fn anyone_behind(now: State) -> bool {
    let Some(_held) = REGISTRY.lock.take() else { return false };
    let me = thread::id();
    let mut behind = false;
    for_each(|block| {
        // Acquire: pairs with the Release that ends the cold path.
        let busy = block.busy.load(Ordering::Acquire) != 0;
        behind |= block.id != me && busy && !block.seen().is_of_same_profile(now);
    });
    behind
}

/// In a forked child that starts a profile of its own: only the calling thread exists, and the locks may be held by
/// threads that don't.
pub(crate) fn reset_in_child() {
    REGISTRY.lock.reset_in_child();
    let Some(_held) = REGISTRY.lock.take() else { return };
    HOT.with(|hot| {
        let mine = hot.block.load(Ordering::Relaxed);
        let keep = if mine == retired() { null_mut() } else { mine };
        // The other threads' words may be gone with their stacks: their sum is as the parent's last look had it.
        REGISTRY.ended.set(REGISTRY.latest.get().minus(hot.counters()));
        LATE.zero();
        REGISTRY.list.set(keep);
        // Another thread may have been taking a block out when it forked.
        REGISTRY.free.set(null_mut());
        REGISTRY.slab_left.set(0);
        // SAFETY: null or this thread's own block.
        if let Some(block) = unsafe { keep.as_ref() } {
            block.next.set(null_mut());
            block.previous.set(null_mut());
            // SAFETY: by the owner, outside the cold path.
            unsafe { block.own() }.ring = None;
            block.lean.set(State::NONE);
        }
    });
}
