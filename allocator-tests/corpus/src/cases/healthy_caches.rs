//! Caches, tables and pools that find their size.

use std::collections::VecDeque;
use std::hint::black_box;

use super::leaks_network::Map;
use crate::case::{Case, Program};
use crate::random::Random;

pub(super) const CASES: &[Case] = &[
    Case::healthy("startup_tables", "tables that are loaded in the first epochs", startup_tables),
    Case::healthy("lazy_steps", "a part more is loaded six times in the run", lazy_steps),
    Case::healthy("lru_8_percent", "an LRU that fills over 8% of the run, then stays full", |seed, epochs| {
        lru(seed, epochs, 0.08)
    }),
    Case::healthy("lru_16_percent", "an LRU that fills over 16% of the run, then stays full", |seed, epochs| {
        lru(seed, epochs, 0.16)
    }),
    Case::healthy("saturating_cache", "random keys of a bounded set: ever fewer are new", saturating_cache),
    Case::healthy("periodic_clear", "a cache that is cleared eight times in the run", periodic_clear),
    Case::healthy("fixed_pool", "the byte pool that uses its blocks again", fixed_pool),
    Case::healthy("bounded_interner", "an interner of 600 words", bounded_interner),
    Case::healthy("folder_lru_100", "the folder cache with an LRU of 100", folder_lru_100),
    Case::healthy("gossip_removed_at_zero", "the gossip counters, removed at zero", gossip_removed_at_zero),
];

fn startup_tables(_seed: u64, _epochs: u32) -> Program {
    let mut tables = Vec::new();
    Box::new(move |t| {
        if t < 5 {
            load_startup_tables(&mut tables, t);
        }
    })
}

#[inline(never)]
fn load_startup_tables(tables: &mut Vec<Vec<u32>>, t: u32) {
    tables.extend((0..200).map(|number| black_box(vec![t + number + 1; 512])));
}

fn lazy_steps(_seed: u64, epochs: u32) -> Program {
    let mut parts = Vec::new();
    Box::new(move |t| {
        if t.is_multiple_of(epochs / 6) {
            load_part(&mut parts);
        }
    })
}

#[inline(never)]
fn load_part(parts: &mut Vec<Vec<u16>>) {
    parts.extend((0..60).map(|number| black_box(vec![number + 1; 2048])));
}

/// Entries by age; the least recently used one makes room.
struct Lru {
    entries: VecDeque<Vec<u8>>,
    limit: usize,
}

impl Lru {
    #[inline(never)]
    fn insert(&mut self, size: usize) {
        if self.entries.len() >= self.limit {
            self.entries.pop_front();
        }
        self.entries.push_back(black_box(vec![6; size]));
    }
}

fn lru(seed: u64, epochs: u32, share: f64) -> Program {
    const PER_EPOCH: f64 = 12.0;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "some hundred entries")]
    let limit = (share * f64::from(epochs) * PER_EPOCH) as usize;
    let (mut random, mut lru) = (Random::new(seed), Lru { entries: VecDeque::new(), limit });
    Box::new(move |_| (0..random.poisson(PER_EPOCH)).for_each(|_| lru.insert(2048)))
}

fn saturating_cache(seed: u64, _epochs: u32) -> Program {
    let (mut random, mut known) = (Random::new(seed), Map::<usize, Vec<u8>>::default());
    Box::new(move |_| (0..40).for_each(|_| look_up(&mut known, random.below(2000))))
}

#[inline(never)]
fn look_up(known: &mut Map<usize, Vec<u8>>, key: usize) {
    let query = black_box(vec![8u8; 1024]);
    let entry = known.entry(key).or_insert_with(|| black_box(vec![query[0]; 2048]));
    black_box(entry.len());
}

fn periodic_clear(seed: u64, epochs: u32) -> Program {
    let (mut random, mut kept) = (Random::new(seed), Vec::new());
    let period = epochs / 8;
    Box::new(move |t| {
        if t % period == period - 1 {
            kept.clear();
        }
        (0..random.poisson(12.0)).for_each(|_| cache_result(&mut kept));
    })
}

#[inline(never)]
fn cache_result(kept: &mut Vec<Vec<u8>>) {
    kept.push(black_box(vec![1; 3 * 1024]));
}

/// As `byte_pool` among the leaks, but blocks that came back are taken out again.
#[derive(Default)]
struct FixedPool {
    stashed: Vec<Vec<u64>>,
}

impl FixedPool {
    #[inline(never)]
    fn take(&mut self) -> Vec<u64> {
        self.stashed.pop().unwrap_or_else(|| black_box(vec![1; 18 * 128]))
    }
}

fn fixed_pool(seed: u64, _epochs: u32) -> Program {
    let (mut random, mut pool) = (Random::new(seed), FixedPool::default());
    Box::new(move |_| {
        let in_use: Vec<Vec<u64>> = (0..20 + random.below(40)).map(|_| pool.take()).collect();
        pool.stashed.extend(black_box(in_use));
    })
}

fn bounded_interner(seed: u64, _epochs: u32) -> Program {
    let (mut random, mut words) = (Random::new(seed), Map::<u64, Box<[u8]>>::default());
    Box::new(move |_| {
        for _ in 0..25 {
            // Squared ranks: small ones come often.
            let unit = random.unit();
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "below 600")]
            intern_bounded(&mut words, (unit * unit * 599.0) as u64);
        }
    })
}

#[inline(never)]
fn intern_bounded(words: &mut Map<u64, Box<[u8]>>, word: u64) {
    let text = black_box(vec![2u8; 900]);
    words.entry(word).or_insert_with(|| black_box(text.as_slice().into()));
}

/// As `folder_cache` among the leaks, but the oldest of more than 100 goes.
fn folder_lru_100(seed: u64, _epochs: u32) -> Program {
    let (mut random, mut folders, mut order) =
        (Random::new(seed), Map::<String, Vec<u8>>::default(), VecDeque::<String>::new());
    Box::new(move |_| {
        for _ in 0..random.poisson(12.0) {
            let name = format!("folder {:016x}", random.word());
            open_folder(&mut folders, &mut order, name);
        }
    })
}

#[inline(never)]
fn open_folder(folders: &mut Map<String, Vec<u8>>, order: &mut VecDeque<String>, name: String) {
    order.push_back(name.clone());
    folders.insert(name, black_box(vec![3; 1500]));
    if order.len() > 100
        && let Some(oldest) = order.pop_front()
    {
        folders.remove(&oldest);
    }
}

/// As `gossip_counters` among the leaks, but a counter at zero is removed.
fn gossip_removed_at_zero(seed: u64, _epochs: u32) -> Program {
    let mut random = Random::new(seed);
    let (mut counters, mut pending) = (Map::<[u8; 32], u32>::default(), VecDeque::<[u8; 32]>::new());
    Box::new(move |t| {
        for _ in 0..random.poisson(30.0) {
            let mut key = [0; 32];
            key[..8].copy_from_slice(&random.word().to_le_bytes());
            count_message(&mut counters, key);
            pending.push_back(key);
        }
        // Every ten epochs the older ones have arrived.
        if t % 10 == 0 {
            while pending.len() > 30 {
                if let Some(key) = pending.pop_front() {
                    message_arrived(&mut counters, &key);
                }
            }
        }
    })
}

#[inline(never)]
fn count_message(counters: &mut Map<[u8; 32], u32>, key: [u8; 32]) {
    *counters.entry(key).or_default() += 1;
}

#[inline(never)]
fn message_arrived(counters: &mut Map<[u8; 32], u32>, key: &[u8; 32]) {
    if let Some(count) = counters.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counters.remove(key);
        }
    }
}
