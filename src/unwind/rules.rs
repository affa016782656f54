//! What the unwinder does at a return address, learned from it: a frame whose code was seen before costs two loads.
//!
//! Promises: `Rules::step` answers what framehop would, or by which means the frame is to be left (`row::Means`). A rule is
//! learned only where the address's row is one of framehop's rules, and framehop itself took it from its cache of rules,
//! since such a rule depends on the address alone; all that is not plain (no room on the stack, a null or odd word, a frame
//! pointer that does not lead up) is left to framehop. Never allocates; one workspace's own.
//!
//! How: each rule that framehop caches is 'the caller's sp is sp or fp, and so many bytes; the return address is the
//! word below it; fp stays, or is a word at so many bytes'. framehop does not say which, so it is asked twice over: `learn`
//! has it step from made-up registers over a made-up stack, and reads base and distances off its answer. On aarch64
//! nothing is learned.
#![allow(unsafe_code, reason = "bounds-checked reads of the thread's own stack, as in `step`")]

use framehop::{FrameAddress, Unwinder as _};

use super::frame::{Frame, State};
use super::row::Means;
use super::set::Set;
use super::step::{Cache, registers};
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

/// A cache line.
pub(super) type Place = [Rule; 2];

const _: () = assert!(size_of::<Place>() == 64, "two rules a cache line");

/// There is a rule; else the step has to be taken by the address's means each time, and they and the key alone are known.
const PLAIN: u32 = 1;
/// The base is the frame pointer; else the stack pointer.
const FROM_FP: u32 = 2;
/// The caller's fp is read from the stack.
const RESTORES_FP: u32 = 4;

/// Where in the flags the means are.
const MEANS_BITS: u32 = 8;

/// The made-up stack: registers and words far apart, so that the answer says what it was made of.
const PROBE_SP: u64 = 1 << 40;
const PROBE_FP: u64 = 1 << 44;
const PROBE_WORD: u64 = 1 << 20;

/// A workspace's rules, for walks with one set.
pub(super) struct Rules<'w> {
    places: &'w mut [Place; PLACES],
    generation: u32,
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
        Rules { places, generation: set.generation as u32 }
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
        self.find(address).map_or(Known::Unknown, |rule| Known::Opaque(Means::from_number(rule.flags >> MEANS_BITS)))
    }

    /// Steps from `state`, whose return address (of an instruction, the address after its first byte) is `address`, to its
    /// caller, and notes in `frame` (begun, with this state) the words read and the key. Only on a stack with known bounds.
    /// 4 to 5 ns.
    #[inline]
    pub(super) fn step(&self, address: u64, state: &State, bounds: &Bounds, frame: &mut Frame) -> Known {
        let Some(rule) = self.find(address) else { return Known::Unknown };
        let opaque = || Known::Opaque(Means::from_number(rule.flags >> MEANS_BITS));
        if rule.flags & PLAIN == 0 {
            return opaque();
        }
        let base = if rule.flags & FROM_FP == 0 { state.sp } else { state.fp };
        let sp = base.wrapping_add(u64::from(rule.sp));
        let places = [base.wrapping_add(u64::from(rule.fp)), sp.wrapping_sub(8)];
        let above = places.map(|place| place.wrapping_sub(state.sp));
        let room = bounds.high.saturating_sub(state.sp).min(u64::from(u32::MAX));
        if above[0] >= room || above[1] >= room || (places[0] | places[1]) & 7 != 0 {
            return opaque();
        }
        let [saved, address] = places.map(|place| {
            // SAFETY: aligned, and between a live frame's sp and the end of its stack.
            unsafe { stack::pointer::<u64>(place).read_volatile() }
        });
        // The first page is no code, and null the end of the stack: framehop knows what that means.
        if address < 4096 {
            return opaque();
        }
        let restores = rule.flags & RESTORES_FP != 0;
        #[allow(clippy::cast_possible_truncation, reason = "below `room`, which is below 2^32")]
        frame.note_all([saved, address], above.map(|bytes| bytes as u32), restores, rule.key);
        Known::Stepped(State { address, sp, fp: if restores { saved } else { state.fp } })
    }

    /// Learns that frames at `address` are left by these means, and what framehop does there, if it was just asked for it. Two of
    /// its steps.
    #[cold]
    #[inline(never)]
    pub(super) fn learn(&mut self, set: &Set, cache: &mut Cache, address: u64, means: Means) {
        let key = set.key(address, &mut 0);
        let flags = u32::from(means as u8) << MEANS_BITS;
        let mut rule = Rule { address, key, generation: self.generation, sp: 0, fp: 0, flags };
        if means == Means::Rule
            && let Some((sp, fp, flags)) = probe(set, cache, address)
        {
            (rule.sp, rule.fp) = (sp, fp);
            rule.flags |= PLAIN | flags;
        }
        let place = &mut self.places[Self::place(address)];
        *place = [rule, place[0]];
    }
}

/// The distances of sp and fp, and the flags, of framehop's rule for this address; `None` if it has none or one of another form.
fn probe(set: &Set, cache: &mut Cache, address: u64) -> Option<(u32, u32, u32)> {
    if cfg!(not(target_arch = "x86_64")) {
        return None;
    }
    let hits = cache.stats().hits();
    let mut state = registers(set, State { sp: PROBE_SP, address, fp: PROBE_FP }, None);
    let (mut reads, mut count) = ([0_u64; 2], 0_usize);
    let mut read = |place: u64| {
        let slot = reads.get_mut(count).ok_or(())?;
        *slot = place;
        count += 1;
        Ok(PROBE_WORD * count as u64)
    };
    let found = set.unwinder.unwind_frame(FrameAddress::from_return_address(address)?, &mut state, cache, &mut read);
    // A rule of the cache is the same for every stack; a step that was worked out anew may read anything.
    if cache.stats().hits() != hits + 1 {
        return None;
    }
    let to = super::step::caller(&state, found.ok()??);
    let (base, from_fp) = if to.sp >= PROBE_FP { (PROBE_FP, FROM_FP) } else { (PROBE_SP, 0) };
    let distance = |place: u64| place.checked_sub(base).and_then(|bytes| u32::try_from(bytes).ok());
    let sp = distance(to.sp)?;
    let return_place = *reads.get(count.checked_sub(1)?)?;
    let is_word = |value: u64, nth: usize| value == PROBE_WORD * nth as u64;
    if return_place != to.sp.checked_sub(8)? || !is_word(to.address, count) {
        return None;
    }
    #[cfg(test)]
    if planted::FRAME_POINTER_STAYS.load(std::sync::atomic::Ordering::Relaxed) {
        return Some((sp, distance(return_place)?, from_fp));
    }
    match count {
        1 if to.fp == PROBE_FP => Some((sp, distance(return_place)?, from_fp)),
        2 if is_word(to.fp, 1) => Some((sp, distance(reads[0])?, from_fp | RESTORES_FP)),
        _ => None,
    }
}

/// The fault that the tests plant, to see that they would find it.
#[cfg(test)]
pub(super) mod planted {
    /// Every rule that is learned leaves the caller's frame pointer as it was.
    pub(in super::super) static FRAME_POINTER_STAYS: std::sync::atomic::AtomicBool =
        std::sync::atomic::AtomicBool::new(false);
}
