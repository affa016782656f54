//! The governor keeps its budgets, and estimates stay unbiased, while a program's allocation rate changes 1,000-fold and
//! back.
//!
//! R begins at 1 KiB, rises in the fast phase and comes down again in the slow one (a step a second, so the test waits for
//! three steps; `UNFREED_TEST_LONG=1` for all of them). Budgets are checked as the governor measures cost, and the figures
//! printed. Estimates are compared with what the program knows, by phase.
//!
//! **False failures.** Eight estimates are allowed 5.5 standard errors each: together below one in a million. The
//! shares of time have room for a busy machine: half as much again as the budget.

use std::hint::black_box;
use std::time::{Duration, Instant};

use unfreed::{Profiler, internals};

#[global_allocator]
static ALLOC: unfreed::Alloc = unfreed::Alloc::system();

const BUDGET: f64 = 0.01;

/// What a phase did, and what it keeps.
struct Phase {
    name: &'static str,
    bytes: u64,
    blocks: u64,
    kept: Vec<Box<[u8]>>,
    share: f64,
}

/// One block of the phase; every so many is kept.
macro_rules! phase {
    ($name:ident) => {
        #[inline(never)]
        fn $name(phase: &mut Phase, number: usize, keep_every: u64) {
            for _ in 0..number {
                let size = 40 + (phase.blocks % 8) as usize * 30;
                let block = black_box(vec![1u8; size].into_boxed_slice());
                phase.bytes += size as u64;
                phase.blocks += 1;
                if phase.blocks % keep_every == 0 {
                    phase.kept.push(block);
                }
            }
        }
    };
}

phase!(slow_at_first);
phase!(fast);
phase!(slow_again);

type Work = fn(&mut Phase, usize, u64);

/// Runs a phase until `is_over`; its cost is measured from `settling` on.
fn run(
    name: &'static str,
    work: Work,
    blocks_a_ms: Option<usize>,
    keep_every: u64,
    mut is_over: impl FnMut(Duration) -> bool,
) -> Phase {
    let mut phase = Phase { name, bytes: 0, blocks: 0, kept: Vec::with_capacity(3_000_000), share: 0.0 };
    let settling = Duration::from_millis(300);
    let begun = Instant::now();
    let mut costs = None;
    while !is_over(begun.elapsed()) {
        let tick = Instant::now();
        match blocks_a_ms {
            Some(number) => {
                work(&mut phase, number, keep_every);
                // It computes, as a program does between allocations.
                while tick.elapsed() < Duration::from_millis(1) {
                    std::hint::spin_loop();
                }
            }
            None => work(&mut phase, 10_000, keep_every),
        }
        if costs.is_none() && begun.elapsed() > settling {
            costs = Some(internals::sampling_costs());
        }
    }
    let (spent, cpu, _) = internals::sampling_costs();
    let (spent_before, cpu_before, _) = costs.expect("longer than the settling");
    phase.share = (spent - spent_before) as f64 / (cpu - cpu_before) as f64;
    let seconds = begun.elapsed().as_secs_f64();
    println!(
        "{name}: {:.1} MB/s, sampling cost {:.2}% of CPU time",
        phase.bytes as f64 / 1e6 / seconds,
        100.0 * phase.share
    );
    phase
}

fn interval(profiler: &Profiler) -> u64 {
    profiler.snapshot().sample_interval_bytes()
}

/// Where CPU time is no matter, live samples are bounded by memory alone.
fn memory_is_bounded() {
    let mut kept = Vec::with_capacity(2_000_000);
    let builder = Profiler::builder().overhead_budget(1.0).no_output().quiet().store_in_memory();
    let profiler = builder.start().expect("starts");
    let mut worst = 0.0f64;
    for i in 0..1_500_000usize {
        kept.push(vec![1u8; 40 + i % 8 * 30].into_boxed_slice());
        if i % 20_000 == 0 {
            let (_, _, sample_bytes) = internals::sampling_costs();
            let live = profiler.snapshot().totals().live_bytes;
            worst = worst.max(sample_bytes as f64 / ((8 << 20) as f64 + live as f64 / 100.0));
        }
    }
    let snapshot = profiler.snapshot();
    let all: Vec<usize> = (0..snapshot.sites().len()).collect();
    let [live, ..] = internals::estimates(&snapshot, &all);
    let truth = kept.iter().map(|block| block.len()).sum::<usize>() as f64;
    let off = (live.value - truth) / ((live.high - live.low) / (2.0 * 1.96));
    let interval = snapshot.sample_interval_bytes();
    println!("memory: samples took up to {:.2} of the budget, R {interval} B; {off:+.2} standard errors", worst);
    assert!(worst > 0.5, "nothing was tested: {worst}");
    assert!(worst < 1.5, "{worst}");
    // What the runner itself keeps is a few KiB.
    assert!(off.abs() < 5.5 && interval > 1024, "{live:?}, truth {truth}");
}

#[test]
fn budgets_hold_while_the_rate_changes() {
    let long = std::env::var_os("UNFREED_TEST_LONG").is_some();
    let builder = Profiler::builder().overhead_budget(BUDGET).no_output().quiet().store_in_memory();
    let profiler = builder.start().expect("starts");
    assert_eq!(interval(&profiler), 1024);
    let until = |seconds: f64| move |elapsed: Duration| elapsed.as_secs_f64() > seconds;

    let first = run("slow", slow_at_first, Some(10), 50, until(1.5));
    let at_first = interval(&profiler);
    let fast = run("fast", fast, None, 16, {
        let mut blocks = 0u64;
        // 1,600,000 kept blocks: far more than the memory budget would hold at 1 KiB.
        move |elapsed| {
            blocks += 10_000;
            blocks > 25_600_000 || elapsed.as_secs_f64() > 15.0
        }
    });
    let (_, _, sample_bytes) = internals::sampling_costs();
    let at_peak = interval(&profiler);
    let live = profiler.snapshot().totals().live_bytes;
    let memory_budget = (8 << 20) as f64 + live as f64 / 100.0;
    println!("R: {at_first} B, then {at_peak} B; samples take {sample_bytes} B, budget {memory_budget:.0} B");
    let wanted = if long { 1024 } else { at_peak / 8 };
    let again = run("slow", slow_again, Some(10), 50, |elapsed| {
        elapsed.as_millis() % 500 == 0 && interval(&profiler) <= wanted && elapsed.as_secs_f64() > 0.5
            || elapsed.as_secs_f64() > 40.0
    });
    let at_end = interval(&profiler);
    println!("R at the end: {at_end} B");

    let change = (fast.bytes as f64 / first.bytes as f64).max(1.0);
    assert!(at_peak >= 8 * at_first, "R rose from {at_first} to {at_peak} alone, at {change:.0} times the bytes");
    assert!(at_end <= at_peak / 8, "R came down from {at_peak} to {at_end} alone");
    assert!(sample_bytes as f64 <= 1.5 * memory_budget, "samples take {sample_bytes} B of {memory_budget}");

    let snapshot = profiler.snapshot();
    for (phase, function) in [(&first, "slow_at_first"), (&fast, "fast"), (&again, "slow_again")] {
        assert!(phase.share <= 1.5 * BUDGET, "{}: {:.2}%", phase.name, 100.0 * phase.share);
        let of_phase = |site: &unfreed::Site<'_>| {
            site.frames().any(|frame| frame.name().is_some_and(|name| name.ends_with(&format!("governor::{function}"))))
        };
        let sites: Vec<usize> =
            snapshot.sites().enumerate().filter(|(_, site)| of_phase(site)).map(|(i, _)| i).collect();
        assert!(!sites.is_empty(), "{function}");
        let kept_bytes: u64 = phase.kept.iter().map(|block| block.len() as u64).sum();
        let truths = [kept_bytes, phase.kept.len() as u64, phase.bytes, phase.blocks];
        for (i, (estimate, truth)) in internals::estimates(&snapshot, &sites).iter().zip(truths).enumerate() {
            let truth = truth as f64;
            let error = ((estimate.high - estimate.low) / (2.0 * 1.96)).max(1e-3 * truth);
            let off = (estimate.value - truth) / error;
            println!("{function} {i}: estimate/truth {:.4}, {off:+.2} standard errors", estimate.value / truth);
            // Live figures of a slow phase: some hundred blocks, so an interval of a few samples, too wide to be wrong.
            assert!(off.abs() < 5.5, "{function}, figure {i}: {estimate:?}, truth {truth}");
        }
    }
    drop(snapshot);
    drop(profiler);
    memory_is_bounded();
}
