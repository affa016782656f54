//! A site that is told of its records through a tally is the site that is told of them one by one.

use super::*;
use crate::leak::history::Block;
use crate::sampler::weight::Weight;

fn block(size: u64, thread: u32) -> Block {
    Block { size, interval_bytes: 0.0, weight: Weight::of(size, 0.0), thread }
}

/// Numbers below what is asked for, by xorshift.
fn numbers(seed: u64) -> impl FnMut(u64) -> u64 {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    move |n| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) % n
    }
}

/// A site, told of each record at once, or through a tally as the drain does.
#[derive(Clone, Debug)]
struct Site {
    history: History,
    habits: Habits,
    tally: Option<Tally>,
    tallied: u32,
}

impl Site {
    fn new(tally: Option<Tally>) -> Site {
        let mut site = Site { history: History::EMPTY, habits: Habits::default(), tally, tallied: 0 };
        site.history.begin(3);
        site
    }

    /// True: tallied. `quiet`: the tally's own way; `deaf`: what the history says; `count`: after that.
    fn is_tallied(
        &mut self,
        quiet: impl Fn(&mut Tally) -> bool,
        deaf: impl Fn(&History) -> bool,
        count: impl Fn(&mut Tally),
    ) -> bool {
        let Some(tally) = self.tally.as_mut() else { return false };
        let by_itself = quiet(tally);
        if !by_itself && deaf(&self.history) {
            count(tally);
        } else if by_itself {
            assert!(deaf(&self.history), "a tally took what the table must hear of");
        } else {
            return false;
        }
        self.tallied += 1;
        true
    }

    /// Tells the history what was tallied; the drain does so before it tells it anything else.
    fn settle(&mut self, now: u32) {
        if let Some(tally) = self.tally.as_mut() {
            tally.settle(now, &mut self.history, &mut self.habits);
        }
    }

    fn listen(&mut self) {
        if let Some(tally) = self.tally.as_mut() {
            tally.listen(&self.history);
        }
    }

    fn born(&mut self, now: u32, block: &Block) {
        let size = block.size;
        if !self.is_tallied(|t| t.born(size, 1), |h| h.is_deaf_to_birth(block), |t| t.count_births(size, 1)) {
            self.settle(now);
            self.habits.born(block, 1);
            self.history.born(now, block);
        }
        self.listen();
    }

    fn freed(&mut self, birth: u32, now: u32, block: &Block) {
        let size = block.size;
        let young =
            birth == now && self.is_tallied(|t| t.freed(size), |h| h.is_deaf_to_free(block), |t| t.count_free(size));
        if !young {
            self.settle(now);
            self.habits.left(block);
            self.history.freed(birth, now, block);
        }
        self.listen();
    }

    fn resized(&mut self, birth: u32, now: u32, old: &Block, new: &Block) {
        let (from, to) = (old.size, new.size);
        let young = birth == now
            && self.is_tallied(
                |t| t.resized(from, to),
                |h| h.is_deaf_to_growth(from, to),
                |t| t.count_resize(from, to),
            );
        if !young {
            self.settle(now);
            self.habits.resized(old, new);
            self.history.resized(Some(birth), now, old, new);
        }
        self.listen();
    }

    /// All that it remembers.
    fn told(&self) -> String {
        format!("{:?} {:?}", self.history, self.habits)
    }
}

/// Births, frees of young and old blocks, resizes, tables that double, two threads, over epochs: to the last bit.
#[test]
fn tallies_equal_their_records_one_by_one() {
    let (mut tallied, mut records) = (0, 0);
    for seed in 1..=60u64 {
        let mut random = numbers(seed);
        let (mut one, mut other) = (Site::new(None), Site::new(Some(Tally::default())));
        let mut alive: Vec<(u32, Block)> = Vec::new();
        let steps = 1 + seed % 60;
        for now in 3..150 {
            for _ in 0..random(steps) {
                records += 1;
                match random(5) {
                    0..=1 => {
                        let size = if random(4) == 0 { 16 << random(8) } else { 1 + random(400) };
                        #[expect(clippy::cast_possible_truncation, reason = "0 or 1")]
                        let block = block(size, random(2) as u32);
                        one.born(now, &block);
                        other.born(now, &block);
                        alive.push((now, block));
                    }
                    2..=3 if !alive.is_empty() => {
                        // The newest, or any.
                        let all = alive.len() as u64;
                        let which = if random(2) == 0 { all - 1 } else { random(all) };
                        #[expect(clippy::cast_possible_truncation, reason = "an index")]
                        let (birth, block) = alive.swap_remove(which as usize);
                        one.freed(birth, now, &block);
                        other.freed(birth, now, &block);
                    }
                    _ if !alive.is_empty() => {
                        #[expect(clippy::cast_possible_truncation, reason = "an index")]
                        let which = random(alive.len() as u64) as usize;
                        let (birth, old) = &mut alive[which];
                        let new = block(if random(3) == 0 { old.size * 2 } else { 1 + random(400) }, old.thread);
                        one.resized(*birth, now, old, &new);
                        other.resized(*birth, now, old, &new);
                        *old = new;
                    }
                    _ => {}
                }
                if random(50) == 0 {
                    // Somebody looks.
                    other.settle(now);
                    other.tally.as_mut().expect("it has one").listen_to_all();
                    assert_eq!(one.told(), other.told(), "seed {seed}, epoch {now}");
                }
            }
            other.settle(now);
            assert_eq!(one.told(), other.told(), "seed {seed}, epoch {now}");
            for site in [&mut one, &mut other] {
                site.habits.end_epoch(false);
                site.history.end_epoch(now);
            }
            other.tally.as_mut().expect("it has one").listen_to_all();
        }
        tallied += other.tallied;
    }
    assert!(tallied > records / 4 && tallied < records, "{tallied} of {records} tallied: too few or too many to show");
}
