//! A program that ends in every way while a profile runs: `ends_program MODE END [RESERVE]`.
//!
//! It keeps 1,000 blocks of 1,000 bytes, made by `leaky_function`, says `ready` by making that file, and ends.

use std::alloc::{GlobalAlloc, Layout, System};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use allocator_tests::load::{Block, Load};
use allocator_tests::runner::end_within;

#[global_allocator]
static ALLOC: unfreed::Alloc<Locked> = unfreed::Alloc::new(Locked);

/// An allocator with one lock, as many have, and a signal that arrives while it is held.
struct Locked;

static LOCK: AtomicBool = AtomicBool::new(false);
static RAISE_INSIDE: AtomicBool = AtomicBool::new(false);

fn locked<T>(f: impl FnOnce() -> T) -> T {
    while LOCK.swap(true, Ordering::Acquire) {
        std::thread::yield_now();
    }
    if RAISE_INSIDE.swap(false, Ordering::Relaxed) {
        // SAFETY: a signal to this very thread, which handles it here.
        unsafe { libc::raise(libc::SIGTERM) };
    }
    let result = f();
    LOCK.store(false, Ordering::Release);
    result
}

// SAFETY: the system's allocator.
unsafe impl GlobalAlloc for Locked {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's layout.
        locked(|| unsafe { System.alloc(layout) })
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: the caller's block.
        locked(|| unsafe { System.dealloc(ptr, layout) });
    }
}

#[inline(never)]
fn leaky_function(kept: &mut Vec<Box<[u8; 1000]>>) {
    kept.push(Box::new([7; 1000]));
    std::hint::black_box(kept);
}

static SIGNALS: AtomicU32 = AtomicU32::new(0);
static PREVIOUS: AtomicU32 = AtomicU32::new(0);

extern "C" fn own_handler(_signal: i32) {
    SIGNALS.fetch_add(1, Ordering::SeqCst);
}

/// As signal-hook (and so tokio) does: calls whoever was there before.
extern "C" fn chaining_handler(signal: i32) {
    SIGNALS.fetch_add(1, Ordering::SeqCst);
    PREVIOUS.fetch_add(1, Ordering::SeqCst);
    let previous = CHAINED.load(Ordering::SeqCst);
    if previous > 1 {
        // SAFETY: the handler that `sigaction` reported.
        let previous: extern "C" fn(i32) = unsafe { std::mem::transmute(previous) };
        previous(signal);
    }
}

static CHAINED: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);

fn handle(signal: i32, handler: usize) -> usize {
    // SAFETY: all zero is a valid action.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler;
    // SAFETY: as above.
    let mut before: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: valid actions.
    unsafe { libc::sigaction(signal, &raw const action, &raw mut before) };
    before.sa_sigaction
}

fn handler_of(signal: i32) -> usize {
    // SAFETY: all zero is a place for the answer.
    let mut before: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: asks alone.
    unsafe { libc::sigaction(signal, std::ptr::null(), &raw mut before) };
    before.sa_sigaction
}

fn block_everywhere(signal: i32) -> libc::sigset_t {
    // SAFETY: all zero is a place for a set.
    let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: a place for a set.
    unsafe { libc::sigemptyset(&raw mut set) };
    // SAFETY: an initialized set.
    unsafe { libc::sigaddset(&raw mut set, signal) };
    // SAFETY: a valid set; threads made from here on inherit it.
    unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) };
    set
}

fn ready() {
    std::fs::write("ready", "").expect("a file in the current directory");
}

fn wait_for_signal() -> ! {
    ready();
    loop {
        // SAFETY: waits.
        unsafe { libc::pause() };
    }
}

/// Waits for a signal that a handler of the program takes, then checks that it alone had it, and returns.
fn until_handled() {
    ready();
    while SIGNALS.load(Ordering::SeqCst) == 0 {
        std::thread::yield_now();
    }
}

fn builder(mode: &str) -> unfreed::Builder {
    match mode {
        "exact" => unfreed::Profiler::builder().exact(),
        "sampled" => unfreed::Profiler::builder(),
        "fine" => unfreed::Profiler::builder().sample_interval(100),
        other => panic!("no mode {other}"),
    }
    .output("out.json")
}

#[allow(clippy::too_many_lines, reason = "one arm an end")]
fn main() {
    end_within(60);
    let arguments: Vec<String> = std::env::args().collect();
    let (mode, end) = (arguments[1].as_str(), arguments[2].as_str());
    // What must be there before the profiler starts.
    match end {
        "ignored" => {
            handle(libc::SIGINT, libc::SIG_IGN);
        }
        "own-handler-before" => {
            handle(libc::SIGTERM, own_handler as *const () as usize);
        }
        "sigwait" => {
            block_everywhere(libc::SIGTERM);
        }
        _ => {}
    }
    let mut builder = builder(mode).store("store");
    if end == "no-signals" {
        builder = builder.no_signals();
    }
    let profiler = builder.start().expect("starts");
    // Never freed, so that it is there at every end.
    let kept = Box::leak(Box::new(Vec::new()));
    for _ in 0..1000 {
        leaky_function(kept);
    }
    match end {
        "drop" => drop(profiler),
        "return" => {}
        "exit" => std::process::exit(3),
        "forget-exit" => {
            std::mem::forget(profiler);
            std::process::exit(3);
        }
        "forget-return" => {
            std::mem::forget(profiler);
        }
        "exit-in-thread" => {
            let load = Load::start(3);
            load.wait_turns(5);
            std::thread::spawn(|| std::process::exit(3)).join().expect("ends the process");
        }
        "exit-while-dropping" => {
            // `exit` waits for the file that the other thread is writing.
            let thread = std::thread::spawn(move || drop(profiler));
            while std::fs::read_dir(".").expect("here").count() < 2 && !thread.is_finished() {
                std::thread::yield_now();
            }
            std::process::exit(3);
        }
        "return-under-load" => {
            let load = Load::start(3);
            load.wait_turns(5);
            std::mem::forget(load);
        }
        "abort" => {
            profiler.flush();
            std::process::abort();
        }
        "abort-at-once" => std::process::abort(),
        "exec" => {
            let error = Command::new("sh").args(["-c", ": > ready; exec sleep 50"]).exec();
            panic!("sh: {error}");
        }
        "panic" => panic!("as it should"),
        "wait" | "no-signals" => wait_for_signal(),
        "wait-under-load" => {
            let load = Load::start(2);
            load.wait_turns(5);
            ready();
            // The main thread takes the signal in the midst of allocating, with luck.
            loop {
                let blocks: Vec<_> = (0..100).map(|n| Block::new(1 + n * 37, 1)).collect();
                drop(blocks);
            }
        }
        "inside-the-allocator" => {
            RAISE_INSIDE.store(true, Ordering::Relaxed);
            loop {
                // So small that in sampled mode it comes by the hot path, where the thread may be held up; then one that no
                // slot holds, for exact mode.
                std::hint::black_box(Box::new([1u8; 8]));
                std::hint::black_box(Block::new(100_000, 1));
            }
        }
        "wait-in-thread" => {
            // Only another thread can take it.
            std::thread::spawn(|| wait_for_signal());
            std::thread::sleep(std::time::Duration::from_secs(50));
        }
        "signal-while-stopping" => {
            // Taken by the handler when nobody is left to obey it: it must not be swallowed.
            let main = std::thread::spawn(move || {
                ready();
                drop(profiler);
            });
            main.join().expect("no panic");
            wait_for_signal();
        }
        "stopped" => {
            drop(profiler);
            assert_eq!(handler_of(libc::SIGINT), libc::SIG_DFL, "the default is back");
            assert_eq!(handler_of(libc::SIGTERM), libc::SIG_DFL, "the default is back");
            let _ = std::fs::remove_file("out.json");
            wait_for_signal();
        }
        "own-handler-before" => {
            assert_eq!(handler_of(libc::SIGTERM), own_handler as *const () as usize);
            until_handled();
        }
        "own-handler-after" => {
            handle(libc::SIGTERM, own_handler as *const () as usize);
            until_handled();
            drop(profiler);
            assert_eq!(handler_of(libc::SIGTERM), own_handler as *const () as usize, "left alone");
        }
        "chaining-handler" => {
            CHAINED.store(handler_of(libc::SIGTERM), Ordering::SeqCst);
            handle(libc::SIGTERM, chaining_handler as *const () as usize);
            until_handled();
            assert!(!std::path::Path::new("out.json").exists(), "a program that handles its signals goes on");
            // It had its chance to end us.
            profiler.flush();
            std::thread::sleep(std::time::Duration::from_millis(300));
            profiler.flush();
            std::process::exit(4);
        }
        "ignored" => {
            assert_eq!(handler_of(libc::SIGINT), libc::SIG_IGN, "left alone");
            for _ in 0..3 {
                // SAFETY: a signal to ourselves, which is ignored.
                unsafe { libc::kill(libc::getpid(), libc::SIGINT) };
            }
            profiler.flush();
            assert_eq!(handler_of(libc::SIGINT), libc::SIG_IGN, "left alone");
            std::process::exit(4);
        }
        "sigwait" => {
            // Blocked everywhere before the profiler's thread was made: it comes here and nowhere else.
            let set = block_everywhere(libc::SIGTERM);
            ready();
            let mut got = 0;
            // SAFETY: a valid set and a place for the answer.
            assert_eq!(unsafe { libc::sigwait(&raw const set, &raw mut got) }, 0);
            assert_eq!(got, libc::SIGTERM);
            std::process::exit(5);
        }
        "command" => {
            // What a child of ours starts with.
            let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
            let ours = status.lines().find(|line| line.starts_with("SigCgt")).expect("caught").to_owned();
            let output = std::process::Command::new("cat").arg("/proc/self/status").output().expect("cat");
            let theirs = String::from_utf8_lossy(&output.stdout).into_owned();
            let mask =
                |line: &str| u64::from_str_radix(line.split_whitespace().nth(1).expect("a mask"), 16).expect("hex");
            let of = |name: &str| mask(theirs.lines().find(|line| line.starts_with(name)).expect("a line"));
            assert_ne!(mask(&ours) & (1 << (libc::SIGTERM - 1)), 0, "we do catch it");
            assert_eq!(of("SigCgt") & 0x7FFF, 0, "a child catches nothing");
            assert_eq!(of("SigBlk"), 0, "a child blocks nothing");
            assert_eq!(of("SigIgn") & (1 << (libc::SIGTERM - 1)), 0, "a child ignores nothing of ours");
        }
        "forked-child" => {
            // A child that did not exec dies of the signal at once, and writes nothing.
            // SAFETY: the child only waits.
            let pid = unsafe { libc::fork() };
            if pid == 0 {
                end_within(20);
                loop {
                    // SAFETY: waits.
                    unsafe { libc::pause() };
                }
            }
            // SAFETY: a signal to our child.
            unsafe { libc::kill(pid, libc::SIGTERM) };
            let mut status = 0;
            // SAFETY: a place for its status.
            unsafe { libc::waitpid(pid, &raw mut status, 0) };
            assert_eq!(status, libc::SIGTERM, "its status");
            assert!(!std::path::Path::new("out.json").exists());
            assert!(std::path::Path::new("store").exists());
        }
        other => panic!("no end {other}"),
    }
}
