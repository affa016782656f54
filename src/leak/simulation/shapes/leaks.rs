//! What leaks, in 22 ways.

use std::collections::VecDeque;

use super::{Expect, KIB, Shape, leak};
use crate::leak::simulation::world::{GrowingMap, GrowingVec, Held};

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
