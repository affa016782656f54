//! What the unwinder does at a return address, learned from it: a frame whose code was seen before costs two loads.
//!
//! Promises: `Rules::step` answers what the means of the address would (`row::Means`), or says by which means the frame is to be
//! left. A rule is learned only where the address's row is plain (`row::Plain`), which depends on the address alone; where
//! the stack is not (no room, a null or odd word, a frame pointer that does not lead up) it is left to the means, of which framehop
//! is one: on x86-64 the debug mode's comparison has them by other code. Never allocates; one workspace's own.
#![allow(unsafe_code, reason = "bounds-checked reads of the thread's own stack, as in `step`")]

use super::frame::{Frame, State};
use super::row::{Means, Plain};
use super::set::Set;
use crate::sys::stack::{self, Bounds};
use crate::units::FrameKey;

/// Return addresses that a workspace knows, two in a place; of three that meet in one the last two stay. framehop's own
/// cache has 509. 64 kB, of which a program touches what it needs.
pub(super) const PLACES: usize = 1_024;

/// A learned rule, and the address's key in the tree. Zeroed memory is 'no rule'.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(32))]
pub(super) struct Rule {
    /// The return address; 0 where nothing was learned.
    address: u64,
    key: FrameKey,
    /// Of the set that it was learned from, the lower half: another set's rules and keys are not ours.
    generation: u32,
    /// The caller's sp, in bytes above the base.
    sp: u32,
    /// Where the caller's fp is, in bytes above the base; where it stays as it is, the return address's own place.
    fp: u32,
    flags: u32,
}

impl Rule {
    #[inline]
    fn means(&self) -> Means {
        Means::from_number(self.flags >> MEANS_BITS & 0xff)
    }

    /// How far below the caller's sp the return address is, in bytes.
    #[inline(always)]
    fn below(&self) -> u64 {
        if cfg!(target_arch = "x86_64") { 8 } else { u64::from(self.flags >> BELOW_BITS) * 8 }
    }
}

/// A cache line.
pub(super) type Place = [Rule; 2];

const _: () = assert!(size_of::<Place>() == 64, "two rules a cache line");

/// There is a rule; else the step has to be taken by the address's means each time, and they and the key alone are known.
const PLAIN: u32 = 1;
/// The base is the frame pointer; else the stack pointer.
const FROM_FP: u32 = 2;
/// The caller's fp is read from the stack.
const RESTORES_FP: u32 = 4;

/// Where in the flags the means are, in 8 bits.
const MEANS_BITS: u32 = 8;
/// Where in the flags it is how far below the caller's sp the return address is, in words: 16 bits.
const BELOW_BITS: u32 = 16;

/// A workspace's rules, for walks with one set.
pub(super) struct Rules<'w> {
    places: &'w mut [Place; PLACES],
    generation: u32,
    /// `Set::address_mask`.
    #[cfg(target_arch = "aarch64")]
    address_mask: u64,
}

/// What is known of an address.
pub(super) enum Known {
    /// The step was taken.
    Stepped(State),
    /// To be left by these means; nothing more can be learned.
    Opaque(Means),
    /// To be learned.
    Unknown,
}

impl<'w> Rules<'w> {
    pub(super) fn new(places: &'w mut [Place; PLACES], set: &Set) -> Rules<'w> {
        #[allow(clippy::cast_possible_truncation, reason = "the lower half tells 2^32 publications apart")]
        Rules {
            places,
            generation: set.generation as u32,
            #[cfg(target_arch = "aarch64")]
            address_mask: set.address_mask,
        }
    }

    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "taken modulo the number of places")]
    fn place(address: u64) -> usize {
        (address ^ (address >> 10)) as usize % PLACES
    }

    #[inline]
    fn find(&self, address: u64) -> Option<&Rule> {
        let ours = |rule: &&Rule| rule.address == address && rule.generation == self.generation;
        self.places[Self::place(address)].iter().find(ours)
    }

    /// What is known of this return address, but for the step.
    #[inline]
    pub(super) fn means(&self, address: u64) -> Known {
        self.find(address).map_or(Known::Unknown, |rule| Known::Opaque(rule.means()))
    }

    /// Steps from `state`, whose return address (of an instruction, the address after its first byte) is `address`, to its
    /// caller, and notes in `frame` (begun, with this state) the words read and the key. Only on a stack with known bounds.
    /// 4 to 5 ns.
    #[inline]
    pub(super) fn step(&self, address: u64, state: &State, bounds: &Bounds, frame: &mut Frame) -> Known {
        let Some(rule) = self.find(address) else { return Known::Unknown };
        let opaque = || Known::Opaque(rule.means());
        if rule.flags & PLAIN == 0 {
            return opaque();
        }
        let base = if rule.flags & FROM_FP == 0 { state.sp } else { state.fp };
        let sp = base.wrapping_add(u64::from(rule.sp));
        let places = [base.wrapping_add(u64::from(rule.fp)), sp.wrapping_sub(rule.below())];
        let above = places.map(|place| place.wrapping_sub(state.sp));
        let room = bounds.high.saturating_sub(state.sp).min(u64::from(u32::MAX));
        if above[0] >= room || above[1] >= room || (places[0] | places[1]) & 7 != 0 {
            return opaque();
        }
        let [saved, address] = places.map(|place| {
            // SAFETY: aligned, and between a live frame's sp and the end of its stack.
            unsafe { stack::pointer::<u64>(place).read_volatile() }
        });
        let restores = rule.flags & RESTORES_FP != 0;
        let word = address;
        #[cfg(target_arch = "aarch64")]
        let address = { word & self.address_mask };
        // The first page is no code, and null the end of the stack: framehop knows what that means.
        if address < 4096 {
            return opaque();
        }
        #[allow(clippy::cast_possible_truncation, reason = "below `room`, which is below 2^32")]
        frame.note_all([saved, word], above.map(|bytes| bytes as u32), restores, rule.key);
        Known::Stepped(State { address, sp, fp: if restores { saved } else { state.fp } })
    }

    /// Learns that frames at `address` are left by these means, and the row, if it is plain.
    #[cold]
    #[inline(never)]
    pub(super) fn learn(&mut self, set: &Set, address: u64, means: Means, plain: Option<Plain>) {
        let key = set.key(address, &mut 0);
        let flags = u32::from(means as u8) << MEANS_BITS;
        let mut rule = Rule { address, key, generation: self.generation, sp: 0, fp: 0, flags };
        if let Some(Plain { from_fp, sp, below, fp }) = plain {
            let return_place = sp.saturating_sub(u32::from(below) * 8);
            #[cfg(test)]
            let fp = fp.filter(|_| !planted::FRAME_POINTER_STAYS.load(std::sync::atomic::Ordering::Relaxed));
            (rule.sp, rule.fp) = (sp, fp.unwrap_or(return_place));
            let (from_fp, restores) = (if from_fp { FROM_FP } else { 0 }, if fp.is_some() { RESTORES_FP } else { 0 });
            rule.flags |= PLAIN | from_fp | restores | u32::from(below) << BELOW_BITS;
        }
        let place = &mut self.places[Self::place(address)];
        *place = [rule, place[0]];
    }
}

/// The fault that the tests plant, to see that they would find it.
#[cfg(test)]
pub(super) mod planted {
    /// Every rule that is learned leaves the caller's frame pointer as it was.
    pub(in super::super) static FRAME_POINTER_STAYS: std::sync::atomic::AtomicBool =
        std::sync::atomic::AtomicBool::new(false);
}
