//! The end of an epoch is not charged to samples: it takes as long however few they are.
//!
//! What histories and verdicts took was charged as draining: of a program with many sites and short epochs, the interval rose for it in vain.

use std::hint::black_box;

use unfreed::{Profiler, internals};

#[global_allocator]
static ALLOC: unfreed::Alloc = unfreed::Alloc::system();

/// Call chains, as ways down a tree of calls.
const WAYS: u32 = 1 << 12;
const EPOCHS: u32 = 200;

#[inline(never)]
fn left(way: u32, depth: u32) -> Vec<u8> {
    black_box(down(way >> 1, depth - 1))
}

#[inline(never)]
fn right(way: u32, depth: u32) -> Vec<u8> {
    black_box(down(way >> 1, depth - 1))
}

fn down(way: u32, depth: u32) -> Vec<u8> {
    match (depth, way & 1) {
        (0, _) => vec![1; 200],
        (_, 0) => left(way, depth),
        _ => right(way, depth),
    }
}

#[test]
fn the_end_of_an_epoch_is_not_charged_to_samples() {
    let builder = Profiler::builder().no_output().quiet().store_in_memory().manual_epochs();
    let profiler = builder.sample_interval(1).start().expect("starts");
    let kept: Vec<Vec<u8>> = (0..WAYS).map(|way| down(way, WAYS.ilog2())).collect();
    let sites = profiler.snapshot().sites().len();
    let (charged_before, cpu_before, _) = internals::sampling_costs();
    for _ in 0..EPOCHS {
        profiler.advance_epoch();
    }
    let (charged, cpu, _) = internals::sampling_costs();
    let (charged, cpu) = (charged - charged_before, cpu - cpu_before);
    println!("{sites} sites, {EPOCHS} epochs: {charged} ns charged, {cpu} ns of CPU time in all");
    assert!(sites >= WAYS as usize, "{sites} sites");
    assert!(charged * 5 < cpu, "{charged} ns of {cpu} were charged to samples, of which there were none");
    drop(profiler);
    drop(kept);
}
