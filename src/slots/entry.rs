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
    /// The stack, and in the upper half the profile's number; 0 there: the slot holds no tracked block.
    stack_and_session: AtomicU64,
    /// The carried weight, and in the upper half the `IntervalCode`.
    carried_and_interval: AtomicU64,
    /// The free list's link: index + 1 of the next free slot.
    pub(crate) next: AtomicU32,
    _spare: AtomicU32,
}

#[cfg(not(loom))]
const _: () = assert!(size_of::<Entry>() == 32, "a power of two, so that class spans of entries stay aligned");

impl Entry {
    /// Sets the identity. By the thread that holds the block alone.
    #[inline(always)]
    pub(crate) fn set(&self, identity: &Identity) {
        let stack = u64::from(identity.stack.0) | (u64::from(identity.session) << 32);
        let carried = u64::from(identity.carried.to_bits()) | (u64::from(identity.interval.0) << 32);
        // Relaxed, all: the block's pointer is handed from thread to thread by the program, which orders these with it.
        self.birth.store(identity.birth.0, Ordering::Relaxed);
        self.carried_and_interval.store(carried, Ordering::Relaxed);
        self.stack_and_session.store(stack, Ordering::Relaxed);
    }

    /// The identity, where there is one.
    #[expect(clippy::cast_possible_truncation, reason = "halves, and what was stored from a u8")]
    pub(crate) fn get(&self) -> Option<Identity> {
        let stack = self.stack_and_session.load(Ordering::Relaxed);
        let session = (stack >> 32) as u32;
        if session == 0 {
            return None;
        }
        let carried = self.carried_and_interval.load(Ordering::Relaxed);
        Some(Identity {
            birth: Ticks(self.birth.load(Ordering::Relaxed)),
            stack: StackId(stack as u32),
            interval: IntervalCode((carried >> 32) as u8),
            carried: f32::from_bits(carried as u32),
            session,
        })
    }

    /// Birth and stack of a block of this profile (not 0), which tracks every block: what exact mode asks for.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "halves")]
    pub(crate) fn of_exact(&self, session: u32) -> Option<(Ticks, StackId)> {
        let stack = self.stack_and_session.load(Ordering::Relaxed);
        debug_assert!(session != 0, "the number of no profile");
        debug_assert!(
            (stack >> 32) as u32 != session || self.get().is_some_and(|found| found.interval == IntervalCode::EXACT),
            "a profile is exact from beginning to end"
        );
        ((stack >> 32) as u32 == session).then(|| (Ticks(self.birth.load(Ordering::Relaxed)), StackId(stack as u32)))
    }

    /// Forgets the identity.
    #[inline(always)]
    pub(crate) fn clear(&self) {
        self.stack_and_session.store(0, Ordering::Relaxed);
    }
}
