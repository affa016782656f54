//! How far the sync is, on stderr: a bar on a terminal, elsewhere a line for each tenth.
//!
//! Never writes to stdout, which is for the result.

use std::io::IsTerminal as _;
use std::sync::atomic::{AtomicU64, Ordering};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// A log that someone reads later wants a few lines, not thousands.
const LINES: u64 = 10;

/// The display of one sync.
#[derive(Debug)]
pub struct Progress {
    bar: ProgressBar,
    emails: u64,
    /// Tenths already told, where there is no terminal.
    told: AtomicU64,
}

impl Progress {
    /// For a sync of `emails`.
    pub fn new(emails: u64) -> Progress {
        let is_terminal = std::io::stderr().is_terminal();
        let target = if is_terminal { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(Some(emails), target);
        let template = "syncing {wide_bar} {pos}/{len} emails, {eta} left";
        bar.set_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()));
        Progress { bar, emails, told: AtomicU64::new(0) }
    }

    /// `synced` emails are done.
    pub fn set(&self, synced: u64) {
        self.bar.set_position(synced);
        let tenths = synced * LINES / self.emails.max(1);
        // Relaxed: the counter orders nothing but itself
        if self.bar.is_hidden() && self.told.fetch_max(tenths, Ordering::Relaxed) < tenths {
            eprintln!("rustymail: {synced} of {} emails synced", self.emails);
        }
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}
