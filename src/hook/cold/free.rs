//! Frees that the hot path did not admit: what the pointer is, its record, and back to where it came from.
//!
//! An entry leaves the live table before the inner allocator can hand its address out again.

use std::alloc::{GlobalAlloc, Layout};

use super::alloc::slot_memory;
use super::{Cold, exact, own_hot};
use crate::hook::hot::Hot;
use crate::hook::own;
use crate::hook::session::Mode;
use crate::live::LIVE;
use crate::ring::record::Kind;
use crate::sampler::governor;
use crate::slots::entry::Identity;
use crate::slots::{Half, RANGE, Slot};
use crate::sys::{clock, fork};

/// A free that the hot path did not admit.
///
/// # Safety
/// As for [`GlobalAlloc::dealloc`].
#[cold]
#[inline(never)]
pub(in crate::hook) unsafe fn dealloc(ptr: *mut u8, size: usize, align: usize, inner: &dyn GlobalAlloc) {
    // SAFETY: they were a layout; apart, they stay in the registers that they came in.
    let layout = unsafe { Layout::from_size_align_unchecked(size, align) };
    let hot = own_hot();
    // SAFETY: the caller's block and layout.
    if !unsafe { exact::dealloc(hot, ptr, size) } {
        // SAFETY: the caller's block and layout.
        unsafe { dealloc_at_length(hot, ptr, layout, inner) };
    }
}

/// # Safety
/// As for [`GlobalAlloc::dealloc`].
#[inline(never)]
unsafe fn dealloc_at_length(hot: &Hot, ptr: *mut u8, layout: Layout, inner: &dyn GlobalAlloc) {
    let found = find(ptr);
    if let Found::Own(slot) = found {
        if !fork::in_child() {
            // SAFETY: the caller gives the block up.
            unsafe { give_own(inner, ptr, layout, slot) };
        }
        return;
    }
    let mut cold = Cold::enter(hot);
    match found {
        Found::Slot(slot, identity) => {
            match identity {
                Some(identity) => cold.end_tracked(&identity, layout.size()),
                None => cold.count_older(layout.size()),
            }
            // SAFETY: the caller gives the block up.
            unsafe { cold.give_slot(slot) };
        }
        _ => {
            // Out of the table before the inner allocator can hand the address out again.
            let listed = if cold.child { None } else { LIVE.remove(ptr.expose_provenance()) };
            match listed {
                Some(block) => cold.end_tracked(&block.identity, layout.size()),
                None => cold.count_older(layout.size()),
            }
            // SAFETY: the caller's block, which the inner allocator made.
            unsafe { inner.dealloc(ptr, layout) };
        }
    }
    let counted = cold.count_free(layout.size());
    cold.leave(counted);
}

/// What a pointer turned out to be. Blocks in the table are looked for later, in their order with the inner allocator.
pub(super) enum Found {
    /// One of ours: in a slot, or (no range) listed.
    Own(Option<Slot>),
    Slot(Slot, Option<Identity>),
    Elsewhere,
}

pub(super) fn find(ptr: *mut u8) -> Found {
    match RANGE.locate(ptr) {
        Some((Half::Own, slot)) => Found::Own(Some(slot)),
        Some((Half::Sampled, slot)) => Found::Slot(slot, RANGE.entry(slot).and_then(|entry| entry.get())),
        None if own::is_listed(ptr) => Found::Own(None),
        None => Found::Elsewhere,
    }
}

/// # Safety
/// As for [`GlobalAlloc::dealloc`]; the block is ours.
pub(super) unsafe fn give_own(inner: &dyn GlobalAlloc, ptr: *mut u8, layout: Layout, slot: Option<Slot>) {
    match slot {
        // SAFETY: the caller gives the block up.
        Some(slot) => unsafe { RANGE.give(slot) },
        None => {
            own::unlist(ptr);
            // SAFETY: the inner allocator made it.
            unsafe { inner.dealloc(ptr, layout) };
        }
    }
}

impl Cold<'_> {
    /// A tracked block is freed: a record where it is of this profile, else one of the older.
    pub(super) fn end_tracked(&mut self, identity: &Identity, size: usize) {
        if self.current(identity) {
            let at = clock::now();
            self.death(Kind::Free, identity, size, at);
            if self.state.mode() == Mode::Sampled
                && let Some((_, own)) = self.block.as_mut()
            {
                own.untold.charge(clock::now().0.saturating_sub(at.0));
            }
        } else {
            self.count_older(size);
        }
    }

    /// # Safety
    /// The block of this slot is given up by its owner.
    pub(super) unsafe fn give_slot(&mut self, slot: Slot) {
        if self.child {
            return;
        }
        if let Some(entry) = RANGE.entry(slot) {
            if self.state.mode() == Mode::Sampled && entry.get().is_some_and(|identity| self.current(&identity)) {
                governor::sample_memory(-slot_memory(slot));
            }
            entry.clear();
        }
        // SAFETY: the caller gives the block up.
        unsafe { RANGE.give(slot) };
    }
}
