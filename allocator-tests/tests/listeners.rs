//! Who is told of verdicts holds nobody up: listeners run on a thread of their own, in which they may take long, ask the
//! profile, end it, panic or fork.
//!
//! Epochs are ended by hand. Nothing is waited for but by channels; a listener that held the drain thread would hang these
//! tests.

use std::hint::black_box;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use allocator_tests::panics::keep_quiet_about;
use unfreed::{LeakConfig, LeakReport, Profiler, VerdictChange, VerdictKind};

#[global_allocator]
static ALLOC: unfreed::Alloc = unfreed::Alloc::system();

/// One profile runs at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

const LONG: Duration = Duration::from_secs(60);

type Kept = Vec<Box<[u8]>>;

#[inline(never)]
fn keep(kept: &mut Kept) {
    (0..10).for_each(|_| kept.push(black_box(vec![1u8; 100].into_boxed_slice())));
}

#[inline(never)]
fn keep_too(kept: &mut Kept) {
    (0..10).for_each(|_| kept.push(black_box(vec![1u8; 50].into_boxed_slice())));
}

fn builder(listener: impl Fn(&VerdictChange) + Send + Sync + 'static) -> unfreed::Builder {
    let mut config = LeakConfig::default();
    (config.suspect_after_epochs, config.leak_after_epochs, config.age_share) = (16, 40, 0.0);
    let builder = Profiler::builder().exact().manual_epochs().no_output().quiet().store_in_memory();
    builder.leak_config(config).on_verdict(listener)
}

/// A listener that says so and then waits for leave to return.
fn waiting() -> (impl Fn(&VerdictChange) + Send + Sync, Receiver<VerdictKind>, Sender<()>) {
    let ((said, hear), (leave, wait)) = (channel(), channel());
    let (said, wait) = (Mutex::new(said), Mutex::new(wait));
    let listener = move |change: &VerdictChange| {
        said.lock().expect("not poisoned").send(change.kind).expect("it hears");
        // Also when there will be no leave.
        let _ = wait.lock().expect("not poisoned").recv();
    };
    (listener, hear, leave)
}

fn named(change: &VerdictChange, name: &str) -> bool {
    change.leak.frames().iter().any(|frame| frame.name().is_some_and(|of| of.contains(name)))
}

#[test]
fn a_slow_listener_holds_nobody_up_and_hears_all() {
    let _alone = alone();
    let (listener, heard, leave) = waiting();
    let profiler = builder(listener).start().expect("starts");
    let mut kept = Vec::with_capacity(10_000);
    // One loop, or it would be two chains.
    for epoch in 0..60 {
        keep(&mut kept);
        profiler.advance_epoch();
        if epoch == 30 {
            assert_eq!(heard.recv_timeout(LONG), Ok(VerdictKind::Suspected));
            // It is in the listener from here on, and the profile goes on: epochs, figures, reports.
        }
    }
    profiler.flush();
    let report = profiler.leaks();
    assert!(report.has_leaks(), "{report:#?}");
    assert_eq!(profiler.leaks().untold_changes(), 0);
    assert!(heard.try_recv().is_err(), "it was not told beside itself");
    assert!(!profiler.wait_until_told(Duration::from_millis(10)), "it is busy");
    drop(leave);
    assert!(profiler.wait_until_told(LONG));
    assert_eq!(heard.try_iter().collect::<Vec<_>>(), [VerdictKind::Leak], "what waited is told");
    drop(profiler);
}

/// Threads that tell of verdicts.
fn threads() -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").expect("tasks").flatten();
    let names = tasks.map(|task| std::fs::read_to_string(task.path().join("comm")).unwrap_or_default());
    names.filter(|name| name.trim() == "unfreed-news").count()
}

#[test]
fn the_thread_is_there_only_where_somebody_listens() {
    let _alone = alone();
    let before = threads();
    let profiler = builder(|_| {}).start().expect("starts");
    assert_eq!(threads(), before + 1);
    drop(profiler);
    assert_eq!(threads(), before, "joined");
    let silent = Profiler::builder().exact().manual_epochs().no_output().quiet().store_in_memory();
    let profiler = silent.start().expect("starts");
    // By the feature somebody may listen at any time.
    assert_eq!(threads(), before + usize::from(cfg!(feature = "log")));
    drop(profiler);
}

/// In a listener the profile answers, what is allocated counts as the program's, and a panic ends nothing.
#[test]
fn a_listener_may_ask_allocate_and_panic() {
    let _alone = alone();
    const MEANT: &str = "a listener of this kind";
    keep_quiet_about(MEANT);
    static KEPT: Mutex<Vec<u8>> = Mutex::new(Vec::new());
    let slot: Arc<Mutex<Option<Arc<Profiler>>>> = Arc::default();
    let (said, heard) = channel::<(VerdictKind, LeakReport)>();
    let (said, of_profile) = (Mutex::new(said), Arc::clone(&slot));
    let listener = move |change: &VerdictChange| {
        if !named(change, "listeners::keep") {
            return;
        }
        *KEPT.lock().expect("not poisoned") = black_box(vec![1; 10_000_000]);
        let profiler = of_profile.lock().expect("not poisoned").clone();
        let waited = profiler.as_ref().is_some_and(|profiler| profiler.wait_until_told(LONG));
        assert!(!waited, "it would wait for itself");
        let report = profiler.map(|profiler| profiler.leaks()).unwrap_or_default();
        said.lock().expect("not poisoned").send((change.kind, report)).expect("it hears");
        panic!("{MEANT}");
    };
    let profiler = Arc::new(builder(listener).start().expect("starts"));
    *slot.lock().expect("not poisoned") = Some(Arc::clone(&profiler));
    let mut kept = Vec::with_capacity(10_000);
    for kind in [VerdictKind::Suspected, VerdictKind::Leak] {
        for _ in 0..30 {
            keep(&mut kept);
            profiler.advance_epoch();
        }
        let (of, report) = heard.recv_timeout(LONG).expect("after a panic, too");
        assert_eq!(of, kind);
        assert!(report.sites().next().is_some() && report.current_bytes() > 10_000_000, "{report:#?}");
    }
    slot.lock().expect("not poisoned").take();
    drop(profiler);
    *KEPT.lock().expect("not poisoned") = Vec::new();
}

#[test]
fn a_listener_may_end_the_profile() {
    let _alone = alone();
    let slot: Arc<Mutex<Option<Profiler>>> = Arc::default();
    let (said, heard) = channel();
    let (said, of_profile) = (Mutex::new(said), Arc::clone(&slot));
    let listener = move |_: &VerdictChange| {
        let ended = of_profile.lock().expect("not poisoned").take().map(drop).is_some();
        said.lock().expect("not poisoned").send(ended).expect("it hears");
    };
    *slot.lock().expect("not poisoned") = Some(builder(listener).start().expect("starts"));
    let mut kept = Vec::with_capacity(10_000);
    for _ in 0..60 {
        keep(&mut kept);
        if let Some(profiler) = &*slot.lock().expect("not poisoned") {
            profiler.advance_epoch();
        }
    }
    assert_eq!(heard.recv_timeout(LONG), Ok(true));
    // Its thread ends by itself.
    let began = Instant::now();
    while threads() > 0 {
        assert!(began.elapsed() < LONG, "it stays");
        std::thread::yield_now();
    }
    // The next profile is none of its business.
    let profiler = builder(|_| {}).start().expect("the first has ended");
    keep(&mut kept);
    assert!(profiler.snapshot().totals().live_blocks >= 10);
}

#[test]
fn a_child_that_a_listener_forks_ends_with_it_and_the_parent_goes_on() {
    let _alone = alone();
    let (said, heard) = channel();
    let said = Mutex::new(said);
    let listener = move |change: &VerdictChange| {
        // SAFETY: the child does nothing but return.
        let child = unsafe { libc::fork() };
        if child != 0 {
            said.lock().expect("not poisoned").send((change.kind, child)).expect("it hears");
        }
    };
    let profiler = builder(listener).start().expect("starts");
    let mut kept = Vec::with_capacity(10_000);
    for kind in [VerdictKind::Suspected, VerdictKind::Leak] {
        for _ in 0..30 {
            keep(&mut kept);
            profiler.advance_epoch();
        }
        let (of, child) = heard.recv_timeout(LONG).expect("it is told");
        let mut status = -1;
        // SAFETY: our own child, and a place for its status.
        let ended = unsafe { libc::waitpid(child, &raw mut status, 0) };
        assert_eq!((of, ended, status), (kind, child, 0), "its last thread has ended");
    }
    assert!(profiler.leaks().has_leaks());
}

/// 2,048 chains: two ways at each of eleven depths.
#[inline(never)]
fn branch(kept: &mut Kept, depth: u32, way: u32) {
    if depth == 0 {
        kept.push(black_box(vec![1u8; 16].into_boxed_slice()));
    } else if way & 1 == 0 {
        left(kept, depth, way);
    } else {
        right(kept, depth, way);
    }
}

#[inline(never)]
fn left(kept: &mut Kept, depth: u32, way: u32) {
    branch(kept, depth - 1, way >> 1);
    black_box(way);
}

#[inline(never)]
fn right(kept: &mut Kept, depth: u32, way: u32) {
    branch(kept, depth - 1, way >> 1);
    black_box(depth);
}

#[test]
fn what_finds_no_room_while_a_listener_is_busy_is_counted_and_said() {
    let _alone = alone();
    let (listener, heard, leave) = waiting();
    let profiler = builder(listener).start().expect("starts");
    let (mut kept, mut first) = (Vec::with_capacity(200_000), Vec::with_capacity(10_000));
    for epoch in 0..100 {
        keep(&mut first);
        // Ten at first, so that each chain is judged by itself before thin ones are pooled.
        let ways = if epoch < 30 { 0 } else { 2048 * if epoch == 30 { 10 } else { 1 } };
        (0..ways).for_each(|way| branch(&mut kept, 11, way % 2048));
        profiler.advance_epoch();
        if epoch == 29 {
            assert_eq!(heard.recv_timeout(LONG), Ok(VerdictKind::Suspected));
        }
    }
    let report = profiler.leaks();
    let changed = report.leaks().count();
    assert!(changed > 2000, "{changed}");
    let untold = report.untold_changes();
    assert!(untold > 900, "1,024 wait, of {changed} sites that were suspected, or called leaks as well: {untold}");
    let said = report.to_string();
    assert!(said.contains(&format!("Lost: {} changes of verdicts", grouped(untold))), "{said}");
    drop(leave);
    drop(profiler);
    assert_eq!(heard.iter().count(), 1024, "what found room is told");
}

fn grouped(number: u64) -> String {
    if number < 1000 { number.to_string() } else { format!("{},{:03}", number / 1000, number % 1000) }
}

// ---- in processes of their own ---------------------------------------------------------------------------------------

fn subject(name: &str) -> Child {
    let own = std::env::current_exe().expect("a path");
    let mut child = Command::new(own);
    child.args(["--ignored", "--exact", "--nocapture", name]).stdout(Stdio::piped()).stderr(Stdio::piped());
    child.spawn().expect("this program")
}

/// A profile whose listener does not return.
fn stuck() -> Profiler {
    let (listener, heard, leave) = waiting();
    std::mem::forget(leave);
    let output = std::env::temp_dir().join(format!("listeners-{}.json", std::process::id()));
    let profiler = builder(listener).output(output).start().expect("starts");
    let mut kept = Vec::with_capacity(10_000);
    for _ in 0..60 {
        keep(&mut kept);
        keep_too(&mut kept);
        profiler.advance_epoch();
    }
    heard.recv_timeout(LONG).expect("it is told");
    std::mem::forget(heard);
    profiler
}

#[test]
#[ignore = "the child of `a_listener_that_does_not_return_delays_the_end_by_seconds`"]
fn is_stuck_and_drops_its_profiler() {
    drop(stuck());
    println!("dropped");
}

#[test]
#[ignore = "the child of `a_listener_that_does_not_return_delays_the_end_by_seconds`"]
fn is_stuck_and_is_told_to_end() {
    let _profiler = stuck();
    println!("ending");
    // SAFETY: no preconditions.
    unsafe { libc::kill(libc::getpid(), libc::SIGTERM) };
    std::thread::sleep(LONG);
}

#[test]
fn a_listener_that_does_not_return_delays_the_end_by_seconds() {
    let began = Instant::now();
    let subjects = ["is_stuck_and_drops_its_profiler", "is_stuck_and_is_told_to_end"].map(subject);
    for child in subjects {
        let pid = child.id();
        let output = child.wait_with_output().expect("it ends");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains("unfreed: a listener (on_verdict, or a logger) had not returned after 5 s: "), "{said}");
        let file = std::env::temp_dir().join(format!("listeners-{pid}.json"));
        let profile = std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("no results: {error}\n{said}"));
        let _ = std::fs::remove_file(file);
        assert!(profile.contains("listeners::keep"), "the results have names");
    }
    assert!(began.elapsed() < LONG, "{:?}", began.elapsed());
}
