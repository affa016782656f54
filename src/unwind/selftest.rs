//! The self-test at start: does a method find what the system's own unwinder finds?
//!
//! Promises: `passes` is true only if the method's frames, from the caller on, are those of `_Unwind_Backtrace` (by
//! the `backtrace` crate) through calls that we made: plain, through pointers, and through a frame with an over-aligned
//! local, which no frame pointer chain and no guess about sp gets right. However few frames a profile keeps, and however deep
//! the stack is that starts it. Allocates; not on the hot path.
#![allow(unsafe_code, reason = "backtrace's unsynchronised trace, and frames of zeros")]

use std::hint::black_box;

use super::frame::{FIRST, Frame};
use super::set;
use super::step::Method;
use super::thread::Outcome;
use super::walk::Walk;
use super::workspace::Taken;
use crate::sys::stack::{self, Registers};

/// Calls that the test makes itself.
const NESTED: usize = 9;

/// Frames that are compared at most, however many a profile keeps: those of the test, and some of who starts it.
const MOST_FRAMES: usize = 64;

/// `method` unwinds this very thread right.
pub(super) fn passes(method: Method) -> bool {
    let mut agreed = false;
    nest(NESTED, &mut |_| agreed = agrees(method));
    agreed
}

#[inline(never)]
fn nest(depth: usize, last: &mut dyn FnMut(usize)) -> usize {
    match depth {
        0 => last(depth),
        n if n % 3 == 0 => return aligned(n, last),
        n => {
            let next: fn(usize, &mut dyn FnMut(usize)) -> usize = black_box(nest);
            black_box(next(n - 1, last));
        }
    }
    black_box(depth + 1)
}

#[repr(align(128))]
struct Wide([usize; 16]);

#[inline(never)]
fn aligned(depth: usize, last: &mut dyn FnMut(usize)) -> usize {
    let wide = black_box(Wide([depth; 16]));
    let next = nest(black_box(depth - 1), last);
    black_box(wide.0[next % 16])
}

#[inline(never)]
fn agrees(method: Method) -> bool {
    let registers = Registers::here();
    let Some((found, outcome)) = addresses(method, registers) else { return false };
    let mut system = Vec::new();
    // SAFETY: unsynchronised means that symbolization elsewhere may go on at the same time; we only trace.
    unsafe {
        backtrace::trace_unsynchronized(|frame| {
            // The trace's own frames have a lower sp, this function has this one.
            if frame.sp().addr() as u64 > registers.sp && !frame.ip().is_null() {
                system.push(frame.ip().addr() as u64);
            }
            system.len() < MOST_FRAMES
        });
    }
    let common = found.len().min(system.len());
    // At the end the two may differ by how they treat the outermost frame; a stack that was cut has no end.
    let cut = outcome == Outcome::Cut || system.len() == MOST_FRAMES;
    let same_end = cut || found.len().max(system.len()) - common <= 1;
    common > NESTED && found[..common] == system[..common] && same_end
}

/// The return addresses that a walk without memory finds, and how it ended.
fn addresses(method: Method, registers: Registers) -> Option<(Vec<u64>, Outcome)> {
    let bounds = stack::bounds(registers.sp);
    // SAFETY: zeros are a frame, as in a fresh workspace.
    let mut scratch: Vec<Frame> = (0..=MOST_FRAMES).map(|_| unsafe { core::mem::zeroed() }).collect();
    let mut taken = Taken::take(0, 1)?;
    let found = set::protect(taken.hazard()).map(|set| {
        let workspace = taken.workspace();
        let mut walk = Walk {
            registers,
            set,
            method,
            cache: &mut workspace.cache,
            rules: None,
            bounds,
            known: bounds.contain(registers.sp),
            remembered: &[],
            remembered_lr: 0,
            remembered_outcome: Outcome::End,
            numbered: false,
            scratch: &mut scratch,
            made: 0,
            kept: 0,
            outcome: Outcome::Broken,
        };
        walk.run();
        let frames: &[Frame] = &walk.scratch[..walk.made];
        let addresses = frames.iter().filter(|frame| frame.flags & FIRST == 0).map(|frame| frame.state.address);
        (addresses.collect(), walk.outcome)
    });
    taken.give_back();
    found
}
