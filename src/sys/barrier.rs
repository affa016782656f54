//! A memory barrier on all other threads, paid by the one that asks (membarrier(2), Linux 4.14).
//!
//! Lets the cold path mark itself busy with a plain store. Where the system call is refused, the cold path pays a full
//! fence instead (`is_granted`), which pairs with the one in `everywhere`.

use std::sync::atomic::{AtomicBool, Ordering, fence};

const REGISTER: i32 = 1 << 4;
const EXPEDITED: i32 = 1 << 3;

static REGISTERED: AtomicBool = AtomicBool::new(false);

/// Asks for the permission to use the fast kind. Called by `start()`.
pub(crate) fn register() -> bool {
    let granted = membarrier(REGISTER);
    REGISTERED.store(granted, Ordering::Relaxed);
    granted
}

/// Whether the others need no fence of their own. Changes before a profile runs, never while one does.
pub(crate) fn is_granted() -> bool {
    // Relaxed: set by `start()` before the change of state that the fence is about.
    REGISTERED.load(Ordering::Relaxed)
}

/// After this, every store that any thread made before it, in its program's order, is visible to us, and loads that
/// they make later see what we stored before. About 2 µs.
pub(crate) fn everywhere() -> bool {
    fence(Ordering::SeqCst);
    REGISTERED.load(Ordering::Relaxed) && membarrier(EXPEDITED)
}

fn membarrier(command: i32) -> bool {
    // SAFETY: the call takes no pointers.
    unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) == 0 }
}
