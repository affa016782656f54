//! Memory for remembered stacks: one region a thread that captured, from own mappings.
//!
//! Promises: `obtain` takes a free region or maps a new one (one system call, at a thread's first capture); `release`
//! keeps it for the next thread; neither waits or allocates. Regions are never unmapped, so that a thread that lost
//! the race for one reads old memory, never none. A region's pages are touched only as deep as its stacks are, those of
//! its memo only in exact mode.
//!
//! Source: Treiber's stack (1986), the counter in the pointer's upper 16 bits against ABA.
#![allow(unsafe_code, reason = "an intrusive list through own mappings")]

use core::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::frame::Frame;
use super::memo::Pages;
use crate::sys::stack;

/// Capacities 8, 16, … 2,048 frames.
const CLASSES: usize = 9;
const SMALLEST: usize = 8;
/// Regions that may exist; threads beyond them unwind in full each time.
const MAX_REGIONS: u32 = 65_536;
const POINTER_BITS: u32 = 48;
const POINTER_MASK: u64 = (1 << POINTER_BITS) - 1;

/// Heads of the lists of free regions, by class: count << 48 | address.
static FREE: [AtomicU64; CLASSES] = [const { AtomicU64::new(0) }; CLASSES];
static MADE: AtomicU32 = AtomicU32::new(0);

/// A region: a header line (the list's link, never written by its user), `capacity` frames, and the pages of a memo.
#[derive(Clone, Copy, Debug)]
pub(super) struct Region {
    /// The first frame; the header lies one line below.
    pub(super) frames: NonNull<Frame>,
    pub(super) capacity: usize,
}

fn class(frames: usize) -> Option<usize> {
    let class = frames.max(SMALLEST).next_power_of_two().trailing_zeros() as usize - 3;
    (class < CLASSES).then_some(class)
}

impl Region {
    fn link(&self) -> &'static AtomicU64 {
        // SAFETY: the header is the line before the frames, in the same mapping.
        let header = unsafe { self.frames.sub(1) }.cast::<AtomicU64>();
        // SAFETY: mapped for ever, aligned, and only ever accessed as an atomic.
        unsafe { header.as_ref() }
    }

    /// The memo's memory: the last user's, or zeroed.
    pub(super) fn memo(&self) -> NonNull<Pages> {
        // SAFETY: behind the frames, in the same mapping; a multiple of the lines that both are aligned to.
        unsafe { self.frames.add(self.capacity) }.cast()
    }

    /// A region for `frames` frames; `None` where the system gives no memory or there are too many.
    pub(super) fn obtain(frames: usize) -> Option<Region> {
        let class = class(frames)?;
        let capacity = SMALLEST << class;
        // Acquire: partner of `release`; the link behind the head is visible.
        let mut head = FREE[class].load(Ordering::Acquire);
        while head & POINTER_MASK != 0 {
            let frames = NonNull::new(stack::pointer(head & POINTER_MASK))?;
            let region = Region { frames, capacity };
            // Relaxed: stale if another thread took it meanwhile, and then the exchange fails by its counter.
            let next = region.link().load(Ordering::Relaxed);
            let new = next | (head & !POINTER_MASK).wrapping_add(1 << POINTER_BITS);
            match FREE[class].compare_exchange_weak(head, new, Ordering::Acquire, Ordering::Acquire) {
                Ok(_) => return Some(region),
                Err(now) => head = now,
            }
        }
        if MADE.fetch_add(1, Ordering::Relaxed) >= MAX_REGIONS {
            MADE.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        let Some(mapping) = stack::map_pages((capacity + 1) * size_of::<Frame>() + size_of::<Pages>()) else {
            MADE.fetch_sub(1, Ordering::Relaxed);
            return None;
        };
        // SAFETY: one line into a mapping of more than one.
        Some(Region { frames: unsafe { mapping.cast::<Frame>().add(1) }, capacity })
    }

    /// Keeps the region for another thread; the caller must not use it again.
    pub(super) fn release(self) {
        let Some(class) = class(self.capacity) else { return };
        let address = self.frames.as_ptr().expose_provenance() as u64;
        let mut head = FREE[class].load(Ordering::Relaxed);
        loop {
            self.link().store(head & POINTER_MASK, Ordering::Relaxed);
            let new = address | (head & !POINTER_MASK).wrapping_add(1 << POINTER_BITS);
            // Release: partner of `obtain`; the link and the last user's writes come before.
            match FREE[class].compare_exchange_weak(head, new, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => return,
                Err(now) => head = now,
            }
        }
    }
}

/// Regions mapped so far. For tests.
#[cfg(test)]
pub(super) fn made() -> u32 {
    MADE.load(Ordering::Relaxed)
}
