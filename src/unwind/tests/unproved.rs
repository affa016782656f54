//! Frames that framehop would leave by a guess: rows that it can't evaluate, code that no table tells of.
//!
//! The functions that are called through are each architecture's own.

#[cfg_attr(target_arch = "x86_64", path = "unproved/x86_64.rs")]
#[cfg_attr(target_arch = "aarch64", path = "unproved/aarch64.rs")]
mod machine;

use std::sync::atomic::AtomicPtr;

use super::*;
use machine::{
    CALLS, KEEPS, LEAVES, STARTS, TWICE, over_no_frame, points_to_data, starts, without_a_table, without_a_table_twice,
};

type Work = unsafe extern "C" fn(*mut u8);
/// Calls `work(data)`.
type Through = unsafe extern "C" fn(*mut u8, Work);

struct Call<'s> {
    sink: &'s Sink,
    captured: Option<(Captured, Vec<FrameKey>)>,
}

unsafe extern "C" fn work(data: *mut u8) {
    // SAFETY: the call below.
    let call = unsafe { &mut *data.cast::<Call<'_>>() };
    // Twice, so that the second is replayed.
    for _ in 0..2 {
        call.captured = Some(sample_and_trace(call.sink));
    }
}

/// The stack as captured in `work`, called by `through`; what the system found; the same stack as captured here: from the second
/// frame on it is that of our caller.
#[inline(never)]
fn call(through: Through, sink: &Sink) -> (Captured, Vec<FrameKey>, Vec<FrameKey>) {
    let mut call = Call { sink, captured: None };
    // SAFETY: calls back with the data.
    unsafe { through((&raw mut call).cast(), work) };
    let here = sample();
    assert!(!here.truncated);
    let (captured, system) = call.captured.unwrap();
    (captured, system, frames(&here))
}

/// The stack has `between` frames between `work` and `call`, and goes on from there.
#[track_caller]
fn assert_passes(through: Through, between: usize, session: &Session) {
    let (captured, _, here) = call(through, &session.sink);
    let found = frames(&captured);
    assert!(!captured.truncated, "{found:x?}");
    assert_eq!(found[between + 2..], here[1..], "{found:x?}");
}

/// The stack has `between` frames below `work`, and says that there are more.
#[track_caller]
fn assert_breaks(through: Through, between: usize, session: &Session) {
    let (captured, ..) = call(through, &session.sink);
    let found = frames(&captured);
    assert!(captured.truncated, "{found:x?}");
    assert_eq!(found.len(), between + 2, "{found:x?}");
    assert_eq!(found.last(), Some(&FrameKey::TRUNCATED));
}

static INTERRUPTED: AtomicPtr<Call<'static>> = AtomicPtr::new(core::ptr::null_mut());

extern "C" fn on_signal(_: libc::c_int) {
    // SAFETY: the call of the test that raised the signal.
    unsafe { work(INTERRUPTED.load(Ordering::SeqCst).cast()) };
}

/// Raises a signal whose handler captures; `raise` is called with the signal's number.
fn interrupted(sink: &Sink, signal: libc::c_int, raise: impl FnOnce(libc::c_int)) -> (Captured, Vec<FrameKey>) {
    static ONE_AT_A_TIME: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let mut call = Call { sink, captured: None };
    INTERRUPTED.store((&raw mut call).cast(), Ordering::SeqCst);
    let handler = on_signal as extern "C" fn(libc::c_int) as *const () as usize;
    // SAFETY: the handler may do what it does: it interrupts `raise`.
    let old = unsafe { libc::signal(signal, handler) };
    raise(signal);
    // SAFETY: what was before.
    unsafe { libc::signal(signal, old) };
    call.captured.unwrap()
}

/// The stack goes on below the handler, as the system's unwinder found.
#[track_caller]
fn assert_goes_on((captured, system): &(Captured, Vec<FrameKey>)) {
    let found = frames(captured);
    assert!(!captured.truncated, "{found:x?}");
    // The interrupted instruction's is the address after its first byte.
    let differing = found.iter().filter(|key| !system.contains(key)).count();
    assert!(differing == 1 && found.len().abs_diff(system.len()) <= 1, "{found:x?} {system:x?}");
}

#[test]
fn a_stack_goes_on_below_a_signal_handler() {
    let session = Session::start(128);
    // SAFETY: the signal has a handler.
    assert_goes_on(&interrupted(&session.sink, libc::SIGURG, |signal| assert_eq!(unsafe { libc::raise(signal) }, 0)));
    session.finish(2);
}

// ---- code without tables --------------------------------------------------------------------------------------------

#[test]
fn assembly_with_frame_pointers_is_passed_and_other_breaks_the_stack_off() {
    let session = Session::start(128);
    assert_passes(without_a_table, 1, &session);
    assert_passes(without_a_table_twice, 2, &session);
    assert_breaks(over_no_frame, 1, &session);
    let (captured, ..) = call(starts, &session.sink);
    assert_eq!((captured.truncated, captured.frames), (false, 2), "{:x?}", frames(&captured));
    session.finish(8);
}

/// Code that no module knows, as a just-in-time compiler makes it.
struct Made(core::ptr::NonNull<u8>);

impl Made {
    fn new(code: &[&[u8]]) -> Made {
        let made = Made(stack::map_pages(4096).unwrap());
        made.make(code);
        made
    }

    /// Other code in its place.
    fn make(&self, code: &[&[u8]]) {
        let (page, code) = (self.0.as_ptr(), code.concat());
        let protect = |how| {
            // SAFETY: our own page.
            assert_eq!(unsafe { libc::mprotect(page.cast(), 4096, how) }, 0);
        };
        protect(libc::PROT_READ | libc::PROT_WRITE);
        // SAFETY: less than the page, of which no function runs.
        unsafe { core::ptr::copy_nonoverlapping(code.as_ptr(), page, code.len()) };
        protect(libc::PROT_READ | libc::PROT_EXEC);
    }

    fn through(&self) -> Through {
        // SAFETY: the page begins with a function of this type.
        unsafe { core::mem::transmute::<*mut u8, Through>(self.0.as_ptr()) }
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        // SAFETY: made above, and none of its functions runs.
        unsafe { stack::unmap_pages(self.0, 4096) };
    }
}

#[test]
fn made_code_with_frame_pointers_is_passed() {
    let session = Session::start(128);
    assert_passes(Made::new(&[KEEPS, CALLS, LEAVES]).through(), 1, &session);
    assert_passes(Made::new(TWICE).through(), 2, &session);
    session.finish(4);
}

#[test]
fn made_code_without_frame_pointers_breaks_the_stack_off() {
    let session = Session::start(128);
    // In a module's code it would be the start.
    assert_breaks(Made::new(STARTS).through(), 1, &session);
    let function = libc::getppid as unsafe extern "C" fn() -> libc::pid_t as usize as u64;
    for made in points_to_data(function + 5) {
        assert_breaks(made.through(), 1, &session);
    }
    session.finish(6);
}
