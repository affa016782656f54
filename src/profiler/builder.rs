//! The builder: what a profile is to be.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::leaks::OnVerdict;
use super::{Profiler, VerdictChange, start};
use crate::config::{Config, Epochs, Sampling, StorePlace};
use crate::error::Error;
use crate::leak::LeakConfig;

/// Chooses what a profile is to be; made by [`Profiler::builder`].
///
/// ```no_run
/// # use std::time::Duration;
/// let profiler = unfreed::Profiler::builder()
///     .sample_interval(64 * 1024)
///     .output("heap.json")
///     .epoch(Duration::from_secs(10))
///     .start()?;
/// # Ok::<(), unfreed::Error>(())
/// ```
#[derive(Clone, Debug)]
#[must_use = "nothing is started before start()"]
pub struct Builder {
    config: Config,
    on_verdict: Option<OnVerdict>,
}

impl Builder {
    pub(super) fn new() -> Builder {
        Builder { config: Config::default(), on_verdict: None }
    }

    pub(super) fn from_env() -> Result<Option<Builder>, Error> {
        Ok(Config::from_env()?.map(|config| Builder { config, on_verdict: None }))
    }

    /// Records every block: figures equal to the dhat crate's on a single-threaded program. For tests, development and
    /// small inputs.
    pub fn exact(mut self) -> Builder {
        self.config.sampling = Sampling::Exact;
        self
    }

    /// Fixes the mean interval between sample points, in allocated bytes (1 to 2^40); 512 KiB is what jemalloc, tcmalloc
    /// and Go use. A block of s bytes is sampled with probability 1 − exp(−s/bytes).
    pub fn sample_interval(mut self, bytes: u64) -> Builder {
        self.config.sampling = Sampling::Fixed(bytes);
        self
    }

    /// Lets the interval follow the program, so that captures and draining stay within this share of its CPU time (above
    /// 0, at most 1). The default, at 0.01.
    pub fn overhead_budget(mut self, share: f64) -> Builder {
        self.config.sampling = Sampling::Governed(share);
        self
    }

    /// The file of the DHAT JSON that is written at the end; the default is `dhat-heap.json`. A relative path is looked up at
    /// the end, in the directory that is current then.
    pub fn output(mut self, path: impl Into<PathBuf>) -> Builder {
        self.config.output = Some(path.into().into());
        self
    }

    /// Writes no file at the end.
    pub fn no_output(mut self) -> Builder {
        self.config.output = None;
        self
    }

    /// The path of the store file; a relative one is looked up at the start. The default is a random name in
    /// `$UNFREED_DIR`, or in `/dev/shm`. On a disk its pages are written back, which stalls stores for up to 45 ms
    /// (measured): prefer a tmpfs.
    pub fn store(mut self, path: impl Into<PathBuf>) -> Builder {
        self.config.store = StorePlace::Path(path.into());
        self
    }

    /// Keeps the store in memory alone: nothing is left after a kill.
    pub fn store_in_memory(mut self) -> Builder {
        self.config.store = StorePlace::Memory;
        self
    }

    /// Leaves the store file where it is after a clean end.
    pub fn keep_store(mut self) -> Builder {
        self.config.keep_store = true;
        self
    }

    /// The length of an epoch, 10 ms to 24 h; the default is 5 s. A site is suspected after 60 epochs at the earliest, and called a leak
    /// after 180 ([`LeakConfig`]): a run of a minute or two needs epochs of 250 ms, by which what lives
    /// for seconds is old.
    pub fn epoch(mut self, length: Duration) -> Builder {
        self.config.epochs = Epochs::Every(length);
        self
    }

    /// Epochs end by [`Profiler::advance_epoch`] alone.
    pub fn manual_epochs(mut self) -> Builder {
        self.config.epochs = Epochs::Manual;
        self
    }

    /// The most frames of a stack that are kept, leaf first: 4 to 1024; the default is 128. Cut stacks are counted.
    pub fn max_frames(mut self, frames: usize) -> Builder {
        self.config.max_frames = frames;
        self
    }

    /// Prints no summary at the end. Failures are still said.
    pub fn quiet(mut self) -> Builder {
        self.config.quiet = true;
        self
    }

    /// Leaves SIGINT and SIGTERM alone: a process that they end leaves no results but the store.
    pub fn no_signals(mut self) -> Builder {
        self.config.signals = false;
        self
    }

    /// How the written backtraces are trimmed, as in the dhat crate: `None` shows every frame; `Some(n)` hides the
    /// allocator's frames at the leaf and the runtime's at the root and shows at most `n` (at least 4). The default is
    /// `Some(usize::MAX)`.
    pub fn trim_backtraces(mut self, max_frames: Option<usize>) -> Builder {
        self.config.trim = max_frames;
        self
    }

    /// The thresholds of the leak judge.
    pub fn leak_config(mut self, config: LeakConfig) -> Builder {
        self.config.leaks = config;
        self
    }

    /// Calls `listener` when a verdict begins, worsens or is withdrawn, also that on a scope of [`bounded`](crate::bounded)
    /// that exceeds its bound. With the feature `log` a line is logged as well, with `tracing` an event
    /// made (target `unfreed`; a leak is an error, a suspicion a warning, a withdrawal an info).
    ///
    /// It runs on a thread of its own, `unfreed-news`, one call at a time, so a slow one holds up nothing: up to 1,024
    /// changes wait meanwhile, and what finds no room is counted ([`LeakReport::untold_changes`](crate::LeakReport)). It
    /// may ask the profile and end it; its panic ends nothing. What it allocates counts as the program's. All signals are blocked
    /// there. The profile's end waits up to 5 seconds for what is left to be told.
    pub fn on_verdict(mut self, listener: impl Fn(&VerdictChange) + Send + Sync + 'static) -> Builder {
        self.on_verdict = Some(OnVerdict(Arc::new(listener)));
        self
    }

    #[doc(hidden)]
    pub fn check_stacks(mut self) -> Builder {
        self.config.check_stacks = true;
        self
    }

    /// Starts the profile.
    ///
    /// # Errors
    /// A bad value, by the method's name, the value and what is allowed; and those of [`Profiler::start`].
    pub fn start(self) -> Result<Profiler, Error> {
        start::start(self.config, self.on_verdict).map(Profiler::of_ticket)
    }
}
