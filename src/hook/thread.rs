//! Threads: the cold state of each, their registry, what they counted, and how all of them are called.
//!
//! Promises: registering takes no heap memory; a thread that ends is folded into the totals of the ended, exactly;
//! what it still allocates or frees afterwards (other libraries' destructors run after ours) is counted by shared
//! atomics. Whoever reads another thread's hot words holds the registry's lock, which that thread takes to end.
//!
//! | file | what it holds |
//! |---|---|
//! | this one | a thread's start and end |
//! | `block` | the cold state of one thread |
//! | `registry` | the list of all blocks, their memory, and the lock |
//! | `counts` | the counters that several threads touch |
//! | `totals` | the sums over all threads, ended ones included |
//! | `call` | the call that makes every thread look at the state, and the look at who has not |
//! | `forked` | forks: what is summed up before, and what a child does without |

mod block;
mod call;
mod counts;
mod forked;
mod registry;
mod totals;

use std::ffi::c_void;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::hot::{HOT, Hot};
use super::session::{self, State};
use crate::slots::RANGE;
use crate::sys::thread::ExitKey;
use crate::sys::{clock, fork, process, refusal, thread};
pub(super) use block::{Own, ThreadBlock};
pub(super) use call::call_all_soon;
pub(crate) use call::{anyone_behind, call_all};
pub(super) use forked::in_child;
pub(crate) use forked::{reset_in_child, was_taken_over};
pub(crate) use totals::totals;
pub(super) use totals::{LATE, LATE_IN_PROFILE};

/// What `hot.block` says after the thread's end: no block any more, and none to be made.
pub(super) fn retired() -> *mut ThreadBlock {
    std::ptr::dangling_mut()
}

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
    look_out();
    let id = thread::id();
    let registry = registry::lock()?;
    let (fresh, kept) = registry.take_memory()?;
    // SAFETY: `fresh` is a block's worth of memory that nobody else uses.
    unsafe { fresh.write(ThreadBlock::new(hot, id, seed(id), kept)) };
    if !EXIT.arm(at_thread_exit, fresh.cast()) {
        // Without a callback its counters would be read after its memory is gone: it counts by the shared atomics.
        registry.give_memory(fresh);
        hot.block.store(retired(), Ordering::Relaxed);
        return None;
    }
    registry.add(fresh);
    drop(registry);
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

static EXIT: ExitKey = ExitKey::new();

/// Before the process's first thread is registered: forks are seen from now on, and the end of the library that this is in.
fn look_out() {
    static LOOKED: AtomicBool = AtomicBool::new(false);
    // Relaxed: done once, whoever does it.
    if !LOOKED.load(Ordering::Relaxed) && !LOOKED.swap(true, Ordering::Relaxed) {
        forked::look_out();
        process::at_unload(let_go);
    }
}

/// No thread's end comes here any more.
extern "C" fn let_go() {
    EXIT.close();
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
    hot.close();
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
    // While `stop` still sees us: the ring is the running profile's. Of one that was stopped it is not given back: `stop` waits for
    // nobody who has seen that, and the next profile may begin before the ring's number gets there.
    if let Some((ring, _)) = own.ring.take()
        && me.seen().holds_off_stop(session::state())
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
    if me.was_exact() {
        RANGE.give_most(&mut own.kept);
    }
    let Some(registry) = registry::lock() else { return };
    registry.sums().end(hot, me);
    registry.remove(me);
    hot.block.store(retired(), Ordering::Relaxed);
    registry.give_memory(block);
    drop(registry);
    hot.depth.set(depth);
}
