//! The words that remembered stacks are proved by: laid out as they are compared, one stack's after another.
//!
//! Promises: `difference` says the truth about each word that a part notes, in the order of the part; it reads the stack
//! between the sp and the stack's end alone, where the words were read before. Never allocates; what was noted stays as
//! it is until the whole is emptied.
//!
//! How: all places are told from one anchor, so that stacks of different depths can share a part (`tails`). A part has words one by one, and then twos: two words that are neighbours, as a saved frame pointer and a return
//! address are. Four of a kind are a chunk, values and offsets, with one branch; the last of a kind is filled up with its
//! last word. 4 instructions a word or two, and 2 for the chunk.

use super::super::frame::{Frame, MAX_WORDS};
use crate::sys::stack;

/// Bytes for chunks: some 300 stacks of 20 frames that have none in common. 128 kB a thread, touched as far as it is used.
const BYTES: usize = 128 * 1024;
/// Words of one stack; one with more is not kept.
const MOST_WORDS: usize = 1_024;
/// Words that are compared between two branches.
const CHUNK: usize = 4;

/// Some words of a stack.
#[derive(Clone, Copy)]
#[repr(C, align(16))]
struct Chunk {
    values: [u64; CHUNK],
    /// Where, in bytes above the anchor.
    offsets: [i32; CHUNK],
}

/// Some neighbouring words.
#[derive(Clone, Copy)]
#[repr(C, align(16))]
struct Twos {
    values: [[u64; 2]; CHUNK],
    /// Where the first of each is.
    offsets: [i32; CHUNK],
}

/// What chunks of both kinds are a whole number of.
#[derive(Clone, Copy, PartialEq)]
#[repr(C, align(16))]
struct Unit([u64; 2]);

const UNIT: usize = size_of::<Unit>();
const _: () = assert!(size_of::<Chunk>().is_multiple_of(UNIT) && size_of::<Twos>().is_multiple_of(UNIT), "no gaps");
const _: () = assert!(CHUNK <= UNIT, "each word of a chunk has a `Place` of its own");
const _: () = assert!(BYTES.is_multiple_of(UNIT) && BYTES <= 1 << Place::BITS, "places fit");

/// Where a stack's words are, in bytes from the beginning: words in `first..twos`, twos in `twos..end`, whole chunks.
#[derive(Clone, Copy)]
pub(super) struct Part {
    first: u32,
    twos: u32,
    end: u32,
}

/// One noted word (or two) among all: the chunk's beginning, and which one of it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Place(pub(super) u32);

impl Place {
    pub(super) const BITS: u32 = 17;
}

/// Whether the steps of these frames read what can be compared, and not too much of it.
pub(super) fn can_be_noted(frames: &[Frame]) -> bool {
    let mut room = [(0, 0); MAX_WORDS];
    let count: Option<usize> = frames.iter().map(|frame| Some(frame.words(&mut room)?.len())).sum();
    count.is_some_and(|count| (1..=MOST_WORDS).contains(&count))
}

/// All of a memo's words. Zeroed is empty.
#[repr(C)]
pub(super) struct Words {
    /// Bytes in use.
    used: usize,
    /// An address of the thread's stack.
    anchor: u64,
    units: [Unit; BYTES / UNIT],
}

impl Words {
    /// Forgets them. Every part is void from here on.
    pub(super) fn empty(&mut self) {
        self.used = 0;
    }

    /// Tells places from here, if there are none yet.
    pub(super) fn anchor_at(&mut self, sp: u64) {
        if self.used == 0 {
            self.anchor = sp;
        }
    }

    #[inline(always)]
    fn at<T>(&self, offset: i32) -> *const T {
        stack::pointer(self.anchor.wrapping_add_signed(i64::from(offset)))
    }

    #[inline(always)]
    fn chunk<C>(&self, at: u32) -> *const C {
        self.units.as_ptr().cast::<u8>().wrapping_add(at as usize).cast()
    }

    /// The first chunk that says something else than the stack; `None` if all is as noted.
    ///
    /// # Safety
    /// - `part` was given by `write`, and not emptied since.
    /// - All that it notes is between the calling thread's sp and the end of its stack.
    #[inline(always)]
    pub(super) unsafe fn difference(&self, part: Part) -> Option<u32> {
        // By pointers: so the places within a chunk are small numbers, and the code is a third shorter.
        let (mut words, twos) = (self.chunk::<Chunk>(part.first), self.chunk::<Chunk>(part.twos));
        while words != twos {
            // SAFETY: a whole chunk of these, as the caller promises.
            let chunk = unsafe { &*words };
            let differs = |nth: usize| {
                // SAFETY: the caller's promise; aligned, since steps refuse other addresses.
                let found = unsafe { self.at::<u64>(chunk.offsets[nth]).read_volatile() };
                found != chunk.values[nth]
            };
            if differs(0) || differs(1) || differs(2) || differs(3) {
                return Some(self.distance(words));
            }
            words = words.wrapping_add(1);
            #[cfg(test)]
            if super::planted::INNERMOST_ALONE.load(std::sync::atomic::Ordering::Relaxed) {
                return None;
            }
        }
        let (mut twos, end) = (twos.cast::<Twos>(), self.chunk::<Twos>(part.end));
        while twos != end {
            // SAFETY: as above.
            let chunk = unsafe { &*twos };
            // SAFETY: the caller's promise, of two words each.
            let differs = |nth: usize| unsafe { wide::difference(self.at(chunk.offsets[nth]), &chunk.values[nth]) };
            #[cfg(test)]
            if super::planted::INNERMOST_ALONE.load(std::sync::atomic::Ordering::Relaxed) {
                return (!wide::is_zero([0, 0, 0, 0].map(differs))).then(|| self.distance(twos));
            }
            if !wide::is_zero([differs(0), differs(1), differs(2), differs(3)]) {
                return Some(self.distance(twos));
            }
            twos = twos.wrapping_add(1);
        }
        None
    }

    /// Of a chunk, from the beginning.
    fn distance<C>(&self, chunk: *const C) -> u32 {
        u32::try_from(chunk.addr() - self.units.as_ptr().addr()).unwrap_or(0)
    }

    /// Of a chunk that `difference` found: which word of it differs, and what is on the stack there, in one word.
    ///
    /// # Safety
    /// - As for `difference`; `at` is what it answered.
    pub(super) unsafe fn found_at(&self, part: Part, at: u32) -> (Place, u64) {
        // One differs; the last, if none does any more.
        let nth = |differs: &dyn Fn(usize) -> bool| (0..CHUNK).find(|&nth| differs(nth)).unwrap_or(CHUNK - 1);
        let place = |nth: usize| Place(at + u32::try_from(nth).unwrap_or(0));
        if at < part.twos {
            // SAFETY: a whole chunk, as `difference` saw it.
            let chunk = unsafe { &*self.chunk::<Chunk>(at) };
            // SAFETY: as for `difference`.
            let found = chunk.offsets.map(|offset| unsafe { self.at::<u64>(offset).read_volatile() });
            let nth = nth(&|nth| found[nth] != chunk.values[nth]);
            return (place(nth), found[nth]);
        }
        // SAFETY: a whole chunk, as `difference` saw it.
        let chunk = unsafe { &*self.chunk::<Twos>(at) };
        // SAFETY: as for `difference`.
        let found = chunk.offsets.map(|offset| unsafe { self.at::<[u64; 2]>(offset).read_volatile() });
        let nth = nth(&|nth| found[nth] != chunk.values[nth]);
        (place(nth), found[nth][0].rotate_left(32) ^ found[nth][1])
    }

    /// Notes the words of `frames` (deepest first). `None` where it is full, or a step read what can't be compared
    /// (`can_be_noted`).
    pub(super) fn write(&mut self, frames: &[Frame]) -> Option<Part> {
        let mut room = [(0, 0); MAX_WORDS];
        let anchor = self.anchor;
        let offset = |at: u64| i32::try_from(at.wrapping_sub(anchor).cast_signed()).ok();
        let is_two = |[low, high]: [u64; 2]| high == low.wrapping_add(8);
        let mut words = Filling::from(self.used);
        for frame in frames.iter().rev() {
            match *frame.words(&mut room)? {
                [(low, _), (high, _)] if is_two([low, high]) => {}
                ref alone => {
                    for &(at, value) in alone {
                        words.note::<Chunk>(self, offset(at)?, value)?;
                    }
                }
            }
        }
        let begin = words.end_of::<Chunk>();
        let mut twos = Filling::from(begin);
        for frame in frames.iter().rev() {
            if let [(low, fp), (high, address)] = *frame.words(&mut room)?
                && is_two([low, high])
            {
                twos.note::<Twos>(self, offset(low)?, [fp, address])?;
            }
        }
        let end = twos.end_of::<Twos>();
        let part = Part {
            first: u32::try_from(self.used).ok()?,
            twos: u32::try_from(begin).ok()?,
            end: u32::try_from(end).ok()?,
        };
        self.used = end;
        Some(part)
    }

    /// Forgets the part that was written last.
    pub(super) fn take_back(&mut self, part: Part) {
        self.used = part.first as usize;
    }

    fn units(&self, part: Part) -> &[Unit] {
        self.units.get(part.first as usize / UNIT..part.end as usize / UNIT).unwrap_or_default()
    }

    /// Both note the same.
    pub(super) fn are_equal(&self, one: Part, other: Part) -> bool {
        one.twos - one.first == other.twos - other.first && self.units(one) == self.units(other)
    }

    /// Of what a part notes.
    pub(super) fn hash(&self, part: Part) -> u64 {
        self.units(part).iter().fold(0, |hash, Unit([low, high])| super::hash(super::hash(hash, *low), *high))
    }
}

impl Part {
    /// No words.
    pub(super) const NONE: Part = Part { first: 0, twos: 0, end: 0 };
}

/// Chunks of one kind that are being filled.
struct Filling {
    first: usize,
    noted: usize,
}

/// What is noted in chunks.
trait Filled {
    type Value: Copy;
    /// Notes a value in this place of the chunk, and in all that come after it: the last chunk is full whatever comes.
    fn fill(&mut self, place: usize, offset: i32, value: Self::Value);
}

impl Filled for Chunk {
    type Value = u64;

    fn fill(&mut self, place: usize, offset: i32, value: u64) {
        self.offsets[place..].fill(offset);
        self.values[place..].fill(value);
    }
}

impl Filled for Twos {
    type Value = [u64; 2];

    fn fill(&mut self, place: usize, offset: i32, value: [u64; 2]) {
        self.offsets[place..].fill(offset);
        self.values[place..].fill(value);
    }
}

impl Filling {
    fn from(first: usize) -> Filling {
        Filling { first, noted: 0 }
    }

    fn note<C: Filled>(&mut self, words: &mut Words, offset: i32, value: C::Value) -> Option<()> {
        let at = self.first + self.noted / CHUNK * size_of::<C>();
        if at + size_of::<C>() > BYTES {
            return None;
        }
        // SAFETY: inside the units, as just compared; a multiple of their alignment, which is the chunks' too; all bit
        // patterns are valid.
        let chunk = unsafe { &mut *words.units.as_mut_ptr().cast::<u8>().wrapping_add(at).cast::<C>() };
        chunk.fill(self.noted % CHUNK, offset, value);
        self.noted += 1;
        Some(())
    }

    fn end_of<C>(&self) -> usize {
        self.first + self.noted.div_ceil(CHUNK) * size_of::<C>()
    }
}

/// Two words at once.
#[cfg(target_arch = "x86_64")]
mod wide {
    use core::arch::x86_64::{
        __m128i, _mm_cmpeq_epi8, _mm_load_si128, _mm_loadu_si128, _mm_movemask_epi8, _mm_or_si128, _mm_setzero_si128,
        _mm_xor_si128,
    };

    /// # Safety
    /// - Two words can be read at `at`; `noted` is aligned to 16 bytes.
    #[inline(always)]
    pub(super) unsafe fn difference(at: *const [u64; 2], noted: &[u64; 2]) -> __m128i {
        // SAFETY: the caller's promise.
        let found = unsafe { _mm_loadu_si128(at.cast()) };
        // SAFETY: the caller's promise.
        let noted = unsafe { _mm_load_si128(core::ptr::from_ref(noted).cast()) };
        // SAFETY: every x86-64 has SSE2.
        unsafe { _mm_xor_si128(found, noted) }
    }

    #[inline(always)]
    fn or(a: __m128i, b: __m128i) -> __m128i {
        // SAFETY: every x86-64 has SSE2.
        unsafe { _mm_or_si128(a, b) }
    }

    #[inline(always)]
    pub(super) fn is_zero([a, b, c, d]: [__m128i; 4]) -> bool {
        // SAFETY: every x86-64 has SSE2.
        let zero = unsafe { _mm_setzero_si128() };
        // SAFETY: as above.
        let equal = unsafe { _mm_cmpeq_epi8(or(or(a, b), or(c, d)), zero) };
        // SAFETY: as above.
        unsafe { _mm_movemask_epi8(equal) == 0xFFFF }
    }
}

/// Two words at once.
#[cfg(not(target_arch = "x86_64"))]
mod wide {
    /// # Safety
    /// - Two words can be read at `at`.
    #[inline(always)]
    pub(super) unsafe fn difference(at: *const [u64; 2], noted: &[u64; 2]) -> u64 {
        // SAFETY: the caller's promise.
        let found = unsafe { at.read_volatile() };
        (found[0] ^ noted[0]) | (found[1] ^ noted[1])
    }

    #[inline(always)]
    pub(super) fn is_zero([a, b, c, d]: [u64; 4]) -> bool {
        a | b | c | d == 0
    }
}
