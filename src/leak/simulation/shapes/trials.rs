//! Shapes that were written to break the rules: what a service does that no textbook has. Some did: idle epochs after a costly start,
//! what is loaded before a leak, and the births' odds against saturation are in the method for their sake.

use super::{KIB, Shape, healthy, keep, leak};
use crate::leak::simulation::world::{GrowingMap, Held, World};

/// All of them.
pub(crate) fn trials() -> Vec<Shape> {
    let mut shapes = guilty();
    shapes.extend(innocent());
    shapes
}

fn steady_work() -> impl FnMut(&mut World) {
    |w| (0..30).for_each(|_| w.brief(1, 4 * KIB, 0.0))
}

fn guilty() -> Vec<Shape> {
    vec![
        leak("two_sizes_by_turns", 2, &[0], |_, _| {
            let mut work = steady_work();
            Box::new(move |w, t| {
                if t % 2 == 0 {
                    (0..5).for_each(|_| keep(w.alloc(0, KIB)));
                } else {
                    (0..2).for_each(|_| keep(w.alloc(0, 9 * KIB)));
                }
                work(w);
            })
        }),
        leak("at_night_only", 2, &[0], |_, _| {
            let mut work = steady_work();
            Box::new(move |w, t| {
                if t % 48 < 16 {
                    (0..w.random.poisson(12.0)).for_each(|_| keep(w.alloc(0, 6 * KIB)));
                }
                work(w);
            })
        }),
        Shape {
            onset: 0.25,
            ..leak("after_a_plateau", 2, &[0], |_, run| {
                let (mut kept, mut work): (Vec<Held>, _) = (Vec::new(), steady_work());
                Box::new(move |w, t| {
                    while kept.len() < 300 {
                        kept.push(w.alloc(0, 4 * KIB));
                    }
                    for _ in 0..6 {
                        let victim = w.random.below(300);
                        w.free(kept[victim]);
                        kept[victim] = w.alloc(0, 4 * KIB);
                    }
                    if t >= run / 4 {
                        (0..w.random.poisson(5.0)).for_each(|_| keep(w.alloc(0, 4 * KIB)));
                    }
                    work(w);
                })
            })
        },
        leak("slowly_speeding_up", 2, &[0], |_, run| {
            let mut work = steady_work();
            Box::new(move |w, t| {
                let rate = 2.0 + 6.0 * f64::from(t) / f64::from(run);
                (0..w.random.poisson(rate)).for_each(|_| keep(w.alloc(0, 5 * KIB)));
                work(w);
            })
        }),
        leak("slowly_calming_down", 2, &[0], |_, run| {
            let mut work = steady_work();
            Box::new(move |w, t| {
                let rate = 8.0 - 3.0 * f64::from(t) / f64::from(run);
                (0..w.random.poisson(rate)).for_each(|_| keep(w.alloc(0, 5 * KIB)));
                work(w);
            })
        }),
        leak("after_loading_a_thousand", 2, &[0], |_, _| {
            let mut work = steady_work();
            Box::new(move |w, t| {
                let count = if t == 0 { 1000 } else { w.random.poisson(8.0) };
                (0..count).for_each(|_| keep(w.alloc(0, 4 * KIB)));
                work(w);
            })
        }),
        leak("among_sessions_of_one_site", 2, &[0], |_, _| {
            let mut work = steady_work();
            Box::new(move |w, _| {
                for _ in 0..w.random.poisson(18.0) {
                    if w.random.chance(0.2) {
                        keep(w.alloc(0, 5 * KIB));
                    } else {
                        let life = w.random.exponential(20.0);
                        w.brief(0, 5 * KIB, life);
                    }
                }
                work(w);
            })
        }),
        leak("in_bursts_of_errors", 2, &[0], |_, _| {
            let mut work = steady_work();
            Box::new(move |w, _| {
                if w.random.chance(0.15) {
                    (0..30).for_each(|_| keep(w.alloc(0, 5 * KIB)));
                }
                work(w);
            })
        }),
        leak("a_table_loaded_then_leaking", 2, &[0], |w, _| {
            let (mut table, mut work) = (GrowingMap::new(w, 0, 40), steady_work());
            (0..400).for_each(|_| table.insert(w));
            Box::new(move |w, _| {
                (0..w.random.poisson(60.0)).for_each(|_| table.insert(w));
                work(w);
            })
        }),
    ]
}

fn innocent() -> Vec<Shape> {
    vec![
        healthy("time_to_live_150_epochs", 1, |_, _| {
            Box::new(|w, _| (0..w.random.poisson(8.0)).for_each(|_| w.brief(0, 4 * KIB, 150.0)))
        }),
        healthy("time_to_live_under_daily_load", 1, |_, _| {
            Box::new(|w, t| {
                let rate = 8.0 * (1.0 + (f64::from(t) / 20.0).sin());
                (0..w.random.poisson(rate)).for_each(|_| w.brief(0, 4 * KIB, 60.0));
            })
        }),
        healthy("long_days", 1, |_, _| {
            Box::new(|w, t| {
                let rate = 12.0 * (1.0 - (f64::from(t) / 30.0).cos());
                for _ in 0..w.random.poisson(rate) {
                    let life = w.random.exponential(25.0);
                    w.brief(0, 4 * KIB, life);
                }
            })
        }),
        healthy("very_heavy_tailed_sessions", 1, |_, _| {
            Box::new(|w, _| {
                for _ in 0..w.random.poisson(20.0) {
                    // Pareto with exponent 1.2: the mean exists, but what is live goes on growing like t^-0.2 from it.
                    let life = 0.5 * w.random.unit().powf(-1.0 / 1.2);
                    w.brief(0, 4 * KIB, life);
                }
            })
        }),
        healthy("pool_that_grows_at_peaks", 2, |_, _| {
            let mut pool: Vec<Held> = Vec::new();
            let mut work = steady_work();
            Box::new(move |w, t| {
                // Every day has its peak, some are higher than any before.
                let peak = if t % 24 == 12 { 20.0 + w.random.exponential(15.0) } else { 15.0 };
                while (pool.len() as f64) < peak {
                    pool.push(w.alloc(0, 16 * KIB));
                }
                work(w);
            })
        }),
        healthy("table_rebuilt_now_and_then", 2, |w, _| {
            let (mut table, mut work) = (GrowingMap::new(w, 0, 40), steady_work());
            Box::new(move |w, t| {
                if t % 50 == 49 {
                    w.free(table.held());
                    table = GrowingMap::new(w, 0, 40);
                }
                (0..60).for_each(|_| table.insert(w));
                work(w);
            })
        }),
        healthy("cache_whose_limit_is_raised", 2, |_, run| {
            let mut kept: Vec<Held> = Vec::new();
            let mut work = steady_work();
            Box::new(move |w, t| {
                let limit = if t < run / 2 { 300 } else { 900 };
                for _ in 0..w.random.poisson(10.0) {
                    if kept.len() >= limit {
                        let victim = w.random.below(kept.len());
                        let held = kept.swap_remove(victim);
                        w.free(held);
                    }
                    kept.push(w.alloc(0, 4 * KIB));
                }
                work(w);
            })
        }),
        healthy("a_batch_of_130_epochs", 2, |_, _| {
            let mut kept: Vec<Held> = Vec::new();
            let mut work = steady_work();
            Box::new(move |w, t| {
                (0..5).for_each(|_| kept.push(w.alloc(0, 4 * KIB)));
                if t % 130 == 129 {
                    kept.drain(..).for_each(|held| w.free(held));
                }
                work(w);
            })
        }),
        healthy("workers_of_generations", 2, |_, _| {
            let mut generation: Vec<Held> = Vec::new();
            let mut work = steady_work();
            Box::new(move |w, t| {
                // A deployment every 90 epochs: the old workers are replaced within 30.
                if t < 30 {
                    (0..8).for_each(|_| generation.push(w.alloc(0, 4 * KIB)));
                } else if t % 90 < 30 {
                    for _ in 0..8 {
                        let old = generation.remove(0);
                        w.free(old);
                        generation.push(w.alloc(0, 4 * KIB));
                    }
                }
                work(w);
            })
        }),
        healthy("saturates_within_a_quarter", 2, |_, run| {
            let mut work = steady_work();
            let mut kept = 0.0;
            Box::new(move |w, t| {
                let wanted = 1500.0 * (1.0 - (-4.0 * f64::from(t + 1) / f64::from(run)).exp());
                while kept < wanted {
                    keep(w.alloc(0, 4 * KIB));
                    kept += 1.0;
                }
                work(w);
            })
        }),
        healthy("random_replacement_over_a_quarter", 2, |_, _| {
            let mut kept: Vec<Held> = Vec::new();
            let mut work = steady_work();
            Box::new(move |w, _| {
                for _ in 0..w.random.poisson(12.0) {
                    if kept.len() < 1200 {
                        kept.push(w.alloc(0, 4 * KIB));
                    } else {
                        let victim = w.random.below(1200);
                        w.free(kept[victim]);
                        kept[victim] = w.alloc(0, 4 * KIB);
                    }
                }
                work(w);
            })
        }),
        healthy("words_by_the_logarithm", 2, |_, _| {
            let mut work = steady_work();
            let mut kept = 0.0;
            Box::new(move |w, t| {
                while kept < 300.0 * (1.0 + f64::from(t)).ln() {
                    keep(w.alloc(0, 2 * KIB));
                    kept += 1.0;
                }
                work(w);
            })
        }),
        healthy("steps_of_a_growing_configuration", 2, |_, run| {
            // A table that is loaded in parts, as the entries it holds.
            let mut work = steady_work();
            let mut table: Option<GrowingMap> = None;
            Box::new(move |w, t| {
                if t % (run / 6) == 0 {
                    let table = table.get_or_insert_with(|| GrowingMap::new(w, 0, 400));
                    (0..60).for_each(|_| table.insert(w));
                }
                work(w);
            })
        }),
        healthy("buffer_of_record_requests", 2, |w, _| {
            // Kept at the largest request so far; sizes have a heavy tail.
            let mut held = w.alloc(0, KIB);
            let mut capacity = KIB;
            let mut work = steady_work();
            Box::new(move |w, _| {
                #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "some KiB")]
                let wanted = (300.0 * w.random.unit().powf(-0.8)) as u64;
                if wanted > capacity {
                    while capacity < wanted {
                        capacity *= 2;
                    }
                    let new = w.alloc(0, capacity);
                    w.free(held);
                    held = new;
                }
                work(w);
            })
        }),
    ]
}
