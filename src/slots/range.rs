//! The address range that sampled small blocks, and our own memory, live in.
//!
//! Promises: whether a pointer is a slot is one subtraction and one comparison; a slot's number finds its entry
//! without hashing; taking and giving back are lock-free; the range is never unmapped. Costs address space, not
//! memory: it is reserved inaccessible and opened in steps. Where the reservation fails (`ulimit -v`, strict
//! overcommit, valgrind) a smaller one is tried, and at last none: then no pointer is a slot.
//!
//! Never: hands out a slot that overlaps another, moves one, or touches the heap.
//!
//! Layout: `CLASSES` spans of equal size. The first half of the classes holds our own blocks (the drain thread's,
//! the reports'), so that a free by any thread recognises and leaves them uncounted; the second half the sampled ones.
//! Class k of either half holds slots of 2^(k + 4) bytes, naturally aligned. Source of the idea: tcmalloc's tagged
//! sampled memory and GWP-ASan's guarded pool.

use std::alloc::Layout;
use std::ptr::{NonNull, null_mut};
use std::sync::atomic::{AtomicPtr, AtomicU8, AtomicU32, AtomicUsize, Ordering};

use super::entry::{BESIDE_BYTES, Beside, Carried, Entry};
use super::list::FreeList;
use crate::sys::map;

/// The largest sampled block that is served from a slot, by max(size, align). Larger ones are few enough for a table,
/// and rounding them to a power of two would waste more than the table costs.
pub(crate) const SLOT_MAX_BYTES: usize = 32 * 1024;
/// The smallest slot: what malloc itself rounds to.
const MIN_SHIFT: u32 = 4;
/// Classes a half: 16 B to 2^35 B; of the sampled half the first twelve are used.
const HALF: usize = 32;
const CLASSES: usize = 2 * HALF;
const SAMPLED_CLASSES: usize = SLOT_MAX_BYTES.trailing_zeros() as usize - MIN_SHIFT as usize + 1;
/// Bytes of the largest class span tried: 16 GiB a class, 1 TiB in all, of a 128 TiB address space.
const SPAN_SHIFT_MAX: u32 = 34;
/// The smallest: 1 MiB a class, 64 MiB in all, for a process under a tight `ulimit -v`.
const SPAN_SHIFT_MIN: u32 = 20;
/// Classes open by this many bytes at a time, or by one slot where that is more.
const OPEN_BYTES: usize = map::STEP_BYTES;

const _: () = assert!(SAMPLED_CLASSES <= HALF, "the sampled classes fit their half");
const _: () = assert!(1 << SPAN_SHIFT_MIN >= 16 * SLOT_MAX_BYTES, "even the smallest range holds some of every slot");

/// Which half a slot is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Half {
    /// The profiler's own memory.
    Own,
    /// Sampled blocks of the program.
    Sampled,
}

/// One class's allocation state.
#[derive(Debug)]
struct Class {
    /// Slots given back.
    free: FreeList,
    /// Slots ever handed out by bumping; in 0..=capacity (overshoot by racing threads is taken back).
    bumped: AtomicU32,
    /// Slots whose memory and entries are open; grows only.
    opened: AtomicU32,
    /// This class's entries, of the same numbering; null where there is no range.
    entries: AtomicPtr<u8>,
    /// What the entries don't hold, of the same numbering; as above.
    carried: AtomicPtr<u8>,
    /// Its first slot; as above.
    slots: AtomicPtr<u8>,
}

impl Class {
    const fn new() -> Class {
        Class {
            free: FreeList::new(),
            bumped: AtomicU32::new(0),
            opened: AtomicU32::new(0),
            entries: AtomicPtr::new(null_mut()),
            carried: AtomicPtr::new(null_mut()),
            slots: AtomicPtr::new(null_mut()),
        }
    }

    /// The entries of the slots that are open.
    #[inline]
    fn entries(&self, opened: u32) -> &[Entry] {
        // Relaxed: set before the range's base was published.
        let entries = self.entries.load(Ordering::Relaxed);
        if entries.is_null() || opened == 0 {
            return &[];
        }
        // SAFETY: `opened` entries are readable and writable, zeroed at first (a valid `Entry` of atomics), aligned,
        // and never unmapped.
        unsafe { std::slice::from_raw_parts(entries.cast::<Entry>(), opened as usize) }
    }
}

impl Class {
    /// The entry of a slot that is open.
    ///
    /// # Safety
    /// - `index` is below `opened`.
    #[inline(always)]
    unsafe fn open_entry(&self, index: u32) -> &Entry {
        let entries = self.entries.load(Ordering::Relaxed).cast::<Entry>();
        // SAFETY: the entries of open slots are readable.
        let entry = unsafe { entries.add(index as usize) };
        // SAFETY: zeroed at first (a valid `Entry` of atomics), aligned, and never unmapped.
        unsafe { &*entry }
    }
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
    classes: [Class; CLASSES],
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
        Range {
            base: AtomicPtr::new(null_mut()),
            span_shift: AtomicU8::new(0),
            bytes: AtomicUsize::new(0),
            sampled_base: AtomicUsize::new(0),
            sampled_bytes: AtomicUsize::new(0),
            large_bytes: AtomicUsize::new(0),
            classes: [const { Class::new() }; CLASSES],
        }
    }

    /// Reserves the range, the largest that the system grants and that leaves the program its own. Idempotent; callers
    /// are serialized by `start()`.
    pub(crate) fn reserve(&self) {
        if !self.base.load(Ordering::Acquire).is_null() {
            return;
        }
        for shift in (SPAN_SHIFT_MIN..=SPAN_SHIFT_MAX).rev().step_by(2) {
            let bytes = CLASSES << shift;
            if bytes > map::reservable_bytes() {
                continue;
            }
            let Some(base) = map::reserve(bytes) else { continue };
            let span = |class| Self::span_beside::<Entry>(class, shift) + Self::span_beside::<Carried>(class, shift);
            let entry_bytes = (0..CLASSES).map(span).sum();
            let Some(entries) = map::reserve(entry_bytes) else {
                // SAFETY: just reserved, seen by nobody.
                unsafe { map::unmap(base.as_ptr(), bytes) };
                continue;
            };
            // SAFETY: our own reservation.
            unsafe { map::no_huge_pages(base.as_ptr(), bytes) };
            // SAFETY: our own reservation.
            unsafe { map::no_huge_pages(entries.as_ptr(), entry_bytes) };
            let mut offset = 0;
            for (class, state) in self.classes.iter().enumerate() {
                // SAFETY: the spans before this class's sum to less than the reservation.
                let at = unsafe { entries.as_ptr().add(offset) };
                state.entries.store(at, Ordering::Relaxed);
                // SAFETY: its own span holds both.
                let at = unsafe { at.add(Self::span_beside::<Entry>(class, shift)) };
                state.carried.store(at, Ordering::Relaxed);
                // SAFETY: there are so many classes in the reservation.
                state.slots.store(unsafe { base.as_ptr().add(class << shift) }, Ordering::Relaxed);
                offset += span(class);
            }
            #[expect(clippy::cast_possible_truncation, reason = "at most 34")]
            self.span_shift.store(shift as u8, Ordering::Relaxed);
            self.bytes.store(bytes, Ordering::Relaxed);
            self.sampled_base.store(base.as_ptr().addr() + (HALF << shift), Ordering::Relaxed);
            // Release: pairs with the Acquire in `sampled`, as below.
            self.sampled_bytes.store(SAMPLED_CLASSES << shift, Ordering::Release);
            // Release: pairs with the Acquire loads of `base`; whoever sees it sees the fields above.
            self.base.store(base.as_ptr(), Ordering::Release);
            return;
        }
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
        let classes = match half {
            Half::Own => 0..HALF,
            Half::Sampled => HALF..CLASSES,
        };
        let opened: usize = classes
            .map(|class| {
                let slots = self.classes.get(class).map_or(0, |state| state.opened.load(Ordering::Relaxed) as usize);
                let shift = Self::slot_shift(class);
                let memory = if shift >= DISCARD_SHIFT { 0 } else { slots << shift };
                memory + slots * BESIDE_BYTES
            })
            .sum();
        opened + if half == Half::Own { self.large_bytes.load(Ordering::Relaxed) } else { 0 }
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
        let base = NonNull::new(self.base.load(Ordering::Acquire))?;
        let span_shift = u32::from(self.span_shift.load(Ordering::Relaxed));
        let class = Self::class_of(half, layout)?;
        let slot_shift = Self::slot_shift(class);
        if slot_shift > span_shift {
            return None;
        }
        let state = self.classes.get(class)?;
        let index = match Self::pop(state) {
            Some(index) => index,
            None => self.bump(class, state, slot_shift, span_shift)?,
        };
        let offset = (class << span_shift) + ((index as usize) << slot_shift);
        // SAFETY: offset is below CLASSES << span_shift, the reservation's length.
        let at = unsafe { base.as_ptr().add(offset) };
        if slot_shift >= DISCARD_SHIFT {
            // Relaxed: a sum that only reports read.
            self.large_bytes.fetch_add(1 << slot_shift, Ordering::Relaxed);
        }
        #[expect(clippy::cast_possible_truncation, reason = "below 64")]
        Some((NonNull::new(at)?, Slot { class: class as u8, index }))
    }

    fn pop(state: &Class) -> Option<u32> {
        // Relaxed: `opened` only tells how many entries are readable, and a listed index was opened before it was listed.
        let opened = state.opened.load(Ordering::Acquire);
        state.free.pop(state.entries(opened))
    }

    fn bump(&self, class: usize, state: &Class, slot_shift: u32, span_shift: u32) -> Option<u32> {
        let capacity = u32::try_from(1usize << (span_shift - slot_shift)).unwrap_or(u32::MAX - 1);
        // Relaxed: the number alone is handed out; the memory is ordered by `opened` below.
        let index = state.bumped.fetch_add(1, Ordering::Relaxed);
        if index >= capacity {
            state.bumped.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        // Acquire: pairs with the Release in `open_more`.
        while index >= state.opened.load(Ordering::Acquire) {
            if !self.open_more(class, state, slot_shift, span_shift, capacity) {
                // The index is lost until the process ends, as its memory could not be opened anyway.
                return None;
            }
        }
        Some(index)
    }

    /// Opens the next step of a class. Threads may race: opening twice is harmless, and one of them publishes.
    fn open_more(&self, class: usize, state: &Class, slot_shift: u32, span_shift: u32, capacity: u32) -> bool {
        let opened = state.opened.load(Ordering::Acquire);
        let step = u32::try_from((OPEN_BYTES >> slot_shift).max(1)).unwrap_or(1);
        let next = opened.saturating_add(step).min(capacity);
        if next == opened {
            return false;
        }
        let base = self.base.load(Ordering::Acquire);
        let from = (class << span_shift) + ((opened as usize) << slot_shift);
        let bytes = ((next - opened) as usize) << slot_shift;
        // SAFETY: within the reservation.
        let at = unsafe { base.add(from) };
        // SAFETY: within the reservation; a step is a whole number of STEP_BYTES, or one larger slot.
        if !unsafe { map::open(at, bytes) } {
            return false;
        }
        // SAFETY: the spans of this class, opened so far.
        if !unsafe { Self::open_beside::<Entry>(&state.entries, opened, next) } {
            return false;
        }
        // SAFETY: as above.
        if !unsafe { Self::open_beside::<Carried>(&state.carried, opened, next) } {
            return false;
        }
        // Release: pairs with the Acquire loads of `opened`.
        let _ = state.opened.compare_exchange(opened, next, Ordering::Release, Ordering::Relaxed);
        true
    }

    /// Opens what is beside the slots from `opened` to `next`, in whole steps: up to the end of one it is open already.
    ///
    /// # Safety
    /// - `span` is a class's span of these, opened for `opened` slots, and `next` are within it.
    unsafe fn open_beside<T>(span: &AtomicPtr<u8>, opened: u32, next: u32) -> bool {
        let end = |slots: u32| (slots as usize * size_of::<T>()).next_multiple_of(map::STEP_BYTES);
        let (first, last) = (end(opened), end(next));
        // SAFETY: within the span, which is padded to whole steps.
        let at = unsafe { span.load(Ordering::Relaxed).add(first) };
        // SAFETY: as above.
        first == last || unsafe { map::open(at, last - first) }
    }

    /// Gives a slot back. Its entry must have been emptied before.
    ///
    /// # Safety
    /// - `slot` was handed out by `take` and not given back since.
    /// - Nobody uses its memory any more.
    pub(crate) unsafe fn give(&self, slot: Slot) {
        let class = usize::from(slot.class);
        let Some(state) = self.classes.get(class) else { return };
        let slot_shift = Self::slot_shift(class);
        if slot_shift >= DISCARD_SHIFT {
            let (base, _) = self.bounds();
            let offset = (class << self.span_shift.load(Ordering::Relaxed)) + ((slot.index as usize) << slot_shift);
            // SAFETY: whole pages of an unused slot, which its owner gave up.
            unsafe { map::discard(std::ptr::with_exposed_provenance_mut(base + offset), 1 << slot_shift) };
            // Relaxed: as in `take`.
            self.large_bytes.fetch_sub(1 << slot_shift, Ordering::Relaxed);
        }
        let opened = state.opened.load(Ordering::Acquire);
        state.free.push(state.entries(opened), slot.index);
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
        let within = offset & ((1 << span_shift) - 1);
        let index = u32::try_from(within >> Self::slot_shift(class)).ok()?;
        if index >= self.classes.get(class)?.opened.load(Ordering::Acquire) {
            return None;
        }
        let half = if class < HALF { Half::Own } else { Half::Sampled };
        #[expect(clippy::cast_possible_truncation, reason = "below 64")]
        Some((half, Slot { class: class as u8, index }))
    }

    /// The slot of the sampled half that `ptr`, a block of the program's, is, with its entry: `locate` and `entry` in one.
    /// 16 instructions.
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
        let class = HALF + (offset >> self.span_shift.load(Ordering::Relaxed));
        let state = self.classes.get(class)?;
        let within = ptr.addr().wrapping_sub(state.slots.load(Ordering::Relaxed).addr());
        #[expect(clippy::cast_possible_truncation, reason = "a class has fewer than 2^32 slots")]
        let index = (within >> Self::slot_shift(class)) as u32;
        debug_assert!(index < state.opened.load(Ordering::Acquire), "handed out, so open");
        #[expect(clippy::cast_possible_truncation, reason = "below 64")]
        let slot = Slot { class: class as u8, index };
        // SAFETY: the slot was handed out, as the caller promises.
        Some((slot, unsafe { state.open_entry(index) }))
    }

    /// What is beside a slot.
    pub(crate) fn entry(&self, slot: Slot) -> Option<Beside<'_>> {
        let state = self.classes.get(usize::from(slot.class))?;
        let entry = state.entries(state.opened.load(Ordering::Acquire)).get(slot.index as usize)?;
        let carried = state.carried.load(Ordering::Relaxed).cast::<Carried>();
        // SAFETY: opened with the entry.
        let carried = unsafe { carried.add(slot.index as usize) };
        // SAFETY: zeroed at first, aligned, and never unmapped.
        Some(Beside { entry, carried: unsafe { &*carried } })
    }

    /// Bytes of one slot of this class.
    pub(crate) fn slot_bytes(slot: Slot) -> usize {
        1 << Self::slot_shift(usize::from(slot.class))
    }

    /// Bytes of what is beside a class's slots, rounded up to whole steps.
    fn span_beside<T>(class: usize, span_shift: u32) -> usize {
        let slots = (1usize << span_shift) >> Self::slot_shift(class).min(span_shift);
        (slots * size_of::<T>()).next_multiple_of(map::STEP_BYTES)
    }
}

/// Own slots of this size and above give their pages back when freed: 64 KiB, a whole step.
const DISCARD_SHIFT: u32 = map::STEP_BYTES.trailing_zeros();

mod class;
mod kept;
#[cfg(test)]
mod tests;

pub(crate) use class::SmallClass;
pub(crate) use kept::Kept;
