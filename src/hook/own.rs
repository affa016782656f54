//! Our own memory: what the drain thread and the reports allocate, apart from the program's.
//!
//! Promises: such blocks come from a half of the range that nothing else uses, so that a free by any thread, inside the
//! profiler or out, recognises them and counts nothing. Where there is no range, or where it is too small for a block
//! of ours, it comes from the inner allocator and is listed in the live table under a number that is no profile's.

use std::alloc::{GlobalAlloc, Layout};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crate::live::{LIVE, LargeBlock};
use crate::sampler::weight::IntervalCode;
use crate::slots::entry::Identity;
use crate::slots::{Half, RANGE, Range, SLOT_MAX_BYTES};
use crate::sys::fork;
use crate::units::{StackId, Ticks};

/// The 'profile' of our own blocks in the live table; profiles have 24 bits.
pub(crate) const OWN: u32 = u32::MAX;

/// Blocks of ours in the live table now: lets a free skip looking where there are none.
static LISTED: AtomicUsize = AtomicUsize::new(0);

/// Blocks of ours that were ever asked for.
static ASKED: AtomicU64 = AtomicU64::new(0);

/// Blocks of ours that were ever asked for. For the test that captures ask for none.
pub(super) fn asked() -> u64 {
    ASKED.load(Ordering::Relaxed)
}

/// Is this a block of ours that no slot holds? Not in a forked child, where the table's locks may be held for ever.
pub(super) fn is_listed(ptr: *mut u8) -> bool {
    // Relaxed: whoever frees such a block has got its pointer, which orders this after the listing.
    LISTED.load(Ordering::Relaxed) != 0 && !fork::in_child() && LIVE.is_listed_as(ptr.expose_provenance(), OWN)
}

/// Before the inner allocator takes it back.
pub(super) fn unlist(ptr: *mut u8) {
    if LIVE.remove(ptr.expose_provenance()).is_some() {
        LISTED.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A block of ours. Null where neither the range nor the inner allocator has one.
///
/// # Safety
/// As for [`GlobalAlloc::alloc`].
pub(super) unsafe fn alloc(inner: &dyn GlobalAlloc, layout: Layout, zeroed: bool) -> *mut u8 {
    // Relaxed: a counter.
    ASKED.fetch_add(1, Ordering::Relaxed);
    if let Some((at, _)) = RANGE.take(Half::Own, layout) {
        if zeroed {
            // SAFETY: the slot has at least `layout.size()` bytes.
            unsafe { at.as_ptr().write_bytes(0, layout.size()) };
        }
        return at.as_ptr();
    }
    // SAFETY: the caller's layout.
    let at = unsafe { super::cold::plain(inner, layout, zeroed) };
    if !at.is_null() && !fork::in_child() {
        let identity = Identity {
            birth: Ticks(0),
            stack: StackId::ROOT,
            interval: IntervalCode::EXACT,
            carried: 0.0,
            session: OWN,
        };
        if LIVE.insert(LargeBlock { address: at.expose_provenance(), identity }) {
            // Relaxed: as in `is_listed`.
            LISTED.fetch_add(1, Ordering::Relaxed);
            if layout.size() <= SLOT_MAX_BYTES && RANGE.bounds().1 != 0 {
                super::cold::look_at_every_free();
            }
        }
    }
    at
}

/// Moves a block of ours; it stays ours.
///
/// # Safety
/// As for [`GlobalAlloc::realloc`]; `ptr` is a slot of the own half.
pub(super) unsafe fn realloc(inner: &dyn GlobalAlloc, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
    let Ok(new_layout) = Layout::from_size_align(new_size, layout.align()) else { return std::ptr::null_mut() };
    if let Some((_, slot)) = RANGE.locate(ptr)
        && new_layout.size() <= Range::slot_bytes(slot)
    {
        return ptr;
    }
    // SAFETY: a valid layout.
    let fresh = unsafe { alloc(inner, new_layout, false) };
    if fresh.is_null() {
        return fresh;
    }
    // SAFETY: two distinct blocks, each of at least the smaller size.
    unsafe { ptr.copy_to_nonoverlapping(fresh, layout.size().min(new_size)) };
    if let Some((_, slot)) = RANGE.locate(ptr) {
        // SAFETY: the caller gave the old block up.
        unsafe { RANGE.give(slot) };
    }
    fresh
}
