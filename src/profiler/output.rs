//! What a profile leaves behind: the DHAT file and the summary.
//!
//! Promises: nothing here panics the program that ends; what can't be written is said on stderr, with the path.

use std::path::Path;
use std::time::Duration;

use super::leaks;
use super::news::Listening;
use super::stop::{Finished, stop};
use crate::config::Config;
use crate::drain::verdict::Evidence;
use crate::export::dhat::write_file;
use crate::report::Snapshot;
use crate::report::points::Points;
use crate::report::summary::Summary;
use crate::sys::lock::Lock;
use crate::sys::process;

/// Stops the profile of this ticket and writes its results. Nothing where it is not running, or in a forked child.
pub(super) fn finish(ticket: u32) {
    // What nobody reads is not made: symbols take longer than all the rest.
    end_with(ticket, |config| !config.testing, |config| config.output.is_some() || !config.quiet);
}

/// Stops the profile of this ticket and returns what it found; writes its results where `write`.
pub(super) fn end(ticket: u32, write: bool) -> Option<Snapshot> {
    end_with(ticket, |_| write, |_| true)
}

fn end_with(
    ticket: u32,
    writes: impl FnOnce(&Config) -> bool,
    is_read: impl FnOnce(&Config) -> bool,
) -> Option<Snapshot> {
    // `None`: this very thread is at it already, and something in the midst of it called `exit`.
    let held = FINISHING.take()?;
    let mut finished = stop(ticket)?;
    let evidence = finished.evidence.take();
    let is_there = evidence.is_some();
    let snapshot =
        evidence.filter(|_| is_read(&finished.config)).map(|evidence| snapshot_of(&finished.config, *evidence));
    match &snapshot {
        Some(snapshot) if writes(&finished.config) => write_kept(&finished.config, snapshot, finished.store_path()),
        Some(_) => {}
        None if is_there => {}
        // A signal's handler may have written it already, in which case the process is about to end.
        None if process::arrived_signal().is_some() => {}
        None => process::say("unfreed: the profiler's thread is gone; no results were written\n"),
    }
    let listening = finished.listening.take();
    Finished::end(finished);
    drop(held);
    // The results are written, and nothing is held that a listener may wait for.
    listening.into_iter().for_each(Listening::end);
    snapshot
}

/// What was found by a profile that has ended, with the verdicts, trimmed as configured.
fn snapshot_of(config: &Config, evidence: Evidence) -> Snapshot {
    let (mut snapshot, leaks) = leaks::report(evidence, crate::report::Trim::from_dhat(config.trim));
    snapshot.set_leaks(leaks);
    snapshot.set_last();
    snapshot
}

/// Held while results are written.
static FINISHING: Lock = Lock::new();

/// The longest that an `exit` waits for another thread's results: the largest files take seconds.
const LONGEST_FINISH: Duration = Duration::from_secs(30);

/// Waits until results that another thread is writing are written: the process is about to end.
pub(super) fn wait_for_finish() {
    drop(FINISHING.take_within(LONGEST_FINISH));
}

/// In a forked child: whoever was writing does not exist here.
pub(super) fn reset_in_child() {
    FINISHING.reset_in_child();
}

/// Writes file and summary.
pub(super) fn write(config: &Config, evidence: Evidence, store: Option<&Path>) {
    write_kept(config, &snapshot_of(config, evidence), store);
}

/// Writes file and summary of a snapshot whose store is gone.
pub(crate) fn write_snapshot(config: &Config, snapshot: &Snapshot) {
    write_kept(config, snapshot, None);
}

fn write_kept(config: &Config, snapshot: &Snapshot, store: Option<&Path>) {
    process::without_write_signals(|| write_files(config, snapshot, store));
}

fn write_files(config: &Config, snapshot: &Snapshot, store: Option<&Path>) {
    let _inside = crate::hook::inside();
    let points = Points::of(snapshot);
    let written = config.output.as_deref().map(|path| (path, write_file(snapshot, &points, path)));
    let mut text = String::new();
    if !config.quiet {
        let saved = written.as_ref().and_then(|(path, result)| result.is_ok().then_some(*path));
        text = Summary { snapshot, points: &points, saved }.to_string();
    }
    if let Some((_, Err(error))) = &written {
        text.push_str(&format!("unfreed: {error}\n"));
    }
    if let (Some(store), true, false) = (store, config.keep_store, config.quiet) {
        text.push_str(&format!("unfreed: The store is kept at {}\n", store.display()));
    }
    process::say(&text);
}
