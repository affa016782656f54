//! Stress for AddressSanitizer and ThreadSanitizer (`allocator-tests/sanitize.sh`): `sanitize_stress [PLANT]`.
//!
//! Threads that allocate, resize, free each other's blocks, come and go, while profiles start and stop in all modes and
//! are read. Blocks are passed on through atomics of its own: the standard library that is linked is not instrumented.
//! `PLANT` is a fault that the sanitizer must find: `use-after-free`, `race`, or `slot-race` (a block's contents handed
//! on without order).

use std::alloc::{Layout, alloc, alloc_zeroed, dealloc, realloc};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering};

use allocator_tests::load::Xorshift;
use allocator_tests::runner::end_within;

#[global_allocator]
static ALLOC: unfreed::Alloc = unfreed::Alloc::system();

/// Where threads leave blocks for each other. A block's first two words are its size and a mark.
static PASSED: [AtomicPtr<u64>; 64] = [const { AtomicPtr::new(null_mut()) }; 64];
static STOP: AtomicBool = AtomicBool::new(false);
static ROUNDS: AtomicU64 = AtomicU64::new(0);
static LIVE: AtomicUsize = AtomicUsize::new(0);

fn layout(size: usize) -> Layout {
    Layout::from_size_align(size, 16).expect("a layout")
}

fn size(random: &mut Xorshift) -> usize {
    let most = [64, 300, 3_000, 40_000, 120_000][random.below(5)];
    16 + random.below(most)
}

fn make(random: &mut Xorshift) -> *mut u64 {
    let size = size(random);
    // SAFETY: at least 16 bytes.
    let at: *mut u64 =
        unsafe { if random.below(2) == 0 { alloc(layout(size)) } else { alloc_zeroed(layout(size)) } }.cast();
    assert!(!at.is_null());
    LIVE.fetch_add(1, Ordering::Relaxed);
    write(at, size);
    at
}

fn write(at: *mut u64, size: usize) {
    // SAFETY: a block of ours, of at least two words, aligned.
    unsafe { at.write(size as u64) };
    // SAFETY: as above.
    unsafe { at.add(1).write(!(size as u64)) };
}

fn check(at: *mut u64) -> usize {
    // SAFETY: a block that `write` wrote.
    let size = unsafe { at.read() };
    // SAFETY: as above.
    assert_eq!(unsafe { at.add(1).read() }, !size, "somebody wrote into a block");
    usize::try_from(size).expect("a size")
}

fn free(at: *mut u64) {
    let size = check(at);
    // SAFETY: a block of ours with this layout.
    unsafe { dealloc(at.cast(), layout(size)) };
    LIVE.fetch_sub(1, Ordering::Relaxed);
}

fn resize(at: *mut u64, random: &mut Xorshift) -> *mut u64 {
    let (old, new) = (check(at), size(random));
    // SAFETY: a block of ours with this layout.
    let at: *mut u64 = unsafe { realloc(at.cast(), layout(old), new) }.cast();
    assert!(!at.is_null());
    assert_eq!(check(at), old);
    write(at, new);
    at
}

#[inline(never)]
fn turn(random: &mut Xorshift, order: Ordering) {
    let mut mine = make(random);
    if random.below(3) == 0 {
        mine = resize(mine, random);
    }
    // Whoever takes it sees what was written.
    let theirs = PASSED[random.below(PASSED.len())].swap(mine, order);
    if !theirs.is_null() {
        let theirs = if random.below(4) == 0 { resize(theirs, random) } else { theirs };
        free(theirs);
    }
    if random.below(4) == 0 {
        turn(random, order);
    }
    ROUNDS.fetch_add(1, Ordering::Relaxed);
}

fn worker(seed: u64, rounds: u64, order: Ordering) {
    let mut random = Xorshift(seed);
    for _ in 0..rounds {
        turn(&mut random, order);
    }
}

struct Plant(std::cell::UnsafeCell<u64>);
// SAFETY: it isn't: that is what is planted.
unsafe impl Sync for Plant {}
static PLANTED: Plant = Plant(std::cell::UnsafeCell::new(0));

fn race() {
    for _ in 0..1000 {
        // SAFETY: none: a data race on purpose.
        unsafe { PLANTED.0.get().write_volatile(PLANTED.0.get().read_volatile() + 1) };
    }
}

fn use_after_free() {
    let mut random = Xorshift(1);
    // Larger than any slot: it was the system's.
    // SAFETY: a layout.
    let at: *mut u64 = unsafe { alloc(layout(100_000)) }.cast();
    write(at, 100_000);
    free(at);
    LIVE.fetch_add(1, Ordering::Relaxed);
    // SAFETY: none: the block was freed.
    std::hint::black_box(unsafe { at.add(random.below(1000)).read_volatile() });
}

fn main() {
    // A hang is found by then: under a sanitizer, beside other work, the whole takes a minute.
    end_within(300);
    let plant = std::env::args().nth(1).unwrap_or_default();
    let order = if plant == "slot-race" { Ordering::Relaxed } else { Ordering::AcqRel };
    let long: Vec<_> = (0..3u64)
        .map(|n| {
            std::thread::spawn(move || {
                while !STOP.load(Ordering::Relaxed) {
                    worker(10 + n, 50, order);
                }
            })
        })
        .collect();
    for n in 0..24u64 {
        let builder = match n % 4 {
            0 => unfreed::Profiler::builder().exact(),
            1 => unfreed::Profiler::builder().sample_interval(128),
            2 => unfreed::Profiler::builder().exact().max_frames(8),
            _ => unfreed::Profiler::builder(),
        };
        let profiler = builder.no_output().quiet().store_in_memory().start().expect("starts");
        let short: Vec<_> = (0..4).map(|k| std::thread::spawn(move || worker(100 + n * 8 + k, 40, order))).collect();
        if n == 5 {
            match plant.as_str() {
                "race" => {
                    let other = std::thread::spawn(race);
                    race();
                    other.join().expect("no panic");
                }
                "use-after-free" => use_after_free(),
                _ => {}
            }
        }
        let until = ROUNDS.load(Ordering::Relaxed) + 300;
        while ROUNDS.load(Ordering::Relaxed) < until {
            std::hint::spin_loop();
        }
        if n % 3 == 0 {
            profiler.advance_epoch();
        }
        let snapshot = profiler.snapshot();
        assert!(snapshot.totals().live_bytes < 1 << 40, "below nothing");
        for thread in short {
            thread.join().expect("no panic");
        }
        drop(snapshot);
        drop(profiler);
    }
    STOP.store(true, Ordering::Relaxed);
    for thread in long {
        thread.join().expect("no panic");
    }
    for place in &PASSED {
        let at = place.swap(null_mut(), Ordering::AcqRel);
        if !at.is_null() {
            free(at);
        }
    }
    assert_eq!(LIVE.load(Ordering::Relaxed), 0);
    println!("{} rounds", ROUNDS.load(Ordering::Relaxed));
}
