//! A store file as the public sees it: of a running, finished or killed process.

use std::path::{Path, PathBuf};

use super::Snapshot;
use crate::store::StoreError;
use crate::store::picture::{Life, Picture};
use crate::store::reader;

/// The store of a running, finished or killed process, opened for reading.
///
/// ```no_run
/// let snapshot = unfreed::Store::open("/dev/shm/app.unfreed")?.snapshot();
/// println!("{} bytes live", snapshot.totals().live_bytes);
/// # Ok::<(), unfreed::StoreError>(())
/// ```
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    picture: Picture,
}

impl Store {
    /// Opens and validates the store at `path`: reads it whole, into memory bounded by its size; every offset and count
    /// is checked. What a killed process had recorded but not yet attributed is attributed here.
    ///
    /// # Errors
    /// What is wrong with the file: not a store, another version, too short, a corrupt field (named), or the system's.
    pub fn open(path: impl AsRef<Path>) -> Result<Store, StoreError> {
        let _inside = crate::hook::inside();
        let path = path.as_ref().to_owned();
        let picture = reader::read(&path)?;
        Ok(Store { path, picture })
    }

    /// The profile that it holds: of a running process its last closed epoch, read anew at each call; of a finished or
    /// killed one the last state.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let _inside = crate::hook::inside();
        if self.picture.life == Life::Running
            && let Ok(picture) = reader::read(&self.path)
        {
            return Snapshot::from_picture(picture);
        }
        Snapshot::from_picture(self.picture.clone())
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}
