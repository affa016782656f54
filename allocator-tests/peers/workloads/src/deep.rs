//! Deep stacks: 200 frames above the caller, on one of sixteen ways down, then eight blocks at the bottom.

use std::hint::black_box;
use std::sync::Arc;

use crate::Workload;
use crate::turns::{Part, Turns, share};

const DEPTH: u32 = 200;

pub(crate) struct Deep {
    pub(crate) threads: usize,
}

impl Workload for Deep {
    fn run(&mut self, turns: &Arc<Turns>) -> u64 {
        share(self.threads, turns, |_| {
            |part: &Part| part.operations.clone().map(|n| down(DEPTH, n % 16)).fold(0, u64::wrapping_add)
        })
    }
}

#[inline(always)]
fn down(depth: u32, way: u64) -> u64 {
    match depth {
        0 => bottom(way),
        _ if way >> (depth % 4) & 1 == 0 => left(depth - 1, way),
        _ => right(depth - 1, way),
    }
}

// The addition after the call keeps the frame: no tail call.
#[inline(never)]
fn left(depth: u32, way: u64) -> u64 {
    black_box(down(depth, way)).wrapping_add(1)
}

#[inline(never)]
fn right(depth: u32, way: u64) -> u64 {
    black_box(down(depth, way)).wrapping_add(2)
}

#[inline(never)]
fn bottom(way: u64) -> u64 {
    (0..8).map(|n| black_box(vec![way as u8; 32 + 16 * n]).len() as u64 + 1).sum()
}
