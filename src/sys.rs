//! The operating system, and nothing else: the only place for `libc`.
//!
//! Each file is one service of the system with a safe or narrowly unsafe face. Nothing here knows what a profile is.

#![allow(unsafe_code, reason = "system calls; each is wrapped once, here")]

pub(crate) mod barrier;
pub(crate) mod clock;
pub(crate) mod file;
pub(crate) mod fork;
pub(crate) mod limits;
pub(crate) mod lock;
pub(crate) mod map;
pub(crate) mod modules;
pub(crate) mod process;
pub(crate) mod stack;
pub(crate) mod sync;
pub(crate) mod thread;
