//! Ending a profile: by its handle, at the process's exit, by a signal, or because its drain thread failed.
//!
//! Promises: `stop` waits until no thread can still write for the profile that ended, a few seconds at most, and only then is the
//! store ended; one that somebody may still write to is left where it is, which is said. One caller ends a profile. Signals that end
//! the process are held until the results are written.

use std::time::{Duration, Instant};

use super::link;
use super::news::{Listening, Telling};
use super::output;
use super::running::{self, Running};
use super::store;
use crate::config::Config;
use crate::drain::aggregator::AGGREGATOR;
use crate::drain::orders::{self, Order, ask};
use crate::drain::verdict::Evidence;
use crate::hook;
use crate::hook::session::{self, Mode};
use crate::store::Store;
use crate::sys::{barrier, fork, process};

/// The longest that `stop` waits for threads inside the cold path. A thread there does bounded work; one that was
/// stopped by a debugger is not waited for.
const LONGEST_QUIESCE: Duration = Duration::from_secs(2);

/// What a profile ended with.
pub(super) struct Finished {
    pub(super) config: Config,
    pub(super) evidence: Option<Box<Evidence>>,
    /// Whoever is told of verdicts: to be ended last, and with no lock held, since it may be the program's own code that
    /// ends the profile.
    pub(super) listening: Option<Listening>,
    store: &'static Store,
    /// No thread is inside any more.
    quiet: bool,
}

/// Stops recording and takes the last picture. `None` where another has stopped it, or in a forked child.
pub(super) fn stop(ticket: u32) -> Option<Finished> {
    let Running { config, store, orders, thread, listening } = running::take(ticket)?;
    let off = session::change(Mode::Off, false);
    hook::thread::call_all(off, None);
    let quiet = quiesce(off);
    let evidence = ask(orders, Order::Stop).flatten();
    thread.join();
    link::disconnect();
    AGGREGATOR.end();
    let quiet = quiet && quiesce(off);
    if !quiet {
        process::say("unfreed: a thread stayed inside the profiler for 2 s; its last records are not in the profile\n");
    }
    Some(Finished { config, evidence, listening, store, quiet })
}

impl Finished {
    /// Ends the store, whose file stays where that was asked for. Signals have their way again from here on: until now,
    /// while the results were written, they were held.
    pub(super) fn end(self) {
        if self.quiet {
            store::end(self.store, self.config.keep_store);
        } else {
            self.store.abandon(self.config.keep_store);
        }
        if !self.config.signals {
            return;
        }
        process::release_ending_signals();
        // It came when nobody was left to obey it: its effect is what it would have been.
        if let Some(signal) = process::arrived_signal() {
            process::end_by(signal);
        }
    }

    /// Where the store's file lies.
    pub(super) fn store_path(&self) -> Option<&std::path::Path> {
        self.store.path()
    }
}

/// Waits until no thread can still write for an older state than `now`.
fn quiesce(now: session::State) -> bool {
    barrier::everywhere();
    let deadline = Instant::now() + LONGEST_QUIESCE;
    while hook::thread::anyone_behind(now) || link::in_use() {
        if Instant::now() > deadline {
            return false;
        }
        std::thread::yield_now();
    }
    true
}

/// The drain thread failed: nothing is recorded any more, memory is served on.
pub(super) fn switch_off() {
    hook::thread::call_all(session::change(Mode::Off, false), None);
    process::say("unfreed: the profiler's thread failed; profiling is off, the program goes on\n");
}

/// The process ends while a profile runs: `process::exit`, or a profiler that was leaked.
pub(super) extern "C" fn at_exit() {
    if fork::in_child() {
        return;
    }
    let ticket = running::current_ticket();
    let _inside = hook::inside();
    if ticket == 0 {
        output::wait_for_finish();
    } else {
        output::finish(ticket);
    }
}

/// A signal arrived that asks the process to end: wakes the drain thread, which is to write the profile, and says whether the
/// interrupted thread may wait for that. Async-signal-safe.
pub(super) fn heed_signal() -> bool {
    orders::hurry();
    hook::may_be_held_up()
}

/// On the drain thread: the profile is written, then the signal ends the process.
pub(super) fn end_by_signal(
    config: &Config,
    store: &'static Store,
    evidence: Option<Box<Evidence>>,
    told: &Telling,
    signal: i32,
) {
    if let Some(evidence) = evidence
        && !config.testing
    {
        output::write(config, *evidence, store.path());
    }
    if let (Some(path), false) = (store.path(), config.keep_store) {
        let _ = std::fs::remove_file(path);
    }
    told.wait();
    process::end_by(signal);
}
