//! Files are read; none is created or mapped.

use std::ffi::CStr;
use std::fs::{File, Metadata};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom};
use std::path::Path;
use std::ptr::NonNull;

pub(crate) fn create_private(_: &Path) -> io::Result<File> {
    Err(ErrorKind::Unsupported.into())
}

pub(crate) fn open_to_read(path: &Path) -> io::Result<File> {
    File::open(path)
}

/// Moves the file's cursor: one reader at a time, as each has opened its own.
pub(crate) fn read_exact_at(mut file: &File, buffer: &mut [u8], offset: u64) -> io::Result<()> {
    file.seek(SeekFrom::Start(offset))?;
    file.read_exact(buffer)
}

pub(crate) fn is_own(_: &Metadata) -> bool {
    false
}

pub(crate) fn inode(_: &Metadata) -> u64 {
    0
}

/// None is told from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileId;

impl From<&Metadata> for FileId {
    fn from(_: &Metadata) -> FileId {
        FileId
    }
}

pub(crate) fn id(_: &File) -> io::Result<FileId> {
    Err(ErrorKind::Unsupported.into())
}

pub(crate) fn id_at(_: &Path) -> io::Result<FileId> {
    Err(ErrorKind::Unsupported.into())
}

pub(crate) fn lost() -> io::Error {
    ErrorKind::Unsupported.into()
}

pub(crate) fn rename_new(_: &Path, _: &Path) -> io::Result<()> {
    Err(ErrorKind::Unsupported.into())
}

pub(crate) fn try_lock(_: &File) -> bool {
    false
}

pub(crate) fn has_open(_: &Metadata) -> Option<bool> {
    None
}

pub(crate) fn memory_file(_: &CStr) -> io::Result<File> {
    Err(ErrorKind::Unsupported.into())
}

pub(crate) fn is_tmpfs(_: &Path) -> bool {
    false
}

pub(crate) fn user() -> u32 {
    0
}

pub(crate) fn size_limit() -> u64 {
    0
}

pub(crate) fn allocate<'a>(_: impl Fn() -> io::Result<&'a File>, _: u64, _: u64) -> io::Result<()> {
    Err(ErrorKind::Unsupported.into())
}

pub(crate) fn is_no_space(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::OutOfMemory)
}

/// There is none.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Reserved {}

impl Reserved {
    pub(crate) fn new(_: usize) -> io::Result<Reserved> {
        Err(ErrorKind::Unsupported.into())
    }

    pub(crate) fn base(&self) -> NonNull<u8> {
        match *self {}
    }

    pub(crate) fn bytes(&self) -> usize {
        match *self {}
    }

    /// # Safety
    /// None: it can't be called.
    pub(crate) unsafe fn lay_over(&self, _: usize, _: Option<&File>) -> io::Result<()> {
        match *self {}
    }
}
