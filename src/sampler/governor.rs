//! The governor: chooses the sample interval R so that nobody has to.
//!
//! Promises: R moves in powers of two; it rises within 1,024 events of samples in the whole process (births, resizes, deaths), on
//! the thread that had the last of them, and falls only at the drain thread's tick, one step at a time and seldom. The choice depends on
//! the past alone, and each draw keeps the R that it was made with, so the estimates stay unbiased whatever it does.
//! Costs two shared additions in 16 events and 0.2 µs in 1,024.
//!
//! It keeps two budgets: the time that samples cost within a share of the process's CPU time, and the
//! memory of live samples within 8 MiB + 1% of live bytes.
//!
//! What a sample costs is measured from its capture until its record is sent, draining a full ring included, and from
//! its death until that record is sent; the drain thread measures its own share. The way there and back is not seen by these clocks and is
//! charged by a constant. `allocator-tests/tests/costs.rs` holds the sum against what samples really cost.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU8, AtomicU64, Ordering};

use super::interval;
use super::weight::IntervalCode;
use crate::sys::clock;

/// 1 KiB: a small program is seen almost whole.
pub(crate) const FINEST: IntervalCode = IntervalCode(10);
/// 1 GiB: coarser than any budget asks for, on any machine.
pub(crate) const COARSEST: IntervalCode = IntervalCode(30);
/// Events between looks. Until R has settled 0.3 to 0.9 ms of CPU are spent, 2 to 5 ms on deep stacks and many sites: earlier looks would
/// save a part of that once, and a small program would not be seen whole.
const LOOK_EVERY: u64 = 1024;
/// Events that a thread keeps to itself.
const BATCH: u32 = 16;
/// Memory that live samples may always take.
const MEMORY_BASE_BYTES: u64 = 8 << 20;
/// A step down needs the cost below this share of the budget: halving R doubles the cost, and as much again is left.
const LOWER_BELOW: f64 = 0.25;
/// Ticks that must have passed since the last change before R falls: a second at the drain thread's 100 ms.
const QUIET_TICKS: u8 = 10;

/// What is charged of a measured time at most: 128 new frames and a few page faults take less, and so does draining a full ring. The event
/// clock runs on while the thread is preempted, and on a busy machine those few events that are would outweigh all others together.
const LONGEST_CHARGE_NS: u64 = 20_000;

/// What an event costs beside what is measured of it: to find that it is one, in and out of the cold path, two or three mispredicted
/// branches and what the program's caches lose. Measured as what was missing of the slope of CPU time over samples, at 8 to 512 KiB:
/// 41 to 50 ns on three workloads.
const UNSEEN_NS: u64 = 45;

static GOVERNED: AtomicBool = AtomicBool::new(false);
/// The budget, in parts of 2^20 of the process's CPU time.
static BUDGET: AtomicU64 = AtomicU64::new(0);
/// Nanoseconds a tick, in 1/2^32.
static NS_PER_TICK: AtomicU64 = AtomicU64::new(1 << 32);
/// [`LONGEST_CHARGE_NS`] in ticks.
static LONGEST_CHARGE: AtomicU64 = AtomicU64::new(u64::MAX);
/// [`UNSEEN_NS`] in ticks.
static UNSEEN: AtomicU64 = AtomicU64::new(0);
static EVENTS: AtomicU64 = AtomicU64::new(0);
/// Ticks spent on samples since the last look.
static SPENT: AtomicU64 = AtomicU64::new(0);
/// Process CPU time at the last look.
static LAST_CPU_NS: AtomicU64 = AtomicU64::new(0);
static LOOKING: AtomicBool = AtomicBool::new(false);
/// Cost since the last tick that looked, for lowering.
static TICK_SPENT_NS: AtomicU64 = AtomicU64::new(0);
static TICK_CPU_NS: AtomicU64 = AtomicU64::new(0);
/// All cost since the beginning of the profile.
static ALL_SPENT_NS: AtomicU64 = AtomicU64::new(0);
static QUIET: AtomicU8 = AtomicU8::new(0);
/// Bytes of slots and entries that live samples take.
static SAMPLE_BYTES: AtomicI64 = AtomicI64::new(0);
/// The process's live bytes at the last tick.
static LIVE_BYTES: AtomicU64 = AtomicU64::new(0);
/// `SAMPLE_BYTES` when R was last raised for them: samples taken before that stay, whatever R is now.
static BYTES_AT_RAISE: AtomicI64 = AtomicI64::new(0);

/// Begins: `budget` is a share of CPU time, `None` leaves R alone.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "validated: a small positive share")]
pub(crate) fn begin(budget: Option<f64>, ns_per_tick: f64) {
    BUDGET.store((budget.unwrap_or(0.0) * 1_048_576.0) as u64, Ordering::Relaxed);
    NS_PER_TICK.store((ns_per_tick * 4_294_967_296.0) as u64, Ordering::Relaxed);
    LONGEST_CHARGE.store(ticks(LONGEST_CHARGE_NS), Ordering::Relaxed);
    UNSEEN.store(ticks(UNSEEN_NS), Ordering::Relaxed);
    // In a forked child: whoever was looking does not exist there.
    LOOKING.store(false, Ordering::Relaxed);
    EVENTS.store(0, Ordering::Relaxed);
    SPENT.store(0, Ordering::Relaxed);
    TICK_SPENT_NS.store(0, Ordering::Relaxed);
    ALL_SPENT_NS.store(0, Ordering::Relaxed);
    let cpu = clock::process_cpu_ns();
    LAST_CPU_NS.store(cpu, Ordering::Relaxed);
    TICK_CPU_NS.store(cpu, Ordering::Relaxed);
    QUIET.store(0, Ordering::Relaxed);
    SAMPLE_BYTES.store(0, Ordering::Relaxed);
    BYTES_AT_RAISE.store(0, Ordering::Relaxed);
    GOVERNED.store(budget.is_some(), Ordering::Relaxed);
}

/// The memory of live samples changed by `bytes`. Called on the cold path.
#[inline]
pub(crate) fn sample_memory(bytes: i64) {
    // Relaxed: a sum that only budgets read.
    SAMPLE_BYTES.fetch_add(bytes, Ordering::Relaxed);
}

/// What a thread has not told yet.
#[derive(Debug)]
pub(crate) struct Untold {
    /// Births, resizes and deaths of sampled blocks.
    events: u32,
    ticks: u64,
}

impl Untold {
    pub(crate) const fn new() -> Untold {
        Untold { events: 0, ticks: 0 }
    }

    /// A sampled block was born, resized or freed; `measured` ticks of that were seen. Called on the cold path.
    #[inline]
    pub(crate) fn charge(&mut self, measured: u64) {
        self.events += 1;
        // Relaxed: set at the beginning of the profile.
        let charged = measured.min(LONGEST_CHARGE.load(Ordering::Relaxed)) + UNSEEN.load(Ordering::Relaxed);
        self.ticks = self.ticks.saturating_add(charged);
        if self.events >= BATCH {
            self.tell();
        }
    }

    /// At the thread's end, too: short threads would be free otherwise.
    pub(crate) fn tell(&mut self) {
        // Relaxed, all here: sums whose small errors a later look corrects.
        SPENT.fetch_add(self.ticks, Ordering::Relaxed);
        let before = EVENTS.fetch_add(u64::from(self.events), Ordering::Relaxed);
        let after = before + u64::from(self.events);
        *self = Untold::new();
        if before / LOOK_EVERY != after / LOOK_EVERY && GOVERNED.load(Ordering::Relaxed) {
            look();
        }
    }
}

/// The drain thread's draining cost `ns` of CPU time; charged with the samples.
pub(crate) fn drained(ns: u64) {
    SPENT.fetch_add(ticks(ns), Ordering::Relaxed);
}

fn ticks(ns: u64) -> u64 {
    let per_tick = NS_PER_TICK.load(Ordering::Relaxed).max(1);
    u64::try_from((u128::from(ns) << 32) / u128::from(per_tick)).unwrap_or(0)
}

/// After 1,024 events: raises R as far as their cost asks.
#[cold]
fn look() {
    if LOOKING.swap(true, Ordering::Acquire) {
        return;
    }
    let cpu = clock::process_cpu_ns();
    let used = cpu.saturating_sub(LAST_CPU_NS.swap(cpu, Ordering::Relaxed));
    let spent = take_spent_ns();
    let steps = steps_up(spent, used, BUDGET.load(Ordering::Relaxed));
    if steps > 0 {
        raise(steps);
    }
    let memory = SAMPLE_BYTES.load(Ordering::Relaxed);
    let budget = memory_budget();
    if memory > budget.max(BYTES_AT_RAISE.load(Ordering::Relaxed).saturating_add(budget / 16)) {
        BYTES_AT_RAISE.store(memory, Ordering::Relaxed);
        raise(1);
    }
    // Release: pairs with the Acquire of the swap.
    LOOKING.store(false, Ordering::Release);
}

/// What samples have cost since the profile began, and the bytes that live ones take. A thread keeps the cost of its last few
/// events to itself.
pub(crate) fn costs() -> (u64, i64) {
    let per_tick = NS_PER_TICK.load(Ordering::Relaxed);
    let pending = (u128::from(SPENT.load(Ordering::Relaxed)) * u128::from(per_tick)) >> 32;
    let ns = ALL_SPENT_NS.load(Ordering::Relaxed).saturating_add(u64::try_from(pending).unwrap_or(u64::MAX));
    (ns, SAMPLE_BYTES.load(Ordering::Relaxed))
}

fn take_spent_ns() -> u64 {
    let ticks = SPENT.swap(0, Ordering::Relaxed);
    let per_tick = NS_PER_TICK.load(Ordering::Relaxed);
    let ns = u64::try_from((u128::from(ticks) * u128::from(per_tick)) >> 32).unwrap_or(u64::MAX);
    TICK_SPENT_NS.fetch_add(ns, Ordering::Relaxed);
    ALL_SPENT_NS.fetch_add(ns, Ordering::Relaxed);
    ns
}

/// The store has no room for more stacks or sites: a coarser sample meets fewer new ones.
pub(crate) fn store_is_full() {
    if GOVERNED.load(Ordering::Relaxed) {
        raise(1);
    }
}

fn memory_budget() -> i64 {
    i64::try_from(MEMORY_BASE_BYTES + LIVE_BYTES.load(Ordering::Relaxed) / 100).unwrap_or(i64::MAX)
}

/// How many doublings bring a cost of `spent` in `used` ns under `budget` (in 1/2^20). At most 4 at once: the next
/// look is 1,024 events away, and a burst should not blind the profile.
fn steps_up(spent: u64, used: u64, budget: u64) -> u8 {
    let share = (u128::from(spent) << 20) / u128::from(used.max(1));
    let mut allowed = u128::from(budget);
    for steps in 0..4 {
        if share <= allowed {
            return steps;
        }
        allowed *= 2;
    }
    4
}

fn raise(steps: u8) {
    let (now, fixed) = interval::get();
    let raised = IntervalCode(now.0.saturating_add(steps).min(COARSEST.0));
    if raised != now {
        interval::set(raised, fixed);
        QUIET.store(0, Ordering::Relaxed);
    }
}

/// The drain thread's tick: lowers R where the cost has been far below the budgets for a while. Takes the process's
/// live bytes. Returns the interval in force.
pub(crate) fn tick(live_bytes: u64) -> IntervalCode {
    let (now, fixed) = interval::get();
    LIVE_BYTES.store(live_bytes, Ordering::Relaxed);
    if !GOVERNED.load(Ordering::Relaxed) {
        return now;
    }
    if QUIET.fetch_add(1, Ordering::Relaxed) < QUIET_TICKS {
        return now;
    }
    QUIET.store(0, Ordering::Relaxed);
    take_spent_ns();
    let cpu = clock::process_cpu_ns();
    let used = cpu.saturating_sub(TICK_CPU_NS.swap(cpu, Ordering::Relaxed));
    let spent = TICK_SPENT_NS.swap(0, Ordering::Relaxed);
    let memory = SAMPLE_BYTES.load(Ordering::Relaxed);
    if memory < BYTES_AT_RAISE.load(Ordering::Relaxed) {
        BYTES_AT_RAISE.store(memory, Ordering::Relaxed);
    }
    if now.0 > FINEST.0
        && lowers(spent, used, BUDGET.load(Ordering::Relaxed))
        && memory.saturating_mul(2) < memory_budget()
    {
        let lowered = IntervalCode(now.0 - 1);
        interval::set(lowered, fixed);
        return lowered;
    }
    now
}

#[expect(clippy::cast_precision_loss, reason = "a comparison of shares")]
fn lowers(spent: u64, used: u64, budget: u64) -> bool {
    // An idle process says nothing of its cost: at least 1 ms of work is asked.
    used > 1_000_000 && spent as f64 * 1_048_576.0 < used as f64 * budget as f64 * LOWER_BELOW
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rises_as_far_as_the_cost_asks_and_no_further() {
        let budget = 10_486; // 1%, rounded up
        assert_eq!(steps_up(10, 1000, budget), 0);
        assert_eq!(steps_up(20, 1000, budget), 1);
        assert_eq!(steps_up(39, 1000, budget), 2);
        assert_eq!(steps_up(500, 1000, budget), 4);
        assert_eq!(steps_up(0, 0, budget), 0);
    }

    #[test]
    fn a_capture_that_was_preempted_is_charged_as_a_long_one() {
        begin(None, 0.5);
        let mut untold = Untold::new();
        untold.charge(100);
        untold.charge(1 << 40);
        assert_eq!((untold.events, untold.ticks), (2, 100 + 2 * LONGEST_CHARGE_NS + 4 * UNSEEN_NS));
    }

    #[test]
    fn falls_only_where_doubling_the_cost_stays_within_the_budget() {
        let budget = 10_485;
        assert!(lowers(20_000, 10_000_000, budget));
        assert!(!lowers(40_000, 10_000_000, budget));
        assert!(!lowers(0, 1000, budget), "an idle process");
    }
}
