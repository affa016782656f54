//! The operating system, and nothing else: the only place for `libc`.

pub(crate) mod file;
pub(crate) mod sync;
