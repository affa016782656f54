//! The calling thread: its numbers, its errno, and a callback at its end.

use std::cell::Cell;
use std::ffi::{CStr, c_void};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

/// The calling thread's number in this process, in 1..2^31. One shared addition at a thread's first question, no system call.
///
/// In a forked child the forking thread keeps its parent's number. They recur after 2^31 threads: who then waits for a lock
/// that a thread of the same number holds, and has held since, is served as if it held that itself.
pub(crate) fn id() -> u32 {
    thread_local! { static ID: Cell<u32> = const { Cell::new(0) } }
    static NEXT: AtomicU32 = AtomicU32::new(1);
    ID.with(|cell| {
        while cell.get() == 0 {
            // Relaxed: the number alone counts.
            cell.set(NEXT.fetch_add(1, Ordering::Relaxed) & (u32::MAX >> 1));
        }
        cell.get()
    })
}

/// The kernel's id of the calling thread. A system call.
pub(crate) fn kernel_id() -> u32 {
    // SAFETY: gettid has no preconditions.
    u32::try_from(unsafe { libc::syscall(libc::SYS_gettid) }).unwrap_or(1)
}

/// How much later than asked the calling thread's sleeps may end; 50 µs unless it was set. A system call.
pub(crate) fn set_timer_slack(slack: Duration) {
    let ns = libc::c_ulong::try_from(slack.as_nanos()).unwrap_or(libc::c_ulong::MAX);
    // SAFETY: takes numbers alone. A failure leaves it as it was.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, ns) };
}

/// Runs `f` and leaves errno as it was: an allocator must not change it.
#[inline]
pub(crate) fn keeping_errno<T>(f: impl FnOnce() -> T) -> T {
    let saved = errno();
    let result = f();
    set_errno(saved);
    result
}

/// Runs `f`, in which no request to cancel the calling thread is acted upon: an allocator is no cancellation point
/// (pthreads(7)), and some of the system calls that it may make are. No system call.
pub(crate) fn uncancelled<T>(f: impl FnOnce() -> T) -> T {
    // In neither libc's declarations. `PTHREAD_CANCEL_DISABLE` is 1 by glibc and by musl.
    unsafe extern "C" {
        fn pthread_setcancelstate(state: libc::c_int, before: *mut libc::c_int) -> libc::c_int;
    }
    let mut before = 0;
    // SAFETY: a place for the answer.
    unsafe { pthread_setcancelstate(1, &raw mut before) };
    let result = f();
    let mut disabled = 0;
    // SAFETY: as above; what was in force.
    unsafe { pthread_setcancelstate(before, &raw mut disabled) };
    result
}

/// The calling thread's errno.
#[inline]
pub(crate) fn errno() -> i32 {
    // SAFETY: always valid for the calling thread.
    let cell = unsafe { libc::__errno_location() };
    // SAFETY: the C library's own cell of this thread.
    unsafe { *cell }
}

/// Sets the calling thread's errno.
#[inline]
pub(crate) fn set_errno(value: i32) {
    // SAFETY: always valid for the calling thread.
    let cell = unsafe { libc::__errno_location() };
    // SAFETY: the C library's own cell of this thread.
    unsafe { *cell = value };
}

/// A pthread key whose destructor runs at the end of each thread that called [`ExitKey::arm`].
#[derive(Debug)]
pub(crate) struct ExitKey {
    /// Key + 1; 0: not made; `u64::MAX`: can't be made.
    key: AtomicU64,
}

impl ExitKey {
    pub(crate) const fn new() -> ExitKey {
        ExitKey { key: AtomicU64::new(0) }
    }

    /// Has `at_exit(value)` called when the calling thread ends, with `value` as given. False where the system has no
    /// key left. The destructor may arm again, to run in a later round.
    pub(crate) fn arm(&self, at_exit: unsafe extern "C" fn(*mut c_void), value: *mut c_void) -> bool {
        let Some(key) = self.key_for(at_exit) else { return false };
        // SAFETY: the key was made by pthread_key_create, and is deleted by `close` alone, when nobody comes here.
        unsafe { libc::pthread_setspecific(key, value) == 0 }
    }

    /// Runs no destructor any more, and makes no key: the code that they are of is about to be unmapped, or the process to end.
    pub(crate) fn close(&self) {
        let key = self.key.swap(u64::MAX, Ordering::AcqRel);
        if let Some(made) = key.checked_sub(1)
            && key != u64::MAX
            && let Ok(key) = libc::pthread_key_t::try_from(made)
        {
            // SAFETY: our own key, which `key` names to nobody any more.
            unsafe { libc::pthread_key_delete(key) };
        }
    }

    fn key_for(&self, at_exit: unsafe extern "C" fn(*mut c_void)) -> Option<libc::pthread_key_t> {
        // Acquire: pairs with the Release of the exchange below.
        match self.key.load(Ordering::Acquire) {
            0 => {}
            u64::MAX => return None,
            made => return libc::pthread_key_t::try_from(made - 1).ok(),
        }
        let mut key: libc::pthread_key_t = 0;
        // SAFETY: `key` is a valid place for the new key.
        let made = unsafe { libc::pthread_key_create(&raw mut key, Some(at_exit)) } == 0;
        let value = if made { u64::from(key) + 1 } else { u64::MAX };
        match self.key.compare_exchange(0, value, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => made.then_some(key),
            Err(theirs) => {
                if made {
                    // SAFETY: our own key, never armed.
                    unsafe { libc::pthread_key_delete(key) };
                }
                if theirs == u64::MAX { None } else { libc::pthread_key_t::try_from(theirs - 1).ok() }
            }
        }
    }
}

/// A thread of ours: all signals blocked, named, not made by the standard library (whose start-up would allocate from
/// the program's heap).
#[derive(Debug)]
pub(crate) struct OwnThread {
    id: libc::pthread_t,
}

// SAFETY: a pthread's id may be joined from any thread.
unsafe impl Send for OwnThread {}

/// Stack of our threads: symbols of large binaries need some; it is touched as used.
const OWN_STACK_BYTES: usize = 2 << 20;

/// Runs `f` on a new thread called `name` (at most 15 bytes).
pub(crate) fn spawn(name: &CStr, f: Box<dyn FnOnce() + Send>) -> std::io::Result<OwnThread> {
    // SAFETY: all zero is a valid set to be filled.
    let mut all: libc::sigset_t = unsafe { std::mem::zeroed() };
    let mut old = all;
    // SAFETY: a valid set.
    unsafe { libc::sigfillset(&raw mut all) };
    // Blocked before it exists, so that there is no moment in which it could take the program's signals.
    // SAFETY: valid sets.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut old) };
    let made = create(f);
    // SAFETY: the set that was in force.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const old, std::ptr::null_mut()) };
    let id = made?;
    // SAFETY: the thread exists until it is joined, and the name is a C string.
    unsafe { libc::pthread_setname_np(id, name.as_ptr()) };
    Ok(OwnThread { id })
}

fn create(f: Box<dyn FnOnce() + Send>) -> std::io::Result<libc::pthread_t> {
    // SAFETY: all zero is a valid place for attributes.
    let mut attributes: libc::pthread_attr_t = unsafe { std::mem::zeroed() };
    // SAFETY: initializes them.
    unsafe { libc::pthread_attr_init(&raw mut attributes) };
    // SAFETY: initialized above.
    unsafe { libc::pthread_attr_setstacksize(&raw mut attributes, OWN_STACK_BYTES) };
    let start = Box::into_raw(Box::new(f));
    // SAFETY: a number or, by musl, a pointer: all zero is a valid place for either.
    let mut id: libc::pthread_t = unsafe { std::mem::zeroed() };
    // SAFETY: `start` is given to exactly one thread, which frees it.
    let failed = unsafe { libc::pthread_create(&raw mut id, &raw const attributes, run, start.cast()) };
    // SAFETY: initialized above, used no more.
    unsafe { libc::pthread_attr_destroy(&raw mut attributes) };
    if failed != 0 {
        // SAFETY: no thread took it.
        drop(unsafe { Box::from_raw(start) });
        return Err(std::io::Error::from_raw_os_error(failed));
    }
    Ok(id)
}

extern "C" fn run(start: *mut c_void) -> *mut c_void {
    // SAFETY: what `create` gave to this thread alone.
    let start = unsafe { Box::from_raw(start.cast::<Box<dyn FnOnce() + Send>>()) };
    // A panic may not leave a C function. What `f` holds is gone then; its owner sees its channel closed.
    let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(start));
    std::ptr::null_mut()
}

impl OwnThread {
    /// Waits for its end.
    pub(crate) fn join(self) {
        // SAFETY: joined once, since `self` is consumed.
        unsafe { libc::pthread_join(self.id, std::ptr::null_mut()) };
    }

    /// Lets it end by itself: nobody will wait for it.
    pub(crate) fn detach(self) {
        // SAFETY: neither joined nor detached before, since `self` is consumed.
        unsafe { libc::pthread_detach(self.id) };
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    static ENDED: AtomicU32 = AtomicU32::new(0);

    unsafe extern "C" fn count(_: *mut c_void) {
        ENDED.fetch_add(1, Ordering::SeqCst);
    }

    fn arm_in_a_thread(key: &'static ExitKey, then: impl FnOnce() + Send + 'static) -> bool {
        let body = move || {
            let armed = key.arm(count, std::ptr::dangling_mut());
            then();
            armed
        };
        std::thread::spawn(body).join().expect("no panic")
    }

    /// The library that it is in may be closed in a thread that goes on.
    #[test]
    fn a_key_that_was_closed_calls_nobody_back() {
        static KEY: ExitKey = ExitKey::new();
        assert!(arm_in_a_thread(&KEY, || {}));
        assert_eq!(ENDED.load(Ordering::SeqCst), 1);
        assert!(arm_in_a_thread(&KEY, || KEY.close()));
        assert!(!arm_in_a_thread(&KEY, || {}), "no key is made any more");
        assert_eq!(ENDED.load(Ordering::SeqCst), 1);
    }
}
