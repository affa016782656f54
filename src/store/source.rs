//! Where a store's bytes come from: a file, or a piece of memory. Read by position, never mapped: a file that is cut
//! off while it is read gives an error, not a bus error.

use crate::store::error::StoreError;
use crate::sys::file;
use std::fs::File;
use std::path::PathBuf;

/// Bytes at positions.
pub(crate) trait Source {
    /// How many there are.
    fn bytes(&self) -> u64;

    /// Fills `buffer` from `offset`, or says why not.
    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), StoreError>;
}

/// An open file.
#[derive(Debug)]
pub(crate) struct FileSource {
    pub(crate) file: File,
    pub(crate) path: PathBuf,
    pub(crate) bytes: u64,
}

impl Source for FileSource {
    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), StoreError> {
        file::read_exact_at(&self.file, buffer, offset).map_err(|source| {
            if source.kind() == std::io::ErrorKind::UnexpectedEof {
                let bytes = self.file.metadata().map_or(0, |found| found.len());
                return StoreError::Truncated { bytes, expected: offset.saturating_add(buffer.len() as u64) };
            }
            StoreError::Io { doing: "reading the store", path: self.path.clone(), source }
        })
    }
}

impl Source for [u8] {
    fn bytes(&self) -> u64 {
        self.len() as u64
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), StoreError> {
        let expected = offset.saturating_add(buffer.len() as u64);
        let range = usize::try_from(offset).ok().and_then(|from| self.get(from..)?.get(..buffer.len()));
        let Some(range) = range else { return Err(StoreError::Truncated { bytes: self.bytes(), expected }) };
        buffer.copy_from_slice(range);
        Ok(())
    }
}
