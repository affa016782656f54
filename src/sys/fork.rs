//! Are we the process that armed this? By a page that the kernel wipes in every forked child.
//!
//! `_Fork`, raw `clone` and `SYS_fork` skip `pthread_atfork` handlers; MADV_WIPEONFORK (Linux 4.14) misses none of them.
//! Where the advice is refused, every question asks for the process's number: a system call of 50 ns.
//! A child that has nothing of its parent's to leave alone is taken over: it is a process like any other from then on.

use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, Ordering};

/// The word in the page: what `arm` wrote in the arming process, 0 in its children. Not armed: `NOBODYS`.
static MARK: AtomicPtr<AtomicU32> = AtomicPtr::new(std::ptr::from_ref(&NOBODYS).cast_mut());

/// The mark while there is no page: no process is a child. Never written.
static NOBODYS: AtomicU32 = AtomicU32::new(ARMED);

fn nobodys() -> *mut AtomicU32 {
    std::ptr::from_ref(&NOBODYS).cast_mut()
}

/// Whether the kernel wipes the page of `MARK` in children.
static IS_WIPED: AtomicBool = AtomicBool::new(false);

/// The mark of a page that children find wiped; elsewhere the mark is the process's number.
const ARMED: u32 = u32::MAX;

/// The mark of a child that is being taken over: nobody's number, since those end at 2^22.
const TAKING: u32 = u32::MAX - 1;

/// Arms the mark for this process (again, in a child that starts a profile of its own). False where no page is to be had.
pub(crate) fn arm() -> bool {
    // Acquire: pairs with the Release below.
    let mark = MARK.load(Ordering::Acquire);
    if mark != nobodys() {
        // SAFETY: the page is never unmapped.
        unsafe { &*mark }.store(own_mark(), Ordering::Release);
        return true;
    }
    let Some(page) = super::map::anonymous(super::map::STEP_BYTES) else { return false };
    // SAFETY: advice on the page just mapped.
    let wiped = unsafe { libc::madvise(page.as_ptr().cast(), super::map::STEP_BYTES, libc::MADV_WIPEONFORK) } == 0;
    // Relaxed: published by the mark.
    IS_WIPED.store(wiped, Ordering::Relaxed);
    let mark = page.as_ptr().cast::<AtomicU32>();
    // SAFETY: a fresh page, aligned, zeroed: a valid atomic.
    unsafe { &*mark }.store(own_mark(), Ordering::Relaxed);
    // Release: pairs with the Acquire loads; whoever sees the pointer sees the mark.
    if MARK.compare_exchange(nobodys(), mark, Ordering::Release, Ordering::Relaxed).is_err() {
        // SAFETY: nobody else has seen this page.
        unsafe { super::map::unmap(page.as_ptr(), super::map::STEP_BYTES) };
    }
    true
}

fn own_mark() -> u32 {
    if IS_WIPED.load(Ordering::Relaxed) { ARMED } else { std::process::id() }
}

/// Makes the child that asks a process of its own, after `work`, which one thread does. False where it can't be told from
/// what shares its parent's memory, and while another is at it, or what this call interrupted.
pub(crate) fn take_over(work: impl FnOnce()) -> bool {
    let mark = MARK.load(Ordering::Acquire);
    if mark == nobodys() || !IS_WIPED.load(Ordering::Relaxed) {
        return false;
    }
    // SAFETY: the page is never unmapped.
    let mark = unsafe { &*mark };
    // Acquire: who finds it done sees what was done.
    match mark.compare_exchange(0, TAKING, Ordering::Acquire, Ordering::Acquire) {
        Ok(_) => {
            work();
            // Release: pairs with the Acquire above.
            mark.store(ARMED, Ordering::Release);
            true
        }
        Err(seen) => seen == ARMED,
    }
}

/// Has these called around every `fork` that the C library makes: before it, and after it in parent and child. For good; `_Fork`
/// and raw `clone` skip them.
pub(crate) fn around(before: extern "C" fn(), in_parent: extern "C" fn(), in_child: extern "C" fn()) {
    // SAFETY: functions that live as long as the program.
    unsafe { libc::pthread_atfork(Some(before), Some(in_parent), Some(in_child)) };
}

/// True in a forked child of the process that armed the mark. Two loads.
#[inline(always)]
pub(crate) fn in_child() -> bool {
    let mark = MARK.load(Ordering::Acquire);
    // SAFETY: the page is never unmapped; in a child it reads as zero.
    // Relaxed: the value can't change while this process runs, but by its own `arm` and `take_over`.
    match unsafe { &*mark }.load(Ordering::Relaxed) {
        ARMED => false,
        other => is_another(other),
    }
}

#[cold]
#[inline(never)]
fn is_another(mark: u32) -> bool {
    mark == 0 || mark != std::process::id()
}
