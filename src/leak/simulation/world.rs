//! A program that allocates, seen through the sampler: feeds the judge and, beside it, the rival rules.

use super::rivals::Rivals;
use crate::leak::config::LeakConfig;
use crate::leak::habits::{Habits, Ways};
use crate::leak::history::{Block, History};
use crate::leak::judge::{Judge, Subject};
use crate::leak::state::Change;
use crate::sampler::weight::{Weight, probability};

/// xorshift64*.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn word(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// In (0, 1].
    pub(crate) fn unit(&mut self) -> f64 {
        ((self.word() >> 11) + 1) as f64 / (1u64 << 53) as f64
    }

    pub(crate) fn chance(&mut self, p: f64) -> bool {
        self.unit() <= p
    }

    #[expect(clippy::cast_possible_truncation, reason = "below n")]
    pub(crate) fn below(&mut self, n: usize) -> usize {
        (self.word() % n.max(1) as u64) as usize
    }

    pub(crate) fn exponential(&mut self, mean: f64) -> f64 {
        -self.unit().ln() * mean
    }

    pub(crate) fn poisson(&mut self, mean: f64) -> u32 {
        let (limit, mut product, mut n) = ((-mean.min(500.0)).exp(), self.unit(), 0);
        while product > limit {
            product *= self.unit();
            n += 1;
        }
        n
    }
}

/// A block of the simulated program.
#[derive(Clone, Copy)]
pub(crate) struct Held(pub(crate) usize);

#[derive(Clone, Copy)]
struct Slot {
    site: usize,
    size: u64,
    birth: u32,
    sampled: bool,
    /// What the sample point was drawn with.
    interval_bytes: f64,
}

pub(crate) struct World {
    pub(crate) random: Random,
    pub(crate) now: u32,
    pub(crate) judge: Judge,
    pub(crate) histories: Vec<History>,
    pub(crate) ways: Ways,
    pub(crate) rivals: Rivals,
    interval_bytes: f64,
    blocks: Vec<Slot>,
    vacant: Vec<usize>,
    /// Blocks with an appointed end: (epoch, block).
    appointed: Vec<Vec<Held>>,
    allocations: u64,
}

impl World {
    pub(crate) fn new(seed: u64, interval_bytes: f64, epochs: u32, sites: usize) -> World {
        let histories = vec![History::EMPTY; sites];
        World {
            random: Random::new(seed),
            now: 0,
            judge: Judge::new(LeakConfig::default()).expect("valid defaults"),
            histories,
            ways: Ways { habits: vec![Habits::default(); sites], ..Ways::default() },
            rivals: Rivals::new(sites),
            interval_bytes,
            blocks: Vec::new(),
            vacant: Vec::new(),
            appointed: vec![Vec::new(); epochs as usize + 1],
            allocations: 0,
        }
    }

    fn block(size: u64, interval_bytes: f64) -> Block {
        Block { size, interval_bytes, weight: Weight::of(size, interval_bytes), thread: 1 }
    }

    pub(crate) fn set_interval(&mut self, interval_bytes: f64) {
        self.interval_bytes = interval_bytes;
    }

    pub(crate) fn alloc(&mut self, site: usize, size: u64) -> Held {
        self.allocations += 1;
        let sampled = self.random.chance(probability(size, self.interval_bytes));
        let slot = Slot { site, size, birth: self.now, sampled, interval_bytes: self.interval_bytes };
        let held = match self.vacant.pop() {
            Some(index) => {
                self.blocks[index] = slot;
                Held(index)
            }
            None => {
                self.blocks.push(slot);
                Held(self.blocks.len() - 1)
            }
        };
        if sampled {
            let block = World::block(size, self.interval_bytes);
            self.born(site, &block);
            self.rivals.born(site, held, size, block.weight.bytes);
        }
        held
    }

    /// A history begins with its site's first sample, as in the drain.
    fn born(&mut self, site: usize, block: &Block) {
        let history = &mut self.histories[site];
        if !history.is_in_use() {
            history.begin(self.now);
        }
        history.born(self.now, block);
        self.ways.habits[site].born(block, 1);
    }

    pub(crate) fn free(&mut self, held: Held) {
        let slot = self.blocks[held.0];
        if slot.sampled {
            let block = World::block(slot.size, slot.interval_bytes);
            self.histories[slot.site].freed(slot.birth, self.now, &block);
            self.ways.habits[slot.site].left(&block);
            self.rivals.freed(slot.site, held, slot.birth, block.weight.bytes);
        }
        self.vacant.push(held.0);
    }

    pub(crate) fn resize(&mut self, held: Held, size: u64) {
        self.allocations += 1;
        let slot = self.blocks[held.0];
        if size > slot.size {
            if slot.sampled {
                let interval = slot.interval_bytes;
                let (old, new) = (World::block(slot.size, interval), World::block(size, interval));
                self.histories[slot.site].resized(None, self.now, &old, &new);
                self.ways.habits[slot.site].resized(&old, &new);
                self.rivals.resized(slot.site, old.weight.bytes, new.weight.bytes);
            } else if self.random.chance(probability(size - slot.size, self.interval_bytes)) {
                let interval_bytes = self.interval_bytes;
                self.blocks[held.0] = Slot { sampled: true, birth: self.now, size, interval_bytes, ..slot };
                let block = World::block(size, interval_bytes);
                self.born(slot.site, &block);
                self.rivals.born(slot.site, held, size, block.weight.bytes);
            }
        }
        self.blocks[held.0].size = size;
    }

    /// Frees `held` after `epochs` more epochs.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a number of epochs")]
    pub(crate) fn free_after(&mut self, held: Held, epochs: f64) {
        let at = (f64::from(self.now) + epochs).min(1e9) as usize;
        if let Some(list) = self.appointed.get_mut(at) {
            list.push(held);
        }
    }

    /// A block that lives for `epochs`.
    pub(crate) fn brief(&mut self, site: usize, size: u64, epochs: f64) {
        let held = self.alloc(site, size);
        if epochs < 1.0 {
            self.free(held);
        } else {
            self.free_after(held, epochs);
        }
    }

    pub(crate) fn begin_epoch(&mut self, now: u32) {
        self.now = now;
        for held in std::mem::take(&mut self.appointed[now as usize]) {
            self.free(held);
        }
    }

    /// The judge's part of closing an epoch.
    pub(crate) fn judge_epoch(&mut self) {
        self.judge.end_epoch(self.now, self.allocations, &mut self.histories, &mut |_, _| {});
    }

    pub(crate) fn end_epoch(&mut self) {
        self.end_epoch_told(&mut |_, _| {});
    }

    pub(crate) fn end_epoch_told(&mut self, on_change: &mut dyn FnMut(Subject, Change)) {
        let is_idle = self.ways.activity.end_epoch(self.allocations);
        self.ways.habits.iter_mut().for_each(|habits| habits.end_epoch(is_idle));
        self.judge.end_epoch(self.now, self.allocations, &mut self.histories, on_change);
        self.rivals.end_epoch(self.now);
        self.allocations = 0;
    }
}

/// A `Vec` that grows by realloc.
pub(crate) struct GrowingVec {
    held: Held,
    capacity: u64,
    pub(crate) length: u64,
}

impl GrowingVec {
    pub(crate) fn new(world: &mut World, site: usize) -> GrowingVec {
        GrowingVec { held: world.alloc(site, 64), capacity: 64, length: 0 }
    }

    pub(crate) fn push(&mut self, world: &mut World, bytes: u64) {
        self.length += bytes;
        while self.capacity < self.length {
            self.capacity *= 2;
            world.resize(self.held, self.capacity);
        }
    }
}

/// A hash table that grows by a new table, then freeing the old one.
pub(crate) struct GrowingMap {
    held: Held,
    buckets: u64,
    pub(crate) entries: u64,
    entry_bytes: u64,
    site: usize,
}

impl GrowingMap {
    pub(crate) fn new(world: &mut World, site: usize, entry_bytes: u64) -> GrowingMap {
        let held = world.alloc(site, 4 * (entry_bytes + 1) + 16);
        GrowingMap { held, buckets: 4, entries: 0, entry_bytes, site }
    }

    /// Its block now.
    pub(crate) fn held(&self) -> Held {
        self.held
    }

    pub(crate) fn insert(&mut self, world: &mut World) {
        self.entries += 1;
        if self.entries > self.buckets * 7 / 8 {
            self.buckets *= 2;
            let new = world.alloc(self.site, self.buckets * (self.entry_bytes + 1) + 16);
            world.free(self.held);
            self.held = new;
        }
    }
}
