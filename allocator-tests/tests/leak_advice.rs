//! Advice follows evidence: each kind of program gets the sentence that its evidence calls for, by the public API, and a
//! program that is like it but for the evidence does not. (Memory that is not live: `memory.rs`.)
//!
//! Exact and with epochs by hand, so nothing depends on time or chance.

use std::collections::{HashMap, VecDeque};
use std::hint::black_box;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use unfreed::{Builder, Frame, Leak, LeakConfig, LeakReport, Profiler, State};

#[global_allocator]
static ALLOC: unfreed::Alloc = unfreed::Alloc::system();

/// One profile runs at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The report on `round`, called so many times with the number of the epoch.
fn report_on(epochs: usize, round: impl FnMut(usize)) -> LeakReport {
    report_by(Profiler::builder().exact(), epochs, round)
}

fn report_by(builder: Builder, epochs: usize, mut round: impl FnMut(usize)) -> LeakReport {
    let _alone = alone();
    let mut config = LeakConfig::default();
    (config.suspect_after_epochs, config.leak_after_epochs, config.age_share) = (16, 40, 0.0);
    let builder = builder.manual_epochs().no_output().quiet().store_in_memory();
    let profiler = builder.leak_config(config).start().expect("starts");
    // Where it samples, the same in each run.
    unfreed::internals::seed_sampler(1);
    for epoch in 0..epochs {
        round(epoch);
        profiler.advance_epoch();
    }
    profiler.leaks()
}

/// The largest site whose innermost function of this program has this name.
#[track_caller]
fn site<'r>(report: &'r LeakReport, function: &str) -> &'r Leak<Frame> {
    let is_named = |site: &&Leak<Frame>| {
        let own = site.frames().iter().find(|frame| frame.name().is_some_and(|name| name.contains("leak_advice::")));
        own.is_some_and(|frame| frame.name().is_some_and(|name| name.contains(function)))
    };
    let sites = report.sites().filter(is_named);
    let largest = sites.max_by(|a, b| a.live_bytes().value.total_cmp(&b.live_bytes().value));
    largest.unwrap_or_else(|| panic!("no site {function} in {report:#?}"))
}

#[track_caller]
fn leak_advice<'r>(report: &'r LeakReport, function: &str) -> &'r str {
    let site = site(report, function);
    assert_eq!(site.state(), State::Leak, "{site:#?}");
    site.advice()
}

type Block = Box<[u8]>;

/// Some requests that come and go, so many at once.
#[inline(never)]
fn serve(at_once: usize) {
    let requests: Vec<Block> = (0..at_once).map(request).collect();
    black_box(requests);
}

#[inline(never)]
fn request(number: usize) -> Block {
    black_box(vec![1u8; 300 + number % 7].into_boxed_slice())
}

// ---- a collection without a limit ------------------------------------------------------------------------------------

#[inline(never)]
fn page() -> Block {
    black_box(vec![1u8; 1000].into_boxed_slice())
}

#[inline(never)]
fn open_folder(cache: &mut HashMap<u64, Block>, key: u64) {
    cache.insert(key, page());
}

#[inline(never)]
fn forget_page() {
    Box::leak(page());
}

#[test]
fn a_map_without_a_limit_is_a_collection_and_what_grows_elsewhere_is_none() {
    let mut cache = HashMap::new();
    let report = report_on(100, |epoch| {
        // A loop, however it is optimised: unrolled, it would be twenty call chains, and each would see one growth of the table.
        (0..black_box(20)).for_each(|i| open_folder(&mut cache, (epoch * 20 + i) as u64));
        serve(5);
    });
    let advice = leak_advice(&report, "page");
    assert!(
        advice.contains("a table grows with it (filled in `open_folder`): a collection without a limit"),
        "{advice}"
    );
    let table = report.sites().find(|site| site.evidence().by_table).unwrap_or_else(|| panic!("{report:#?}"));
    assert!(table.advice().contains("A table here grows at a steady rate"), "{}", table.advice());

    // Pages are forgotten; a table grows as well, but on another thread and for something else.
    let (send, receive) = std::sync::mpsc::sync_channel::<u64>(0);
    let (done, wait) = std::sync::mpsc::sync_channel::<()>(0);
    let counter = std::thread::spawn(move || count_peers(&receive, &done));
    let report = report_on(100, |epoch| {
        (0..20).for_each(|_| forget_page());
        send.send(epoch as u64).expect("it counts");
        wait.recv().expect("it counted");
    });
    drop(send);
    counter.join().expect("no panic");
    assert!(report.sites().any(|site| site.evidence().table_growths > 2), "a table grows: {report:#?}");
    let advice = leak_advice(&report, "page");
    assert!(!advice.contains("table grows with") && advice.contains("`Box::leak`"), "{advice}");
}

#[inline(never)]
fn count_peers(receive: &std::sync::mpsc::Receiver<u64>, done: &std::sync::mpsc::SyncSender<()>) {
    let mut peers: HashMap<u64, u64> = HashMap::new();
    while let Ok(epoch) = receive.recv() {
        (0..200).for_each(|i| {
            peers.insert(epoch * 200 + i, i);
        });
        done.send(()).expect("it waits");
    }
}

// ---- a cycle ---------------------------------------------------------------------------------------------------------

struct Service {
    metrics: Block,
    task: Mutex<Option<Arc<Task>>>,
}

struct Task {
    buffer: Block,
    service: Arc<Service>,
}

#[inline(never)]
fn metrics_of_service() -> Block {
    black_box(vec![1u8; 3000].into_boxed_slice())
}

#[inline(never)]
fn buffer_of_task() -> Block {
    black_box(vec![1u8; 2000].into_boxed_slice())
}

#[inline(never)]
fn start_service() {
    let service = Arc::new(Service { metrics: metrics_of_service(), task: Mutex::new(None) });
    let task = Arc::new(Task { buffer: buffer_of_task(), service: Arc::clone(&service) });
    black_box((&task.buffer, &task.service.metrics));
    *service.task.lock().expect("not poisoned") = Some(task);
}

#[inline(never)]
fn forget_service() {
    Box::leak(metrics_of_service());
    Box::leak(buffer_of_task());
}

#[test]
fn two_sites_born_in_lockstep_are_a_cycle_if_an_arc_is_among_them() {
    let report = report_on(120, |epoch| (0..usize::from(epoch % 3 == 0)).for_each(|_| start_service()));
    let advice = leak_advice(&report, "metrics_of_service");
    assert!(advice.contains("is born together with") && advice.contains("`Arc` or `Rc` cycle looks like"), "{advice}");
    assert!(advice.contains("`Weak`"), "{advice}");
    let report = report_on(120, |epoch| (0..usize::from(epoch % 3 == 0)).for_each(|_| forget_service()));
    let advice = leak_advice(&report, "metrics_of_service");
    assert!(advice.contains("is born together with") && !advice.contains("`Weak`"), "{advice}");
    assert!(advice.contains("`Box::leak`"), "{advice}");
}

struct Node {
    next: Mutex<Option<Arc<Node>>>,
    data: Vec<u8>,
}

/// Both in one function: its lines tell them apart.
#[inline(never)]
fn two_that_hold_each_other() {
    let first = Arc::new(Node { next: Mutex::new(None), data: vec![0; 100] });
    let second = Arc::new(Node { next: Mutex::new(Some(Arc::clone(&first))), data: vec![1; 100] });
    *first.next.lock().expect("not poisoned") = Some(black_box(second));
    black_box(first.data.len());
}

#[test]
fn a_cycle_made_by_one_function() {
    let report = report_on(120, |_| (0..5).for_each(|_| two_that_hold_each_other()));
    let advice = leak_advice(&report, "two_that_hold_each_other");
    assert!(advice.contains("born together with other blocks of `two_that_hold_each_other`"), "{advice}");
    assert!(advice.contains("this is what an `Arc` or `Rc` cycle looks like"), "{advice}");
}

#[inline(never)]
fn remember(seen: &mut HashMap<u64, u64>, key: u64) {
    seen.insert(key, key);
    // The last call would take this function's place.
    black_box(seen.len());
}

#[inline(never)]
fn handle_and_remember(seen: &mut HashMap<u64, u64>, key: u64) {
    remember(seen, key);
    two_that_hold_each_other();
    black_box(key);
}

/// Each request leaves a cycle and an entry in a table: that the same function fills it does not make the table the owner.
#[test]
fn a_cycle_beside_a_table_that_the_same_operation_fills() {
    let mut seen = HashMap::new();
    let report = report_on(120, |epoch| {
        (0..black_box(5)).for_each(|i| handle_and_remember(&mut seen, (epoch * 5 + i) as u64));
    });
    assert!(report.sites().any(|site| site.evidence().by_table), "a table grows: {report:#?}");
    let advice = leak_advice(&report, "two_that_hold_each_other");
    assert!(advice.contains("this is what an `Arc` or `Rc` cycle looks like"), "{advice}");
    assert!(advice.contains("A table in `remember` grows beside it; whether it holds"), "{advice}");
    assert!(!advice.contains("a table grows with it"), "{advice}");
}

#[inline(never)]
fn count_many_and_forget_one(seen: &mut HashMap<u64, u64>, epoch: u64) {
    for i in 0..200 {
        remember(seen, epoch * 200 + i);
    }
    forget_page();
    black_box(epoch);
}

#[test]
fn a_table_that_grows_at_another_rate_is_not_said_to_hold_it() {
    let mut seen = HashMap::new();
    let report = report_on(120, |epoch| count_many_and_forget_one(&mut seen, epoch as u64));
    let advice = leak_advice(&report, "page");
    assert!(
        advice.contains("A table in `remember` grows beside it; whether it holds these blocks is not known"),
        "{advice}"
    );
    assert!(advice.contains("`Box::leak`") && !advice.contains("LRU"), "{advice}");
}

/// A sample shows no lockstep, and may miss a small table: then a cycle is one of the things that it may be.
#[test]
fn in_a_sample_an_arc_among_what_is_kept_is_said() {
    let sampled = || Profiler::builder().sample_interval(4096);
    let report = report_by(sampled(), 120, |_| (0..100).for_each(|_| two_that_hold_each_other()));
    let advice = leak_advice(&report, "two_that_hold_each_other");
    assert!(advice.contains("`Arc` or `Rc` cycle (an `Arc` or `Rc` is among what is kept"), "{advice}");
    let report = report_by(sampled(), 120, |_| (0..3).for_each(|_| forget_service()));
    let advice = leak_advice(&report, "metrics_of_service");
    assert!(advice.contains("`Box::leak`") && !advice.contains("`Weak`"), "{advice}");
}

// ---- a background task -----------------------------------------------------------------------------------------------

#[inline(never)]
fn take_sample(kept: &mut Vec<Block>) {
    kept.push(black_box(vec![1u8; 500].into_boxed_slice()));
}

#[test]
fn a_background_task_is_what_grows_while_the_program_is_idle_again_and_again() {
    let is_day = |epoch: usize| epoch % 30 < 15;
    let mut kept = Vec::with_capacity(10_000);
    let report = report_on(150, |epoch| {
        take_sample(&mut kept);
        serve(if is_day(epoch) { 200 } else { 0 });
    });
    let advice = leak_advice(&report, "take_sample");
    assert!(advice.contains("(in 75 of 75 epochs") && advice.contains("a background task accumulates"), "{advice}");

    // By day alone: whoever is served keeps it.
    let mut kept = Vec::with_capacity(10_000);
    let report = report_on(150, |epoch| {
        if is_day(epoch) {
            take_sample(&mut kept);
            serve(200);
        }
    });
    let by_day = site(&report, "take_sample");
    assert_eq!((by_day.evidence().idle_epochs, by_day.evidence().idle_births), (75, 0), "{by_day:#?}");
    assert!(!by_day.advice().contains("background"), "{}", by_day.advice());

    // One burst, after which a tenth of it is all there is.
    let mut kept = Vec::with_capacity(10_000);
    let report = report_on(150, |epoch| {
        take_sample(&mut kept);
        serve(if (20..35).contains(&epoch) { 5000 } else { 5 });
    });
    let advice = leak_advice(&report, "take_sample");
    assert!(!advice.contains("idle") && !advice.contains("background"), "{advice}");
}

// ---- pools -----------------------------------------------------------------------------------------------------------

#[derive(Default)]
struct Buffers {
    free: Vec<Block>,
}

impl Buffers {
    #[inline(never)]
    fn take(&mut self) -> Block {
        self.free.pop().unwrap_or_else(|| black_box(vec![1u8; 4096].into_boxed_slice()))
    }
}

#[inline(never)]
fn serve_with_buffers(buffers: &mut Buffers, at_once: usize) {
    let taken: Vec<Block> = (0..at_once).map(|_| buffers.take()).collect();
    serve(at_once);
    buffers.free.extend(taken);
}

#[test]
fn growth_at_new_peaks_of_use_alone() {
    let room = || Buffers { free: Vec::with_capacity(1000) };
    let mut buffers = room();
    let rising = |epoch: usize| 10 + 2 * (epoch / 4);
    let report = report_on(140, |epoch| {
        serve_with_buffers(&mut buffers, if epoch % 4 == 0 { rising(epoch) } else { 8 });
    });
    let advice = leak_advice(&report, "Buffers::take");
    assert!(
        advice.contains("of the last 128 epochs, and each time more blocks of `request` were live at once"),
        "{advice}"
    );
    assert!(advice.contains("a pool that never shrinks"), "{advice}");

    // As many in use, but it is not use that it grows with.
    let mut kept = Vec::with_capacity(10_000);
    let report = report_on(140, |epoch| {
        serve(if epoch % 4 == 0 { rising(epoch) } else { 8 });
        if epoch % 4 == 2 {
            take_sample(&mut kept);
        }
    });
    assert!(!leak_advice(&report, "take_sample").contains("pool"), "{}", leak_advice(&report, "take_sample"));

    // A pool that has what it needs.
    let mut buffers = room();
    let report = report_on(140, |_| serve_with_buffers(&mut buffers, 20));
    assert_eq!(report.leaks().count(), 0, "{report:#?}");
}

#[derive(Default)]
struct BytePool {
    stash: Vec<Block>,
}

impl BytePool {
    #[inline(never)]
    fn alloc(&mut self) -> Block {
        black_box(vec![1u8; 2048].into_boxed_slice())
    }

    fn give_back(&mut self, block: Block) {
        self.stash.push(block);
    }
}

#[inline(never)]
fn copy_of_request(ledger: &mut Vec<Block>) {
    ledger.push(black_box(vec![1u8; 2048].into_boxed_slice()));
}

#[test]
fn growth_without_peaks_and_a_name() {
    let mut pool = BytePool { stash: Vec::with_capacity(10_000) };
    let report = report_on(120, |_| {
        let block = pool.alloc();
        serve(10);
        pool.give_back(block);
    });
    let advice = leak_advice(&report, "BytePool::alloc");
    assert!(advice.starts_with("`BytePool::alloc`, a pool by its name, grows on and on"), "{advice}");
    assert!(advice.contains("does not reuse"), "{advice}");
    let evidence = site(&report, "BytePool::alloc").evidence();
    assert_eq!((evidence.growth_epochs, evidence.watched_epochs), (120, 120), "{evidence:?}");
    assert!(evidence.growth_at_peaks <= 1, "{evidence:?}");

    let mut ledger = Vec::with_capacity(10_000);
    let report = report_on(120, |_| {
        serve(10);
        copy_of_request(&mut ledger);
    });
    let advice = leak_advice(&report, "copy_of_request");
    assert!(!advice.contains("pool") && !advice.contains("reuse"), "{advice}");
}

// ---- a queue ---------------------------------------------------------------------------------------------------------

#[inline(never)]
fn message() -> Block {
    black_box(vec![1u8; 700].into_boxed_slice())
}

#[inline(never)]
fn step(queue: &mut VecDeque<Block>, made: usize, taken: usize) {
    (0..made).for_each(|_| queue.push_back(message()));
    (0..taken).for_each(|_| drop(queue.pop_front()));
}

#[test]
fn a_queue_whose_consumer_is_too_slow_is_a_backlog() {
    let mut queue = VecDeque::with_capacity(10_000);
    let report = report_on(160, |_| step(&mut queue, 12, 10));
    let behind = site(&report, "message");
    assert_eq!(behind.state(), State::Backlog, "{behind:#?}");
    assert!(behind.advice().contains("Bound the channel, or speed up or add consumers"), "{}", behind.advice());

    let mut queue = VecDeque::with_capacity(10_000);
    step(&mut queue, 100, 0);
    let report = report_on(160, |_| step(&mut queue, 10, 10));
    let balanced = site(&report, "message");
    assert!(!balanced.advice().contains("channel"), "{balanced:#?}");
    assert_eq!(report.leaks().count(), 0, "{report:#?}");
}

// ---- endless retries -------------------------------------------------------------------------------------------------

#[inline(never)]
fn describe_failure(log: &mut Vec<Block>) {
    log.push(black_box(vec![1u8; 200].into_boxed_slice()));
}

#[inline(never)]
fn retry_delivery(log: &mut Vec<Block>, attempts: usize) {
    (0..attempts).for_each(|_| describe_failure(log));
}

#[inline(never)]
fn note(log: &mut Vec<Block>) {
    log.push(black_box(vec![1u8; 200].into_boxed_slice()));
}

#[test]
fn rising_births_and_a_name() {
    let room = || Vec::with_capacity(100_000);
    // What failed is tried again in each epoch, with what fails anew.
    let mut log = room();
    let report = report_on(120, |epoch| retry_delivery(&mut log, 1 + epoch / 4));
    let advice = leak_advice(&report, "describe_failure");
    assert!(advice.contains("on an error path by its name (`retry_delivery`)"), "{advice}");
    assert!(advice.contains("tried again without end"), "{advice}");

    // The same growth under names that say nothing of failures.
    let mut log = room();
    let report = report_on(120, |epoch| (0..1 + epoch / 4).for_each(|_| note(&mut log)));
    let advice = leak_advice(&report, "note");
    assert!(advice.contains("Its growth accelerates") && !advice.contains("again without end"), "{advice}");

    // An error path on which as much fails as ever.
    let mut log = room();
    let report = report_on(120, |_| retry_delivery(&mut log, 5));
    let advice = leak_advice(&report, "describe_failure");
    assert!(!advice.contains("again without end") && !advice.contains("accelerates"), "{advice}");
}
