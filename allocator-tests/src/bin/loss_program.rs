//! Full load while nobody drains: `loss_program MODE pause|hold|both`.
//!
//! Thirty-two sites, told apart by the way through `left` and `right`, each with a count of its own kept by the program.
//! Afterwards every site that the profile calls known must agree with it; what was lost must be counted.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use allocator_tests::load::Xorshift;
use allocator_tests::runner::end_within;

#[global_allocator]
static ALLOC: unfreed::Alloc = unfreed::Alloc::system();

type Payload = Box<[u8; 160]>;

const DEPTH: u32 = 5;

#[inline(never)]
fn left(way: u32, depth: u32) -> Payload {
    step(way, depth)
}

#[inline(never)]
fn right(way: u32, depth: u32) -> Payload {
    step(way, depth)
}

#[inline(always)]
fn step(way: u32, depth: u32) -> Payload {
    let made = if depth == 0 {
        Box::new([1; 160])
    } else if way >> (depth - 1) & 1 == 0 {
        left(way, depth - 1)
    } else {
        right(way, depth - 1)
    };
    // No tail call: this frame is to be on the stack.
    std::hint::black_box(&made);
    made
}

/// Which way a site's stack went; `None` for other stacks. Leaf first.
fn way(site: &unfreed::Site<'_>) -> Option<u32> {
    let mut turns = 0;
    let mut way = 0;
    for frame in site.frames().iter().filter(|frame| !frame.is_inlined()) {
        let bit = match frame.name() {
            Some(name) if name.ends_with("loss_program::left") => 0,
            Some(name) if name.ends_with("loss_program::right") => 1,
            _ => continue,
        };
        if turns < DEPTH {
            way |= bit << turns;
        }
        turns += 1;
    }
    // The first turn is the entry itself.
    (turns == DEPTH + 1).then_some(way)
}

#[derive(Default)]
struct Truth {
    live: [AtomicU64; 32],
    made: [AtomicU64; 32],
}

fn worker(truth: &Truth, stop: &AtomicBool, seed: u64, ways: std::ops::Range<u32>) -> Vec<(u32, Payload)> {
    let mut random = Xorshift(seed);
    let mut held: Vec<(u32, Payload)> = Vec::with_capacity(512);
    while !stop.load(Ordering::Relaxed) {
        for _ in 0..200 {
            if held.len() < 300 || (random.below(2) == 0 && held.len() < 512) {
                let way = ways.start + u32::try_from(random.below(ways.len())).expect("small");
                held.push((way, left(way, DEPTH)));
                truth.made[way as usize].fetch_add(1, Ordering::Relaxed);
                truth.live[way as usize].fetch_add(1, Ordering::Relaxed);
            } else {
                let at = random.below(held.len());
                let (way, payload) = held.swap_remove(at);
                drop(payload);
                truth.live[way as usize].fetch_sub(1, Ordering::Relaxed);
            }
        }
    }
    held
}

struct Seen {
    live: f64,
    made: f64,
    unknown: bool,
}

fn seen(snapshot: &unfreed::Snapshot) -> HashMap<u32, Seen> {
    let mut all = HashMap::new();
    for site in snapshot.sites() {
        if let Some(way) = way(&site) {
            let entry = all.entry(way).or_insert(Seen { live: 0.0, made: 0.0, unknown: false });
            entry.live += site.live_blocks().value;
            entry.made += site.total_blocks().value;
            entry.unknown |= site.is_unknown();
        }
    }
    all
}

fn main() {
    end_within(50);
    let arguments: Vec<String> = std::env::args().collect();
    let (mode, case) = (arguments[1].as_str(), arguments[2].as_str());
    let exact = mode == "exact";
    let builder = match mode {
        "exact" => unfreed::Profiler::builder().exact(),
        "fine" => unfreed::Profiler::builder().sample_interval(16),
        other => panic!("no mode {other}"),
    };
    let profiler = builder.no_output().quiet().start().expect("starts");
    let truth = Arc::new(Truth::default());

    // The last two ways are quiet while nobody drains: nothing of theirs can be lost.
    let quiet: Vec<_> = (0..1000).map(|n| (30 + n % 2, left(30 + n % 2, DEPTH))).collect();
    for (way, _) in &quiet {
        truth.made[*way as usize].fetch_add(1, Ordering::Relaxed);
        truth.live[*way as usize].fetch_add(1, Ordering::Relaxed);
    }
    profiler.flush();

    let stop = Arc::new(AtomicBool::new(false));
    let threads: Vec<_> = (0..4u64)
        .map(|n| {
            let (truth, stop) = (truth.clone(), stop.clone());
            std::thread::spawn(move || worker(&truth, &stop, 100 + n, 0..30))
        })
        .collect();
    // Every way has been seen before.
    while (0..30).any(|way| truth.made[way].load(Ordering::Relaxed) == 0) {
        std::thread::yield_now();
    }
    let a_second = || {
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(1) {
            std::thread::yield_now();
        }
    };
    match case {
        "pause" => {
            let paused = unfreed::internals::pause_drain();
            a_second();
            drop(paused);
        }
        "hold" => unfreed::internals::hold_aggregator(a_second),
        "both" => {
            let paused = unfreed::internals::pause_drain();
            unfreed::internals::hold_aggregator(a_second);
            drop(paused);
        }
        other => panic!("no case {other}"),
    }
    stop.store(true, Ordering::Relaxed);
    let held: Vec<Vec<(u32, Payload)>> = threads.into_iter().map(|thread| thread.join().expect("no panic")).collect();
    profiler.flush();

    let snapshot = profiler.snapshot();
    let losses = snapshot.losses();
    let all = seen(&snapshot);
    let unknown: Vec<u32> = all.iter().filter(|(_, seen)| seen.unknown).map(|(way, _)| *way).collect();
    let made: u64 = truth.made.iter().map(|made| made.load(Ordering::Relaxed)).sum();
    let given_up = unfreed::internals::given_up();
    println!("made {made}, {losses:?}, given up {given_up} times, unknown {unknown:?}");
    assert_eq!(all.len(), 32, "every site is there");
    // Whatever the machine does: nothing is lost, or what is lost is counted and its sites, and only those, are unknown.
    assert_eq!(losses.dropped_records > 0, !unknown.is_empty(), "counted, and its sites unknown");
    assert!(unknown.len() as u64 <= losses.dropped_records, "only those");
    // And nothing is lost while anybody drains: a record is given up for a stall of 100 ms alone.
    assert!(losses.dropped_records <= given_up, "lost without need");
    if case != "pause" {
        assert!(losses.dropped_records > 0, "a second without any drain must fill the rings: the test is too weak");
    }
    assert!(!unknown.contains(&30) && !unknown.contains(&31), "only those");
    if exact {
        // Losses are counted each: what is missing of the births is no more than that.
        let seen: f64 = all.values().map(|seen| seen.made).sum();
        assert!(made as f64 - seen <= losses.dropped_records as f64, "{made} made, {seen} seen");
    }
    for (way, seen) in &all {
        if exact && !seen.unknown {
            let (live, made) = (&truth.live[*way as usize], &truth.made[*way as usize]);
            assert_eq!(seen.live, live.load(Ordering::Relaxed) as f64, "live blocks of {way}");
            assert_eq!(seen.made, made.load(Ordering::Relaxed) as f64, "blocks made by {way}");
        }
    }
    drop(snapshot);

    // No free becomes a leak: with everything freed no known site has anything left, whatever the mode.
    drop(held);
    drop(quiet);
    profiler.flush();
    let snapshot = profiler.snapshot();
    for (way, seen) in seen(&snapshot) {
        assert!(seen.unknown || seen.live == 0.0, "{way} has {} left", seen.live);
        assert!(seen.live >= 0.0, "{way} has {} left", seen.live);
    }
}
