//! Free slots of the sampled half that one thread keeps to itself, so that in exact mode, where every small block is in
//! a slot, taking and giving back are no shared writes.
//!
//! Promises: a slot that is kept is its thread's alone; what a thread keeps is bounded, and comes back at its end, but for some
//! that the next thread inherits. Piles are linked through the slots' entries, as the shared lists are, and exchanged with those half a pile at a time,
//! or less at first.

use std::ptr::NonNull;

use super::class::{OWN_CLASSES, SAMPLED_CLASSES};
use super::span::Span;
use super::{Range, Slot, SmallClass};
use crate::slots::entry::Entry;

/// What one thread keeps.
#[derive(Debug)]
pub(crate) struct Kept {
    pub(super) piles: [Pile; SAMPLED_CLASSES],
    /// How many slots to ask for when a pile is empty.
    asks: [u8; SAMPLED_CLASSES],
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Pile {
    /// The uppermost slot's index + 1; 0: none.
    pub(super) top: u32,
    /// How many more may be put on it, in 1..=`Kept::most` outside `give_kept`.
    pub(super) room: u32,
}

/// Bytes of free slots of a class that a thread keeps at most, if that is not fewer than [`KEPT_LEAST`].
const KEPT_BYTES: usize = 64 * 1024;
/// At most so many of the smaller classes: half of them are moved at once, so a shared write is one in 32 slots.
const KEPT_MOST: u32 = 64;
const KEPT_LEAST: u32 = 4;
/// Bytes of a class that a thread inherits at most, and slots of the smaller classes: what a short thread needs, 39 kB if it had of all sizes.
const LEFT_BYTES: usize = 2 * 1024;
const LEFT_MOST: u32 = 16;
/// So many a thread asks for at first, and then twice as many each time: to take a chain is to follow it through entries that another
/// processor may have written last, and a thread that ends soon would do so for slots that it never uses.
const FIRST_ASK: u8 = 4;

impl Kept {
    /// Nothing kept.
    pub(crate) const fn new() -> Kept {
        let mut piles = [Pile { top: 0, room: 0 }; SAMPLED_CLASSES];
        let mut class = 0;
        while class < SAMPLED_CLASSES {
            piles[class].room = MOST[class];
            class += 1;
        }
        Kept { piles, asks: [FIRST_ASK; SAMPLED_CLASSES] }
    }

    /// For the next thread, of what was left for it.
    pub(crate) fn inherited(self) -> Kept {
        Kept { asks: [FIRST_ASK; SAMPLED_CLASSES], ..self }
    }

    /// Slots of a class that are left for the next thread at most.
    fn left(class: SmallClass) -> u32 {
        #[expect(clippy::cast_possible_truncation, reason = "at most 128")]
        let fit = (LEFT_BYTES / class.bytes()) as u32;
        fit.min(LEFT_MOST)
    }

    /// Slots of a class that a thread keeps at most.
    fn most(class: SmallClass) -> u32 {
        MOST.get(class.0).copied().unwrap_or(KEPT_LEAST)
    }
}

/// See [`Kept::most`].
const MOST: [u32; SAMPLED_CLASSES] = {
    let mut most = [0; SAMPLED_CLASSES];
    let mut class = 0;
    while class < SAMPLED_CLASSES {
        #[expect(clippy::cast_possible_truncation, reason = "at most 4096")]
        let fit = (KEPT_BYTES / SmallClass(class).bytes()) as u32;
        most[class] = if fit < KEPT_LEAST {
            KEPT_LEAST
        } else if fit > KEPT_MOST {
            KEPT_MOST
        } else {
            fit
        };
        class += 1;
    }
    most
};

impl Range {
    /// Takes a slot of the sampled half by way of what the thread keeps. Some 25 instructions.
    #[inline(always)]
    pub(crate) fn take_kept(&self, kept: &mut Kept, class: SmallClass) -> Option<(NonNull<u8>, &Entry)> {
        let pile = kept.piles.get_mut(class.0)?;
        let asked = kept.asks.get_mut(class.0)?;
        let span = self.spans.get(OWN_CLASSES + class.0)?;
        if pile.top == 0 && !self.refill(class, pile, asked) {
            return None;
        }
        let index = pile.top.wrapping_sub(1);
        // SAFETY: on a pile are slots that were in use before, or were opened for it.
        let entry = unsafe { span.open_entry(index) };
        pile.top = entry.next();
        pile.room = pile.room.wrapping_add(1);
        // SAFETY: a slot of the span.
        let at = unsafe { span.slot(index) };
        // SAFETY: in a mapping of ours.
        Some((unsafe { NonNull::new_unchecked(at) }, entry))
    }

    /// Gives a slot of the sampled half back to what the thread keeps. Its entry must have been emptied before.
    ///
    /// # Safety
    /// - As for [`Range::give`].
    #[inline(always)]
    pub(crate) unsafe fn give_kept(&self, kept: &mut Kept, slot: Slot, entry: &Entry) {
        let class = usize::from(slot.class).wrapping_sub(OWN_CLASSES);
        let Some(pile) = kept.piles.get_mut(class) else { return };
        entry.set_next(pile.top);
        pile.top = slot.index + 1;
        pile.room = pile.room.wrapping_sub(1);
        if pile.room == 0 {
            self.give_some(SmallClass(class), pile);
        }
    }

    fn span(&self, class: SmallClass) -> Option<&Span> {
        self.spans.get(OWN_CLASSES + class.0)
    }

    /// Puts slots on an empty pile: some that were given back, else one that never was in use.
    #[cold]
    #[inline(never)]
    fn refill(&self, class: SmallClass, pile: &mut Pile, asked: &mut u8) -> bool {
        let Some(span) = self.span(class) else { return false };
        let entries = span.open_entries();
        let most = u32::from(*asked).min(Kept::most(class) / 2);
        // Beyond `KEPT_MOST / 2` it is of no effect.
        *asked = asked.saturating_mul(2);
        if let Some((first, count)) = span.state.free.pop_chain(entries, most) {
            // Its last link is another list's: cut.
            let mut last = first;
            for _ in 1..count {
                last = entries.get(last as usize).map_or(0, |entry| entry.next()).wrapping_sub(1);
            }
            if let Some(entry) = entries.get(last as usize) {
                entry.set_next(0);
            }
            (pile.top, pile.room) = (first + 1, pile.room.saturating_sub(count));
            return true;
        }
        let Some(index) = span.bump() else { return false };
        if let Some(entry) = span.open_entries().get(index as usize) {
            entry.set_next(0);
        }
        (pile.top, pile.room) = (index + 1, pile.room.saturating_sub(1));
        true
    }

    /// Gives the upper half of a full pile to all.
    #[cold]
    #[inline(never)]
    fn give_some(&self, class: SmallClass, pile: &mut Pile) {
        let Some(span) = self.span(class) else { return };
        let entries = span.open_entries();
        let count = Kept::most(class) / 2;
        let Some(first) = pile.top.checked_sub(1).filter(|_| count > 0) else { return };
        let mut last = first;
        for _ in 1..count {
            last = entries.get(last as usize).map_or(0, |entry| entry.next()).wrapping_sub(1);
        }
        let Some(entry) = entries.get(last as usize) else { return };
        pile.top = entry.next();
        pile.room += count;
        span.state.free.push_chain(entries, first, last);
    }

    /// Gives back what a thread keeps, at its end, but for what the next one may inherit: the slots that were used last.
    pub(crate) fn give_most(&self, kept: &mut Kept) {
        self.give_but(kept, Kept::left);
    }

    /// The same, but for so many of each class.
    pub(super) fn give_but(&self, kept: &mut Kept, left: impl Fn(SmallClass) -> u32) {
        let piles = kept.piles.iter_mut().enumerate();
        for (class, pile) in piles.filter(|(_, pile)| pile.top != 0) {
            let class = SmallClass(class);
            let left = left(class);
            let count = Kept::most(class).saturating_sub(pile.room);
            if count > left {
                self.give_lower(class, pile, left, count);
            }
        }
    }

    /// Gives all of a pile of `count` slots, but for the upper `left`, to all.
    #[cold]
    #[inline(never)]
    fn give_lower(&self, class: SmallClass, pile: &mut Pile, left: u32, count: u32) {
        let Some(span) = self.span(class) else { return };
        let entries = span.open_entries();
        let entry = |top: u32| top.checked_sub(1).and_then(|index| entries.get(index as usize));
        let below = |top: u32| entry(top).map_or(0, |entry| entry.next());
        let lowest = (1..left).fold(pile.top, |top, _| below(top));
        let upper = if left == 0 { None } else { entry(lowest) };
        let first = upper.map_or(pile.top, |entry| entry.next());
        let last = (left + 1..count).fold(first, |top, _| below(top));
        let (Some(from), Some(to)) = (first.checked_sub(1), last.checked_sub(1)) else { return };
        match upper {
            Some(entry) => entry.set_next(0),
            None => pile.top = 0,
        }
        pile.room += count - left;
        span.state.free.push_chain(entries, from, to);
    }
}
