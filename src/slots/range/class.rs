//! Which slot a block is given: classes by powers of two, and room for what grows.

use std::alloc::Layout;

use super::{HALF, Half, MIN_SHIFT, Range, SAMPLED_CLASSES, Slot};

/// From this class on, the one of 4 KiB, a page, a block that grows gets a slot twice as large as it needs.
const ROOMY_CLASS: usize = 12 - MIN_SHIFT as usize;

/// A class of the sampled half.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SmallClass(pub(super) usize);

impl SmallClass {
    /// Of blocks of this layout; `None` where they are too large for a slot.
    #[inline(always)]
    pub(crate) fn of(layout: Layout) -> Option<SmallClass> {
        SmallClass::of_bytes(layout.size().max(layout.align()))
    }

    /// Of blocks of so many bytes, not 0.
    #[inline(always)]
    pub(crate) fn of_bytes(bytes: usize) -> Option<SmallClass> {
        let k = Range::power_of(bytes);
        (k < SAMPLED_CLASSES).then_some(SmallClass(k))
    }

    /// The class for a block that grew to this one, and that will grow again, if it is like most: from a page on there is room
    /// to double once more in place, where the wrapped allocator would do so as well. What is not used of the room is pages that
    /// nobody touches.
    #[inline(always)]
    pub(crate) fn grown(self) -> SmallClass {
        SmallClass(self.0 + usize::from(self.0 >= ROOMY_CLASS && self.0 + 1 < SAMPLED_CLASSES))
    }

    /// This slot is one of the class.
    #[inline(always)]
    pub(crate) fn is_of(self, slot: Slot) -> bool {
        usize::from(slot.class) == HALF + self.0
    }
}

impl Range {
    pub(super) const fn slot_shift(class: usize) -> u32 {
        #[expect(clippy::cast_possible_truncation, reason = "below 64")]
        let k = (class % HALF) as u32;
        MIN_SHIFT + k
    }

    /// Which class of its half holds blocks of so many bytes, not 0.
    #[inline(always)]
    pub(super) fn power_of(bytes: usize) -> usize {
        // At least the smallest slot's. By `^`, which is one instruction with its opposite that is in `leading_zeros`.
        let highest = (bytes - 1) | ((1 << MIN_SHIFT) - 1);
        ((highest.leading_zeros() ^ (usize::BITS - 1)) + 1 - MIN_SHIFT) as usize
    }

    pub(super) fn class_of(half: Half, layout: Layout) -> Option<usize> {
        let k = Self::power_of(layout.size().max(layout.align()));
        match half {
            Half::Own => (k < HALF).then_some(k),
            Half::Sampled => (k < SAMPLED_CLASSES).then_some(HALF + k),
        }
    }

    /// Does a block in `slot` that had `old` bytes stay there with this layout? One that grows does so if there is room;
    /// one that shrinks gives back what it no longer needs.
    pub(crate) fn stays(slot: Slot, old: usize, layout: Layout) -> bool {
        SmallClass::of(layout)
            .is_some_and(|class| class.is_of(slot) || (layout.size() > old && class.grown().is_of(slot)))
    }

    /// What to ask a slot for, of a block that grew to this layout: see [`SmallClass::grown`].
    pub(crate) fn with_room(layout: Layout) -> Layout {
        let bytes = SmallClass::of(layout).map_or(0, |class| 1 << Self::slot_shift(class.grown().0));
        Layout::from_size_align(layout.size().max(bytes), layout.align()).unwrap_or(layout)
    }
}
