//! The allocator that wraps the program's: counts every allocation in its thread, and hands a sample to the cold path.
//!
//! Promises: never panics, never unwinds, never allocates from the heap it watches, never takes a lock on the hot path;
//! returns what the inner allocator returns. Never knows who reads the records (`sink`).
//!
//! | file | what it holds |
//! |---|---|
//! | `hot` | the words that every event touches, and the three admissions |
//! | `cold` | everything else that can happen to a block: `cold/alloc`, `cold/free`, `cold/realloc` |
//! | `inner` | what may be assumed of the wrapped allocator |
//! | `thread` | each thread's start and end, its cold state; the registry, the sums, calls to all |
//! | `session` | which mode is in force |
//! | `own` | the profiler's own memory |
//! | `sink` | what the hook needs of the cold side |

#![allow(unsafe_code, reason = "a global allocator")]
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod cold;
mod hot;
mod inner;
mod own;
pub(crate) mod session;
pub(crate) mod sink;
pub(crate) mod thread;

use std::alloc::{GlobalAlloc, Layout, System};

use hot::{Admission, HOT, Hot};
pub(crate) use own::OWN;

use crate::sys::{self, refusal};
pub(crate) use crate::unwind::Scopes;

/// A global allocator that profiles the one it wraps.
///
/// Counts are kept in every mode from the process's first allocation; stacks are recorded only while a
/// [`Profiler`](crate::Profiler) runs. Not started it adds about 12 instructions to a pair of allocation and free.
/// On targets that are not profiled every request is handed on as it is, and nothing is counted.
///
/// ```
/// #[global_allocator]
/// static ALLOC: unfreed::Alloc = unfreed::Alloc::system();
///
/// fn main() {}
/// ```
///
/// Any other allocator can be wrapped:
///
/// ```
/// use std::alloc::System;
///
/// #[global_allocator]
/// static ALLOC: unfreed::Alloc<System> = unfreed::Alloc::new(System);
///
/// fn main() {}
/// ```
#[derive(Debug, Default)]
pub struct Alloc<A = System> {
    inner: A,
}

impl Alloc<System> {
    /// Wraps the system's allocator.
    #[must_use]
    pub const fn system() -> Alloc<System> {
        Alloc { inner: System }
    }
}

impl<A> Alloc<A> {
    /// Wraps `inner`.
    #[must_use]
    pub const fn new(inner: A) -> Alloc<A> {
        Alloc { inner }
    }

    /// The allocator that is wrapped.
    pub const fn inner(&self) -> &A {
        &self.inner
    }
}

// SAFETY: every method returns what `inner` returns for the same request, or a slot of the range of at least that size
// and alignment that nobody else holds; blocks go back to where they came from (`slots`, `live`). No method unwinds
// unless `inner` does.
unsafe impl<A: GlobalAlloc> GlobalAlloc for Alloc<A> {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if !sys::IS_SUPPORTED {
            // SAFETY: the caller's, as it is.
            return unsafe { self.inner.alloc(layout) };
        }
        if Hot::admit_alloc(layout.size()) {
            // SAFETY: the caller's layout.
            served::<A>(unsafe { inner::alloc(&self.inner, layout) }, layout.size())
        } else {
            // SAFETY: the caller's layout.
            unsafe { cold::alloc(layout.size(), layout.align(), &self.inner, false) }
        }
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if !sys::IS_SUPPORTED {
            // SAFETY: the caller's, as it is.
            return unsafe { self.inner.alloc_zeroed(layout) };
        }
        if Hot::admit_alloc(layout.size()) {
            // SAFETY: the caller's layout.
            served::<A>(unsafe { self.inner.alloc_zeroed(layout) }, layout.size())
        } else {
            // SAFETY: the caller's layout.
            unsafe { cold::alloc(layout.size(), layout.align(), &self.inner, true) }
        }
    }

    #[inline]
    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        if !sys::IS_SUPPORTED {
            // SAFETY: the caller's, as it is.
            return unsafe { self.inner.dealloc(ptr, layout) };
        }
        if Hot::admit_free(ptr, layout.size()) {
            // SAFETY: not a slot and not listed: the inner allocator's block.
            unsafe { self.inner.dealloc(ptr, layout) }
        } else {
            // SAFETY: the caller's block and layout.
            unsafe { cold::dealloc(ptr, layout.size(), layout.align(), &self.inner) }
        }
    }

    #[inline]
    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        if !sys::IS_SUPPORTED {
            // SAFETY: the caller's, as it is.
            return unsafe { self.inner.realloc(ptr, layout, new_size) };
        }
        match Hot::admit_realloc(ptr, layout.size(), new_size) {
            Admission::Counted => {
                // SAFETY: not a slot and not listed: the inner allocator's block.
                let moved = unsafe { self.inner.realloc(ptr, layout, new_size) };
                if !inner::refuses_at_the_end_only::<A>() && moved.is_null() {
                    HOT.with(|hot| hot.take_back_realloc(layout.size(), new_size));
                }
                moved
            }
            refused => {
                // SAFETY: the caller's block and sizes.
                unsafe { cold::realloc(ptr, layout, new_size, &self.inner, refused == Admission::Spent) }
            }
        }
    }
}

/// What the inner allocator returned for an admitted request: one that it refused is not counted after all, where `A`
/// is one that may refuse.
#[inline(always)]
fn served<A>(ptr: *mut u8, size: usize) -> *mut u8 {
    if !inner::refuses_at_the_end_only::<A>() && ptr.is_null() {
        HOT.with(|hot| hot.take_back_alloc(size));
    }
    ptr
}

/// While this lives, the calling thread is inside the profiler: what it allocates is ours and counted nowhere.
#[derive(Debug)]
pub(crate) struct Inside {
    /// What the hot path had left, where this is the outermost.
    budget: Option<i64>,
    /// Not `Send`: it is about this thread.
    _thread: std::marker::PhantomData<*const ()>,
}

/// Readies the hook for blocks that are not the program's: every thread is called, and will know them. Returns once that
/// is so. Before the first [`inside`].
pub(crate) fn prepare() {
    refusal::look();
    cold::prepare();
    thread::call_all(session::touch(), None);
}

/// Enters the profiler on this thread. Nests.
pub(crate) fn inside() -> Inside {
    HOT.with(|hot| {
        let depth = hot.depth.get();
        hot.depth.set(depth + 1);
        let budget = (depth == 0).then(|| hot.take_budget());
        Inside { budget, _thread: std::marker::PhantomData }
    })
}

impl Drop for Inside {
    fn drop(&mut self) {
        HOT.with(|hot| {
            hot.depth.set(hot.depth.get().saturating_sub(1));
            if let Some(budget) = self.budget {
                // A call that came while we were inside is overwritten by the grant: it is heeded here.
                let heard = thread::has_adopted(hot, session::state());
                hot.grant_budget((budget >= 0 && heard).then_some(budget), 0);
            }
        });
    }
}

/// Is what the calling thread allocates the program's?
pub(crate) fn is_outside() -> bool {
    HOT.with(|hot| hot.depth.get() == 0)
}

/// May the calling thread be held up until the results are written? Not inside the profiler; and not where our own
/// memory comes from the inner allocator, whose lock it may hold. Async-signal-safe.
pub(crate) fn may_be_held_up() -> bool {
    is_outside() && crate::slots::RANGE.bounds().1 != 0
}

/// Runs `f`, whose allocations are the profiler's questions to the program's allocator: they go where the program's go,
/// and count nowhere. While no profile runs.
pub(crate) fn uncounted<T>(f: impl FnOnce() -> T) -> T {
    let before = HOT.with(Hot::counters);
    let result = f();
    HOT.with(|hot| hot.take_back(hot.counters().minus(before)));
    result
}

/// Seeds the calling thread's sampling: see `internals`.
pub(crate) fn seed(seed: u64) {
    cold::seed(seed);
}

/// Changes the scopes that the calling thread is in. `None` where it has no place for them: it has ended, could not
/// register, or is inside the profiler.
pub(crate) fn change_scopes<T>(change: impl FnOnce(&mut Scopes) -> T) -> Option<T> {
    if sys::IS_SUPPORTED { cold::change_scopes(change) } else { None }
}

/// The scopes that the calling thread is in.
pub(crate) fn scopes() -> Option<Scopes> {
    if sys::IS_SUPPORTED { cold::scopes() } else { None }
}

/// Blocks of the profiler's own that were ever asked for.
pub(crate) fn own_allocations() -> u64 {
    own::asked()
}

/// Is this a block of the profiler's own?
pub(crate) fn is_own(ptr: *mut u8) -> bool {
    cold::is_own(ptr)
}

/// Runs `f` as the program's own code while the profiler is entered: a callback of the user's.
pub(crate) fn outside<T>(f: impl FnOnce() -> T) -> T {
    let depth = HOT.with(|hot| hot.depth.replace(0));
    // The budget is gone while we are inside: the first allocation goes cold and draws anew, as it may at any time.
    let result = f();
    HOT.with(|hot| {
        hot.depth.set(depth);
        if depth != 0 {
            hot.take_budget();
        }
    });
    result
}

/// Is an [`Alloc`] the global allocator of this process? Then a block that is made inside is recognised as ours.
pub(crate) fn is_installed(_inside: &Inside) -> bool {
    let mut probe = std::hint::black_box(Box::new(0u8));
    is_own(&raw mut *probe)
}
