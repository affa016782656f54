//! Sampled mode follows no small block of an alignment that no slot has: its free would not look for it. Such samples are
//! counted, and what is live at their site is 'unknown': a half stands there.

use std::alloc::{Layout, alloc, dealloc};
use std::hint::black_box;

use unfreed::{Profiler, Site};

#[global_allocator]
static ALLOC: unfreed::Alloc = unfreed::Alloc::system();

/// Each is sampled: the interval is a byte.
const BLOCKS: usize = 50;

#[inline(never)]
fn ordinary() -> Vec<Box<[u8; 1000]>> {
    (0..black_box(BLOCKS)).map(|_| black_box(Box::new([1; 1000]))).collect()
}

/// Of one place in the code: every second one has an alignment that no slot has.
#[inline(never)]
fn over_aligned() -> Vec<(*mut u8, Layout)> {
    let layout =
        |n: usize| Layout::from_size_align(1000, if n.is_multiple_of(2) { 8 } else { 1 << 17 }).expect("a layout");
    // SAFETY: a layout of a size.
    (0..black_box(2 * BLOCKS)).map(|n| (black_box(unsafe { alloc(layout(n)) }), layout(n))).collect()
}

#[test]
fn what_is_not_followed_is_counted_and_its_site_unknown() {
    let builder = Profiler::builder().sample_interval(1).no_output().quiet().store_in_memory();
    let profiler = builder.start().expect("starts");
    let (known, lost) = (ordinary(), over_aligned());
    let snapshot = profiler.snapshot();
    let is_at = |site: &Site<'_>, function: &str| {
        site.frames().any(|frame| frame.name().is_some_and(|name| name.ends_with(function)))
    };
    let unknown = |function: &str| -> Vec<bool> {
        snapshot.sites().filter(|site| is_at(site, function)).map(|site| site.is_unknown()).collect()
    };
    assert_eq!(snapshot.losses().untracked_blocks, BLOCKS as u64, "{:?}", snapshot.losses());
    let (ordinary, aligned) = (unknown("::ordinary"), unknown("::over_aligned"));
    assert!(!ordinary.is_empty() && ordinary.iter().all(|unknown| !unknown), "{ordinary:?}");
    assert!(aligned.contains(&true), "{aligned:?}");
    // SAFETY: each is freed once, as it was allocated.
    lost.into_iter().for_each(|(ptr, layout)| unsafe { dealloc(ptr, layout) });
    drop(known);
}
