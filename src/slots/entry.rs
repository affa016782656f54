//! What is known of a tracked block: 16 bytes beside its slot (four blocks a cache line: a free of an old one waits for it), and
//! for the few that were sampled and have grown 4 more.
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
    /// The birth; while the slot is free, the free list's link: index + 1 of the next free slot.
    birth_or_next: AtomicU64,
    /// The stack; from bit 32 the profile's number, 0: the slot holds no tracked block; from bit 56 the `IntervalCode`, with
    /// [`HAS_CARRIED`].
    tracked: AtomicU64,
}

/// What is known besides of a block that was sampled and has grown: its carried weight, as the bits of an `f32`.
pub(crate) type Carried = AtomicU32;

/// Bytes beside each slot.
pub(crate) const BESIDE_BYTES: usize = size_of::<Entry>() + size_of::<Carried>();

/// There is a carried weight.
const HAS_CARRIED: u8 = 1 << 7;
/// A profile's number (`hook::session::State::profile`).
const SESSION_BITS: u32 = 24;

#[cfg(not(loom))]
const _: () = assert!(size_of::<Entry>() == 16, "a power of two, so that class spans of entries stay aligned");

impl Entry {
    /// Birth and stack of a block of this profile (not 0), which tracks every block: what exact mode asks for.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "halves")]
    pub(crate) fn of_exact(&self, session: u32) -> Option<(Ticks, StackId)> {
        let tracked = self.tracked.load(Ordering::Relaxed);
        debug_assert!(session != 0, "the number of no profile");
        debug_assert!(
            session_of(tracked) != session || tracked >> (32 + SESSION_BITS) == 0,
            "a profile is exact from beginning to end"
        );
        // Of exact mode the code is 0.
        ((tracked >> 32) as u32 == session)
            .then(|| (Ticks(self.birth_or_next.load(Ordering::Relaxed)), StackId(tracked as u32)))
    }

    /// Sets what `of_exact` gives. By the thread that holds the block alone.
    #[inline(always)]
    pub(crate) fn set_exact(&self, birth: Ticks, stack: StackId, session: u32) {
        self.set_tracked(birth, stack, session, IntervalCode::EXACT.0);
    }

    #[inline(always)]
    fn set_tracked(&self, birth: Ticks, stack: StackId, session: u32, code: u8) {
        debug_assert!(session >> SESSION_BITS == 0, "a profile's number has 24 bits");
        let tracked = u64::from(stack.0) | u64::from(session) << 32 | u64::from(code) << (32 + SESSION_BITS);
        // Relaxed, both: the block's pointer is handed from thread to thread by the program, which orders these with it.
        self.birth_or_next.store(birth.0, Ordering::Relaxed);
        self.tracked.store(tracked, Ordering::Relaxed);
    }

    /// Forgets the identity.
    #[inline(always)]
    pub(crate) fn clear(&self) {
        self.tracked.store(0, Ordering::Relaxed);
    }

    /// The link to the next free slot, while this one is free. Of a slot that is in use: anything.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "as it was stored")]
    pub(crate) fn next(&self) -> u32 {
        // Relaxed: a list's head orders it, and a slot that a thread keeps is its own.
        self.birth_or_next.load(Ordering::Relaxed) as u32
    }

    /// Links a slot that is free.
    #[inline(always)]
    pub(crate) fn set_next(&self, next: u32) {
        // Relaxed: as above.
        self.birth_or_next.store(u64::from(next), Ordering::Relaxed);
    }
}

fn session_of(tracked: u64) -> u32 {
    (tracked >> 32) as u32 & ((1 << SESSION_BITS) - 1)
}

/// All that is kept beside one slot.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Beside<'a> {
    pub(super) entry: &'a Entry,
    pub(super) carried: &'a Carried,
}

impl Beside<'_> {
    /// Sets the identity. By the thread that holds the block alone.
    pub(crate) fn set(&self, identity: &Identity) {
        let mut code = identity.interval.0;
        debug_assert!(code & HAS_CARRIED == 0, "a code has 6 bits");
        if identity.carried != 0.0 {
            code |= HAS_CARRIED;
            // Relaxed: as the entry's.
            self.carried.store(identity.carried.to_bits(), Ordering::Relaxed);
        }
        self.entry.set_tracked(identity.birth, identity.stack, identity.session, code);
    }

    /// The identity, where there is one.
    #[expect(clippy::cast_possible_truncation, reason = "parts of a word")]
    pub(crate) fn get(&self) -> Option<Identity> {
        let tracked = self.entry.tracked.load(Ordering::Relaxed);
        let session = session_of(tracked);
        if session == 0 {
            return None;
        }
        let code = (tracked >> (32 + SESSION_BITS)) as u8;
        let carried = match code & HAS_CARRIED {
            0 => 0.0,
            _ => f32::from_bits(self.carried.load(Ordering::Relaxed)),
        };
        Some(Identity {
            birth: Ticks(self.entry.birth_or_next.load(Ordering::Relaxed)),
            stack: StackId(tracked as u32),
            interval: IntervalCode(code & !HAS_CARRIED),
            carried,
            session,
        })
    }

    /// Forgets the identity.
    pub(crate) fn clear(&self) {
        self.entry.clear();
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn an_identity_is_kept_whole_and_forgotten() {
        let (entry, carried) =
            (Entry { birth_or_next: AtomicU64::new(7), tracked: AtomicU64::new(0) }, Carried::new(u32::MAX));
        let beside = Beside { entry: &entry, carried: &carried };
        assert_eq!((beside.get(), entry.next()), (None, 7), "free");
        for session in [1, 0xff_ffff] {
            for code in 0..64 {
                for weight in [0.0, 1.5, f32::MAX] {
                    let stack = StackId(u32::MAX - u32::from(code));
                    let birth = Ticks(u64::MAX / 3);
                    let identity = Identity { birth, stack, interval: IntervalCode(code), carried: weight, session };
                    beside.set(&identity);
                    assert_eq!(beside.get(), Some(identity));
                    // Of another profile, whose number may be that of the stack.
                    assert_eq!((entry.of_exact(session ^ 2), entry.of_exact(stack.0)), (None, None));
                }
            }
            entry.set_exact(Ticks(3), StackId(4), session);
            assert_eq!((entry.of_exact(session), entry.of_exact(4)), (Some((Ticks(3), StackId(4))), None));
            let found = beside.get().expect("tracked");
            assert_eq!((found.interval, found.carried, found.session), (IntervalCode::EXACT, 0.0, session));
            beside.clear();
            entry.set_next(9);
            assert_eq!((beside.get(), entry.next(), entry.of_exact(session)), (None, 9, None));
        }
    }
}
