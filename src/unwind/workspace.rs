//! Workspaces: what a thread needs while it unwinds, one for each thread that is unwinding now.
//!
//! Promises: `take` and `give_back` are a few atomic operations, never wait, never allocate; a taken workspace is its
//! taker's alone. Only `stock` and `renew` make workspaces (at start and at the drain thread's tick). When none is
//! free the caller's stack is cut to nothing and counted (`starved`).
//!
//! A forked child keeps what its parent's other threads held as taken for ever; the rest works, and `stock` makes more.
#![allow(unsafe_code, reason = "exclusive access by a bit in an atomic word")]

use std::sync::atomic::{AtomicPtr, AtomicU64, AtomicUsize, Ordering};

use super::frame::Frame;
use super::rules::{PLACES, Place};
use super::set::Set;
use super::step::Cache;
use crate::sys::stack;

/// Threads that can unwind at one moment. More than cores only when threads are preempted in the middle.
const MAX_WORKSPACES: usize = 1024;
/// framehop needs 14 kB; the rest is for signal handlers that land on it. Touched only where used.
const STACK_BYTES: usize = 128 * 1024;
const GUARD_BYTES: usize = 64 * 1024;

/// Steps of framehop's 16-bit module generation after which a rule cache must not be used any more: at 65,536 it
/// would take another module's rules for its own.
const MAX_RULES_AGE: u64 = 60_000;
/// Steps after which it is replaced, long before that.
pub(super) const OLD_RULES: u64 = 20_000;
const _: () = assert!(2 * OLD_RULES < MAX_RULES_AGE && MAX_RULES_AGE < 1 << 16, "renewed before they could collide");

/// One thread's tools.
pub(super) struct Workspace {
    pub(super) cache: Cache,
    /// The set's `rules_generation` when the cache was made.
    cache_born: u64,
    /// `capacity` frames each: the walk's, and the check's.
    pub(super) scratch: *mut Frame,
    pub(super) check: *mut Frame,
    pub(super) capacity: usize,
    /// Learned, or zeroed.
    pub(super) rules: *mut [Place; PLACES],
    /// The private stack's upper end.
    pub(super) stack_top: u64,
    mapping: core::ptr::NonNull<u8>,
    mapping_bytes: usize,
}

/// A place for a workspace; never moves, never goes away. A cache line each: hazards are written at every walk.
#[repr(align(64))]
pub(super) struct Slot {
    /// Null until stocked.
    workspace: AtomicPtr<Workspace>,
    /// The set that the holder is using.
    pub(super) hazard: AtomicPtr<Set>,
}

static SLOTS: [Slot; MAX_WORKSPACES] = [const {
    Slot { workspace: AtomicPtr::new(core::ptr::null_mut()), hazard: AtomicPtr::new(core::ptr::null_mut()) }
}; MAX_WORKSPACES];
/// A set bit: stocked, and nobody's.
static FREE: [AtomicU64; MAX_WORKSPACES / 64] = [const { AtomicU64::new(0) }; MAX_WORKSPACES / 64];
/// Slots that were ever stocked: the first so many.
static STOCKED: AtomicUsize = AtomicUsize::new(0);
/// Captures that found no workspace.
static STARVED: AtomicU64 = AtomicU64::new(0);

/// A workspace, the taker's until given back.
pub(super) struct Taken {
    index: usize,
}

impl Taken {
    /// Takes a free workspace fit for stacks of `frames` frames and for this generation of rules; the one at `hint`
    /// (this thread's last) if it is free, for its warm cache.
    #[inline]
    pub(super) fn take(hint: usize, frames: usize) -> Option<Taken> {
        let index = if claim(hint) { Some(hint) } else { search() };
        if let Some(mut taken) = index.map(|index| Taken { index }) {
            if taken.workspace().capacity >= frames {
                return Some(taken);
            }
            taken.give_back();
        }
        count_starved();
        None
    }

    /// For the thread's next `take`.
    pub(super) fn index(&self) -> usize {
        self.index
    }

    pub(super) fn hazard(&self) -> &'static AtomicPtr<Set> {
        &SLOTS[self.index].hazard
    }

    #[inline]
    pub(super) fn workspace(&mut self) -> &mut Workspace {
        // Relaxed: set before the slot's first bit, which we acquired.
        let workspace = SLOTS[self.index].workspace.load(Ordering::Relaxed);
        // SAFETY: stocked (it had a bit), and ours alone while the bit is clear and `self` exists.
        unsafe { &mut *workspace }
    }

    #[inline]
    pub(super) fn give_back(self) {
        // Release: partner of `reap`: our use of the set is over.
        self.hazard().store(core::ptr::null_mut(), Ordering::Release);
        // Release: partner of `claim`.
        FREE[self.index / 64].fetch_or(1 << (self.index % 64), Ordering::Release);
    }
}

/// Any free workspace. Each round takes a bit or loses one to another thread, so 64 rounds a word are the limit.
#[cold]
fn search() -> Option<usize> {
    let words = STOCKED.load(Ordering::Relaxed).div_ceil(64);
    for (word, free) in FREE.iter().enumerate().take(words) {
        for _ in 0..64 {
            // Relaxed: a guess; `claim` decides.
            let bits = free.load(Ordering::Relaxed);
            if bits == 0 {
                break;
            }
            let index = word * 64 + bits.trailing_zeros() as usize;
            if claim(index) {
                return Some(index);
            }
        }
    }
    None
}

#[inline]
fn claim(index: usize) -> bool {
    let bit = 1 << (index % 64);
    // Acquire: partner of `give_back` and `stock`; what the last holder wrote is visible.
    FREE[index / 64].load(Ordering::Relaxed) & bit != 0
        && FREE[index / 64].fetch_and(!bit, Ordering::Acquire) & bit != 0
}

impl Workspace {
    /// The cache holds no rule that framehop's wrapping counter could confuse.
    #[inline]
    pub(super) fn cache_fits(&self, rules_generation: u64) -> bool {
        rules_generation.wrapping_sub(self.cache_born) < MAX_RULES_AGE
    }

    fn new(capacity: usize, rules_generation: u64) -> Option<Workspace> {
        let frames_bytes = capacity * size_of::<Frame>();
        let mapping_bytes = GUARD_BYTES + STACK_BYTES + 2 * frames_bytes + size_of::<[Place; PLACES]>();
        let mapping = stack::map_pages(mapping_bytes)?;
        // SAFETY: whole pages of our new mapping (64 KiB is a multiple of every page size in use).
        unsafe { stack::guard_pages(mapping.as_ptr(), GUARD_BYTES) };
        // SAFETY: inside the mapping.
        let top = unsafe { mapping.as_ptr().add(GUARD_BYTES + STACK_BYTES) };
        // SAFETY: inside the mapping.
        let check = unsafe { top.add(frames_bytes) };
        // SAFETY: inside the mapping; aligned, since frames are 64 bytes each.
        let rules = unsafe { check.add(frames_bytes) };
        Some(Workspace {
            cache: Cache::new_in(),
            cache_born: rules_generation,
            scratch: top.cast(),
            check: check.cast(),
            capacity,
            rules: rules.cast(),
            stack_top: top.expose_provenance() as u64,
            mapping,
            mapping_bytes,
        })
    }
}

impl Drop for Workspace {
    fn drop(&mut self) {
        // SAFETY: made by `map_pages` with this length; nobody holds the workspace any more.
        unsafe { stack::unmap_pages(self.mapping, self.mapping_bytes) };
    }
}

/// Renews the free workspaces that are too small for `capacity` frames or whose rules are old. True if all are fit now;
/// those in use wait for the next tick. Allocates. One caller at a time.
pub(super) fn renew(capacity: usize, rules_generation: u64) -> bool {
    let mut all = true;
    for index in 0..STOCKED.load(Ordering::Relaxed) {
        if !claim(index) {
            all = false;
            continue;
        }
        let mut taken = Taken { index };
        let workspace = taken.workspace();
        if workspace.capacity < capacity || rules_generation.wrapping_sub(workspace.cache_born) > OLD_RULES {
            match Workspace::new(capacity.max(workspace.capacity), rules_generation) {
                Some(new) => *workspace = new,
                None => all = false,
            }
        }
        taken.give_back();
    }
    all
}

/// Makes workspaces until `wanted` are free: at least twice as many as are in use, and twice as many as there are if
/// any capture found none since the last call. Allocates. One caller at a time.
pub(super) fn stock(wanted: usize, capacity: usize, rules_generation: u64) {
    static STARVED_BEFORE: AtomicU64 = AtomicU64::new(0);
    let stocked = STOCKED.load(Ordering::Relaxed);
    let free: usize = FREE.iter().map(|word| word.load(Ordering::Relaxed).count_ones() as usize).sum();
    let starved = STARVED.load(Ordering::Relaxed);
    let grow = if starved == STARVED_BEFORE.swap(starved, Ordering::Relaxed) { 0 } else { stocked };
    let in_use = stocked.saturating_sub(free);
    let missing = wanted.max(in_use * 2).saturating_sub(free).max(grow);
    for index in stocked..(stocked + missing).min(MAX_WORKSPACES) {
        let Some(workspace) = Workspace::new(capacity, rules_generation) else { return };
        SLOTS[index].workspace.store(Box::into_raw(Box::new(workspace)), Ordering::Relaxed);
        STOCKED.store(index + 1, Ordering::Relaxed);
        // Release: partner of `claim`; the workspace is complete.
        FREE[index / 64].fetch_or(1 << (index % 64), Ordering::Release);
    }
}

/// A capture found no workspace, or none whose rules are young enough.
#[cold]
pub(super) fn count_starved() {
    // Relaxed: a counter.
    STARVED.fetch_add(1, Ordering::Relaxed);
}

/// Captures that found no workspace, since the process began.
pub(super) fn starved() -> u64 {
    STARVED.load(Ordering::Relaxed)
}

/// Every hazard there may be.
pub(super) fn hazards() -> impl Iterator<Item = &'static AtomicPtr<Set>> {
    SLOTS.iter().map(|slot| &slot.hazard)
}
