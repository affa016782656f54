//! The store against naive oracles, from records in to pictures out.

#![allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small numbers of the tests' own making")]

mod abreast;
mod clock;
mod corruption;
mod dead;
mod live;
mod names;
mod round_trip;
mod space;
mod speed;
mod streaks;
mod totals;

use crate::ring::record::{Kind, Record};
use crate::sampler::weight::{IntervalCode, Weight};
use crate::store::PictureCopy;
use crate::store::picture::{Amount, Figures, Picture};
use crate::store::place::Place;
use crate::store::tables::Tables;
use crate::store::writer::{Store, StoreOptions};
use crate::sys::sync::Ordering;
use crate::units::{FrameKey, ModuleId, StackId, Ticks};
use std::collections::HashMap;

/// When the tests' profiles begin.
pub(super) const BASE: Ticks = Ticks(1_000);

/// Marsaglia's xorshift.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub(super) fn below(&mut self, limit: u64) -> u64 {
        (self.next() >> 11) % limit
    }
}

/// Options of a small store in memory.
pub(super) fn options(place: Place) -> StoreOptions {
    StoreOptions {
        place,
        bound_bytes: 1 << 20,
        ring_records: 64,
        base: BASE,
        fixed_interval_bytes: 3_000,
        ..StoreOptions::new(true)
    }
}

/// A path of our own for a store file, which is gone when this is dropped, however the test ended.
pub(super) struct Temporary(std::path::PathBuf);

impl std::ops::Deref for Temporary {
    type Target = std::path::PathBuf;

    fn deref(&self) -> &std::path::PathBuf {
        &self.0
    }
}

impl AsRef<std::path::Path> for Temporary {
    fn as_ref(&self) -> &std::path::Path {
        &self.0
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

pub(super) fn temporary(name: &str) -> Temporary {
    let directory = if std::path::Path::new("/dev/shm").is_dir() { "/dev/shm".into() } else { std::env::temp_dir() };
    let path = std::path::Path::new(&directory).join(format!("unfreed-test-{}-{name}.store", std::process::id()));
    let _ = std::fs::remove_file(&path);
    Temporary(path)
}

/// A node below `parent`, as the tree would make it.
pub(super) fn add_stack(tables: &Tables<'_>, parent: StackId, address: u64) -> StackId {
    let id = tables.tree_state.next.fetch_add(1, Ordering::Relaxed);
    assert!(id < tables.tree_state.laid_out.load(Ordering::Relaxed), "the test's tree is small");
    let node = &tables.nodes[id as usize];
    node.key.store(FrameKey::new(ModuleId(0), address).0, Ordering::Relaxed);
    node.parent.store(parent.0, Ordering::Relaxed);
    StackId(id)
}

/// `count` stacks: chains that share their lower parts.
pub(super) fn add_stacks(tables: &Tables<'_>, count: u64) -> Vec<StackId> {
    let mut stacks: Vec<StackId> = Vec::new();
    for address in 1..=count {
        let parent = if address % 3 == 0 { StackId::ROOT } else { stacks.last().copied().unwrap_or_default() };
        stacks.push(add_stack(tables, parent, address));
    }
    stacks
}

/// Our own picture of `store`.
pub(super) fn own_picture(store: &Store, now: Ticks) -> Picture {
    let mut copy = PictureCopy::begin(store);
    assert!(copy.copy(store, || ()), "nothing grew meanwhile");
    copy.finish(now).expect("a sound store")
}

#[derive(Clone, Copy, Debug)]
struct Block {
    stack: StackId,
    size: u64,
    birth: u64,
    interval: IntervalCode,
    carried: f64,
}

/// The naive oracle: it knows every live block, and looks at everything for each peak.
pub(super) struct Oracle {
    random: Random,
    blocks: Vec<Block>,
    pub(super) sites: HashMap<StackId, Figures>,
    live: (u64, u64),
    pub(super) peak: (u64, u64),
    pub(super) now: u64,
    intervals: Vec<IntervalCode>,
    sizes: Vec<u64>,
    /// How often the newest block is the one that changes or goes.
    pub(super) lifo_percent: u64,
}

impl Oracle {
    pub(super) fn new(seed: u64, intervals: &[u8], sizes: &[u64]) -> Oracle {
        println!("seed {seed:#x}");
        Oracle {
            random: Random(seed),
            blocks: Vec::new(),
            sites: HashMap::new(),
            live: (0, 0),
            peak: (0, 0),
            now: BASE.0,
            intervals: intervals.iter().map(|&code| IntervalCode(code)).collect(),
            sizes: sizes.to_vec(),
            lifo_percent: 0,
        }
    }

    fn weight(&self, size: u64, interval: IntervalCode) -> Weight {
        Weight::of(size, interval.interval_bytes(3_000))
    }

    /// dhat's rule: when live bytes are about to fall and stand at their maximum, that was a peak.
    fn before_fall(&mut self) {
        if self.live.0 == self.peak.0 {
            self.stamp();
        }
    }

    fn stamp(&mut self) {
        for site in self.sites.values_mut() {
            (site.gmax_bytes, site.gmax_blocks) = (site.live.bytes, site.live.blocks);
        }
    }

    fn after_rise(&mut self, stack: StackId) {
        if self.live.0 >= self.peak.0 {
            self.peak = self.live;
        }
        let site = self.sites.get_mut(&stack).expect("just changed");
        if site.live.bytes >= site.max_bytes {
            (site.max_bytes, site.max_blocks) = (site.live.bytes, site.live.blocks);
        }
    }

    /// One random event: its record, and its effect on the oracle.
    pub(super) fn step(&mut self, stacks: &[StackId]) -> Record {
        // Never the same moment twice: the order of ties between rings is nobody's to know.
        self.now += 1 + self.random.below(5);
        let choice = self.random.below(100);
        let many = self.blocks.len() > 200;
        if self.blocks.is_empty() || (choice < 45 && !many) {
            let interval = self.intervals[self.random.below(self.intervals.len() as u64) as usize];
            let block = Block {
                stack: stacks[self.random.below(stacks.len() as u64) as usize],
                size: self.sizes[self.random.below(self.sizes.len() as u64) as usize],
                birth: self.now,
                interval,
                carried: 0.0,
            };
            return self.alloc(block);
        }
        let newest = self.lifo_percent > 0 && self.random.below(100) < self.lifo_percent;
        let index = if newest { self.blocks.len() - 1 } else { self.random.below(self.blocks.len() as u64) as usize };
        match choice {
            _ if newest => self.leave(index, Kind::Free),
            45..70 => self.resize(index),
            70..74 => self.leave(index, Kind::Forget),
            _ => self.leave(index, Kind::Free),
        }
    }

    fn record(&self, kind: Kind, block: &Block) -> Record {
        Record {
            at: Ticks(self.now),
            kind,
            stack: block.stack,
            interval: block.interval,
            size: block.size,
            old_size: 0,
            old_interval: IntervalCode::EXACT,
            birth: Ticks(if kind == Kind::Alloc { 0 } else { block.birth }),
            carried: 0.0,
        }
    }

    fn alloc(&mut self, block: Block) -> Record {
        let weight = self.weight(block.size, block.interval);
        let site = self.sites.entry(block.stack).or_default();
        plus(&mut site.live, &weight);
        plus(&mut site.total, &weight);
        note_size(site, block.size, block.interval);
        site.live_births += u128::from(weight.blocks) * u128::from(block.birth - BASE.0);
        self.live = (self.live.0 + weight.bytes, self.live.1 + weight.blocks);
        self.after_rise(block.stack);
        self.blocks.push(block);
        self.record(Kind::Alloc, &block)
    }

    fn leave(&mut self, index: usize, kind: Kind) -> Record {
        let block = self.blocks.swap_remove(index);
        let weight = self.weight(block.size, block.interval);
        self.before_fall();
        let site = self.sites.get_mut(&block.stack).expect("born here");
        minus(&mut site.live, &weight);
        site.live_births -= u128::from(weight.blocks) * u128::from(block.birth - BASE.0);
        if kind == Kind::Free {
            site.freed_blocks += weight.blocks;
            site.ended_lifetimes += u128::from(weight.blocks) * u128::from(self.now - block.birth);
        } else {
            site.total.resized |= block.interval != IntervalCode::EXACT;
        }
        self.live = (self.live.0 - weight.bytes, self.live.1 - weight.blocks);
        self.record(kind, &block)
    }

    fn resize(&mut self, index: usize) -> Record {
        let mut block = self.blocks[index];
        let old = self.weight(block.size, block.interval);
        let old_size = block.size;
        block.carried += old.bytes as f64 / 256.0;
        block.size = self.sizes[self.random.below(self.sizes.len() as u64) as usize];
        let new = self.weight(block.size, block.interval);
        if new.bytes < old.bytes {
            self.before_fall();
        }
        let site = self.sites.get_mut(&block.stack).expect("born here");
        minus(&mut site.live, &old);
        plus(&mut site.live, &new);
        plus(&mut site.total, &new);
        note_size(site, block.size, block.interval);
        site.total.resized |= block.interval != IntervalCode::EXACT;
        if new.samples > 0 {
            let p = 1.0 - (-(block.size as f64) / block.interval.interval_bytes(3_000)).exp();
            let covariance = 2.0 * block.carried * block.size as f64 * (1.0 - p) / p;
            site.total.bytes_variance += covariance as u128;
        }
        let age = u128::from(block.birth - BASE.0);
        site.live_births = site.live_births + u128::from(new.blocks) * age - u128::from(old.blocks) * age;
        self.live = (self.live.0 - old.bytes + new.bytes, self.live.1 - old.blocks + new.blocks);
        if new.bytes >= old.bytes {
            self.after_rise(block.stack);
        }
        self.blocks[index] = block;
        Record {
            old_size,
            old_interval: block.interval,
            carried: block.carried as f32,
            ..self.record(Kind::Resize, &block)
        }
    }

    /// Demands that `picture` shows exactly this.
    pub(super) fn check(&mut self, picture: &Picture, stacks: &[StackId]) {
        if self.live.0 == self.peak.0 {
            self.stamp();
        }
        assert_eq!((picture.gmax_bytes, picture.gmax_blocks), self.peak, "the process's peak");
        assert_eq!(picture.sites.len(), self.sites.len());
        let mut classes: HashMap<u32, Amount> = HashMap::new();
        for block in &self.blocks {
            let weight = self.weight(block.size, block.interval);
            plus(classes.entry(block.size.ilog2()).or_default(), &weight);
        }
        for (class, row) in picture.size_classes.iter().enumerate() {
            let expected = classes.get(&(class as u32)).copied().unwrap_or_default();
            assert_eq!(row.live, expected, "size class {class}");
        }
        for site in &picture.sites {
            assert!(stacks.contains(&site.stack) && !site.frames.is_empty());
            let expected = self.sites[&site.stack];
            let mut found = site.figures;
            // Rounded on their way: compared nearly, then set equal.
            near(found.total.bytes_variance, expected.total.bytes_variance, 0.01);
            let scale = expected.live_births.max(u128::from(self.now - BASE.0));
            near_of(found.live_births, expected.live_births, scale, 1e-4);
            found.total.bytes_variance = expected.total.bytes_variance;
            found.total.blocks_variance = expected.total.blocks_variance;
            found.live_births = expected.live_births;
            assert_eq!(found, expected, "{:?}", site.stack);
        }
    }
}

fn note_size(site: &mut Figures, size: u64, interval: IntervalCode) {
    if interval != IntervalCode::EXACT {
        let smallest = if site.total.smallest_bytes == 0 { size } else { site.total.smallest_bytes.min(size) };
        (site.live.smallest_bytes, site.total.smallest_bytes) = (smallest, smallest);
    }
}

fn near(found: u128, expected: u128, relative: f64) {
    near_of(found, expected, expected, relative);
}

fn near_of(found: u128, expected: u128, scale: u128, relative: f64) {
    let difference = found.abs_diff(expected) as f64;
    assert!(difference <= scale as f64 * relative + 1.0, "{found} instead of {expected}");
}

fn plus(amount: &mut Amount, weight: &Weight) {
    amount.bytes += weight.bytes;
    amount.blocks += weight.blocks;
    amount.sampled_bytes += weight.bytes * weight.samples;
    amount.sampled_blocks += weight.blocks * weight.samples;
    amount.samples += weight.samples;
    amount.bytes_variance += weight.bytes_variance;
    amount.blocks_variance += weight.blocks_variance;
}

fn minus(amount: &mut Amount, weight: &Weight) {
    amount.bytes -= weight.bytes;
    amount.blocks -= weight.blocks;
    amount.sampled_bytes -= weight.bytes * weight.samples;
    amount.sampled_blocks -= weight.blocks * weight.samples;
    amount.samples -= weight.samples;
    amount.bytes_variance -= weight.bytes_variance;
    amount.blocks_variance -= weight.blocks_variance;
}
