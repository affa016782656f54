//! Reallocs that the hot path did not admit: a block keeps its identity, changes its place where it must, and stays in
//! the sample with the probability that its new size asks for.

use std::alloc::{GlobalAlloc, Layout};
use std::ptr::null_mut;

use super::alloc::{Place, place, settle, slot_memory};
use super::free::{Found, find, give_own};
use super::{Cold, exact, own_hot};
use crate::hook::hot::Hot;
use crate::hook::own;
use crate::hook::session::{self, Mode};
use crate::live::{LIVE, LargeBlock};
use crate::ring::record::{Kind, Record};
use crate::sampler::regrow::regrown_interval;
use crate::sampler::weight::{IntervalCode, probability};
use crate::sampler::{governor, interval};
use crate::slots::entry::Identity;
use crate::slots::{Half, RANGE, Range, SLOT_MAX_BYTES, Slot};
use crate::sys::stack::Registers;
use crate::sys::{clock, fork, refusal};
use crate::units::Ticks;

impl Cold<'_> {
    /// What a tracked block is after it changed size: its identity, or `None` where a shrink thinned it out.
    /// `now` is the interval that the growth's sample points were drawn with.
    fn resized(&mut self, identity: &Identity, old: usize, new: usize, now: IntervalCode) -> Option<Identity> {
        let mut after = *identity;
        let (_, fixed) = interval::get();
        let (old, new) = (old as u64, new as u64);
        let r = identity.interval.interval_bytes(fixed);
        if identity.interval == IntervalCode::EXACT {
            return Some(after);
        }
        #[expect(clippy::cast_possible_truncation, reason = "a sum for a variance; 24 bits suffice")]
        #[expect(clippy::cast_precision_loss, reason = "block sizes are below 2^48")]
        {
            after.carried += (old as f64 / probability(old, r)) as f32;
        }
        let (_, own) = self.block.as_mut()?;
        if new < old {
            let keep = probability(new, r) / probability(old, r);
            return (own.random.unit() <= keep).then_some(after);
        }
        after.interval = regrown_interval(identity.interval, old, new, now, fixed, &mut own.random);
        Some(after)
    }

    fn resize(&mut self, before: &Identity, after: &Identity, old: usize, new: usize) {
        self.send(&Record {
            at: clock::now(),
            kind: Kind::Resize,
            stack: after.stack,
            interval: after.interval,
            size: new as u64,
            old_size: old as u64,
            old_interval: before.interval,
            birth: Ticks(0),
            carried: after.carried,
        });
    }
}

/// A realloc that the hot path did not admit.
///
/// # Safety
/// As for [`GlobalAlloc::realloc`].
#[cold]
#[inline(never)]
pub(in crate::hook) unsafe fn realloc(
    ptr: *mut u8,
    layout: Layout,
    new_size: usize,
    inner: &dyn GlobalAlloc,
    spent: bool,
) -> *mut u8 {
    let registers = Registers::here();
    let hot = own_hot();
    // SAFETY: the caller's block and sizes.
    match unsafe { exact::realloc(hot, ptr, layout, new_size, spent) } {
        Some(moved) => moved,
        // SAFETY: the caller's block and sizes.
        None => unsafe { realloc_at_length(hot, ptr, layout, new_size, inner, spent, &registers) },
    }
}

/// # Safety
/// As for [`GlobalAlloc::realloc`].
#[inline(never)]
unsafe fn realloc_at_length(
    hot: &Hot,
    ptr: *mut u8,
    layout: Layout,
    new_size: usize,
    inner: &dyn GlobalAlloc,
    spent: bool,
    registers: &Registers,
) -> *mut u8 {
    if spent {
        hot.undo(new_size.saturating_sub(layout.size()));
    }
    let found = find(ptr);
    if let Found::Own(slot) = found {
        if slot.is_some() && !fork::in_child() {
            // SAFETY: the caller's block and sizes.
            return unsafe { own::realloc(inner, ptr, layout, new_size) };
        }
        // SAFETY: the caller's block and sizes.
        return unsafe { move_own(inner, ptr, layout, new_size, slot) };
    }
    let mut cold = Cold::enter(hot);
    // SAFETY: the caller's block and sizes.
    let moved = unsafe { move_block(&mut cold, inner, ptr, layout, new_size, found, registers) };
    if moved.is_null() {
        refusal::look();
    }
    let counted = cold.count_realloc(layout.size(), new_size, !moved.is_null());
    cold.leave(counted);
    moved
}

/// Without a range, or in a child: a block of ours moves by hand.
///
/// # Safety
/// As for [`GlobalAlloc::realloc`]; the block is ours.
unsafe fn move_own(
    inner: &dyn GlobalAlloc,
    ptr: *mut u8,
    layout: Layout,
    new_size: usize,
    slot: Option<Slot>,
) -> *mut u8 {
    let Ok(new_layout) = Layout::from_size_align(new_size, layout.align()) else { return null_mut() };
    if fork::in_child() {
        // SAFETY: a valid layout.
        let fresh = unsafe { inner.alloc(new_layout) };
        if !fresh.is_null() {
            // SAFETY: two distinct blocks, each of at least the smaller size.
            unsafe { ptr.copy_to_nonoverlapping(fresh, layout.size().min(new_size)) };
        }
        return fresh;
    }
    // SAFETY: a valid layout.
    let fresh = unsafe { own::alloc(inner, new_layout, false) };
    if !fresh.is_null() {
        // SAFETY: two distinct blocks, each of at least the smaller size.
        unsafe { ptr.copy_to_nonoverlapping(fresh, layout.size().min(new_size)) };
        // SAFETY: moved away from.
        unsafe { give_own(inner, ptr, layout, slot) };
    }
    fresh
}

/// Moves or resizes a block of the program, tracked or not.
///
/// # Safety
/// As for [`GlobalAlloc::realloc`].
unsafe fn move_block(
    cold: &mut Cold<'_>,
    inner: &dyn GlobalAlloc,
    ptr: *mut u8,
    layout: Layout,
    new_size: usize,
    found: Found,
    registers: &Registers,
) -> *mut u8 {
    let Ok(new_layout) = Layout::from_size_align(new_size, layout.align()) else { return null_mut() };
    // What tracking costs is the governor's to know: all of it, but for what the inner allocator does anyway.
    let governed = cold.state.mode() == Mode::Sampled && !cold.child;
    let now = || if governed { clock::now() } else { Ticks(0) };
    let started = now();
    let (before, slot) = match found {
        Found::Slot(slot, identity) => (identity, Some(slot)),
        _ if cold.child => (None, None),
        // Out of the table before the inner allocator moves it; back in after it returned.
        _ => (LIVE.remove(ptr.expose_provenance()).map(|block| block.identity), None),
    };
    let before_current = before.filter(|identity| cold.current(identity));
    // What it is to be afterwards.
    let after = match (&before_current, cold.state.mode()) {
        (Some(identity), _) => {
            let now = cold.block.as_ref().map_or(identity.interval, |(_, own)| own.interval);
            // The growth is consumed, whatever it hits: the block is in the sample already.
            cold.decide(new_size.saturating_sub(layout.size()));
            cold.resized(identity, layout.size(), new_size, now)
        }
        // Exact mode: an older block begins a new life here, as in dhat.
        (None, Mode::Exact) if !cold.child => cold.identify(registers, IntervalCode::EXACT),
        (None, _) => match cold.decide(new_size.saturating_sub(layout.size())) {
            Some(interval) => cold.identify(registers, interval),
            None => None,
        },
    };
    let decided = now();
    // SAFETY: the caller's block and sizes.
    let moved = unsafe { carry(cold, inner, ptr, layout, new_layout, slot, after.is_some()) };
    let carried = now();
    let Some((moved, place)) = moved else {
        // Refused: the old block stays as it was.
        if slot.is_none()
            && let Some(identity) = before
        {
            let is_listed = LIVE.insert(LargeBlock { address: ptr.expose_provenance(), identity });
            if !is_listed && before_current.is_some() {
                // Another took its place, and there is no memory for one more: its free will not be seen.
                cold.death(Kind::Forget, &identity, layout.size(), clock::now());
                if let Some(sink) = session::sink() {
                    sink.untracked(identity.stack);
                }
            }
        }
        return null_mut();
    };
    let by_hand = slot.is_some() || matches!(place, Some(Place::Slot(_)));
    cold.resettle(moved, place, layout.size(), new_size, before, before_current, after);
    if governed
        && (before_current.is_some() || after.is_some())
        && let Some((_, own)) = cold.block.as_mut()
    {
        let others = if by_hand { 0 } else { carried.0.saturating_sub(decided.0) };
        let spent = clock::now().0.saturating_sub(started.0).saturating_sub(others);
        own.untold.charge(spent);
    }
    moved
}

impl Cold<'_> {
    /// Writes down and reports what a block is after it moved.
    #[expect(clippy::too_many_arguments, reason = "one step of `move_block`, cut out for length")]
    fn resettle(
        &mut self,
        moved: *mut u8,
        place: Option<Place>,
        old: usize,
        new: usize,
        before: Option<Identity>,
        before_current: Option<Identity>,
        after: Option<Identity>,
    ) {
        let mut after = after;
        let mode = self.state.mode();
        // A block of an earlier profile that stays in a slot keeps its slot, and no identity of this one.
        if let Some(place) = &place {
            let kept = match after.as_mut() {
                Some(identity) => {
                    if before_current.is_none() {
                        identity.birth = clock::now();
                    }
                    settle(moved, place, identity, new, mode)
                }
                None => {
                    if let Place::Slot(slot) = place
                        && let Some(entry) = RANGE.entry(*slot)
                    {
                        // It could not leave its slot, since there was no memory elsewhere.
                        if before_current.is_some() && mode == Mode::Sampled {
                            governor::sample_memory(-slot_memory(*slot));
                        }
                        entry.clear();
                    }
                    true
                }
            };
            if !kept
                && let Some(lost) = after.take()
                && let Some(sink) = session::sink()
            {
                sink.untracked(lost.stack);
            }
        }
        match (before_current, after) {
            (Some(before), Some(after)) => self.resize(&before, &after, old, new),
            (Some(before), None) => self.death(Kind::Forget, &before, old, clock::now()),
            (None, Some(after)) => {
                self.count_older(old);
                // In exact mode it is a new block, as in dhat.
                self.birth(&after, new, if mode == Mode::Exact { 0 } else { old });
            }
            (None, None) => {
                if before.is_some() || mode == Mode::Exact {
                    self.count_older(old);
                }
            }
        }
    }
}

/// Moves the contents: within its slot, between slots, out of them, into them, or by the inner allocator.
/// The place is `None` for a block that is nowhere tracked.
///
/// # Safety
/// As for [`GlobalAlloc::realloc`].
unsafe fn carry(
    cold: &mut Cold<'_>,
    inner: &dyn GlobalAlloc,
    ptr: *mut u8,
    layout: Layout,
    new_layout: Layout,
    slot: Option<Slot>,
    track: bool,
) -> Option<(*mut u8, Option<Place>)> {
    let stays = slot
        .filter(|&slot| !cold.child && Range::stays(slot, layout.size(), new_layout))
        .map(|slot| (ptr, Some(Place::Slot(slot))));
    // A block that is tracked no more leaves its slot, in which each of its events would be cold.
    if track && stays.is_some() {
        return stays;
    }
    let into_slot = track && !cold.child && new_layout.size().max(new_layout.align()) <= SLOT_MAX_BYTES;
    if slot.is_none() && !into_slot {
        // SAFETY: the caller's block, which the inner allocator made.
        let moved = unsafe { inner.realloc(ptr, layout, new_layout.size()) };
        return (!moved.is_null()).then_some((moved, track.then_some(Place::Table)));
    }
    let (fresh, place) = if into_slot {
        let roomy = (new_layout.size() > layout.size())
            .then(|| RANGE.take(Half::Sampled, Range::with_room(new_layout)))
            .flatten()
            .map(|(fresh, slot)| (fresh.as_ptr(), Place::Slot(slot)));
        match roomy {
            Some(placed) => placed,
            // SAFETY: a valid layout.
            None => unsafe { place(inner, new_layout, false) }?,
        }
    } else {
        // SAFETY: a valid layout.
        let fresh = unsafe { inner.alloc(new_layout) };
        if fresh.is_null() {
            return stays;
        }
        (fresh, Place::Table)
    };
    // SAFETY: two distinct blocks, each of at least the smaller size.
    unsafe { ptr.copy_to_nonoverlapping(fresh, layout.size().min(new_layout.size())) };
    match slot {
        // SAFETY: moved away from.
        Some(slot) => unsafe { cold.give_slot(slot) },
        // SAFETY: moved away from; the inner allocator made it.
        None => unsafe { inner.dealloc(ptr, layout) },
    }
    let tracked = track || matches!(place, Place::Slot(_));
    Some((fresh, tracked.then_some(place)))
}
