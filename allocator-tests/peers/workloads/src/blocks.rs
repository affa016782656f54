//! Blocks alone: the allocator's cost and the profiler's, with as little else as can be.

use std::hint::black_box;
use std::sync::Arc;

use crate::turns::{Part, Turns, share};
use crate::{Random, Workload};

/// A 64-byte Box made and dropped.
pub(crate) struct Pair {
    pub(crate) threads: usize,
}

impl Workload for Pair {
    fn run(&mut self, turns: &Arc<Turns>) -> u64 {
        share(self.threads, turns, |_| {
            |part: &Part| {
                let mut sum = 0_u64;
                for n in part.operations.clone() {
                    let block = black_box(Box::new([n; 8]));
                    sum = sum.wrapping_add(block[5] | 1);
                }
                sum
            }
        })
    }
}

/// Random replacement among 10,000 small vectors a thread: the blocks that are freed are old ones.
pub(crate) struct Churn {
    pub(crate) threads: usize,
}

impl Workload for Churn {
    fn run(&mut self, turns: &Arc<Turns>) -> u64 {
        share(self.threads, turns, |thread| {
            let mut random = Random::new(thread + 1);
            let mut held: Vec<Vec<u8>> = vec![Vec::new(); 10_000];
            move |part: &Part| {
                let mut sum = 0_u64;
                for n in part.operations.clone() {
                    let which = random.below(10_000) as usize;
                    let size = 16 + random.below(497) as usize;
                    let mut block = Vec::with_capacity(size);
                    block.push(n as u8);
                    sum = sum.wrapping_add(size as u64 + u64::from(block[0]));
                    held[which] = black_box(block);
                }
                sum
            }
        })
    }
}

/// A vector that a thousand numbers are pushed to, one by one: `realloc`.
pub(crate) struct Grow {
    pub(crate) threads: usize,
}

impl Workload for Grow {
    fn run(&mut self, turns: &Arc<Turns>) -> u64 {
        share(self.threads, turns, |_| {
            |part: &Part| {
                let mut sum = 0_u64;
                for n in part.operations.clone() {
                    let mut list = Vec::new();
                    for value in 0..1000 {
                        list.push(black_box(n + value));
                    }
                    sum = sum.wrapping_add(list[999] + list.len() as u64);
                    black_box(list);
                }
                sum
            }
        })
    }
}

/// Buffers of 64 KiB to 8 MiB, each power of two as likely as the next, eight of them held; a word of each page written.
pub(crate) struct Buffers {
    pub(crate) threads: usize,
}

impl Workload for Buffers {
    fn run(&mut self, turns: &Arc<Turns>) -> u64 {
        share(self.threads, turns, |thread| {
            let mut random = Random::new(thread + 1);
            let mut held: Vec<Vec<u8>> = vec![Vec::new(); 8];
            move |part: &Part| {
                let mut sum = 0_u64;
                for n in part.operations.clone() {
                    let power = (64 * 1024) << random.below(7);
                    let size = power + random.below(power as u64) as usize;
                    let mut buffer: Vec<u8> = Vec::with_capacity(size);
                    for page in buffer.spare_capacity_mut().chunks_mut(4096) {
                        page[0].write(n as u8);
                    }
                    sum = sum.wrapping_add(size as u64);
                    held[random.below(8) as usize] = black_box(buffer);
                }
                sum
            }
        })
    }
}
