//! The stacks that a thread captured lately, each as the words that prove it: for threads that come from a few stacks
//! in turn, where the last one alone (`thread`) would be unwound again and again.
//!
//! Promises: `recall` answers only where registers and **every** word that the unwinder read for a stack are what they
//! were, so it is what full unwinding would give (`frame` says why). It reads the caller's own frame and, at an equal
//! stack pointer, words between it and the stack's end. Never allocates or waits; bounded, and emptied when it is full,
//! when modules or scopes change, and with its tree.
//!
//! How: entries by stack pointer and innermost return address, four places each; a stack's words lie one after another,
//! shallow to deep, so that proving one is a scan: two words at a time where they are neighbours, as a saved frame pointer
//! and a return address are. A stack is kept when it is seen for the second time: one that never comes again costs a mark.
#![allow(unsafe_code, reason = "memory that is handed from thread to thread; reads of the thread's own stack")]

use core::ptr::NonNull;

use super::frame::{Frame, MAX_WORDS};
use super::set::generation;
use super::thread::Captured;
use crate::sys::stack::{self, Registers};
use crate::units::StackId;

/// Words that a memo holds one by one, and as many in twos: some 200 stacks of 20 frames. 88 kB a thread, touched as far as
/// it is used.
const WORDS: usize = 4_096;
/// A stack with more is not kept.
const MOST_WORDS: usize = WORDS / 4;
/// Frames, from the innermost, whose words are read one by one all the same: a wide load of what was written in two parts
/// a moment ago waits for both to arrive.
const FRESH_FRAMES: usize = 2;
const ENTRIES: usize = 256;
/// Entries that a stack may be in.
const WAYS: usize = 4;
/// Of so many stacks that are found elsewhere than in their first place one is moved there: soon, if it comes again and
/// again; seldom, if two of a place come in turn.
const ELSEWHERE: usize = 8;
const MARKS: usize = 512;
/// Words that are compared between two branches; stacks are padded to whole chunks.
const CHUNK: usize = 4;

/// A stack: what has to be equal at once, and where its words are.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Entry {
    /// The memo's life that it belongs to; another one: no entry.
    life: u64,
    sp: u64,
    fp: u64,
    lr: u64,
    /// Its words: where they begin, in chunks, and how many.
    first: u32,
    chunks: u32,
    /// Its twos, likewise.
    first_twos: u32,
    twos: u32,
    frames: u32,
    stack: u32,
    truncated: bool,
}

const _: () = assert!(size_of::<Entry>() == 64, "one cache line an entry");

/// The memory of a memo. Zeroed is empty: no capture is made at address 0, and the first that is kept begins life 1.
#[repr(C)]
pub(super) struct Pages {
    /// Grows with each emptying.
    life: u64,
    /// The set's generation that the entries are of.
    generation: u64,
    /// Where the captures are made; of one place alone, so that `top` holds.
    ip: u64,
    /// The innermost return address, in bytes above the sp there: in the capturing function's own frame.
    top: u64,
    /// Chunks in use, of words and of twos.
    used: usize,
    used_twos: usize,
    /// Stacks that were not found in their first place.
    elsewhere: usize,
    /// Of stacks seen once: a part of their hash.
    marks: [u16; MARKS],
    entries: [Entry; ENTRIES],
    chunks: [Chunk; WORDS / CHUNK],
    twos: [Twos; WORDS / CHUNK / 2],
}

/// Some words of a stack.
#[derive(Clone, Copy)]
#[repr(C)]
struct Chunk {
    values: [u64; CHUNK],
    /// Where, in bytes above the entry's sp.
    offsets: [u32; CHUNK],
}

/// Some neighbouring words.
#[derive(Clone, Copy)]
#[repr(C, align(16))]
struct Twos {
    values: [[u64; 2]; CHUNK],
    /// Where the first of each is.
    offsets: [u32; CHUNK],
}

/// A thread's memo, in memory that its region owns.
#[derive(Clone, Copy, Debug)]
pub(super) struct Memo(NonNull<Pages>);

#[inline(always)]
fn hash(sp: u64, address: u64) -> u64 {
    // Fibonacci hashing (Knuth, TAOCP 3, 6.4); the upper half is good.
    (sp.rotate_left(23) ^ address).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

#[inline(always)]
fn place(hash: u64, way: usize) -> usize {
    ((hash >> 48) as usize + way) % ENTRIES
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
        if self.pages().life != 0 {
            self.pages().empty();
        }
    }

    /// The stack that begins at `registers`, if it is among those remembered. About 15 instructions, and 4 a word.
    #[inline(always)]
    pub(super) fn recall(mut self, registers: &Registers) -> Option<Captured> {
        let pages = self.pages();
        if pages.ip != registers.ip || pages.generation != generation() {
            return None;
        }
        let top = stack::pointer::<u64>(registers.sp.wrapping_add(pages.top));
        // SAFETY: in the frame of the function that took the registers: it stands there at each of its calls.
        let hash = hash(registers.sp, unsafe { top.read_volatile() });
        // SAFETY: the registers are the caller's.
        match unsafe { pages.recall_at(place(hash, 0), registers) } {
            None => pages.recall_elsewhere(hash, registers),
            found => found,
        }
    }

    /// Keeps the stack of these frames (deepest first, all of one capture with the set of `generation`, numbered), if it
    /// was seen before.
    pub(super) fn keep(&mut self, frames: &[Frame], lr: u64, generation: u64, captured: Captured) {
        let Some(top) = frames.last() else { return };
        let Some(&(at, address)) = top.words(&mut [(0, 0); MAX_WORDS]).and_then(<[_]>::last) else { return };
        let state = top.state;
        let pages = self.pages();
        let above = at - state.sp;
        if pages.ip != state.address || pages.generation != generation || pages.top != above {
            (pages.ip, pages.generation, pages.top) = (state.address, generation, above);
            pages.empty();
        }
        let hash = hash(state.sp, address);
        if !pages.was_marked(hash, captured.stack) {
            return;
        }
        let Some(words) = pages.write(frames, state.sp) else { return };
        let [first, chunks, first_twos, twos] = words;
        let free = (0..WAYS).find(|&way| pages.entries[place(hash, way)].life != pages.life);
        let way = free.unwrap_or(first as usize % WAYS);
        pages.entries[place(hash, way)] = Entry {
            life: pages.life,
            sp: state.sp,
            fp: state.fp,
            lr,
            first,
            chunks,
            first_twos,
            twos,
            frames: captured.frames,
            stack: captured.stack.0,
            truncated: captured.truncated,
        };
    }
}

impl Pages {
    /// # Safety
    /// - `registers` are the calling thread's now.
    #[inline(always)]
    unsafe fn recall_at(&self, place: usize, registers: &Registers) -> Option<Captured> {
        let entry = self.entries.get(place)?;
        let differs = (entry.sp ^ registers.sp) | (entry.fp ^ registers.fp) | (entry.lr ^ registers.lr);
        if differs | (entry.life ^ self.life) != 0 {
            return None;
        }
        let chunks = self.chunks.get(entry.first as usize..)?.get(..entry.chunks as usize)?;
        let twos = self.twos.get(entry.first_twos as usize..)?.get(..entry.twos as usize)?;
        // SAFETY: the entry was made at this sp of this thread, from words below the end of its stack.
        if !unsafe { are_as_noted(registers.sp, chunks) } {
            return None;
        }
        #[cfg(test)]
        let twos = if planted::INNERMOST_ALONE.load(std::sync::atomic::Ordering::Relaxed) { &[] } else { twos };
        // SAFETY: as above.
        if !unsafe { twos_are_as_noted(registers.sp, twos) } {
            return None;
        }
        Some(Captured { stack: StackId(entry.stack), truncated: entry.truncated, frames: entry.frames })
    }

    /// In the places after the first; of what is found there some comes to the first place.
    #[inline(never)]
    fn recall_elsewhere(&mut self, hash: u64, registers: &Registers) -> Option<Captured> {
        // SAFETY: handed on.
        let at = |way: &usize| unsafe { self.recall_at(place(hash, *way), registers) };
        let (way, found) = (1..WAYS).find_map(|way| Some((way, at(&way)?)))?;
        self.elsewhere = self.elsewhere.wrapping_add(1);
        if self.elsewhere.is_multiple_of(ELSEWHERE) {
            self.entries.swap(place(hash, 0), place(hash, way));
        }
        Some(found)
    }

    fn empty(&mut self) {
        self.life += 1;
        (self.used, self.used_twos) = (0, 0);
    }

    /// Was this stack here before? From now on it was, until another one takes its mark.
    fn was_marked(&mut self, hash: u64, stack: StackId) -> bool {
        let spread = (hash ^ u64::from(stack.0)).wrapping_mul(0xd6e8_feb8_6659_fd93);
        let (mark, tag) = (&mut self.marks[(spread >> 32) as usize % MARKS], (spread >> 48) as u16 | 1);
        core::mem::replace(mark, tag) == tag
    }

    /// Writes the words of `frames`, the shallowest first: the first chunk of words and how many, and the same of twos.
    /// `None` where a step read what can't be compared, or too much.
    fn write(&mut self, frames: &[Frame], sp: u64) -> Option<[u32; 4]> {
        let mut room = [(0, 0); MAX_WORDS];
        let mut count = 0;
        for frame in frames {
            count += frame.words(&mut room)?.len();
        }
        if count == 0 || count > MOST_WORDS {
            return None;
        }
        // A chunk more of each than the words need, since the last of each may be begun alone.
        if self.used + count / CHUNK + 1 >= self.chunks.len() || self.used_twos + count / CHUNK + 1 >= self.twos.len() {
            self.empty();
        }
        let (mut words, mut twos) = (Part::at(self.used), Part::at(self.used_twos));
        for (n, frame) in frames.iter().rev().enumerate() {
            match *frame.words(&mut room)? {
                [(at, fp), (above, address)] if above == at.wrapping_add(8) && n >= FRESH_FRAMES => {
                    twos.note(&mut self.twos, u32::try_from(at - sp).ok()?, [fp, address])?;
                }
                ref alone => {
                    for &(at, value) in alone {
                        words.note(&mut self.chunks, u32::try_from(at - sp).ok()?, value)?;
                    }
                }
            }
        }
        let written =
            [u32::try_from(self.used).ok()?, words.chunks(), u32::try_from(self.used_twos).ok()?, twos.chunks()];
        self.used += written[1] as usize;
        self.used_twos += written[3] as usize;
        Some(written)
    }
}

/// Chunks of one kind that are being filled.
struct Part {
    first: usize,
    noted: usize,
}

/// What is noted in chunks.
trait Filled {
    type Value: Copy;
    /// Notes a value in this place of the chunk, and in all that come after it: the last chunk is full whatever comes.
    fn fill(&mut self, place: usize, offset: u32, value: Self::Value);
}

impl Filled for Chunk {
    type Value = u64;

    fn fill(&mut self, place: usize, offset: u32, value: u64) {
        self.offsets[place..].fill(offset);
        self.values[place..].fill(value);
    }
}

impl Filled for Twos {
    type Value = [u64; 2];

    fn fill(&mut self, place: usize, offset: u32, value: [u64; 2]) {
        self.offsets[place..].fill(offset);
        self.values[place..].fill(value);
    }
}

impl Part {
    fn at(first: usize) -> Part {
        Part { first, noted: 0 }
    }

    fn note<C: Filled>(&mut self, chunks: &mut [C], offset: u32, value: C::Value) -> Option<()> {
        chunks.get_mut(self.first + self.noted / CHUNK)?.fill(self.noted % CHUNK, offset, value);
        self.noted += 1;
        Some(())
    }

    #[expect(clippy::cast_possible_truncation, reason = "at most MOST_WORDS")]
    fn chunks(&self) -> u32 {
        self.noted.div_ceil(CHUNK) as u32
    }
}

/// The words that these say are on the stack above `sp`.
///
/// # Safety
/// - `sp` is the calling thread's now, and all offsets lead to aligned words below the end of its stack.
#[inline(always)]
unsafe fn are_as_noted(sp: u64, chunks: &[Chunk]) -> bool {
    for chunk in chunks {
        let mut differences = 0;
        for (offset, value) in chunk.offsets.iter().zip(chunk.values) {
            let word = stack::pointer::<u64>(sp.wrapping_add(u64::from(*offset)));
            // SAFETY: the caller's promise.
            differences |= unsafe { word.read_volatile() } ^ value;
        }
        if differences != 0 {
            return false;
        }
        #[cfg(test)]
        if planted::INNERMOST_ALONE.load(std::sync::atomic::Ordering::Relaxed) {
            return true;
        }
    }
    true
}

/// The same, of neighbouring words.
///
/// # Safety
/// - As for [`are_as_noted`].
#[inline(always)]
unsafe fn twos_are_as_noted(sp: u64, twos: &[Twos]) -> bool {
    for chunk in twos {
        // SAFETY: the caller's promise.
        if !unsafe { chunk.is_as_noted(sp) } {
            return false;
        }
    }
    true
}

impl Twos {
    /// # Safety
    /// - As for [`are_as_noted`].
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "sse2")]
    #[inline]
    unsafe fn is_as_noted(&self, sp: u64) -> bool {
        use core::arch::x86_64::{
            __m128i, _mm_cmpeq_epi8, _mm_load_si128, _mm_loadu_si128, _mm_movemask_epi8, _mm_or_si128,
            _mm_setzero_si128, _mm_xor_si128,
        };
        let mut differences = _mm_setzero_si128();
        for (offset, value) in self.offsets.iter().zip(&self.values) {
            let at = stack::pointer::<__m128i>(sp.wrapping_add(u64::from(*offset)));
            // SAFETY: the caller's promise, of two words.
            let found = unsafe { _mm_loadu_si128(at) };
            // SAFETY: a value of 16 bytes, at a multiple of them in a chunk that is aligned to them.
            let noted = unsafe { _mm_load_si128(value.as_ptr().cast()) };
            differences = _mm_or_si128(differences, _mm_xor_si128(found, noted));
        }
        _mm_movemask_epi8(_mm_cmpeq_epi8(differences, _mm_setzero_si128())) == 0xFFFF
    }

    /// # Safety
    /// - As for [`are_as_noted`].
    #[cfg(not(target_arch = "x86_64"))]
    #[inline]
    unsafe fn is_as_noted(&self, sp: u64) -> bool {
        let mut differences = 0;
        for (offset, value) in self.offsets.iter().zip(self.values) {
            let at = stack::pointer::<[u64; 2]>(sp.wrapping_add(u64::from(*offset)));
            // SAFETY: the caller's promise, of two words.
            let found = unsafe { at.read_volatile() };
            differences |= (found[0] ^ value[0]) | (found[1] ^ value[1]);
        }
        differences == 0
    }
}

/// The fault that the tests plant, to see that they would find it.
#[cfg(test)]
pub(super) mod planted {
    /// Compare a stack's innermost words, and nothing else.
    pub(in super::super) static INNERMOST_ALONE: std::sync::atomic::AtomicBool =
        std::sync::atomic::AtomicBool::new(false);
}
