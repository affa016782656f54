//! A new store takes its name, and what lay there before is moved aside to `NAME.old`.
//!
//! Promises: nothing is moved away but the very file that was judged to be an old store (`old`). Who moves it holds its lock
//! (flock), so that no other start moves it meanwhile, and as long as it has the name no new store gets it; whatever else
//! was found in its place, by other programs' doing, is put back. What lies at `NAME.old` is replaced only if it is an old store itself; else the
//! next of a few names is taken, and if somebody has them all, the start is refused. Killed between two steps, it leaves
//! the old store under a name of its own beside them.
//!
//! On file systems without locks two starts can come between each other's steps. On those that know neither renames that
//! replace nothing nor hard links, the name is held by an empty file for a moment.

use super::{PREFIX, SUFFIX, failed, old, random_name};
use crate::store::error::StoreError;
use crate::sys::file::{self, FileId};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// How often a name is tried for that others take or leave meanwhile.
const TRIES: u32 = 1000;
/// `NAME.old`, then `NAME.old.1` and so on.
const NAMES: u32 = 8;

/// Gives the store at `making` the name `path`.
pub(super) fn settle(making: &Path, path: &Path, executable: &str) -> Result<(), StoreError> {
    for _ in 0..TRIES {
        match file::rename_new(making, path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            result => return result.map_err(|error| failed("naming the store", path, error)),
        }
        if let Some(judged) = old::occupant(path, executable)? {
            set_aside(path, judged, executable)?;
        }
    }
    Err(failed("naming the store", path, io::ErrorKind::AlreadyExists.into()))
}

/// Moves the file at `path` to `NAME.old`, if it is still the one that was judged.
fn set_aside(path: &Path, judged: FileId, executable: &str) -> Result<(), StoreError> {
    let failed = |error| failed("moving aside the old store", path, error);
    let Some(taken) = take(path, judged, executable).map_err(failed)? else { return Ok(()) };
    for number in 0..NAMES {
        match put(&taken, &aside(path, number), executable) {
            Ok(true) => return Ok(()),
            Ok(false) => {}
            Err(error) => {
                let _ = file::rename_new(&taken, path);
                return Err(failed(error));
            }
        }
    }
    let _ = file::rename_new(&taken, path);
    Err(StoreError::Exists { path: aside(path, 0), writer: None })
}

fn aside(path: &Path, number: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".old");
    if number > 0 {
        name.push(format!(".{number}"));
    }
    name.into()
}

/// Takes a file away to a name that is ours alone, if it is the one that was judged and nobody else is about to.
fn take(path: &Path, judged: FileId, executable: &str) -> io::Result<Option<PathBuf>> {
    let held = file::open_to_read(path);
    if let Ok(held) = &held
        && !file::try_lock(held)
    {
        std::thread::yield_now();
        return Ok(None);
    }
    if file::id_at(path).map_or(true, |id| id != judged) {
        return Ok(None);
    }
    let taken = path.with_file_name(random_name(PREFIX, executable, SUFFIX));
    match file::rename_new(path, &taken) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        result => result?,
    }
    if file::id_at(&taken).is_ok_and(|id| id == judged) {
        return Ok(Some(taken));
    }
    // Somebody's who was faster. If the name is another's already it stays where it is: nothing is lost.
    let _ = file::rename_new(&taken, path);
    Ok(None)
}

/// Puts `taken` at `name`, in place of nothing or of an older store.
fn put(taken: &Path, name: &Path, executable: &str) -> io::Result<bool> {
    match file::rename_new(taken, name) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        result => return result.map(|()| true),
    }
    let Ok(Some(judged)) = old::occupant(name, executable) else { return Ok(false) };
    let Some(older) = take(name, judged, executable)? else { return Ok(false) };
    if file::rename_new(taken, name).is_ok() {
        let _ = fs::remove_file(older);
        return Ok(true);
    }
    let _ = file::rename_new(&older, name);
    Ok(false)
}
