//! Private anonymous mappings: reserve inaccessible, open in steps, never unmap what a thread may still hold.
//!
//! Promises: no call here goes through the heap. What fails returns `None`; the caller has a smaller or slower way.

use std::ptr::NonNull;

/// The page size that steps are rounded to. Larger pages (aarch64: up to 64 KiB) divide it.
pub(crate) const STEP_BYTES: usize = 64 * 1024;

/// Reserves `bytes` of address space that can't be read or written and costs no memory.
pub(crate) fn reserve(bytes: usize) -> Option<NonNull<u8>> {
    map(bytes, libc::PROT_NONE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE)
}

/// The most that one reservation may take of a process's address space: all of it, or an eighth of what `ulimit -v`
/// allows, since the rest is the program's.
pub(crate) fn reservable_bytes() -> usize {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: room for one `rlimit`.
    let known = unsafe { libc::getrlimit(libc::RLIMIT_AS, &raw mut limit) } == 0;
    if !known || limit.rlim_cur == libc::RLIM_INFINITY {
        return usize::MAX;
    }
    usize::try_from(limit.rlim_cur / 8).unwrap_or(usize::MAX)
}

/// Maps `bytes` of zeroed memory.
pub(crate) fn anonymous(bytes: usize) -> Option<NonNull<u8>> {
    map(bytes, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS)
}

fn map(bytes: usize, protection: i32, flags: i32) -> Option<NonNull<u8>> {
    // SAFETY: an anonymous mapping at an address of the kernel's choice touches no existing memory.
    let at = unsafe { libc::mmap(std::ptr::null_mut(), bytes, protection, flags, -1, 0) };
    if at == libc::MAP_FAILED { None } else { NonNull::new(at.cast()) }
}

/// Opens `[at, at + bytes)` of a reservation for reading and writing. Opening twice is harmless.
///
/// # Safety
/// The range must lie within a reservation made by [`reserve`].
pub(crate) unsafe fn open(at: *mut u8, bytes: usize) -> bool {
    // SAFETY: the caller owns the range; widening its protection invalidates nothing.
    unsafe { libc::mprotect(at.cast(), bytes, libc::PROT_READ | libc::PROT_WRITE) == 0 }
}

/// Asks for small pages only, so that one sample in a huge page does not cost 2 MiB.
///
/// # Safety
/// The range must lie within a mapping of ours.
pub(crate) unsafe fn no_huge_pages(at: *mut u8, bytes: usize) {
    // SAFETY: advice on our own range; failure (an old kernel) is harmless.
    unsafe { libc::madvise(at.cast(), bytes, libc::MADV_NOHUGEPAGE) };
}

/// Gives the pages back; they read as zero afterwards.
///
/// # Safety
/// The range must be page-aligned, lie within a private anonymous mapping of ours, and hold nothing of value.
pub(crate) unsafe fn discard(at: *mut u8, bytes: usize) {
    // SAFETY: the caller says that nobody needs the contents.
    unsafe { libc::madvise(at.cast(), bytes, libc::MADV_DONTNEED) };
}

/// Gives a mapping back.
///
/// # Safety
/// The range must be exactly one mapping made by [`reserve`] or [`anonymous`], and nobody may use it again.
pub(crate) unsafe fn unmap(at: *mut u8, bytes: usize) {
    // SAFETY: the caller says that the mapping is its own and unused.
    unsafe { libc::munmap(at.cast(), bytes) };
}
