//! The aggregator: takes records out of all rings, in order, and attributes them to sites.
//!
//! A drain takes a time T, then the heads, and applies what is up to T, merged by time: a free that is visible before T
//! has its birth visible too. Whoever needs room in its ring may do it (helping), so a stopped drain thread loses
//! nothing.

#![allow(unsafe_code, reason = "one cell behind a lock that is not std's")]

use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use super::watch::Watch;
use crate::ring::RingId;
use crate::ring::record::Record;
use crate::store::attribution::Attribution;
use crate::store::epoch;
use crate::store::fill::Crowd;
use crate::store::tables::Tables;
use crate::sys::clock;
use crate::sys::lock::Lock;
use crate::units::Ticks;

/// The longest that a thread inside an allocation waits for the lock while nothing is attributed.
pub(crate) const LONGEST_STALL: Duration = Duration::from_millis(100);

/// The process's aggregator.
pub(crate) struct Aggregator {
    lock: Lock,
    /// `None` while no profile runs. Touched under the lock alone.
    running: UnsafeCell<Option<Running>>,
    /// See [`Aggregator::filled`]. Written under the lock.
    filled: AtomicU64,
    /// Stays under the lock while a profile ran.
    turns: AtomicU64,
    /// See [`Aggregator::is_crowded`]. Written under the lock, but for its beginning.
    is_crowded: AtomicBool,
}

struct Running {
    attribution: Attribution,
    tables: Tables<'static>,
    watch: Watch,
    crowd: Crowd,
}

impl Running {
    fn drain(&mut self, until: Ticks) -> u64 {
        let drained = self.attribution.drain(&self.tables, until, &mut self.watch);
        let worth = self.crowd.look(self.attribution.fill);
        // Relaxed, both: a counter and a hint; the lock admits one writer.
        AGGREGATOR.filled.store(AGGREGATOR.filled().wrapping_add(worth), Ordering::Relaxed);
        AGGREGATOR.is_crowded.store(self.crowd.is_there(), Ordering::Relaxed);
        drained
    }
}

// SAFETY: the cell is touched only while the lock is held.
unsafe impl Sync for Aggregator {}

/// The one of this process.
pub(crate) static AGGREGATOR: Aggregator = Aggregator {
    lock: Lock::new(),
    running: UnsafeCell::new(None),
    filled: AtomicU64::new(0),
    turns: AtomicU64::new(0),
    is_crowded: AtomicBool::new(false),
};

impl Aggregator {
    /// Begins a profile over `tables` in a process that `processors` threads of can run at once. Allocates nothing:
    /// `attribution` and `watch` were made before.
    pub(crate) fn begin(&self, attribution: Attribution, tables: Tables<'static>, watch: Watch, processors: usize) {
        // Relaxed: a hint.
        self.is_crowded.store(false, Ordering::Relaxed);
        let before = self.exchange(Some(Running { attribution, tables, watch, crowd: Crowd::of(processors) }));
        // Dropped outside the lock.
        drop(before);
    }

    /// Ends the profile: records are refused from here on.
    pub(crate) fn end(&self) {
        drop(self.exchange(None));
    }

    fn exchange(&self, with: Option<Running>) -> Option<Running> {
        let held = self.lock.take()?;
        // SAFETY: the lock is held.
        let before = std::mem::replace(unsafe { &mut *self.running.get() }, with);
        drop(held);
        before
    }

    /// Runs `f` under the lock, waiting at most `limit`. `None`: no profile, no lock in time, or the caller holds it.
    fn with<T>(&self, limit: Duration, f: impl FnOnce(&mut Running) -> T) -> Option<T> {
        let held = if limit.is_zero() { self.lock.try_take() } else { self.lock.take_within(limit) }?;
        // SAFETY: the lock is held.
        let running = unsafe { &mut *self.running.get() };
        let result = running.as_mut().map(f);
        if result.is_some() {
            self.goes_on();
        }
        drop(held);
        result
    }

    /// Do as many threads allocate all the time as can run at once, by what the last drains found? (`store::fill`)
    pub(crate) fn is_crowded(&self) -> bool {
        // Relaxed: a hint.
        self.is_crowded.load(Ordering::Relaxed)
    }

    /// Whoever holds the lock is at work. Called under it.
    pub(crate) fn goes_on(&self) {
        // Relaxed: written under the lock; who reads it asks only whether it moved.
        self.turns.store(self.turns.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
    }

    /// Grows while others get the lock and are done with it, or say that they go on.
    pub(crate) fn turns(&self) -> u64 {
        self.turns.load(Ordering::Relaxed)
    }

    /// Empties all rings up to now. Returns the number of records, or `None` where the lock was not to be had in time.
    pub(crate) fn drain(&self, limit: Duration) -> Option<u64> {
        self.with(limit, |running| running.drain(clock::now()))
    }

    /// The same, by the thread that writes ring `own`, whose records its processor has anyway.
    pub(crate) fn help(&self, own: RingId, limit: Duration) -> Option<u64> {
        self.with(limit, |running| {
            running.attribution.near = Some(own);
            let drained = running.drain(clock::now());
            running.attribution.near = None;
            drained
        })
    }

    /// What the drains since the process began, whoever did them, were worth to the drain thread (`store::fill`), added up.
    pub(crate) fn filled(&self) -> u64 {
        self.filled.load(Ordering::Relaxed)
    }

    /// Attributes one record of a thread without a ring, after what others recorded before it. False where the lock was
    /// not to be had in time.
    pub(crate) fn apply(&self, record: &Record, limit: Duration) -> bool {
        self.with(limit, |running| {
            running.drain(record.at);
            running.attribution.apply(&running.tables, record, None, &mut running.watch);
        })
        .is_some()
    }

    /// Empties all rings, then runs `f` before anyone else may: for totals, epochs and copies that belong together.
    /// `f` is bound by the promises of the lock.
    pub(crate) fn drained<T>(&self, f: impl FnOnce(&Tables<'static>, Ticks) -> T) -> Option<T> {
        self.watched(|tables, _, now| f(tables, now))
    }

    /// The same, with the sites' histories.
    pub(crate) fn watched<T>(&self, f: impl FnOnce(&Tables<'static>, &mut Watch, Ticks) -> T) -> Option<T> {
        self.with(Duration::from_secs(10), |running| {
            let now = clock::now();
            running.drain(now);
            f(&running.tables, &mut running.watch, now)
        })
    }

    /// Ends the store's open epoch. Within [`Aggregator::watched`].
    pub(crate) fn end_epoch(tables: &Tables<'static>, at: Ticks) {
        epoch::end_epoch(tables, at);
    }

    /// Holds the lock for as long as `f` runs: for the tests that stop the drain.
    pub(crate) fn hold<T>(&self, f: impl FnOnce() -> T) -> Option<T> {
        let held = self.lock.take()?;
        let result = f();
        drop(held);
        Some(result)
    }

    /// In a forked child that starts a profile of its own.
    pub(crate) fn reset_in_child(&self) {
        self.lock.reset_in_child();
        if let Some(held) = self.lock.take() {
            // The parent's: forgotten, not dropped; its mapping is not ours to touch.
            // SAFETY: the lock is held.
            std::mem::forget(std::mem::take(unsafe { &mut *self.running.get() }));
            drop(held);
        }
    }
}
