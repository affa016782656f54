//! How fast records are applied: `cargo test --release --lib speed -- --ignored --nocapture`.

use super::*;
use crate::store::attribution::Attribution;
use std::time::Instant;

/// Applies a stream of births and deaths over `stacks` stacks, from `rings` rings that take turns of `turn` records, and
/// gives records a second.
fn records_per_second(stacks: u64, rings: usize, turn: usize, interval: u8) -> f64 {
    let store = Store::create(&StoreOptions { bound_bytes: 256 << 20, ring_records: 8192, ..options(Place::Memory) })
        .expect("a store");
    let tables = store.tables();
    let stacks = add_stacks(&tables, stacks);
    let mut attribution = Attribution::new(BASE, 3_000);
    let mut random = Random(0x1357_9bdf_0246_8ace);
    let mut blocks: Vec<(StackId, u64, u64)> = Vec::new();
    let mut now = BASE.0;
    let mut producers: Vec<_> = (0..rings)
        .map(|tid| {
            store.lay_out_ahead();
            store.ring(store.claim_ring(tid as u32).expect("a ring")).expect("its words").producer()
        })
        .collect();
    let (mut records, mut seconds) = (0u64, 0.0);
    while records < 20_000_000 {
        for run in 0..4096 * rings / turn {
            for _ in 0..turn {
                now += 1;
                let alloc = blocks.len() < 1000 || (random.below(2) == 0 && blocks.len() < 100_000);
                let (stack, size, birth) = if alloc {
                    (stacks[random.below(stacks.len() as u64) as usize], 16 + 8 * random.below(60), 0)
                } else {
                    let index = random.below(blocks.len() as u64) as usize;
                    blocks.swap_remove(index)
                };
                if alloc {
                    blocks.push((stack, size, now));
                }
                let record = Record {
                    at: Ticks(now),
                    kind: if alloc { Kind::Alloc } else { Kind::Free },
                    stack,
                    interval: IntervalCode(interval),
                    size,
                    old_size: 0,
                    old_interval: IntervalCode::EXACT,
                    birth: Ticks(birth),
                    carried: 0.0,
                };
                producers[run % rings].push(&record).expect("room");
            }
        }
        let start = Instant::now();
        records += attribution.drain(&tables, Ticks(u64::MAX), &mut ());
        seconds += start.elapsed().as_secs_f64();
        store.lay_out_ahead();
    }
    records as f64 / seconds
}

/// Applies what threads send that make and drop a block at one site again and again, all at once.
fn pairs_per_second(rings: usize) -> f64 {
    let store = Store::create(&StoreOptions { bound_bytes: 256 << 20, ring_records: 8192, ..options(Place::Memory) })
        .expect("a store");
    let tables = store.tables();
    let stack = add_stacks(&tables, 1)[0];
    let mut attribution = Attribution::new(BASE, 3_000);
    let mut random = Random(0x1357_9bdf_0246_8ace);
    let mut threads: Vec<_> = (0..rings)
        .map(|tid| {
            store.lay_out_ahead();
            (store.ring(store.claim_ring(tid as u32).expect("a ring")).expect("its words").producer(), None::<u64>)
        })
        .collect();
    let (mut now, mut records, mut seconds) = (BASE.0, 0u64, 0.0);
    while records < 20_000_000 {
        for _ in 0..4096 {
            for _ in 0..rings {
                let (producer, born) = &mut threads[random.below(rings as u64) as usize];
                now += 1;
                let record = Record {
                    at: Ticks(now),
                    kind: if born.is_none() { Kind::Alloc } else { Kind::Free },
                    stack,
                    interval: IntervalCode::EXACT,
                    size: 64,
                    old_size: 0,
                    old_interval: IntervalCode::EXACT,
                    birth: Ticks(born.unwrap_or(0)),
                    carried: 0.0,
                };
                *born = if born.is_none() { Some(now) } else { None };
                producer.push(&record).expect("room");
            }
        }
        let start = Instant::now();
        records += attribution.drain(&tables, Ticks(u64::MAX), &mut ());
        seconds += start.elapsed().as_secs_f64();
    }
    records as f64 / seconds
}

#[test]
#[ignore = "a benchmark"]
fn speed() {
    for (stacks, rings, turn, interval) in [
        (100, 1, 16, 0),
        (1_000, 1, 16, 0),
        (10_000, 1, 16, 0),
        (100_000, 1, 16, 0),
        (100, 2, 1, 0),
        (100, 4, 1, 0),
        (1_000, 4, 1, 0),
        (1_000, 4, 16, 0),
        (1_000, 64, 16, 0),
        (1_000, 1, 16, 16),
    ] {
        let speed = records_per_second(stacks, rings, turn, interval) / 1e6;
        println!(
            "{stacks:>7} stacks {rings:>3} rings, turns of {turn:>2}, interval code {interval:>2}: {speed:6.1} million records a second"
        );
    }
    for rings in [1, 2, 4] {
        println!("pairs of {rings} rings at once: {:6.1} million records a second", pairs_per_second(rings) / 1e6);
    }
    let store = Store::create(&StoreOptions { bound_bytes: 64 << 20, ..options(Place::Memory) }).expect("a store");
    let tables = store.tables();
    let mut attribution = Attribution::new(BASE, 3_000);
    for tid in 0..4096 {
        store.lay_out_ahead();
        if store.claim_ring(tid).is_none() {
            break;
        }
    }
    let start = Instant::now();
    for _ in 0..1000 {
        assert_eq!(attribution.drain(&tables, Ticks(u64::MAX), &mut ()), 0);
    }
    let idle = start.elapsed().as_secs_f64() * 1e3;
    let rings = tables.used(crate::store::layout::Region::Rings);
    for exact_mode in [false, true] {
        let options = StoreOptions { base: BASE, ..StoreOptions::new(exact_mode) };
        let start = Instant::now();
        let store = Store::create(&options).expect("a store");
        println!("created, exact mode {exact_mode}: {:.1} ms", start.elapsed().as_secs_f64() * 1e3);
        store.finish(false);
    }
    println!("{rings} empty rings: {idle:.1} µs a drain");
}
