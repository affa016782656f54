//! Threads that do to the profiler what threads do: `safety_threads MODE CASE`.

use std::cell::RefCell;
use std::ffi::c_void;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};

use allocator_tests::load::{Block, Load, Xorshift, size};
use allocator_tests::runner::end_within;

#[global_allocator]
static ALLOC: unfreed::Alloc = unfreed::Alloc::system();

fn builder(mode: &str) -> unfreed::Builder {
    match mode {
        "exact" => unfreed::Profiler::builder().exact(),
        "governed" => unfreed::Profiler::builder(),
        "fine" => unfreed::Profiler::builder().sample_interval(64),
        other => panic!("no mode {other}"),
    }
    .no_output()
    .quiet()
}

/// Live bytes and blocks by the exact counters, all threads' work being over.
fn live(profiler: &unfreed::Profiler) -> (u64, u64) {
    let totals = profiler.snapshot().totals();
    (totals.live_bytes, totals.live_blocks)
}

/// Nothing that was counted may be lost, and no free may be missing.
#[track_caller]
fn same(profiler: &unfreed::Profiler, before: (u64, u64), what: &str) {
    let after = live(profiler);
    // The standard library keeps a little for itself: thread names, output buffers.
    assert!(after.1.abs_diff(before.1) <= 8, "{what}: {before:?} before, {after:?} after");
    assert!(after.0.abs_diff(before.0) <= 8192, "{what}: {before:?} before, {after:?} after");
}

/// No site has less than nothing, and in exact mode the sites sum to the exact totals.
#[track_caller]
fn consistent(profiler: &unfreed::Profiler, mode: &str) {
    let snapshot = profiler.snapshot();
    let losses = snapshot.losses();
    assert_eq!(losses.untracked_blocks, 0, "{losses:?}");
    // However many threads wait for it, nothing is lost while the aggregator works. Where it was held up for 100 ms (its
    // holder had no processor), a thread that gave up has lost one record, counted, and its site is unknown.
    assert!(losses.dropped_records <= unfreed::internals::given_up(), "lost without need: {losses:?}");
    let unknown = snapshot.sites().any(|site| site.is_unknown());
    assert_eq!(losses.dropped_records > 0, unknown, "counted, and its sites unknown: {losses:?}");
    if unknown {
        println!("{mode}: the aggregator was held up: {losses:?}");
        return;
    }
    for site in snapshot.sites() {
        assert!(site.live_bytes().value >= 0.0 && site.live_blocks().value >= 0.0);
    }
    if mode == "exact" {
        let sum: f64 = snapshot.sites().map(|site| site.live_bytes().value).sum();
        let exact = snapshot.totals().live_bytes as f64;
        assert_eq!(sum, exact, "sites against totals: {:?}", snapshot.totals());
        let sum: f64 = snapshot.sites().map(|site| site.total_blocks().value).sum();
        assert_eq!(sum, snapshot.totals().total_blocks as f64, "sites against totals");
    }
}

// ---- destructors ----------------------------------------------------------------------------------------------------

/// Allocates, reallocates and frees when its thread ends, and hands a block to the next destructor.
struct AtEnd(Vec<Block>);

impl Drop for AtEnd {
    fn drop(&mut self) {
        let mut random = Xorshift(17);
        for n in 0..50 {
            let block = Block::new(size(&mut random), n);
            self.0.push(block.resize(size(&mut random)));
        }
        DESTRUCTORS.fetch_add(1, Ordering::Relaxed);
    }
}

static DESTRUCTORS: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static AT_END: RefCell<Option<AtEnd>> = const { RefCell::new(None) };
}

static ROUNDS: AtomicUsize = AtomicUsize::new(0);
static BEFORE: AtomicU64 = AtomicU64::new(0);
static AFTER: AtomicU64 = AtomicU64::new(0);

fn new_key(destructor: unsafe extern "C" fn(*mut c_void)) -> libc::pthread_key_t {
    let mut key = 0;
    // SAFETY: a place for the key.
    assert_eq!(unsafe { libc::pthread_key_create(&raw mut key, Some(destructor)) }, 0);
    key
}

fn set(key: u64, value: Vec<Block>) {
    let key = libc::pthread_key_t::try_from(key).expect("a key");
    let value = Box::into_raw(Box::new(value));
    // SAFETY: a key of ours.
    unsafe { libc::pthread_setspecific(key, value.cast()) };
}

fn churn(value: *mut c_void) -> Vec<Block> {
    // SAFETY: what `set` stored.
    let mut blocks = *unsafe { Box::from_raw(value.cast::<Vec<Block>>()) };
    let mut random = Xorshift(23);
    for n in 0..30 {
        blocks.push(Block::new(size(&mut random), n).resize(size(&mut random)));
    }
    ROUNDS.fetch_add(1, Ordering::Relaxed);
    blocks
}

thread_local! {
    static LEFT: std::cell::Cell<u32> = const { std::cell::Cell::new(4) };
}

/// Goes on for as many rounds as there are: beyond the one in which the profiler lets go of the thread.
unsafe extern "C" fn before(value: *mut c_void) {
    let blocks = churn(value);
    if LEFT.get() > 1 {
        LEFT.set(LEFT.get() - 1);
        set(BEFORE.load(Ordering::Relaxed), blocks);
    }
}

unsafe extern "C" fn after(value: *mut c_void) {
    drop(churn(value));
}

fn with_destructors() {
    AT_END.with(|cell| *cell.borrow_mut() = Some(AtEnd(Vec::new())));
    set(BEFORE.load(Ordering::Relaxed), Vec::new());
    set(AFTER.load(Ordering::Relaxed), Vec::new());
}

fn destructors(mode: &str) {
    // One key before the profiler's own, one after.
    BEFORE.store(u64::from(new_key(before)), Ordering::Relaxed);
    let profiler = builder(mode).start().expect("starts");
    drop(Box::new(1));
    AFTER.store(u64::from(new_key(after)), Ordering::Relaxed);
    let counted = live(&profiler);
    for _ in 0..50 {
        let threads: Vec<_> = (0..4).map(|_| std::thread::spawn(with_destructors)).collect();
        for thread in threads {
            thread.join().expect("no panic");
        }
    }
    assert_eq!(DESTRUCTORS.load(Ordering::Relaxed), 200);
    assert!(ROUNDS.load(Ordering::Relaxed) >= 200 * 4, "{ROUNDS:?}");
    same(&profiler, counted, "destructors");
    consistent(&profiler, mode);
}

// ---- many threads ---------------------------------------------------------------------------------------------------

/// A thread on a stack of 32 KiB, so that thousands fit.
fn small(f: impl FnOnce() + Send + 'static) -> std::thread::JoinHandle<()> {
    std::thread::Builder::new().stack_size(32 * 1024).spawn(f).expect("a thread")
}

fn two_thousand(mode: &str) {
    let profiler = builder(mode).start().expect("starts");
    let counted = live(&profiler);
    let all = Arc::new(Barrier::new(2001));
    let threads: Vec<_> = (0..2000u64)
        .map(|n| {
            let all = all.clone();
            small(move || {
                let mut random = Xorshift(n + 1);
                let blocks: Vec<_> = (0..20).map(|n| Block::new(size(&mut random), n)).collect();
                all.wait();
                let blocks: Vec<_> = blocks.into_iter().map(|block| block.resize(size(&mut random))).collect();
                all.wait();
                drop(blocks);
            })
        })
        .collect();
    all.wait();
    profiler.flush();
    all.wait();
    for thread in threads {
        thread.join().expect("no panic");
    }
    drop(all);
    same(&profiler, counted, "2,000 threads");
    let ringless = profiler.snapshot().losses().ringless_threads;
    assert!(ringless <= 2_001, "{mode}: {ringless} of 2,000 threads had no ring");
    consistent(&profiler, mode);
}

fn ten_thousand(mode: &str) {
    let profiler = builder(mode).start().expect("starts");
    let counted = live(&profiler);
    let passed: Arc<std::sync::Mutex<Vec<Block>>> = Arc::default();
    for n in 0..2_500u64 {
        let threads: Vec<_> = (0..4)
            .map(|k| {
                let passed = passed.clone();
                small(move || {
                    let mut random = Xorshift(n * 4 + k + 1);
                    // Each frees what another made.
                    let theirs = passed.lock().expect("no panic").pop();
                    let mine = Block::new(size(&mut random), 3);
                    passed.lock().expect("no panic").push(mine);
                    drop(theirs);
                })
            })
            .collect();
        for thread in threads {
            thread.join().expect("no panic");
        }
    }
    drop(passed);
    same(&profiler, counted, "10,000 threads");
    consistent(&profiler, mode);
}

/// A thread that only frees, and one that never did anything else before the start.
fn only_frees(mode: &str) {
    let (to, from) = std::sync::mpsc::channel::<Vec<Block>>();
    let (done, is_done) = std::sync::mpsc::channel();
    let freeing = std::thread::spawn(move || {
        for blocks in from {
            drop(blocks);
            done.send(()).expect("waited for");
        }
    });
    let early: Vec<_> = (0..100).map(|n| Block::new(700, n)).collect();
    let profiler = builder(mode).start().expect("starts");
    let counted = live(&profiler);
    let blocks: Vec<_> = (0..1000).map(|n| Block::new(800, n as u8)).collect();
    to.send(blocks).expect("received");
    is_done.recv().expect("sent");
    same(&profiler, counted, "freed elsewhere");
    let before = profiler.snapshot().totals();
    to.send(early).expect("received");
    is_done.recv().expect("sent");
    let after = profiler.snapshot().totals();
    if mode == "exact" {
        assert_eq!(after.older_freed_blocks - before.older_freed_blocks, 101, "{after:?}");
        // The channel's own blocks, at most.
        assert!(after.live_blocks.abs_diff(before.live_blocks) <= 2, "{before:?} {after:?}");
    } else {
        assert!(before.live_bytes - after.live_bytes >= 70_000, "{before:?} {after:?}");
    }
    drop(to);
    freeing.join().expect("no panic");
    consistent(&profiler, mode);
}

// ---- panics ---------------------------------------------------------------------------------------------------------

#[inline(never)]
fn deep(depth: usize, blocks: &mut Vec<Block>) -> usize {
    let mine = Block::new(100 + depth, 5);
    blocks.push(Block::new(50, 6));
    if depth == 0 {
        panic!("{}", "at the bottom of it, with a formatted message");
    }
    let sum = deep(depth - 1, blocks) + mine.len();
    mine.check();
    sum
}

fn panics(mode: &str) {
    let profiler = builder(mode).start().expect("starts");
    let hooked = Arc::new(AtomicUsize::new(0));
    let count = hooked.clone();
    std::panic::set_hook(Box::new(move |info| {
        // Allocates inside the hook, as every hook that formats does.
        let text = format!("{info} {:?}", Block::new(3000, 1).len());
        let backtrace = std::backtrace::Backtrace::force_capture().to_string();
        assert!(!text.is_empty() && !backtrace.is_empty());
        count.fetch_add(1, Ordering::Relaxed);
    }));
    let spawn = || {
        std::thread::spawn(|| {
            for depth in 0..6 {
                let caught = std::panic::catch_unwind(|| deep(depth * 9, &mut Vec::new()));
                assert!(caught.is_err());
            }
            panic!("out of the thread");
        })
    };
    // The symbols that the first backtraces load stay with the standard library.
    assert!(spawn().join().is_err());
    let counted = live(&profiler);
    let threads: Vec<_> = (0..4).map(|_| spawn()).collect();
    for thread in threads {
        assert!(thread.join().is_err());
    }
    assert_eq!(hooked.load(Ordering::Relaxed), 5 * 7);
    drop(std::panic::take_hook());
    same(&profiler, counted, "panics");
    consistent(&profiler, mode);
}

// ---- start and stop -------------------------------------------------------------------------------------------------

fn start_stop(mode: &str) {
    let load = Load::start(3);
    // Threads that come and go, so that some end while a profile does.
    let stop = Arc::new(AtomicBool::new(false));
    let short = {
        let stop = stop.clone();
        std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                std::thread::spawn(|| drop(Block::new(500, 1))).join().expect("no panic");
            }
        })
    };
    let kept = Block::new(100_000, 1);
    let modes = ["exact", "fine", "governed"];
    for n in 0..200 {
        let mode = if mode == "all" { modes[n % 3] } else { mode };
        let began = std::time::Instant::now();
        let profiler = builder(mode).start().unwrap_or_else(|error| panic!("start {n}: {error}"));
        assert!(matches!(builder(mode).start(), Err(unfreed::Error::AlreadyRunning)), "twice");
        if n % 4 == 0 {
            load.wait_turns(1);
            let totals = profiler.snapshot().totals();
            assert!(totals.live_bytes < 1 << 32, "below nothing: {totals:?}");
            assert!(totals.total_bytes >= totals.freed_bytes);
        }
        drop(profiler);
        let took = began.elapsed();
        assert!(
            took < std::time::Duration::from_millis(1900),
            "start and stop {n} in {mode} took {took:?}: someone waits"
        );
    }
    stop.store(true, Ordering::Relaxed);
    short.join().expect("no panic");
    load.stop();
    kept.check();
    // And after all that the next profile is right.
    let profiler = builder("exact").start().expect("starts");
    let block = Block::new(4_000, 1);
    let (bytes, blocks) = live(&profiler);
    assert_eq!((bytes, blocks), (4_000, 1));
    drop(block);
    assert_eq!(live(&profiler), (0, 0));
    consistent(&profiler, "exact");
}

fn drop_order(mode: &str) {
    // A handle of an earlier profile doesn't stop a later one; blocks outlive profiles in every direction.
    let first = builder(mode).start().expect("starts");
    let mut blocks: Vec<_> = (0..100usize).map(|n| Block::new(100 + n * 800, 1)).collect();
    drop(first);
    let second = builder(mode).start().expect("starts");
    blocks = blocks.into_iter().enumerate().map(|(n, b)| if n % 2 == 0 { b.resize(1 + n * 500) } else { b }).collect();
    blocks.push(Block::new(5_000, 1));
    let old = second.snapshot();
    drop(second);
    let third = builder(mode).start().expect("starts");
    drop(blocks);
    // Snapshots outlive their profiles.
    assert!(old.sites().len() > 0);
    drop(old);
    consistent(&third, mode);
    std::mem::forget(third);
    assert!(matches!(builder(mode).start(), Err(unfreed::Error::AlreadyRunning)));
}

/// Starting, looking and stopping allocate nothing that would be counted as the program's.
fn own_starts(mode: &str) {
    let totals = || {
        // With a file at the end: the whole of a default profile.
        let builder = unfreed::Profiler::builder().quiet();
        let profiler = if mode == "exact" { builder.exact() } else { builder }.start().expect("starts");
        let totals = profiler.snapshot().totals();
        drop(profiler);
        totals
    };
    let (first, second, third) = (totals(), totals(), totals());
    if mode == "exact" {
        assert_eq!(first, unfreed::Totals::default(), "an exact profile begins at zero");
        assert_eq!(second, first);
    }
    let counted =
        |totals: unfreed::Totals| (totals.total_bytes, totals.total_blocks, totals.live_bytes, totals.live_blocks);
    assert_eq!(counted(second), counted(first), "the process's totals, before and after a profile");
    assert_eq!(counted(third), counted(second));
}

/// A thread is at work in the store, and stays there, while its profile ends and another begins.
fn stuck(mode: &str) {
    let place = std::path::absolute("stuck.unfreed").expect("a directory");
    let profiler = builder(mode).store(&place).start().expect("starts");
    let (entered, wait) = (Arc::new(Barrier::new(2)), Arc::new(Barrier::new(2)));
    let thread = std::thread::spawn({
        let (entered, wait) = (Arc::clone(&entered), Arc::clone(&wait));
        move || {
            unfreed::internals::hold_store(|| {
                entered.wait();
                wait.wait();
            })
        }
    });
    entered.wait();
    drop(profiler);
    assert!(!place.exists(), "the store's file is removed");
    let profiler = builder(mode).start().expect("starts again");
    let before = live(&profiler);
    let load = Load::start(2);
    load.wait_turns(20);
    load.stop();
    profiler.flush();
    same(&profiler, before, "beside a stuck thread");
    wait.wait();
    assert_eq!(thread.join().expect("no panic"), Some(place), "the store that it was in is as it was");
    consistent(&profiler, mode);
}

fn main() {
    end_within(80);
    let arguments: Vec<String> = std::env::args().collect();
    let (mode, case) = (arguments[1].as_str(), arguments[2].as_str());
    match case {
        "destructors" => destructors(mode),
        "two-thousand" => two_thousand(mode),
        "ten-thousand" => ten_thousand(mode),
        "only-frees" => only_frees(mode),
        "panics" => panics(mode),
        "start-stop" => start_stop(mode),
        "drop-order" => drop_order(mode),
        "own-starts" => own_starts(mode),
        "stuck" => stuck(mode),
        other => panic!("no case {other}"),
    }
}
