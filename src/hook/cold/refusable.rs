//! The lean way while the process may be refused memory (`sys::refusal`): the inner allocator is asked, looked at, and
//! the block counted, in some 50 instructions.
//!
//! Promises: what the long way (`Cold`) does for an allocation that is not sampled, or nothing: then the caller takes the
//! long way. Closed in a forked child, inside the profiler, in exact mode, for a thread that has not adopted the state in
//! force, and for the allocation that a sample point falls on. Nothing is marked as entered: nothing of the profiler runs,
//! and what is counted is counted as on the hot path, by less budget.

use std::alloc::{GlobalAlloc, Layout};
use std::sync::atomic::Ordering;

use super::alloc::plain;
use crate::hook::hot::Hot;
use crate::hook::session::{self, Mode};
use crate::hook::thread;
use crate::sys::{fork, refusal};

/// An allocation whose bytes the hot path has subtracted. `None`: take the long way.
///
/// # Safety
/// As for [`GlobalAlloc::alloc`].
#[inline(always)]
pub(super) unsafe fn alloc(hot: &Hot, layout: Layout, inner: &dyn GlobalAlloc, zeroed: bool) -> Option<*mut u8> {
    if !refusal::is_possible() {
        return None;
    }
    // SAFETY: the caller's layout.
    unsafe { looked_at(hot, layout, inner, zeroed) }
}

/// # Safety
/// As for [`GlobalAlloc::alloc`].
#[inline(never)]
unsafe fn looked_at(hot: &Hot, layout: Layout, inner: &dyn GlobalAlloc, zeroed: bool) -> Option<*mut u8> {
    // Relaxed: the owner's own word.
    let block = hot.block.load(Ordering::Relaxed);
    if hot.depth.get() != 0 || block.is_null() || block == thread::retired() || fork::in_child() {
        return None;
    }
    // SAFETY: this thread's own block; it is given back only by this thread, at its end.
    let block = unsafe { &*block };
    let state = session::state();
    if block.seen() != state || state.mode() == Mode::Exact {
        return None;
    }
    {
        // SAFETY: by the owner, outside the cold path, and gone before the inner allocator runs.
        let own = unsafe { block.own() };
        let left = own.reserve.checked_sub(i64::try_from(layout.size()).ok()?)?;
        if left < 0 {
            return None;
        }
        own.reserve = left;
    }
    // Not counted while the inner allocator is asked, which may take its time to refuse: others read the sums meanwhile.
    hot.undo(layout.size());
    // SAFETY: the caller's layout.
    let ptr = unsafe { plain(inner, layout, zeroed) };
    if !ptr.is_null() {
        hot.charge(layout.size());
        hot.count_alloc();
    }
    Some(ptr)
}
