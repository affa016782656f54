//! The dhat crate's surface over exact mode: change `use dhat;` to `use unfreed::dhat;` and the program stays as it is.
//!
//! Promises: the same names and signatures, the same figures on a single-threaded program, the same panics where the
//! dhat crate panics (a second profiler, statistics without a profiler, an assertion outside testing mode). What is
//! better than there is not hidden: a heap profile's file is written on `process::exit` and on SIGINT and SIGTERM too (an ad
//! hoc profile's is not, as there), lifetimes do not restart at a realloc, and backtraces are trimmed by source path.
//!
//! ```
//! use unfreed::dhat;
//!
//! #[global_allocator]
//! static ALLOC: dhat::Alloc = dhat::Alloc;
//!
//! # fn main() {
//! let _profiler = dhat::Profiler::builder().testing().build();
//! let block = std::hint::black_box(vec![1u8, 2, 3]);
//! let stats = dhat::HeapStats::get();
//! dhat::assert_eq!(stats.curr_blocks, 1);
//! dhat::assert!(stats.curr_bytes == 3, "three bytes are alive, not {}", stats.curr_bytes);
//! drop(block);
//! # }
//! ```

mod ad_hoc;
mod assertions;
mod stats;

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::config::{Config, Sampling, StorePlace};
use crate::error::Error;
use crate::profiler;
use crate::report::Snapshot;
use crate::store::picture::Picture;
use crate::sys::process;
use ad_hoc::AdHoc;

pub use crate::{__dhat_assert as assert, __dhat_assert_eq as assert_eq, __dhat_assert_ne as assert_ne};
pub use ad_hoc::ad_hoc_event;
#[doc(hidden)]
pub use assertions::{assert_is_panic, check_assert_condition, uncounted};
pub use stats::{AdHocStats, HeapStats};

/// The allocator to declare; the same as [`unfreed::Alloc`](crate::Alloc) over the system's.
pub type Alloc = crate::Alloc;

/// The value of [`type@Alloc`]: `static ALLOC: dhat::Alloc = dhat::Alloc;` is the dhat crate's way to declare it.
#[expect(non_upper_case_globals, reason = "stands for a unit struct's value")]
pub const Alloc: Alloc = Alloc::system();

/// The dhat crate's default of `trim_backtraces`.
const DEFAULT_FRAMES: usize = 10;
/// Below this the dhat crate does not go.
const LEAST_FRAMES: usize = 4;
/// What is captured beyond the frames to show: those that trimming will hide at the leaf.
const HIDDEN_FRAMES: usize = 64;
/// Captured where no limit was asked for; the most that a stack can have.
const ALL_FRAMES: usize = 1024;

/// What runs now. Behind a lock that takes no memory; held for short, and never while a panic begins.
static PHASE: Mutex<Phase> = Mutex::new(Phase::Ready);

enum Phase {
    Ready,
    Running(Running),
    /// An assertion failed, and the profiler is not dropped yet.
    Asserted,
}

struct Running {
    kind: Kind,
    testing: bool,
    eprint_json: bool,
}

enum Kind {
    Heap(profiler::Profiler),
    /// No [`type@Alloc`] is installed: nothing will be seen, as in the dhat crate.
    Blind(PathBuf),
    AdHoc(AdHoc),
}

fn phase() -> MutexGuard<'static, Phase> {
    PHASE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A running profile, which ends when this is dropped or when an assertion fails.
#[derive(Debug)]
#[must_use = "the profile ends when this is dropped: bind it to a variable that lives as long as it is to run"]
pub struct Profiler {
    _private: (),
}

impl Profiler {
    /// Starts a heap profile; `dhat-heap.json` is written when it is dropped.
    ///
    /// # Panics
    /// If another profiler is running.
    pub fn new_heap() -> Profiler {
        Profiler::builder().build()
    }

    /// Starts an ad hoc profile, of [`ad_hoc_event`]s; `dhat-ad-hoc.json` is written when it is dropped.
    ///
    /// # Panics
    /// If another profiler is running.
    pub fn new_ad_hoc() -> Profiler {
        Profiler::builder().ad_hoc().build()
    }

    /// For everything beyond the two above.
    pub fn builder() -> ProfilerBuilder {
        ProfilerBuilder {
            ad_hoc: false,
            testing: false,
            eprint_json: false,
            file_name: None,
            trim_backtraces: Some(DEFAULT_FRAMES),
        }
    }

    /// Ends the profile as dropping it does, with the file's text as result in the file's stead.
    #[doc(hidden)]
    pub fn drop_and_get_memory_output(&mut self) -> String {
        let _inside = crate::hook::inside();
        let running = match std::mem::replace(&mut *phase(), Phase::Ready) {
            Phase::Running(running) => running,
            Phase::Ready | Phase::Asserted => return String::new(),
        };
        let text = match running.kind {
            Kind::Heap(profiler) => {
                profiler::end(profiler, false).map_or(String::new(), |snapshot| json_text(&snapshot))
            }
            Kind::Blind(_) => json_text(&nothing()),
            Kind::AdHoc(ad_hoc) => ad_hoc.finish().json_text(),
        };
        // The caller's: made outside, so that it counts as any other.
        crate::hook::outside(|| text.clone())
    }
}

impl Drop for Profiler {
    fn drop(&mut self) {
        let before = std::mem::replace(&mut *phase(), Phase::Ready);
        if let Phase::Running(running) = before {
            let write = !running.testing;
            running.end(write);
        }
    }
}

/// What a profile is to be; made by [`Profiler::builder`].
#[derive(Debug)]
#[must_use = "nothing is started before build()"]
pub struct ProfilerBuilder {
    ad_hoc: bool,
    testing: bool,
    eprint_json: bool,
    file_name: Option<PathBuf>,
    trim_backtraces: Option<usize>,
}

impl ProfilerBuilder {
    /// Asks for an ad hoc profile.
    pub fn ad_hoc(mut self) -> ProfilerBuilder {
        self.ad_hoc = true;
        self
    }

    /// Allows assertions; no file is written but where one of them fails.
    pub fn testing(mut self) -> ProfilerBuilder {
        self.testing = true;
        self
    }

    /// Names the file.
    pub fn file_name<P: AsRef<Path>>(mut self, file_name: P) -> ProfilerBuilder {
        self.file_name = Some(file_name.as_ref().to_path_buf());
        self
    }

    /// `None` shows every frame; `Some(n)` hides the allocator's frames at the leaf and the runtime's at the root, and
    /// shows at most `n` (at least 4). The default is `Some(10)`, as in the dhat crate.
    pub fn trim_backtraces(mut self, max_frames: Option<usize>) -> ProfilerBuilder {
        self.trim_backtraces = max_frames.map(|frames| frames.max(LEAST_FRAMES));
        self
    }

    /// Prints the file's text on stderr as well.
    #[doc(hidden)]
    pub fn eprint_json(mut self) -> ProfilerBuilder {
        self.eprint_json = true;
        self
    }

    /// Starts the profile.
    ///
    /// # Panics
    /// If another profiler is running, and where the profiler's thread or memory are not to be had.
    pub fn build(self) -> Profiler {
        let (testing, eprint_json) = (self.testing, self.eprint_json);
        let started = {
            let mut phase = phase();
            match *phase {
                Phase::Ready => {
                    self.start().map(|kind| *phase = Phase::Running(Running { kind, testing, eprint_json }))
                }
                Phase::Running(_) | Phase::Asserted => Err(Error::AlreadyRunning),
            }
        };
        match started {
            Ok(()) => Profiler { _private: () },
            Err(Error::AlreadyRunning) => panic!("dhat: creating a profiler while a profiler is already running"),
            Err(error) => panic!("dhat: {error}"),
        }
    }

    fn start(self) -> Result<Kind, Error> {
        let default = if self.ad_hoc { "dhat-ad-hoc.json" } else { "dhat-heap.json" };
        let file = self.file_name.unwrap_or_else(|| PathBuf::from(default));
        if self.ad_hoc {
            return Ok(Kind::AdHoc(AdHoc::begin(file, self.trim_backtraces)));
        }
        let config = Config {
            sampling: Sampling::Exact,
            output: Some(file.clone().into()),
            max_frames: self
                .trim_backtraces
                .map_or(ALL_FRAMES, |frames| frames.saturating_add(HIDDEN_FRAMES).clamp(128, ALL_FRAMES)),
            trim: self.trim_backtraces,
            testing: self.testing,
            signals: !self.testing,
            // Nobody asks for what a killed test had in its heap.
            store: if self.testing { StorePlace::Memory } else { StorePlace::Default },
            ..Config::default()
        };
        match profiler::start_with(config) {
            Ok(profiler) => Ok(Kind::Heap(profiler)),
            Err(error @ (Error::NotInstalled | Error::Unsupported)) => {
                process::say(&format!("unfreed: no heap profile: {error}\n"));
                Ok(Kind::Blind(file))
            }
            Err(error) => Err(error),
        }
    }
}

impl Running {
    /// Stops, and writes where asked to.
    fn end(self, write: bool) {
        let _inside = crate::hook::inside();
        let eprint = |text: &str| {
            if self.eprint_json {
                process::say(&format!("dhat: json = `{text}`\n"));
            }
        };
        match self.kind {
            Kind::Heap(profiler) => {
                if let Some(snapshot) = profiler::end(profiler, write)
                    && write
                {
                    eprint(&json_text(&snapshot));
                }
            }
            Kind::Blind(file) if write => {
                let nothing = nothing();
                profiler::write(&Config { output: Some(file.into()), ..Config::default() }, &nothing);
                eprint(&json_text(&nothing));
            }
            Kind::AdHoc(ad_hoc) if write => {
                let finished = ad_hoc.finish();
                finished.write();
                eprint(&finished.json_text());
            }
            Kind::Blind(_) | Kind::AdHoc(_) => {}
        }
    }
}

fn json_text(snapshot: &Snapshot) -> String {
    let mut text = Vec::new();
    // Writing to a Vec cannot fail.
    let _ = snapshot.write_dhat(&mut text);
    String::from_utf8_lossy(&text).into_owned()
}

/// The profile of a program without [`type@Alloc`].
fn nothing() -> Snapshot {
    let command: Vec<_> = std::env::args_os().map(|arg| arg.to_string_lossy().into_owned()).collect();
    let picture =
        Picture { exact_mode: true, pid: std::process::id(), command: command.join(" "), ..Picture::default() };
    Snapshot::from_picture(picture)
}
