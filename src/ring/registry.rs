//! Which thread has which ring: a free list and a high-water mark, lock-free, over words that somebody else owns.
//!
//! Promises: a ring belongs to one thread at a time; claiming and releasing never wait, allocate or panic, and cost one
//! CAS when undisturbed; everything that the last owner did with a ring happens before what its next owner does, so a
//! ring that is handed on with unread records keeps its order. When no ring is left, `claim` says `None`.
//!
//! One word a ring: while it is claimed, `CLAIMED | thread id`; while it is free, the number + 1 of the next free ring.
//! The top of the list carries a tag that grows with each change, so that a top seen twice is the same top (ABA).
//! Source: Treiber's stack (IBM RJ 5118, 1986).

use super::RingId;
use crate::sys::sync::{AtomicU64, Ordering};

/// Set in a ring's word while a thread has it.
pub(crate) const CLAIMED: u64 = 1 << 63;

const INDEX_MASK: u64 = 0xffff_ffff;
const TAG: u64 = 1 << 32;

/// The registry's words.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Registry<'a> {
    /// Bits 0..=31: the top free ring's number + 1, or 0; bits 32..=63: the tag.
    pub(crate) top: &'a AtomicU64,
    /// Rings ever claimed: those below are claimed or in the free list.
    pub(crate) used: &'a AtomicU64,
    /// Rings whose memory exists; grows only.
    pub(crate) laid_out: &'a AtomicU64,
    /// One word a ring.
    pub(crate) rings: &'a [AtomicU64],
}

impl Registry<'_> {
    /// A ring for thread `tid` alone, or `None` when all that are laid out are taken.
    pub(crate) fn claim(&self, tid: u32) -> Option<RingId> {
        let id = self.claim_used().or_else(|| self.claim_new())?;
        // Relaxed: told to readers of the table, which only show it.
        self.rings.get(id.0 as usize)?.store(CLAIMED | u64::from(tid), Ordering::Relaxed);
        Some(id)
    }

    #[expect(clippy::cast_possible_truncation, reason = "masked to 32 bits")]
    fn claim_used(&self) -> Option<RingId> {
        // Acquire pairs with the Release in `release`: the link below, and all that the last owner did.
        let mut top = self.top.load(Ordering::Acquire);
        loop {
            let number = top & INDEX_MASK;
            let index = number.checked_sub(1)?;
            // Relaxed: ordered by the Acquire on `top`; where the ring was taken meanwhile the tag makes the CAS fail.
            let next = self.rings.get(index as usize)?.load(Ordering::Relaxed) & INDEX_MASK;
            let new = (top & !INDEX_MASK).wrapping_add(TAG) | next;
            // Acquire on both: as above. Relaxed would do for our own store: nothing is published by it, and a later
            // load of this top continues the release sequence of the store that it replaces.
            match self.top.compare_exchange_weak(top, new, Ordering::Acquire, Ordering::Acquire) {
                Ok(_) => return Some(RingId(index as u32)),
                Err(seen) => top = seen,
            }
        }
    }

    #[expect(clippy::cast_possible_truncation, reason = "ring numbers are below 2^32: the table has 2^12 rows")]
    fn claim_new(&self) -> Option<RingId> {
        // Acquire pairs with the Release of whoever laid the rings out.
        let laid_out = self.laid_out.load(Ordering::Acquire).min(self.rings.len() as u64);
        // Relaxed: a number, and no memory behind it that `laid_out` did not order already.
        let mut used = self.used.load(Ordering::Relaxed);
        while used < laid_out {
            // Release on success pairs with the drain's Acquire on `used`.
            match self.used.compare_exchange_weak(used, used + 1, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => return Some(RingId(used as u32)),
                Err(seen) => used = seen,
            }
        }
        None
    }

    /// Gives a ring back. The caller claimed it and no longer touches it.
    pub(crate) fn release(&self, id: RingId) {
        let Some(word) = self.rings.get(id.0 as usize) else { return };
        // Relaxed: the CAS below is checked against it.
        let mut top = self.top.load(Ordering::Relaxed);
        loop {
            // Relaxed: published by the Release below.
            word.store(top & INDEX_MASK, Ordering::Relaxed);
            let new = (top & !INDEX_MASK).wrapping_add(TAG) | (u64::from(id.0) + 1);
            // Release pairs with the Acquire in `claim_used`: link and ring come before the next owner.
            match self.top.compare_exchange_weak(top, new, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => return,
                Err(seen) => top = seen,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Words {
        top: AtomicU64,
        used: AtomicU64,
        laid_out: AtomicU64,
        rings: Vec<AtomicU64>,
    }

    impl Words {
        fn new(rings: usize) -> Words {
            Words {
                top: AtomicU64::new(0),
                used: AtomicU64::new(0),
                laid_out: AtomicU64::new(rings as u64),
                rings: (0..rings).map(|_| AtomicU64::new(0)).collect(),
            }
        }

        fn registry(&self) -> Registry<'_> {
            Registry { top: &self.top, used: &self.used, laid_out: &self.laid_out, rings: &self.rings }
        }
    }

    #[test]
    #[cfg(not(loom))]
    fn every_ring_once_then_none_then_again() {
        let words = Words::new(5);
        let registry = words.registry();
        let claimed: std::collections::HashSet<_> =
            (0..5).map(|tid| registry.claim(tid).expect("one is free")).collect();
        assert_eq!(claimed.len(), 5);
        assert_eq!(registry.claim(9), None);
        registry.release(RingId(3));
        registry.release(RingId(1));
        assert_eq!(registry.claim(10), Some(RingId(1)));
        assert_eq!(registry.claim(11), Some(RingId(3)));
        assert_eq!(registry.claim(12), None);
        assert_eq!(words.rings[3].load(Ordering::Relaxed), CLAIMED | 11);
    }

    #[test]
    #[cfg(not(loom))]
    fn no_ring_has_two_owners() {
        let words = Words::new(3);
        let owners: Vec<AtomicU64> = (0..3).map(|_| AtomicU64::new(0)).collect();
        std::thread::scope(|scope| {
            for tid in 1..=4u32 {
                let (words, owners) = (&words, &owners);
                scope.spawn(move || {
                    let mut claimed = 0;
                    while claimed < 50_000 {
                        let Some(id) = words.registry().claim(tid) else {
                            std::thread::yield_now();
                            continue;
                        };
                        // Relaxed on purpose: the registry alone must order one owner's stores before the next's.
                        assert_eq!(owners[id.0 as usize].load(Ordering::Relaxed), 0);
                        owners[id.0 as usize].store(u64::from(tid), Ordering::Relaxed);
                        assert_eq!(owners[id.0 as usize].load(Ordering::Relaxed), u64::from(tid));
                        owners[id.0 as usize].store(0, Ordering::Relaxed);
                        words.registry().release(id);
                        claimed += 1;
                    }
                });
            }
        });
    }

    /// Two threads over two rings that were used before: no ring has two owners, and owners are ordered. Three
    /// preemptions suffice for an ABA and its repair; without a bound this takes minutes (and passes).
    #[test]
    #[cfg(loom)]
    fn loom_no_ring_has_two_owners() {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(3);
        model.check(|| {
            let words: &'static Words = Box::leak(Box::new(Words::new(2)));
            let owned: &'static [loom::cell::UnsafeCell<u32>; 2] =
                Box::leak(Box::new([loom::cell::UnsafeCell::new(0), loom::cell::UnsafeCell::new(0)]));
            let first = words.registry().claim(7).expect("free");
            words.registry().release(first);
            let run = move |tid: u32| {
                for _ in 0..2 {
                    if let Some(id) = words.registry().claim(tid) {
                        // loom fails here if two owners overlap or are unordered.
                        owned[id.0 as usize].with_mut(|_| ());
                        words.registry().release(id);
                    }
                }
            };
            let other = loom::thread::spawn(move || run(1));
            run(2);
            other.join().expect("no panic");
        });
    }
}
