//! Exact mode's peak is of the order in which things happened, whichever threads they happened in.
//!
//! Two threads take turns: one allocates a block, frees it, and only then tells the other. So there is never more than one
//! such block, and a peak that has two merged them in another order. Beside them a third thread allocates and frees as fast
//! as it can, so that rings are drained all the time.

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

#[global_allocator]
static ALLOC: unfreed::Alloc = unfreed::Alloc::system();

const TURNS: usize = 200_000;

/// A turn's block: in a slot, and in the table.
fn takes_turns(size: usize) {
    let (turn, busy) = (AtomicUsize::new(0), AtomicBool::new(true));
    let mut profiler = None;
    std::thread::scope(|scope| {
        let churn = scope.spawn(|| {
            while busy.load(Ordering::Relaxed) {
                drop(black_box(Box::new(7u64)));
            }
        });
        let started = unfreed::Profiler::builder().exact().no_output().quiet().start().expect("starts");
        let turn = &turn;
        let take = move |mine: usize| {
            let mut at = mine;
            while at < TURNS {
                while turn.load(Ordering::Acquire) != at {
                    std::thread::yield_now();
                }
                drop(black_box(vec![1u8; size]));
                turn.store(at + 1, Ordering::Release);
                at += 2;
            }
        };
        let other = scope.spawn(move || take(1));
        take(0);
        other.join().expect("no panic");
        busy.store(false, Ordering::Relaxed);
        churn.join().expect("no panic");
        profiler = Some(started);
    });
    let totals = profiler.expect("started").snapshot().totals();
    assert!(totals.total_blocks >= TURNS as u64);
    // The threads' own: names, stacks' guards, results.
    assert!(totals.max_live_bytes < (size + size / 2) as u64, "{totals:?}");
    assert!(totals.max_live_bytes >= size as u64, "{totals:?}");
}

#[test]
fn two_threads_that_take_turns_never_hold_two() {
    takes_turns(20_000);
    takes_turns(60_000);
}
