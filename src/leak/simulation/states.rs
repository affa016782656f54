//! The words for sites that are no leak, or not known to be one.

use std::collections::VecDeque;

use super::whole::report_of;
use super::world::{Held, World};
use crate::leak::assemble::Course;
use crate::leak::classify::classify;
use crate::leak::state::{Change, State, Withdrawal};

fn keep(_: Held) {}

/// What was a queue for long is one no more when blocks are freed in any order, though it goes on growing.
#[test]
fn the_order_of_frees_is_forgotten() {
    let mut world = World::new(5, 0.0, 300, 1);
    let mut queue: VecDeque<Held> = VecDeque::new();
    for now in 0..300u32 {
        world.begin_epoch(now);
        let (born, freed) = if now < 150 { (24, 20) } else { (6, 4) };
        (0..born).for_each(|_| queue.push_back(world.alloc(0, 1000)));
        for _ in 0..freed {
            let index = if now < 150 { 0 } else { world.random.below(queue.len()) };
            if let Some(gone) = queue.remove(index) {
                world.free(gone);
            }
        }
        world.end_epoch();
        if now == 149 {
            assert_eq!(classify(&world.histories[0], world.judge.moment()).0, State::Backlog);
        }
    }
    assert_ne!(classify(&world.histories[0], world.judge.moment()).0, State::Backlog);
}

/// Ten old blocks, none freed: neither proved to be a leak nor at rest. As many that come and go are at rest.
#[test]
fn few_samples_that_look_like_a_leak_are_unknown() {
    let mut world = World::new(5, 0.0, 100, 2);
    for now in 0..100u32 {
        world.begin_epoch(now);
        if now % 10 == 3 {
            keep(world.alloc(0, 1000));
            world.brief(1, 1000, 45.0);
        }
        world.end_epoch();
    }
    let state = |site: usize| classify(&world.histories[site], world.judge.moment()).0;
    assert_eq!((state(0), state(1)), (State::Unknown, State::Plateau));
}

/// A hundred sites of one sample each: the errors of their sizes are independent, so that of the sum is ten times one's, not a
/// hundred times.
#[test]
fn what_could_hide_in_many_sites_is_bounded_for_their_sum() {
    let sites = 100;
    let mut world = World::new(5, 65536.0, 10, sites);
    for now in 0..10 {
        world.begin_epoch(now);
        for site in 0..sites {
            while world.histories[site].live_samples() == 0.0 {
                keep(world.alloc(site, 1000));
            }
        }
        world.end_epoch();
    }
    let live = |bytes| Course { now_bytes: bytes, before_bytes: bytes };
    let unjudged = report_of(&world, live(1 << 40), None).unjudged();
    // Each stands for 66,036 bytes, ± 1.96 · 65,5 KB.
    let (one, error) = (66_037.0, 1.96 * 65_536.0);
    assert_eq!(unjudged.sites, sites);
    let expected = 100.0 * one + 10.0 * error;
    assert!((unjudged.bytes - expected).abs() < 0.02 * expected, "{} is not {expected}", unjudged.bytes);
    // And no more than there is.
    assert_eq!(report_of(&world, live(1_000_000), None).unjudged().bytes, 1_000_000.0);
}

/// Fifty buffers of one line that grow evenly, each from another size: what is told of them.
#[test]
fn many_tables_of_unequal_size_make_no_verdict_flap() {
    for seed in 1..=10 {
        let mut world = World::new(seed, 0.0, 800, 1);
        let mut tables: Vec<(Option<Held>, u64, u64)> = vec![(None, 0, 0); 50];
        let mut told = Vec::new();
        for now in 0..800u32 {
            world.begin_epoch(now);
            for (held, length, capacity) in tables.iter_mut().filter(|_| now < 400) {
                *length += 20 + world.random.below(80) as u64;
                if *length > *capacity {
                    *capacity = (*capacity * 2).max(*length);
                    match *held {
                        Some(held) => world.resize(held, *capacity),
                        None => *held = Some(world.alloc(0, *capacity)),
                    }
                }
            }
            world.end_epoch_told(&mut |_, change| told.push((now, change)));
        }
        // Two verdicts are right. Which buffer is the largest changes, and with it the rate: a few are withdrawn for a while.
        assert!((1..=10).contains(&told.len()), "seed {seed}: {told:?}");
        let freed = |&(_, change): &(u32, Change)| change == Change::Withdrawn(Withdrawal::Freed);
        assert!(!told.iter().any(freed), "seed {seed}: {told:?}");
    }
}
