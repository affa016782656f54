//! What can be wrong with a store, in words that say what would be right.

use std::fmt;
use std::io;
use std::path::PathBuf;

/// Why a store could not be made or read.
#[derive(Debug)]
#[non_exhaustive]
#[allow(unreachable_pub, reason = "part of the public interface, where `Store` is re-exported")]
pub enum StoreError {
    /// A system call failed.
    Io {
        /// What was being done.
        doing: &'static str,
        /// To which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file system, a quota or a file size limit leaves no room.
    NoSpace {
        /// Where.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The named file exists and is no store of a process that is gone.
    Exists {
        /// The name.
        path: PathBuf,
        /// The process that is writing it, if it is a store.
        writer: Option<u32>,
    },
    /// No address range could be reserved.
    NoAddresses {
        /// What the system said.
        source: io::Error,
    },
    /// The file is none of ours.
    NotAStore,
    /// A store of a layout that this version does not read.
    Version {
        /// The layout's number.
        found: u64,
    },
    /// Shorter than it says it is.
    Truncated {
        /// Its length.
        bytes: u64,
        /// What it should at least be.
        expected: u64,
    },
    /// A field holds what no writer writes.
    Corrupt {
        /// Which field.
        field: &'static str,
        /// What it holds.
        found: u64,
        /// The largest value that would be right, or the only one.
        allowed: u64,
    },
    /// A running process changed it faster than it could be read.
    Busy,
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StoreError::Io { doing, path, source } => write!(f, "{doing} {} failed: {source}", path.display()),
            StoreError::NoSpace { path, source } => write!(
                f,
                "no room for a store in {}: {source}; free some space there or name another directory in UNFREED_DIR",
                path.display()
            ),
            StoreError::Exists { path, writer: Some(pid) } => {
                write!(f, "{} is the store of process {pid}, which is running; name another file", path.display())
            }
            StoreError::Exists { path, writer: None } => {
                write!(
                    f,
                    "{} exists and is no old store of this program, or one that is just being made; name another file or remove it",
                    path.display()
                )
            }
            StoreError::NoAddresses { source } => {
                write!(f, "no address range for the store: {source}; raise the limit on virtual memory (ulimit -v)")
            }
            StoreError::NotAStore => f.write_str("not a store of unfreed: it does not begin with \"UNFREED\""),
            StoreError::Version { found } => write!(
                f,
                "the store has layout {found}, this version of unfreed reads layout {}; read it with the version that wrote it",
                super::layout::VERSION
            ),
            StoreError::Truncated { bytes, expected } => {
                write!(f, "the store has {bytes} bytes and should have {expected}: it was cut off")
            }
            StoreError::Corrupt { field, found, allowed } => {
                write!(f, "the store is damaged: {field} is {found}, and {allowed} is what would be allowed at most")
            }
            StoreError::Busy => f.write_str("the store changed faster than it could be read; try again"),
        }
    }
}

impl std::error::Error for StoreError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            StoreError::Io { source, .. } | StoreError::NoSpace { source, .. } | StoreError::NoAddresses { source } => {
                Some(source)
            }
            _ => None,
        }
    }
}
