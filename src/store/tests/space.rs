//! Where space ends: bounds that are reached and said, never a signal that kills.

use super::*;
use crate::store::attribution::Attribution;
use crate::store::error::StoreError;
use crate::store::layout::Region;
use crate::store::picture::Life;
use crate::store::reader;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Runs the ignored test `name` of this file in a shell, after `before`.
fn child(name: &str, before: &str, path: &Path) -> Output {
    let script =
        format!("{before} exec \"$0\" --ignored --exact --nocapture --test-threads=1 store::tests::space::{name}");
    Command::new("sh")
        .args(["-c", &script])
        .arg(std::env::current_exe().expect("the test program"))
        .env("UNFREED_TEST_STORE", path)
        .output()
        .expect("sh(1)")
}

fn assert_passed(output: &Output) {
    let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    print!("{text}");
    assert!(output.status.success() && text.contains("1 passed"), "{:?}\n{text}\n{errors}", output.status);
}

/// Where a child's store is to be; `None` where it was not started by its parent, and so has nothing to show.
fn child_path() -> Option<PathBuf> {
    std::env::var_os("UNFREED_TEST_STORE").map(PathBuf::from)
}

fn birth(stack: StackId) -> Record {
    Record {
        at: BASE,
        kind: Kind::Alloc,
        stack,
        interval: IntervalCode::EXACT,
        size: 8,
        old_size: 0,
        old_interval: IntervalCode::EXACT,
        birth: Ticks(0),
        carried: 0.0,
    }
}

/// Takes nodes, rows and rings until the store gives no more; gives the number of stacks. Touches all that it is given.
fn fill(store: &Store) -> u64 {
    let tables = store.tables();
    let mut attribution = Attribution::new(BASE, 0);
    let mut stacks = 0;
    for round in 0..100_000 {
        store.lay_out_ahead();
        let (nodes, rows) = (tables.used(Region::Nodes), tables.used(Region::Sites));
        while let Some(ring) = store.claim_ring(1) {
            let mut producer = store.ring(ring).expect("its words").producer();
            while producer.push(&birth(StackId::ROOT)).is_ok() {}
        }
        while tables.used(Region::Nodes) < tables.laid_out(Region::Nodes)
            && tables.used(Region::Sites) < tables.laid_out(Region::Sites)
        {
            let stack = add_stack(&tables, StackId::ROOT, 100 + stacks);
            attribution.apply(&tables, &birth(stack), None, &mut ());
            stacks += 1;
        }
        if (nodes, rows) == (tables.used(Region::Nodes), tables.used(Region::Sites)) && round > 0 {
            return stacks;
        }
    }
    panic!("it never ends");
}

#[test]
#[ignore = "the child of `a_file_size_limit_is_a_bound`"]
fn with_a_limit() {
    let Some(path) = child_path() else { return };
    let options = StoreOptions { bound_bytes: 32 << 20, ring_records: 128, ..options(Place::Path(path.clone())) };
    let store = Store::create(&StoreOptions { exact_mode: false, ..options.clone() }).expect("4 MiB are enough");
    assert!(std::fs::metadata(&path).expect("its file").len() <= 4 << 20);
    let stacks = fill(&store);
    assert!(stacks > 1_000, "{stacks}");
    assert!(store.bound_reached());
    store.finish(true);
    let picture = reader::read(&path).expect("a sound store");
    assert_eq!(picture.sites.len() as u64, stacks + 1);
    std::fs::remove_file(path).expect("kept");
}

#[test]
#[ignore = "the child of `a_file_size_limit_is_a_bound`"]
fn with_a_tiny_limit() {
    let Some(path) = child_path() else { return };
    let refused = Store::create(&options(Place::Path(path.clone()))).map(|_| ());
    assert!(matches!(refused, Err(StoreError::NoSpace { .. })), "{refused:?}");
    assert!(!path.exists(), "what could not be made is not left behind");
    let store = Store::create(&options(Place::Memory)).expect("memory is no file");
    assert!(fill(&store) > 100);
}

/// Passing the limit would raise SIGXFSZ, which kills.
#[test]
fn a_file_size_limit_is_a_bound() {
    // In blocks of 512 bytes.
    assert_passed(&child("with_a_limit", "ulimit -f 8192;", &temporary("limit")));
    assert_passed(&child("with_a_tiny_limit", "ulimit -f 100;", &temporary("tiny-limit")));
}

#[test]
#[ignore = "the child of `a_full_file_system_is_a_bound`"]
fn on_a_small_file_system() {
    let Some(directory) = child_path() else { return };
    let sampled = StoreOptions {
        bound_bytes: 32 << 20,
        ring_records: 128,
        exact_mode: false,
        ..options(Place::Directory(directory.clone()))
    };
    let store = Store::create(&sampled).expect("3 MiB are enough to begin with");
    let path = store.path().expect("a file").to_owned();
    // Somebody else takes the rest: from here on touching unallocated space would be a bus error.
    let _ = std::fs::write(directory.join("filler"), vec![1; 8 << 20]);
    let stacks = fill(&store);
    println!("{stacks} stacks");
    assert!(stacks > 500, "{stacks}");
    assert!(store.bound_reached());
    let refused = Store::create(&StoreOptions { place: Place::Path(directory.join("another")), ..sampled }).map(|_| ());
    assert!(matches!(refused, Err(StoreError::NoSpace { .. })), "{refused:?}");
    assert!(refused.expect_err("no space").to_string().contains("UNFREED_DIR"));
    assert!(!directory.join("another").exists());
    store.finish(true);
    let picture = reader::read(&path).expect("a sound store");
    assert_eq!((picture.life, picture.sites.len() as u64), (Life::Finished, stacks + 1));
}

#[test]
fn a_full_file_system_is_a_bound() {
    let directory = std::env::temp_dir().join(format!("unfreed-small-{}", std::process::id()));
    std::fs::create_dir_all(&directory).expect("a directory");
    // In a mount namespace of its own, which root has, and others where user namespaces are allowed.
    let mount = "mount -t tmpfs -o size=3m none \"$UNFREED_TEST_STORE\" ||  exit 77;";
    let unshare = "test -n \"$UNSHARED\" || UNSHARED=1 exec unshare -r -m sh -c";
    let script = format!(
        "{mount} exec \"$0\" --ignored --exact --nocapture --test-threads=1 store::tests::space::on_a_small_file_system"
    );
    let output = Command::new("sh")
        .args(["-c", &format!("{unshare} '{script}' \"$0\"")])
        .arg(std::env::current_exe().expect("the test program"))
        .env("UNFREED_TEST_STORE", &directory)
        .output()
        .expect("sh(1)");
    let _ = std::fs::remove_dir(&directory);
    let errors = String::from_utf8_lossy(&output.stderr);
    if output.status.code() == Some(77) || errors.contains("unshare") {
        eprintln!("NOT TESTED: a full file system, since no tmpfs can be mounted here: {errors}");
        return;
    }
    assert_passed(&output);
}

#[test]
fn old_stores_are_cleared_but_for_two() {
    let directory = std::env::temp_dir().join(format!("unfreed-old-{}", std::process::id()));
    std::fs::create_dir_all(&directory).expect("a directory");
    let in_directory = |started_unix_ns| StoreOptions {
        started_unix_ns,
        bound_bytes: 256 << 10,
        ..options(Place::Directory(directory.clone()))
    };
    let mut old = Vec::new();
    for started in 1..=4 {
        let store = Store::create(&in_directory(started)).expect("a store");
        old.push(store.path().expect("a file").to_owned());
        std::mem::forget(store);
    }
    // Running, as far as anyone can see: they stay.
    let store = Store::create(&in_directory(5)).expect("a store");
    assert!(old.iter().all(|path| path.exists()));
    let running = store.path().expect("a file").to_owned();
    // Now of a process that started at another time: gone.
    for path in &old {
        rewrite(path, 9, |start_time| start_time + 1);
    }
    // Not of this program: word 336 begins the executable's path.
    rewrite(&old[1], 336, |word| word ^ 1);
    let foreign = directory.join("unfreed-x.unfreed");
    std::fs::write(&foreign, b"no store").expect("a file");
    let store = Store::create(&in_directory(6)).expect("a store");
    let left: Vec<_> = old.iter().map(|path| path.exists()).collect();
    assert_eq!(left, [false, true, true, true], "of the three gone, the oldest goes");
    assert!(running.exists() && foreign.exists() && store.path().is_some_and(Path::exists));
    store.finish(false);
    std::fs::remove_dir_all(directory).expect("ours");
}

#[test]
fn a_named_store_is_moved_aside_not_lost() {
    let path = temporary("named");
    let aside = PathBuf::from(format!("{}.old", path.display()));
    let named = options(Place::Path(path.clone()));
    let store = Store::create(&named).expect("a store");
    let refused = Store::create(&named).map(|_| ());
    assert!(matches!(refused, Err(StoreError::Exists { writer: Some(_), .. })), "{refused:?}");
    std::mem::forget(store);
    rewrite(&path, 9, |start_time| start_time + 1);
    let store = Store::create(&named).expect("a new one");
    assert!(matches!(reader::read(&aside), Ok(picture) if picture.life == Life::Killed));
    store.finish(false);
    assert!(!path.exists());
    std::fs::remove_file(aside).expect("moved there");
    std::fs::write(&path, b"a letter").expect("a file");
    let refused = Store::create(&named).map(|_| ());
    assert!(matches!(refused, Err(StoreError::Exists { writer: None, .. })), "{refused:?}");
    assert_eq!(std::fs::read(&path).expect("untouched"), b"a letter");
    std::fs::remove_file(path).expect("ours");
}

/// `exec` keeps a process's number and time of birth, and takes its mappings and descriptors away: what it leaves looks
/// like a copy of a running store that nobody has open.
#[test]
fn what_an_exec_left_is_old() {
    let directory = std::env::temp_dir().join(format!("unfreed-exec-{}", std::process::id()));
    std::fs::create_dir_all(&directory).expect("a directory");
    let place = Place::Directory(directory.clone());
    let small = |place| StoreOptions { bound_bytes: 256 << 10, ..options(place) };
    let running = Store::create(&small(place.clone())).expect("a store");
    let (left, finished) = (directory.join("left"), directory.join("unfreed-finished.unfreed"));
    let copy = |name: &Path| std::fs::copy(running.path().expect("a file"), name).map(|_| ()).expect("a copy");
    let old: Vec<_> = (1..=4).map(|n| directory.join(format!("unfreed-{n}.unfreed"))).collect();
    for (n, path) in old.iter().enumerate() {
        copy(path);
        rewrite(path, 17, |_| n as u64);
    }
    // Of a profile of this process that ended: it was to be kept.
    copy(&finished);
    rewrite(&finished, 24, |_| 2);
    let another = Store::create(&small(place)).expect("a store");
    let stay: Vec<_> = old.iter().map(|path| path.exists()).collect();
    assert_eq!(stay, [false, false, true, true], "of four, the older two go");
    assert!(finished.exists() && running.path().is_some_and(Path::exists));
    another.finish(false);
    for (life, word) in [("left by an exec", 1), ("finished", 2)] {
        copy(&left);
        rewrite(&left, 24, |_| word);
        let store = Store::create(&small(Place::Path(left.clone()))).expect(life);
        assert!(directory.join("left.old").exists(), "{life}: moved aside");
        store.finish(false);
    }
    running.finish(false);
    std::fs::remove_dir_all(directory).expect("ours");
}

#[test]
fn the_end_removes_its_own_file_and_no_other() {
    let path = temporary("own");
    // A program that changes its directory means the same file.
    let up = std::env::current_dir().expect("a directory").components().count() - 1;
    let relative = PathBuf::from("../".repeat(up)).join(path.strip_prefix("/").expect("absolute"));
    let store = Store::create(&options(Place::Path(relative))).expect("a store");
    assert!(store.path().is_some_and(Path::is_absolute), "{:?}", store.path());
    std::fs::remove_file(&path).expect("there");
    std::fs::write(&path, b"a letter").expect("a file");
    store.finish(false);
    assert_eq!(std::fs::read(&path).expect("untouched"), b"a letter");
    std::fs::remove_file(path).expect("ours");
}

/// Changes one word of a file.
pub(super) fn rewrite(path: &Path, word: usize, change: impl Fn(u64) -> u64) {
    use std::os::unix::fs::FileExt;
    let file = std::fs::OpenOptions::new().read(true).write(true).open(path).expect("a file");
    let mut bytes = [0; 8];
    file.read_exact_at(&mut bytes, word as u64 * 8).expect("inside");
    let changed = change(u64::from_le_bytes(bytes));
    file.write_all_at(&changed.to_le_bytes(), word as u64 * 8).expect("inside");
}

/// In a process of its own: this one's other tests take ranges that were given back, and write into them.
#[test]
fn start_and_stop_in_a_loop_uses_the_same_addresses() {
    assert_passed(&child("in_a_loop", "", &temporary("loop")));
}

#[test]
#[ignore = "the child of `start_and_stop_in_a_loop_uses_the_same_addresses`"]
fn in_a_loop() {
    if child_path().is_none() {
        return;
    }
    let mut addresses = std::collections::HashSet::new();
    for _ in 0..50 {
        let store = Store::create(&options(Place::Memory)).expect("a store");
        let tables = store.tables();
        assert_eq!((tables.used(Region::Sites), tables.header.loss.folded_sites.load(Ordering::Relaxed)), (1, 0));
        let stack = add_stack(&tables, StackId::ROOT, 7);
        Attribution::new(BASE, 0).apply(&tables, &birth(stack), None, &mut ());
        addresses.insert(std::ptr::from_ref(tables.header).addr());
        store.finish(false);
        // Threads may hold pointers for ever: they read nothing, and reach nobody.
        assert_eq!(tables.nodes[1].key.load(Ordering::Relaxed), 0);
        tables.nodes[1].key.store(9, Ordering::Relaxed);
    }
    assert!(addresses.len() < 5, "{}", addresses.len());
}
