//! What an allocator says of itself: glibc's `mallinfo2`, jemalloc's statistics (feature `jemalloc`).
//!
//! Promises: `ask` is a question to the allocator that was recognised, and to no other; an allocator that isn't
//! recognised isn't asked. mimalloc counts allocated bytes in its debug builds alone, so there is nothing to ask it.
//!
//! **Asking takes the allocator's own locks** (every arena's, one after the other), so it is done only where the calling
//! thread could as well call malloc: never on the profiler's thread, nor for a report that a signal's handler waits for,
//! since the thread that was interrupted may hold such a lock.
//!
//! Costs: glibc 85 ns where its heap is compact, up to 0.5 ms where it is fragmented; jemalloc 13 µs.

use std::alloc::{Layout, alloc, dealloc};
use std::hint::black_box;
use std::sync::atomic::{AtomicPtr, AtomicU8, Ordering};

/// An allocator that can be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Heap {
    Glibc,
    Jemalloc,
}

impl Heap {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Heap::Glibc => "glibc malloc",
            Heap::Jemalloc => "jemalloc",
        }
    }
}

/// What it says, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct HeapFigures {
    /// Allocated and not freed, roundings and headers included, whoever asked for it (C libraries too, with glibc).
    pub(crate) allocated_bytes: u64,
    /// Taken from the system and not given back, used or not. jemalloc: resident; glibc: arenas and mapped blocks.
    pub(crate) held_bytes: u64,
}

/// Codes of `RECOGNISED`.
const NOT_YET: u8 = 0;
const NONE: u8 = 1;
const GLIBC: u8 = 2;
const JEMALLOC: u8 = 3;

/// Which allocator serves the process, once known: it can't change.
static RECOGNISED: AtomicU8 = AtomicU8::new(NOT_YET);
/// glibc's function, found by name: linked directly, a program would not start on glibc before 2.33.
static MALLINFO2: AtomicPtr<()> = AtomicPtr::new(std::ptr::null_mut());

/// Finds out which allocator serves the global allocator's requests, by what a request changes in its statistics: names
/// and types prove nothing where malloc may be another's. Makes a few allocations of the program's kind: once a process, or, while
/// other threads change the figures all the time, again when it is asked again. Where the caller could call malloc.
pub(crate) fn recognise() -> Option<Heap> {
    // Relaxed: the answer is the same whoever finds it.
    match RECOGNISED.load(Ordering::Relaxed) {
        NONE => return None,
        GLIBC => return Some(Heap::Glibc),
        JEMALLOC => return Some(Heap::Jemalloc),
        _ => {}
    }
    let (code, found) = if is_jemalloc() {
        (JEMALLOC, Some(Heap::Jemalloc))
    } else {
        match is_glibc() {
            Some(true) => (GLIBC, Some(Heap::Glibc)),
            Some(false) => (NONE, None),
            None => (NOT_YET, None),
        }
    };
    RECOGNISED.store(code, Ordering::Relaxed);
    found
}

/// In a forked child: a raw fork copies locks that threads held which are not here, and malloc itself gets by without an
/// arena that is locked for ever, where a question to all of them would not. Nobody is asked from here on.
pub(crate) fn ask_nobody() {
    RECOGNISED.store(NONE, Ordering::Relaxed);
}

/// The recognised allocator's figures now. Where the caller could call malloc.
pub(crate) fn ask() -> Option<(Heap, HeapFigures)> {
    let heap = recognise()?;
    let figures = match heap {
        Heap::Glibc => glibc()?,
        Heap::Jemalloc => jemalloc()?,
    };
    Some((heap, figures))
}

/// Above the blocks that are served from slots, below those that malloc maps by themselves: a mapped block's free would
/// change the threshold of the program's own.
const PROBE_BYTES: usize = 40_016;
/// What headers and rounding may add.
const PROBE_SLACK: u64 = 8192;
/// Other threads allocate meanwhile, so a try may tell nothing; two that tell the same are no chance.
const TRIES: usize = 12;
const ENOUGH: usize = 2;

/// Does a request to the global allocator show in glibc's figures, up and down? `None`: other threads changed them at each try.
fn is_glibc() -> Option<bool> {
    if !find_mallinfo2() {
        return Some(false);
    }
    let allocated = || glibc().map(|figures| figures.allocated_bytes);
    judged((0..TRIES).map_while(|_| Some([allocated()?, with_block(PROBE_BYTES, allocated)??, allocated()?])))
}

/// By what was allocated before a probing block, while it lived, and after.
fn judged(tries: impl Iterator<Item = [u64; 3]>) -> Option<bool> {
    let (mut shown, mut hidden) = (0, 0);
    for [before, during, after] in tries {
        let shows = |less| (PROBE_BYTES as u64..PROBE_BYTES as u64 + PROBE_SLACK).contains(&during.wrapping_sub(less));
        if shows(before) && shows(after) {
            shown += 1;
        } else if before == during && during == after {
            hidden += 1;
        }
        if shown == ENOUGH || hidden == ENOUGH {
            return Some(shown == ENOUGH);
        }
    }
    None
}

/// Runs `f` while a block of the global allocator lives.
fn with_block<T>(bytes: usize, f: impl FnOnce() -> T) -> Option<T> {
    let layout = Layout::from_size_align(bytes, 8).ok()?;
    // SAFETY: not of size zero.
    let block = unsafe { alloc(layout) };
    if black_box(block).is_null() {
        return None;
    }
    let result = f();
    // SAFETY: just allocated with this layout.
    unsafe { dealloc(block, layout) };
    Some(result)
}

/// A statically linked C library has no names to look up.
#[cfg(all(target_os = "linux", target_env = "gnu", not(target_feature = "crt-static")))]
fn find_mallinfo2() -> bool {
    // SAFETY: a name that ends in zero.
    let found = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"mallinfo2".as_ptr()) };
    // Relaxed: a function's address publishes nothing else.
    MALLINFO2.store(found.cast(), Ordering::Relaxed);
    !found.is_null()
}

#[cfg(not(all(target_os = "linux", target_env = "gnu", not(target_feature = "crt-static"))))]
fn find_mallinfo2() -> bool {
    false
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn glibc() -> Option<HeapFigures> {
    let found = MALLINFO2.load(Ordering::Relaxed);
    if found.is_null() {
        return None;
    }
    // SAFETY: glibc's function of this name, which has had this type since its first version.
    let mallinfo2: unsafe extern "C" fn() -> libc::mallinfo2 = unsafe { std::mem::transmute(found) };
    // SAFETY: reads the arenas under their locks, which this thread does not hold.
    let info = unsafe { mallinfo2() };
    Some(HeapFigures {
        allocated_bytes: (info.uordblks + info.hblkhd) as u64,
        held_bytes: (info.arena + info.hblkhd) as u64,
    })
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn glibc() -> Option<HeapFigures> {
    let _ = &MALLINFO2;
    None
}

/// Does a request to the global allocator show in jemalloc's count of this thread's allocations? No other thread's do.
#[cfg(feature = "jemalloc")]
fn is_jemalloc() -> bool {
    let Ok(allocated) = tikv_jemalloc_ctl::thread::allocatedp::read() else { return false };
    let before = allocated.get();
    let during = with_block(PROBE_BYTES, || allocated.get());
    during.is_some_and(|during| during.wrapping_sub(before) >= PROBE_BYTES as u64)
}

#[cfg(not(feature = "jemalloc"))]
fn is_jemalloc() -> bool {
    false
}

#[cfg(feature = "jemalloc")]
fn jemalloc() -> Option<HeapFigures> {
    use tikv_jemalloc_ctl::{epoch, stats};
    epoch::advance().ok()?;
    Some(HeapFigures {
        allocated_bytes: stats::allocated::read().ok()? as u64,
        held_bytes: stats::resident::read().ok()? as u64,
    })
}

#[cfg(not(feature = "jemalloc"))]
fn jemalloc() -> Option<HeapFigures> {
    None
}

#[cfg(all(test, target_os = "linux", target_env = "gnu"))]
mod tests {
    use super::*;

    #[test]
    fn the_tests_own_allocator_is_recognised_and_its_figures_move() {
        // The tests are served by the system's malloc, which is glibc's, unless something is preloaded. Those beside this one may
        // hide it for a while.
        let recognised = (0..10_000).find_map(|_| recognise());
        assert_eq!(recognised, Some(Heap::Glibc));
        let (_, before) = ask().expect("recognised");
        let kept = std::hint::black_box(vec![1u8; 50_000_000]);
        let (_, during) = ask().expect("recognised");
        drop(kept);
        // Tests beside this one allocate less than that.
        assert!(during.allocated_bytes > before.allocated_bytes + 30_000_000, "{before:?} {during:?}");
        assert!(during.held_bytes >= during.allocated_bytes);
    }
    /// A program whose threads allocate all the time is asked again; one that is served by another allocator is not.
    #[test]
    fn figures_that_others_change_prove_nothing() {
        const BLOCK: u64 = PROBE_BYTES as u64 + 16;
        let judged = |tries: &[[u64; 3]]| judged(tries.iter().copied());
        let (shown, hidden, noisy) = ([5000, 5000 + BLOCK, 5000], [5000; 3], [5000, 7000 + BLOCK, 900_000]);
        assert_eq!(judged(&[shown, shown]), Some(true));
        assert_eq!(judged(&[hidden, hidden]), Some(false));
        assert_eq!(judged(&[noisy, shown, noisy, noisy, shown]), Some(true));
        assert_eq!(judged(&[noisy, hidden, noisy, hidden]), Some(false));
        for undecided in [&[noisy; TRIES][..], &[shown], &[hidden], &[shown, hidden, noisy], &[]] {
            assert_eq!(judged(undecided), None, "{undecided:?}");
        }
    }
}
