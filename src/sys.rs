//! The operating system, and nothing else: the only place for `libc`.

pub(crate) mod modules;
pub(crate) mod stack;
pub(crate) mod sync;
