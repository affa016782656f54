//! In place of `sys` on targets that are not profiled: the same names, by the standard library alone.
//!
//! Promises: builds wherever std does; no `libc`, and nothing that the program could notice. No profile starts here
//! (`IS_SUPPORTED` is asked first), so what only a profile needs answers as a system does that refuses: no memory, no
//! file, no thread. What works without one works: the locks, the clocks, stderr, reading a store.

#![allow(unsafe_code, reason = "functions that are unsafe where they do something keep that in their types")]

#[path = "elsewhere/file.rs"]
pub(crate) mod file;
pub(crate) mod heap;
pub(crate) mod lock;
pub(crate) mod sync;

/// Nothing is profiled on this target.
pub(crate) const IS_SUPPORTED: bool = false;

pub(crate) mod barrier {
    //! No barrier on other threads.

    pub(crate) fn register() -> bool {
        false
    }

    pub(crate) fn is_granted() -> bool {
        false
    }

    pub(crate) fn everywhere() -> bool {
        false
    }
}

pub(crate) mod clock {
    //! The standard library's clocks; CPU time is unknown.

    use std::sync::OnceLock;
    use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

    use crate::units::Ticks;

    pub(crate) fn choose() {}

    pub(crate) fn now() -> Ticks {
        Ticks(monotonic_ns())
    }

    /// Nanoseconds since the first question.
    pub(crate) fn monotonic_ns() -> u64 {
        static FIRST: OnceLock<Instant> = OnceLock::new();
        ns(FIRST.get_or_init(Instant::now).elapsed())
    }

    pub(crate) fn wall_ns() -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, ns)
    }

    pub(crate) fn process_cpu_ns() -> u64 {
        0
    }

    pub(crate) fn thread_cpu_ns() -> u64 {
        0
    }

    fn ns(time: Duration) -> u64 {
        u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
    }
}

pub(crate) mod prefetch {
    //! Hints that are not given.

    pub(crate) fn for_reading<T>(_: &T) {}

    pub(crate) fn for_writing<T>(_: *const T) {}
}

pub(crate) mod fork {
    //! No profile whose parent could be another process.

    pub(crate) fn arm() -> bool {
        false
    }

    pub(crate) fn take_over(_: impl FnOnce()) -> bool {
        false
    }

    pub(crate) fn around(_: extern "C" fn(), _: extern "C" fn(), _: extern "C" fn()) {}

    pub(crate) fn in_child() -> bool {
        false
    }
}

mod futex {
    //! Sleeping until a word changes: for as long as the system thinks right, and then the caller looks again.

    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Duration;

    /// Short enough for who waits, long enough for who works.
    const NAP: Duration = Duration::from_micros(200);

    pub(crate) fn wait(word: &AtomicU32, expected: u32, limit: Duration) {
        // Relaxed: only a hint, as the sleep itself.
        if word.load(Ordering::Relaxed) == expected {
            std::thread::sleep(limit.min(NAP));
        }
    }

    pub(crate) fn wake(_: &AtomicU32, _: i32) {}
}

pub(crate) mod limits {
    //! No limit is known.

    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub(crate) struct MemoryLimit {
        pub(crate) limit_bytes: Option<u64>,
        pub(crate) name: Option<&'static str>,
        pub(crate) used_bytes: u64,
        pub(crate) cgroup_bytes: Option<u64>,
    }

    pub(crate) fn memory_limit() -> MemoryLimit {
        MemoryLimit::default()
    }
}

pub(crate) mod map {
    //! No memory of our own.

    use std::ptr::NonNull;

    pub(crate) const STEP_BYTES: usize = 64 * 1024;

    pub(crate) fn reserve(_: usize) -> Option<NonNull<u8>> {
        None
    }

    pub(crate) fn reservable_bytes() -> usize {
        0
    }

    pub(crate) fn anonymous(_: usize) -> Option<NonNull<u8>> {
        None
    }

    /// # Safety
    /// None: it does nothing.
    pub(crate) unsafe fn open(_: *mut u8, _: usize) -> bool {
        false
    }

    /// # Safety
    /// None: it does nothing.
    pub(crate) unsafe fn no_huge_pages(_: *mut u8, _: usize) {}

    /// # Safety
    /// None: it does nothing.
    pub(crate) unsafe fn discard(_: *mut u8, _: usize) {}

    /// # Safety
    /// None: it does nothing.
    pub(crate) unsafe fn unmap(_: *mut u8, _: usize) {}
}

pub(crate) mod refusal {
    //! Nothing is counted here, so nothing is taken back.

    pub(crate) fn look() -> bool {
        false
    }

    pub(crate) fn look_first() {}

    pub(crate) fn is_possible() -> bool {
        false
    }
}

pub(crate) mod process {
    //! Signals and the process's end are left to the program.

    use std::io::Write;

    /// Unknown; nothing that the environment could ask for is done.
    pub(crate) fn is_privileged() -> bool {
        false
    }

    pub(crate) fn resident_bytes() -> u64 {
        0
    }

    pub(crate) fn at_unload(_: extern "C" fn()) {}

    pub(crate) fn say(text: &str) {
        // Nobody is told where stderr is closed.
        let _ = std::io::stderr().write_all(text.as_bytes());
    }

    pub(crate) fn at_exit(_: extern "C" fn()) {}

    pub(crate) fn catch_ending_signals(_: fn() -> bool) {}

    pub(crate) fn release_ending_signals() {}

    pub(crate) fn arrived_signal() -> Option<i32> {
        None
    }

    pub(crate) fn end_by(_: i32) {}

    pub(crate) fn without_write_signals<T>(f: impl FnOnce() -> T) -> T {
        f()
    }
}

pub(crate) mod stack {
    //! Nothing is unwound.

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) struct Registers {
        pub(crate) ip: u64,
        pub(crate) sp: u64,
        pub(crate) fp: u64,
        pub(crate) lr: u64,
    }

    impl Registers {
        pub(crate) fn here() -> Registers {
            Registers { ip: 0, sp: 0, fp: 0, lr: 0 }
        }
    }
}

pub(crate) mod thread {
    //! Numbers of threads; none of our own, and no callback at a thread's end.

    use std::cell::Cell;
    use std::ffi::{CStr, c_void};
    use std::sync::atomic::{AtomicU32, Ordering};

    pub(crate) fn uncancelled<T>(f: impl FnOnce() -> T) -> T {
        f()
    }

    /// Left as it is.
    pub(crate) fn set_timer_slack(_slack: std::time::Duration) {}

    /// None is known here.
    pub(crate) fn kernel_id() -> u32 {
        id()
    }

    /// The calling thread's number; never 0, nor with the top bit, which is the lock's. Wraps after 2 billion threads.
    pub(crate) fn id() -> u32 {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        thread_local! { static ID: Cell<u32> = const { Cell::new(0) } }
        ID.with(|cell| {
            if cell.get() == 0 {
                // Relaxed: a number.
                cell.set((NEXT.fetch_add(1, Ordering::Relaxed) & (u32::MAX >> 1)).max(1));
            }
            cell.get()
        })
    }

    pub(crate) fn keeping_errno<T>(f: impl FnOnce() -> T) -> T {
        f()
    }

    pub(crate) fn errno() -> i32 {
        0
    }

    pub(crate) fn set_errno(_: i32) {}

    #[derive(Debug)]
    pub(crate) struct ExitKey;

    impl ExitKey {
        pub(crate) const fn new() -> ExitKey {
            ExitKey
        }

        pub(crate) fn close(&self) {}

        pub(crate) fn arm(&self, _: unsafe extern "C" fn(*mut c_void), _: *mut c_void) -> bool {
            false
        }
    }

    /// There is none.
    #[derive(Debug)]
    pub(crate) enum OwnThread {}

    pub(crate) fn spawn(_: &CStr, _: Box<dyn FnOnce() + Send>) -> std::io::Result<OwnThread> {
        Err(std::io::ErrorKind::Unsupported.into())
    }

    impl OwnThread {
        pub(crate) fn join(self) {
            match self {}
        }

        pub(crate) fn detach(self) {
            match self {}
        }
    }
}
