//! The registry: a list of all threads' blocks, the memory that they are made of, and the lock that guards both.
//!
//! Promises: what the lock guards is reached through [`Registry`] alone, which holds it; while it is held no listed thread ends, so
//! its block and its hot words are there. Memory comes from slabs of ours, is never given back to the system, and serves the next
//! thread when one has ended. No heap memory, no limit but the system's.

use std::cell::Cell;
use std::ptr::null_mut;
use std::time::Duration;

use super::block::ThreadBlock;
use super::totals::Sums;
use crate::slots::Kept;
use crate::sys::lock::{Held, Lock};
use crate::sys::map;

/// The registry's lock, and everything that it guards.
struct Guarded {
    lock: Lock,
    list: Cell<*mut ThreadBlock>,
    /// Blocks of ended threads.
    free: Cell<*mut ThreadBlock>,
    /// What is left of the slab's current step.
    slab: Cell<*mut ThreadBlock>,
    slab_left: Cell<usize>,
    /// What ended threads counted.
    sums: Sums,
}

// SAFETY: the cells are touched only while the lock is held.
unsafe impl Sync for Guarded {}

static GUARDED: Guarded = Guarded {
    lock: Lock::new(),
    list: Cell::new(null_mut()),
    free: Cell::new(null_mut()),
    slab: Cell::new(null_mut()),
    slab_left: Cell::new(0),
    sums: Sums::new(),
};

/// Blocks of one slab step.
const SLAB_BYTES: usize = map::STEP_BYTES;

/// The registry, locked for as long as this lives.
pub(super) struct Registry {
    _held: Held<'static>,
}

/// Locks it. `None` where the calling thread holds the lock already.
pub(super) fn lock() -> Option<Registry> {
    GUARDED.lock.take().map(|held| Registry { _held: held })
}

/// The same, waiting for at most `limit`.
pub(super) fn lock_within(limit: Duration) -> Option<Registry> {
    GUARDED.lock.take_within(limit).map(|held| Registry { _held: held })
}

/// The same in a forked child, whoever held the lock.
pub(super) fn lock_in_child() -> Option<Registry> {
    GUARDED.lock.reset_in_child();
    lock()
}

impl Registry {
    /// Memory for one block, of an ended thread, with the slots that it left, or fresh. `None` where none is to be had.
    pub(super) fn take_memory(&self) -> Option<(*mut ThreadBlock, Kept)> {
        let free = GUARDED.free.get();
        if !free.is_null() {
            // SAFETY: a block of the free list, under the lock.
            let block = unsafe { &*free };
            GUARDED.free.set(block.next.get());
            // SAFETY: nobody's any more, and the caller's from now on.
            let kept = std::mem::replace(&mut unsafe { block.own() }.kept, Kept::new());
            return Some((free, kept.inherited()));
        }
        if GUARDED.slab_left.get() == 0 {
            let step = map::anonymous(SLAB_BYTES)?;
            GUARDED.slab.set(step.as_ptr().cast());
            GUARDED.slab_left.set(SLAB_BYTES / size_of::<ThreadBlock>());
        }
        let taken = GUARDED.slab.get();
        // SAFETY: at least one more block fits in the step, so one past `taken` is within it or its end.
        GUARDED.slab.set(unsafe { taken.add(1) });
        GUARDED.slab_left.set(GUARDED.slab_left.get() - 1);
        Some((taken, Kept::new()))
    }

    /// Takes back what `take_memory` gave: a block that is in no list and its thread's no more.
    pub(super) fn give_memory(&self, block: *mut ThreadBlock) {
        // SAFETY: the block is its thread's no more, and the lock is held.
        unsafe { &*block }.next.set(GUARDED.free.get());
        GUARDED.free.set(block);
    }

    /// Lists a block, which was just written.
    pub(super) fn add(&self, fresh: *mut ThreadBlock) {
        let first = GUARDED.list.get();
        // SAFETY: just written, and in no list.
        unsafe { &*fresh }.next.set(first);
        // SAFETY: null, or a live block of the list, whose lock is held.
        if let Some(first) = unsafe { first.as_ref() } {
            first.previous.set(fresh);
        }
        GUARDED.list.set(fresh);
    }

    /// Takes a block off the list.
    pub(super) fn remove(&self, block: &ThreadBlock) {
        let (previous, next) = (block.previous.get(), block.next.get());
        // SAFETY: null, or a live block of the list, whose lock is held.
        match unsafe { previous.as_ref() } {
            Some(previous) => previous.next.set(next),
            None => GUARDED.list.set(next),
        }
        // SAFETY: as above.
        if let Some(next) = unsafe { next.as_ref() } {
            next.previous.set(previous);
        }
    }

    /// Visits every registered thread.
    pub(super) fn for_each(&self, mut f: impl FnMut(&ThreadBlock)) {
        let mut at = GUARDED.list.get();
        // SAFETY: list pointers are live blocks while the lock is held.
        while let Some(block) = unsafe { at.as_ref() } {
            f(block);
            at = block.next.get();
        }
    }

    /// What ended threads counted.
    pub(super) fn sums(&self) -> &Sums {
        &GUARDED.sums
    }

    /// In a forked child: lists this block alone, or none where it is null. The others' memory is left alone.
    pub(super) fn keep_only(&self, block: *mut ThreadBlock) {
        GUARDED.list.set(block);
        // Another thread may have been taking a block out when it forked.
        GUARDED.free.set(null_mut());
        GUARDED.slab_left.set(0);
        // SAFETY: null or the calling thread's own block.
        if let Some(block) = unsafe { block.as_ref() } {
            block.next.set(null_mut());
            block.previous.set(null_mut());
        }
    }
}
