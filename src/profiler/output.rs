//! What a profile leaves behind: the DHAT file and the summary.
//!
//! Promises: nothing here panics the program that ends; what can't be written is said on stderr, with the path.

use std::path::Path;

use super::running::{self, Finished};
use crate::config::Config;
use crate::report::Snapshot;
use crate::report::summary::Summary;
use crate::store::picture::Picture;
use crate::sys::process;

/// Stops the profile of this ticket and writes its results. Nothing where it is not running, or in a forked child.
pub(super) fn finish(ticket: u32) {
    end_with(ticket, |config| !config.testing);
}

/// Stops the profile of this ticket and returns what it found; writes its results where `write`.
pub(super) fn end(ticket: u32, write: bool) -> Option<Snapshot> {
    end_with(ticket, |_| write)
}

fn end_with(ticket: u32, writes: impl FnOnce(&Config) -> bool) -> Option<Snapshot> {
    let mut finished = running::stop(ticket)?;
    let snapshot = finished.picture.take().map(|picture| trimmed(&finished.config, *picture));
    match &snapshot {
        Some(snapshot) if writes(&finished.config) => write_kept(&finished.config, snapshot, finished.store_path()),
        Some(_) => {}
        // A signal's handler may have written it already, in which case the process is about to end.
        None if process::arrived_signal().is_some() => {}
        None => process::say("unfreed: the profiler's thread is gone; no results were written\n"),
    }
    Finished::end(finished);
    snapshot
}

fn trimmed(config: &Config, picture: Picture) -> Snapshot {
    Snapshot::trimmed(picture, crate::report::Trim::from_dhat(config.trim))
}

/// Writes file and summary of a picture.
pub(super) fn write(config: &Config, picture: Picture, store: Option<&Path>) {
    write_kept(config, &trimmed(config, picture), store);
}

/// Writes file and summary.
pub(crate) fn write_snapshot(config: &Config, snapshot: &Snapshot) {
    write_kept(config, snapshot, None);
}

fn write_kept(config: &Config, snapshot: &Snapshot, store: Option<&Path>) {
    let written = config.output.as_deref().map(|path| (path, snapshot.write_dhat_file(path)));
    let mut text = String::new();
    if !config.quiet {
        let saved = written.as_ref().and_then(|(path, result)| result.is_ok().then_some(*path));
        text = Summary { snapshot, saved }.to_string();
    }
    if let Some((_, Err(error))) = &written {
        text.push_str(&format!("unfreed: {error}\n"));
    }
    if let (Some(store), true, false) = (store, config.keep_store, config.quiet) {
        text.push_str(&format!("unfreed: The store is kept at {}\n", store.display()));
    }
    process::say(&text);
}
