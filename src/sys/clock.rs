//! The event clock, and the clocks that it is held against.
//!
//! `now` is the time stamp counter where the kernel itself keeps time by it (a few ns, ordered between cores), the
//! virtual counter on aarch64, and the monotonic clock where neither can be trusted.
//!
//! `Stamps` is one thread's way to ask less often: in exact mode at millions of events a second the question would take
//! half of the time of all that is done for one.

use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};

use crate::units::Ticks;

/// Not asked yet, the counter, the monotonic clock.
static SOURCE: AtomicU8 = AtomicU8::new(UNKNOWN);
const UNKNOWN: u8 = 0;
const COUNTER: u8 = 1;
const MONOTONIC: u8 = 2;

/// Decides once by which clock events are stamped. Reads one small file; called by `start()`, not by the hook.
pub(crate) fn choose() {
    if SOURCE.load(Ordering::Relaxed) != UNKNOWN {
        return;
    }
    let counter = if cfg!(target_arch = "x86_64") {
        std::fs::read("/sys/devices/system/clocksource/clocksource0/current_clocksource")
            .is_ok_and(|name| name.starts_with(b"tsc"))
    } else {
        cfg!(target_arch = "aarch64")
    };
    // Relaxed: a plain choice, published to other threads by the session that starts after it.
    let _ = SOURCE.compare_exchange(
        UNKNOWN,
        if counter { COUNTER } else { MONOTONIC },
        Ordering::Relaxed,
        Ordering::Relaxed,
    );
}

/// The time of an event. 10 to 25 cycles by the counter, about 50 ns by the monotonic clock.
#[inline]
pub(crate) fn now() -> Ticks {
    // Relaxed: written once before any session exists.
    if SOURCE.load(Ordering::Relaxed) == COUNTER { counter() } else { Ticks(monotonic_ns()) }
}

/// Counts the drains while they come often; 0 while they don't, and each event looks at the clock.
static BEAT: AtomicU32 = AtomicU32::new(0);
/// When the last drain was, by the monotonic clock.
static LAST_DRAIN_NS: AtomicU64 = AtomicU64::new(0);
/// Drains that are this close come of millions of events a second: a ring holds 8192, and who drains by habit comes as often
/// as half of it takes to fill. From there on the looks alone would take more than 2% of a processor. Times are right to so
/// much.
const OFTEN_NS: u64 = 2_000_000;

/// An event takes longer than a tick, so that counting on by ticks does not overtake the clock: at 1 GHz and more, or in
/// nanoseconds. aarch64's counter may have 24 MHz; and is read in no time.
const TICKS_ARE_FINE: bool = cfg!(target_arch = "x86_64");

/// The rings were emptied. By whoever holds the aggregator's lock.
pub(crate) fn beat() {
    let now = monotonic_ns();
    // Relaxed, all: one writer, by the lock; who reads the beat takes it for a hint.
    let often = TICKS_ARE_FINE && now.saturating_sub(LAST_DRAIN_NS.load(Ordering::Relaxed)) <= OFTEN_NS;
    LAST_DRAIN_NS.store(now, Ordering::Relaxed);
    let next = BEAT.load(Ordering::Relaxed).wrapping_add(1).max(1);
    BEAT.store(if often { next } else { 0 }, Ordering::Relaxed);
}

/// Events for which a thread looks at the clock once at most. Odd and prime: in a loop of few events each has its turn, so
/// that lifetimes are right in the mean.
const EVENTS_A_LOOK: u32 = 31;

/// One thread's stamps: rising, never later than the event, and on the whole as early as its last look at the clock. An
/// event that happens after another one *through a block* is stamped after it, whichever threads the two are of.
#[derive(Debug)]
pub(crate) struct Stamps {
    last: u64,
    beat: u32,
    /// Events until the clock is looked at, whatever else.
    left: u32,
}

impl Stamps {
    /// The first event looks at the clock.
    pub(crate) const fn new() -> Stamps {
        Stamps { last: 0, beat: 0, left: 0 }
    }

    /// The next event looks at the clock: others were stamped by it meanwhile.
    #[inline(always)]
    pub(crate) fn expire(&mut self) {
        self.left = 0;
    }

    /// The time of an event that comes after `before`, by this thread or another.
    #[inline(always)]
    pub(crate) fn next(&mut self, before: Ticks) -> Ticks {
        // Relaxed: a hint.
        self.next_in(BEAT.load(Ordering::Relaxed), before)
    }

    #[inline(always)]
    fn next_in(&mut self, beat: u32, before: Ticks) -> Ticks {
        if self.left == 0 || beat == 0 || beat != self.beat {
            self.look(beat);
        }
        self.left -= 1;
        // Does not overtake the clock: see `TICKS_ARE_FINE`.
        self.last = self.last.max(before.0) + 1;
        Ticks(self.last)
    }

    #[inline(never)]
    fn look(&mut self, beat: u32) {
        (self.left, self.beat) = (EVENTS_A_LOOK, beat);
        self.last = self.last.max(now().0);
    }
}

#[cfg(target_arch = "x86_64")]
#[inline]
fn counter() -> Ticks {
    // SAFETY: RDTSC exists on every x86-64; where user space may not use it the kernel's clock source isn't tsc.
    Ticks(unsafe { core::arch::x86_64::_rdtsc() })
}

#[cfg(target_arch = "aarch64")]
#[inline]
fn counter() -> Ticks {
    let ticks: u64;
    // SAFETY: Linux lets user space read the virtual counter.
    unsafe { core::arch::asm!("mrs {}, cntvct_el0", out(reg) ticks, options(nomem, nostack)) };
    Ticks(ticks)
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn counter() -> Ticks {
    Ticks(monotonic_ns())
}

/// Nanoseconds of CLOCK_MONOTONIC.
pub(crate) fn monotonic_ns() -> u64 {
    read(libc::CLOCK_MONOTONIC)
}

/// Nanoseconds since 1970.
pub(crate) fn wall_ns() -> u64 {
    read(libc::CLOCK_REALTIME)
}

/// CPU time of the whole process in nanoseconds. About 0.2 µs.
pub(crate) fn process_cpu_ns() -> u64 {
    read(libc::CLOCK_PROCESS_CPUTIME_ID)
}

/// CPU time of the calling thread in nanoseconds.
pub(crate) fn thread_cpu_ns() -> u64 {
    read(libc::CLOCK_THREAD_CPUTIME_ID)
}

fn read(clock: libc::clockid_t) -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid timespec for the call to fill.
    unsafe { libc::clock_gettime(clock, &raw mut time) };
    u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn stamps_rise_never_overtake_the_clock_and_follow_what_they_come_after() {
        choose();
        let (mut here, mut there) = (Stamps::new(), Stamps::new());
        let mut last = [Ticks(0); 2];
        for event in 0..100_000_u32 {
            // Drains now and then, and times when they are rare.
            let beat = if event / 10_000 % 3 == 2 { 0 } else { 1 + event / 3_000 };
            // An event takes some time.
            let _ = monotonic_ns();
            let born = here.next_in(beat, Ticks(0));
            assert!(born > std::mem::replace(&mut last[0], born), "{event}: stamps rise");
            // A thread with fewer events, which looks at the clock less often.
            if event % 7 == 0 {
                let freed = there.next_in(beat, born);
                assert!(freed > std::mem::replace(&mut last[1], freed), "{event}: stamps rise");
                assert!(freed > born, "{event}: a free by another thread is stamped after the birth");
                // As far away as another thread is; two readings in a row may change places within the processor.
                let _ = monotonic_ns();
                assert!(freed <= now(), "{event}: no stamp is of a time to come");
            }
        }
    }

    #[test]
    fn the_clock_is_looked_at_once_a_beat_once_in_31_events_and_always_where_beats_are_rare() {
        choose();
        // A look moves the stamp by more than the one tick that an event without a look does.
        let looks = |events: u32, beat: fn(u32) -> u32| {
            let mut stamps = Stamps::new();
            let mut last = stamps.next_in(beat(0), Ticks(0));
            let looked = (1..events).filter(|&event| {
                // More than a tick of any clock.
                let began = monotonic_ns();
                while monotonic_ns() < began + 1_000 {}
                let next = stamps.next_in(beat(event), Ticks(0));
                std::mem::replace(&mut last, next).0 + 1 != next.0
            });
            looked.count()
        };
        assert_eq!(looks(311, |_| 7), 10);
        assert_eq!(looks(311, |_| 0), 310);
        assert_eq!(looks(311, |event| 1 + event / 10), 31);
    }
}
