//! A futex mutex that never allocates, knows its owner, and is never waited for by its own owner or by a forked child.
//!
//! `std::sync::Mutex` is named as unsafe inside a global allocator (documentation of `GlobalAlloc`, 'Re-entrance'),
//! and a fork while another thread holds it would hang the child. This one is used on cold paths alone.
//!
//! State 0: free; otherwise the owner's number (`thread::id`), with the top bit set where somebody sleeps on it.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

pub(crate) use super::futex::{wait, wake};
use super::thread;

const SLEEPERS: u32 = 1 << 31;

/// The mutex. `const`-constructible, no `Drop`.
#[derive(Debug)]
pub(crate) struct Lock {
    state: AtomicU32,
}

/// Holds the lock until dropped.
#[derive(Debug)]
pub(crate) struct Held<'a> {
    lock: &'a Lock,
}

impl Lock {
    pub(crate) const fn new() -> Lock {
        Lock { state: AtomicU32::new(0) }
    }

    /// Takes the lock if nobody holds it.
    pub(crate) fn try_take(&self) -> Option<Held<'_>> {
        // Acquire: pairs with the Release in `Held::drop`.
        self.state
            .compare_exchange(0, thread::id(), Ordering::Acquire, Ordering::Relaxed)
            .is_ok()
            .then(|| Held { lock: self })
    }

    /// Takes the lock, waiting at most `limit`. `None` at once where the calling thread holds it already.
    pub(crate) fn take_within(&self, limit: Duration) -> Option<Held<'_>> {
        if let Some(held) = self.try_take() {
            return Some(held);
        }
        let me = thread::id();
        let deadline = super::clock::monotonic_ns() + u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX / 2);
        let mut spins = 0u32;
        loop {
            // Relaxed: only a hint for what to do next; the exchange below takes the lock.
            let seen = self.state.load(Ordering::Relaxed);
            if seen & !SLEEPERS == me {
                return None;
            }
            // Having slept, others may sleep too: take it with the mark, so that our release wakes one.
            let mine = if spins < SPINS { me } else { me | SLEEPERS };
            if seen == 0 && self.state.compare_exchange(0, mine, Ordering::Acquire, Ordering::Relaxed).is_ok() {
                return Some(Held { lock: self });
            }
            if spins < SPINS {
                spins += 1;
                std::hint::spin_loop();
                continue;
            }
            let now = super::clock::monotonic_ns();
            if now >= deadline {
                return None;
            }
            if seen != 0
                && (seen & SLEEPERS != 0
                    || self.state.compare_exchange(seen, seen | SLEEPERS, Ordering::Relaxed, Ordering::Relaxed).is_ok())
            {
                wait(&self.state, seen | SLEEPERS, Duration::from_nanos(deadline - now));
            }
        }
    }

    /// Takes the lock, however long it takes; `None` only where the calling thread holds it already.
    pub(crate) fn take(&self) -> Option<Held<'_>> {
        loop {
            if let Some(held) = self.take_within(Duration::from_secs(3600)) {
                return Some(held);
            }
            if self.state.load(Ordering::Relaxed) & !SLEEPERS == thread::id() {
                return None;
            }
        }
    }

    /// Makes the lock free whoever held it.
    ///
    /// For a forked child alone: the holder does not exist there.
    pub(crate) fn reset_in_child(&self) {
        self.state.store(0, Ordering::Release);
    }
}

/// Spins before sleeping: about a microsecond, longer than most holds.
const SPINS: u32 = 64;

impl Drop for Held<'_> {
    fn drop(&mut self) {
        // Release: pairs with the Acquire in `try_take` and `take_within`.
        if self.lock.state.swap(0, Ordering::Release) & SLEEPERS != 0 {
            wake(&self.lock.state, 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::AtomicU64;

    #[test]
    fn counts_under_contention_are_exact() {
        let lock = Arc::new(Lock::new());
        let cell = Arc::new(AtomicU64::new(0));
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let (lock, cell) = (lock.clone(), cell.clone());
                std::thread::spawn(move || {
                    for _ in 0..20_000 {
                        let held = lock.take();
                        assert!(held.is_some());
                        cell.store(cell.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        for thread in threads {
            thread.join().expect("no panic");
        }
        assert_eq!(cell.load(Ordering::Relaxed), 80_000);
    }

    #[test]
    fn a_reentering_owner_never_waits() {
        let lock = Lock::new();
        let held = lock.take();
        assert!(held.is_some());
        assert!(lock.take().is_none());
        assert!(lock.take_within(Duration::from_secs(60)).is_none());
        drop(held);
        assert!(lock.try_take().is_some());
    }

    #[test]
    fn gives_up_after_its_limit() {
        let lock = Arc::new(Lock::new());
        let held = lock.take();
        let other = lock.clone();
        let waited = std::thread::spawn(move || other.take_within(Duration::from_millis(20)).is_none());
        assert!(waited.join().expect("no panic"));
        drop(held);
    }
}
