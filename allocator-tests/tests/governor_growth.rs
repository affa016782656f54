//! The governor knows what growth costs: blocks that enter the sample by growing, and tracked blocks that grow, are
//! captured and recorded like new ones, and R rises for them too.
//!
//! A program that fills vectors is at R = 1 KiB for ever where reallocs are not charged. Nothing here depends on how fast
//! the machine is: a busy one makes captures dearer, and R higher.

use std::hint::black_box;

use unfreed::{Profiler, internals};

#[global_allocator]
static ALLOC: unfreed::Alloc = unfreed::Alloc::system();

#[test]
fn growth_is_charged() {
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
