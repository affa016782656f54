//! The outer frames of remembered stacks, which many stacks have in common: noted once, sixteen frames at a time.
//!
//! Promises: a tail notes every word of its frames; equal frames over an equal tail are one tail. Never allocates;
//! bounded, and emptied together with the words.

use super::super::frame::Frame;
use super::words::{Part, Words};

/// 16 kB, touched as far as they are used.
const TAILS: usize = 512;
/// Places that a tail may be in.
const WAYS: usize = 8;
/// Frames of one tail: as many as cost a hundred instructions, beside which those to go on to the next are few.
const FRAMES: usize = 16;

/// Sixteen frames, and the tail below them.
#[derive(Clone, Copy)]
#[repr(C, align(32))]
pub(super) struct Tail {
    /// Of the words and of what is below.
    hash: u64,
    /// The upper half of the memo's life; another one: no tail.
    life: u32,
    pub(super) part: Part,
    pub(super) below: TailId,
}

const _: () = assert!(size_of::<Tail>() == 32, "two tails a cache line");

/// 1 + the index of a tail; 0: no more.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub(super) struct TailId(u32);

impl TailId {
    pub(super) const NONE: TailId = TailId(0);
}

/// All of a memo's tails. Zeroed is empty.
#[repr(C)]
pub(super) struct Tails([Tail; TAILS]);

impl Tails {
    /// The tail that was given by `note`, since the last emptying; `None` of none.
    #[inline(always)]
    pub(super) fn get(&self, id: TailId) -> Option<&Tail> {
        self.0.get((id.0 as usize).wrapping_sub(1))
    }

    /// Forgets those of every life.
    pub(super) fn clear(&mut self) {
        self.0.fill(Tail { hash: 0, life: 0, part: Part::NONE, below: TailId::NONE });
    }

    /// Notes the deepest of these frames (deepest first), but for the innermost `apart` and what is left over: the tail,
    /// and how many frames are in it. `None`: there is no room.
    pub(super) fn note(
        &mut self,
        words: &mut Words,
        life: u32,
        frames: &[Frame],
        apart: usize,
    ) -> Option<(TailId, usize)> {
        let mut below = TailId::NONE;
        let (whole, _) = frames.get(..frames.len().saturating_sub(apart))?.as_chunks::<FRAMES>();
        for frames in whole {
            let part = words.write(frames)?;
            let hash = super::hash(words.hash(part), u64::from(below.0));
            let place = |way: usize| ((hash >> 48) as usize + way) % TAILS;
            let is_it = |tail: &Tail| {
                tail.life == life && tail.hash == hash && tail.below == below && words.are_equal(tail.part, part)
            };
            let known = (0..WAYS).map(place).find(|&place| is_it(&self.0[place]));
            let index = match known {
                Some(index) => {
                    words.take_back(part);
                    index
                }
                None => {
                    let free = (0..WAYS).map(place).find(|&place| self.0[place].life != life)?;
                    self.0[free] = Tail { hash, life, part, below };
                    free
                }
            };
            below = TailId(u32::try_from(index).ok()? + 1);
        }
        Some((below, whole.len() * FRAMES))
    }
}
