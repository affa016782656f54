//! Which mode is in force, and since which start: one word that every cold path compares with what it saw last.
//!
//! A change is published in this order: the word, then a call to every thread, repeated until each has adopted the word
//! or is seen to be called (`thread::call_all`). A thread looks at the word whenever it is inside.

use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

use super::sink::Sink;

/// What a thread's events are to become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Mode {
    /// Counted alone.
    Off = 0,
    /// Counted, and sampled.
    Sampled = 1,
    /// Counted, and every one recorded.
    Exact = 2,
}

/// The state as one word: change counter (32 bits), number of the profile (24), mode (8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct State(u64);

impl State {
    /// What no thread has adopted yet.
    pub(crate) const NONE: State = State(u64::MAX);

    pub(super) fn word(self) -> u64 {
        self.0
    }

    pub(super) fn of(word: u64) -> State {
        State(word)
    }

    #[expect(clippy::cast_possible_truncation, reason = "the lower byte")]
    pub(crate) fn mode(self) -> Mode {
        match self.0 as u8 {
            1 => Mode::Sampled,
            2 => Mode::Exact,
            _ => Mode::Off,
        }
    }

    /// The same profile in the same mode; `touch` may have come between.
    pub(super) fn is_of_same_profile(self, other: State) -> bool {
        self.0 & 0xFFFF_FFFF == other.0 & 0xFFFF_FFFF
    }

    /// Of a thread that has adopted this, is inside, and then finds `now` in force: does `stop` wait for it before it ends the
    /// profile? Not where it has seen the end already.
    pub(super) fn holds_off_stop(self, now: State) -> bool {
        self.mode() != Mode::Off && self.is_of_same_profile(now)
    }

    /// The number of the profile, from 1; 0 before the first.
    pub(crate) fn profile(self) -> u32 {
        ((self.0 >> 8) & 0xFF_FFFF) as u32
    }
}

static STATE: AtomicU64 = AtomicU64::new(0);
/// Where records go: a `&'static dyn Sink`, boxed once per process so that a thin pointer does.
static SINK: AtomicPtr<&'static dyn Sink> = AtomicPtr::new(std::ptr::null_mut());

/// The state now.
#[inline]
pub(crate) fn state() -> State {
    State(STATE.load(Ordering::SeqCst))
}

/// Publishes a change; `new_profile` begins another profile. Callers are serialized by the profiler's own lock.
pub(crate) fn change(mode: Mode, new_profile: bool) -> State {
    let mut old = STATE.load(Ordering::SeqCst);
    loop {
        let change = (old >> 32).wrapping_add(1) << 32;
        let profile = ((old >> 8) & 0xFF_FFFF) + u64::from(new_profile);
        // The number wraps after 16 million starts, past 0, which means 'none'.
        let profile = if profile > 0xFF_FFFF { 1 } else { profile };
        let new = change | (profile << 8) | u64::from(mode as u8);
        match STATE.compare_exchange(old, new, Ordering::SeqCst, Ordering::SeqCst) {
            Ok(_) => return State(new),
            // `touch` came between.
            Err(seen) => old = seen,
        }
    }
}

/// Has every thread adopt the state anew, the mode being what it is. Callable from anywhere; follow with `call_all`.
pub(crate) fn touch() -> State {
    State(STATE.fetch_add(1 << 32, Ordering::SeqCst).wrapping_add(1 << 32))
}

/// Names the place where records go. Once per process, before the first change of mode.
pub(crate) fn set_sink(sink: &'static &'static dyn Sink) {
    // Release: pairs with the Acquire in `sink`.
    SINK.store(std::ptr::from_ref(sink).cast_mut(), Ordering::Release);
}

/// Where records go; `None` before the first start.
#[inline]
pub(crate) fn sink() -> Option<&'static dyn Sink> {
    let sink = SINK.load(Ordering::Acquire);
    // SAFETY: null or a `&'static` reference, as `set_sink` stored it.
    unsafe { sink.as_ref() }.copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A thread that ends gives its ring back to a profile that waits for it, and to no other: the number would name a ring of the
    /// next one, which nobody reads as long as nobody claimed it, so that whoever gets it loses all its records.
    #[test]
    fn a_profile_that_was_stopped_waits_for_nobody_who_has_seen_it() {
        let state =
            |change: u64, profile: u64, mode: Mode| State::of(change << 32 | profile << 8 | u64::from(mode as u8));
        let (sampled, exact, off) = (state(7, 3, Mode::Sampled), state(7, 3, Mode::Exact), state(8, 3, Mode::Off));
        assert!(sampled.holds_off_stop(sampled) && exact.holds_off_stop(exact));
        assert!(sampled.holds_off_stop(state(9, 3, Mode::Sampled)), "`touch` came between");
        assert!(!sampled.holds_off_stop(off), "`stop` has begun, and may not have seen it");
        assert!(!off.holds_off_stop(off), "`stop` may be over");
        assert!(!off.holds_off_stop(state(9, 4, Mode::Exact)) && !sampled.holds_off_stop(state(9, 4, Mode::Sampled)));
        assert!(!State::NONE.holds_off_stop(State::NONE));
    }
}
