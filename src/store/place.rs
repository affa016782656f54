//! Where a store's file lies, what it is called, and which old ones are cleared away.
//!
//! Promises: no file is overwritten and no link followed; a file is removed only if it is a store of the same user and
//! the same program whose process is proved to be gone, or to be this one before an `exec`, and the newest two of those stay. A
//! named path that holds such an old store, or one whose profile has ended, is moved aside to `NAME.old`, never lost to a
//! restart. Paths are absolute: they mean the same when the program has changed its directory.

use crate::store::error::StoreError;
use crate::store::held::HeldFile;
use crate::store::identity::Identity;
use crate::store::reader::{self, Summary};
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

/// Old stores that stay.
const KEPT: usize = 2;
const PREFIX: &str = "unfreed-";
const SUFFIX: &str = ".unfreed";
const SHARED_MEMORY: &str = "/dev/shm";

/// A new file and its name; `None` where the store is to be in memory only.
pub(super) fn create(place: &Place, executable: &str) -> Result<Option<(HeldFile, PathBuf)>, StoreError> {
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

fn create_new(path: &Path) -> io::Result<HeldFile> {
    file::create_private(path).and_then(HeldFile::new)
}

fn named(path: &Path, executable: &str) -> Result<(HeldFile, PathBuf), StoreError> {
    match create_new(path) {
        Ok(file) => return Ok((file, path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(failed("creating the store", path, error)),
    }
    match old_store(path, executable) {
        Old::Gone(_) | Old::Finished => {
            let mut aside = path.as_os_str().to_owned();
            aside.push(".old");
            fs::rename(path, &aside).map_err(|error| failed("moving aside the old store", path, error))?;
            let file = create_new(path).map_err(|error| failed("creating the store", path, error))?;
            Ok((file, path.to_owned()))
        }
        Old::Running(pid) => Err(StoreError::Exists { path: path.to_owned(), writer: Some(pid) }),
        Old::Foreign => Err(StoreError::Exists { path: path.to_owned(), writer: None }),
    }
}

fn random(directory: &Path, executable: &str) -> Result<(HeldFile, PathBuf), StoreError> {
    clear_old(directory, executable);
    let program = Path::new(executable).file_name().map(|name| name.to_string_lossy().into_owned());
    let program: String = program.unwrap_or_default().chars().filter(char::is_ascii_alphanumeric).take(32).collect();
    let mut last = io::Error::from(io::ErrorKind::AlreadyExists);
    for _ in 0..8 {
        let name = format!("{PREFIX}{program}-{}-{:016x}{SUFFIX}", std::process::id(), random_number());
        let path = directory.join(name);
        match create_new(&path) {
            Ok(file) => return Ok((file, path)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => last = error,
            Err(error) => return Err(failed("creating the store", &path, error)),
        }
    }
    Err(failed("creating the store", directory, last))
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

enum Old {
    /// Ours, and its process is gone: when it started, nanoseconds since 1970.
    Gone(u64),
    /// Ours; its profile has ended, its process has not.
    Finished,
    /// A store whose process lives, or may live.
    Running(u32),
    /// Not a store, not this user's, or not this program's.
    Foreign,
}

fn old_store(path: &Path, executable: &str) -> Old {
    let ours = fs::symlink_metadata(path).is_ok_and(|found| found.is_file() && file::is_own(&found));
    match reader::summary(path) {
        Ok(Summary { executable: found, identity, started_unix_ns, is_finished }) if ours && found == executable => {
            if identity.is_gone() || !is_finished && is_left_by_exec(&identity, path) {
                Old::Gone(started_unix_ns)
            } else if is_finished {
                Old::Finished
            } else {
                Old::Running(identity.pid)
            }
        }
        Ok(Summary { identity, .. }) if !identity.is_gone() => Old::Running(identity.pid),
        _ => Old::Foreign,
    }
}

/// Is it of this process, before it called `exec`? That keeps what tells a process from others, and closes our files.
/// Another copy of this library in this process has its store open.
fn is_left_by_exec(identity: &Identity, path: &Path) -> bool {
    *identity == Identity::own() && fs::symlink_metadata(path).is_ok_and(|found| file::has_open(&found) == Some(false))
}

/// Removes old stores of this user and program from `directory`, but for the newest. Errors don't matter: what cannot
/// be removed stays.
fn clear_old(directory: &Path, executable: &str) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    let mut old = Vec::new();
    for entry in entries.flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if !(name.starts_with(PREFIX) && name.ends_with(SUFFIX)) {
            continue;
        }
        let path = entry.path();
        if let Old::Gone(started) = old_store(&path, executable) {
            old.push((started, path));
        }
    }
    old.sort_unstable_by(|a, b| b.cmp(a));
    for (_, path) in old.iter().skip(KEPT) {
        let _ = fs::remove_file(path);
    }
}
