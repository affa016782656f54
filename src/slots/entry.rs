//! What is known of a tracked block: 32 bytes beside its slot, or in the table of large ones.
//!
//! Written by the thread that owns the block's pointer at that moment (allocating, reallocating or freeing it), so
//! that plain relaxed cells suffice: the program itself orders those.

use crate::sampler::weight::IntervalCode;
use crate::sys::sync::{AtomicU32, AtomicU64, Ordering};
use crate::units::{StackId, Ticks};

/// A tracked block's identity: what its free must say.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Identity {
    pub(crate) birth: Ticks,
    pub(crate) stack: StackId,
    pub(crate) interval: IntervalCode,
    /// Σ s/p over earlier sizes of this block since it was sampled.
    pub(crate) carried: f32,
    /// The profile that the stack number belongs to; never 0.
    pub(crate) session: u32,
}

/// One entry. All zero: not tracked.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct Entry {
    birth: AtomicU64,
    stack: AtomicU32,
    /// The profile's number; 0: the slot holds no tracked block.
    session: AtomicU32,
    carried: AtomicU32,
    /// `IntervalCode` in the low byte.
    interval: AtomicU32,
    /// The free list's link: index + 1 of the next free slot.
    pub(crate) next: AtomicU32,
    _spare: AtomicU32,
}

#[cfg(not(loom))]
const _: () = assert!(size_of::<Entry>() == 32, "a power of two, so that class spans of entries stay aligned");

impl Entry {
    /// Sets the identity. By the thread that holds the block alone.
    pub(crate) fn set(&self, identity: &Identity) {
        // Relaxed, all: the block's pointer is handed from thread to thread by the program, which orders these with it.
        self.birth.store(identity.birth.0, Ordering::Relaxed);
        self.stack.store(identity.stack.0, Ordering::Relaxed);
        self.carried.store(identity.carried.to_bits(), Ordering::Relaxed);
        self.interval.store(u32::from(identity.interval.0), Ordering::Relaxed);
        self.session.store(identity.session, Ordering::Relaxed);
    }

    /// The identity, where there is one.
    pub(crate) fn get(&self) -> Option<Identity> {
        let session = self.session.load(Ordering::Relaxed);
        if session == 0 {
            return None;
        }
        #[expect(clippy::cast_possible_truncation, reason = "stored from a u8")]
        Some(Identity {
            birth: Ticks(self.birth.load(Ordering::Relaxed)),
            stack: StackId(self.stack.load(Ordering::Relaxed)),
            interval: IntervalCode(self.interval.load(Ordering::Relaxed) as u8),
            carried: f32::from_bits(self.carried.load(Ordering::Relaxed)),
            session,
        })
    }

    /// Forgets the identity.
    pub(crate) fn clear(&self) {
        self.session.store(0, Ordering::Relaxed);
    }
}
