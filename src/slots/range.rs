//! The address range that sampled small blocks, and our own memory, live in.
//!
//! Promises: whether a pointer is a slot is one subtraction and one comparison; a slot's number finds its entry
//! without hashing; taking and giving back are lock-free; the range is never unmapped. Costs address space, not
//! memory: it is reserved inaccessible and opened in steps. Where the reservation fails (`ulimit -v`, strict
//! overcommit, valgrind) a smaller one is tried, and at last none: then no pointer is a slot.
//!
//! Never: hands out a slot that overlaps another, moves one, or touches the heap.
//!
//! Layout: a span for each class, all of the same length. The first ones hold our own blocks (the drain thread's,
//! the reports'), so that a free by any thread recognises and leaves them uncounted; the others the sampled ones. `class` says how
//! large the slots of each are. Source of the idea: tcmalloc's tagged sampled memory and GWP-ASan's guarded pool.

use std::alloc::Layout;
use std::ptr::{NonNull, null_mut};
use std::sync::atomic::{AtomicPtr, AtomicU8, AtomicUsize, Ordering};

use super::entry::{BESIDE_BYTES, Beside, Carried, Entry};
use crate::sys::map;
use class::{CLASSES, OWN_CLASSES, SAMPLED_CLASSES};
use span::Span;

/// The largest sampled block that is served from a slot, by max(size, align). Larger ones are few enough for a table,
/// and what rounding them up wastes would be more than the table costs.
pub(crate) const SLOT_MAX_BYTES: usize = 32 * 1024;
/// Bytes of the largest span tried: 16 GiB a class, 1.1 TiB in all, of a 128 TiB address space.
const SPAN_SHIFT_MAX: u32 = 34;
/// The smallest: 1 MiB a class, 72 MiB in all, for a process under a tight `ulimit -v`.
const SPAN_SHIFT_MIN: u32 = 20;
/// Own slots of this size and above give their pages back when freed: 64 KiB, a whole step.
const DISCARD_BYTES: usize = map::STEP_BYTES;

const _: () = assert!(1 << SPAN_SHIFT_MIN >= 16 * SLOT_MAX_BYTES, "even the smallest range holds some of every slot");

/// Which half a slot is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Half {
    /// The profiler's own memory.
    Own,
    /// Sampled blocks of the program.
    Sampled,
}

/// The process's one range.
#[derive(Debug)]
pub(crate) struct Range {
    /// Null: no range.
    base: AtomicPtr<u8>,
    /// log2 of a class's span.
    span_shift: AtomicU8,
    bytes: AtomicUsize,
    /// Where the sampled half's classes in use begin, and their length; 0 where there is no range.
    sampled_base: AtomicUsize,
    sampled_bytes: AtomicUsize,
    /// In slots that give their pages back when freed, and are in use.
    large_bytes: AtomicUsize,
    spans: [Span; CLASSES],
}

/// The process's range. Reserved once, by the first `start()`; never given back.
pub(crate) static RANGE: Range = Range::new();

/// A slot by class and number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slot {
    class: u8,
    index: u32,
}

impl Range {
    const fn new() -> Range {
        let mut spans = [const { Span::new(0) }; CLASSES];
        let mut class = 0;
        while class < CLASSES {
            spans[class] = Span::new(class);
            class += 1;
        }
        Range {
            base: AtomicPtr::new(null_mut()),
            span_shift: AtomicU8::new(0),
            bytes: AtomicUsize::new(0),
            sampled_base: AtomicUsize::new(0),
            sampled_bytes: AtomicUsize::new(0),
            large_bytes: AtomicUsize::new(0),
            spans,
        }
    }

    /// Reserves the range, the largest that the system grants and that leaves the program its own. Idempotent; callers
    /// are serialized by `start()`.
    pub(crate) fn reserve(&self) {
        if !self.base.load(Ordering::Acquire).is_null() {
            return;
        }
        for shift in (SPAN_SHIFT_MIN..=SPAN_SHIFT_MAX).rev() {
            let bytes = CLASSES << shift;
            if bytes > map::reservable_bytes() {
                continue;
            }
            let Some((base, reserved)) = Self::reserve_aligned(bytes) else { continue };
            let beside_bytes = self.spans.iter().map(|span| span.beside_bytes(1 << shift)).map(|(a, b)| a + b).sum();
            let Some(beside) = map::reserve(beside_bytes) else {
                // SAFETY: just reserved, seen by nobody.
                unsafe { map::unmap(reserved.as_ptr(), bytes + SLOT_MAX_BYTES) };
                continue;
            };
            // SAFETY: our own reservation.
            unsafe { map::no_huge_pages(base, bytes) };
            // SAFETY: our own reservation.
            unsafe { map::no_huge_pages(beside.as_ptr(), beside_bytes) };
            let mut offset = 0;
            for (class, span) in self.spans.iter().enumerate() {
                let (entry_bytes, carried_bytes) = span.beside_bytes(1 << shift);
                // SAFETY: what is beside the spans before this one sums to less than the reservation.
                let at = unsafe { beside.as_ptr().add(offset) };
                span.entries.store(at, Ordering::Relaxed);
                // SAFETY: its own part holds both.
                span.carried.store(unsafe { at.add(entry_bytes) }, Ordering::Relaxed);
                // SAFETY: there are so many spans in the reservation.
                span.slots.store(unsafe { base.add(class << shift) }, Ordering::Relaxed);
                span.bytes.store(1 << shift, Ordering::Relaxed);
                offset += entry_bytes + carried_bytes;
            }
            #[expect(clippy::cast_possible_truncation, reason = "at most 34")]
            self.span_shift.store(shift as u8, Ordering::Relaxed);
            self.bytes.store(bytes, Ordering::Relaxed);
            self.sampled_base.store(base.addr() + (OWN_CLASSES << shift), Ordering::Relaxed);
            // Release: pairs with the Acquire in `sampled`, as below.
            self.sampled_bytes.store(SAMPLED_CLASSES << shift, Ordering::Release);
            // Release: pairs with the Acquire loads of `base`; whoever sees it sees the fields above.
            self.base.store(base, Ordering::Release);
            return;
        }
    }

    /// Reserves so many bytes aligned to the largest slot of the program's, since a mapping is aligned to a page alone: where they
    /// begin, and the whole reservation.
    fn reserve_aligned(bytes: usize) -> Option<(*mut u8, NonNull<u8>)> {
        let reserved = map::reserve(bytes + SLOT_MAX_BYTES)?;
        Some((Self::aligned(reserved.as_ptr()), reserved))
    }

    /// The first address from `reserved` on that is aligned to the largest slot of the program's.
    fn aligned(reserved: *mut u8) -> *mut u8 {
        reserved.map_addr(|address| address.next_multiple_of(SLOT_MAX_BYTES))
    }

    /// Base address and length, (0, 0) where there is no range: what the hot words are set to.
    pub(crate) fn bounds(&self) -> (usize, usize) {
        let base = self.base.load(Ordering::Acquire);
        // Relaxed: ordered by the Acquire above.
        if base.is_null() { (0, 0) } else { (base.addr(), self.bytes.load(Ordering::Relaxed)) }
    }

    /// The most memory that a half can take now: what is open of it, and the entries of its slots. What is open but was
    /// never touched costs nothing.
    pub(crate) fn memory_bytes(&self, half: Half) -> usize {
        let (own, sampled) = self.spans.split_at(OWN_CLASSES);
        let spans = if half == Half::Own { own } else { sampled };
        let opened = spans.iter().map(|span| {
            let bytes = if span.size.bytes >= DISCARD_BYTES { 0 } else { span.size.bytes };
            span.opened() as usize * (bytes + BESIDE_BYTES)
        });
        opened.sum::<usize>() + if half == Half::Own { self.large_bytes.load(Ordering::Relaxed) } else { 0 }
    }

    /// Is `ptr` a slot? For tests.
    #[cfg(test)]
    pub(crate) fn contains(&self, ptr: *mut u8) -> bool {
        let (base, bytes) = self.bounds();
        ptr.addr().wrapping_sub(base) < bytes
    }

    /// Takes a slot for `layout` from `half`; `None` where it is too large, or the class is exhausted or can't be opened.
    /// The contents are whatever the last owner left (zero if there was none).
    pub(crate) fn take(&self, half: Half, layout: Layout) -> Option<(NonNull<u8>, Slot)> {
        // Acquire: as in `bounds`.
        if self.base.load(Ordering::Acquire).is_null() {
            return None;
        }
        let class = Self::class_of(half, layout)?;
        let span = self.spans.get(class)?;
        let index = span.pop().or_else(|| span.bump())?;
        // SAFETY: there is a range, and the span handed the number out.
        let at = unsafe { span.slot(index) };
        if span.size.bytes >= DISCARD_BYTES {
            // Relaxed: a sum that only reports read.
            self.large_bytes.fetch_add(span.size.bytes, Ordering::Relaxed);
        }
        #[expect(clippy::cast_possible_truncation, reason = "below 128")]
        Some((NonNull::new(at)?, Slot { class: class as u8, index }))
    }

    /// Gives a slot back. Its entry must have been emptied before.
    ///
    /// # Safety
    /// - `slot` was handed out by `take` and not given back since.
    /// - Nobody uses its memory any more.
    pub(crate) unsafe fn give(&self, slot: Slot) {
        let Some(span) = self.spans.get(usize::from(slot.class)) else { return };
        if span.size.bytes >= DISCARD_BYTES {
            // SAFETY: handed out, so there is a range, and it is of the span.
            let at = unsafe { span.slot(slot.index) };
            // SAFETY: whole pages of an unused slot, which its owner gave up.
            unsafe { map::discard(at, span.size.bytes) };
            // Relaxed: as in `take`.
            self.large_bytes.fetch_sub(span.size.bytes, Ordering::Relaxed);
        }
        span.state.free.push(span.open_entries(), slot.index);
    }

    /// Which slot a pointer of the range is, and of which half. `None` outside, or where no slot was ever opened.
    pub(crate) fn locate(&self, ptr: *mut u8) -> Option<(Half, Slot)> {
        let (base, bytes) = self.bounds();
        let offset = ptr.addr().wrapping_sub(base);
        if offset >= bytes {
            return None;
        }
        let span_shift = u32::from(self.span_shift.load(Ordering::Relaxed));
        let class = offset >> span_shift;
        let span = self.spans.get(class)?;
        let index = span.size.index_at(offset & ((1 << span_shift) - 1));
        if index >= span.opened() {
            return None;
        }
        let half = if class < OWN_CLASSES { Half::Own } else { Half::Sampled };
        #[expect(clippy::cast_possible_truncation, reason = "below 128")]
        Some((half, Slot { class: class as u8, index }))
    }

    /// The slot of the sampled half that `ptr`, a block of the program's, is, with its entry: `locate` and `entry` in one.
    /// 18 instructions.
    ///
    /// # Safety
    /// - If `ptr` lies in the range, it was handed out by it.
    #[inline(always)]
    pub(crate) unsafe fn sampled(&self, ptr: *mut u8) -> Option<(Slot, &Entry)> {
        // Acquire: pairs with the Release in `reserve`.
        let bytes = self.sampled_bytes.load(Ordering::Acquire);
        let offset = ptr.addr().wrapping_sub(self.sampled_base.load(Ordering::Relaxed));
        if offset >= bytes {
            return None;
        }
        let class = OWN_CLASSES + (offset >> self.span_shift.load(Ordering::Relaxed));
        let span = self.spans.get(class)?;
        let index = span.size.index_at(ptr.addr().wrapping_sub(span.slots.load(Ordering::Relaxed).addr()));
        debug_assert!(index < span.opened(), "handed out, so open");
        #[expect(clippy::cast_possible_truncation, reason = "below 128")]
        let slot = Slot { class: class as u8, index };
        // SAFETY: the slot was handed out, as the caller promises.
        Some((slot, unsafe { span.open_entry(index) }))
    }

    /// What is beside a slot.
    pub(crate) fn entry(&self, slot: Slot) -> Option<Beside<'_>> {
        let span = self.spans.get(usize::from(slot.class))?;
        let entry = span.open_entries().get(slot.index as usize)?;
        let carried = span.carried.load(Ordering::Relaxed).cast::<Carried>();
        // SAFETY: opened with the entry.
        let carried = unsafe { carried.add(slot.index as usize) };
        // SAFETY: zeroed at first, aligned, and never unmapped.
        Some(Beside { entry, carried: unsafe { &*carried } })
    }
}

mod class;
mod kept;
mod span;
#[cfg(test)]
mod tests;

pub(crate) use class::SmallClass;
pub(crate) use kept::Kept;
