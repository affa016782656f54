//! What the hot path may assume of the wrapped allocator, told by its type alone, so that nothing is asked at run time.
//!
//! Two questions. **Does it refuse small requests?** A refusal that the hot path is to see costs it a stack frame, a
//! branch and a return in place of a jump: 6 instructions a pair. The system's allocator, jemalloc and mimalloc refuse 64 KiB
//! only where the process is at its limit: while one is set that has them refused (`sys::refusal`), every request goes cold and is looked at
//! there; every other type may refuse what it likes (a bounded arena, a test's fault injection), and is looked at. **Does it ask for the alignment?** System and jemalloc do,
//! before their own fast path: asked in ours first, what they do for other alignments stays out of line.
//!
//! Types are known by name, since those of jemalloc and mimalloc can't be named without depending on them; the comparison is
//! of constants and leaves no trace in an optimised build. A name that is not known costs the 6 instructions and nothing else.

use std::alloc::{GlobalAlloc, Layout};

const SYSTEM: &str = "std::alloc::System";
const JEMALLOC: [&str; 2] = ["tikv_jemallocator::Jemalloc", "jemallocator::Jemalloc"];
const MIMALLOC: [&str; 2] = ["mimalloc::MiMalloc", "mimalloc_pprof::MiMalloc"];

/// Are small requests refused only where memory is at its end?
#[inline(always)]
pub(super) fn refuses_at_the_end_only<A>() -> bool {
    asks_alignment::<A>() || is::<A>(MIMALLOC[0]) || is::<A>(MIMALLOC[1])
}

/// Does `A` ask [`is_plain`] itself, before its fast path?
#[inline(always)]
fn asks_alignment<A>() -> bool {
    is::<A>(SYSTEM) || is::<A>(JEMALLOC[0]) || is::<A>(JEMALLOC[1])
}

#[inline(always)]
fn is<A>(name: &str) -> bool {
    std::any::type_name::<A>() == name
}

/// The request as the inner allocator serves it fastest.
///
/// # Safety
/// As for [`GlobalAlloc::alloc`].
#[inline(always)]
pub(super) unsafe fn alloc<A: GlobalAlloc>(inner: &A, layout: Layout) -> *mut u8 {
    if asks_alignment::<A>() && !is_plain(layout) {
        // SAFETY: the caller's layout.
        unsafe { aligned(inner, layout) }
    } else {
        // SAFETY: the caller's layout.
        unsafe { inner.alloc(layout) }
    }
}

/// What malloc aligns by itself.
#[inline(always)]
fn is_plain(layout: Layout) -> bool {
    layout.align() <= 16 && layout.align() <= layout.size()
}

/// # Safety
/// As for [`GlobalAlloc::alloc`].
#[inline(never)]
unsafe fn aligned<A: GlobalAlloc>(inner: &A, layout: Layout) -> *mut u8 {
    // SAFETY: the caller's layout.
    unsafe { inner.alloc(layout) }
}

#[cfg(test)]
mod tests {
    use std::alloc::System;

    use super::*;

    struct Other;

    #[test]
    fn the_known_are_known() {
        assert!(refuses_at_the_end_only::<System>() && asks_alignment::<System>());
        assert!(!refuses_at_the_end_only::<Other>() && !asks_alignment::<Other>());
        assert!(!refuses_at_the_end_only::<super::super::Alloc<System>>());
    }
}
