//! Which files are old stores, and which of them are cleared away.
//!
//! Promises: a file is removed only if it is of the same user and the same program and its process is proved to be gone, or to
//! be this one before an `exec`. Of stores the newest two stay. A file without a word in it, which somebody was killed
//! over, says by its name alone whose it is: that process must be gone, and the file a minute old, since a number that is
//! free here may be a process in another pid namespace.

use super::{MAKING_PREFIX, MAKING_SUFFIX, PREFIX, SUFFIX, failed, program};
use crate::store::error::StoreError;
use crate::store::identity::{self, Identity};
use crate::store::reader::{self, Summary};
use crate::sys::file::{self, FileId};
use std::fs::{self, Metadata};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Old stores that stay.
const KEPT: usize = 2;
/// A header takes milliseconds.
const LONGEST_MAKING: Duration = Duration::from_secs(60);

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

/// Who has the name `path`: nobody, or an old store, which may be moved away. Anybody else is an error.
pub(super) fn occupant(path: &Path, executable: &str) -> Result<Option<FileId>, StoreError> {
    // Which file it is comes before what it is: if another takes its place between the two, who moves it finds that it is not
    // the one that was judged.
    let id = match file::id_at(path) {
        Ok(id) => id,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed("creating the store", path, error)),
    };
    match old_store(path, executable) {
        Old::Gone(_) | Old::Finished => Ok(Some(id)),
        Old::Running(pid) => Err(StoreError::Exists { path: path.to_owned(), writer: Some(pid) }),
        // It went while it was looked at.
        Old::Foreign if file::id_at(path).map_or(true, |now| now != id) => Ok(None),
        Old::Foreign => Err(StoreError::Exists { path: path.to_owned(), writer: None }),
    }
}

/// Is it of this process, before it called `exec`? That keeps what tells a process from others, and takes our files and mappings away.
/// Another copy of this library in this process has its store mapped, and open unless the program has closed it.
fn is_left_by_exec(identity: &Identity, path: &Path) -> bool {
    *identity == Identity::own() && fs::symlink_metadata(path).is_ok_and(|found| file::has_open(&found) == Some(false))
}

/// Removes old stores from `directory`, but for the newest, and what is unfinished. Errors don't matter: what cannot be
/// removed stays.
pub(super) fn clear(directory: &Path, executable: &str) {
    let mut old = Vec::new();
    for (path, name) in files(directory) {
        if is_unfinished(&path, &name, executable) {
            let _ = fs::remove_file(path);
        } else if name.starts_with(PREFIX)
            && name.ends_with(SUFFIX)
            && let Old::Gone(started) = old_store(&path, executable)
        {
            old.push((started, path));
        }
    }
    old.sort_unstable_by(|a, b| b.cmp(a));
    for (_, path) in old.iter().skip(KEPT) {
        let _ = fs::remove_file(path);
    }
}

/// Removes from `directory` what others were killed over before it had its name.
pub(super) fn clear_unfinished(directory: &Path, executable: &str) {
    for (path, name) in files(directory) {
        if name.starts_with(MAKING_PREFIX) && is_unfinished(&path, &name, executable) {
            let _ = fs::remove_file(path);
        }
    }
}

fn files(directory: &Path) -> impl Iterator<Item = (PathBuf, String)> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| (entry.path(), entry.file_name().to_string_lossy().into_owned()))
}

/// Was its maker killed before it was a store with a name?
fn is_unfinished(path: &Path, name: &str, executable: &str) -> bool {
    let Some(maker) = maker(name, executable) else { return false };
    let Ok(found) = fs::symlink_metadata(path) else { return false };
    if !(found.is_file() && file::is_own(&found) && is_aged(&found) && identity::is_free(maker)) {
        return false;
    }
    // The magic is the first word, and comes last. Whole, but not named yet, it is nobody's evidence either.
    is_blank(path, &found) || name.starts_with(MAKING_PREFIX) && matches!(old_store(path, executable), Old::Gone(_))
}

/// The process in a name that `random_name` made for this program.
fn maker(name: &str, executable: &str) -> Option<u32> {
    let stem = match name.strip_prefix(MAKING_PREFIX) {
        Some(rest) => rest.strip_suffix(MAKING_SUFFIX)?,
        None => name.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?,
    };
    let mut parts = stem.split('-');
    let (program_found, pid, number) = (parts.next()?, parts.next()?, parts.next()?);
    let is_number = number.len() == 16 && u64::from_str_radix(number, 16).is_ok();
    if parts.next().is_some() || !is_number || program_found != program(executable) {
        return None;
    }
    pid.parse().ok()
}

fn is_aged(found: &Metadata) -> bool {
    let age = found.modified().ok().and_then(|changed| changed.elapsed().ok());
    age.is_some_and(|age| age >= LONGEST_MAKING)
}

/// Does it begin with nothing?
fn is_blank(path: &Path, found: &Metadata) -> bool {
    let mut magic = [0; 8];
    let begins = |magic: &mut [u8]| file::open_to_read(path).and_then(|file| file::read_exact_at(&file, magic, 0));
    found.len() == 0 || begins(&mut magic).is_ok() && magic == [0; 8]
}
