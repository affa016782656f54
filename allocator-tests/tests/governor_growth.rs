//! The governor knows what growth costs: blocks that enter the sample by growing, and tracked blocks that grow, are
//! captured and recorded like new ones, and R rises for them too.
//!
//! So is what the samples of short threads cost, too few in each to be told of before its end.
//!
//! A program that fills vectors is at R = 1 KiB for ever where reallocs are not charged. Nothing here depends on how fast
//! the machine is: a busy one makes captures dearer, and R higher.

use std::hint::black_box;

use unfreed::{Profiler, internals};

#[global_allocator]
static ALLOC: unfreed::Alloc = unfreed::Alloc::system();

#[test]
fn growth_and_short_threads_are_charged() {
    growth();
    short_threads();
}

/// Some 4 samples a thread.
fn short_threads() {
    let builder = Profiler::builder().overhead_budget(0.01).no_output().quiet().store_in_memory();
    let profiler = builder.start().expect("starts");
    for _ in 0..3000 {
        let work = || (0..64).for_each(|_| drop(black_box(Box::new([0u8; 64]))));
        std::thread::spawn(work).join().expect("it ends");
    }
    let interval_bytes = profiler.snapshot().sample_interval_bytes();
    println!("short threads: R {interval_bytes} B");
    assert!(interval_bytes > 1024, "what samples of short threads cost is not charged");
}

fn growth() {
    let builder = Profiler::builder().overhead_budget(0.01).no_output().quiet().store_in_memory();
    let profiler = builder.start().expect("starts");
    for round in 0..40_000u64 {
        let mut list = Vec::new();
        for value in 0..1000 {
            list.push(black_box(round + value));
        }
        black_box(&list);
    }
    let interval_bytes = profiler.snapshot().sample_interval_bytes();
    let (spent, cpu, _) = internals::sampling_costs();
    println!("R {interval_bytes} B, sampling cost {:.2}% of CPU time", 100.0 * spent as f64 / cpu as f64);
    assert!(interval_bytes >= 8 * 1024, "R is {interval_bytes}: what reallocs cost is not charged");
}
