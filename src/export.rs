//! Profiles as files, one module a format.
//!
//! Each format streams to a writer; `file` puts what they write at a path so that no half file is ever seen there.

pub(crate) mod dhat;
pub(crate) mod file;

pub use file::FileError;
