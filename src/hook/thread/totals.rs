//! The totals: what all threads counted, since the process's start and since the profile's.
//!
//! Promises: exact, ended threads and what they freed after their end included; each thread is in the profile's sum whole or, while
//! it adopts the profile, not at all; live figures are never negative, since all frees are read before all allocations. Whoever sums
//! holds the registry's lock.

use std::cell::Cell;

use super::block::ThreadBlock;
use super::counts::{Shared, Truncated, ZERO};
use super::registry::{self, Registry};
use crate::hook::hot::{Counters, Hot};
use crate::hook::session;
use crate::sys::thread;

/// What is counted where the thread's own counters are not at hand, after its end most of all; since the process's start.
pub(in crate::hook) static LATE: Shared = Shared::new();
/// The same, since the profile's start.
pub(in crate::hook) static LATE_IN_PROFILE: Shared = Shared::new();

/// What is kept of ended threads. Under the registry's lock.
pub(super) struct Sums {
    /// Counters of ended threads, since the process's start.
    ended: Cell<Counters>,
    /// The same, since the profile's start.
    ended_in_profile: Cell<Counters>,
    profile: Cell<u32>,
    /// Truncated stacks, since the profile's start.
    truncated: Truncated,
    /// The process's sum when it was last made, and what was `LATE`'s part.
    latest: Cell<Counters>,
    late: Cell<Counters>,
    /// Of the thread that forks: its number, and what the others had counted before. 0: nobody forks.
    forking: Cell<(u32, Counters)>,
}

impl Sums {
    pub(super) const fn new() -> Sums {
        Sums {
            ended: Cell::new(ZERO),
            ended_in_profile: Cell::new(ZERO),
            profile: Cell::new(0),
            truncated: Truncated::new(),
            latest: Cell::new(ZERO),
            late: Cell::new(ZERO),
            forking: Cell::new((0, ZERO)),
        }
    }

    /// Adds a thread that ends: by itself, while it is listed for the last time.
    pub(super) fn end(&self, hot: &Hot, block: &ThreadBlock) {
        let (profile, counted) = (self.profile.get(), hot.counters());
        self.ended.set(self.ended.get().plus(counted));
        // Nothing where it has not adopted the profile yet.
        let in_profile = block.baseline.of(profile).map_or(ZERO, |correction| counted.plus(correction));
        self.ended_in_profile.set(self.ended_in_profile.get().plus(in_profile));
        self.truncated.end(block.baseline.truncated(profile));
    }

    /// Begins the sums of another profile.
    pub(super) fn begin(&self, profile: u32) {
        self.profile.set(profile);
        self.ended_in_profile.set(ZERO);
        self.truncated.begin();
        LATE_IN_PROFILE.zero();
    }

    /// Right after a sum, by the thread with these words, which forks: what is not its own.
    pub(super) fn keep_for_child(&self, hot: &Hot) {
        self.forking.set((thread::id(), self.latest.get().minus(hot.counters())));
    }

    /// In the parent, after the fork.
    pub(super) fn forget_child(&self) {
        self.forking.set((0, ZERO));
    }

    /// In a forked child, of the thread with these words, which goes on counting. The other threads' words may be gone with their
    /// stacks: their sum is as it was before the fork; where nobody was there to make it, as the parent's last look had it.
    pub(super) fn reset_in_child(&self, hot: &Hot) {
        let (forking, others) = self.forking.replace((0, ZERO));
        let latest = self.latest.get();
        if forking == thread::id() {
            self.ended.set(others);
        } else if latest != ZERO {
            self.ended.set(latest.minus(hot.counters()));
        }
        LATE.set(LATE.read().minus(self.late.get()));
    }
}

/// All threads' counters: since the process's start, and since the start of the profile.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct AllCounters {
    pub(crate) process: Counters,
    pub(crate) profile: Counters,
}

/// Sums all threads' counters; live figures from them are never negative. Tells the sink of their truncated stacks. Takes the
/// registry's lock: 20 ns a thread.
/// `None` where the calling thread holds that lock already.
pub(crate) fn totals() -> Option<AllCounters> {
    Some(sum(&registry::lock()?))
}

/// The same, by who holds the lock.
pub(super) fn sum(registry: &Registry) -> AllCounters {
    let sums = registry.sums();
    let profile = sums.profile.get();
    // All frees before all allocations.
    let late = LATE.read();
    let late_in_profile = LATE_IN_PROFILE.read();
    let mut process = sums.ended.get().plus(late);
    let mut in_profile = sums.ended_in_profile.get().plus(late_in_profile);
    let mut truncated = 0_u64;
    registry.for_each(|block| {
        let frees = block.hot().frees();
        process = process.plus(frees);
        // A thread that adopts the profile between the two rounds is left out of both: what it counted since is younger
        // than this sum.
        let correction = block.baseline.of(profile);
        block.marked.set(correction.is_some());
        truncated = truncated.wrapping_add(block.baseline.truncated(profile));
        if let Some(correction) = correction {
            in_profile = in_profile.plus(frees).plus(correction);
        }
    });
    registry.for_each(|block| {
        let allocs = block.hot().allocs();
        process = process.plus(allocs);
        if block.marked.get() {
            in_profile = in_profile.plus(allocs);
        }
    });
    sums.latest.set(process);
    sums.late.set(late);
    if let Some(sink) = session::sink() {
        sink.truncated(sums.truncated.untold(truncated));
    }
    AllCounters { process, profile: in_profile }
}
