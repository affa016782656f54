//! Exact mode: where as many threads allocate as there are processors, they drain the rings themselves, from half a ring on. On more
//! processors they leave it to the drain thread, which sleeps here: then records stay until a ring is full.

use std::hint::black_box;

use unfreed::{Profiler, internals};

#[global_allocator]
static ALLOC: unfreed::Alloc = unfreed::Alloc::system();

/// Half a ring of exact mode.
const HALF: u64 = 4096;

/// All that starts from here on runs on this processor.
fn on_one_processor() {
    // SAFETY: all zero is an empty set.
    let mut one: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: of this thread, the one that runs; its processor is in the set's range.
    unsafe { libc::CPU_SET(usize::try_from(libc::sched_getcpu()).expect("there are"), &mut one) };
    // SAFETY: a valid set, of this thread.
    assert_eq!(unsafe { libc::sched_setaffinity(0, size_of_val(&one), &raw const one) }, 0);
}

/// So many records.
fn record(records: u64) {
    for _ in 0..records / 2 {
        drop(black_box(Box::new([0_u8; 64])));
    }
}

/// One function, since two tests would fill each other's rings.
#[test]
fn from_half_a_ring_on_where_no_processor_is_idle() {
    on_one_processor();
    let running = Profiler::builder().exact().no_output().quiet().store_in_memory().start().expect("a profile starts");
    let paused = internals::pause_drain();
    let _ = internals::drain();

    // That all processors are busy is known once the rings were drained: until then there is one that may be idle.
    record(HALF + 1000);
    let left = internals::drain();
    assert!(left >= HALF + 1000, "{left} records left: drained by the program's thread before its ring was full");

    record(HALF + 1000);
    let left = internals::drain();
    assert!(
        (900..1500).contains(&left),
        "{left} records left of half a ring and 1,000: drained at half a ring, or not at all"
    );

    // Blocks that are in no slot, too, by the long way.
    for _ in 0..(HALF + 1000) / 2 {
        drop(black_box(Vec::<u8>::with_capacity(100_000)));
    }
    let left = internals::drain();
    assert!((900..1500).contains(&left), "{left} records left of large blocks");

    drop(paused);
    let seen = running.snapshot();
    drop(running);
    assert_eq!(seen.losses().dropped_records, 0);
}
