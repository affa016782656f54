//! What live samples take, which the governor bounds, is of this profile's samples alone, and nothing when they are gone.
//!
//! Blocks of an exact profile that lived on were subtracted when they were freed under the next, though it had never added them: the
//! sum fell far below nothing, and as much too many samples could live.

use std::hint::black_box;

use unfreed::{Profiler, internals};

#[global_allocator]
static ALLOC: unfreed::Alloc = unfreed::Alloc::system();

fn blocks(count: usize) -> Vec<Vec<u8>> {
    (0..count).map(|_| black_box(vec![1u8; 1000])).collect()
}

/// Bytes that live samples take.
fn taken() -> i64 {
    internals::sampling_costs().2
}

#[test]
fn what_live_samples_take_is_added_and_subtracted_alike() {
    let builder = || Profiler::builder().no_output().quiet().store_in_memory();
    let exact = builder().exact().start().expect("starts");
    let (freed, shrunk) = (blocks(2_000), blocks(2_000));
    drop(exact);
    let sampled = builder().sample_interval(512).start().expect("starts");
    let before = taken();
    drop(freed);
    let shrunk = shrunk.into_iter().map(|mut block| {
        block.truncate(900);
        block.shrink_to_fit();
        black_box(block)
    });
    drop(shrunk.collect::<Vec<_>>());
    let after_older = taken();
    // Most are sampled; half of those are thinned out where they are, or on their way.
    let mut young = blocks(2_000);
    let held = taken();
    for block in &mut young {
        block.truncate(100);
        block.shrink_to_fit();
    }
    let thinned = taken();
    drop(young);
    let after = taken();
    drop(sampled);
    println!("{before} B, older blocks gone {after_older}, 2,000 made {held}, thinned {thinned}, all gone {after}");
    // A few of the harness's may come and go meanwhile.
    let near = |taken: i64| (taken - before).abs() < 64 * 1024;
    assert!(near(after_older), "{after_older} B once older blocks were gone, {before} before");
    assert!(held - before > 1_000_000 && thinned < held / 2, "{held} B of 2,000 blocks, thinned to {thinned}");
    assert!(near(after), "{after} B once all were gone, {before} before");
}
