//! The store's words: numbers that one writer changes while others read.
//!
//! Promises: a load or a store each, no wait. Which words belong together is said by marks around them, a row's or a block's
//! (`row`, `version`); so all is Relaxed here. No arithmetic can panic: sums wrap, because a free may be applied before its birth
//! arrives, and the two must cancel; a sum that is below zero at the moment is shown as nothing.

use crate::sys::sync::{AtomicU64, Ordering};

/// Reads a word. Relaxed: either the caller is the single writer, or marks around the words say whether they belong
/// together.
#[inline]
pub(crate) fn get(word: &AtomicU64) -> u64 {
    word.load(Ordering::Relaxed)
}

/// Writes a word of which the caller is the only writer. Relaxed: published by the marks around it.
#[inline]
pub(crate) fn set(word: &AtomicU64, value: u64) {
    word.store(value, Ordering::Relaxed);
}

/// Adds to a word of which the caller is the only writer.
#[inline]
pub(crate) fn add(word: &AtomicU64, value: u64) {
    set(word, get(word).wrapping_add(value));
}

/// As `add`; gives what the word holds from now on.
#[inline]
pub(crate) fn plus(word: &AtomicU64, value: u64) -> u64 {
    let sum = get(word).wrapping_add(value);
    set(word, sum);
    sum
}

/// Subtracts from a word of which the caller is the only writer.
#[inline]
pub(crate) fn sub(word: &AtomicU64, value: u64) {
    set(word, get(word).wrapping_sub(value));
}

/// A sum that may be below zero for a moment, as it was meant.
#[expect(clippy::cast_possible_wrap, reason = "that is its purpose")]
#[inline]
pub(crate) fn signed(word: u64) -> i64 {
    word as i64
}

/// What to show of a sum that wrapped below zero: nothing.
pub(crate) fn not_negative(word: u64) -> u64 {
    if signed(word) < 0 { 0 } else { word }
}

/// The same of a wide one.
#[expect(clippy::cast_possible_wrap, reason = "as `signed`")]
pub(crate) fn wide_not_negative(value: u128) -> u128 {
    if (value as i128) < 0 { 0 } else { value }
}

/// A number of 128 bits in two words, low first; one writer.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct Wide {
    low: AtomicU64,
    high: AtomicU64,
}

impl Wide {
    pub(crate) fn get(&self) -> u128 {
        u128::from(get(&self.low)) | (u128::from(get(&self.high)) << 64)
    }

    #[expect(clippy::cast_possible_truncation, reason = "the lower and the upper half")]
    #[inline]
    fn set(&self, value: u128) {
        set(&self.low, value as u64);
        set(&self.high, (value >> 64) as u64);
    }

    #[inline]
    pub(crate) fn add(&self, value: u128) {
        self.set(self.get().wrapping_add(value));
    }

    #[inline]
    pub(crate) fn sub(&self, value: u128) {
        self.set(self.get().wrapping_sub(value));
    }
}
