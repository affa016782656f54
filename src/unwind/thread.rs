//! A thread's last stack, remembered.
//!
//! Promises: `const`, no `Drop`, no allocation: it lies in the thread's one `thread_local!`. Its memory (a `Region`)
//! is obtained at the thread's first capture and handed on by `release`. Frames lie deepest first, so that a changed
//! top is popped and pushed and all the rest stays where it is.
#![allow(unsafe_code, reason = "the region's frames, this thread's alone")]

use super::frame::{self, Frame, State};
use super::memo::Memo;
use super::region::{Owner, Region};
use super::scopes::{Root, Scopes};
use super::set::generation;
use crate::sys::stack::{self, Bounds, Registers};
use crate::tree::{Spare, Tree};
use crate::units::StackId;

/// How a walk ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// At the stack's end.
    End,
    /// At a frame that could not be unwound.
    Broken,
    /// At `max_frames`, with more to come.
    Cut,
}

/// A captured stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Captured {
    /// Its number in the tree.
    pub(crate) stack: StackId,
    /// Cut at `max_frames`, or not unwound to its end: `FrameKey::TRUNCATED` is its root-most frame.
    pub(crate) truncated: bool,
    /// Frames found (the marker is none).
    pub(crate) frames: u32,
}

/// The unwinder's part of a thread's state.
#[derive(Debug)]
pub(crate) struct ThreadStacks {
    /// The region's memo, where there is a region.
    memo: Option<Memo>,
    region: Option<Region>,
    /// Remembered frames, at most the region's capacity; all of one capture.
    len: usize,
    pub(super) outcome: Outcome,
    /// Every remembered frame's `id` is its stack's number; not so after a fold.
    pub(super) numbered: bool,
    /// The set's generation that the frames were found with.
    pub(super) generation: u64,
    /// The link register of the first frame.
    pub(super) lr: u64,
    /// This thread's own stack.
    pub(super) bounds: Bounds,
    /// `bounds` was asked for.
    asked: bool,
    /// Regions that may still be asked for in vain.
    tries: u8,
    /// The workspace that this thread used last.
    pub(super) hint: usize,
    pub(super) spare: Spare,
    /// The scopes that the thread is in, and their node.
    scopes: Root,
    /// Whose tree numbers the stacks; 0: nobody else's.
    profile: u32,
}

impl ThreadStacks {
    /// Nothing known.
    pub(crate) const fn new() -> ThreadStacks {
        ThreadStacks {
            memo: None,
            region: None,
            len: 0,
            outcome: Outcome::End,
            numbered: false,
            generation: 0,
            lr: 0,
            bounds: Bounds::UNKNOWN,
            asked: false,
            tries: 3,
            hint: 0,
            spare: Spare::new(),
            scopes: Root::new(),
            profile: 0,
        }
    }

    /// Forgets the last stack and the spare node. Call it when the tree was emptied, before the next capture. Threads of one
    /// `profile` number their stacks in one tree, and inherit them; 0: nobody's.
    pub(crate) fn forget(&mut self, profile: u32) {
        self.profile = profile;
        self.forget_frames();
        self.spare = Spare::new();
        self.scopes.forget();
    }

    /// The thread retires: hands its memory on. A later capture (another library's exit handler) obtains it again.
    pub(crate) fn release(&mut self) {
        (self.len, self.memo) = (0, None);
        if let Some(region) = self.region.take() {
            region.release(self.owner());
        }
    }

    /// Who may go on with this thread's memo: of the same profile, on the same stack (whose words are what proves the stacks that it
    /// knows), and in no scope.
    fn owner(&self) -> Owner {
        let profile = if self.scopes.scopes().as_slice().is_empty() { self.profile } else { 0 };
        if profile == 0 { Owner::NONE } else { Owner { bounds: self.bounds, profile } }
    }

    /// The scopes that the thread is in.
    pub(crate) fn scopes(&self) -> &Scopes {
        self.scopes.scopes()
    }

    /// Changes the scopes that the thread is in. The remembered frames stay; their numbers, which begin at the scopes'
    /// node, are looked up again at the next capture.
    pub(crate) fn change_scopes(&mut self, change: impl FnOnce(&mut Scopes)) {
        change(self.scopes.scopes_mut());
        self.numbered = false;
        self.forget_memo();
    }

    /// Finds the node of the scopes, where they changed.
    pub(super) fn take_root(&mut self, tree: &Tree<'_>) {
        self.scopes.find(tree, &mut self.spare);
    }

    /// The node that this thread's stacks begin at.
    pub(super) fn root(&self) -> StackId {
        self.scopes.node()
    }

    /// Forgets frames, but keeps the spare: the modules changed.
    pub(super) fn forget_frames(&mut self) {
        self.len = 0;
        self.forget_memo();
    }

    fn forget_memo(&mut self) {
        if let Some(memo) = &mut self.memo {
            memo.forget();
        }
    }

    /// The capture's answer if this stack is one of those that were remembered by `memorize`, in this generation.
    #[inline(always)]
    pub(super) fn recall(&self, registers: Registers, generation: u64) -> Option<Captured> {
        self.memo?.recall(registers, generation)
    }

    /// Remembers the stack that was captured last, beside it.
    pub(super) fn memorize(&mut self) {
        if let Some(mut memo) = self.memo.filter(|_| self.numbered) {
            memo.keep(self.frames(), self.generation, self.captured());
        }
    }

    /// Finds the stack's bounds and memory for `capacity` frames, once. Without memory nothing is remembered.
    pub(super) fn prepare(&mut self, sp: u64, capacity: usize) {
        if !self.asked {
            self.asked = true;
            self.bounds = stack::bounds(sp);
        }
        if self.region.is_none_or(|region| region.capacity < capacity) && self.tries > 0 {
            self.release();
            self.region = Region::obtain(capacity, self.bounds);
            if self.region.is_none() {
                self.tries -= 1;
            }
            // SAFETY: the region is this thread's; its pages lie in a mapping that stays.
            self.memo = self.region.map(|region| unsafe { Memo::over(region.memo()) });
            let owner = self.owner();
            if owner == Owner::NONE || self.region.is_none_or(|region| region.owner() != owner) {
                self.forget_memo();
            }
        }
    }

    /// There is no memory yet.
    pub(super) fn is_new(&self) -> bool {
        self.region.is_none()
    }

    /// There is memory for `capacity` frames.
    pub(super) fn can_remember(&self, capacity: usize) -> bool {
        self.region.is_some_and(|region| region.capacity >= capacity)
    }

    /// The remembered frames, deepest first.
    #[inline]
    pub(super) fn frames(&self) -> &[Frame] {
        match self.region {
            // SAFETY: the region is this thread's, and its first `len` frames were written by `remember`.
            Some(region) => unsafe { core::slice::from_raw_parts(region.frames.as_ptr(), self.len) },
            None => &[],
        }
    }

    /// Keeps the deepest `kept` frames and puts `above` (leaf first) on them.
    pub(super) fn remember(&mut self, kept: usize, above: &[Frame]) {
        let Some(region) = self.region else { return };
        debug_assert!(kept <= self.len && kept + above.len() <= region.capacity);
        let kept = kept.min(self.len);
        for (place, frame) in (kept..region.capacity).zip(above.iter().rev()) {
            // SAFETY: below the region's capacity.
            let target = unsafe { region.frames.add(place) };
            // SAFETY: this thread's memory; nobody has a reference into it now.
            unsafe { target.write(*frame) };
        }
        self.len = kept + above.len();
    }

    /// The capture's answer if this very stack is the remembered one. 1 to 1.5 ns a frame, no workspace, no hashing.
    #[inline]
    pub(super) fn repeat(&self, registers: &Registers) -> Option<Captured> {
        let frames = self.frames();
        let top = frames.last()?;
        let state = State { address: registers.ip, sp: registers.sp, fp: registers.fp };
        if self.generation != generation() || !self.numbered || !top.is_first(&state, self.lr, registers.lr) {
            return None;
        }
        // SAFETY: the top's state is the caller's registers; frames are only remembered on the thread's own stack.
        let differs = unsafe { frame::first_difference(frames, frames.len() - 1) };
        differs.is_none().then(|| self.captured())
    }

    /// The remembered stack.
    pub(super) fn captured(&self) -> Captured {
        let frames = self.frames();
        Captured {
            stack: StackId(frames.last().map_or(0, |frame| frame.id)),
            truncated: self.outcome != Outcome::End,
            frames: u32::try_from(frames.len().saturating_sub(1)).unwrap_or(u32::MAX),
        }
    }
}
