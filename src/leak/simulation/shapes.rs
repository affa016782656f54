//! The shapes: what a site does in each epoch. Names as in the corpus of real programs.

use super::world::{GrowingMap, GrowingVec, Held, World};
use std::collections::VecDeque;

/// What the judge should say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expect {
    Leak,
    Backlog,
    Sublinear,
    Healthy,
}

type StepFn = Box<dyn FnMut(&mut World, u32)>;

pub(crate) struct Shape {
    pub(crate) name: &'static str,
    pub(crate) expect: Expect,
    /// When the leak begins, as a share of the run.
    pub(crate) onset: f64,
    /// Sites that must be named; all other sites of the shape must not.
    pub(crate) culprits: &'static [usize],
    /// Sites that grow with the culprit, such as its index: neither must nor must not be named.
    pub(crate) accomplices: &'static [usize],
    pub(crate) sites: usize,
    pub(crate) make: fn(&mut World, u32) -> StepFn,
}

const fn leak(
    name: &'static str,
    sites: usize,
    culprits: &'static [usize],
    make: fn(&mut World, u32) -> StepFn,
) -> Shape {
    Shape { name, expect: Expect::Leak, onset: 0.0, culprits, accomplices: &[], sites, make }
}

const fn healthy(name: &'static str, sites: usize, make: fn(&mut World, u32) -> StepFn) -> Shape {
    Shape { name, expect: Expect::Healthy, onset: 0.0, culprits: &[], accomplices: &[], sites, make }
}

const KIB: u64 = 1024;

/// Kept for good.
fn keep(_: Held) {}

/// The 22 leaks.
pub(crate) fn leaks() -> Vec<Shape> {
    vec![
        leak("base64_attach", 2, &[0], |_, _| {
            Box::new(|w, _| {
                for _ in 0..w.random.poisson(4.0) {
                    let size = 4 * KIB + w.random.below(60_000) as u64;
                    w.alloc(0, size);
                    w.brief(1, size * 4 / 3, 0.0);
                }
            })
        }),
        leak("email_objects", 2, &[0], |_, _| {
            Box::new(|w, _| {
                for _ in 0..w.random.poisson(6.0) {
                    w.alloc(0, 3 * KIB);
                    w.brief(1, 9 * KIB, 1.0);
                }
            })
        }),
        leak("mime_parts", 2, &[0, 1], |_, _| {
            Box::new(|w, _| {
                for _ in 0..w.random.poisson(5.0) {
                    let parts = 1 + w.random.below(6);
                    for _ in 0..parts {
                        w.alloc(0, 800);
                        w.alloc(1, 400);
                    }
                }
            })
        }),
        leak("byte_pool", 1, &[0], |_, _| {
            Box::new(|w, _| {
                for _ in 0..w.random.poisson(3.0) {
                    w.alloc(0, 18 * KIB);
                }
            })
        }),
        leak("quoted_printable", 1, &[0], |_, _| {
            Box::new(|w, _| {
                for _ in 0..w.random.poisson(10.0) {
                    let size = 200 + w.random.below(2000) as u64;
                    w.alloc(0, size);
                }
            })
        }),
        leak("arc_cycle_metrics", 3, &[0, 1], |_, _| {
            Box::new(|w, t| {
                if t % 3 == 0 {
                    w.alloc(0, 48 * KIB);
                    w.alloc(1, 24 * KIB);
                }
                w.brief(2, 2 * KIB, 2.0);
            })
        }),
        leak("uuid_queue", 2, &[0], |w, _| {
            let mut queue = GrowingVec::new(w, 0);
            Box::new(move |w, _| {
                for _ in 0..w.random.poisson(60.0) {
                    queue.push(w, 16);
                    w.brief(1, 300, 3.0);
                }
            })
        }),
        Shape {
            accomplices: &[1],
            ..leak("folder_cache", 2, &[0], |w, _| {
                let mut table = GrowingMap::new(w, 1, 48);
                Box::new(move |w, _| {
                    for _ in 0..w.random.poisson(12.0) {
                        table.insert(w);
                        w.alloc(0, 1500);
                    }
                })
            })
        },
        leak("background_accumulator", 2, &[0], |_, _| {
            Box::new(|w, t| {
                for _ in 0..4 {
                    w.alloc(0, 4 * KIB);
                }
                // Requests come and go by day and night.
                let load = if (t / 50) % 2 == 0 { 60.0 } else { 1.0 };
                for _ in 0..w.random.poisson(load) {
                    w.brief(1, KIB, 0.0);
                }
            })
        }),
        leak("address_book", 2, &[0], |_, _| {
            Box::new(|w, _| {
                for _ in 0..w.random.poisson(3.0) {
                    w.alloc(0, 2 * KIB);
                    let life = w.random.exponential(12.0);
                    w.brief(1, 6 * KIB, life);
                }
            })
        }),
        leak("topic_streams", 1, &[0], |_, _| {
            Box::new(|w, _| {
                if w.random.chance(0.7) {
                    w.alloc(0, 32 * KIB);
                }
            })
        }),
        leak("gossip_counters", 1, &[0], |w, _| {
            let mut table = GrowingMap::new(w, 0, 36);
            Box::new(move |w, _| {
                for _ in 0..w.random.poisson(70.0) {
                    table.insert(w);
                }
            })
        }),
        Shape {
            accomplices: &[1],
            ..leak("memory_store", 2, &[0], |w, _| {
                let mut index = GrowingMap::new(w, 1, 64);
                Box::new(move |w, _| {
                    for _ in 0..w.random.poisson(30.0) {
                        w.alloc(0, 700);
                        index.insert(w);
                    }
                })
            })
        },
        leak("incoming_buffers", 1, &[0], |_, _| {
            Box::new(|w, _| {
                for _ in 0..w.random.poisson(40.0) {
                    if w.random.chance(0.05) {
                        w.alloc(0, 16 * KIB);
                    } else {
                        let life = w.random.exponential(1.0);
                        w.brief(0, 16 * KIB, life);
                    }
                }
            })
        }),
        leak("component_mix", 3, &[1], |w, _| {
            let mut cache: VecDeque<Held> = VecDeque::new();
            let _ = w;
            Box::new(move |w, _| {
                for _ in 0..w.random.poisson(8.0) {
                    cache.push_back(w.alloc(0, 4 * KIB));
                    if cache.len() > 200 {
                        let oldest = cache.pop_front().expect("not empty");
                        w.free(oldest);
                    }
                    w.alloc(1, 3 * KIB);
                    let life = w.random.exponential(8.0);
                    w.brief(2, 5 * KIB, life);
                }
            })
        }),
        leak("route_growth", 12, &[7], |_, _| {
            Box::new(|w, _| {
                for _ in 0..w.random.poisson(12.0) {
                    let route = w.random.below(12);
                    if route == 7 {
                        w.alloc(7, 256 * KIB);
                    } else {
                        w.brief(route, 64 * KIB, 0.0);
                    }
                }
            })
        }),
        Shape {
            accomplices: &[1],
            ..leak("infinite_retry", 2, &[0], |_, _| {
                // Every failed record is copied and queued again, the copy is kept, its predecessor is not.
                let mut failed: Vec<Held> = Vec::new();
                Box::new(move |w, _| {
                    for record in &mut failed {
                        let copy = w.alloc(1, 900);
                        w.free(*record);
                        *record = copy;
                    }
                    for _ in 0..w.random.poisson(1.0) {
                        w.alloc(0, 14 * KIB);
                        failed.push(w.alloc(1, 900));
                    }
                })
            })
        },
        leak("one_percent_churn", 1, &[0], |_, _| {
            Box::new(|w, _| {
                for _ in 0..w.random.poisson(150.0) {
                    if w.random.chance(0.01) {
                        w.alloc(0, 12 * KIB);
                    } else {
                        let life = w.random.exponential(1.5);
                        w.brief(0, 12 * KIB, life);
                    }
                }
            })
        }),
        leak("forgotten_box", 2, &[0], |_, _| {
            Box::new(|w, _| {
                for _ in 0..w.random.poisson(20.0) {
                    w.alloc(0, 512);
                    w.brief(1, 4 * KIB, 0.0);
                }
            })
        }),
        Shape {
            onset: 0.4,
            ..leak("late_onset", 1, &[0], |_, run| {
                Box::new(move |w, t| {
                    for _ in 0..w.random.poisson(8.0) {
                        let life = w.random.exponential(2.0);
                        w.brief(0, 6 * KIB, life);
                    }
                    if f64::from(t) >= 0.4 * f64::from(run) {
                        for _ in 0..w.random.poisson(4.0) {
                            w.alloc(0, 6 * KIB);
                        }
                    }
                })
            })
        },
        Shape {
            expect: Expect::Backlog,
            ..leak("unbounded_channel", 1, &[0], |_, _| {
                let mut queue: VecDeque<Held> = VecDeque::new();
                Box::new(move |w, _| {
                    for _ in 0..w.random.poisson(24.0) {
                        queue.push_back(w.alloc(0, 3 * KIB));
                    }
                    for _ in 0..w.random.poisson(20.0) {
                        if let Some(oldest) = queue.pop_front() {
                            w.free(oldest);
                        }
                    }
                })
            })
        },
        Shape {
            expect: Expect::Sublinear,
            ..leak("sqrt_interner", 2, &[0], |_, _| {
                let mut kept = 0u32;
                Box::new(move |w, t| {
                    while f64::from(kept) < 150.0 * f64::from(t + 1).sqrt() {
                        w.alloc(0, 2 * KIB);
                        kept += 1;
                    }
                    for _ in 0..w.random.poisson(20.0) {
                        w.brief(1, KIB, 0.0);
                    }
                })
            })
        },
    ]
}

fn lru(share: f64, run: u32) -> StepFn {
    let mut entries: VecDeque<Held> = VecDeque::new();
    let per_epoch = 12.0;
    let limit = share * f64::from(run) * per_epoch;
    Box::new(move |w, _| {
        for _ in 0..w.random.poisson(per_epoch) {
            entries.push_back(w.alloc(0, 2 * KIB));
            if entries.len() as f64 > limit {
                let oldest = entries.pop_front().expect("not empty");
                w.free(oldest);
            }
        }
    })
}

/// Requests a given number of times an epoch, each living a few epochs.
fn load(w: &mut World, per_epoch: f64) {
    for _ in 0..w.random.poisson(per_epoch) {
        let life = w.random.exponential(4.0);
        w.brief(0, 6 * KIB, life);
    }
}

/// The healthy ones.
pub(crate) fn healthy_shapes() -> Vec<Shape> {
    vec![
        healthy("startup_tables", 2, |_, _| {
            Box::new(|w, t| {
                if t < 5 {
                    (0..200).for_each(|_| keep(w.alloc(0, 2 * KIB)));
                }
                w.brief(1, 4 * KIB, 0.0);
            })
        }),
        healthy("lazy_steps", 2, |_, run| {
            Box::new(move |w, t| {
                if t % (run / 6) == 0 {
                    (0..60).for_each(|_| keep(w.alloc(0, 4 * KIB)));
                }
                w.brief(1, 4 * KIB, 0.0);
            })
        }),
        healthy("plain_churn", 1, |_, _| {
            Box::new(|w, _| {
                for _ in 0..w.random.poisson(60.0) {
                    let life = w.random.exponential(1.0);
                    w.brief(0, 3 * KIB, life);
                }
            })
        }),
        healthy("long_sessions", 1, |_, _| {
            Box::new(|w, _| {
                for _ in 0..w.random.poisson(10.0) {
                    let life = w.random.exponential(40.0);
                    w.brief(0, 4 * KIB, life);
                }
            })
        }),
        healthy("lru_8_percent", 1, |_, run| lru(0.08, run)),
        healthy("lru_16_percent", 1, |_, run| lru(0.16, run)),
        healthy("lru_33_percent", 1, |_, run| lru(0.33, run)),
        healthy("saturating_cache", 1, |_, run| {
            // Random keys of a bounded set: ever fewer are new.
            let mut known = vec![false; 2000];
            let _ = run;
            Box::new(move |w, _| {
                for _ in 0..40 {
                    let key = w.random.below(2000);
                    if !known[key] {
                        known[key] = true;
                        w.alloc(0, 2 * KIB);
                    } else {
                        w.brief(0, KIB, 0.0);
                    }
                }
            })
        }),
        healthy("periodic_clear", 1, |_, run| {
            let mut kept: Vec<Held> = Vec::new();
            Box::new(move |w, t| {
                if t % (run / 8) == run / 8 - 1 {
                    kept.drain(..).for_each(|held| w.free(held));
                }
                for _ in 0..w.random.poisson(12.0) {
                    kept.push(w.alloc(0, 3 * KIB));
                }
            })
        }),
        healthy("arena_phases", 2, |_, _| {
            let mut arenas: Vec<Held> = Vec::new();
            Box::new(move |w, t| {
                if t % 24 == 0 {
                    arenas.drain(..).for_each(|held| w.free(held));
                }
                if t % 24 < 10 {
                    (0..3).for_each(|_| arenas.push(w.alloc(0, 64 * KIB)));
                }
                w.brief(1, 2 * KIB, 0.0);
            })
        }),
        healthy("slow_queue", 1, |_, _| {
            let mut queue: VecDeque<Held> = VecDeque::new();
            Box::new(move |w, t| {
                if t % 80 == 0 {
                    (0..600).for_each(|_| queue.push_back(w.alloc(0, 2 * KIB)));
                }
                for _ in 0..9 {
                    if let Some(oldest) = queue.pop_front() {
                        w.free(oldest);
                    }
                }
            })
        }),
        healthy("bursty_load", 1, |_, _| {
            Box::new(|w, _| {
                let rate = if w.random.chance(0.08) { 300.0 } else { 3.0 };
                load(w, rate);
            })
        }),
        healthy("load_ramp", 1, |_, run| {
            Box::new(move |w, t| load(w, 15.0 * (1.0 + 3.0 * f64::from(t) / f64::from(run))))
        }),
        healthy("load_step", 1, |_, run| Box::new(move |w, t| load(w, if t < run / 2 { 15.0 } else { 60.0 }))),
        healthy("fixed_pool", 2, |_, _| {
            let mut pool: Vec<Held> = Vec::new();
            Box::new(move |w, _| {
                let used = 20 + w.random.below(40);
                while pool.len() < used {
                    pool.push(w.alloc(0, 18 * KIB));
                }
                w.brief(1, 3 * KIB, 0.0);
            })
        }),
        healthy("thread_pools", 2, |_, _| {
            let mut threads: Vec<(Held, u32)> = Vec::new();
            Box::new(move |w, t| {
                let (gone, kept): (Vec<_>, Vec<_>) = threads.iter().partition(|(_, until)| *until <= t);
                gone.iter().for_each(|(held, _)| w.free(*held));
                threads = kept;
                while threads.len() < 16 {
                    let life = 5 + u32::try_from(w.random.below(60)).expect("small");
                    threads.push((w.alloc(0, 64 * KIB), t + life));
                }
                w.brief(1, 3 * KIB, 0.0);
            })
        }),
        healthy("bounded_interner", 2, |w, _| {
            let mut known = vec![false; 600];
            let mut table = GrowingMap::new(w, 1, 40);
            Box::new(move |w, _| {
                for _ in 0..25 {
                    // Zipf-like: squared ranks come often.
                    let unit = w.random.unit();
                    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "below 600")]
                    let key = (unit * unit * 599.0) as usize;
                    if !known[key] {
                        known[key] = true;
                        w.alloc(0, KIB);
                        table.insert(w);
                    }
                    w.brief(0, KIB, 0.0);
                }
            })
        }),
        healthy("ring_buffer", 1, |_, _| {
            let mut ring: VecDeque<Held> = VecDeque::new();
            Box::new(move |w, _| {
                for _ in 0..20 {
                    ring.push_back(w.alloc(0, 3 * KIB));
                    if ring.len() > 512 {
                        let oldest = ring.pop_front().expect("not empty");
                        w.free(oldest);
                    }
                }
            })
        }),
        healthy("reused_vec", 2, |w, _| {
            let mut buffer = GrowingVec::new(w, 0);
            Box::new(move |w, _| {
                for _ in 0..40 {
                    if buffer.length > 60 * KIB {
                        buffer.length = 0;
                    }
                    buffer.push(w, 64);
                }
                w.brief(1, 2 * KIB, 0.0);
            })
        }),
        healthy("late_release", 1, |_, _| {
            Box::new(|w, _| {
                for _ in 0..w.random.poisson(6.0) {
                    // A chain of one root and its children, released together at last.
                    let life = 25.0 + w.random.unit() * 20.0;
                    (0..5).for_each(|_| w.brief(0, KIB, life));
                }
            })
        }),
        healthy("folder_lru_100", 2, |w, _| {
            let mut table = GrowingMap::new(w, 1, 48);
            let mut entries: VecDeque<Held> = VecDeque::new();
            Box::new(move |w, _| {
                for _ in 0..w.random.poisson(12.0) {
                    entries.push_back(w.alloc(0, 1500));
                    if entries.len() > 100 {
                        let oldest = entries.pop_front().expect("not empty");
                        w.free(oldest);
                    } else {
                        table.insert(w);
                    }
                }
            })
        }),
        healthy("keeps_one_hour", 1, |_, _| {
            Box::new(|w, _| {
                for _ in 0..4 {
                    // "An hour" of this run.
                    w.brief(0, 4 * KIB, 50.0);
                }
            })
        }),
        healthy("gossip_removed_at_zero", 1, |w, _| {
            let mut table = GrowingMap::new(w, 0, 36);
            let mut live: u64 = 0;
            Box::new(move |w, t| {
                // Thirty new counters an epoch, each for about ten epochs.
                live = live.min(300) + 30;
                while table.entries < live {
                    table.insert(w);
                }
                if t % 10 == 0 {
                    live -= live.min(100);
                }
            })
        }),
        healthy("fragmentation", 2, |_, _| {
            let mut kept: Vec<Held> = Vec::new();
            Box::new(move |w, _| {
                // Random replacement in a table of fixed size.
                for _ in 0..30 {
                    let size = 64 << w.random.below(8);
                    if kept.len() < 800 {
                        kept.push(w.alloc(0, size));
                    } else {
                        let victim = w.random.below(800);
                        w.free(kept[victim]);
                        kept[victim] = w.alloc(0, size);
                    }
                }
                w.brief(1, 2 * KIB, 0.0);
            })
        }),
        healthy("batch_all", 1, |_, _| {
            let mut batch: Vec<Held> = Vec::new();
            Box::new(move |w, t| {
                if t % 40 < 30 {
                    (0..15).for_each(|_| batch.push(w.alloc(0, 3 * KIB)));
                } else if t % 40 == 30 {
                    batch.drain(..).for_each(|held| w.free(held));
                }
            })
        }),
    ]
}

/// Shapes that no threshold was chosen by.
pub(crate) fn others() -> Vec<Shape> {
    vec![
        leak("one_block_in_five_epochs", 2, &[0], |_, _| {
            Box::new(|w, t| {
                if t % 5 == 0 {
                    w.alloc(0, 100 * KIB);
                }
                (0..30).for_each(|_| w.brief(1, 4 * KIB, 0.0));
            })
        }),
        leak("batch_every_20_epochs", 2, &[0], |_, _| {
            Box::new(|w, t| {
                if t % 20 == 7 {
                    (0..50).for_each(|_| keep(w.alloc(0, 8 * KIB)));
                }
                (0..30).for_each(|_| w.brief(1, 4 * KIB, 0.0));
            })
        }),
        leak("a_third_is_freed_late", 1, &[0], |_, _| {
            Box::new(|w, _| {
                for _ in 0..w.random.poisson(12.0) {
                    if w.random.chance(0.33) {
                        let life = w.random.exponential(30.0);
                        w.brief(0, 4 * KIB, life);
                    } else {
                        w.alloc(0, 4 * KIB);
                    }
                }
            })
        }),
        leak("with_a_startup_table_of_the_same_site", 1, &[0], |_, _| {
            Box::new(|w, t| {
                let count = if t == 0 { 40 } else { 3 };
                (0..count).for_each(|_| keep(w.alloc(0, 8 * KIB)));
            })
        }),
        leak("leak_under_daily_load", 2, &[0], |_, _| {
            Box::new(|w, t| {
                let load = 12.0 * (1.0 + (f64::from(t) / 15.0).sin());
                for _ in 0..w.random.poisson(load) {
                    w.alloc(0, 5 * KIB);
                    w.brief(1, 9 * KIB, 1.0);
                }
            })
        }),
        healthy("daily_load_with_sessions", 1, |_, _| {
            Box::new(|w, t| {
                let rate = 12.0 * (1.0 + (f64::from(t) / 25.0).sin());
                for _ in 0..w.random.poisson(rate) {
                    let life = w.random.exponential(15.0);
                    w.brief(0, 4 * KIB, life);
                }
            })
        }),
        healthy("swept_every_100_epochs", 1, |_, _| {
            let mut kept: Vec<Held> = Vec::new();
            Box::new(move |w, t| {
                kept.push(w.alloc(0, 4 * KIB));
                (0..5).for_each(|_| kept.push(w.alloc(0, 4 * KIB)));
                if t % 100 == 99 {
                    kept.drain(..).for_each(|held| w.free(held));
                }
            })
        }),
        healthy("ramp_of_long_sessions", 1, |_, run| {
            Box::new(move |w, t| {
                let rate = 8.0 * (1.0 + 3.0 * f64::from(t) / f64::from(run));
                for _ in 0..w.random.poisson(rate) {
                    let life = w.random.exponential(20.0);
                    w.brief(0, 4 * KIB, life);
                }
            })
        }),
        healthy("time_to_live_100_epochs", 1, |_, _| {
            Box::new(|w, _| {
                for _ in 0..w.random.poisson(6.0) {
                    w.brief(0, 4 * KIB, 100.0);
                }
            })
        }),
        healthy("heavy_tailed_lifetimes", 1, |_, _| {
            Box::new(|w, _| {
                for _ in 0..w.random.poisson(30.0) {
                    // Pareto with exponent 1.5: finite mean.
                    let life = 0.5 * w.random.unit().powf(-1.0 / 1.5);
                    w.brief(0, 3 * KIB, life);
                }
            })
        }),
        healthy("swapped_configurations", 1, |_, _| {
            // Every now and then the whole of it is built anew, then the old one is freed.
            let mut current: Vec<Held> = Vec::new();
            Box::new(move |w, t| {
                if t % 37 == 5 {
                    let next: Vec<Held> = (0..200).map(|_| w.alloc(0, 2 * KIB)).collect();
                    std::mem::replace(&mut current, next).into_iter().for_each(|held| w.free(held));
                }
            })
        }),
        healthy("cache_of_random_replacement", 1, |_, _| {
            let mut kept: Vec<Held> = Vec::new();
            Box::new(move |w, _| {
                for _ in 0..10 {
                    if kept.len() < 500 {
                        kept.push(w.alloc(0, 4 * KIB));
                    } else {
                        let victim = w.random.below(500);
                        w.free(kept[victim]);
                        kept[victim] = w.alloc(0, 4 * KIB);
                    }
                }
            })
        }),
    ]
}
