//! The store's descriptor, whose number may have become another file's: a program that closes all descriptors closes
//! ours, and gets its number for a file of its own.
//!
//! Promises: the descriptor is used only while it leads to the file that was created; one that does not is neither
//! written to, nor given length, nor closed, and never trusted again. Which file it is stays known: its name can be
//! removed without the descriptor. Allocates nothing.
//!
//! Not to be seen from here: another thread that replaces the descriptor between our look and our use of it.

use crate::sys::file::{self, FileId};
use crate::sys::sync::{AtomicBool, Ordering};
use std::fs::File;
use std::io;
use std::path::Path;

/// An open file that was created by us.
#[derive(Debug)]
pub(super) struct HeldFile {
    /// `None` in `drop` alone.
    file: Option<File>,
    id: FileId,
    /// The descriptor was found to lead elsewhere. It stays so: if the program opens the store by itself, the number may come to
    /// lead to it again, and is the program's.
    is_lost: AtomicBool,
}

impl HeldFile {
    /// Holds `file`, which was opened just now.
    pub(super) fn new(file: File) -> io::Result<HeldFile> {
        let id = file::id(&file)?;
        Ok(HeldFile { file: Some(file), id, is_lost: AtomicBool::new(false) })
    }

    /// The file, if the descriptor still leads to it.
    pub(super) fn file(&self) -> io::Result<&File> {
        // Relaxed: a hint among threads; each of them looks for itself.
        if let Some(file) = &self.file
            && !self.is_lost.load(Ordering::Relaxed)
        {
            if file::id(file).is_ok_and(|id| id == self.id) {
                return Ok(file);
            }
            self.is_lost.store(true, Ordering::Relaxed);
        }
        Err(file::lost())
    }

    /// `file::allocate`, for as long as the descriptor leads to the file.
    pub(super) fn allocate(&self, offset: u64, bytes: u64) -> io::Result<()> {
        file::allocate(|| self.file(), offset, bytes)
    }

    /// Is `path` a name of this file, and no link to it? The file must be open or mapped: its number is another's later.
    pub(super) fn is_named(&self, path: &Path) -> bool {
        file::id_at(path).is_ok_and(|id| id == self.id)
    }
}

impl Drop for HeldFile {
    fn drop(&mut self) {
        let is_ours = self.file().is_ok();
        if let Some(file) = self.file.take()
            && !is_ours
        {
            // The number is somebody else's, or nobody's: nothing to close.
            std::mem::forget(file);
        }
    }
}
