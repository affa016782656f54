//! What machine code shows of a frame that no table tells of: that its function keeps a frame pointer, and that an address
//! is where a call returns to.
//!
//! Promises: a frame pointer is believed only with both. The register may hold anything else in code that keeps none: then
//! the words that it points to are an outer frame's, or data. No allocation; every page is asked for before it is read
//! (one system call a page), since code may lie anywhere, and its module may be gone. A page that another thread unmaps
//! between the two is no thread's code: an address of it was found on this stack by chance.
//!
//! Told too seldom, never too often: code whose function's beginning is farther than `SEARCHED` or looks otherwise keeps no frame
//! pointer for us, and the stack is cut there and says so.
#![allow(unsafe_code, reason = "reads code whose page the system said can be read")]

use super::row;
use super::set::Set;
use crate::sys::stack;

/// How far a function's beginning is looked for: compiled functions are seldom larger, and it is microseconds.
const SEARCHED: u64 = 4 * 1024;
/// How far apart the code of one just-in-time compiler may lie: what its calls reach.
const REGION: u64 = 1 << 31;

const PAGE_BITS: u32 = 12;

/// Code bytes, read page by page.
struct Code {
    /// The page that can be read; none yet: no address's.
    page: u64,
}

impl Code {
    fn new() -> Code {
        Code { page: u64::MAX }
    }

    fn byte(&mut self, address: u64) -> Option<u8> {
        let page = address >> PAGE_BITS;
        if page != self.page {
            if !stack::readable(page << PAGE_BITS) {
                return None;
            }
            self.page = page;
        }
        // SAFETY: on a page that can be read.
        Some(unsafe { stack::pointer::<u8>(address).read_volatile() })
    }

    fn bytes<const N: usize>(&mut self, address: u64) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        for (byte, after) in bytes.iter_mut().zip(0..) {
            *byte = self.byte(address.checked_add(after)?)?;
        }
        Some(bytes)
    }
}

/// These bytes are at this address.
pub(super) fn is<const N: usize>(address: u64, bytes: &[u8; N]) -> bool {
    Code::new().bytes(address).is_some_and(|found| found == *bytes)
}

/// The function that `call` lies in begins with the instructions that make the frame pointer what it is called: they are found
/// before any function's end is.
pub(super) fn keeps_frame_pointer(set: &Set, call: u64) -> bool {
    let begins = set.module(call).map_or(0, |module| module.start).max(call.saturating_sub(SEARCHED)).max(4096);
    let mut code = Code::new();
    let mut at = call & !(machine::STEP - 1);
    while let Some(before) = at.checked_sub(machine::STEP)
        && before >= begins
    {
        at = before;
        match code.byte(at) {
            Some(first) if machine::may_matter(first) => {}
            Some(_) => continue,
            None => return false,
        }
        let Some(bytes) = code.bytes(at) else { return false };
        if machine::sets_frame_pointer(bytes) {
            return true;
        }
        if machine::ends_function(bytes, at) {
            return false;
        }
    }
    false
}

/// `returns_to` is where a call returns to, which may have been one of the function that `callee` lies in.
pub(super) fn is_call(set: &Set, callee: u64, returns_to: u64) -> bool {
    let (from_module, of_module) = (set.module(returns_to - 1).is_some(), set.module(callee).is_some());
    // Code of no module is called by modules, or by more of its own.
    if !from_module && (of_module || returns_to.abs_diff(callee) >= REGION) {
        return false;
    }
    // A function's address is no return address, but for a call that never returns, without a byte behind it.
    if row::begins(set, returns_to) {
        return false;
    }
    let mut code = Code::new();
    let Some(before) = returns_to.checked_sub(machine::LONGEST_CALL).and_then(|at| code.bytes(at)) else {
        return false;
    };
    machine::is_indirect_call(before)
        || machine::direct_target(before, returns_to).is_some_and(|target| match set.module(target) {
            // What has a table is another function than the callee, unless it jumps on.
            Some(_) => !row::covers(set, target) || code.bytes(target).is_some_and(machine::jumps_on),
            None => !of_module && target.abs_diff(callee) < REGION,
        })
}

#[cfg(target_arch = "x86_64")]
mod machine {
    /// Instructions begin at any byte.
    pub(super) const STEP: u64 = 1;
    pub(super) const LONGEST_CALL: u64 = 7;

    /// The two below are about instructions that begin so.
    #[inline]
    pub(super) fn may_matter(first: u8) -> bool {
        matches!(first, 0x55 | 0xc3 | 0xe9 | 0xeb | 0xff | 0x0f | 0xcc | 0)
    }

    /// `push rbp; mov rbp, rsp`, in both encodings.
    pub(super) fn sets_frame_pointer(bytes: [u8; 12]) -> bool {
        matches!(bytes, [0x55, 0x48, 0x89, 0xe5, ..] | [0x55, 0x48, 0x8b, 0xec, ..])
    }

    /// A return or a jump that padding or an aligned address follows, a trap, or the padding itself. Some that lie within a function
    /// are taken for its end.
    pub(super) fn ends_function(bytes: [u8; 12], at: u64) -> bool {
        let pads = |rest: &[u8]| {
            matches!(
                rest,
                [0xcc | 0x90, ..]
                    | [0x66, 0x90, ..]
                    | [0x0f, 0x1f, ..]
                    | [0x66, 0x0f | 0x2e | 0x66, ..]
                    | [0xf3, 0x0f, 0x1e, 0xfa, ..]
                    | [0, 0, 0, 0, ..]
            )
        };
        let ends = |length: u64, rest: &[u8]| pads(rest) || (at + length).is_multiple_of(16);
        match &bytes {
            [0xc3, rest @ ..] => ends(1, rest),
            [0xe9, _, _, _, _, rest @ ..] => ends(5, rest),
            [0xeb, _, rest @ ..] | [0xff, 0x20..=0x27 | 0xe0..=0xe7, rest @ ..] => ends(2, rest),
            [0x0f, 0x0b, ..] | [0xcc, 0xcc, ..] => true,
            _ => bytes == [0; 12],
        }
    }

    /// `call` through a register or memory.
    pub(super) fn is_indirect_call(before: [u8; 7]) -> bool {
        const SIB: u8 = 4;
        // The base of a SIB byte that stands for 32 bits more.
        let far = |sib: u8| sib & 7 == 5;
        let is_call = |modrm: u8| (modrm >> 3) & 7 == 2;
        let (kind, low) = (|modrm: u8| modrm >> 6, |modrm: u8| modrm & 7);
        let [.., f, e, d, c, b, a] = before;
        (b == 0xff && is_call(a) && (kind(a) == 3 || kind(a) == 0 && low(a) != SIB && low(a) != 5))
            || (c == 0xff && is_call(b) && (kind(b) == 1 && low(b) != SIB || kind(b) == 0 && low(b) == SIB && !far(a)))
            || (d == 0xff && is_call(c) && kind(c) == 1 && low(c) == SIB)
            || (f == 0xff && is_call(e) && (kind(e) == 0 && low(e) == 5 || kind(e) == 2 && low(e) != SIB))
            || (before[0] == 0xff
                && is_call(before[1])
                && low(before[1]) == SIB
                && (kind(before[1]) == 2 || kind(before[1]) == 0 && far(before[2])))
    }

    /// Where `call rel32` leads.
    pub(super) fn direct_target(before: [u8; 7], returns_to: u64) -> Option<u64> {
        match before {
            [_, _, 0xe8, distance @ ..] => returns_to.checked_add_signed(i64::from(i32::from_le_bytes(distance))),
            _ => None,
        }
    }

    /// A stub of the linker's, or a function that is another's name: its first instruction is a jump.
    pub(super) fn jumps_on(bytes: [u8; 8]) -> bool {
        let bytes = bytes.strip_prefix(&[0xf3, 0x0f, 0x1e, 0xfa]).unwrap_or(&bytes);
        let bytes = bytes.strip_prefix(&[0xf2]).unwrap_or(bytes);
        matches!(bytes, [0xff, 0x25, ..] | [0xe9, ..] | [0xeb, ..])
    }
}

#[cfg(target_arch = "aarch64")]
mod machine {
    pub(super) const STEP: u64 = 4;
    pub(super) const LONGEST_CALL: u64 = 4;

    #[inline]
    pub(super) fn may_matter(_: u8) -> bool {
        true
    }

    /// `add x29, sp, #imm`, which `mov x29, sp` is one of.
    pub(super) fn sets_frame_pointer(bytes: [u8; 4]) -> bool {
        u32::from_le_bytes(bytes) & 0xffc0_03ff == 0x9100_03fd
    }

    /// `ret`, signed or not, or what is no instruction. Some that lie within a function are taken for its end.
    pub(super) fn ends_function(bytes: [u8; 4], _: u64) -> bool {
        matches!(u32::from_le_bytes(bytes), 0xd65f_03c0 | 0xd65f_0bff | 0xd65f_0fff | 0..=0xffff)
    }

    /// `blr`, signed or not.
    pub(super) fn is_indirect_call(before: [u8; 4]) -> bool {
        let instruction = u32::from_le_bytes(before);
        instruction & 0xffff_fc1f == 0xd63f_0000 || instruction & 0xfeff_f800 == 0xd63f_0800
    }

    /// Where `bl` leads.
    pub(super) fn direct_target(before: [u8; 4], returns_to: u64) -> Option<u64> {
        let instruction = u32::from_le_bytes(before);
        let distance = i64::from((instruction << 6).cast_signed() >> 6) * 4 - 4;
        (instruction >> 26 == 0b10_0101).then(|| returns_to.checked_add_signed(distance))?
    }

    /// A stub of the linker's: `adrp x16`; or `b`.
    pub(super) fn jumps_on(bytes: [u8; 4]) -> bool {
        let instruction = u32::from_le_bytes(bytes);
        instruction & 0x9f00_001f == 0x9000_0010 || instruction >> 26 == 0b00_0101
    }
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::machine::*;

    #[test]
    fn calls_are_told_by_the_bytes_before_their_return_address() {
        let calls: [&[u8]; 10] = [
            &[0xff, 0xd0],
            &[0x41, 0xff, 0xd4],
            &[0xff, 0x10],
            &[0xff, 0x14, 0xc8],
            &[0xff, 0x50, 0x18],
            &[0xff, 0x54, 0x24, 0x08],
            &[0xff, 0x15, 1, 2, 3, 4],
            &[0xff, 0x90, 1, 2, 3, 4],
            &[0xff, 0x14, 0xc5, 1, 2, 3, 4],
            &[0xff, 0x94, 0x24, 1, 2, 3, 4],
        ];
        // `jmp rax`, `push [rax]`, a SIB byte and an address that are not there, `inc rax`, nothing.
        let others: [&[u8]; 6] =
            [&[0xff, 0xe0], &[0xff, 0x30], &[0xff, 0x14], &[0xff, 0x15], &[0x48, 0xff, 0xc0], &[0xc3, 0x90]];
        let before = |code: &[u8]| {
            let mut bytes = [0_u8; 7];
            bytes[7 - code.len()..].copy_from_slice(code);
            bytes
        };
        for code in calls {
            assert!(is_indirect_call(before(code)), "{code:x?}");
        }
        for code in others {
            assert!(!is_indirect_call(before(code)), "{code:x?}");
        }
        assert_eq!(direct_target(before(&[0xe8, 0xfb, 0xff, 0xff, 0xff]), 4096), Some(4091));
        assert_eq!(direct_target(before(&[0xe9, 0xfb, 0xff, 0xff, 0xff]), 4096), None);
        assert!(jumps_on([0xf3, 0x0f, 0x1e, 0xfa, 0xff, 0x25, 0, 0]) && jumps_on([0xf2, 0xff, 0x25, 0, 0, 0, 0, 0]));
        assert!(!jumps_on([0x55, 0x48, 0x89, 0xe5, 0, 0, 0, 0]));
    }

    #[test]
    fn a_function_ends_before_its_padding() {
        let ends = |code: &[u8], at| {
            let mut bytes = [0x48; 12];
            bytes[..code.len()].copy_from_slice(code);
            ends_function(bytes, at)
        };
        assert!(ends(&[0xc3, 0x66, 0x90], 0) && ends(&[0xc3], 15) && ends(&[0xe9, 1, 2, 3, 4, 0xcc], 0));
        assert!(ends(&[0xcc, 0xcc], 0) && ends(&[0; 12], 0) && ends(&[0x0f, 0x0b], 0));
        assert!(!ends(&[0xc3, 0x48], 0) && !ends(&[0xff, 0xd0], 14) && !ends(&[0x90], 0));
    }
}
