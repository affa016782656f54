//! Names of stores: whose a name is, who gets it, and what is never moved or replaced.

use super::space::rewrite;
use super::*;
use crate::store::error::StoreError;
use crate::store::picture::Life;
use crate::store::reader;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Barrier;
use std::time::{Duration, SystemTime};

/// An empty directory of our own, gone when this is dropped.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Directory {
        let path = std::env::temp_dir().join(format!("unfreed-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).expect("a directory");
        Directory(path)
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(&self.0)
            .expect("ours")
            .flatten()
            .map(|file| file.file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn small(place: Place, started_unix_ns: u64) -> StoreOptions {
    StoreOptions { bound_bytes: 256 << 10, started_unix_ns, ..options(place) }
}

/// A store at `path` of a process that is gone.
fn leave_old(path: &Path, started_unix_ns: u64) {
    let store = Store::create(&small(Place::Path(path.to_owned()), started_unix_ns)).expect("a store");
    let copy = path.with_file_name("copy");
    fs::copy(path, &copy).expect("a copy");
    store.finish(false);
    fs::rename(copy, path).expect("its name is free");
    rewrite(path, 9, |start_time| start_time + 1);
}

fn started(path: &Path) -> u64 {
    reader::summary(path).expect("a store").started_unix_ns
}

#[test]
fn a_users_file_is_never_replaced() {
    let directory = Directory::new("aside");
    let path = directory.0.join("named");
    let (letter, running) = (directory.0.join("named.old"), directory.0.join("named.old.1"));
    fs::write(&letter, b"a letter").expect("a file");
    let other = Store::create(&small(Place::Path(running.clone()), 7)).expect("a store");
    for round in 1..=2 {
        leave_old(&path, round);
        let store = Store::create(&small(Place::Path(path.clone()), 100 + round)).expect("a store");
        assert_eq!(fs::read(&letter).expect("there"), b"a letter");
        assert_eq!((started(&path), started(&running)), (100 + round, 7));
        assert_eq!(started(&directory.0.join("named.old.2")), round, "old ones replace each other");
        store.finish(false);
    }
    assert_eq!(directory.names(), ["named.old", "named.old.1", "named.old.2"]);
    // All names are somebody else's.
    for number in 2..10 {
        fs::write(directory.0.join(format!("named.old.{number}")), b"a letter").expect("a file");
    }
    leave_old(&path, 3);
    let refused = Store::create(&small(Place::Path(path.clone()), 103)).map(|_| ()).expect_err("no name");
    assert!(refused.to_string().contains("named.old"), "{refused}");
    assert_eq!(started(&path), 3, "it is where it was");
    assert_eq!(directory.names().len(), 11, "{:?}", directory.names());
    other.finish(false);
}

/// Where a look and a rename were two steps, about every round lost the old store or gave the name twice.
#[test]
fn of_many_starts_one_gets_the_name() {
    const AT_ONCE: usize = 4;
    let directory = Directory::new("race");
    let (path, aside) = (directory.0.join("named"), directory.0.join("named.old"));
    let old = directory.0.join("template");
    leave_old(&old, 5);
    for round in 0..100 {
        fs::copy(&old, &path).expect("a copy");
        rewrite(&path, 17, |_| round);
        let together = Barrier::new(AT_ONCE);
        let made: Vec<_> = std::thread::scope(|scope| {
            let start = || {
                together.wait();
                Store::create(&small(Place::Path(path.clone()), 1_000))
            };
            let starts: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(start)).collect();
            starts.into_iter().map(|start| start.join().expect("no panic")).collect()
        });
        let refused = |made: &Result<Store, StoreError>| matches!(made, Err(StoreError::Exists { .. }));
        assert_eq!(made.iter().filter(|made| refused(made)).count(), AT_ONCE - 1, "{round}: {made:?}");
        assert_eq!((started(&path), started(&aside)), (1_000, round), "the new one is named, the old one kept");
        for store in made.into_iter().flatten() {
            store.finish(false);
        }
        assert_eq!(directory.names(), ["named.old", "template"]);
    }
}

#[test]
fn a_store_has_its_name_when_it_is_whole() {
    let directory = Directory::new("whole");
    let path = directory.0.join("named");
    let store = Store::create(&small(Place::Path(path.clone()), 1)).expect("a store");
    assert_eq!(directory.names(), ["named"], "its first name is gone");
    assert!(matches!(reader::read(&path), Ok(picture) if picture.life == Life::Running));
    store.finish(false);
    assert!(directory.names().is_empty());
}

#[test]
fn who_was_killed_in_the_making_blocks_nobody() {
    let directory = Directory::new("making");
    let store = Store::create(&small(Place::Directory(directory.0.clone()), 1)).expect("a store");
    let made = store.path().and_then(Path::file_name).expect("a name").to_string_lossy().into_owned();
    store.finish(false);
    let (own, free) = (std::process::id().to_string(), "4294967295");
    let leave = |name: &str, bytes: &[u8], age: u64| {
        let file = fs::File::create(directory.0.join(name)).expect("a file");
        std::os::unix::fs::FileExt::write_all_at(&file, bytes, 0).expect("written");
        file.set_modified(SystemTime::now() - Duration::from_secs(age)).expect("ours");
    };
    let hidden = |name: &str| format!(".{}", name.replace(".unfreed", ".tmp"));
    let left = made.replace(&format!("-{own}-"), &format!("-{free}-"));
    let (young, alive) = (left.replace(free, "4294967294"), made.clone());
    let (foreign, unrelated) = (left.replace("unfreed-", "unfreed-x"), left.replace(free, "4294967293"));
    for name in [&left, &foreign, &alive] {
        leave(name, &[0; 4096], 120);
        leave(&hidden(name), &[], 120);
    }
    leave(&young, &[0; 4096], 1);
    leave(&hidden(&young), &[0; 4096], 1);
    leave(&unrelated, b"a letter", 120);
    leave(&hidden(&unrelated), b"a letter", 120);
    let before = directory.names();
    // A named start clears what is hidden; one in the directory all of it.
    let path = directory.0.join("named");
    Store::create(&small(Place::Path(path.clone()), 2)).expect("not blocked").finish(false);
    let expected: Vec<_> = before.iter().filter(|&name| *name != hidden(&left)).cloned().collect();
    assert_eq!(directory.names(), expected);
    Store::create(&small(Place::Directory(directory.0.clone()), 3)).expect("a store").finish(false);
    let expected: Vec<_> = expected.into_iter().filter(|name| *name != left).collect();
    assert_eq!(directory.names(), expected);
    // What is no store, or not yet, is said to be that.
    fs::write(&path, [0; 4096]).expect("a file");
    let refused = Store::create(&small(Place::Path(path), 4)).map(|_| ()).expect_err("taken");
    assert!(refused.to_string().contains("just being made"), "{refused}");
}
