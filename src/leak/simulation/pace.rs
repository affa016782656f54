//! What is said of how fast a growing table grows: the same at each moment, though it grows in steps.

use super::whole::report_of;
use super::world::{GrowingMap, GrowingVec, World};
use crate::leak::assemble::Course;
use crate::leak::pool::{KeyFrame, regroup};
use crate::leak::relations::Relations;
use crate::leak::report::{Leak, LeakReport};
use crate::leak::severity::Severity;
use crate::leak::state::State;

/// Epochs of five seconds.
const EPOCHS_A_MINUTE: f64 = 12.0;
/// When a steady table is called a leak.
const JUDGED: u32 = 200;

fn reports(sites: usize, epochs: u32, mut grow: impl FnMut(&mut World), mut see: impl FnMut(u32, &LeakReport<String>)) {
    let mut world = World::new(3, 0.0, epochs, sites);
    for now in 0..epochs {
        world.begin_epoch(now);
        grow(&mut world);
        world.end_epoch();
        if now >= JUDGED {
            see(now, &report_of(&world, Course { now_bytes: 200_000_000, before_bytes: 100_000_000 }, None));
        }
    }
}

fn site(report: &LeakReport<String>, name: &str) -> Leak<String> {
    report.sites().find(|site| site.frames()[0] == name).cloned().unwrap_or_else(|| panic!("no {name} in {report:#?}"))
}

/// The pace lies in the interval, and what is said of it within a tenth.
fn is_told(table: &Leak<String>, now: u32, bytes_per_epoch: f64) {
    assert_eq!((table.state(), table.evidence().by_table), (State::Leak, true), "epoch {now}");
    let (growth, truth) = (table.growth_bytes_per_minute(), bytes_per_epoch * EPOCHS_A_MINUTE);
    assert!((0.9..1.1).contains(&(growth.value / truth)), "epoch {now}: {growth:?}, in truth {truth}");
    assert!(growth.low <= truth && truth <= growth.high, "epoch {now}: {growth:?}, in truth {truth}");
}

/// Steps of a table fall into the window once or not at all. That changes neither its rate nor its severity, nor its place.
#[test]
fn a_steady_vec_grows_as_fast_at_each_moment_and_is_as_grave() {
    let mut vec = None;
    let grow = |world: &mut World| {
        vec.get_or_insert_with(|| GrowingVec::new(world, 0)).push(world, 40);
        (0..20).for_each(|_| _ = world.alloc(1, 5_000));
    };
    // A window adds an ever smaller share of it.
    let mut before = Severity::High;
    reports(2, 1000, grow, |now, report| {
        let table = site(report, "site 0");
        is_told(&table, now, 40.0);
        if now == JUDGED {
            assert_eq!(table.severity(), before);
        }
        assert!(table.severity() <= before, "epoch {now}: graver again");
        before = table.severity();
        assert_eq!(report.leaks().next().map(|first| first.frames()[0].clone()), Some("site 1".into()), "epoch {now}");
    });
    assert_eq!(before, Severity::Low);
}

/// Of a table that is no trifle it is the percentage that counts: steadily, too.
#[test]
fn a_steady_map_of_some_size_is_high_while_a_window_adds_half_of_it() {
    let mut map: Option<GrowingMap> = None;
    let grow = |world: &mut World| {
        let map = map.get_or_insert_with(|| GrowingMap::new(world, 0, 127));
        (0..70).for_each(|_| map.insert(world));
    };
    // A bucket of 128 bytes holds an entry in seven of eight cases.
    reports(1, 280, grow, |now, report| {
        let table = site(report, "site 0");
        is_told(&table, now, 80.0 * 128.0);
        assert_eq!(table.severity(), Severity::High, "epoch {now}: {table:#?}");
    });
}

/// Of many that double together no more is known than their mean growth: half of what there is may have been added just now.
#[test]
fn many_vecs_that_grow_together_are_told_within_a_factor_of_two() {
    let mut vecs: Vec<GrowingVec> = Vec::new();
    let grow = |world: &mut World| {
        while vecs.len() < 10 {
            vecs.push(GrowingVec::new(world, 0));
        }
        vecs.iter_mut().for_each(|vec| vec.push(world, 40));
    };
    reports(1, 1000, grow, |now, report| {
        let tables = site(report, "site 0");
        let (growth, truth) = (tables.growth_bytes_per_minute(), 400.0 * EPOCHS_A_MINUTE);
        assert!((0.9..2.2).contains(&(growth.value / truth)), "epoch {now}: {growth:?}, in truth {truth}");
        assert!(growth.low < 1.1 * truth && truth < 1.1 * growth.high, "epoch {now}: {growth:?}, in truth {truth}");
    });
}

/// One stack after another keeps what it allocates, and none has enough to be judged alone: their group's growth is that of all that
/// was kept, over the same time, and not the sum of what each did while it was there.
#[test]
fn a_group_grows_as_fast_as_all_that_is_kept() {
    let keys: Vec<[KeyFrame; 2]> =
        (0..400).map(|stack| [2, 1000 + stack].map(|key| KeyFrame { key, library: false })).collect();
    let mut world = World::new(7, 0.0, 400, keys.len());
    let mut told = 0;
    for now in 0..400 {
        world.begin_epoch(now);
        (0..4).for_each(|_| _ = world.alloc(now as usize, 1000));
        world.end_epoch();
        if now % 12 == 11 {
            regroup(&mut world.judge, &mut world.histories, &|index| &keys[index]);
        }
        let report = report_of(&world, Course { now_bytes: 200_000_000, before_bytes: 100_000_000 }, None);
        if let Some(leak) = report.leaks().find(|leak| leak.evidence().stacks > 1) {
            let (growth, truth) = (leak.growth_bytes_per_minute().value, 4000.0 * EPOCHS_A_MINUTE);
            // Stacks join once in twelve epochs, and what they kept until then is not known to be the group's.
            assert!((0.75..1.1).contains(&(growth / truth)), "epoch {now}: {growth}, in truth {truth}");
            told += 1;
        }
    }
    assert!(told > 100, "{told} reports of it");
}

/// An arena of chunks that double, none of them freed: named within the time that a steady leak takes from when its chunks come
/// seldom enough to be told apart, exact or sampled. (Few samples: the age ladder alone would not be sure.)
#[test]
fn an_arena_that_is_never_reset_is_named() {
    for (seed, interval) in (1..=20).flat_map(|seed| [(seed, 0.0), (seed, 16384.0), (seed, 65536.0)]) {
        let mut world = World::new(seed, interval, 480, 2);
        let (mut chunk, mut room, mut filled) = (512, 512, 0);
        _ = world.alloc(0, chunk);
        for now in 0..480 {
            world.begin_epoch(now);
            (0..5).for_each(|_| world.brief(1, 5_000, 1.0));
            filled += 30_000;
            while room < filled {
                chunk *= 2;
                room += chunk;
                _ = world.alloc(0, chunk);
            }
            world.end_epoch();
        }
        let report = report_of(&world, Course { now_bytes: 200_000_000, before_bytes: 100_000_000 }, None);
        let arena = site(&report, "site 0");
        assert_eq!(arena.state(), State::Leak, "seed {seed}, interval {interval}: {arena:#?}");
        // What fills it is no table that holds what others allocate.
        let tables = Relations::of(&world.judge, &world.histories, &world.ways).tables;
        assert!(tables.is_empty(), "{tables:?}");
        assert!(arena.evidence().by_chunks && arena.advice().contains("arena"), "{arena:#?}");
        let (growth, truth) = (arena.growth_bytes_per_minute(), 30_000.0 * EPOCHS_A_MINUTE);
        assert!(growth.low <= truth && truth <= growth.high, "seed {seed}, interval {interval}: {growth:?}, {truth}");
    }
}
