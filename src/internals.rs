//! For this workspace's own tests: the parts that a test must stop, hold or look into. Not part of the public API.
#![allow(missing_docs, reason = "not public")]

use crossbeam_channel::{Sender, bounded};

use crate::drain::orders::Order;
use crate::profiler::{order_for_tests, with_store};
use crate::report::snapshot::add;
use crate::report::{Estimate, Snapshot};
use crate::store::picture::Amount;

/// The drain thread sleeps while this lives.
#[derive(Debug)]
pub struct Paused {
    _until: Sender<()>,
}

/// Stops the drain thread until the result is dropped.
#[must_use]
pub fn pause_drain() -> Paused {
    let _inside = crate::hook::inside();
    let (until, wait) = bounded::<()>(0);
    let started = order_for_tests(|reply| Order::Pause(reply, wait));
    assert!(started.is_some(), "no profile runs");
    Paused { _until: until }
}

/// Runs `f` while nobody can take the aggregator's lock.
pub fn hold_aggregator<T>(f: impl FnOnce() -> T) -> T {
    crate::drain::aggregator::AGGREGATOR.hold(f).expect("not held by this thread")
}

/// Runs `f` on this thread while it is at work in the running profile's store; the place of the store's file afterwards.
pub fn hold_store(f: impl FnOnce()) -> Option<std::path::PathBuf> {
    with_store(|store| {
        f();
        store.path().map(std::path::Path::to_owned)
    })
    .flatten()
}

/// Empties all rings on this thread. The number of records.
#[must_use]
pub fn drain() -> u64 {
    let _inside = crate::hook::inside();
    crate::drain::aggregator::AGGREGATOR.drain(std::time::Duration::from_secs(10)).expect("a profile runs")
}

/// Blocks that the profiler has allocated for itself since the process began.
#[must_use]
pub fn own_allocations() -> u64 {
    crate::hook::own_allocations()
}

#[cfg(feature = "_synthetic")]
pub use crate::unwind::alone::Captures;

/// How often a thread gave up a record: it had waited for 100 ms, in exact mode without anything being attributed meanwhile.
/// Since the process's start.
#[must_use]
pub fn given_up() -> u64 {
    crate::profiler::given_up()
}

/// Has the drain thread look for modules now.
pub fn refresh_modules() {
    order_for_tests(Order::LookAtModules);
}

/// Stacks unwound twice, and how many of them differed (`Builder::check_stacks`).
#[must_use]
pub fn checked_stacks() -> (u64, u64) {
    let counters = crate::unwind::counters();
    (counters.checked, counters.disagreements)
}

/// Seeds the calling thread's sampling, and draws its next distance anew with the interval in force.
pub fn seed_sampler(seed: u64) {
    crate::hook::seed(seed);
}

/// Sets the mean interval for draws from now on to 2^`code` bytes, as the governor does.
pub fn set_interval_code(code: u8) {
    let (_, fixed) = crate::sampler::interval::get();
    crate::sampler::interval::set(crate::sampler::weight::IntervalCode(code), fixed);
}

/// Is what the calling thread allocates the program's?
#[must_use]
pub fn is_outside() -> bool {
    crate::hook::is_outside()
}

/// Is this a block of the profiler's own?
#[must_use]
pub fn is_own_block(block: *mut u8) -> bool {
    crate::hook::is_own(block)
}

/// The stack of each site, as numbers that are the same for all profiles of one process; no names are looked up.
#[must_use]
pub fn site_stacks(snapshot: &Snapshot) -> Vec<Vec<u64>> {
    snapshot.picture.sites.iter().map(|site| site.frames.iter().map(|frame| frame.0).collect()).collect()
}

/// Live bytes, live blocks, total bytes and total blocks of these sites together, as of a point that they merge into.
#[must_use]
pub fn estimates(snapshot: &Snapshot, sites: &[usize]) -> [Estimate; 4] {
    let (mut live, mut total) = (Amount::default(), Amount::default());
    for site in sites.iter().filter_map(|&site| snapshot.picture.sites.get(site)) {
        add(&mut live, &site.figures.live);
        add(&mut total, &site.figures.total);
    }
    let unseen = snapshot.unseen(&total);
    [snapshot.bytes(&live), Estimate::blocks(&live, unseen), snapshot.bytes(&total), Estimate::blocks(&total, unseen)]
}

/// What sampling has cost since the profile began, as the governor measures it: nanoseconds of captures and draining,
/// nanoseconds of CPU time that the process has used in all, and bytes that live samples take.
#[must_use]
pub fn sampling_costs() -> (u64, u64, i64) {
    let (spent_ns, sample_bytes) = crate::sampler::governor::costs();
    (spent_ns, crate::sys::clock::process_cpu_ns(), sample_bytes)
}
