//! Blocks of the header that lie there twice and are written in turns.
//!
//! Promises: one of the two is whole at every moment, also while the writer is interrupted within the other, so a
//! reader never waits for it. One writer, who holds the aggregator's lock. Version v lies in the first place if v is
//! even, else in the second; `begin` names the version that is here or being written, `end` the one that is here.

use crate::store::layout::{ClosedEpoch, ExactCells};
use crate::store::words::{get, set};
use crate::sys::sync::{AtomicU64, Ordering, fence};

/// A block of the header that lies there twice.
pub(crate) trait Versioned {
    /// `begin` and `end`.
    fn marks(&self) -> (&AtomicU64, &AtomicU64);
}

impl Versioned for ClosedEpoch {
    fn marks(&self) -> (&AtomicU64, &AtomicU64) {
        (&self.begin, &self.end)
    }
}

impl Versioned for ExactCells {
    fn marks(&self) -> (&AtomicU64, &AtomicU64) {
        (&self.begin, &self.end)
    }
}

/// The newer of the two that is whole, for those who are alone with them, or their only writer.
pub(crate) fn newest<T: Versioned>(both: &[T; 2]) -> &T {
    let [even, odd] = both;
    let version = |block: &T| {
        let (begin, end) = block.marks();
        (get(begin) == get(end)).then(|| get(end))
    };
    if version(odd) > version(even) { odd } else { even }
}

/// Writes the next version over the older of the two: `fill` stores its words. One writer.
pub(crate) fn write_next<T: Versioned>(both: &[T; 2], fill: impl FnOnce(&T)) {
    let [even, odd] = both;
    let version = get(even.marks().1).max(get(odd.marks().1)).wrapping_add(1);
    let block = if version.is_multiple_of(2) { even } else { odd };
    set(block.marks().0, version);
    // Release: as in `Row::begin_change`.
    fence(Ordering::Release);
    fill(block);
    // Release: as in `Row::end_change`.
    block.marks().1.store(version, Ordering::Release);
}
