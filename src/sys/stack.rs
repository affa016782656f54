//! Stacks and registers: where a thread's stack lies, what the registers hold here, running a function on another
//! stack, asking whether memory can be read, and the pages that all this needs.
//!
//! Promises: nothing here allocates, locks or panics, but `start`, which reads `/proc` once; `errno` is as it was
//! after every call. `bounds` makes system calls: once per thread. Both architectures; the assembly is our own.
#![allow(unsafe_code, reason = "inline assembly, raw system calls and libc")]

use core::arch::asm;
use std::sync::atomic::{AtomicU64, Ordering};

/// The registers that unwinding starts with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Registers {
    /// The instruction pointer.
    pub(crate) ip: u64,
    /// The stack pointer at that instruction.
    pub(crate) sp: u64,
    /// The frame pointer register (rbp, x29), whatever the function uses it for.
    pub(crate) fp: u64,
    /// The link register (x30); 0 on x86-64.
    pub(crate) lr: u64,
}

impl Registers {
    /// The registers here, in the function that this is inlined into. 4 instructions.
    #[inline(always)]
    pub(crate) fn here() -> Registers {
        #[cfg(target_arch = "x86_64")]
        {
            let (ip, sp, fp);
            // SAFETY: reads three registers.
            unsafe {
                asm!("lea {ip}, [rip]", "mov {sp}, rsp", "mov {fp}, rbp",
                    ip = out(reg) ip, sp = out(reg) sp, fp = out(reg) fp, options(nomem, nostack, preserves_flags));
            }
            Registers { ip, sp, fp, lr: 0 }
        }
        #[cfg(target_arch = "aarch64")]
        {
            let (ip, sp, fp, lr);
            // SAFETY: reads four registers.
            unsafe {
                asm!("adr {ip}, .", "mov {sp}, sp", "mov {fp}, x29", "mov {lr}, x30",
                    ip = out(reg) ip, sp = out(reg) sp, fp = out(reg) fp, lr = out(reg) lr,
                    options(nomem, nostack, preserves_flags));
            }
            Registers { ip, sp, fp, lr }
        }
    }
}

/// The addresses of a stack, `low <= sp < high`. Empty where unknown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Bounds {
    /// The lowest address that the stack may grow to.
    pub(crate) low: u64,
    /// One past the highest.
    pub(crate) high: u64,
}

impl Bounds {
    /// No stack.
    pub(crate) const UNKNOWN: Bounds = Bounds { low: 0, high: 0 };

    /// `sp` lies in this stack.
    #[inline]
    pub(crate) fn contain(&self, sp: u64) -> bool {
        sp >= self.low && sp < self.high
    }
}

/// The main thread's stack, found by `start`; zero before.
static MAIN_LOW: AtomicU64 = AtomicU64::new(0);
static MAIN_HIGH: AtomicU64 = AtomicU64::new(0);
/// Which thread is the main one, where `start` was called by it; else 0.
static MAIN_THREAD: AtomicU64 = AtomicU64::new(0);

/// Finds the main thread's stack. Reads `/proc/self/maps`, allocates; may be called by any thread, any number of
/// times. Where that file cannot be read the main thread's stack counts as unknown: slower, and right.
pub(crate) fn start() {
    // Relaxed: who does not see it asks the system. A forked child's main thread is another; it starts anew.
    MAIN_THREAD.store(if asks_main() { this_thread() } else { 0 }, Ordering::Relaxed);
    if let Some(main) = main_bounds() {
        MAIN_LOW.store(main.low, Ordering::Relaxed);
        // Release: partner of `bounds`; a reader that sees the end sees the beginning.
        MAIN_HIGH.store(main.high, Ordering::Release);
    }
}

/// The main stack can grow down to its limit, but not into the mapping below it.
fn main_bounds() -> Option<Bounds> {
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    // Where the kernel did not make the stack (valgrind does), it is the mapping that holds the program's environment.
    // SAFETY: asks the C library for a word of the auxiliary vector, whose strings lie at the top of the stack.
    let random = unsafe { libc::getauxval(libc::AT_RANDOM) };
    let mut below = 0;
    for line in maps.lines() {
        let (low, rest) = line.split_once('-')?;
        let (high, _) = rest.split_once(' ')?;
        let low = u64::from_str_radix(low, 16).ok()?;
        let high = u64::from_str_radix(high, 16).ok()?;
        let unnamed = !line.contains('/') && (low..high).contains(&random);
        if line.ends_with("[stack]") || unnamed {
            let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
            // SAFETY: a valid place for the answer.
            let known = unsafe { libc::getrlimit(libc::RLIMIT_STACK, &raw mut limit) } == 0;
            let grown_to = if known { high.saturating_sub(limit.rlim_cur) } else { low };
            return Some(Bounds { low: grown_to.max(below).min(low), high });
        }
        below = high;
    }
    None
}

/// The bounds of the calling thread's own stack, whatever stack `sp` is on. 0.3 us on a thread, less on main.
#[cold]
pub(crate) fn bounds(sp: u64) -> Bounds {
    // Acquire: partner of `start`.
    let main = Bounds { high: MAIN_HIGH.load(Ordering::Acquire), low: MAIN_LOW.load(Ordering::Relaxed) };
    if main.contain(sp) {
        return main;
    }
    let is_main = match MAIN_THREAD.load(Ordering::Relaxed) {
        0 => asks_main(),
        main => main == this_thread(),
    };
    if is_main {
        // The main thread on some other stack (libc would read /proc for it, here, inside an allocation), or the only
        // thread of a forked child: its stack counts as unknown.
        return main;
    }
    preserving_errno(thread_bounds)
}

/// Is the calling thread the main one? Two system calls.
fn asks_main() -> bool {
    // SAFETY: no preconditions.
    let process = unsafe { libc::getpid() };
    // SAFETY: no preconditions.
    process == unsafe { libc::gettid() }
}

/// The C library's name of the calling thread.
fn this_thread() -> u64 {
    // SAFETY: no preconditions.
    unsafe { libc::pthread_self() as u64 }
}

fn thread_bounds() -> Bounds {
    let mut attributes = core::mem::MaybeUninit::<libc::pthread_attr_t>::uninit();
    // SAFETY: no preconditions.
    let this = unsafe { libc::pthread_self() };
    // SAFETY: `this` is alive and the place for the answer is valid.
    if unsafe { libc::pthread_getattr_np(this, attributes.as_mut_ptr()) } != 0 {
        return Bounds::UNKNOWN;
    }
    let mut address = core::ptr::null_mut();
    let mut size = 0;
    // SAFETY: initialised by the call above.
    let failed = unsafe { libc::pthread_attr_getstack(attributes.as_ptr(), &raw mut address, &raw mut size) } != 0;
    // SAFETY: initialised above, not used again.
    unsafe { libc::pthread_attr_destroy(attributes.as_mut_ptr()) };
    if failed {
        return Bounds::UNKNOWN;
    }
    let low = address.addr() as u64;
    Bounds { low, high: low.saturating_add(size as u64) }
}

/// Calls `work` and puts `errno` back.
#[inline]
pub(crate) fn preserving_errno<T>(work: impl FnOnce() -> T) -> T {
    let saved = errno();
    let answer = work();
    set_errno(saved);
    answer
}

fn errno() -> libc::c_int {
    // SAFETY: no preconditions.
    let place = unsafe { libc::__errno_location() };
    // SAFETY: the calling thread's errno is always there.
    unsafe { *place }
}

fn set_errno(value: libc::c_int) {
    // SAFETY: no preconditions.
    let place = unsafe { libc::__errno_location() };
    // SAFETY: the calling thread's errno is always there.
    unsafe { *place = value };
}

/// The pointer to an address in this process.
#[inline]
#[expect(clippy::cast_possible_truncation, reason = "64-bit targets only")]
pub(crate) fn pointer<T>(address: u64) -> *mut T {
    core::ptr::with_exposed_provenance_mut(address as usize)
}

/// Whether eight bytes at `address` (a multiple of 8) can be read. One system call that every sandbox allows: an
/// unknown `how` with the address as the new signal set is EFAULT where unreadable, and else EINVAL; the mask stays.
#[cold]
pub(crate) fn readable(address: u64) -> bool {
    const NO_SUCH_HOW: libc::c_int = 0x7fff_ffff;
    preserving_errno(|| {
        // SAFETY: the kernel copies from the address or refuses; it changes nothing, since `how` is invalid.
        let answer = unsafe {
            libc::syscall(libc::SYS_rt_sigprocmask, NO_SUCH_HOW, address, core::ptr::null_mut::<u8>(), 8_usize)
        };
        answer == -1 && errno() == libc::EINVAL
    })
}

/// Runs `work(data)` with the stack pointer at `top`, and comes back. Its unwind table says where the caller is, so
/// that debuggers, profilers and the system's unwinder find their way across.
///
/// # Safety
/// - `[top - needed, top)` is writable memory that nobody else uses meanwhile; `top` is a multiple of 16.
/// - `work` does not unwind, and `data` is what it expects.
#[unsafe(naked)]
pub(crate) unsafe extern "C" fn call_on_stack(top: u64, work: unsafe extern "C" fn(*mut u8), data: *mut u8) {
    #[cfg(target_arch = "x86_64")]
    core::arch::naked_asm!(
        ".cfi_startproc",
        "push rbp",
        ".cfi_def_cfa_offset 16",
        ".cfi_offset rbp, -16",
        "mov rbp, rsp",
        ".cfi_def_cfa_register rbp",
        "mov rsp, rdi",
        "mov rdi, rdx",
        "call rsi",
        "mov rsp, rbp",
        "pop rbp",
        ".cfi_def_cfa rsp, 8",
        "ret",
        ".cfi_endproc",
    );
    #[cfg(target_arch = "aarch64")]
    core::arch::naked_asm!(
        ".cfi_startproc",
        "stp x29, x30, [sp, #-16]!",
        ".cfi_def_cfa_offset 16",
        ".cfi_offset x29, -16",
        ".cfi_offset x30, -8",
        "mov x29, sp",
        ".cfi_def_cfa x29, 16",
        "mov sp, x0",
        "mov x0, x2",
        "blr x1",
        "mov sp, x29",
        "ldp x29, x30, [sp], #16",
        ".cfi_def_cfa sp, 0",
        ".cfi_restore x29",
        ".cfi_restore x30",
        "ret",
        ".cfi_endproc",
    );
}

/// New zeroed pages; `None` where the system refuses. `bytes` is rounded up to whole pages.
pub(crate) fn map_pages(bytes: usize) -> Option<core::ptr::NonNull<u8>> {
    preserving_errno(|| {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a new mapping where the kernel likes; nothing that exists is touched.
        let address = unsafe { libc::mmap(core::ptr::null_mut(), bytes, protection, flags, -1, 0) };
        if address == libc::MAP_FAILED { None } else { core::ptr::NonNull::new(address.cast()) }
    })
}

/// Makes `bytes` at `address` inaccessible: a guard below a private stack.
///
/// # Safety
/// - Whole pages of one mapping of ours, not used by anyone.
pub(crate) unsafe fn guard_pages(address: *mut u8, bytes: usize) {
    preserving_errno(|| {
        // SAFETY: the caller owns these pages.
        unsafe { libc::mprotect(address.cast(), bytes, libc::PROT_NONE) };
    });
}

/// Gives pages back.
///
/// # Safety
/// - A whole mapping that `map_pages(bytes)` made and that nobody uses any more.
pub(crate) unsafe fn unmap_pages(address: core::ptr::NonNull<u8>, bytes: usize) {
    preserving_errno(|| {
        // SAFETY: the caller owns the mapping.
        unsafe { libc::munmap(address.as_ptr().cast(), bytes) };
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_knows_its_stack() {
        start();
        std::thread::Builder::new()
            .stack_size(256 * 1024)
            .spawn(|| {
                let registers = Registers::here();
                let bounds = bounds(registers.sp);
                assert!(bounds.contain(registers.sp), "{bounds:x?} {registers:x?}");
                assert!((256 * 1024..400 * 1024).contains(&(bounds.high - bounds.low)));
                assert!(readable(bounds.high - 8) && readable(registers.sp & !7));
            })
            .unwrap()
            .join()
            .unwrap();
    }

    #[test]
    fn unreadable_memory_is_known_without_touching_it() {
        let pages = map_pages(8192).unwrap();
        let address = pages.as_ptr().addr() as u64;
        assert!(readable(address) && readable(address + 4096));
        // SAFETY: our own second page.
        unsafe { guard_pages(pointer(address + 4096), 4096) };
        set_errno(77);
        assert!(readable(address + 4088) && !readable(address + 4096) && !readable(0) && !readable(!7));
        assert_eq!(errno(), 77);
        // SAFETY: made above.
        unsafe { unmap_pages(pages, 8192) };
    }

    unsafe extern "C" fn sum(data: *mut u8) {
        // SAFETY: the test passes a pair.
        let pair = unsafe { &mut *data.cast::<(u64, u64)>() };
        let here = Registers::here();
        pair.0 = here.sp;
        pair.1 = format!("{}{}", pair.1, 1.5 + pair.1 as f64).len() as u64;
    }

    #[test]
    fn a_function_runs_on_another_stack() {
        let pages = map_pages(256 * 1024).unwrap();
        let top = pages.as_ptr().addr() as u64 + 256 * 1024;
        let mut pair = (0_u64, 7_u64);
        for _ in 0..3 {
            // SAFETY: our own pages; `sum` takes a pair and does not unwind.
            unsafe { call_on_stack(top, sum, (&raw mut pair).cast()) };
            assert!(pair.0 < top && pair.0 > top - 256 * 1024);
        }
        assert_eq!(pair.1, 4);
        // SAFETY: made above.
        unsafe { unmap_pages(pages, 256 * 1024) };
    }
}
