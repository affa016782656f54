//! A capture allocates nothing: neither from the program's heap nor from the profiler's own memory.
//!
//! The allocator below the hook counts what it is asked for, and the profiler counts its own blocks. Captures are made in
//! both ways: by themselves with no profile running, where whatever they allocated would be the heap's; and through the
//! hook, where it would be the profiler's own. (Tried with a
//! `Box` in `unwind::capture_changed`: the first part fails.)

use std::alloc::{GlobalAlloc, Layout, System};
use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};

use allocator_tests::cost::{at_depth, below};
use unfreed::{Profiler, internals};

struct Counting;

static ASKED: AtomicU64 = AtomicU64::new(0);

// SAFETY: the system's allocator, and a counter.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ASKED.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promises.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOC: unfreed::Alloc<Counting> = unfreed::Alloc::new(Counting);

fn profiler() -> Profiler {
    Profiler::builder().exact().no_output().quiet().store_in_memory().start().expect("a profile starts")
}

/// One function, as two tests would count each other's allocations.
#[test]
fn neither_of_the_heap_nor_of_ours() {
    // It lists the modules, and stays listed.
    drop(profiler());
    at_depth(40, &mut |captures| {
        let before = (ASKED.load(Ordering::Relaxed), internals::own_allocations());
        for round in 0..1000 {
            if round % 3 == 0 {
                captures.forget();
            }
            // New stacks, new nodes, repeated ones.
            let depth = round % 17;
            below(depth, &mut || {
                black_box(captures.capture());
            });
        }
        let after = (ASKED.load(Ordering::Relaxed), internals::own_allocations());
        assert_eq!(after, before, "captures by themselves allocated (of the heap, of ours)");
    });

    let running = profiler();
    let paused = internals::pause_drain();
    // What a thread's first record needs.
    drop(black_box(Box::new([0_u8; 64])));
    let before = (ASKED.load(Ordering::Relaxed), internals::own_allocations());
    for round in 0..1000 {
        below(round % 23, &mut || drop(black_box(Box::new([0_u8; 64]))));
    }
    let after = (ASKED.load(Ordering::Relaxed), internals::own_allocations());
    drop(paused);
    let sites = running.snapshot().sites().count();
    assert!(sites >= 23, "{sites} sites of 23 depths: nothing was captured");
    assert_eq!(after.1, before.1, "the hook allocated of our own memory in 1,000 pairs");
    assert!(after.0 - before.0 <= 1000, "the heap was asked {} times for 1,000 blocks", after.0 - before.0);
}
