//! For this workspace's own tests: the parts that a test must stop, hold or look into. Not part of the public API.
#![allow(missing_docs, reason = "not public")]

use crossbeam_channel::{Sender, bounded};

use crate::drain::orders::Order;
use crate::profiler::order_for_tests;

/// The drain thread sleeps while this lives.
#[derive(Debug)]
pub struct Paused {
    _until: Sender<()>,
}

/// Stops the drain thread until the result is dropped.
#[must_use]
pub fn pause_drain() -> Paused {
    let _inside = crate::hook::inside();
    let (until, wait) = bounded::<()>(0);
    let started = order_for_tests(|reply| Order::Pause(reply, wait));
    assert!(started.is_some(), "no profile runs");
    Paused { _until: until }
}

/// Runs `f` while nobody can take the aggregator's lock.
pub fn hold_aggregator<T>(f: impl FnOnce() -> T) -> T {
    crate::drain::aggregator::AGGREGATOR.hold(f).expect("not held by this thread")
}

/// Has the drain thread look for modules now.
pub fn refresh_modules() {
    order_for_tests(Order::LookAtModules);
}

/// Stacks unwound twice, and how many of them differed (`Builder::check_stacks`).
#[must_use]
pub fn checked_stacks() -> (u64, u64) {
    let counters = crate::unwind::counters();
    (counters.checked, counters.disagreements)
}
