//! The operating system, and nothing else: the only place for `libc`.
//!
//! Each file is one service of the system with a safe or narrowly unsafe face. Nothing here knows what a profile is.

#![allow(unsafe_code, reason = "system calls; each is wrapped once, here")]

/// Whether this is a target that is profiled; where not, `sys/elsewhere.rs` stands for this file.
#[cfg(not(loom))]
pub(crate) const IS_SUPPORTED: bool = true;

#[cfg(not(loom))]
pub(crate) mod barrier;
#[cfg(not(loom))]
pub(crate) mod clock;
#[cfg(not(loom))]
pub(crate) mod file;
#[cfg(not(loom))]
pub(crate) mod fork;
#[cfg(not(loom))]
mod futex;
#[cfg(not(loom))]
pub(crate) mod heap;
#[cfg(not(loom))]
pub(crate) mod limits;
#[cfg(not(loom))]
pub(crate) mod lock;
#[cfg(not(loom))]
pub(crate) mod map;
#[cfg(not(loom))]
pub(crate) mod modules;
pub(crate) mod prefetch;
#[cfg(not(loom))]
pub(crate) mod process;
#[cfg(not(loom))]
pub(crate) mod refusal;
#[cfg(not(loom))]
pub(crate) mod stack;
pub(crate) mod sync;
#[cfg(not(loom))]
pub(crate) mod thread;
