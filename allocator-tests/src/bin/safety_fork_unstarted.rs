//! A process that never starts a profile, and forks while it has threads: `safety_fork_unstarted CASE`. With `totals-started` one that
//! started one, whose children's totals are looked at.
//!
//! Its children make threads, and start profiles of their own. Each has an alarm, so that a hang is a signal.

use std::hint::black_box;
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::{self, JoinHandle};

use allocator_tests::runner::end_within;

#[global_allocator]
static ALLOC: unfreed::Alloc = unfreed::Alloc::system();

const MEGABYTE: usize = 1_000_000;
const CHURN_FORKS: usize = 1_500;

static STOP: AtomicBool = AtomicBool::new(false);
static READY: AtomicU32 = AtomicU32::new(0);

fn main() {
    end_within(240);
    match std::env::args().nth(1).as_deref() {
        Some("threads") => threads(),
        Some("churn") => churn(),
        Some("totals") => totals(),
        Some("totals-started") => {
            let profiler = start();
            totals();
            drop(profiler);
        }
        other => panic!("no case {other:?}"),
    }
}

fn start() -> unfreed::Profiler {
    unfreed::Profiler::builder().no_output().quiet().start().expect("starts")
}

/// Forks, runs `child` in the child, and expects it to end well.
fn in_child(child: impl FnOnce()) {
    // SAFETY: the C library's allocator may be used in its children.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        // SAFETY: takes a number.
        unsafe { libc::alarm(30) };
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(child));
        // SAFETY: takes a number.
        unsafe { libc::_exit(i32::from(ended.is_err())) }
    }
    let mut status = 0;
    // SAFETY: a place for the answer.
    assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
    assert_eq!(status, 0, "signal {}, status {}", status & 127, status >> 8);
}

/// Not the standard library's: its threads take a lock of its own as they begin, which a thread that the child does not have may hold.
fn short_thread() {
    extern "C" fn body(_: *mut libc::c_void) -> *mut libc::c_void {
        black_box(vec![1_u8; 10]);
        std::ptr::null_mut()
    }
    let (mut id, mut attributes) = (MaybeUninit::uninit(), MaybeUninit::uninit());
    // SAFETY: places for the thread's number and its attributes, which are made before they are used; a function that takes
    // anything; joined once.
    unsafe {
        assert_eq!(libc::pthread_attr_init(attributes.as_mut_ptr()), 0);
        assert_eq!(libc::pthread_attr_setstacksize(attributes.as_mut_ptr(), libc::PTHREAD_STACK_MIN.max(1 << 16)), 0);
        assert_eq!(libc::pthread_create(id.as_mut_ptr(), attributes.as_ptr(), body, std::ptr::null_mut()), 0);
        assert_eq!(libc::pthread_join(id.assume_init(), std::ptr::null_mut()), 0);
    }
}

fn wait_until_ready(threads: u32) {
    while READY.load(Ordering::Acquire) < threads {
        thread::yield_now();
    }
}

fn join(threads: Vec<JoinHandle<()>>) {
    STOP.store(true, Ordering::Release);
    threads.into_iter().for_each(|thread| {
        thread.thread().unpark();
        thread.join().expect("no panic");
    });
}

/// A thread of large stack that makes a block, sleeps, and frees it at the end: in a child its stack is another's, or nobody's.
fn sleeper(bytes: usize) -> JoinHandle<()> {
    let body = move || {
        let kept = black_box(vec![1_u8; bytes]);
        READY.fetch_add(1, Ordering::Release);
        while !STOP.load(Ordering::Acquire) {
            thread::park();
        }
        drop(kept);
    };
    thread::Builder::new().stack_size(8 << 20).spawn(body).expect("spawns")
}

/// Threads of the parent's are listed with words that lie where the child's threads are made, or nothing is.
fn threads() {
    let sleepers: Vec<_> = (0..12).map(|_| sleeper(1000)).collect();
    wait_until_ready(12);
    for _ in 0..5 {
        in_child(|| {
            (0..3).for_each(|_| short_thread());
            let profiler = start();
            short_thread();
            // A child's child, of a parent that started one.
            in_child(short_thread);
            drop(profiler);
        });
        in_child(|| in_child(|| in_child(|| drop(start()))));
    }
    join(sleepers);
}

/// Some threads are being registered, or end, whenever it forks.
fn churn() {
    let body = || {
        while !STOP.load(Ordering::Acquire) {
            short_thread();
            READY.fetch_add(1, Ordering::Release);
        }
    };
    let threads: Vec<_> = (0..3).map(|_| thread::spawn(body)).collect();
    wait_until_ready(3);
    for fork in 0..CHURN_FORKS {
        in_child(|| {
            short_thread();
            if fork % 16 == 0 {
                drop(start());
            }
        });
    }
    join(threads);
}

/// What all threads of the parent's hold at the fork is the child's, though it has no such threads.
fn totals() {
    let sleeper = sleeper(50 * MEGABYTE);
    wait_until_ready(1);
    let held: Vec<Vec<u8>> = (0..100).map(|_| vec![1; MEGABYTE]).collect();
    in_child(|| {
        let profiler = start();
        let live = |megabytes: usize| {
            let found = usize::try_from(profiler.snapshot().totals().live_bytes).expect("64 bits");
            assert!((megabytes * MEGABYTE..megabytes * MEGABYTE + MEGABYTE / 2).contains(&found), "{found}");
        };
        live(150);
        // By a thread that the parent never had.
        thread::scope(|scope| scope.spawn(|| drop(held)).join()).expect("no panic");
        live(50);
    });
    join(vec![sleeper]);
}
