//! Where a store's file lies and what it is called.
//!
//! Promises: no file is overwritten and no link followed. A named path is given to a store whose header is whole, in one step that
//! fails if anybody has the name: of several that start at once with one path one gets it, and who is killed before leaves no
//! file there. What lies there already is moved aside if it is an old store (`aside`), never lost to a restart, and is the
//! reason to refuse if it is anything else. What others left is cleared by the rules of `old`. Paths are absolute: they mean
//! the same when the program has changed its directory.

mod aside;
mod old;

use crate::store::error::StoreError;
use crate::store::held::HeldFile;
use crate::sys::file;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Where the user wants the store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Place {
    /// `/dev/shm` where that is memory, else in memory only.
    #[default]
    Default,
    /// A random name in this directory.
    Directory(PathBuf),
    /// This very name.
    Path(PathBuf),
    /// No name at all: gone with the process.
    Memory,
}

const PREFIX: &str = "unfreed-";
const SUFFIX: &str = ".unfreed";
/// What a file is called that is to have a name of the user's, until its header is whole: hidden, and no store.
const MAKING_PREFIX: &str = ".unfreed-";
const MAKING_SUFFIX: &str = ".tmp";
const SHARED_MEMORY: &str = "/dev/shm";

/// The names of a new file.
#[derive(Debug)]
pub(super) struct Name {
    /// Where the store is to lie.
    path: PathBuf,
    /// Where it lies until its header is whole; `None`: there.
    making: Option<PathBuf>,
}

impl Name {
    /// Where the store is to lie.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Gives a store whose header is whole its name.
    pub(super) fn settle(&self, executable: &str) -> Result<(), StoreError> {
        match &self.making {
            Some(making) => aside::settle(making, &self.path, executable),
            None => Ok(()),
        }
    }

    /// Removes what could not be made or named.
    pub(super) fn remove(&self) {
        let _ = fs::remove_file(self.making.as_ref().unwrap_or(&self.path));
    }
}

/// A new file and its name; `None` where the store is to be in memory only.
pub(super) fn create(place: &Place, executable: &str) -> Result<Option<(HeldFile, Name)>, StoreError> {
    match place {
        Place::Memory => Ok(None),
        Place::Path(path) => named(&lasting(path), executable).map(Some),
        Place::Directory(directory) => random(&lasting(directory), executable).map(Some),
        Place::Default => {
            let directory = Path::new(SHARED_MEMORY);
            if file::is_tmpfs(directory) { random(directory, executable).map(Some) } else { Ok(None) }
        }
    }
}

/// A path that means the same after the program has changed its directory.
fn lasting(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

fn named(path: &Path, executable: &str) -> Result<(HeldFile, Name), StoreError> {
    // Refused before anything is made.
    old::occupant(path, executable)?;
    if let Some(directory) = path.parent() {
        old::clear_unfinished(directory, executable);
    }
    let making = || path.with_file_name(random_name(MAKING_PREFIX, executable, MAKING_SUFFIX));
    let (file, making) = create_as(making, path)?;
    Ok((file, Name { path: path.to_owned(), making: Some(making) }))
}

fn random(directory: &Path, executable: &str) -> Result<(HeldFile, Name), StoreError> {
    old::clear(directory, executable);
    let (file, path) = create_as(|| directory.join(random_name(PREFIX, executable, SUFFIX)), directory)?;
    Ok((file, Name { path, making: None }))
}

/// A new file of the first name that nobody has, of a few.
fn create_as(name: impl Fn() -> PathBuf, shown: &Path) -> Result<(HeldFile, PathBuf), StoreError> {
    let mut last = io::Error::from(io::ErrorKind::AlreadyExists);
    for _ in 0..8 {
        let path = name();
        match file::create_private(&path).and_then(HeldFile::new) {
            Ok(file) => return Ok((file, path)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => last = error,
            Err(error) => return Err(failed("creating the store", shown, error)),
        }
    }
    Err(failed("creating the store", shown, last))
}

/// A name that nobody can guess, and that says whose it is.
fn random_name(prefix: &str, executable: &str, suffix: &str) -> String {
    format!("{prefix}{}-{}-{:016x}{suffix}", program(executable), std::process::id(), random_number())
}

/// The program's name as it appears in its files'.
fn program(executable: &str) -> String {
    let name = Path::new(executable).file_name().map(|name| name.to_string_lossy().into_owned());
    name.unwrap_or_default().chars().filter(char::is_ascii_alphanumeric).take(32).collect()
}

/// A number that other processes cannot guess: std seeds this hasher from the system's random source.
fn random_number() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    let mut hasher = std::hash::RandomState::new().build_hasher();
    hasher.write_u32(std::process::id());
    hasher.finish()
}

/// `NoSpace` or `Io`.
pub(super) fn failed(doing: &'static str, path: &Path, source: io::Error) -> StoreError {
    if file::is_no_space(&source) {
        StoreError::NoSpace { path: path.to_owned(), source }
    } else {
        StoreError::Io { doing, path: path.to_owned(), source }
    }
}
