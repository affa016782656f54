//! The event clock, and the clocks that it is held against.
//!
//! `now` is the time stamp counter where the kernel itself keeps time by it (a few ns, ordered between cores), the
//! virtual counter on aarch64, and the monotonic clock where neither can be trusted.

use std::sync::atomic::{AtomicU8, Ordering};

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
