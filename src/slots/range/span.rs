//! One class's span of the range: its slots, what is beside them, and which are free.
//!
//! Promises: a number is handed out once until it is given back; the memory of a number that was handed out is open. Lock-free.

use std::ptr::null_mut;
use std::sync::atomic::{AtomicPtr, AtomicU32, AtomicUsize, Ordering};

use super::class::Size;
use crate::slots::entry::{Carried, Entry};
use crate::slots::list::FreeList;
use crate::sys::map;

/// Spans open by this many bytes at a time, or by one slot where that is more.
const OPEN_BYTES: usize = map::STEP_BYTES;

/// A line of what every event reads, and one of what threads write now and then.
#[repr(C, align(64))]
#[derive(Debug)]
pub(super) struct Span {
    pub(super) size: Size,
    /// The entries of its slots, of the same numbering; null where there is no range, as below.
    pub(super) entries: AtomicPtr<u8>,
    /// What the entries don't hold, of the same numbering.
    pub(super) carried: AtomicPtr<u8>,
    /// The first slot.
    pub(super) slots: AtomicPtr<u8>,
    /// Bytes of its slots, if all were open.
    pub(super) bytes: AtomicUsize,
    pub(super) state: State,
}

/// What changes.
#[repr(align(64))]
#[derive(Debug)]
pub(super) struct State {
    /// Slots given back.
    pub(super) free: FreeList,
    /// Slots ever handed out by bumping; in 0..=capacity (overshoot by racing threads is taken back).
    pub(super) bumped: AtomicU32,
    /// Slots whose memory and entries are open; grows only.
    pub(super) opened: AtomicU32,
}

impl Span {
    pub(super) const fn new(class: usize) -> Span {
        Span {
            size: Size::of_class(class),
            entries: AtomicPtr::new(null_mut()),
            carried: AtomicPtr::new(null_mut()),
            slots: AtomicPtr::new(null_mut()),
            bytes: AtomicUsize::new(0),
            state: State { free: FreeList::new(), bumped: AtomicU32::new(0), opened: AtomicU32::new(0) },
        }
    }

    /// Bytes of reservation beside the slots of a span of so many bytes: of entries, and of the rest.
    pub(super) fn beside_bytes(&self, bytes: usize) -> (usize, usize) {
        let slots = bytes / self.size.bytes;
        let padded = |each: usize| (slots * each).next_multiple_of(OPEN_BYTES);
        (padded(size_of::<Entry>()), padded(size_of::<Carried>()))
    }

    /// Slots that are open. What is beside them is readable, zeroed at first.
    #[inline(always)]
    pub(super) fn opened(&self) -> u32 {
        // Acquire: pairs with the Release in `open_more`.
        self.state.opened.load(Ordering::Acquire)
    }

    /// The entries of the slots that are open.
    #[inline]
    pub(super) fn open_entries(&self) -> &[Entry] {
        let opened = self.opened();
        // Relaxed: set before the range's base was published.
        let entries = self.entries.load(Ordering::Relaxed);
        if entries.is_null() || opened == 0 {
            return &[];
        }
        // SAFETY: `opened` entries are readable and writable, zeroed at first (a valid `Entry` of atomics), aligned,
        // and never unmapped.
        unsafe { std::slice::from_raw_parts(entries.cast::<Entry>(), opened as usize) }
    }

    /// The entry of a slot that is open.
    ///
    /// # Safety
    /// - `index` is below `opened`.
    #[inline(always)]
    pub(super) unsafe fn open_entry(&self, index: u32) -> &Entry {
        let entries = self.entries.load(Ordering::Relaxed).cast::<Entry>();
        // SAFETY: the entries of open slots are readable.
        let entry = unsafe { entries.add(index as usize) };
        // SAFETY: zeroed at first (a valid `Entry` of atomics), aligned, and never unmapped.
        unsafe { &*entry }
    }

    /// Where a slot begins.
    ///
    /// # Safety
    /// - There is a range, and `index` is one of the span.
    #[inline(always)]
    pub(super) unsafe fn slot(&self, index: u32) -> *mut u8 {
        // SAFETY: within the span.
        unsafe { self.slots.load(Ordering::Relaxed).add(self.size.offset_of(index)) }
    }

    /// Takes the slot that was given back last.
    pub(super) fn pop(&self) -> Option<u32> {
        self.state.free.pop(self.open_entries())
    }

    /// Takes a slot that never was in use. `None` where there is none, or it can't be opened.
    pub(super) fn bump(&self) -> Option<u32> {
        // Relaxed: the number alone is handed out; the memory is ordered by `opened`.
        let index = self.state.bumped.fetch_add(1, Ordering::Relaxed);
        // Relaxed: as `entries`.
        let bytes = self.bytes.load(Ordering::Relaxed);
        if index == u32::MAX || self.size.offset_of(index + 1) > bytes {
            self.state.bumped.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        while index >= self.opened() {
            if !self.open_more(bytes) {
                // Given back, but where another took the next one meanwhile: then it is lost until the process ends.
                let _ = self.state.bumped.compare_exchange(index + 1, index, Ordering::Relaxed, Ordering::Relaxed);
                return None;
            }
        }
        Some(index)
    }

    /// Opens the next step. Threads may race: opening twice is harmless, and one of them publishes.
    fn open_more(&self, bytes: usize) -> bool {
        let opened = self.opened();
        let capacity = u32::try_from(bytes / self.size.bytes).unwrap_or(u32::MAX);
        let step = u32::try_from((OPEN_BYTES / self.size.bytes).max(1)).unwrap_or(1);
        let next = opened.saturating_add(step).min(capacity);
        if next == opened {
            return false;
        }
        let things = [
            (&self.slots, self.size.bytes),
            (&self.entries, size_of::<Entry>()),
            (&self.carried, size_of::<Carried>()),
        ];
        // SAFETY: the three parts of this span, opened so far.
        let is_open = things.into_iter().all(|(first, each)| unsafe { Self::open(first, each, opened, next) });
        if is_open {
            // Release: pairs with the Acquire loads of `opened`.
            let _ = self.state.opened.compare_exchange(opened, next, Ordering::Release, Ordering::Relaxed);
        }
        is_open
    }

    /// Opens the part of things of `each` bytes that begins at `first`, from `opened` to `next`, in whole steps: up to the end of one it is open already.
    ///
    /// # Safety
    /// - It is open for `opened` of them, and `next` are within it.
    unsafe fn open(first: &AtomicPtr<u8>, each: usize, opened: u32, next: u32) -> bool {
        let end = |count: u32| (count as usize * each).next_multiple_of(OPEN_BYTES);
        let (from, to) = (end(opened), end(next));
        // SAFETY: within the part, which is padded to whole steps.
        let at = unsafe { first.load(Ordering::Relaxed).add(from) };
        // SAFETY: as above.
        from == to || unsafe { map::open(at, to - from) }
    }
}
