//! unfreed: which call chains hold memory that is never freed.
//!
//! A global allocator that wraps yours, counts every allocation exactly in its thread, samples backtraces into
//! lock-free per-thread buffers, and attributes live bytes to call sites on a thread of its own. At the end it writes
//! DHAT JSON, which dh_view opens as it is; if the process is killed instead, the store file is left and
//! [`Store::open`] reads it.
//!
//! For the owners of a Rust service that grows until it is killed. It asks for three lines in your program, no build
//! flags, no frame pointers, and costs little enough to be left on in production:
//!
//! ```no_run
//! #[global_allocator]
//! static ALLOC: unfreed::Alloc = unfreed::Alloc::system();
//!
//! fn main() -> Result<(), unfreed::Error> {
//!     let _profiler = unfreed::Profiler::start()?;
//!     // … the program …
//!     Ok(())
//! }
//! ```
//!
//! Two modes: *sampled* (the default: exact totals, and sites estimated from a sample whose interval is governed by a
//! budget) and *exact* (every block; figures equal to the dhat crate's). Every estimate carries its 95% interval, and
//! everything that was lost is counted.
//!
//! What it does not do: it sees Rust's global allocator alone, not `mmap` or C's `malloc`; it profiles Linux on
//! x86-64 and aarch64 alone: on other targets a program that uses it builds and is served as without it, and starting a
//! profile says [`Error::Unsupported`]; and a pointer from Rust's allocator that is given to C's `free`, which was never allowed, ends
//! the program by an abort or a SIGSEGV (`UNFREED_SLOTS=off` avoids that).

#![deny(unsafe_code)]
#![cfg_attr(
    any(unfreed_unsupported, not(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))),
    allow(dead_code, reason = "what only a profile uses")
)]

// What loom checks is built for it alone: the lock-free parts that are generic over slices of its cells.
#[cfg(not(loom))]
mod config;
#[cfg(not(loom))]
pub mod dhat;
#[cfg(not(loom))]
mod drain;
#[cfg(not(loom))]
mod error;
#[cfg(not(loom))]
mod export;
#[cfg(not(loom))]
mod hook;
#[cfg(not(loom))]
#[doc(hidden)]
pub mod internals;
#[cfg(not(loom))]
mod leak;
#[cfg(not(loom))]
mod live;
#[cfg(not(loom))]
mod profiler;
#[cfg(not(loom))]
mod report;
mod ring;
mod sampler;
mod slots;
#[cfg(not(loom))]
mod store;
// On other targets nothing is profiled, and `start()` says so: stand-ins for what touches the system build there. The
// same of a build with `--cfg unfreed_unsupported`, so that they are tested where tests run.
#[cfg_attr(
    any(unfreed_unsupported, not(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))),
    path = "sys/elsewhere.rs"
)]
mod sys;
#[cfg(not(loom))]
pub mod testing;
mod tree;
mod units;
#[cfg(not(loom))]
#[cfg_attr(
    any(unfreed_unsupported, not(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))),
    path = "unwind/elsewhere.rs"
)]
mod unwind;

#[cfg(not(loom))]
mod public {
    pub use crate::error::Error;
    pub use crate::export::FileError;
    pub use crate::hook::Alloc;
    pub use crate::leak::{
        Evidence, Leak, LeakConfig, LeakConfigError, Memory, MemoryCause, Severity, State, Unexplained, Unjudged,
        Withdrawn,
    };
    pub use crate::profiler::{
        Bounded, Builder, EnteredScopes, LeakReport, Profiler, ScopeHandle, VerdictChange, VerdictKind, bounded,
    };
    pub use crate::report::{
        Diff, Estimate, Frame, Frames, HistoryPoint, Losses, Mode, Module, ProcessState, Scope, Site, SiteDiff,
        SizeClass, Snapshot, Store, Totals,
    };
    pub use crate::store::StoreError;
}
#[cfg(not(loom))]
pub use public::*;

/// Made-up profiles for this workspace's own tests. Not part of the public API.
#[cfg(all(feature = "_synthetic", not(loom)))]
#[doc(hidden)]
pub mod synthetic {
    pub use crate::report::synthetic::{dhat_file, shapes};
}
