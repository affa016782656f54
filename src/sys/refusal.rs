//! May the system refuse this process memory, where it would rather end it?
//!
//! Promises: two system calls a look, none to read the answer; what can't be asked is taken for unlimited.
//!
//! Without a limit on address space (`ulimit -v`) or on data (`ulimit -d`), an allocator is refused memory under strict
//! overcommit (`vm.overcommit_memory=2`) or beyond 65,530 mappings alone; a container's limit kills instead.

#![allow(unsafe_code, reason = "getrlimit")]

use std::sync::atomic::{AtomicBool, Ordering};

static LIMITED: AtomicBool = AtomicBool::new(false);

/// Asks anew, and returns the answer.
pub(crate) fn look() -> bool {
    let limited = is_finite(libc::RLIMIT_AS) || is_finite(libc::RLIMIT_DATA);
    LIMITED.store(limited, Ordering::Relaxed);
    limited
}

/// The process's first thread looks; later ones do without.
pub(crate) fn look_first() {
    static LOOKED: AtomicBool = AtomicBool::new(false);
    if !LOOKED.load(Ordering::Relaxed) && !LOOKED.swap(true, Ordering::Relaxed) {
        look();
    }
}

/// As the last look found it; false before the first.
#[inline]
pub(crate) fn is_possible() -> bool {
    LIMITED.load(Ordering::Relaxed)
}

#[cfg(target_env = "gnu")]
type Resource = libc::__rlimit_resource_t;
#[cfg(not(target_env = "gnu"))]
type Resource = libc::c_int;

fn is_finite(resource: Resource) -> bool {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: room for one `rlimit`.
    let known = unsafe { libc::getrlimit(resource, &raw mut limit) } == 0;
    known && limit.rlim_cur != libc::RLIM_INFINITY
}
