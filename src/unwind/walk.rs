//! The walk: from the registers to the list of frames, by replay where that is proved and by steps elsewhere.
//!
//! Promises: the frames found are exactly those that steps alone would find (`remembered` empty gives that walk, and
//! the debug mode compares the two); at most `scratch.len()` frames are written; the walk ends, since sp rises.
#![allow(unsafe_code, reason = "comparing remembered words with the stack")]

use super::frame::{self, Frame, State};
use super::row::Means;
use super::rules::{Known, Rules};
use super::set::Set;
use super::step::{Cache, Memory, Method, Next, step};
use super::thread::Outcome;
use crate::sys::stack::{Bounds, Registers};

/// A walk's input and, in the last three fields, its result. Passed by pointer, so that it can run on another stack.
pub(super) struct Walk<'r, 'w> {
    pub(super) registers: Registers,
    pub(super) set: &'w Set,
    pub(super) method: Method,
    pub(super) cache: &'w mut Cache,
    /// What was learned of framehop; `None` in the walk that the debug mode compares with, and for other methods.
    pub(super) rules: Option<Rules<'w>>,
    /// The thread's own stack, if `known`; else the walk is on a stack that we know nothing of.
    pub(super) bounds: Bounds,
    pub(super) known: bool,
    /// The last stack of this thread, deepest first; empty if not `known`.
    pub(super) remembered: &'r [Frame],
    /// The link register of the last stack's first frame.
    pub(super) remembered_lr: u64,
    pub(super) remembered_outcome: Outcome,
    /// The remembered numbers are valid, so that a matching tail may stay where it is.
    pub(super) numbered: bool,
    /// Room for the capturing function's frame and `max_frames` more.
    pub(super) scratch: &'w mut [Frame],
    /// Frames written to `scratch`, leaf first.
    pub(super) made: usize,
    /// How many of the deepest remembered frames follow those.
    pub(super) kept: usize,
    pub(super) outcome: Outcome,
}

impl Walk<'_, '_> {
    /// Walks. Where framehop is asked this takes 14 kB of stack.
    #[inline(never)]
    pub(super) fn run(&mut self) {
        let mut memory = Memory::new(self.bounds, self.known);
        let mut state = State { address: self.registers.ip, sp: self.registers.sp, fp: self.registers.fp };
        let mut first = true;
        // The state is of an interrupted instruction, which may lie before the frame is made or after it is left: rows tell, code
        // can't. (What lies below a signal frame is never begun with anew before that frame itself, which no words prove.)
        let mut interrupted = false;
        // Remembered frames not yet passed: those below `cursor`.
        let mut cursor = self.remembered.len();
        (self.made, self.kept, self.outcome) = (0, 0, Outcome::Cut);
        while self.made < self.scratch.len() {
            while cursor > 0 && self.remembered[cursor - 1].state.sp < state.sp {
                cursor -= 1;
            }
            if let Some(top) = cursor.checked_sub(1)
                && self.is_remembered(&self.remembered[top], &state, first)
            {
                // SAFETY: `state` was just proved or stepped to; frames are only remembered on the thread's own stack.
                let (below, all) = match unsafe { frame::first_difference(self.remembered, top) } {
                    Some(differs) => (differs, false),
                    None if self.tail_fits(cursor) => {
                        self.kept = cursor;
                        self.outcome = self.remembered_outcome;
                        return;
                    }
                    // At the bottom: what comes after a stack that was cut was never remembered.
                    None => (0, self.remembered_outcome != Outcome::Cut),
                };
                // The frames above `below` are proved: copy them. So is `below`'s own state: go on from it.
                if !self.copy(below + usize::from(!all), cursor) {
                    return;
                }
                if all {
                    self.outcome = self.remembered_outcome;
                    return;
                }
                let differs = &self.remembered[below];
                interrupted &= below == top;
                (state, first) = (differs.state, differs.flags & frame::FIRST != 0);
                cursor = below;
            }
            let Some(place) = self.scratch.get_mut(self.made) else { return };
            place.begin(&state, first);
            let returns_to = state.address.wrapping_add(u64::from(first));
            let known = match &self.rules {
                Some(rules) if self.known => rules.step(returns_to, &state, &self.bounds, place),
                Some(rules) => rules.means(returns_to),
                None => Known::Unknown,
            };
            let was_interrupted = interrupted;
            interrupted = false;
            let mut leave = |walk: &mut Self, means: Means| {
                interrupted = means == Means::Signal;
                let means = if was_interrupted { means.where_interrupted() } else { means };
                walk.ask(&mut memory, means, state, first)
            };
            let next = match known {
                Known::Stepped(to) => Next::To(to),
                Known::Opaque(means) => leave(self, means),
                Known::Unknown => {
                    // Other methods look at no table.
                    let (means, plain) = match self.method {
                        Method::Framehop => Means::of(self.set, returns_to.wrapping_sub(1)),
                        Method::FramePointers | Method::Backtrace => (Means::Nothing, None),
                    };
                    let next = leave(self, means);
                    // Code of no module may be made anew at this address.
                    if let Some(rules) = &mut self.rules
                        && self.set.module(returns_to.wrapping_sub(1)).is_some()
                    {
                        rules.learn(self.set, returns_to, means, plain);
                    }
                    next
                }
            };
            self.made += 1;
            match next {
                // Field by field: see `State::sp`.
                Next::To(State { sp, address, fp }) => {
                    (state.sp, state.address, state.fp) = (sp, address, fp);
                    first = false;
                }
                Next::End => return self.outcome = Outcome::End,
                Next::Broken => return self.outcome = Outcome::Broken,
            }
        }
    }

    /// The remembered frame begins with this state.
    #[inline]
    fn is_remembered(&self, frame: &Frame, state: &State, first: bool) -> bool {
        if first { frame.is_first(state, self.remembered_lr, self.registers.lr) } else { frame.is(state, false) }
    }

    /// One step by the method in force and the address's means, from `state`, which the frame at `made` begins with. Apart from
    /// `run`, so that known frames cost none of framehop's stack.
    #[inline(never)]
    fn ask(&mut self, memory: &mut Memory, means: Means, state: State, first: bool) -> Next {
        let Some(place) = self.scratch.get_mut(self.made) else { return Next::Broken };
        step(self.set, self.method, means, self.cache, memory, state, place, first.then_some(self.registers.lr))
    }

    /// The last resort: the frames that the `backtrace` crate finds, up to the room that there is.
    #[cold]
    #[inline(never)]
    pub(super) fn run_backtrace(&mut self) {
        let Registers { ip, sp: above, fp, .. } = self.registers;
        (self.made, self.kept, self.outcome) = (0, 0, Outcome::End);
        self.push_unproved(State { sp: above, address: ip, fp });
        // SAFETY: unsynchronised means that symbolization elsewhere may go on at the same time; we only trace.
        unsafe {
            backtrace::trace_unsynchronized(|frame| {
                let state = State { sp: frame.sp().addr() as u64, address: frame.ip().addr() as u64, fp: 0 };
                // The capturing function and those that it called have its sp or less; the outermost may have no address.
                state.sp <= above || state.address == 0 || self.push_unproved(state)
            });
        }
    }

    /// Adds a frame whose step nobody can replay; false (and cut) where there is no room.
    fn push_unproved(&mut self, state: State) -> bool {
        let Some(place) = self.scratch.get_mut(self.made) else {
            self.outcome = Outcome::Cut;
            return false;
        };
        place.begin(&state, self.made == 0);
        place.lose();
        self.made += 1;
        true
    }

    /// The proved tail of `tail` frames, below those already made, is the whole rest, and its numbers are valid.
    fn tail_fits(&self, tail: usize) -> bool {
        let total = self.made + tail;
        self.numbered
            && match self.remembered_outcome {
                // A stack that was cut has its numbers from the cut on: they hold only if it is cut there again.
                Outcome::Cut => total == self.scratch.len(),
                Outcome::End | Outcome::Broken => total <= self.scratch.len(),
            }
    }

    /// Copies the remembered frames `[from, to)` to the scratch, leaf first; false (and cut) where that is full before
    /// the last.
    fn copy(&mut self, from: usize, to: usize) -> bool {
        for frame in self.remembered[from..to].iter().rev() {
            let Some(place) = self.scratch.get_mut(self.made) else { return false };
            *place = *frame;
            self.made += 1;
        }
        true
    }
}

/// Runs the walk that `data` points to: for `stack::call_on_stack`.
///
/// # Safety
/// - `data` points to a `Walk` that nobody else uses meanwhile.
pub(super) unsafe extern "C" fn run(data: *mut u8) {
    // SAFETY: the caller's promise.
    let walk = unsafe { &mut *data.cast::<Walk<'_, '_>>() };
    walk.run();
}
