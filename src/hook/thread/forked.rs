//! Forks: what threads counted is summed up before each, since their words may be gone in the child with their stacks; and a child
//! begins with the forking thread alone.
//!
//! Promises: a child of a process that never started a profile is a process like any other (`fork::take_over`): by its first
//! event at the latest nothing is left in it of threads that it does not have, nor of locks that they held. A child of one that did
//! only counts, until it starts a profile of its own. After a fork by the C library all that the parent's threads counted is
//! the child's as well; `_Fork` and raw `clone` leave of other threads' counts what the parent's last look found. Nothing is
//! waited for but the registry, for 100 ms at most.

use std::ptr::null_mut;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::registry::{self, Registry};
use super::{retired, totals};
use crate::hook::OWN;
use crate::hook::hot::HOT;
use crate::hook::session::{self, State};
use crate::live::LIVE;
use crate::sys::fork;
use crate::sys::thread::keeping_errno;

/// The longest that a fork waits for whoever holds the registry.
const LONGEST_WAIT: Duration = Duration::from_millis(100);

/// The process's forks are seen from now on. Once.
pub(super) fn look_out() {
    fork::arm();
    fork::around(before, in_parent, after);
}

extern "C" fn before() {
    keeping_errno(|| {
        if !fork::in_child()
            && let Some(registry) = registry::lock_within(LONGEST_WAIT)
        {
            totals::sum(&registry);
            HOT.with(|hot| registry.sums().keep_for_child(hot));
        }
    });
}

extern "C" fn in_parent() {
    keeping_errno(|| {
        if !fork::in_child()
            && let Some(registry) = registry::lock_within(LONGEST_WAIT)
        {
            registry.sums().forget_child();
        }
    });
}

extern "C" fn after() {
    keeping_errno(in_child);
}

/// Is this a forked child of a process that has had a profile?
#[inline(always)]
pub(in crate::hook) fn in_child() -> bool {
    fork::in_child() && !take_over()
}

#[cold]
#[inline(never)]
fn take_over() -> bool {
    session::state().profile() == 0
        && fork::take_over(|| {
            LIVE.reset_in_child(OWN);
            reset_in_child();
            TAKEN_OVER.store(true, Ordering::Relaxed);
        })
}

/// This is a child that was taken over and has not begun a profile since.
static TAKEN_OVER: AtomicBool = AtomicBool::new(false);

/// Is this a forked child whose parent never had a profile? Once.
pub(crate) fn was_taken_over() -> bool {
    TAKEN_OVER.swap(false, Ordering::Relaxed)
}

/// In a forked child: only the calling thread exists, and the locks may be held by threads that don't.
pub(crate) fn reset_in_child() {
    let Some(registry) = registry::lock_in_child() else { return };
    forget_others(&registry);
}

fn forget_others(registry: &Registry) {
    HOT.with(|hot| {
        let mine = hot.block.load(Ordering::Relaxed);
        let keep = if mine == retired() { null_mut() } else { mine };
        registry.sums().reset_in_child(hot);
        registry.keep_only(keep);
        // SAFETY: null or this thread's own block.
        if let Some(block) = unsafe { keep.as_ref() } {
            // SAFETY: by the owner: nothing of its cold path that needs it has begun.
            unsafe { block.own() }.ring = None;
            block.lean.set(State::NONE);
        }
    });
}
