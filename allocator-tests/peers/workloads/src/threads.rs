//! Threads: blocks that another thread frees, and threads that end as soon as they began.

use std::hint::black_box;
use std::sync::mpsc::sync_channel;
use std::thread;

use crate::{Random, Workload, share};

/// A producer and a consumer, joined by a bounded channel; the consumer frees every block. An operation is a block.
pub(crate) struct HandOff {
    pub(crate) pairs: usize,
}

/// Blocks that go over the channel at once.
const BATCH: u64 = 64;

impl Workload for HandOff {
    fn run(&mut self, operations: u64) -> u64 {
        share(self.pairs, operations, |pair, operations| {
            let (sender, receiver) = sync_channel::<Vec<Vec<u8>>>(64);
            let consumer = thread::spawn(move || {
                let mut sum = 0_u64;
                for batch in receiver {
                    for block in batch {
                        sum = sum.wrapping_add(block.len() as u64 + u64::from(block[0]));
                    }
                }
                sum
            });
            let mut random = Random::new(pair + 1);
            let mut left = operations;
            while left > 0 {
                let count = left.min(BATCH);
                let block = |n: u64| vec![n as u8; 16 + random.below(241) as usize];
                sender.send((0..count).map(block).collect()).expect("the consumer waits");
                left -= count;
            }
            drop(sender);
            consumer.join().expect("a consumer does not panic")
        })
    }
}

/// Threads that make twenty blocks and end, four at a time. An operation is a thread.
pub(crate) struct ShortThreads;

impl Workload for ShortThreads {
    fn run(&mut self, operations: u64) -> u64 {
        let body = |n: u64| {
            let blocks: Vec<Vec<u64>> = (0..19).map(|size| vec![n; size + 1]).collect();
            black_box(&blocks).iter().map(|block| block.len() as u64 + block[0] % 7).sum::<u64>()
        };
        let mut sum = 0_u64;
        let mut next = 0;
        while next < operations {
            let end = (next + 4).min(operations);
            let running: Vec<_> = (next..end).map(|n| thread::spawn(move || body(n))).collect();
            for thread in running {
                sum = sum.wrapping_add(thread.join().expect("a short thread does not panic"));
            }
            next = end;
        }
        sum
    }
}
