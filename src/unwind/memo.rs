//! The stacks that a thread captured lately, each as the words that prove it: for threads that come from a few stacks
//! in turn, where the last one alone (`thread`) would be unwound again and again.
//!
//! Promises: `recall` answers only where registers and **every** word that the unwinder read for a stack are what they
//! were, so it is what full unwinding would give (`frame` says why); a link register is none of them, since a capture that found
//! its return address in no word is not kept. It reads the caller's own frame and, at an equal
//! stack pointer, words between it and the stack's end. Never allocates or waits; bounded, and emptied when it is full,
//! when modules or scopes change, and with its tree.
//!
//! How: a stack's node is found by its stack pointer and innermost return address, and its words are compared, shallow to
//! deep (`words`). Where one differs, the next node is found by that place and by what is there instead: so of many stacks
//! that begin alike each is found in a few steps, and not by trying the others. Looked at first is a copy of the node that is
//! expected there: the stack that came after the one that was there last, as it did before (`expected`). Each node has all words of its stack, so it needs no way to it. Outer frames, which many stacks
//! have in common, are noted once (`tails`). A stack is kept when it is seen for the second time: one that never comes
//! again costs a mark.
#![allow(unsafe_code, reason = "memory that is handed from thread to thread; reads of the thread's own stack")]

mod expected;
mod tails;
mod words;

use core::ptr::NonNull;

use super::frame::{Frame, MAX_WORDS, State};
use super::thread::Captured;
use crate::sys::stack::{self, Registers};
use crate::units::StackId;
use expected::Foresight;
use tails::{TailId, Tails};
use words::{Part, Place, Words};

/// 32 kB, touched as far as they are used.
const NODES: usize = 512;
/// Places whose next stack is known at once.
const EXPECTED: usize = 256;
/// Nodes that a stack may be in.
const WAYS: usize = 8;
/// Nodes on the way to a stack; one farther away is not kept.
const MOST_STEPS: usize = 32;
/// Frames, from the innermost, that are in no tail: where stacks differ from one another.
const APART: usize = 4;
/// Stacks seen once that are known, four in a place.
const MARKS: usize = 256;

/// A stack: what has to be equal at once, and where its words are.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Node {
    /// The way here; of another life: no node.
    from: Way,
    sp: u64,
    fp: u64,
    /// The words of its inner frames, and the outer ones.
    part: Part,
    tail: TailId,
    answer: Answer,
    /// Its own index, and that of the stack that came after it.
    own: u16,
    next: u16,
    /// Another one came after it the last time: a second time that becomes `next`.
    is_doubted: bool,
    /// Of a copy alone: what is to be done where it was expected rightly.
    moves_on: bool,
    /// Of a copy alone: the index of the stack that it is expected after.
    before: u16,
}

const _: () = assert!(size_of::<Node>() == 64, "one cache line a node");

/// A stack's number, how many frames it has, and whether it is truncated: `Captured` in one register. Of none: `NONE`.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
struct Answer(u64);

/// The way to a node: the memo's life, and 0 for the beginning, else another node and the place where its words differ.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
struct Way(u64);

/// The memory of a memo. Zeroed is empty: no capture is made at address 0, and the first that is kept begins life 1.
#[repr(C)]
pub(super) struct Pages {
    /// The beginning of all ways; grows with each emptying.
    life: Way,
    /// The set's generation that the nodes are of.
    generation: u64,
    /// Where the captures are made; of one place alone, so that `top` holds.
    ip: u64,
    /// The innermost return address, in bytes above the sp there: in the capturing function's own frame.
    top: u64,
    /// Knuth's linear congruential generator (MMIX), for the marks.
    random: u64,
    /// Of stacks seen once: a part of their hash.
    marks: [[u16; 4]; MARKS],
    /// By stack pointer and innermost return address: the stack that is expected from there. Copies.
    expected: [Node; EXPECTED],
    foresight: Foresight,
    nodes: [Node; NODES],
    tails: Tails,
    words: Words,
}

/// A thread's memo, in memory that its region owns.
#[derive(Clone, Copy, Debug)]
pub(super) struct Memo(NonNull<Pages>);

#[inline(always)]
fn hash(of: u64, word: u64) -> u64 {
    // Fibonacci hashing (Knuth, TAOCP 3, 6.4); the upper half is good.
    (of.rotate_left(23) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

#[inline(always)]
fn place(hash: u64, way: usize) -> usize {
    ((hash >> 48) as usize + way) % NODES
}

/// Where a search ended: at a stack, or at the way to where it would be.
enum Search {
    /// Its index.
    Found(usize),
    Missing {
        from: Way,
        hash: u64,
    },
}

impl Memo {
    /// Over zeroed memory, or that of another thread's memo.
    ///
    /// # Safety
    /// - `pages` is `Pages`, mapped for ever, and the caller's alone for as long as it uses the memo.
    pub(super) unsafe fn over(pages: NonNull<Pages>) -> Memo {
        Memo(pages)
    }

    #[inline(always)]
    fn pages(&mut self) -> &mut Pages {
        // SAFETY: as promised to `over`; all bit patterns that are in it were written as `Pages`, or are zero.
        unsafe { self.0.as_mut() }
    }

    /// Empties it. What nobody used stays untouched.
    pub(super) fn forget(&mut self) {
        if self.pages().life != Way(0) {
            self.pages().empty();
        }
    }

    /// The stack that begins at `registers`, if it is among those remembered in this generation. About 40 instructions, and 4 to 6 a frame.
    #[inline(always)]
    pub(super) fn recall(mut self, registers: Registers, generation: u64) -> Option<Captured> {
        let Registers { ip, sp, fp, .. } = registers;
        self.pages().recall(ip, sp, fp, generation).captured()
    }

    /// Keeps the stack of these frames (deepest first, all of one capture with the set of `generation`, numbered), if it
    /// was seen before. While it stands as it was captured.
    pub(super) fn keep(&mut self, frames: &[Frame], generation: u64, captured: Captured) {
        let Some(top) = frames.last().filter(|top| !top.is_linked()) else { return };
        let Some(&(at, address)) = top.words(&mut [(0, 0); MAX_WORDS]).and_then(<[_]>::last) else { return };
        let state = top.state;
        let pages = self.pages();
        let above = at - state.sp;
        if pages.ip != state.address || pages.generation != generation || pages.top != above {
            (pages.ip, pages.generation, pages.top) = (state.address, generation, above);
            pages.empty();
        }
        pages.words.anchor_at(state.sp);
        let hash = hash(state.sp, address);
        if !pages.was_marked(hash, captured.stack) || !words::can_be_noted(frames) {
            return;
        }
        if pages.add(hash, frames, captured).is_none() {
            // Full, or in the way of one another.
            pages.empty();
            pages.add(hash, frames, captured);
        }
    }
}

impl Node {
    #[inline(always)]
    fn is_for(&self, from: Way, sp: u64, fp: u64) -> bool {
        self.sp == sp && self.fp == fp && self.from == from
    }
}

impl Answer {
    const NONE: Answer = Answer(0);
    const TRUNCATED: u64 = 1 << 63;
    const KNOWN: u64 = 1 << 62;
    const MOST_FRAMES: u32 = (1 << 30) - 1;

    fn of(captured: Captured) -> Answer {
        let Captured { stack, truncated, frames } = captured;
        let frames = u64::from(frames.min(Answer::MOST_FRAMES)) << 32;
        Answer(Answer::KNOWN | if truncated { Answer::TRUNCATED } else { 0 } | frames | u64::from(stack.0))
    }

    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "two numbers in one word")]
    fn captured(self) -> Option<Captured> {
        (self != Answer::NONE).then_some(Captured {
            stack: StackId(self.0 as u32),
            truncated: self.0 & Answer::TRUNCATED != 0,
            frames: (self.0 >> 32) as u32 & Answer::MOST_FRAMES,
        })
    }
}

impl Pages {
    /// See `Memo::recall`. A function of its own that calls others only as its last step, and registers one by one, here and below:
    /// so all that it needs is in registers, and it saves none.
    #[inline(never)]
    fn recall(&mut self, ip: u64, sp: u64, fp: u64, generation: u64) -> Answer {
        if self.ip != ip || self.generation != generation {
            return Answer::NONE;
        }
        let (at, _) = self.place_of(sp);
        let node = &self.expected[at];
        // SAFETY: the registers are the caller's; if the node is for them it is of this life, and was made at this sp.
        if node.is_for(self.life, sp, fp) && unsafe { self.words.difference(node.part) }.is_none() {
            if node.tail != TailId::NONE {
                return self.recall_by_tail(sp, fp);
            }
            if node.moves_on {
                return self.move_on(sp);
            }
            return node.answer;
        }
        self.recall_unexpected(sp, fp)
    }

    /// Where the stack is expected that begins at the caller's registers, and its innermost return address.
    #[inline(always)]
    fn place_of(&self, sp: u64) -> (usize, u64) {
        let top = stack::pointer::<u64>(sp.wrapping_add(self.top));
        // SAFETY: in the frame of the function that took the registers (`recall` compared its address): it stands there at each
        // of its calls.
        let address = unsafe { top.read_volatile() };
        // A few bits that tell the places of one program apart.
        #[expect(clippy::cast_possible_truncation, reason = "taken modulo the number of places")]
        let at = (address ^ (sp >> 4)) as usize % EXPECTED;
        (at, address)
    }

    /// As `recall`, where the expected stack's inner frames are proved.
    #[inline(never)]
    fn recall_by_tail(&mut self, sp: u64, fp: u64) -> Answer {
        let (at, _) = self.place_of(sp);
        let node = &self.expected[at];
        // SAFETY: of this life, and made at the calling thread's sp, as `recall` saw.
        match unsafe { self.tail_difference(node.tail) } {
            None if node.moves_on => self.move_on(sp),
            None => node.answer,
            Some(_) => self.recall_unexpected(sp, fp),
        }
    }

    /// As `recall`, where the stack is not the expected one: which is learned.
    #[inline(never)]
    fn recall_unexpected(&mut self, sp: u64, fp: u64) -> Answer {
        #[cfg(test)]
        planted::UNEXPECTED.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let (at, address) = self.place_of(sp);
        let Search::Found(index) = self.search(self.life, hash(sp, address), sp, fp) else { return Answer::NONE };
        let Node { own, answer, .. } = self.nodes[index];
        self.learn(at, own);
        answer
    }

    /// The part of a node's tail, and the chunk of it, that differs.
    ///
    /// # Safety
    /// - The node that the tail is of is of this life, and was made at the calling thread's sp.
    #[inline(always)]
    unsafe fn tail_difference(&self, tail: TailId) -> Option<(Part, u32)> {
        let mut id = tail;
        #[cfg(test)]
        if planted::OUTER_UNSEEN.load(std::sync::atomic::Ordering::Relaxed) {
            return None;
        }
        while let Some(tail) = self.tails.get(id) {
            // SAFETY: the caller's promise.
            if let Some(at) = unsafe { self.words.difference(tail.part) } {
                return Some((tail.part, at));
            }
            id = tail.below;
        }
        None
    }

    /// The way on from the node of this index, of which this part differs, at this chunk.
    fn branch(&self, index: usize, part: Part, at: u32) -> (Way, u64) {
        // SAFETY: `difference` was asked for this part, and answered so.
        let (Place(place), found) = unsafe { self.words.found_at(part, at) };
        let from = Way(self.life.0 | ((index as u64 + 1) << Place::BITS) | u64::from(place));
        (from, hash(from.0, found))
    }

    fn search(&self, from: Way, hash: u64, sp: u64, fp: u64) -> Search {
        let (mut from, mut hash) = (from, hash);
        for _ in 0..MOST_STEPS {
            let mut places = (0..WAYS).map(|way| place(hash, way));
            let Some(index) = places.find(|&at| self.nodes[at].is_for(from, sp, fp)) else { break };
            let node = &self.nodes[index];
            // SAFETY: the registers are the calling thread's; the node is of this life, and was made at this sp.
            let own = unsafe { self.words.difference(node.part) }.map(|at| (node.part, at));
            // SAFETY: as above.
            match own.or_else(|| unsafe { self.tail_difference(node.tail) }) {
                None => return Search::Found(index),
                Some((part, at)) => (from, hash) = self.branch(index, part, at),
            }
        }
        Search::Missing { from, hash }
    }

    /// Adds a stack that stands as it was captured. `None`: there is no room. Done, too, where it is there.
    fn add(&mut self, hash: u64, frames: &[Frame], captured: Captured) -> Option<()> {
        let State { sp, fp, .. } = frames.last()?.state;
        let Search::Missing { from, hash } = self.search(self.life, hash, sp, fp) else {
            return Some(());
        };
        let free = (0..WAYS).map(|way| place(hash, way)).find(|&place| !self.nodes[place].lives(self.life))?;
        let index = u16::try_from(free).ok()?;
        let (tail, outer) = self.tails.note(&mut self.words, self.life.number(), frames, APART)?;
        let part = self.words.write(frames.get(outer..)?)?;
        self.nodes[free] = Node {
            from,
            sp,
            fp,
            part,
            tail,
            answer: Answer::of(captured),
            own: index,
            // Itself, until something else is known.
            next: index,
            is_doubted: true,
            moves_on: false,
            before: 0,
        };
        let (at, _) = self.place_of(sp);
        self.foresight.begin(index, at);
        Some(())
    }

    fn empty(&mut self) {
        if self.life == Way::LAST {
            self.nodes.fill(Node::NONE);
            self.expected.fill(Node::NONE);
            self.tails.clear();
            self.life = Way(0);
        }
        self.life = Way(self.life.0 + Way::LIFE);
        self.foresight.forget();
        self.words.empty();
    }

    /// Was this stack here before? From now on it was, until another takes its place: one of four by chance, so that five in
    /// turn don't put one another out for ever.
    fn was_marked(&mut self, hash: u64, stack: StackId) -> bool {
        let spread = (hash ^ u64::from(stack.0)).wrapping_mul(0xd6e8_feb8_6659_fd93);
        let (marks, tag) = (&mut self.marks[(spread >> 32) as usize % MARKS], (spread >> 48) as u16 | 1);
        if marks.contains(&tag) {
            return true;
        }
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        marks[(self.random >> 62) as usize] = tag;
        false
    }
}

impl Way {
    /// A node and a place have 32 bits.
    const LIFE: u64 = 1 << 32;
    const LAST: Way = Way(!(Way::LIFE - 1));

    /// Of the life.
    fn number(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

impl Node {
    const NONE: Node = Node {
        from: Way(0),
        sp: 0,
        fp: 0,
        part: Part::NONE,
        tail: TailId::NONE,
        answer: Answer::NONE,
        own: 0,
        next: 0,
        is_doubted: false,
        moves_on: false,
        before: 0,
    };

    fn lives(&self, life: Way) -> bool {
        self.from.0 & Way::LAST.0 == life.0
    }
}

/// What the tests count, and the faults that they plant, to see that they would find them.
#[cfg(test)]
pub(super) mod planted {
    /// Stacks that were not the expected one, or not known.
    pub(in super::super) static UNEXPECTED: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    /// Take the outer frames for granted.
    pub(in super::super) static OUTER_UNSEEN: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(false);
    /// Compare a stack's innermost words, and nothing else.
    pub(in super::super) static INNERMOST_ALONE: std::sync::atomic::AtomicBool =
        std::sync::atomic::AtomicBool::new(false);
}
