//! One remembered frame: a state of the unwinder and everything that the step out of it read.
//!
//! Promises: `first_difference` reads only words that a step read before, at the same addresses, on a stack whose
//! lower end has not moved above them; it says the truth about each, shallow to deep, up to the first difference.
//!
//! Why this proves a stack: a step of the unwinder is a function of its state (address, sp, frame pointer) and of the
//! words that it reads. Equal state and equal words give the equal next state, and so on to the bottom. Return
//! addresses alone prove nothing: an over-aligned local can hide a frame between two equal ones.
#![allow(unsafe_code, reason = "reads of stack words that were bounds-checked when they were remembered")]

use crate::sys::stack;
use crate::units::FrameKey;

/// What a step of the unwinder depends on, beside the memory that it reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub(super) struct State {
    /// The stack pointer. Not beside `fp`: framehop keeps those two side by side, and compilers would copy them by one
    /// wide load of what was just written in parts, which stalls for longer than the rest of the step takes.
    pub(super) sp: u64,
    /// Instruction pointer (of the first frame) or return address.
    pub(super) address: u64,
    /// The frame pointer register.
    pub(super) fp: u64,
}

/// The capturing function itself: its address is an instruction pointer, and it has no node in the tree.
pub(super) const FIRST: u32 = 1;
/// The step's words are all here, so that comparing them replaces the step.
const REPLAYABLE: u32 = 2;
/// The step read at least one word.
const WORDS: u32 = 4;
/// `key` is filled in.
pub(super) const KEYED: u32 = 8;
/// The step read one word so far.
const ONE_WORD: u32 = 16;

/// The first frame's step took the return address from the link register.
const LINKED: u32 = 32;

/// Words that a step may read and still be remembered; both architectures' rules read at most two.
pub(super) const MAX_WORDS: usize = 2;

/// A state, the words that the step from it to its caller read, and the stack's number down to here. One cache line.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(super) struct Frame {
    pub(super) state: State,
    /// What was read; the second repeats the first where only one word was.
    values: [u64; MAX_WORDS],
    /// Where, in bytes above `state.sp`.
    offsets: [u32; MAX_WORDS],
    /// The tree's key, if `KEYED`.
    pub(super) key: FrameKey,
    /// The number of the stack that ends here; for the first frame its caller's.
    pub(super) id: u32,
    pub(super) flags: u32,
}

const _: () = assert!(size_of::<Frame>() == 64, "one cache line a frame");

impl Frame {
    /// `state`, before the step out of it: no word read yet.
    #[inline]
    pub(super) fn begin(&mut self, state: &State, first: bool) {
        // Field by field: a copy of the whole would read in one wide load what was just written in parts, and stall.
        self.state.address = state.address;
        self.state.sp = state.sp;
        self.state.fp = state.fp;
        self.flags = REPLAYABLE | if first { FIRST } else { 0 };
    }

    /// Notes that the step read `value` at `address`, at or above the state's sp.
    #[inline]
    pub(super) fn note(&mut self, address: u64, value: u64) {
        let Ok(offset) = u32::try_from(address - self.state.sp) else { return self.lose() };
        if self.flags & WORDS == 0 {
            self.flags |= WORDS | ONE_WORD;
            (self.values[0], self.values[1]) = (value, value);
            (self.offsets[0], self.offsets[1]) = (offset, offset);
        } else if self.flags & ONE_WORD != 0 {
            self.flags &= !ONE_WORD;
            self.values[1] = value;
            self.offsets[1] = offset;
        } else {
            self.lose();
        }
    }

    /// Notes all words of a step at once, and the key: the caller's frame pointer, if it was `restored`, and the return address;
    /// both are the return address where it was not.
    #[inline]
    pub(super) fn note_all(
        &mut self,
        values: [u64; MAX_WORDS],
        offsets: [u32; MAX_WORDS],
        restored: bool,
        key: FrameKey,
    ) {
        (self.values, self.offsets, self.key) = (values, offsets, key);
        self.flags |= WORDS | KEYED | if restored { 0 } else { ONE_WORD };
    }

    /// More was read, or farther away, than a frame can hold, or the system was asked whether it can be read: this
    /// step must be done again each time.
    #[inline]
    pub(super) fn lose(&mut self) {
        self.flags &= !REPLAYABLE;
    }

    /// The words that the step read, (address, value), the return address last; `None` where the step has to be done
    /// again each time. In `room`.
    #[inline]
    pub(super) fn words<'r>(&self, room: &'r mut [(u64, u64); MAX_WORDS]) -> Option<&'r [(u64, u64)]> {
        if self.flags & REPLAYABLE == 0 {
            return None;
        }
        for ((place, offset), value) in room.iter_mut().zip(self.offsets).zip(self.values) {
            *place = (self.state.sp.wrapping_add(u64::from(offset)), value);
        }
        Some(match (self.flags & WORDS != 0, self.flags & ONE_WORD != 0) {
            (false, _) => &[],
            (true, true) => &room[1..],
            (true, false) => room,
        })
    }

    /// The state is this frame's.
    #[inline]
    pub(super) fn is(&self, state: &State, first: bool) -> bool {
        self.state.sp == state.sp
            && self.state.address == state.address
            && self.state.fp == state.fp
            && (self.flags & FIRST != 0) == first
    }

    /// The step took the link register for the return address.
    #[inline]
    pub(super) fn link(&mut self) {
        self.flags |= LINKED;
    }

    #[inline]
    pub(super) fn is_linked(&self) -> bool {
        self.flags & LINKED != 0
    }

    /// The state is this first frame's, whose link register was `noted` and is now `lr`. Only aarch64 has one, and there it is part
    /// of the state where it was the return address: elsewhere it holds whatever the function put there.
    #[inline]
    pub(super) fn is_first(&self, state: &State, noted: u64, lr: u64) -> bool {
        self.is(state, true) && (noted == lr || !self.is_linked())
    }
}

/// Compares the words of `frames[from]`, `frames[from - 1]`, … (deepest first in memory, so shallow to deep) with the
/// stack. `None` if all are as remembered down to the bottom; else the first frame whose step has to be done again:
/// its own state is proved, what lies below it is not. 1 to 1.5 ns a frame.
///
/// # Safety
/// - `frames[from].state` is a state of the calling thread's stack as it is now.
/// - All frames were noted on this same stack, by steps that read words between their sp and the stack's end.
#[inline]
pub(super) unsafe fn first_difference(frames: &[Frame], from: usize) -> Option<usize> {
    let mut left = frames.get(..=from).unwrap_or_default();
    while let [below @ .., frame] = left {
        // SAFETY: the caller's promises; each frame is proved before its caller is looked at.
        if !unsafe { frame.is_as_noted() } {
            return Some(below.len());
        }
        left = below;
    }
    None
}

impl Frame {
    /// The words that the step from here read are on the stack as they were.
    ///
    /// # Safety
    /// - As for [`first_difference`]; all frames above this one are proved.
    #[inline(always)]
    unsafe fn is_as_noted(&self) -> bool {
        if self.flags & REPLAYABLE == 0 {
            return false;
        }
        if self.flags & WORDS == 0 {
            return true;
        }
        let [first, second] = self.offsets.map(|offset| {
            let word = stack::pointer::<u64>(self.state.sp.wrapping_add(u64::from(offset)));
            // SAFETY: at or above the sp of a live frame and below the end of the stack, where a step read it before;
            // aligned, since steps refuse other addresses.
            unsafe { word.read_volatile() }
        });
        #[cfg(test)]
        if planted::ADDRESSES_ALONE.load(std::sync::atomic::Ordering::Relaxed) {
            // The return address is the last word that a step reads.
            return second == self.values[1];
        }
        ((first ^ self.values[0]) | (second ^ self.values[1])) == 0
    }
}

/// The fault that the tests plant, to see that they would find it.
#[cfg(test)]
pub(super) mod planted {
    /// Compare return addresses, and nothing else.
    pub(in super::super) static ADDRESSES_ALONE: std::sync::atomic::AtomicBool =
        std::sync::atomic::AtomicBool::new(false);
}
