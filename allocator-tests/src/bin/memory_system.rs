//! Where memory is, over the system's allocator: `memory_system CASE`, of `allocator_tests::memory` or an end by SIGTERM
//! while threads are inside malloc: `reports` (others ask for reports), `drop` (the profile is being stopped).

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use allocator_tests::memory;
use allocator_tests::runner::end_within;

#[global_allocator]
static ALLOC: unfreed::Alloc = unfreed::Alloc::system();

static WALKS: AtomicUsize = AtomicUsize::new(0);
static GO: AtomicBool = AtomicBool::new(false);

/// Holds the main arena's lock nearly all the time, as a thread that walks its bins inside malloc does.
fn walk_the_arenas() -> ! {
    loop {
        // SAFETY: glibc's own.
        std::hint::black_box(unsafe { libc::mallinfo2() });
        WALKS.fetch_add(1, Ordering::Relaxed);
    }
}

/// The signal comes to a thread that holds the allocator's lock; its handler holds it until the profile is written.
fn end_inside_malloc(end: &str) {
    let profiler = std::sync::Arc::new(
        unfreed::Profiler::builder().sample_interval(512 * 1024).output("out.json").start().expect("starts"),
    );
    // Free chunks that no neighbour joins: each walk takes a while.
    let blocks: Vec<Box<[u8; 1100]>> = (0..40_000).map(|_| Box::new([1; 1100])).collect();
    let kept: Vec<_> = blocks.into_iter().enumerate().filter(|(n, _)| n % 2 == 0).map(|(_, block)| block).collect();
    std::hint::black_box(&kept);
    let (send, walker) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        // SAFETY: the calling thread's own.
        send.send(unsafe { libc::pthread_self() }).expect("heard");
        walk_the_arenas()
    });
    let walker = walker.recv().expect("a thread");
    for _ in 0..2 {
        let profiler = std::sync::Arc::clone(&profiler);
        std::thread::spawn(move || {
            while !GO.load(Ordering::Acquire) {
                std::thread::yield_now();
            }
            loop {
                std::hint::black_box(profiler.leaks());
                std::hint::black_box(profiler.snapshot());
            }
        });
    }
    while WALKS.load(Ordering::Relaxed) < 10 {
        std::thread::yield_now();
    }
    if end == "reports" {
        GO.store(true, Ordering::Release);
    }
    let storm = std::thread::spawn(move || {
        loop {
            // SAFETY: that thread runs for ever.
            unsafe { libc::pthread_kill(walker, libc::SIGTERM) };
            std::thread::yield_now();
        }
    });
    if end == "drop" {
        // The clones of the threads that never went are forgotten by counting down to the last.
        let raw = std::sync::Arc::into_raw(profiler);
        // SAFETY: the two threads never use theirs, since GO is never set.
        drop(unsafe { std::ptr::read(raw) });
    }
    let _ = storm.join();
}

fn main() {
    end_within(60);
    match std::env::args().nth(1).expect("a case").as_str() {
        end @ ("reports" | "drop") => end_inside_malloc(end),
        case => memory::print(&memory::run(case)),
    }
}
