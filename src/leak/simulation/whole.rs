//! Report, pools and changes on simulated programs: the judge as its callers use it.

use super::world::{GrowingMap, Held, World};
use crate::leak::assemble::{Bound, Course, Process, SiteFigures, Source, report};
use crate::leak::clues::Function;
use crate::leak::judge::Subject;
use crate::leak::memory::{Memory, MemoryCause, Unexplained};
use crate::leak::pool::{KeyFrame, collapse_runs, regroup};
use crate::leak::report::{Interval, LeakReport};
use crate::leak::severity::Severity;
use crate::leak::state::{Change, State, Tier, Withdrawal};

struct Names<'a>(&'a World, Option<u64>);

impl Source<String> for Names<'_> {
    fn functions(&self, subject: Subject) -> Vec<Function> {
        let own = |name: String| Function { short: name.clone(), path: name, is_own: true, at: (0, 0) };
        vec![own(format!("{subject:?}")), own("handle".into()), own("main".into())]
    }

    fn figures(&self, history: usize) -> SiteFigures {
        let history = &self.0.histories[history];
        let live = f64::from(crate::leak::history::bytes(history.live_total));
        let error = 1.96 * f64::from(history.live_variance).sqrt();
        let total = f64::from(crate::leak::history::bytes(history.born_total));
        SiteFigures {
            live_bytes: Interval { value: live, low: live - error, high: live + error },
            total_bytes: total,
            bound: self.1.map(|max_bytes| Bound {
                max_bytes,
                live_bytes: Interval { value: live, low: live - error, high: live + error },
                is_exceeded: live - error > max_bytes as f64,
                is_held_here: true,
            }),
            ..SiteFigures::default()
        }
    }

    fn scope(&self, _: Subject) -> Option<String> {
        self.1.map(|_| "cache".into())
    }

    fn frames(&self, subject: Subject) -> Vec<String> {
        match subject {
            Subject::Site(index) => vec![format!("site {index}")],
            Subject::Group(index) => {
                self.0.judge.groups[index].frames.iter().map(|frame| format!("frame {}", frame.key)).collect()
            }
        }
    }
}

pub(super) fn report_of(world: &World, live: Course, bound: Option<u64>) -> LeakReport<String> {
    let process = Process {
        epoch_seconds: 5.0,
        window_seconds: 600.0,
        live,
        limit_bytes: Some(1 << 30),
        used_bytes: live.now_bytes,
        ..Process::default()
    };
    report(&world.judge, &world.histories, &world.ways, &process, &Names(world, bound))
}

/// Site 0 keeps 100 KB an epoch, site 1 keeps 1% of that, site 2 churns, site 3 is a start-up table.
fn service(epochs: u32) -> World {
    let mut world = World::new(5, 0.0, epochs, 4);
    for now in 0..epochs {
        world.begin_epoch(now);
        (0..10).for_each(|_| drop_held(world.alloc(0, 10_000)));
        (0..10).for_each(|_| drop_held(world.alloc(1, 100)));
        (0..20).for_each(|_| world.brief(2, 5_000, 1.0));
        if now == 0 {
            (0..1000).for_each(|_| drop_held(world.alloc(3, 100_000)));
        }
        world.end_epoch();
    }
    world
}

fn drop_held(_: Held) {}

#[test]
fn the_report_puts_the_worst_first_and_its_figures_are_the_programs() {
    let world = service(240);
    let report = report_of(&world, Course { now_bytes: 124_000_000, before_bytes: 112_000_000 }, None);
    assert!(report.has_leaks());
    let states: Vec<State> = report.sites().map(|site| site.state()).collect();
    assert_eq!(states, [State::Leak, State::Leak, State::Constant, State::Churn], "{report:#?}");
    let first = report.leaks().next().expect("a leak");
    assert_eq!(first.frames(), ["site 0"]);
    assert_eq!(first.live_bytes().value, 24_000_000.0);
    // 100 KB in 5 s is 1.2 MB a minute.
    let growth = first.growth_bytes_per_minute();
    assert!((growth.value - 1.2e6).abs() < 2e4, "{growth:?}");
    // (1 GiB − 124 MB) at 1.2 MB a minute.
    let hours = first.exhaustion_seconds().expect("a limit") / 3600.0;
    assert!((hours - 13.2).abs() < 0.3, "{hours} h");
    assert_eq!(first.severity(), Severity::Critical, "doubled within the window, and above 1% of the limit");
    assert!((report.growth_mb_per_minute() - 1.2).abs() < 1e-9);
    assert!((report.growth_percent() - 10.714).abs() < 0.01);
    assert!(first.evidence().second_half_ratio > 0.9 && first.evidence().surviving_share == 1.0);
    assert!(first.evidence().log_evidence > first.evidence().log_evidence_needed);
    assert!((first.oldest_seconds() - 240.0 * 5.0).abs() <= 8.0 * 5.0, "{}", first.oldest_seconds());
    assert_eq!(report.recommendations().len(), 2, "{:?}", report.recommendations());
}

#[test]
fn the_report_serializes() {
    let world = service(240);
    let report = report_of(&world, Course { now_bytes: 1, before_bytes: 1 }, None);
    let json = serde_json::to_value(&report).expect("serializable");
    assert_eq!(json["has_leaks"], true);
    assert_eq!(json["sites"][0]["state"], "leak");
    assert_eq!(json["sites"][0]["severity"], "critical");
    assert_eq!(json["sites"][0]["frames"][0], "site 0");
    assert!(json["sites"][0]["evidence"]["matured_samples"].as_f64().expect("a number") > 2000.0);
}

#[test]
fn sites_are_judged_against_a_declared_bound() {
    let world = service(240);
    let flat = Course { now_bytes: 1, before_bytes: 1 };
    let site = |bound| report_of(&world, flat, Some(bound)).sites().find(|s| s.frames()[0] == "site 0").cloned();
    let within = site(30_000_000).expect("site 0");
    assert_eq!((within.state(), within.severity(), within.scope()), (State::Growing, Severity::Low, Some("cache")));
    assert_eq!((within.evidence().bound_bytes, within.evidence().exceeds_bound), (Some(30_000_000), false));
    assert!(within.advice().contains("within the bound stated for its scope: 24.0 MB"), "{}", within.advice());
    // In the units of all other sizes: a small bound is no 0.0 MB.
    let small = report_of(&world, flat, Some(300_000)).sites().find(|s| s.frames()[0] == "site 1").cloned();
    let small = small.expect("site 1");
    assert!(small.advice().contains("240 kB are live of at most 300 kB"), "{}", small.advice());
    let beyond = site(20_000_000).expect("site 0");
    assert_eq!((beyond.state(), beyond.evidence().exceeds_bound), (State::Leak, true));
    assert!(
        beyond.advice().contains("exceeds its stated bound: 24.0 MB are live of at most 20.0 MB"),
        "{}",
        beyond.advice()
    );
}

#[test]
fn a_tainted_site_is_unknown_and_never_a_leak() {
    let mut world = service(239);
    assert_eq!(world.histories[0].case.tier(), Tier::Leak);
    world.histories[0].taint();
    world.begin_epoch(239);
    world.end_epoch();
    // 100 MB of the table, 0.24 MB of site 1, and site 0.
    let live = |bytes| Course { now_bytes: bytes, before_bytes: bytes };
    let report = report_of(&world, live(130_000_000), None);
    let tainted = report.sites().find(|site| site.frames()[0] == "site 0").expect("listed");
    assert_eq!(tainted.state(), State::Unknown);
    assert_eq!(tainted.withdrawn().expect("a leak before").reason, "records of it were lost");
    assert_eq!((report.unjudged().sites, report.unjudged().bytes), (1, 23_900_000.0));
    // No more can hide than is live beside the others.
    let hidden = report_of(&world, live(110_000_000), None).unjudged().bytes;
    assert!((9_000_000.0..10_000_000.0).contains(&hidden), "{hidden}");
}

#[test]
fn changes_are_told_once_and_withdrawals_say_why() {
    let mut world = World::new(5, 0.0, 600, 1);
    let mut kept = std::collections::VecDeque::new();
    let mut told = Vec::new();
    for now in 0..600 {
        world.begin_epoch(now);
        for _ in 0..5 {
            kept.push_back(world.alloc(0, 1000));
            if kept.len() > 5 * 200 {
                let oldest = kept.pop_front().expect("not empty");
                world.free(oldest);
            }
        }
        world.end_epoch_told(&mut |_, change| told.push((now, change)));
    }
    let changes: Vec<Change> = told.iter().map(|&(_, change)| change).collect();
    assert_eq!(changes, [Change::Suspected, Change::Leak, Change::Withdrawn(Withdrawal::Stopped)], "{told:?}");
    // A bounded cache that fills for 200 epochs: withdrawn when it has been full for a third of that.
    assert!(told[2].0 <= 260, "{told:?}");
    let report = report_of(&world, Course { now_bytes: 1, before_bytes: 1 }, None);
    let site = report.sites().next().expect("one");
    assert_eq!(site.withdrawn().expect("withdrawn").reason, "it has not grown lately");
}

/// The governor moves the interval by powers of two, up and down, under a leak and a steady pool of sessions.
#[test]
fn a_leak_is_named_while_the_sampling_interval_changes() {
    for seed in 1..=10 {
        let mut world = World::new(seed, 1024.0, 400, 2);
        for now in 0..400 {
            world.begin_epoch(now);
            let octave = [10, 12, 14, 13, 15, 11][(now / 30) as usize % 6];
            world.set_interval(f64::from(1 << octave));
            for _ in 0..world.random.poisson(10.0) {
                drop_held(world.alloc(0, 3000));
                let life = world.random.exponential(12.0);
                world.brief(1, 3000, life);
            }
            world.end_epoch();
            assert!(world.histories[1].case.tier() < Tier::Suspected, "seed {seed}, epoch {now}: sessions suspected");
        }
        assert_eq!(world.histories[0].case.tier(), Tier::Leak, "seed {seed}");
    }
}

/// A recursion with two call sites: every leaked block has a stack of its own.
#[test]
fn evidence_split_over_many_stacks_is_pooled_and_named_by_what_they_share() {
    let stacks = 600;
    let key = |stack: usize| -> Vec<KeyFrame> {
        let mut frames = vec![KeyFrame { key: 1, library: true }, KeyFrame { key: 2, library: false }];
        frames.extend((0..10).map(|bit| KeyFrame { key: 10 + ((stack >> bit) & 1) as u64, library: false }));
        frames.push(KeyFrame { key: 99, library: false });
        frames
    };
    // A second family shares only the library frame with the first, and churns.
    let other = |stack: usize| -> Vec<KeyFrame> {
        vec![KeyFrame { key: 1, library: true }, KeyFrame { key: 500 + stack as u64, library: false }]
    };
    let keys: Vec<Vec<KeyFrame>> = (0..stacks).map(key).chain((0..50).map(other)).collect();
    let mut world = World::new(9, 0.0, 400, keys.len());
    for now in 0..400u32 {
        world.begin_epoch(now);
        for _ in 0..3 {
            let stack = world.random.below(stacks);
            drop_held(world.alloc(stack, 1000));
        }
        for stack in 0..50 {
            if world.random.chance(0.02) {
                world.brief(stacks + stack, 1000, 4.0);
            }
        }
        world.end_epoch();
        if now % 12 == 11 {
            regroup(&mut world.judge, &mut world.histories, &|index| &keys[index]);
        }
    }
    let report = report_of(&world, Course { now_bytes: 1, before_bytes: 1 }, None);
    let leaks: Vec<_> = report.leaks().collect();
    assert!(!leaks.is_empty(), "{:?}", report.sites().map(|site| site.state()).collect::<Vec<_>>());
    let mut pooled = 0;
    for leak in &leaks {
        assert_eq!(leak.frames()[..2], ["frame 1", "frame 2"], "named by the function that leaks");
        pooled += leak.evidence().stacks;
    }
    assert!(pooled >= 100, "{pooled} stacks pooled");
    assert!(leaks.iter().any(|leak| leak.state() == State::Leak));
    // Every history is in one group at most, and the groups' lists agree with the histories.
    for (g, group) in world.judge.groups.iter().enumerate() {
        assert!(group.frames.iter().any(|frame| !frame.library), "library frames form no group alone");
        for &member in &group.members {
            assert!(keys[member].starts_with(&group.frames));
            assert!(world.histories[member].group as usize == g + 1 || world.histories[member].case.order != 0);
        }
    }
}

/// Every leaked block has a stack of its own, so only their group can be judged, while the governor moves the interval:
/// members are measured by the interval of their only birth, and the sum of them by one.
#[test]
fn a_group_is_named_while_the_sampling_interval_changes() {
    for (label, octaves) in [("up", [10u32, 10, 14, 14]), ("down", [14, 14, 10, 10])] {
        for seed in 1..=2 {
            let keys: Vec<[KeyFrame; 2]> =
                (0..1600).map(|stack| [2, 1000 + stack].map(|key| KeyFrame { key, library: false })).collect();
            let mut world = World::new(seed, 1024.0, 400, keys.len());
            let mut next = 0;
            let mut verdicts = [Tier::None; 400];
            for now in 0..400 {
                world.begin_epoch(now);
                world.set_interval(f64::from(1 << octaves[now as usize / 100]));
                for _ in 0..4 {
                    drop_held(world.alloc(next, 4000));
                    next += 1;
                }
                world.end_epoch();
                if now % 12 == 11 {
                    regroup(&mut world.judge, &mut world.histories, &|index| &keys[index]);
                }
                verdicts[now as usize] = world.judge.groups.first().map_or(Tier::None, |group| group.case.tier());
            }
            let lost = (100..400).find(|&now| verdicts[now] < Tier::Suspected);
            assert_eq!((lost, verdicts[399]), (None, Tier::Leak), "{label}, seed {seed}");
        }
    }
}

/// A loop that the compiler unrolled: one line is four stacks, each of which would take four times as long by itself.
#[test]
fn an_unrolled_loop_is_judged_as_one() {
    let keys: Vec<[KeyFrame; 2]> =
        (0..4).map(|site| [2, 10 + site].map(|key| KeyFrame { key, library: false })).collect();
    for seed in 1..=10 {
        let mut world = World::new(seed, 16384.0, 240, keys.len());
        let mut suspected = None;
        let mut verdicts = Vec::new();
        for now in 0..240 {
            world.begin_epoch(now);
            (0..4).for_each(|site| drop_held(world.alloc(site, 4096)));
            world.end_epoch();
            if now % 12 == 11 {
                regroup(&mut world.judge, &mut world.histories, &|index| &keys[index]);
            }
            let tiers = world.histories.iter().map(|history| history.case.tier());
            let tier = tiers.chain(world.judge.groups.iter().map(|group| group.case.tier())).max();
            if tier >= Some(Tier::Suspected) {
                suspected.get_or_insert(now);
            }
            verdicts.push(tier);
        }
        assert!(suspected.is_some_and(|at| at <= 75), "seed {seed}: suspected after {suspected:?} epochs");
        assert_eq!(verdicts.last(), Some(&Some(Tier::Leak)), "seed {seed}");
    }
}

/// A table has one live block, so its site is thin for ever and is pooled with its neighbours: it is judged all the same.
#[test]
fn a_table_that_grows_is_named_in_a_group_too() {
    let keys: Vec<[KeyFrame; 2]> =
        (0..6).map(|site| [2, 10 + site].map(|key| KeyFrame { key, library: false })).collect();
    let mut world = World::new(3, 0.0, 240, keys.len());
    let mut table = GrowingMap::new(&mut world, 0, 40);
    for now in 0..240u32 {
        world.begin_epoch(now);
        (0..30).for_each(|_| table.insert(&mut world));
        if now == 0 {
            (1..6).for_each(|site| (0..3).for_each(|_| drop_held(world.alloc(site, 500))));
        }
        world.end_epoch();
        if now % 12 == 11 {
            regroup(&mut world.judge, &mut world.histories, &|index| &keys[index]);
        }
    }
    assert!(world.histories[0].group != 0, "the table is in a group");
    let report = report_of(&world, Course { now_bytes: 1, before_bytes: 1 }, None);
    let leaks: Vec<_> = report.leaks().collect();
    assert_eq!(leaks.len(), 1);
    assert_eq!((leaks[0].frames(), leaks[0].state()), (&["site 0".to_owned()][..], State::Leak));
}

#[test]
fn recursion_of_any_depth_has_one_key() {
    let frame = |key| KeyFrame { key, library: false };
    let mut frames = vec![frame(1), frame(2), frame(2), frame(2), frame(3), frame(2)];
    collapse_runs(&mut frames);
    assert_eq!(frames, [frame(1), frame(2), frame(3), frame(2)]);
}

/// Runs a program for 300 epochs and returns the advice on site 0, which must be called a leak.
fn advice_on(sites: usize, mut step: impl FnMut(&mut World, u32)) -> String {
    let mut world = World::new(21, 0.0, 300, sites);
    for now in 0..300 {
        world.begin_epoch(now);
        step(&mut world, now);
        world.end_epoch();
    }
    let report = report_of(&world, Course { now_bytes: 1, before_bytes: 1 }, None);
    let site = report.sites().find(|site| site.frames()[0] == "site 0").expect("listed");
    assert_eq!(site.state(), State::Leak, "{site:?}");
    site.advice().to_string()
}

#[test]
fn advice_follows_the_evidence() {
    let mut table: Option<GrowingMap> = None;
    let advice = advice_on(1, |w, _| {
        let table = table.get_or_insert_with(|| GrowingMap::new(w, 0, 48));
        (0..80).for_each(|_| table.insert(w));
    });
    assert!(advice.contains("A table here grows"), "{advice}");

    let advice = advice_on(2, |w, t| {
        (0..4).for_each(|_| drop_held(w.alloc(0, 100)));
        let requests = if (t / 20) % 2 == 0 { 200 } else { 0 };
        (0..requests).for_each(|_| w.brief(1, 100, 0.0));
    });
    assert!(advice.contains("background task"), "{advice}");

    let advice = advice_on(1, |w, _| {
        (0..100).for_each(|_| w.brief(0, 100, 1.0));
        drop_held(w.alloc(0, 100));
    });
    assert!(advice.contains("is freed; the rest is kept for ever"), "{advice}");

    // A service and its task that hold each other, born together.
    let advice = advice_on(2, |w, _| {
        let restarts = w.random.poisson(1.0);
        for _ in 0..restarts {
            drop_held(w.alloc(0, 3000));
            drop_held(w.alloc(1, 200));
        }
    });
    assert!(advice.contains("`Arc` or `Rc` cycle"), "{advice}");

    let mut table: Option<GrowingMap> = None;
    let advice = advice_on(2, |w, _| {
        let table = table.get_or_insert_with(|| GrowingMap::new(w, 1, 48));
        for _ in 0..20 {
            table.insert(w);
            drop_held(w.alloc(0, 500));
        }
    });
    assert!(advice.contains("a collection without a limit"), "{advice}");

    let mut rate = 1.0f64;
    let advice = advice_on(1, |w, _| {
        rate *= 1.01;
        for _ in 0..w.random.poisson(rate) {
            drop_held(w.alloc(0, 500));
        }
    });
    assert!(advice.contains("accelerates"), "{advice}");
}

#[test]
fn memory_that_is_not_live_is_told_from_leaks() {
    let world = World::new(1, 0.0, 1, 1);
    let words = |cause| {
        let memory = Memory {
            allocator: Some("glibc malloc"),
            unexplained: Some(Unexplained { bytes: 100e6, cause }),
            ..Memory::default()
        };
        let process = Process { window_seconds: 600.0, memory, ..Process::default() };
        report(&world.judge, &world.histories, &world.ways, &process, &Names(&world, None)).recommendations().join(" ")
    };
    assert!(words(MemoryCause::AllocatorRetention).contains("allocator retention, not a leak"));
    assert!(words(MemoryCause::AllocatorRetention).contains("malloc_trim"));
    assert!(words(MemoryCause::OutsideAllocator).contains("memory outside the Rust allocator (mappings"));
    assert!(words(MemoryCause::ForeignAllocations).contains("memory outside the Rust allocator, by C libraries"));
    // What the allocator holds is not known: neither is claimed.
    assert!(words(MemoryCause::RetentionOrOutside).contains("either the allocator keeps freed memory"));
    let process = Process { window_seconds: 600.0, ..Process::default() };
    let report = report(&world.judge, &world.histories, &world.ways, &process, &Names(&world, None));
    assert_eq!(report.recommendations().len(), 0);
}

#[test]
fn what_could_hide_is_three_intervals_for_one_sample_and_thirteen_for_eight() {
    let world = World::new(1, 0.0, 1, 1);
    let process = Process { interval_bytes: 65536.0, ..Process::default() };
    let report = report(&world.judge, &world.histories, &world.ways, &process, &Names(&world, None));
    let intervals = report.unjudged().smallest_visible_bytes / 65536.0;
    assert!((intervals - 13.15).abs() < 0.05, "{intervals}");
}
