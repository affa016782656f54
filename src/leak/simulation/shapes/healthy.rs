//! What looks like a leak, and is none.

use std::collections::VecDeque;

use super::{KIB, Shape, healthy, keep, load, lru};
use crate::leak::simulation::world::{GrowingMap, GrowingVec, Held};

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
