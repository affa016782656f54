//! Free slots of the sampled half that one thread keeps to itself, so that in exact mode, where every small block is in
//! a slot, taking and giving back are no shared writes.
//!
//! Promises: a slot that is kept is its thread's alone; what a thread keeps is bounded, and comes back at its end, but for some
//! that the next thread inherits. Piles are linked through the slots' entries, as the shared lists are, and exchanged with those half a pile at a time,
//! or less at first.

use std::ptr::NonNull;
use std::sync::atomic::Ordering;

use super::{HALF, Range, SAMPLED_CLASSES, Slot, SmallClass};
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
/// Bytes of a class that a thread inherits at most, and slots of the smaller classes: what a short thread needs, 12 kB in all.
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
            piles[class].room = Kept::most(class);
            class += 1;
        }
        Kept { piles, asks: [FIRST_ASK; SAMPLED_CLASSES] }
    }

    /// For the next thread, of what was left for it.
    pub(crate) fn inherited(self) -> Kept {
        Kept { asks: [FIRST_ASK; SAMPLED_CLASSES], ..self }
    }

    /// Slots of a class (of either half's numbering) that are left for the next thread at most.
    fn left(class: usize) -> u32 {
        #[expect(clippy::cast_possible_truncation, reason = "at most 128")]
        let fit = (LEFT_BYTES >> Range::slot_shift(class)) as u32;
        fit.min(LEFT_MOST)
    }

    /// Slots of a class (of either half's numbering) that a thread keeps at most.
    const fn most(class: usize) -> u32 {
        #[expect(clippy::cast_possible_truncation, reason = "at most 4096")]
        let fit = (KEPT_BYTES >> Range::slot_shift(class)) as u32;
        if fit < KEPT_LEAST {
            KEPT_LEAST
        } else if fit > KEPT_MOST {
            KEPT_MOST
        } else {
            fit
        }
    }
}

impl Range {
    /// Takes a slot of the sampled half by way of what the thread keeps. Some 25 instructions.
    #[inline(always)]
    pub(crate) fn take_kept(&self, kept: &mut Kept, class: SmallClass) -> Option<(NonNull<u8>, &Entry)> {
        let pile = kept.piles.get_mut(class.0)?;
        let asked = kept.asks.get_mut(class.0)?;
        let class = HALF + class.0;
        let state = self.classes.get(class)?;
        if pile.top == 0 && !self.refill(class, pile, asked) {
            return None;
        }
        let index = pile.top.wrapping_sub(1);
        // SAFETY: on a pile are slots that were in use before, or were opened for it.
        let entry = unsafe { state.open_entry(index) };
        pile.top = entry.next();
        pile.room = pile.room.wrapping_add(1);
        let slots = state.slots.load(Ordering::Relaxed);
        // SAFETY: a slot of the class.
        let at = unsafe { slots.add((index as usize) << Self::slot_shift(class)) };
        // SAFETY: in a mapping of ours.
        Some((unsafe { NonNull::new_unchecked(at) }, entry))
    }

    /// Gives a slot of the sampled half back to what the thread keeps. Its entry must have been emptied before.
    ///
    /// # Safety
    /// - As for [`Range::give`].
    #[inline(always)]
    pub(crate) unsafe fn give_kept(&self, kept: &mut Kept, slot: Slot, entry: &Entry) {
        let class = usize::from(slot.class);
        let Some(pile) = class.checked_sub(HALF).and_then(|class| kept.piles.get_mut(class)) else { return };
        entry.set_next(pile.top);
        pile.top = slot.index + 1;
        pile.room = pile.room.wrapping_sub(1);
        if pile.room == 0 {
            self.give_some(class, pile, Kept::most(class) / 2);
        }
    }

    /// Puts slots on an empty pile: some that were given back, else one that never was in use.
    #[cold]
    #[inline(never)]
    fn refill(&self, class: usize, pile: &mut Pile, asked: &mut u8) -> bool {
        let Some(state) = self.classes.get(class) else { return false };
        let entries = state.entries(state.opened.load(Ordering::Acquire));
        let most = u32::from(*asked).min(Kept::most(class) / 2);
        // Beyond `KEPT_MOST / 2` it is of no effect.
        *asked = asked.saturating_mul(2);
        if let Some((first, count)) = state.free.pop_chain(entries, most) {
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
        let base = self.base.load(Ordering::Acquire);
        let (slot_shift, span_shift) = (Self::slot_shift(class), u32::from(self.span_shift.load(Ordering::Relaxed)));
        if base.is_null() || slot_shift > span_shift {
            return false;
        }
        let Some(index) = self.bump(class, state, slot_shift, span_shift) else { return false };
        if let Some(entry) = state.entries(state.opened.load(Ordering::Acquire)).get(index as usize) {
            entry.set_next(0);
        }
        (pile.top, pile.room) = (index + 1, pile.room.saturating_sub(1));
        true
    }

    /// Gives the upper `count` slots of a pile to all.
    #[cold]
    #[inline(never)]
    fn give_some(&self, class: usize, pile: &mut Pile, count: u32) {
        let Some(state) = self.classes.get(class) else { return };
        let entries = state.entries(state.opened.load(Ordering::Acquire));
        let count = count.min(Kept::most(class).saturating_sub(pile.room));
        let Some(first) = pile.top.checked_sub(1).filter(|_| count > 0) else { return };
        let mut last = first;
        for _ in 1..count {
            last = entries.get(last as usize).map_or(0, |entry| entry.next()).wrapping_sub(1);
        }
        let Some(entry) = entries.get(last as usize) else { return };
        pile.top = entry.next();
        pile.room += count;
        state.free.push_chain(entries, first, last);
    }

    /// Gives back what a thread keeps, at its end, but for what the next one may inherit: the slots that were used last.
    pub(crate) fn give_most(&self, kept: &mut Kept) {
        self.give_but(kept, Kept::left);
    }

    /// The same, but for so many of each class.
    pub(super) fn give_but(&self, kept: &mut Kept, left: impl Fn(usize) -> u32) {
        for (class, pile) in kept.piles.iter_mut().enumerate() {
            let left = left(class);
            let count = Kept::most(class).saturating_sub(pile.room);
            if count > left {
                self.give_lower(HALF + class, pile, left, count);
            }
        }
    }

    /// Gives all of a pile of `count` slots, but for the upper `left`, to all.
    #[cold]
    #[inline(never)]
    fn give_lower(&self, class: usize, pile: &mut Pile, left: u32, count: u32) {
        let Some(state) = self.classes.get(class) else { return };
        let entries = state.entries(state.opened.load(Ordering::Acquire));
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
        state.free.push_chain(entries, from, to);
    }
}
