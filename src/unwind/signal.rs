//! Frames that the kernel pushes below a signal handler: the handler returns to code that asks the kernel to go on where it
//! interrupted the thread.
//!
//! Promises: only those two instructions, at the very address that is returned to, make such a frame; what is read of it is the
//! kernel's record of the interrupted registers, by `read` alone. The address is of an instruction that was interrupted, not
//! of a call: with one added it is what a return address would be, so that all that looks a byte before an address finds it.
//!
//! No table is needed: glibc has one for it on x86-64, musl and aarch64's kernels since 5.8 have none. What is interrupted before it
//! has saved its return address, on aarch64, can't be left: the stack is cut there and says so.
//!
//! Source: Linux, `struct rt_sigframe` (arch/x86/include/asm/sigframe.h, arch/arm64/kernel/signal.c), `struct sigcontext`; the
//! instructions are part of the interface, for this purpose (both architectures' vDSO and C libraries say so).

use super::code;
use super::frame::State;
use super::step::Next;

/// `mov rax, 15; syscall`.
#[cfg(target_arch = "x86_64")]
const RETURNS: [u8; 9] = [0x48, 0xc7, 0xc0, 0x0f, 0, 0, 0, 0x0f, 0x05];
/// `mov x8, #139; svc #0`.
#[cfg(target_arch = "aarch64")]
const RETURNS: [u8; 8] = [0x68, 0x11, 0x80, 0xd2, 0x01, 0, 0, 0xd4];

/// In bytes above the stack pointer that the handler leaves: x86-64's handler has taken its return address from there, below
/// `struct ucontext`; aarch64's finds `struct siginfo` before it.
struct Offsets {
    fp: u64,
    sp: u64,
    address: u64,
}

#[cfg(target_arch = "x86_64")]
const OFFSETS: Offsets = Offsets { fp: 120, sp: 160, address: 168 };
#[cfg(target_arch = "aarch64")]
const OFFSETS: Offsets = Offsets { fp: 544, sp: 560, address: 568 };

/// A function that returns here returns from a signal handler.
#[cold]
pub(super) fn is_return(returns_to: u64) -> bool {
    code::is(returns_to, &RETURNS)
}

/// What was interrupted, from the frame `state` whose address is such a return.
#[cold]
#[inline(never)]
pub(super) fn step(state: State, read: &mut impl FnMut(u64) -> Result<u64, ()>) -> Next {
    let mut word = |offset: u64| read(state.sp.checked_add(offset).ok_or(())?);
    // Three words: no frame remembers as many, so that this step is taken each time.
    let (Ok(fp), Ok(sp), Ok(address)) = (word(OFFSETS.fp), word(OFFSETS.sp), word(OFFSETS.address)) else {
        return Next::Broken;
    };
    address.checked_add(1).map_or(Next::Broken, |address| Next::To(State { address, sp, fp }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_code_goes_beyond_the_last_address() {
        assert!(!is_return(u64::MAX) && !is_return(u64::MAX - 2));
    }

    #[test]
    fn the_offsets_are_those_of_the_c_library_s_records() {
        use core::mem::offset_of;
        #[cfg(target_arch = "x86_64")]
        {
            let registers = offset_of!(libc::ucontext_t, uc_mcontext) + offset_of!(libc::mcontext_t, gregs);
            let at = |register: libc::c_int| u64::try_from(registers).unwrap() + u64::try_from(register).unwrap() * 8;
            assert_eq!(OFFSETS.fp, at(libc::REG_RBP));
            assert_eq!(OFFSETS.sp, at(libc::REG_RSP));
            assert_eq!(OFFSETS.address, at(libc::REG_RIP));
        }
        #[cfg(target_arch = "aarch64")]
        {
            let context = size_of::<libc::siginfo_t>() + offset_of!(libc::ucontext_t, uc_mcontext);
            let at = |offset: usize| u64::try_from(context + offset).unwrap();
            assert_eq!(OFFSETS.fp, at(offset_of!(libc::mcontext_t, regs) + 29 * 8));
            assert_eq!(OFFSETS.sp, at(offset_of!(libc::mcontext_t, sp)));
            assert_eq!(OFFSETS.address, at(offset_of!(libc::mcontext_t, pc)));
        }
    }
}
