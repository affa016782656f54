//! One step of unwinding: from a frame's state to its caller's, and the reading of stack memory.
//!
//! Promises: a step is a pure function of its state, of the words that it notes, of the stack's bounds and of the code at
//! both addresses; the stack pointer rises with every step, so every walk ends; memory is read only between the state's sp
//! and the end of the thread's own stack, or, on a stack that we do not know, from pages that the system said can be read.
//! A frame that can't be left by what is known of it is never left by a guess: the walk is broken off, and says so.
#![allow(unsafe_code, reason = "bounds-checked reads of the thread's own stack")]

use framehop::{CacheNative, FrameAddress, MustNotAllocateDuringUnwind, UnwindRegsNative, Unwinder as _};

use super::code;
use super::frame::{Frame, State};
use super::row::{self, Means};
use super::set::Set;
use super::signal;
use crate::sys::stack::{self, Bounds};

/// How frames are found; chosen by the self-test at start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Method {
    /// By `.eh_frame`: no frame pointers needed.
    Framehop = 0,
    /// By the chain of frame pointers.
    FramePointers = 1,
    /// By the `backtrace` crate: slow, no replay; the last resort.
    Backtrace = 2,
}

/// framehop's rule cache and scratch memory. 33 kB.
pub(super) type Cache = CacheNative<MustNotAllocateDuringUnwind>;

/// Where a step leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// To the caller.
    To(State),
    /// The stack ends here, as it should.
    End,
    /// No way on.
    Broken,
}

/// Pages that one walk over an unknown stack may ask for: 1 MiB of stack, 20 us of system calls.
const MAX_PROBES: u32 = 256;
const PAGE_BITS: u32 = 12;

/// The readable part of a stack.
pub(super) struct Memory {
    bounds: Bounds,
    known: bool,
    /// Pages found readable during this walk, the newest at `probes % 4`.
    pages: [u64; 4],
    probes: u32,
}

impl Memory {
    /// The thread's own stack if `known`, else whatever can be read.
    pub(super) fn new(bounds: Bounds, known: bool) -> Memory {
        Memory { bounds, known, pages: [u64::MAX; 4], probes: 0 }
    }

    #[inline]
    fn read(&mut self, address: u64, frame: &mut Frame) -> Result<u64, ()> {
        if address < frame.state.sp || address & 7 != 0 {
            return Err(());
        }
        if self.known {
            if address >= self.bounds.high {
                return Err(());
            }
        } else {
            frame.lose();
            if !self.probe(address >> PAGE_BITS) {
                return Err(());
            }
        }
        // SAFETY: aligned, and between a live frame's sp and the end of its stack, or on a page that can be read.
        let value = unsafe { stack::pointer::<u64>(address).read_volatile() };
        frame.note(address, value);
        Ok(value)
    }

    #[cold]
    fn probe(&mut self, page: u64) -> bool {
        if self.pages.contains(&page) {
            return true;
        }
        if self.probes >= MAX_PROBES {
            return false;
        }
        self.probes += 1;
        let readable = stack::readable(page << PAGE_BITS);
        if readable {
            self.pages[(self.probes % 4) as usize] = page;
        }
        readable
    }
}

/// Takes one step from `state`, the frame's own, by its address's means, and notes in the frame what was read. `first`: the link
/// register, of the first frame alone.
#[inline]
#[expect(clippy::too_many_arguments, reason = "parts of a walk, borrowed apart")]
pub(super) fn step(
    set: &Set,
    method: Method,
    means: Means,
    cache: &mut Cache,
    memory: &mut Memory,
    state: State,
    frame: &mut Frame,
    first: Option<u64>,
) -> Next {
    let high = if memory.known { memory.bounds.high } else { u64::MAX };
    let mut read = |address: u64| memory.read(address, frame);
    let call = call(state.address, first.is_some());
    let mut link = first;
    let next = match (method, means) {
        (Method::Framehop, Means::Rule) => by_tables(set, cache, &mut read, state, first),
        (Method::Framehop, Means::Row) => row::step(set, call, state, &mut link, &mut read),
        (Method::Framehop, Means::FramePointer) => by_proved_frame_pointer(set, call, high, &mut read, state),
        (Method::Framehop, Means::Signal) => signal::step(state, &mut read),
        (Method::Framehop, Means::Bare | Means::Nothing) => Next::Broken,
        (Method::FramePointers | Method::Backtrace, _) => by_frame_pointer(&mut read, state),
    };
    if link != first {
        frame.link();
    }
    // Code that no table tells of and no module is of may hold anything in that register.
    let ends_by_frame_pointer = state.fp == 0
        && (method != Method::Framehop
            || matches!(means, Means::Bare | Means::FramePointer) && set.module(call).is_some());
    match next {
        // Addresses in the first page are no code; the sp must rise, but may stand in a leaf that stored nothing.
        Next::To(to) if to.address >= 4096 && (to.sp > state.sp || (first.is_some() && to.sp == state.sp)) => next,
        Next::To(to) if to.address == 0 => Next::End,
        Next::End => Next::End,
        // The outermost frame has frame pointer 0 by both ABIs, where it has no table that says so (musl).
        _ if ends_by_frame_pointer => Next::End,
        _ => Next::Broken,
    }
}

/// What is looked up for a frame: its instruction, or a byte of the call before its return address.
#[inline]
fn call(address: u64, first: bool) -> u64 {
    address.wrapping_sub(u64::from(!first))
}

#[inline]
fn by_tables(
    set: &Set,
    cache: &mut Cache,
    read: &mut impl FnMut(u64) -> Result<u64, ()>,
    state: State,
    first: Option<u64>,
) -> Next {
    let address = match first {
        Some(_) => FrameAddress::from_instruction_pointer(state.address),
        None => match FrameAddress::from_return_address(state.address) {
            Some(address) => address,
            None => return Next::End,
        },
    };
    let mut registers = registers(set, state, first);
    match set.unwinder.unwind_frame(address, &mut registers, cache, read) {
        Ok(Some(return_address)) => Next::To(caller(&registers, return_address)),
        Ok(None) => Next::End,
        Err(_) => Next::Broken,
    }
}

#[cfg(target_arch = "x86_64")]
#[inline]
pub(super) fn registers(_: &Set, state: State, _: Option<u64>) -> UnwindRegsNative {
    UnwindRegsNative::new(state.address, state.sp, state.fp)
}

#[cfg(target_arch = "x86_64")]
#[inline]
pub(super) fn caller(registers: &UnwindRegsNative, return_address: u64) -> State {
    State { address: return_address, sp: registers.sp(), fp: registers.bp() }
}

#[cfg(target_arch = "aarch64")]
#[inline]
pub(super) fn registers(set: &Set, state: State, first: Option<u64>) -> UnwindRegsNative {
    let mask = framehop::aarch64::PtrAuthMask(set.address_mask);
    UnwindRegsNative::new_with_ptr_auth_mask(mask, first.unwrap_or(state.address), state.sp, state.fp)
}

#[cfg(target_arch = "aarch64")]
#[inline]
pub(super) fn caller(registers: &UnwindRegsNative, _: u64) -> State {
    // The link register, signature bits removed.
    State { address: registers.lr(), sp: registers.sp(), fp: registers.fp() }
}

/// Both ABIs: the frame pointer points at (caller's frame pointer, return address).
fn by_frame_pointer(read: &mut impl FnMut(u64) -> Result<u64, ()>, state: State) -> Next {
    let Some(sp) = state.fp.checked_add(16) else { return Next::Broken };
    match (read(state.fp), read(sp - 8)) {
        (Ok(fp), Ok(address)) => Next::To(State { address, sp, fp }),
        _ => Next::Broken,
    }
}

/// The same for code that has no table and keeps a frame pointer, as its own code shows (`Means::FramePointer`): believed where a call
/// returns to, and from where the caller's frame pointer may be what was saved.
#[cold]
fn by_proved_frame_pointer(
    set: &Set,
    call: u64,
    high: u64,
    read: &mut impl FnMut(u64) -> Result<u64, ()>,
    state: State,
) -> Next {
    let Next::To(to) = by_frame_pointer(read, state) else { return Next::Broken };
    #[cfg(target_arch = "aarch64")]
    let to = State { address: to.address & set.address_mask, ..to };
    if to.address == 0 {
        // The end of a stack that somebody made; data, where no module knows the code.
        return if set.module(call).is_some() { Next::End } else { Next::Broken };
    }
    // Code with a table may use the register for anything.
    let is_plausible = |fp: u64| fp == 0 || (fp & 7 == 0 && fp >= to.sp && fp < high);
    if to.address >= 4096
        && code::is_call(set, call, to.address)
        && (is_plausible(to.fp) || row::covers(set, to.address - 1))
    {
        Next::To(to)
    } else {
        Next::Broken
    }
}
