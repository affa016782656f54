//! Threads: blocks that another thread frees, and threads that end as soon as they began.

use std::hint::black_box;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

use crate::turns::{Part, Turns, share};
use crate::{Random, Workload};

/// A producer and a consumer, joined by a bounded channel; the consumer frees every block. An operation is a block.
pub(crate) struct HandOff {
    pub(crate) pairs: usize,
}

/// Blocks that go over the channel at once.
const BATCH: u64 = 64;

impl Workload for HandOff {
    fn run(&mut self, turns: &Arc<Turns>) -> u64 {
        share(self.pairs, turns, |pair| {
            let mut pair = Pair::new(pair);
            move |part: &Part| pair.hand_over(part.operations.end - part.operations.start)
        })
    }
}

/// What a producer keeps, and its consumer.
struct Pair {
    random: Random,
    /// Blocks so far.
    made: u64,
    /// `None` at the end alone.
    sender: Option<SyncSender<Vec<Vec<u8>>>>,
    /// What the consumer made of all up to an empty batch.
    sums: Receiver<u64>,
    consumer: Option<JoinHandle<()>>,
}

impl Pair {
    fn new(number: u64) -> Pair {
        let (sender, receiver) = sync_channel::<Vec<Vec<u8>>>(64);
        let (tell, sums) = sync_channel(1);
        let consumer = thread::spawn(move || {
            let mut sum = 0_u64;
            for batch in receiver {
                if batch.is_empty() {
                    // a producer that does not ask any more has ended
                    let _ = tell.send(std::mem::take(&mut sum));
                }
                for block in batch {
                    sum = sum.wrapping_add(block.len() as u64 + u64::from(block[0]));
                }
            }
        });
        Pair { random: Random::new(number + 1), made: 0, sender: Some(sender), sums, consumer: Some(consumer) }
    }

    /// Returns when the consumer has freed all of them: a part leaves nothing for the next.
    fn hand_over(&mut self, operations: u64) -> u64 {
        let Some(sender) = &self.sender else { return 0 };
        let (random, made) = (&mut self.random, &mut self.made);
        let mut left = operations;
        while left > 0 {
            let count = left.min(BATCH);
            let block = |n: u64| vec![n as u8; 16 + random.below(241) as usize];
            sender.send((*made..*made + count).map(block).collect()).expect("the consumer waits");
            *made += count;
            left -= count;
        }
        sender.send(Vec::new()).expect("the consumer waits");
        self.sums.recv().expect("a consumer does not panic")
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        self.sender = None;
        if let Some(consumer) = self.consumer.take() {
            consumer.join().expect("a consumer does not panic");
        }
    }
}

/// Threads that make twenty blocks and end, four at a time. An operation is a thread.
pub(crate) struct ShortThreads;

impl Workload for ShortThreads {
    fn run(&mut self, turns: &Arc<Turns>) -> u64 {
        let body = |n: u64| {
            let blocks: Vec<Vec<u64>> = (0..19).map(|size| vec![n; size + 1]).collect();
            black_box(&blocks).iter().map(|block| block.len() as u64 + block[0] % 7).sum::<u64>()
        };
        share(1, turns, |_| {
            |part: &Part| {
                let mut sum = 0_u64;
                let mut next = part.operations.start;
                while next < part.operations.end {
                    let end = (next + 4).min(part.operations.end);
                    let running: Vec<_> = (next..end).map(|n| thread::spawn(move || body(n))).collect();
                    for thread in running {
                        sum = sum.wrapping_add(thread.join().expect("a short thread does not panic"));
                    }
                    next = end;
                }
                sum
            }
        })
    }
}
