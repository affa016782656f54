//! How large a class's slots are, and which class a block is given.
//!
//! Our own blocks' classes are powers of two. The program's have four sizes a doubling, as most allocators' have: at most a fifth of a
//! slot beyond 64 bytes is empty, not half, and blocks that lie side by side are not all at the same distance, which a processor's cache
//! would hold in few of its sets.

use std::alloc::Layout;

use super::{Half, Range, SLOT_MAX_BYTES, Slot};

/// The smallest slot: what malloc itself rounds to. All slots' sizes are multiples of it.
const GRANULE_SHIFT: u32 = 4;
const GRANULE: usize = 1 << GRANULE_SHIFT;
/// Sizes a doubling of the sampled half, as a power of two. Up to 16 · 2^this bytes each granule is a class.
const STEPS_SHIFT: u32 = 2;
const STEPS: usize = 1 << STEPS_SHIFT;

/// Classes of our own half: 16 B to 2^35 B.
pub(super) const OWN_CLASSES: usize = 32;
/// Of the sampled half: 16 B to [`SLOT_MAX_BYTES`].
pub(super) const SAMPLED_CLASSES: usize = match SmallClass::of_bytes(SLOT_MAX_BYTES) {
    Some(class) => class.0 + 1,
    None => 0,
};
/// Both; our own come first.
pub(super) const CLASSES: usize = OWN_CLASSES + SAMPLED_CLASSES;

/// From this class on, that of more than half a page, a block that grows gets a slot twice as large as it needs.
const ROOMY_CLASS: usize = SmallClass::numbered(2048 + 1);

/// The size of a class's slots, and how an offset is divided by it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Size {
    pub(super) bytes: usize,
    /// ⌈2^shift ÷ granules⌉.
    reciprocal: u32,
    shift: u8,
}

impl Size {
    /// Of a class by its number among both halves'.
    #[expect(clippy::cast_possible_truncation, reason = "see the assertion")]
    pub(super) const fn of_class(class: usize) -> Size {
        let granules = Size::granules(class);
        // Rounded up by less than `granules`, so an offset of x granules is given up to x · granules ÷ 2^shift too many: less than
        // one granule's part, for x < 2^31 (Granlund and Montgomery, 1994).
        let shift = 31 + granules.next_power_of_two().trailing_zeros();
        let reciprocal = (1u64 << shift).div_ceil(granules as u64);
        assert!(reciprocal <= u32::MAX as u64 && shift < 64);
        Size { bytes: granules << GRANULE_SHIFT, reciprocal: reciprocal as u32, shift: shift as u8 }
    }

    const fn granules(class: usize) -> usize {
        match class.checked_sub(OWN_CLASSES) {
            None => 1 << class,
            Some(class) => SmallClass(class).granules(),
        }
    }

    /// Which slot holds the byte at `offset` of a class's span, which is at most 2^34 bytes.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "a class has at most 2^30 slots")]
    pub(super) fn index_at(&self, offset: usize) -> u32 {
        let granules = (offset >> GRANULE_SHIFT) as u64;
        ((granules * u64::from(self.reciprocal)) >> self.shift) as u32
    }

    /// Where a slot begins in its class's span.
    #[inline(always)]
    pub(super) fn offset_of(&self, index: u32) -> usize {
        index as usize * self.bytes
    }
}

/// A class of the sampled half.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SmallClass(pub(super) usize);

impl SmallClass {
    /// Of blocks of this layout; `None` where they are too large for a slot.
    #[inline(always)]
    pub(crate) fn of(layout: Layout) -> Option<SmallClass> {
        SmallClass::of_bytes(Self::needed(layout))
    }

    /// What a block of this layout needs. Each slot is aligned to a granule, and those that are a power of two to themselves.
    #[inline(always)]
    fn needed(layout: Layout) -> usize {
        if layout.align() <= GRANULE { layout.size() } else { Self::needed_aligned(layout) }
    }

    #[cold]
    fn needed_aligned(layout: Layout) -> usize {
        // At most 2^63: see `Layout`.
        layout.size().max(layout.align()).next_power_of_two()
    }

    /// Of blocks of so many bytes, whatever their alignment up to a granule.
    #[inline(always)]
    pub(crate) const fn of_bytes(bytes: usize) -> Option<SmallClass> {
        if bytes <= SLOT_MAX_BYTES { Some(SmallClass(SmallClass::numbered(bytes))) } else { None }
    }

    /// Above the first [`STEPS`], a class is a doubling and a step of it.
    #[inline(always)]
    const fn numbered(bytes: usize) -> usize {
        let granules = bytes.wrapping_sub(1) >> GRANULE_SHIFT;
        let highest = (granules | STEPS).ilog2() - STEPS_SHIFT;
        (highest << STEPS_SHIFT) as usize + (granules >> highest)
    }

    /// Bytes of its slots.
    pub(super) const fn bytes(self) -> usize {
        self.granules() << GRANULE_SHIFT
    }

    const fn granules(self) -> usize {
        match self.0.checked_sub(STEPS) {
            None => self.0 + 1,
            Some(above) => (above % STEPS + 1 + STEPS) << (above / STEPS),
        }
    }

    /// The class for a block that grew to this one, and that will grow again, if it is like most: from a page on there is room
    /// to double once more in place, where the wrapped allocator would do so as well. What is not used of the room is pages that
    /// nobody touches.
    #[inline(always)]
    pub(crate) fn grown(self) -> SmallClass {
        SmallClass(if self.0 < ROOMY_CLASS { self.0 } else { (self.0 + STEPS).min(SAMPLED_CLASSES - 1) })
    }

    /// Does a block whose size changed, and that is of this class now, stay in its slot? It does where it fits, while the slot is less
    /// than twice what it needs (up to 48 bytes: at most 48 more), or what it would be given.
    #[inline(always)]
    pub(crate) fn stays(self, slot: Slot, grows: bool) -> bool {
        let room = if grows { self.grown().0 - self.0 } else { 0 };
        let beyond = usize::from(slot.class).wrapping_sub(OWN_CLASSES + self.0);
        beyond <= room.max(STEPS - 1)
    }
}

impl Range {
    pub(super) fn class_of(half: Half, layout: Layout) -> Option<usize> {
        match half {
            Half::Own => {
                if layout.align() > SLOT_MAX_BYTES {
                    // The range is aligned to no more.
                    return None;
                }
                let granules = layout.size().max(layout.align()).div_ceil(GRANULE);
                let class = granules.next_power_of_two().trailing_zeros() as usize;
                (class < OWN_CLASSES).then_some(class)
            }
            Half::Sampled => SmallClass::of(layout).map(|class| OWN_CLASSES + class.0),
        }
    }

    /// Does a block in `slot` that had `old` bytes stay there with this layout?
    pub(crate) fn stays(slot: Slot, old: usize, layout: Layout) -> bool {
        SmallClass::of(layout).is_some_and(|class| class.stays(slot, layout.size() > old))
    }

    /// Bytes of one slot of this class.
    pub(crate) fn slot_bytes(slot: Slot) -> usize {
        Size::granules(usize::from(slot.class)) << GRANULE_SHIFT
    }

    /// What to ask a slot for, of a block that grew to this layout: see [`SmallClass::grown`].
    pub(crate) fn with_room(layout: Layout) -> Layout {
        let bytes = SmallClass::of(layout).map_or(0, |class| class.grown().bytes());
        Layout::from_size_align(layout.size().max(bytes), layout.align()).unwrap_or(layout)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_size_has_the_smallest_class_that_holds_it() {
        for bytes in 1..=SLOT_MAX_BYTES {
            let class = SmallClass::of_bytes(bytes).expect("small");
            assert!(class.bytes() >= bytes && class.0 < SAMPLED_CLASSES, "{bytes}");
            let below = class.0.checked_sub(1).map_or(0, |below| SmallClass(below).bytes());
            assert!(below < bytes && class.bytes() - below <= (below / 4).max(GRANULE), "{bytes}: {below}");
        }
        assert_eq!(SAMPLED_CLASSES, 40);
        assert!(SmallClass::of_bytes(SLOT_MAX_BYTES + 1).is_none());
    }

    #[test]
    fn what_is_aligned_to_more_than_a_granule_has_a_slot_that_is() {
        for align in (0..16).map(|shift| 1 << shift) {
            for size in (1..=SLOT_MAX_BYTES).step_by(97).chain([align]) {
                let layout = Layout::from_size_align(size, align).expect("valid");
                let class = SmallClass::of(layout).expect("small");
                assert!(class.bytes() >= size && class.bytes().is_multiple_of(align.max(GRANULE)), "{size}, {align}");
            }
        }
        let beyond = Layout::from_size_align(1, 2 * SLOT_MAX_BYTES).expect("valid");
        assert!(SmallClass::of(beyond).is_none());
    }

    /// A user's writer may ask for anything while the profiler is entered.
    #[test]
    fn nothing_of_ours_is_aligned_to_more_than_the_range() {
        let class = |align| Range::class_of(Half::Own, Layout::from_size_align(100, align).expect("valid"));
        assert_eq!(class(SLOT_MAX_BYTES), Some(11));
        assert_eq!(class(2 * SLOT_MAX_BYTES), None);
    }

    /// The first and the last byte of slots all over a span of 2^34 bytes, the longest.
    #[test]
    fn an_offset_is_divided_exactly() {
        for class in 0..CLASSES {
            let size = Size::of_class(class);
            let last = u32::try_from((1usize << 34) / size.bytes).expect("at most 2^30").saturating_sub(1);
            for part in 0..=2_000 {
                let index = last / 2_000 * part;
                for index in [index, last - index] {
                    let first = size.offset_of(index);
                    assert_eq!(
                        (size.index_at(first), size.index_at(first + size.bytes - 1)),
                        (index, index),
                        "{size:?}"
                    );
                }
            }
        }
    }
}
