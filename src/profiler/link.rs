//! The one place where the hot side's records meet the store: the hook's `Sink`.
//!
//! Promises: a store is not ended while a thread may still use it. Threads inside the cold path are waited for by
//! `stop` through their busy marks; those without a mark (ended threads, our own) are counted here.

#![allow(unsafe_code, reason = "a pointer to the store of the running profile")]

use std::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use crate::drain::aggregator::{AGGREGATOR, LONGEST_STALL};
use crate::drain::orders;
use crate::hook::session::{self, Mode};
use crate::hook::sink::Sink;
use crate::ring::record::Record;
use crate::ring::{Producer, RingId};
use crate::store::Store;
use crate::sys::{fork, thread};
use crate::tree::Tree;
use crate::units::StackId;

/// The store of the running profile; null between profiles.
static STORE: AtomicPtr<Store> = AtomicPtr::new(std::ptr::null_mut());
/// Calls that are using it now, of threads that `stop` may not see as busy.
static USERS: AtomicU32 = AtomicU32::new(0);

/// The hook's way to the store.
#[derive(Debug)]
pub(crate) struct Link;

/// What the hook is given, once per process.
pub(crate) static SINK: &dyn Sink = &Link;

/// Opens the way to `store`.
pub(crate) fn connect(store: &'static Store) {
    STORE.store(std::ptr::from_ref(store).cast_mut(), Ordering::SeqCst);
}

/// Closes it. What was begun may go on until `in_use` is false.
pub(crate) fn disconnect() {
    STORE.store(std::ptr::null_mut(), Ordering::SeqCst);
}

/// Is anybody between finding the store and being done with it?
pub(crate) fn in_use() -> bool {
    USERS.load(Ordering::SeqCst) != 0
}

/// In a forked child: whoever was counted does not exist here.
pub(crate) fn reset_in_child() {
    USERS.store(0, Ordering::SeqCst);
    disconnect();
}

fn store() -> Option<&'static Store> {
    // SeqCst: pairs with `disconnect` and `in_use`: either we see null, or `stop` sees us.
    let store = STORE.load(Ordering::SeqCst);
    // SAFETY: null, or a store that `stop` frees only after `disconnect` and once nobody uses it.
    unsafe { store.as_ref() }
}

/// Runs `f` on the store of the running profile, if there is one, from any thread.
pub(crate) fn with_store<T>(f: impl FnOnce(&'static Store) -> T) -> Option<T> {
    if fork::in_child() { None } else { using(f) }
}

fn using<T>(f: impl FnOnce(&'static Store) -> T) -> Option<T> {
    USERS.fetch_add(1, Ordering::SeqCst);
    let result = store().map(f);
    USERS.fetch_sub(1, Ordering::SeqCst);
    result
}

/// Makes an `attempt` at the aggregator, which waits for `LONGEST_STALL`. In exact mode it is repeated while something is
/// attributed or copied: among thousands of threads that help, each waits for its turn, and loses nothing. False: nothing moved for
/// that long, as where the lock's holder was stopped; or `LONGEST_WAIT` of it; or one attempt was all, as in sampled mode,
/// where a service's thread is not held up for a sample.
fn patiently(attempt: impl Fn() -> bool) -> bool {
    let progress = || (AGGREGATOR.turns(), using(|store| store.tables().last_attributed()));
    let most = if session::state().mode() == Mode::Exact { LONGEST_WAIT } else { LONGEST_STALL };
    for _ in 0..most.as_millis() / LONGEST_STALL.as_millis() {
        let before = progress();
        if attempt() {
            return true;
        }
        if progress() == before {
            break;
        }
    }
    // Relaxed: a counter, for the tests.
    GIVEN_UP.fetch_add(1, Ordering::Relaxed);
    false
}

/// The longest that an allocation waits in exact mode for an aggregator that works. A thousand threads ahead of it take less.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// So many records to apply, of a full ring's 8192, take longer than to hand them all over to the drain thread's processor.
const WORTH_HANDING_OVER: u64 = 1024;

/// How often a thread waited in vain.
static GIVEN_UP: AtomicU64 = AtomicU64::new(0);

/// See `GIVEN_UP`.
pub(crate) fn given_up() -> u64 {
    GIVEN_UP.load(Ordering::Relaxed)
}

/// Helpers may attribute to more new sites between two ticks than the drain thread laid out. To grow a file is a cancellation point.
fn lay_out_ahead() {
    thread::uncancelled(|| using(Store::lay_out_ahead));
}

impl Sink for Link {
    fn tree(&self) -> Option<Tree<'static>> {
        store().map(|store| store.tables().tree())
    }

    fn claim_ring(&self, thread: u32) -> Option<(RingId, Producer<'static>)> {
        let store = store()?;
        let id = store.claim_ring(thread)?;
        Some((id, store.ring(id)?.producer()))
    }

    fn ringless(&self) {
        // Relaxed: a counter.
        using(|store| store.loss().ringless_threads.fetch_add(1, Ordering::Relaxed));
    }

    fn release_ring(&self, ring: RingId) {
        using(|store| store.release_ring(ring));
    }

    fn help(&self, own: RingId) -> bool {
        lay_out_ahead();
        let before = AGGREGATOR.filled();
        let helped = patiently(|| AGGREGATOR.help(own, LONGEST_STALL).is_some());
        if AGGREGATOR.filled().wrapping_sub(before) >= WORTH_HANDING_OVER {
            orders::hurry();
        }
        helped
    }

    fn due(&self, own: RingId) {
        if AGGREGATOR.is_crowded() {
            lay_out_ahead();
            AGGREGATOR.help(own, Duration::ZERO);
        }
    }

    fn apply(&self, record: &Record) -> bool {
        patiently(|| AGGREGATOR.apply(record, LONGEST_STALL))
    }

    fn dropped(&self, stack: StackId) {
        using(|store| {
            // Relaxed: a counter.
            store.loss().dropped_records.fetch_add(1, Ordering::Relaxed);
            store.tables().tree().taint(stack);
        });
    }

    fn untracked(&self, stack: StackId) {
        using(|store| {
            // Relaxed: a counter.
            store.loss().untracked_blocks.fetch_add(1, Ordering::Relaxed);
            store.tables().tree().taint(stack);
        });
    }

    fn truncated(&self, stacks: u64) {
        using(|store| store.loss().truncated_stacks.fetch_add(stacks, Ordering::Relaxed));
    }
}
