//! (skeleton; the prose comes with the profiler)
#![allow(dead_code)]
#![deny(unsafe_code)]

mod export;
mod report;
mod ring;
mod sampler;
mod store;
mod sys;
mod tree;
mod units;

pub use export::FileError;
pub use report::{
    Diff, Estimate, Frame, Frames, HistoryPoint, Losses, Mode, Module, ProcessState, Site, SiteDiff, SizeClass,
    Snapshot, Totals,
};

/// Made-up profiles for this workspace's tests of formats.
#[cfg(feature = "_synthetic")]
#[doc(hidden)]
pub mod synthetic {
    pub use crate::report::synthetic::{dhat_file, shapes};
}
