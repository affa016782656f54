//! Hints that memory will be wanted: they read nothing, fault on no address, and may be ignored.

/// Asks for the cache line of `value`, to be read.
#[inline]
pub(crate) fn for_reading<T>(value: &T) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: every x86-64 has the instruction; it reads nothing and faults on no address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(value).cast::<i8>()) };
    }
    #[cfg(target_arch = "aarch64")]
    {
        // SAFETY: a hint that reads nothing and faults on no address.
        unsafe {
            std::arch::asm!("prfm pldl1keep, [{0}]", in(reg) std::ptr::from_ref(value), options(nostack, readonly, preserves_flags));
        };
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let _ = value;
}

/// Asks for the cache line at `address`, which may be any, to be written: it is taken from whatever processor has it.
#[inline]
pub(crate) fn for_writing<T>(address: *const T) {
    #[cfg(target_arch = "x86_64")]
    {
        // SAFETY: reads nothing and faults on no address; processors of 64 bits that don't know it do nothing (Intel,
        // 'Architectures Software Developer's Manual', PREFETCHW).
        unsafe {
            std::arch::asm!("prefetchw [{0}]", in(reg) address, options(nostack, readonly, preserves_flags));
        };
    }
    #[cfg(target_arch = "aarch64")]
    {
        // SAFETY: a hint that reads nothing and faults on no address.
        unsafe {
            std::arch::asm!("prfm pstl1keep, [{0}]", in(reg) address, options(nostack, readonly, preserves_flags));
        };
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let _ = address;
}
