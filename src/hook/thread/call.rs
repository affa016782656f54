//! Calls: how a change of the state reaches every thread, and how a stopper sees that none is still at an older one.
//!
//! Promises: when [`call_all`] returns true, each thread has adopted the state, or its next event goes cold and finds it. A call is a
//! word of the thread's that others make cold (`Hot::call`); the thread may overwrite it by the one instruction that it is executing,
//! so callers look again after a barrier on all threads, and repeat. A thread that stays inside is waited for 2 s at most. Takes the
//! registry's lock throughout: no thread ends meanwhile.

use super::registry;
use crate::hook::session::State;
use crate::sys::{barrier, clock, thread};

/// The longest that a thread is waited for which stays inside: it does bounded work there, unless it was stopped.
const LONGEST_CALL_NS: u64 = 2_000_000_000;

/// Calls every thread to the cold path, so that it adopts the state; returns when each has, or is sure to at its next
/// event. With `profile`: begins the sums of another profile. False: a thread stayed inside for 2 s.
pub(crate) fn call_all(now: State, profile: Option<u32>) -> bool {
    let Some(registry) = registry::lock() else { return false };
    if let Some(profile) = profile {
        registry.sums().begin(profile);
    }
    let deadline = clock::monotonic_ns() + LONGEST_CALL_NS;
    registry.for_each(|block| block.hot().call());
    loop {
        barrier::everywhere();
        let mut missed = false;
        registry.for_each(|block| {
            // First, for its Acquire: of a thread that is outside the next looks see what it left behind.
            let inside = block.is_busy();
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
pub(in crate::hook) fn call_all_soon() {
    let Some(registry) = registry::lock() else { return };
    registry.for_each(|block| block.hot().call());
}

/// Is any other thread inside the cold path under an older state than `now`?
pub(crate) fn anyone_behind(now: State) -> bool {
    let Some(registry) = registry::lock() else { return false };
    let me = thread::id();
    let mut behind = false;
    registry.for_each(|block| {
        // First, as above.
        let busy = block.is_busy();
        behind |= block.id != me && busy && !block.seen().is_of_same_profile(now);
    });
    behind
}
