//! Shapes apart, so that a threshold chosen by the others is tried on something.

use super::{KIB, Shape, healthy, keep, leak};
use crate::leak::simulation::world::Held;

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
