//! The record that a thread sends to the drain thread: four words, fixed size, self-contained.
//!
//! A free carries stack, size, birth and interval, so that it can be applied without looking anything up.
//!
//! | word | content |
//! |---|---|
//! | 0 | ticks of the event |
//! | 1 | size in bytes (48 bits), kind (8), interval code (8) |
//! | 2 | birth ticks (`Free`, `Forget`); old size (48) and old interval code (8) (`Resize`); 0 (`Alloc`) |
//! | 3 | stack (32), carried weight as `f32` bits (32; `Resize` only) |

use crate::sampler::weight::IntervalCode;
use crate::units::{StackId, Ticks};

/// Words in a record.
pub(crate) const RECORD_WORDS: usize = 4;

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
    /// `Resize`: the size before. Otherwise 0.
    pub(crate) old_size: u64,
    /// `Resize`: the interval that the block had before (`sampler::regrow`). Otherwise 0.
    pub(crate) old_interval: IntervalCode,
    /// `Free`, `Forget`: when the block was born. Otherwise 0.
    pub(crate) birth: Ticks,
    /// `Resize`: the sum of s/p over this block's earlier sizes since it was sampled, for the variance of totals.
    pub(crate) carried: f32,
}

const SIZE_BITS: u32 = 48;
const SIZE_MASK: u64 = (1 << SIZE_BITS) - 1;

impl Record {
    /// The record's four words.
    pub(crate) fn encode(&self) -> [u64; RECORD_WORDS] {
        let aux = match self.kind {
            Kind::Resize => self.old_size.min(SIZE_MASK) | (u64::from(self.old_interval.0) << 56),
            Kind::Free | Kind::Forget => self.birth.0,
            Kind::Alloc => 0,
        };
        [
            self.at.0,
            self.size.min(SIZE_MASK) | (u64::from(self.kind as u8) << SIZE_BITS) | (u64::from(self.interval.0) << 56),
            aux,
            u64::from(self.stack.0) | (u64::from(self.carried.to_bits()) << 32),
        ]
    }

    /// Reads four words back; `None` where the kind is none that this version writes.
    #[expect(clippy::cast_possible_truncation, reason = "fields of stated widths")]
    pub(crate) fn decode(words: [u64; RECORD_WORDS]) -> Option<Record> {
        let kind = match (words[1] >> SIZE_BITS) as u8 {
            1 => Kind::Alloc,
            2 => Kind::Free,
            3 => Kind::Resize,
            4 => Kind::Forget,
            _ => return None,
        };
        Some(Record {
            at: Ticks(words[0]),
            kind,
            stack: StackId(words[3] as u32),
            interval: IntervalCode((words[1] >> 56) as u8),
            size: words[1] & SIZE_MASK,
            old_size: if kind == Kind::Resize { words[2] & SIZE_MASK } else { 0 },
            old_interval: IntervalCode(if kind == Kind::Resize { (words[2] >> 56) as u8 } else { 0 }),
            birth: if matches!(kind, Kind::Free | Kind::Forget) { Ticks(words[2]) } else { Ticks(0) },
            carried: f32::from_bits((words[3] >> 32) as u32),
        })
    }
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
                interval: IntervalCode(200),
                size: SIZE_MASK,
                old_size: if kind == Kind::Resize { 77 } else { 0 },
                old_interval: IntervalCode(if kind == Kind::Resize { 9 } else { 0 }),
                birth: if matches!(kind, Kind::Free | Kind::Forget) { Ticks(u64::MAX) } else { Ticks(0) },
                carried: if kind == Kind::Resize { 1.5 } else { 0.0 },
            };
            assert_eq!(Record::decode(record.encode()), Some(record));
        }
        assert_eq!(Record::decode([0; 4]), None);
    }
}
