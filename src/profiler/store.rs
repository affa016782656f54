//! The store of the profile that runs: created where it was asked for, lent to all who write to it, ended once.
//!
//! Promises: a place that fails is no reason not to start: the store is in memory then, which is said once on stderr. It stays where
//! it is until `end`, which `stop` calls when nobody can reach it any more.

#![allow(unsafe_code, reason = "a store that is lent for as long as it runs")]

use crate::config::{Config, StorePlace};
use crate::error::Error;
use crate::store::{Place, Store, StoreOptions};
use crate::sys::process;

/// A store of these options where the configuration says.
pub(super) fn create(config: &Config, mut options: StoreOptions) -> Result<&'static Store, Error> {
    options.place = place_of(config);
    Ok(Box::leak(Box::new(create_somewhere(&mut options)?)))
}

/// Ends what `create` made; its file stays where `keep`. Once, when nobody can reach the store: after `link::disconnect`, with no
/// thread inside.
pub(super) fn end(store: &'static Store, keep: bool) {
    // SAFETY: leaked by `create`, ended once; nobody can reach it since `disconnect` and `quiesce`.
    let store = unsafe { Box::from_raw(std::ptr::from_ref(store).cast_mut()) };
    store.finish(keep);
}

/// Where the store is to be: as configured, else where the environment says.
fn place_of(config: &Config) -> Place {
    match &config.store {
        StorePlace::Path(path) => Place::Path(path.clone()),
        StorePlace::Memory => Place::Memory,
        StorePlace::Default => match crate::config::store_directory() {
            Some(directory) => Place::Directory(directory),
            None => Place::Default,
        },
    }
}

/// A store where it was asked for; else in memory only, which is said once: a service that runs without its file is
/// better than one that does not run.
fn create_somewhere(options: &mut StoreOptions) -> Result<Store, Error> {
    let asked = options.place.clone();
    match Store::create(options) {
        Ok(store) => {
            if store.path().is_none() && asked != Place::Memory {
                process::say(
                    "unfreed: no shared memory file system at /dev/shm: the profile is in memory only and is gone if \
                     the process is killed; set UNFREED_DIR to a tmpfs directory\n",
                );
            }
            Ok(store)
        }
        Err(error) if asked != Place::Memory => {
            process::say(&format!(
                "unfreed: {error}; the profile is in memory only and is gone if the process is killed\n"
            ));
            options.place = Place::Memory;
            Store::create(options).map_err(Error::Store)
        }
        Err(error) => Err(Error::Store(error)),
    }
}
