//! Requests that an allocator is not always asked for: `safety_requests MODE refused BYTES` makes some that are refused, while
//! another thread reads the totals; `safety_requests MODE cancelled` makes them in threads that are to be cancelled.

use std::ffi::c_void;
use std::hint::black_box;
use std::ptr::{null, null_mut};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use allocator_tests::runner::end_within;

#[global_allocator]
static ALLOC: unfreed::Alloc = unfreed::Alloc::system();

fn main() {
    end_within(100);
    let arguments: Vec<String> = std::env::args().collect();
    let builder = unfreed::Profiler::builder().no_output().quiet();
    let builder = match arguments[1].as_str() {
        "exact" => builder.exact(),
        "fine" => builder.sample_interval(4096),
        "governed" => builder,
        other => panic!("no mode {other}"),
    };
    let profiler = builder.start().expect("starts");
    match arguments[2].as_str() {
        "refused" => refused(&profiler, arguments[3].parse().expect("a number of bytes")),
        "cancelled" => cancelled(),
        other => panic!("no case {other}"),
    }
}

static IS_OVER: AtomicBool = AtomicBool::new(false);
static REFUSED: AtomicU32 = AtomicU32::new(0);

/// Far more than this program makes, its snapshots included.
const MOST_BYTES: u64 = 256 << 20;

fn refused(profiler: &unfreed::Profiler, bytes: usize) {
    let ask = move || {
        while !IS_OVER.load(Ordering::Relaxed) {
            let mut block: Vec<u8> = Vec::with_capacity(16);
            assert!(block.try_reserve_exact(bytes).is_err());
            let mut block: Vec<u8> = Vec::new();
            assert!(block.try_reserve_exact(bytes).is_err());
            REFUSED.fetch_add(2, Ordering::Relaxed);
        }
    };
    let threads = [std::thread::spawn(ask), std::thread::spawn(ask)];
    let look = || {
        let totals = profiler.snapshot().totals();
        let shown = [totals.live_bytes, totals.max_live_bytes, totals.total_bytes];
        assert!(shown.iter().all(|&bytes| bytes < MOST_BYTES), "{totals:?}");
    };
    while REFUSED.load(Ordering::Relaxed) < 300_000 {
        look();
    }
    IS_OVER.store(true, Ordering::Relaxed);
    threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
    look();
}

// In neither libc's declarations.
unsafe extern "C" {
    fn pthread_cancel(thread: libc::pthread_t) -> libc::c_int;
}

static MAY_BEGIN: AtomicBool = AtomicBool::new(false);
static ENDED: AtomicU32 = AtomicU32::new(0);

/// Blocks from so many chains that the store has to grow.
#[inline(never)]
fn descend(path: u64, depth: u32, kept: &mut Vec<Box<[u8; 64]>>) {
    if depth == 0 {
        kept.push(Box::new([1; 64]));
        return;
    }
    // Calls apart, so that each turn is another chain.
    match path & 3 {
        0 => descend(path >> 2, depth - 1, kept),
        1 => {
            descend(path >> 2, depth - 1, kept);
            black_box(1);
        }
        2 => {
            descend(path >> 2, depth - 1, kept);
            black_box(2);
        }
        _ => {
            descend(path >> 2, depth - 1, kept);
            black_box(3);
        }
    }
}

extern "C" fn allocates(_: *mut c_void) -> *mut c_void {
    while !MAY_BEGIN.load(Ordering::Acquire) {
        std::hint::spin_loop();
    }
    let mut kept = Vec::new();
    (0..200_000).for_each(|path| descend(path, 10, &mut kept));
    drop(kept);
    ENDED.fetch_add(1, Ordering::SeqCst);
    null_mut()
}

/// Nothing that these threads do is a cancellation point, and an allocation is none either.
fn cancelled() {
    let threads: Vec<libc::pthread_t> = (0..3)
        .map(|_| {
            // SAFETY: a number or a pointer: all zero is a place for either.
            let mut thread: libc::pthread_t = unsafe { std::mem::zeroed() };
            // SAFETY: a place for the answer, and a function that takes nothing.
            let failed = unsafe { libc::pthread_create(&raw mut thread, null(), allocates, null_mut()) };
            assert_eq!(failed, 0);
            // SAFETY: a thread that was not joined.
            assert_eq!(unsafe { pthread_cancel(thread) }, 0);
            thread
        })
        .collect();
    MAY_BEGIN.store(true, Ordering::Release);
    for thread in threads {
        // SAFETY: joined once.
        assert_eq!(unsafe { libc::pthread_join(thread, null_mut()) }, 0);
    }
    assert_eq!(ENDED.load(Ordering::SeqCst), 3, "all did their work");
}
