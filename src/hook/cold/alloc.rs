//! Allocations that the hot path did not admit: sampled or not, from a slot or from the inner allocator.
//!
//! A tracked block's identity is written where its free will look (a slot's entry, or the live table) before its
//! pointer is handed out, and its birth is stamped after the inner allocator returned.

use std::alloc::{GlobalAlloc, Layout};
use std::ptr::null_mut;
use std::sync::atomic::Ordering;

use super::{Cold, SMALL_IN_TABLE, every_free_looks, exact, own_hot, refusable};
use crate::hook::hot::Hot;
use crate::hook::own;
use crate::hook::session::{self, Mode};
use crate::live::{LIVE, LargeBlock};
use crate::sampler::governor;
use crate::sampler::weight::IntervalCode;
use crate::slots::entry::{BESIDE_BYTES, Identity};
use crate::slots::{Half, RANGE, Range, SLOT_MAX_BYTES, Slot};
use crate::sys::stack::Registers;
use crate::sys::{clock, refusal};
use crate::units::Ticks;

/// Where a tracked block is found again.
pub(super) enum Place {
    Slot(Slot),
    Table,
}

/// An allocation that the hot path did not admit.
///
/// # Safety
/// As for [`GlobalAlloc::alloc`].
#[cold]
#[inline(never)]
pub(in crate::hook) unsafe fn alloc(size: usize, align: usize, inner: &dyn GlobalAlloc, zeroed: bool) -> *mut u8 {
    let registers = Registers::here();
    // SAFETY: they were a layout; apart, they stay in the registers that they came in.
    let layout = unsafe { Layout::from_size_align_unchecked(size, align) };
    let hot = own_hot();
    if let Some(ptr) = exact::alloc(hot, layout, zeroed, registers) {
        return ptr;
    }
    // SAFETY: the caller's layout.
    if let Some(ptr) = unsafe { refusable::alloc(hot, layout, inner, zeroed) } {
        return ptr;
    }
    // SAFETY: the caller's layout.
    unsafe { alloc_at_length(hot, layout, inner, zeroed, registers.ip, registers.sp, registers.fp, registers.lr) }
}

/// Registers one by one: a `Registers` would be kept in memory where it came from.
///
/// # Safety
/// As for [`GlobalAlloc::alloc`].
#[expect(clippy::too_many_arguments, reason = "as said")]
#[inline(never)]
unsafe fn alloc_at_length(
    hot: &Hot,
    layout: Layout,
    inner: &dyn GlobalAlloc,
    zeroed: bool,
    ip: u64,
    sp: u64,
    fp: u64,
    lr: u64,
) -> *mut u8 {
    let registers = Registers { ip, sp, fp, lr };
    hot.undo(layout.size());
    if hot.depth.get() != 0 {
        // SAFETY: the caller's layout.
        return unsafe { own::alloc(inner, layout, zeroed) };
    }
    let mut cold = Cold::enter(hot);
    let ptr = match cold.decide(layout.size()) {
        // SAFETY: the caller's layout.
        None => unsafe { plain(inner, layout, zeroed) },
        // SAFETY: the caller's layout.
        Some(interval) => unsafe { tracked(&mut cold, inner, layout, zeroed, interval, &registers) },
    };
    if ptr.is_null() {
        refusal::look();
    }
    let counted = cold.count_alloc(layout.size(), !ptr.is_null());
    cold.leave(counted);
    ptr
}

/// # Safety
/// As for [`GlobalAlloc::alloc`].
pub(in crate::hook) unsafe fn plain(inner: &dyn GlobalAlloc, layout: Layout, zeroed: bool) -> *mut u8 {
    if zeroed {
        // SAFETY: the caller's layout.
        unsafe { inner.alloc_zeroed(layout) }
    } else {
        // SAFETY: the caller's layout.
        unsafe { inner.alloc(layout) }
    }
}

/// A new block that is to be tracked.
///
/// # Safety
/// As for [`GlobalAlloc::alloc`].
unsafe fn tracked(
    cold: &mut Cold<'_>,
    inner: &dyn GlobalAlloc,
    layout: Layout,
    zeroed: bool,
    interval: IntervalCode,
    registers: &Registers,
) -> *mut u8 {
    // What a sample costs is the governor's to know, but for what the inner allocator does anyway; exact mode has none.
    let governed = cold.state.mode() == Mode::Sampled;
    let now = |asked: bool| if asked { clock::now() } else { Ticks(0) };
    let started = now(governed);
    let Some(mut identity) = cold.identify(registers, interval) else {
        // SAFETY: the caller's layout.
        return unsafe { plain(inner, layout, zeroed) };
    };
    let is_large = layout.size().max(layout.align()) > SLOT_MAX_BYTES;
    let identified = now(governed && is_large);
    // SAFETY: the caller's layout.
    let Some((ptr, place)) = (unsafe { place(inner, layout, zeroed) }) else { return null_mut() };
    // After the inner allocator returned, so that a free of the block that had this address is older.
    identity.birth = clock::now();
    if !settle(ptr, &place, &identity, layout.size(), cold.state.mode()) {
        if let Some(sink) = session::sink() {
            sink.untracked(identity.stack);
        }
        return ptr;
    }
    cold.birth(&identity, layout.size(), 0);
    if governed && let Some((_, own)) = cold.block.as_mut() {
        let others = if is_large { identity.birth.0.saturating_sub(identified.0) } else { 0 };
        own.untold.charge(clock::now().0.saturating_sub(started.0).saturating_sub(others));
    }
    ptr
}

/// Memory for a tracked block: a slot where it fits one, else the inner allocator's.
///
/// # Safety
/// As for [`GlobalAlloc::alloc`].
pub(super) unsafe fn place(inner: &dyn GlobalAlloc, layout: Layout, zeroed: bool) -> Option<(*mut u8, Place)> {
    if let Some((at, slot)) = RANGE.take(Half::Sampled, layout) {
        if zeroed {
            // SAFETY: the slot has at least `layout.size()` bytes.
            unsafe { at.as_ptr().write_bytes(0, layout.size()) };
        }
        return Some((at.as_ptr(), Place::Slot(slot)));
    }
    // SAFETY: the caller's layout.
    let ptr = unsafe { plain(inner, layout, zeroed) };
    (!ptr.is_null()).then_some((ptr, Place::Table))
}

/// Writes a block's identity where its free will look. False: it can't be tracked.
pub(super) fn settle(ptr: *mut u8, place: &Place, identity: &Identity, size: usize, mode: Mode) -> bool {
    match place {
        Place::Slot(slot) => match RANGE.entry(*slot) {
            Some(entry) => {
                // What an earlier profile tracked is no sample of this one.
                if mode == Mode::Sampled && entry.get().is_none_or(|held| held.session != identity.session) {
                    governor::sample_memory(slot_memory(*slot));
                }
                entry.set(identity);
                true
            }
            None => false,
        },
        Place::Table => {
            if size <= SLOT_MAX_BYTES {
                if mode != Mode::Exact && !every_free_looks() {
                    // Its free would not look for it.
                    return false;
                }
                // Threads learn of it when they adopt the next mode; in this one all their frees look.
                SMALL_IN_TABLE.store(true, Ordering::Relaxed);
            }
            LIVE.insert(LargeBlock { address: ptr.expose_provenance(), identity: *identity })
        }
    }
}

/// What a sample in this slot costs: the slot, for it is no memory that the inner allocator would not have given but
/// for its rounding, counted whole all the same, and its entry.
pub(super) fn slot_memory(slot: Slot) -> i64 {
    i64::try_from(Range::slot_bytes(slot) + BESIDE_BYTES).unwrap_or(0)
}
