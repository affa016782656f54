//! Why a profile could not be started, in words that say what would be right.

use std::fmt;
use std::path::PathBuf;

/// Why [`Builder::start`](crate::Builder::start) or [`Profiler::from_env`](crate::Profiler::from_env) refused.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// No [`Alloc`](crate::Alloc) is the global allocator of this program.
    NotInstalled,
    /// A profiler runs in this process already.
    AlreadyRunning,
    /// This operating system or processor is not supported: profiled are Linux on x86-64 and aarch64. A program that is to
    /// run elsewhere too goes on without a profile; its allocations are served as by the wrapped allocator alone.
    Unsupported,
    /// The profiler's thread could not be created.
    Thread(std::io::Error),
    /// No memory for the profile's store, not even outside a file.
    Store(crate::StoreError),
    /// A value is not allowed.
    Value {
        /// The builder's method or the environment variable.
        name: &'static str,
        /// What it was given.
        value: String,
        /// What is allowed.
        allowed: &'static str,
    },
    /// A threshold of the leak judge makes no sense.
    LeakConfig(crate::LeakConfigError),
    /// The output could not be written.
    Output {
        /// To which file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::NotInstalled => f.write_str(
                "unfreed::Alloc is not this program's global allocator; add to its main.rs: #[global_allocator] \
                 static ALLOC: unfreed::Alloc = unfreed::Alloc::system();",
            ),
            Error::AlreadyRunning => {
                f.write_str("a profiler runs in this process already; drop it before starting another")
            }
            Error::Unsupported => f.write_str(
                "unsupported here: unfreed profiles Linux on x86-64 and aarch64; memory is served on, nothing is recorded",
            ),
            Error::Thread(source) => write!(f, "the profiler's thread could not be created: {source}"),
            Error::Store(source) => write!(f, "no memory for the profile's store: {source}"),
            Error::Value { name, value, allowed } => write!(f, "{name}: bad value '{value}'; allowed: {allowed}"),
            Error::LeakConfig(source) => source.fmt(f),
            Error::Output { path, source } => write!(f, "writing {} failed: {source}", path.display()),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Thread(source) | Error::Output { source, .. } => Some(source),
            Error::Store(source) => Some(source),
            _ => None,
        }
    }
}
