//! The record that a thread sends to the drain thread: four words, fixed size, self-contained.
//!
//! A free carries stack, size, birth and interval, so that it can be applied without looking anything up.
//!
//! | word | content |
//! |---|---|
//! | 0 | ticks of the event |
//! | 1 | size in bytes (48 bits), kind (4), interval code (6), old interval code (6; `Resize` only) |
//! | 2 | birth ticks (`Free`, `Forget`); old size (48) and carried weight as the upper half of `f32` bits (16) (`Resize`); old size (`Alloc`) |
//! | 3 | stack (32), age in ticks as `f32` bits (32; `Resize` only) |
//!
//! A resize needs its birth too: the block's weight changes, and with it its part in a site's mean age. Age and carried
//! weight are rounded to 24 and 8 significant bits; neither has to cancel to the last bit.

use crate::sampler::weight::IntervalCode;
use crate::units::{StackId, Ticks};

/// Words in a record.
pub(crate) const RECORD_WORDS: usize = 4;
/// The word whose lower half is the stack.
pub(crate) const STACK_WORD: usize = 3;

/// What happened to a sampled block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    /// Born.
    Alloc = 1,
    /// Freed.
    Free = 2,
    /// Changed size under the same identity (birth, stack, interval).
    Resize = 3,
    /// Shrank and was thinned out of the sample: leaves the live figures, and is not a free.
    Forget = 4,
}

/// One event of one sampled block. All sizes in bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Record {
    pub(crate) at: Ticks,
    pub(crate) kind: Kind,
    pub(crate) stack: StackId,
    pub(crate) interval: IntervalCode,
    /// The size now; for `Free` and `Forget` the size that leaves. At most 2^48 - 1.
    pub(crate) size: u64,
    /// `Resize`: the size before. `Alloc`: the same, where the block came into the sample by growing. Otherwise 0.
    pub(crate) old_size: u64,
    /// `Resize`: the interval that the block had before (`sampler::regrow`). Otherwise 0.
    pub(crate) old_interval: IntervalCode,
    /// `Free`, `Forget`, `Resize`: when the block was born (`Resize`: to 24 significant bits of its age). `Alloc`: 0.
    pub(crate) birth: Ticks,
    /// `Resize`: the sum of s/p over this block's earlier sizes since it was sampled, in bytes, for the variance of
    /// totals (kept to 8 significant bits). Otherwise 0.
    pub(crate) carried: f32,
}

const SIZE_BITS: u32 = 48;
/// The size's part of word 1.
pub(crate) const SIZE_MASK: u64 = (1 << SIZE_BITS) - 1;
const INTERVAL_SHIFT: u32 = SIZE_BITS + 4;
const OLD_INTERVAL_SHIFT: u32 = INTERVAL_SHIFT + CODE_BITS;
/// Codes are below 2^6: an interval of 2^62 bytes is beyond any.
const CODE_BITS: u32 = 6;
const _: () = assert!(OLD_INTERVAL_SHIFT + CODE_BITS == 64, "the fields fill the word");
/// Of an age, above the stack.
const AGE_SHIFT: u32 = 32;

/// The words of exact mode's records, for who makes millions of them: as `Record::encode` gives them for interval code 0.
pub(crate) mod exact {
    use super::{AGE_SHIFT, Kind, RECORD_WORDS, SIZE_BITS, age_bits};
    use crate::units::{StackId, Ticks};

    #[inline(always)]
    fn sized(kind: Kind, size: u32) -> u64 {
        u64::from(size) | ((kind as u64) << SIZE_BITS)
    }

    /// A block is born.
    #[inline(always)]
    pub(crate) fn birth(at: Ticks, stack: StackId, size: u32) -> [u64; RECORD_WORDS] {
        [at.0, sized(Kind::Alloc, size), 0, u64::from(stack.0)]
    }

    /// A block is freed.
    #[inline(always)]
    pub(crate) fn free(at: Ticks, stack: StackId, size: u32, birth: Ticks) -> [u64; RECORD_WORDS] {
        [at.0, sized(Kind::Free, size), birth.0, u64::from(stack.0)]
    }

    /// A block changes its size.
    #[inline(always)]
    pub(crate) fn resize(at: Ticks, stack: StackId, size: u32, from: u32, birth: Ticks) -> [u64; RECORD_WORDS] {
        let age = age_bits(at.0.saturating_sub(birth.0));
        [at.0, sized(Kind::Resize, size), u64::from(from), u64::from(stack.0) | (u64::from(age) << AGE_SHIFT)]
    }
}

impl Record {
    /// The record's four words. Inlined: of a record whose kind is known little is left.
    #[inline(always)]
    pub(crate) fn encode(&self) -> [u64; RECORD_WORDS] {
        let (aux, age) = match self.kind {
            Kind::Resize => (
                self.old_size.min(SIZE_MASK) | (u64::from(upper_half(self.carried)) << SIZE_BITS),
                age_bits(self.at.0.saturating_sub(self.birth.0)),
            ),
            Kind::Free | Kind::Forget => (self.birth.0, 0),
            Kind::Alloc => (self.old_size.min(SIZE_MASK), 0),
        };
        [
            self.at.0,
            self.size.min(SIZE_MASK)
                | (u64::from(self.kind as u8) << SIZE_BITS)
                | (code_bits(self.interval) << INTERVAL_SHIFT)
                | (code_bits(self.old_interval) << OLD_INTERVAL_SHIFT),
            aux,
            u64::from(self.stack.0) | (u64::from(age) << AGE_SHIFT),
        ]
    }

    /// Reads four words back; `None` where the kind is none that this version writes.
    #[expect(clippy::cast_possible_truncation, reason = "fields of stated widths")]
    pub(crate) fn decode(words: [u64; RECORD_WORDS]) -> Option<Record> {
        let code = |shift: u32| IntervalCode(((words[1] >> shift) & ((1 << CODE_BITS) - 1)) as u8);
        let kind = match (words[1] >> SIZE_BITS) & 0xF {
            1 => Kind::Alloc,
            2 => Kind::Free,
            3 => Kind::Resize,
            4 => Kind::Forget,
            _ => return None,
        };
        let (old_size, birth, carried) = match kind {
            Kind::Alloc => (words[2] & SIZE_MASK, 0, 0.0),
            Kind::Free | Kind::Forget => (0, words[2], 0.0),
            Kind::Resize => {
                let age = age_of(&words);
                let carried = f32::from_bits(((words[2] >> SIZE_BITS) as u32) << 16);
                (words[2] & SIZE_MASK, words[0].saturating_sub(age), carried)
            }
        };
        Some(Record {
            at: Ticks(words[0]),
            kind,
            stack: StackId(words[3] as u32),
            interval: code(INTERVAL_SHIFT),
            size: words[1] & SIZE_MASK,
            old_size,
            old_interval: code(OLD_INTERVAL_SHIFT),
            birth: Ticks(birth),
            carried,
        })
    }
}

/// The age of a block that is resized, in ticks.
#[inline]
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the upper half; ages are ≥ 0")]
pub(crate) fn age_of(words: &[u64; RECORD_WORDS]) -> u64 {
    f32::from_bits((words[STACK_WORD] >> AGE_SHIFT) as u32) as u64
}

#[inline]
fn code_bits(code: IntervalCode) -> u64 {
    u64::from(code.0) & ((1 << CODE_BITS) - 1)
}

/// The sign, exponent and first 7 bits of the fraction, rounded to nearest; a value that is no finite sum gives 0.
fn upper_half(value: f32) -> u16 {
    if !(value.is_finite() && value >= 0.0) {
        return 0;
    }
    (value.to_bits().wrapping_add(0x8000) >> 16) as u16
}

#[expect(clippy::cast_precision_loss, reason = "24 significant bits are what is kept")]
fn age_bits(age: u64) -> u32 {
    (age as f32).to_bits()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_survives_encoding() {
        for kind in [Kind::Alloc, Kind::Free, Kind::Resize, Kind::Forget] {
            let record = Record {
                at: Ticks(u64::MAX - 5),
                kind,
                stack: StackId(u32::MAX),
                interval: IntervalCode(62),
                size: SIZE_MASK,
                old_size: if matches!(kind, Kind::Alloc | Kind::Resize) { SIZE_MASK - 1 } else { 0 },
                old_interval: IntervalCode(if kind == Kind::Resize { 9 } else { 0 }),
                birth: match kind {
                    Kind::Alloc => Ticks(0),
                    Kind::Free | Kind::Forget => Ticks(u64::MAX),
                    Kind::Resize => Ticks(u64::MAX - 5 - (1 << 40)),
                },
                carried: if kind == Kind::Resize { 1.5 } else { 0.0 },
            };
            assert_eq!(Record::decode(record.encode()), Some(record));
        }
        assert_eq!(Record::decode([0; 4]), None);
    }

    #[test]
    fn exact_words_are_the_encoded_records() {
        let (at, birth, stack) = (Ticks(9_876_543_210), Ticks(1_234_567), StackId(77));
        for (kind, words) in [
            (Kind::Alloc, exact::birth(at, stack, 24)),
            (Kind::Free, exact::free(at, stack, 24, birth)),
            (Kind::Resize, exact::resize(at, stack, 24, 32_768, birth)),
        ] {
            let record = Record {
                at,
                kind,
                stack,
                interval: IntervalCode::EXACT,
                size: 24,
                old_size: if kind == Kind::Resize { 32_768 } else { 0 },
                old_interval: IntervalCode::EXACT,
                birth: if kind == Kind::Alloc { Ticks(0) } else { birth },
                carried: 0.0,
            };
            assert_eq!(words, record.encode());
        }
    }

    #[test]
    fn a_resize_keeps_age_and_carried_weight_nearly() {
        for (age, carried) in [(0u64, 0.0f32), (1, 1.0), (123_456_789_012, 987_654_300.0), (u64::MAX / 2, f32::MAX)] {
            let record = Record {
                at: Ticks(u64::MAX / 2 + 10),
                kind: Kind::Resize,
                stack: StackId(1),
                interval: IntervalCode(12),
                size: 2,
                old_size: 1,
                old_interval: IntervalCode(12),
                birth: Ticks(u64::MAX / 2 + 10 - age),
                carried,
            };
            let back = Record::decode(record.encode()).expect("a kind that exists");
            let age_back = back.at.0 - back.birth.0;
            assert!((age_back as f64 - age as f64).abs() <= age as f64 / f64::from(1 << 24), "{age} {age_back}");
            let error = (f64::from(back.carried) - f64::from(carried)).abs();
            assert!(error <= f64::from(carried) / 256.0 || carried == f32::MAX, "{carried} {}", back.carried);
        }
    }
}
