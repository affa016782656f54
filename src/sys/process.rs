//! The process: privileges, its end, its signals, its memory, one line on stderr.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use super::{fork, lock};

/// Did the program gain privileges by its file (set-uid and the like)? Then the environment is not to be trusted.
pub(crate) fn is_privileged() -> bool {
    // SAFETY: reads the auxiliary vector.
    unsafe { libc::getauxval(libc::AT_SECURE) != 0 }
}

/// Resident bytes of this process; 0 where /proc can't be read.
pub(crate) fn resident_bytes() -> u64 {
    let Ok(text) = std::fs::read_to_string("/proc/self/statm") else { return 0 };
    let pages = text.split_ascii_whitespace().nth(1).and_then(|word| word.parse::<u64>().ok()).unwrap_or(0);
    // SAFETY: asks for a constant.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    pages * u64::try_from(page).unwrap_or(4096)
}

/// Writes to stderr without the standard library's lock, which a thread that was interrupted by a signal may hold.
pub(crate) fn say(text: &str) {
    super::thread::uncancelled(|| without_write_signals(|| write_all(text)));
}

fn write_all(text: &str) {
    let mut left = text.as_bytes();
    // Bounded: a full pipe that nobody reads is not waited for for ever.
    for _ in 0..1024 {
        if left.is_empty() {
            return;
        }
        // SAFETY: the slice is readable.
        let written = unsafe { libc::write(2, left.as_ptr().cast(), left.len()) };
        match usize::try_from(written) {
            Ok(written) => left = left.get(written..).unwrap_or_default(),
            Err(_) if super::thread::errno() == libc::EINTR => {}
            Err(_) => return,
        }
    }
}

/// Has `at_exit` called when the process ends by `exit` or by returning from main. Once per process.
pub(crate) fn at_exit(f: extern "C" fn()) {
    static DONE: AtomicBool = AtomicBool::new(false);
    if !DONE.swap(true, Ordering::SeqCst) {
        // SAFETY: registers a function that lives as long as the program.
        unsafe { libc::atexit(f) };
    }
}

/// Has `let_go` called when the library that this code is in is closed (`dlclose`), or the process ends by `exit`. For good.
pub(crate) fn at_unload(let_go: extern "C" fn()) {
    // By glibc the function is noted with the library that it is registered from; musl closes none.
    // SAFETY: registers a function that lives as long as the library.
    unsafe { libc::atexit(let_go) };
}

/// The signals that ask a service to end.
const ENDING: [i32; 2] = [libc::SIGINT, libc::SIGTERM];

/// The signal that arrived and waits for the profile to be written; 0: none.
static ARRIVED: AtomicU32 = AtomicU32::new(0);
/// 1 once the profile was written: the waiting handlers go on.
static WRITTEN: AtomicU32 = AtomicU32::new(0);
/// Told that a signal arrived; says whether the interrupted thread may wait (it is not inside the profiler).
static HEED: std::sync::atomic::AtomicPtr<()> = std::sync::atomic::AtomicPtr::new(std::ptr::null_mut());

/// The longest that an interrupted thread waits for the profile to be written.
const LONGEST_WAIT: Duration = Duration::from_secs(20);

/// Takes SIGINT and SIGTERM where the program left them at their default: the profile is written, then the signal has
/// the effect that it would have had. `heed` is called in the handler: it sees to that, and says whether the interrupted thread may
/// be held up meanwhile.
pub(crate) fn catch_ending_signals(heed: fn() -> bool) {
    HEED.store(heed as *mut (), Ordering::Release);
    ARRIVED.store(0, Ordering::Relaxed);
    WRITTEN.store(0, Ordering::Relaxed);
    for signal in ENDING {
        if disposition(signal) != Some(libc::SIG_DFL) {
            continue;
        }
        // SAFETY: all zero is a valid sigaction: no flags, an empty mask.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = handler as *const () as usize;
        action.sa_flags = libc::SA_RESTART | libc::SA_ONSTACK;
        // SAFETY: a valid action whose handler is async-signal-safe.
        unsafe { libc::sigaction(signal, &raw const action, std::ptr::null_mut()) };
    }
}

/// Puts back the default where our handler still stands.
pub(crate) fn release_ending_signals() {
    for signal in ENDING {
        if disposition(signal) == Some(handler as *const () as usize) {
            set_default(signal);
        }
    }
    // Whoever waits in the handler goes on, and meets the default next time.
    WRITTEN.store(1, Ordering::Release);
    lock::wake(&WRITTEN, i32::MAX);
}

/// The signal that asks the process to end, if one arrived.
pub(crate) fn arrived_signal() -> Option<i32> {
    match ARRIVED.load(Ordering::Acquire) {
        0 => None,
        signal => i32::try_from(signal).ok(),
    }
}

/// Ends the process by `signal`, as if no handler had been there. The calling thread takes it, since all others may
/// block it, or wait in our handler.
pub(crate) fn end_by(signal: i32) {
    set_default(signal);
    let set = set_of(&[signal]);
    // SAFETY: a valid set.
    unsafe { libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const set, std::ptr::null_mut()) };
    // SAFETY: no preconditions.
    let me = unsafe { libc::getpid() };
    // SAFETY: a signal to ourselves.
    unsafe { libc::kill(me, signal) };
}

fn disposition(signal: i32) -> Option<usize> {
    // SAFETY: all zero is a valid sigaction to be filled.
    let mut old: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: asks alone.
    (unsafe { libc::sigaction(signal, std::ptr::null(), &raw mut old) } == 0).then_some(old.sa_sigaction)
}

fn set_default(signal: i32) {
    // SAFETY: all zero is a valid sigaction: SIG_DFL.
    let action: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: a valid action.
    unsafe { libc::sigaction(signal, &raw const action, std::ptr::null_mut()) };
}

fn set_of(signals: &[i32]) -> libc::sigset_t {
    // SAFETY: all zero is a valid place for a set.
    let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: initializes it.
    unsafe { libc::sigemptyset(&raw mut set) };
    for signal in signals {
        // SAFETY: an initialized set.
        unsafe { libc::sigaddset(&raw mut set, *signal) };
    }
    set
}

/// What a write raises where the file or its reader takes no more: fatal by default.
const WRITE_SIGNALS: [i32; 2] = [libc::SIGXFSZ, libc::SIGPIPE];

/// Runs `f`, whose writes may fail but raise no signal: a file size limit or a closed pipe is an error of ours, no
/// reason to end the program.
pub(crate) fn without_write_signals<T>(f: impl FnOnce() -> T) -> T {
    let signals = set_of(&WRITE_SIGNALS);
    let (mut before, mut pending) = (set_of(&[]), set_of(&[]));
    // SAFETY: valid sets.
    unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const signals, &raw mut before) };
    // SAFETY: a place for the answer.
    unsafe { libc::sigpending(&raw mut pending) };
    let result = f();
    let now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    for signal in WRITE_SIGNALS {
        // SAFETY: a valid set.
        if unsafe { libc::sigismember(&raw const pending, signal) } == 0 {
            let set = set_of(&[signal]);
            // SAFETY: valid arguments; takes what our own writes raised, without waiting.
            unsafe { libc::sigtimedwait(&raw const set, std::ptr::null_mut(), &raw const now) };
        }
    }
    // SAFETY: the set that was in force.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const before, std::ptr::null_mut()) };
    result
}

/// Async-signal-safe: atomics, sigaction, futex, gettime and kill alone.
extern "C" fn handler(signal: i32) {
    let errno = super::thread::errno();
    if disposition(signal) != Some(handler as *const () as usize) {
        // The program has put a handler of its own over this one, which passes its signals on: they are the program's.
        super::thread::set_errno(errno);
        return;
    }
    if fork::in_child() {
        // A child that did not exec: nobody there would write anything.
        end_by(signal);
        super::thread::set_errno(errno);
        return;
    }
    let _ = ARRIVED.compare_exchange(0, signal.cast_unsigned(), Ordering::AcqRel, Ordering::Relaxed);
    let heed = HEED.load(Ordering::Acquire);
    // SAFETY: null, or the function pointer that was stored.
    let heed: Option<fn() -> bool> = unsafe { std::mem::transmute(heed) };
    if heed.is_some_and(|heed| heed()) {
        let deadline = super::clock::monotonic_ns() + LONGEST_WAIT.as_secs() * 1_000_000_000;
        while WRITTEN.load(Ordering::Acquire) == 0 {
            let now = super::clock::monotonic_ns();
            if now >= deadline {
                end_by(signal);
                break;
            }
            lock::wait(&WRITTEN, 0, Duration::from_nanos(deadline - now));
        }
    }
    super::thread::set_errno(errno);
}
