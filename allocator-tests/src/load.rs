//! Threads that allocate, reallocate and free all the time, and check that nobody wrote into their blocks.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

/// Marsaglia's xorshift; the tests' only source of chance.
#[derive(Clone, Debug)]
pub struct Xorshift(pub u64);

impl Xorshift {
    /// The next number.
    #[expect(clippy::should_implement_trait, reason = "never ends")]
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() >> 33).expect("64 bits") % bound
    }
}

/// A size as programs ask for: mostly small, sometimes beyond every slot.
pub fn size(random: &mut Xorshift) -> usize {
    match random.below(64) {
        0 => 1 + random.below(300_000),
        1..=6 => 1 + random.below(20_000),
        _ => 1 + random.below(400),
    }
}

/// One block that knows what it must hold.
#[derive(Debug)]
pub struct Block {
    bytes: Vec<u8>,
    mark: u8,
}

impl Block {
    /// A block of `size` bytes (at least 1) that holds `mark` at its ends.
    #[inline(never)]
    pub fn new(size: usize, mark: u8) -> Block {
        let mut bytes = Vec::with_capacity(size.max(1));
        bytes.resize(size.max(1), 0);
        Block { bytes, mark }.marked()
    }

    fn marked(mut self) -> Block {
        let last = self.bytes.len() - 1;
        self.bytes[0] = self.mark;
        self.bytes[last] = self.mark;
        self
    }

    /// Does it hold what was written?
    pub fn check(&self) {
        assert_eq!(self.bytes[0], self.mark, "somebody wrote into a block of {}", self.bytes.len());
        assert_eq!(self.bytes[self.bytes.len() - 1], self.mark, "somebody wrote into a block of {}", self.bytes.len());
    }

    /// The same block at another size.
    pub fn resize(mut self, size: usize) -> Block {
        self.check();
        let size = size.max(1);
        if size < self.bytes.len() {
            self.bytes.truncate(size);
            self.bytes.shrink_to_fit();
        } else {
            self.bytes.reserve_exact(size - self.bytes.len());
            self.bytes.resize(size, 0);
        }
        assert!(self.bytes[0] == self.mark, "lost on the way");
        self.marked()
    }

    /// Its length.
    #[allow(clippy::len_without_is_empty, reason = "never empty")]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }
}

/// Threads under load.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    turns: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    /// Starts `threads` threads, and returns when each has begun.
    pub fn start(threads: usize) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let turns = Arc::new(AtomicU64::new(0));
        let begun = Arc::new(std::sync::Barrier::new(threads + 1));
        let threads = (0..threads)
            .map(|n| {
                let (stop, turns, begun) = (stop.clone(), turns.clone(), begun.clone());
                std::thread::spawn(move || {
                    begun.wait();
                    work(n as u64, &stop, &turns);
                })
            })
            .collect();
        begun.wait();
        Load { stop, turns, threads }
    }

    /// Rounds of work done by all threads.
    pub fn turns(&self) -> u64 {
        self.turns.load(Ordering::Relaxed)
    }

    /// Waits until the threads did `more` rounds from now.
    pub fn wait_turns(&self, more: u64) {
        let until = self.turns() + more;
        while self.turns() < until {
            std::thread::yield_now();
        }
    }

    /// Ends the threads; everything they held is freed.
    pub fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().expect("no panic under load");
        }
    }
}

#[inline(never)]
fn work(n: u64, stop: &AtomicBool, turns: &AtomicU64) {
    let mut random = Xorshift(0x9E37_79B9 + n * 7919);
    let mut held: Vec<Block> = Vec::with_capacity(64);
    while !stop.load(Ordering::Relaxed) {
        for _ in 0..64 {
            let mark = (random.next() >> 40) as u8;
            match random.below(4) {
                0 | 1 if held.len() < 64 => held.push(Block::new(size(&mut random), mark)),
                2 if !held.is_empty() => {
                    let at = random.below(held.len());
                    let block = held.swap_remove(at);
                    let size = size(&mut random);
                    held.push(block.resize(size));
                }
                _ if !held.is_empty() => {
                    let at = random.below(held.len());
                    held.swap_remove(at).check();
                }
                _ => {}
            }
        }
        turns.fetch_add(1, Ordering::Relaxed);
    }
    for block in held {
        block.check();
    }
}
