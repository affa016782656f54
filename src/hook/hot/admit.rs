//! The three admissions: what the hot path does to the calling thread's words.
//!
//! Promises: on x86-64 each word is changed by one instruction, so that other threads read it whole, and a call that comes meanwhile is
//! overwritten, if at all, before the caller's barrier. An alloc takes 4 instructions, a free 9, a realloc 19, that which finds the words included (by
//! glibc; 1 more elsewhere: `place`). Nothing is called.

#[cfg(not(target_arch = "x86_64"))]
use std::sync::atomic::Ordering;

use super::Hot;
#[cfg(not(all(target_arch = "x86_64", target_os = "linux", target_env = "gnu")))]
use super::place::HOT;
#[cfg(target_arch = "x86_64")]
use super::place::{on_words, word};

impl Hot {
    /// Counts an allocation of `size` bytes; false: go cold. In both cases the budget is less by `size`, which the cold
    /// path gives back first ([`Hot::undo`]).
    #[inline(always)]
    pub(crate) fn admit_alloc(size: usize) -> bool {
        #[cfg(target_arch = "x86_64")]
        {
            // SAFETY: the first and second word of this thread's own line; one instruction each, on aligned words, so
            // that other threads read them whole. `jl`, not `js`: right also where the subtraction overflows.
            unsafe {
                on_words!(
                    concat!("sub ", word!(0), ", {size}"),
                    "jl {cold}",
                    concat!("inc ", word!(8));
                    size = in(reg) size,
                    cold = label { return false },
                    options(nostack),
                );
            }
            true
        }
        #[cfg(not(target_arch = "x86_64"))]
        HOT.with(|hot| {
            let admitted = hot.spend(size);
            if admitted {
                super::bump(&hot.alloc_blocks, 1);
            }
            admitted
        })
    }

    /// The budget less `bytes`, and whether that is not negative.
    #[cfg(not(target_arch = "x86_64"))]
    #[inline(always)]
    fn spend(&self, bytes: usize) -> bool {
        // Where the processor may lack atomic additions, compilers call a function that looks: 8 more instructions, and
        // all registers saved around it. The pair of exclusive accesses is there on all.
        #[cfg(all(target_arch = "aarch64", not(target_feature = "lse")))]
        // SAFETY: an aligned word of this thread's own line, changed as by `fetch_sub` below.
        unsafe {
            core::arch::asm!(
                "2:",
                "ldxr {left}, [{budget}]",
                "subs {left}, {left}, {bytes}",
                "stlxr {failed:w}, {left}, [{budget}]",
                "cbnz {failed:w}, 2b",
                // Right also where the subtraction overflowed.
                "b.lt {cold}",
                budget = in(reg) self.budget.as_ptr(),
                bytes = in(reg) bytes,
                left = out(reg) _,
                failed = out(reg) _,
                cold = label { return false },
                options(nostack),
            );
            true
        }
        #[cfg(not(all(target_arch = "aarch64", not(target_feature = "lse"))))]
        self.spend_at_once(bytes)
    }

    #[cfg(not(any(target_arch = "x86_64", all(target_arch = "aarch64", not(target_feature = "lse")))))]
    #[inline(always)]
    fn spend_at_once(&self, bytes: usize) -> bool {
        let bytes = bytes.cast_signed() as i64;
        // Release: pairs with the Acquire in `allocs`, as all counters do.
        self.budget.fetch_sub(bytes, Ordering::Release).checked_sub(bytes).is_some_and(|left| left >= 0)
    }

    /// Counts a free; false: go cold, nothing was counted.
    #[inline(always)]
    pub(crate) fn admit_free(ptr: *mut u8, size: usize) -> bool {
        #[cfg(target_arch = "x86_64")]
        {
            // SAFETY: words of this thread's own line, as in `admit_alloc`; `offset` is scratch.
            unsafe {
                on_words!(
                    "mov {offset}, {ptr}",
                    concat!("sub {offset}, ", word!(32)),
                    concat!("cmp {offset}, ", word!(40)),
                    "jb {cold}",
                    concat!("cmp {size}, ", word!(48)),
                    "ja {cold}",
                    concat!("add ", word!(16), ", {size}"),
                    concat!("inc ", word!(24));
                    ptr = in(reg) ptr,
                    size = in(reg) size,
                    offset = out(reg) _,
                    cold = label { return false },
                    options(nostack),
                );
            }
            true
        }
        #[cfg(not(target_arch = "x86_64"))]
        HOT.with(|hot| {
            if hot.must_look(ptr, size) {
                return false;
            }
            super::bump(&hot.free_bytes, size as u64);
            super::bump(&hot.free_blocks, 1);
            true
        })
    }

    /// Counts a realloc; the answer says whether the growth was subtracted from the budget.
    #[inline(always)]
    pub(crate) fn admit_realloc(ptr: *mut u8, old: usize, new: usize) -> Admission {
        #[cfg(target_arch = "x86_64")]
        {
            // SAFETY: words of this thread's own two lines, as in `admit_alloc`; `kept` (the smaller size) and `other`
            // are scratch.
            unsafe {
                on_words!(
                    "mov {other}, {ptr}",
                    concat!("sub {other}, ", word!(32)),
                    concat!("cmp {other}, ", word!(40)),
                    "jb {look}",
                    concat!("cmp {old}, ", word!(48)),
                    "ja {look}",
                    "mov {kept}, {old}",
                    "cmp {new}, {kept}",
                    "cmovb {kept}, {new}",
                    "mov {other}, {new}",
                    "sub {other}, {kept}",
                    concat!("sub ", word!(0), ", {other}"),
                    "jl {spent}",
                    "mov {other}, {old}",
                    "sub {other}, {kept}",
                    concat!("add ", word!(16), ", {other}"),
                    concat!("add ", word!(72), ", {kept}"),
                    concat!("inc ", word!(80));
                    ptr = in(reg) ptr,
                    old = in(reg) old,
                    new = in(reg) new,
                    kept = out(reg) _,
                    other = out(reg) _,
                    look = label { return Admission::Look },
                    spent = label { return Admission::Spent },
                    options(nostack),
                );
            }
            Admission::Counted
        }
        #[cfg(not(target_arch = "x86_64"))]
        HOT.with(|hot| {
            if hot.must_look(ptr, old) {
                return Admission::Look;
            }
            if !hot.spend(new.saturating_sub(old)) {
                return Admission::Spent;
            }
            hot.count_realloc(old, new);
            Admission::Counted
        })
    }

    #[cfg(not(target_arch = "x86_64"))]
    #[inline(always)]
    fn must_look(&self, ptr: *mut u8, size: usize) -> bool {
        // Relaxed: a word whose late arrival only delays going cold.
        let offset = ptr.addr().wrapping_sub(self.range_base.load(Ordering::Relaxed));
        offset < self.range_span.load(Ordering::Relaxed) || size > self.look_above.load(Ordering::Relaxed)
    }
}

/// What became of a realloc on the hot path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    /// Counted: the inner allocator's turn.
    Counted,
    /// Go cold; nothing was changed.
    Look,
    /// Go cold; the growth was subtracted from the budget.
    Spent,
}

#[cfg(target_arch = "x86_64")]
const _: () = {
    assert!(std::mem::offset_of!(Hot, budget) == 0, "the assembly's offsets");
    assert!(std::mem::offset_of!(Hot, alloc_blocks) == 8, "the assembly's offsets");
    assert!(std::mem::offset_of!(Hot, free_bytes) == 16, "the assembly's offsets");
    assert!(std::mem::offset_of!(Hot, free_blocks) == 24, "the assembly's offsets");
    assert!(std::mem::offset_of!(Hot, range_base) == 32, "the assembly's offsets");
    assert!(std::mem::offset_of!(Hot, range_span) == 40, "the assembly's offsets");
    assert!(std::mem::offset_of!(Hot, look_above) == 48, "the assembly's offsets");
    assert!(std::mem::offset_of!(Hot, kept_bytes) == 72, "the assembly's offsets");
    assert!(std::mem::offset_of!(Hot, reallocs) == 80, "the assembly's offsets");
};
