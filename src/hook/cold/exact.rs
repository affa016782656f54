//! Exact mode's lean way: small blocks that go from a slot to a slot, each with its record, in one pass.
//!
//! Promises: what the long way (`Cold`) does for the same event, or nothing: then the caller takes the long way. Open
//! for a thread that has adopted the state in force and has a ring; closed in a forked child, inside the profiler,
//! for blocks beyond the slots and for those of other profiles.
//!
//! Why it is short: the inner allocator is not asked, so nothing can fail behind our back; the bytes are counted by the
//! budget that the hot path subtracted already (`Hot::charge`), so nothing is granted, until a gigabyte is overdrawn; free slots are the thread's own;
//! errno is saved only where a system call can be made; and a stack that is remembered needs no tree.

use std::alloc::Layout;
use std::ptr::NonNull;
use std::sync::atomic::Ordering;

use super::HELPS;
use crate::hook::hot::Hot;
use crate::hook::session;
use crate::hook::thread::{self, Own, ThreadBlock};
use crate::ring::record::{RECORD_WORDS, Record, exact};
use crate::slots::entry::Entry;
use crate::slots::{RANGE, SmallClass};
use crate::sys::stack::Registers;
use crate::sys::thread::keeping_errno;
use crate::sys::{clock, fork};
use crate::units::{StackId, Ticks};
use crate::unwind;

/// One stay of a thread in the lean way.
struct Stay<'a> {
    hot: &'a Hot,
    block: &'a ThreadBlock,
    own: &'a mut Own,
}

impl<'a> Stay<'a> {
    /// Enters, if the way is open. About 20 instructions.
    #[inline(always)]
    fn enter(hot: &'a Hot) -> Option<Stay<'a>> {
        // Relaxed: the owner's own word.
        let block = hot.block.load(Ordering::Relaxed);
        if hot.depth.get() != 0 || block.is_null() || block == thread::retired() || fork::in_child() {
            return None;
        }
        // SAFETY: this thread's own block; it is given back only by this thread, at its end.
        let block = unsafe { &*block };
        hot.depth.set(1);
        block.set_busy(true);
        // SAFETY: by the owner, and `depth` keeps a second stay from beginning.
        let own = unsafe { block.own() };
        let stay = Stay { hot, block, own };
        // Once marked as busy, so that whoever changes the state sees us, or we the change.
        if stay.block.lean.get() == session::state() {
            return Some(stay);
        }
        stay.leave();
        None
    }

    #[inline(always)]
    fn leave(self) {
        self.block.set_busy(false);
        self.hot.depth.set(0);
    }

    #[inline(always)]
    fn send(&mut self, words: [u64; RECORD_WORDS]) {
        if let Some((_, ring)) = self.own.ring.as_mut()
            && ring.push_words(&words).is_ok()
        {
            return;
        }
        let [at, sized, aux, stack] = words;
        send_to_due(self.own, at, sized, aux, stack);
    }

    #[inline(always)]
    fn set(&self, entry: &Entry, birth: Ticks, stack: StackId) {
        entry.set_exact(birth, stack, self.block.lean.get().profile());
    }

    /// Birth and stack of a block, if it belongs to the profile that runs.
    #[inline(always)]
    fn current(&self, entry: &Entry) -> Option<(Ticks, StackId)> {
        entry.of_exact(self.block.lean.get().profile())
    }
}

/// The ring is due to be drained, or full: helps to drain, and gives the record up where that does not help.
#[cold]
#[inline(never)]
fn send_to_due(own: &mut Own, at: u64, sized: u64, aux: u64, stack: u64) {
    let words = [at, sized, aux, stack];
    keeping_errno(|| {
        let Some(sink) = session::sink() else { return };
        let id = own.ring.as_ref().map(|(id, _)| *id);
        // In one that is due there is room.
        if let Some((id, ring)) = own.ring.as_mut()
            && ring.put(&words).is_ok()
        {
            sink.due(*id);
            return;
        }
        for _ in 0..HELPS {
            let helped = id.is_some_and(|id| sink.help(id));
            if let Some((_, ring)) = own.ring.as_mut()
                && ring.put(&words).is_ok()
            {
                return;
            }
            if !helped {
                break;
            }
        }
        if let Some(record) = Record::decode(words) {
            sink.dropped(record.stack);
        }
    });
}

/// A stack that is not remembered. `None`: no profile to number it in. Registers one by one, as for `alloc_at_length`.
#[cold]
#[inline(never)]
fn changed_stack(ip: u64, sp: u64, fp: u64, lr: u64, own: &mut Own) -> Option<StackId> {
    keeping_errno(|| {
        let sink = session::sink()?;
        let captured = unwind::capture_anew(Registers { ip, sp, fp, lr }, &mut own.stacks, &sink.tree()?);
        if captured.truncated {
            sink.truncated(1);
        }
        Some(captured.stack)
    })
}

#[inline(always)]
fn stack_of(registers: Registers, stay: &mut Stay<'_>) -> Option<StackId> {
    let Some(captured) = unwind::recalled(registers, &stay.own.stacks) else {
        return changed_stack(registers.ip, registers.sp, registers.fp, registers.lr, stay.own);
    };
    if captured.truncated {
        stay.block.count_truncated();
    }
    Some(captured.stack)
}

/// The size of a block that fits a slot.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "at most `SLOT_MAX_BYTES`")]
fn small(bytes: usize) -> u32 {
    bytes as u32
}

/// A small block is born, whose bytes the hot path has subtracted. `None`: take the long way.
#[inline(always)]
pub(super) fn alloc(hot: &Hot, layout: Layout, zeroed: bool, registers: Registers) -> Option<*mut u8> {
    let class = SmallClass::of(layout)?;
    if hot.is_overdrawn() {
        return None;
    }
    let mut stay = Stay::enter(hot)?;
    let Some(stack) = stack_of(registers, &mut stay) else {
        stay.leave();
        return None;
    };
    let made = begin(&mut stay, class, layout.size(), stack);
    if let Some(at) = made {
        if zeroed {
            // SAFETY: the slot has at least `layout.size()` bytes.
            unsafe { at.as_ptr().write_bytes(0, layout.size()) };
        }
        hot.count_alloc();
    }
    stay.leave();
    made.map(NonNull::as_ptr)
}

#[inline(always)]
fn begin(stay: &mut Stay<'_>, class: SmallClass, size: usize, stack: StackId) -> Option<NonNull<u8>> {
    let (at, entry) = RANGE.take_kept(&mut stay.own.kept, class)?;
    let birth = clock::now();
    stay.set(entry, birth, stack);
    stay.send(exact::birth(birth, stack, small(size)));
    Some(at)
}

/// A small block of this profile is freed. False: take the long way.
///
/// # Safety
/// As for [`std::alloc::GlobalAlloc::dealloc`].
#[inline(always)]
pub(super) unsafe fn dealloc(hot: &Hot, ptr: *mut u8, size: usize) -> bool {
    // SAFETY: the caller's block.
    let Some((slot, entry)) = (unsafe { RANGE.sampled(ptr) }) else { return false };
    let Some(mut stay) = Stay::enter(hot) else { return false };
    let current = stay.current(entry);
    if let Some((birth, stack)) = current {
        entry.clear();
        let at = clock::now();
        stay.send(exact::free(at, stack, small(size), birth));
        // SAFETY: the caller gives the block up, and its entry is empty.
        unsafe { RANGE.give_kept(&mut stay.own.kept, slot, entry) };
        hot.count_free(size);
    }
    stay.leave();
    current.is_some()
}

/// A small block of this profile changes its size and stays small; `spent`: the growth was subtracted already. `None`:
/// take the long way.
///
/// # Safety
/// As for [`std::alloc::GlobalAlloc::realloc`].
#[inline(always)]
pub(super) unsafe fn realloc(hot: &Hot, ptr: *mut u8, layout: Layout, new: usize, spent: bool) -> Option<*mut u8> {
    // SAFETY: with the align of a block that there is.
    let class = SmallClass::of(unsafe { Layout::from_size_align_unchecked(new, layout.align()) })?;
    // SAFETY: the caller's block.
    let (slot, entry) = unsafe { RANGE.sampled(ptr) }?;
    if hot.is_overdrawn() {
        return None;
    }
    let mut stay = Stay::enter(hot)?;
    let moved = stay.current(entry).and_then(|(birth, stack)| {
        let grows = new > layout.size();
        let place = if class.stays(slot, grows) {
            ptr
        } else {
            let class = if grows { class.grown() } else { class };
            let (fresh, fresh_entry) = RANGE.take_kept(&mut stay.own.kept, class)?;
            stay.set(fresh_entry, birth, stack);
            // SAFETY: two distinct slots, each of at least the smaller size.
            unsafe { ptr.copy_to_nonoverlapping(fresh.as_ptr(), layout.size().min(new)) };
            entry.clear();
            // SAFETY: moved away from, and its entry is empty.
            unsafe { RANGE.give_kept(&mut stay.own.kept, slot, entry) };
            fresh.as_ptr()
        };
        let at = clock::now();
        stay.send(exact::resize(at, stack, small(new), small(layout.size()), birth));
        Some(place)
    });
    if moved.is_some() {
        if !spent {
            hot.charge(new.saturating_sub(layout.size()));
        }
        hot.count_realloc(layout.size(), new);
    }
    stay.leave();
    moved
}
