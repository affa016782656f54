//! Memory for remembered stacks: one region a thread that captured, from own mappings.
//!
//! Promises: `obtain` takes a free region, the one that was last used on the same stack if it is there, or maps a new one (one
//! system call, at a thread's first capture); `release` keeps it for the next thread; neither waits or allocates. Regions are never unmapped, so that a thread that lost
//! the race for one reads old memory, never none. A region's pages are touched only as deep as its stacks are, those of
//! its memo only in exact mode.
//!
//! A region says whose stacks its memo knows: a C library gives the stack of a thread that ended to the next one, which comes
//! from the same places, and finds them remembered.
//!
//! Source: Treiber's stack (1986), the counter in the pointer's upper 16 bits against ABA.
#![allow(unsafe_code, reason = "an intrusive list through own mappings")]

use core::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::frame::Frame;
use super::memo::Pages;
use crate::sys::stack::{self, Bounds};

/// Capacities 8, 16, … 2,048 frames.
const CLASSES: usize = 9;
const SMALLEST: usize = 8;
/// Regions that may exist; threads beyond them unwind in full each time.
const MAX_REGIONS: u32 = 65_536;
const POINTER_BITS: u32 = 48;
const POINTER_MASK: u64 = (1 << POINTER_BITS) - 1;

/// Heads of the lists of free regions, by class: count << 48 | address.
static FREE: [AtomicU64; CLASSES] = [const { AtomicU64::new(0) }; CLASSES];
/// Free regions by the stack that they were last used on, one a place: class << 48 | address, or 0.
static PARKED: [AtomicU64; PARKINGS] = [const { AtomicU64::new(0) }; PARKINGS];
const PARKINGS: usize = 32;
/// So many regions are mapped before one is taken that was used on another stack.
const ENOUGH: u32 = 32;
static MADE: AtomicU32 = AtomicU32::new(0);

/// Whose stacks a memo knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Owner {
    /// The stack that they were captured on.
    pub(super) bounds: Bounds,
    /// The profile whose tree numbers them; 0: nobody else's.
    pub(super) profile: u32,
}

impl Owner {
    /// Nobody.
    pub(super) const NONE: Owner = Owner { bounds: Bounds::UNKNOWN, profile: 0 };
}

/// The line before the frames.
#[repr(C)]
struct Header {
    /// In the list of free regions. Never written by the region's user.
    link: AtomicU64,
    /// The owner, as `low`, `high` and `profile`. Written and read by the region's user alone.
    owner: [AtomicU64; 3],
}

const _: () = assert!(size_of::<Header>() <= size_of::<Frame>(), "one line");

/// A region: a header line, `capacity` frames, and the pages of a memo.
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

/// The place for regions that were used on this stack. Fibonacci hashing: stacks are as far apart as they are large.
fn parking(bounds: Bounds) -> &'static AtomicU64 {
    &PARKED[((bounds.high >> 12).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as usize % PARKINGS]
}

impl Region {
    fn header(&self) -> &'static Header {
        // SAFETY: the header is the line before the frames, in the same mapping.
        let header = unsafe { self.frames.sub(1) }.cast::<Header>();
        // SAFETY: mapped for ever, aligned, zeroed at first, and only ever accessed as atomics.
        unsafe { header.as_ref() }
    }

    fn link(&self) -> &'static AtomicU64 {
        &self.header().link
    }

    /// Whose stacks the memo knows.
    pub(super) fn owner(&self) -> Owner {
        // Relaxed: `release` and `obtain` order one user's words before the next one's.
        let [low, high, profile] = self.header().owner.each_ref().map(|word| word.load(Ordering::Relaxed));
        Owner { bounds: Bounds { low, high }, profile: u32::try_from(profile).unwrap_or(0) }
    }

    fn set_owner(&self, owner: Owner) {
        let words = [owner.bounds.low, owner.bounds.high, u64::from(owner.profile)];
        for (word, value) in self.header().owner.iter().zip(words) {
            // Relaxed: as in `owner`.
            word.store(value, Ordering::Relaxed);
        }
    }

    fn address(&self) -> u64 {
        self.frames.as_ptr().expose_provenance() as u64
    }

    /// Of a parking's word.
    fn parked(word: u64) -> Option<Region> {
        let frames = NonNull::new(stack::pointer(word & POINTER_MASK))?;
        Some(Region { frames, capacity: SMALLEST << (word >> POINTER_BITS) })
    }

    /// The memo's memory: the last user's, or zeroed.
    pub(super) fn memo(&self) -> NonNull<Pages> {
        // SAFETY: behind the frames, in the same mapping; a multiple of the lines that both are aligned to.
        unsafe { self.frames.add(self.capacity) }.cast()
    }

    /// A region for `frames` frames, for a thread on this stack; `None` where the system gives no memory or there are too many.
    pub(super) fn obtain(frames: usize, bounds: Bounds) -> Option<Region> {
        let class = class(frames)?;
        let capacity = SMALLEST << class;
        let place = parking(bounds);
        // Acquire: partner of `release`; all that the last user wrote is visible.
        match Region::parked(place.swap(0, Ordering::Acquire)) {
            Some(region) if region.capacity == capacity => return Some(region),
            Some(other) => other.list(),
            None => {}
        }
        if let Some(listed) = Region::listed(class) {
            return Some(listed);
        }
        // Relaxed: about how many there are.
        if MADE.load(Ordering::Relaxed) < ENOUGH
            && let Some(mapped) = Region::map(capacity)
        {
            return Some(mapped);
        }
        for place in &PARKED {
            // Relaxed: a look; the exchange decides.
            if place.load(Ordering::Relaxed) >> POINTER_BITS == class as u64
                && let Some(region) = Region::parked(place.swap(0, Ordering::Acquire))
            {
                if region.capacity == capacity {
                    return Some(region);
                }
                region.list();
            }
        }
        Region::map(capacity)
    }

    /// A free region of this class.
    fn listed(class: usize) -> Option<Region> {
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
        None
    }

    fn map(capacity: usize) -> Option<Region> {
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

    /// Keeps the region, whose memo knows this owner's stacks, for another thread; the caller must not use it again.
    pub(super) fn release(self, owner: Owner) {
        let Some(class) = class(self.capacity) else { return };
        self.set_owner(owner);
        let word = self.address() | (class as u64) << POINTER_BITS;
        // Release: partner of `obtain`; our writes come before. Acquire: whose place it was hands it on by our `list`.
        if let Some(other) = Region::parked(parking(owner.bounds).swap(word, Ordering::AcqRel)) {
            other.list();
        }
    }

    /// Puts the region on the list of the free ones.
    fn list(self) {
        let Some(class) = class(self.capacity) else { return };
        let address = self.address();
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
