//! Shapes of programs as streams of births and frees, seen exactly and through a sampler, judged epoch by epoch, and
//! scored. The whole table: `UNFREED_SIMULATION_RUNS=10 cargo test --release --lib leak::simulation -- --nocapture`.

mod pace;
mod power;
mod rivals;
mod shapes;
mod states;
mod whole;
mod world;

use super::classify::classify;
use super::state::{State, Tier};
use shapes::{Expect, Shape, healthy_shapes, leaks, others, trials};
use world::World;

const RUN_EPOCHS: u32 = 400;
/// With fewer live samples at its end nobody can be asked to name a leak.
const SAMPLES_TO_NAME: f32 = 40.0;
const INTERVALS: [(&str, f64); 3] = [("exact", 0.0), ("16 KiB", 16384.0), ("64 KiB", 65536.0)];

/// What was said of one shape in one run.
struct Score {
    culprit_states: Vec<State>,
    culprit_samples: f32,
    /// Epochs from the onset.
    suspected: Option<u32>,
    leak: Option<u32>,
    innocent_ever_suspected: bool,
    innocent_ever_leak: bool,
    innocent_leak_at_end: bool,
    innocent_suspected_at_end: bool,
    states: Vec<State>,
    rivals_ever: rivals::Said,
    rivals_end: rivals::Said,
}

fn run(shape: &Shape, interval_bytes: f64, seed: u64) -> Score {
    let mut world = World::new(seed, interval_bytes, RUN_EPOCHS, shape.sites);
    let mut step = (shape.make)(&mut world, RUN_EPOCHS);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an epoch of the run")]
    let onset = (shape.onset * f64::from(RUN_EPOCHS)) as u32;
    let (mut suspected, mut leak) = (vec![None; shape.sites], vec![None; shape.sites]);
    for now in 0..RUN_EPOCHS {
        world.begin_epoch(now);
        step(&mut world, now);
        world.end_epoch();
        for (site, history) in world.histories.iter().enumerate() {
            if history.case.tier() >= Tier::Suspected {
                suspected[site].get_or_insert(now);
            }
            if history.case.tier() == Tier::Leak {
                leak[site].get_or_insert(now);
            }
        }
    }
    let at = world.judge.moment();
    let states: Vec<State> = world.histories.iter().map(|history| classify(history, at).0).collect();
    let innocent = |site: &usize| {
        !(shape.culprits.contains(site) || shape.accomplices.contains(site)) || shape.expect == Expect::Healthy
    };
    let innocents: Vec<usize> = (0..shape.sites).filter(innocent).collect();
    let latest = |of: &[Option<u32>]| {
        shape.culprits.iter().map(|&site| of[site]).collect::<Option<Vec<u32>>>().and_then(|all| all.into_iter().max())
    };
    let any = |of: &[rivals::Said], rule: fn(&rivals::Said) -> bool| of.iter().any(rule);
    let said = |of: &[rivals::Said]| rivals::Said {
        scalene: any(of, |s| s.scalene),
        old_blocks: any(of, |s| s.old_blocks),
        slope: any(of, |s| s.slope),
    };
    Score {
        culprit_states: shape.culprits.iter().map(|&site| states[site]).collect(),
        culprit_samples: shape
            .culprits
            .iter()
            .map(|&site| world.histories[site].live_samples())
            .fold(f32::INFINITY, f32::min),
        suspected: latest(&suspected).map(|at| at.saturating_sub(onset)),
        leak: latest(&leak).map(|at| at.saturating_sub(onset)),
        innocent_ever_suspected: innocents.iter().any(|&site| suspected[site].is_some()),
        innocent_ever_leak: innocents.iter().any(|&site| leak[site].is_some()),
        innocent_leak_at_end: innocents.iter().any(|&site| states[site] == State::Leak),
        innocent_suspected_at_end: innocents.iter().any(|&site| states[site] == State::Suspected),
        states,
        rivals_ever: said(&world.rivals.ever),
        rivals_end: said(&world.rivals.said),
    }
}

fn runs() -> u64 {
    std::env::var("UNFREED_SIMULATION_RUNS").ok().and_then(|text| text.parse().ok()).unwrap_or(2)
}

/// 1, or `UNFREED_SIMULATION_FIRST_SEED`: for runs that nothing was chosen by.
fn first_seed() -> u64 {
    std::env::var("UNFREED_SIMULATION_FIRST_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(1)
}

fn named(score: &Score, expect: Expect) -> bool {
    score.culprit_states.iter().all(|state| match expect {
        Expect::Leak => *state == State::Leak,
        Expect::Backlog => *state == State::Backlog,
        Expect::Sublinear => *state == State::Sublinear,
        Expect::Healthy => false,
    })
}

#[test]
fn leaks_are_named() {
    let (mut wrong, mut asked_at_64_kib) = (Vec::new(), 0);
    println!("| leak | sampling | named | suspected after | leak after | live samples | states | innocents | rivals |");
    for shape in leaks() {
        for (label, interval) in INTERVALS {
            let (mut right, mut askable) = (0, 0);
            let (mut suspected, mut leak, mut fewest) = (0, 0, f32::INFINITY);
            let mut last = String::new();
            let (mut rival, mut innocents) = ([0u64; 3], [0u64; 3]);
            for seed in first_seed()..first_seed() + runs() {
                let score = run(&shape, interval, seed);
                fewest = fewest.min(score.culprit_samples);
                rival[0] += u64::from(score.rivals_end.scalene);
                rival[1] += u64::from(score.rivals_end.old_blocks);
                rival[2] += u64::from(score.rivals_end.slope);
                innocents[0] += u64::from(score.innocent_ever_suspected);
                innocents[1] += u64::from(score.innocent_ever_leak);
                innocents[2] += u64::from(score.innocent_leak_at_end);
                last = format!("{:?}", score.states);
                if interval > 20_000.0 && score.culprit_samples < SAMPLES_TO_NAME {
                    continue;
                }
                askable += 1;
                asked_at_64_kib += usize::from(interval > 20_000.0);
                suspected = suspected.max(score.suspected.unwrap_or(999));
                leak = leak.max(score.leak.unwrap_or(999));
                if named(&score, shape.expect) {
                    right += 1;
                } else {
                    wrong.push(format!("{} at {label}, seed {seed}: {:?}", shape.name, score.states));
                }
            }
            if shape.expect == Expect::Leak && interval == 0.0 {
                assert!(suspected <= 75 && leak <= 200, "{}: {suspected}, {leak} epochs from the onset", shape.name);
            }
            assert_eq!(innocents[2], 0, "{} at {label}: an innocent site is called a leak at the end", shape.name);
            println!(
                "| {} | {label} | {right}/{askable} | {suspected} | {leak} | {fewest} | {last} | {innocents:?} | {rival:?} |",
                shape.name
            );
        }
    }
    println!("wrong: {wrong:#?}");
    let sparse = wrong.iter().filter(|line| line.contains("64 KiB")).count();
    assert_eq!(wrong.len(), sparse, "exact and at 16 KiB every leak is named: {wrong:#?}");
    // At 40 to 100 samples about one run in a hundred is still 'suspected' at its end.
    assert!(sparse <= 1 + asked_at_64_kib / 25, "{sparse} of {asked_at_64_kib}: {wrong:#?}");
}

#[test]
fn the_healthy_are_not_called_leaks() {
    let mut all = [0u64; 4];
    let (mut rivals_ever, mut rivals_end, mut total) = ([0u64; 3], [0u64; 3], 0);
    println!("| healthy | sampling | suspected ever, at end | leak ever, at end | states |");
    for shape in healthy_shapes() {
        for (label, interval) in INTERVALS {
            let mut counts = [0u64; 4];
            let mut last = String::new();
            for seed in first_seed()..first_seed() + runs() {
                let score = run(&shape, interval, seed);
                total += 1;
                counts[0] += u64::from(score.innocent_ever_suspected);
                counts[1] += u64::from(score.innocent_suspected_at_end);
                counts[2] += u64::from(score.innocent_ever_leak);
                counts[3] += u64::from(score.innocent_leak_at_end);
                for (sum, said) in [(&mut rivals_ever, score.rivals_ever), (&mut rivals_end, score.rivals_end)] {
                    sum[0] += u64::from(said.scalene);
                    sum[1] += u64::from(said.old_blocks);
                    sum[2] += u64::from(said.slope);
                }
                last = format!("{:?}", score.states);
            }
            println!("| {} | {label} | {counts:?} | {last} |", shape.name);
            for (sum, count) in all.iter_mut().zip(counts) {
                *sum += count;
            }
        }
    }
    println!(
        "total {total}: suspected ever, end, leak ever, end: {all:?}; rivals ever {rivals_ever:?} end {rivals_end:?}"
    );
}

/// How a stationary site's blocks live.
#[derive(Clone, Copy, Debug)]
enum Null {
    /// Lifetimes are exponential with the given mean.
    Exponential(f64),
    /// Every block lives equally long.
    Fixed(f64),
    /// Blocks are born and die by twenties.
    Batches(f64),
    /// Log-normal lifetimes: a heavy tail within the run.
    Skewed(f64),
}

/// Many stationary sites in one process; returns how many were ever suspected, and ever called leaks.
fn stationary(sites: usize, epochs: u32, seed: u64, interval_bytes: f64, intervals_change: bool) -> (usize, usize) {
    let mut world = World::new(seed, interval_bytes, epochs, sites);
    let kinds: Vec<(Null, f64)> = (0..sites)
        .map(|_| {
            let mean = 0.3 * 100f64.powf(world.random.unit());
            let kind = match world.random.below(4) {
                0 => Null::Exponential(mean),
                1 => Null::Fixed(mean),
                2 => Null::Batches(mean),
                _ => Null::Skewed(mean),
            };
            (kind, 0.05 * 60f64.powf(world.random.unit()))
        })
        .collect();
    let (mut suspected, mut leak) = (vec![false; sites], vec![false; sites]);
    for now in 0..epochs {
        world.begin_epoch(now);
        if intervals_change {
            // As the governor: powers of two, held for a while.
            let octave = [10, 13, 16, 12, 10, 14][(now / 40) as usize % 6];
            world.set_interval(f64::from(1 << octave));
        }
        for (site, &(kind, rate)) in kinds.iter().enumerate() {
            let size = 16 << (site % 10);
            match kind {
                Null::Exponential(mean) => {
                    for _ in 0..world.random.poisson(rate) {
                        let life = world.random.exponential(mean);
                        world.brief(site, size, life);
                    }
                }
                Null::Fixed(life) => (0..world.random.poisson(rate)).for_each(|_| world.brief(site, size, life)),
                Null::Batches(mean) => {
                    for _ in 0..world.random.poisson(rate / 6.0) {
                        let life = world.random.exponential(mean);
                        (0..20).for_each(|_| world.brief(site, size, life));
                    }
                }
                Null::Skewed(mean) => {
                    for _ in 0..world.random.poisson(rate) {
                        let normal: f64 = (0..12).map(|_| world.random.unit()).sum::<f64>() - 6.0;
                        world.brief(site, size, mean * 0.5 * normal.exp());
                    }
                }
            }
        }
        world.end_epoch();
        for (site, history) in world.histories.iter().enumerate() {
            suspected[site] |= history.case.tier() >= Tier::Suspected;
            leak[site] |= history.case.tier() == Tier::Leak;
        }
    }
    let which: Vec<_> = suspected.iter().zip(&kinds).filter(|(s, _)| **s).map(|(_, kind)| kind).collect();
    if !which.is_empty() {
        println!("suspected: {which:?}");
    }
    (suspected.into_iter().filter(|&s| s).count(), leak.into_iter().filter(|&s| s).count())
}

#[test]
fn stationary_sites_are_never_suspected() {
    for (label, interval, changes) in [("exact", 0.0, false), ("4 KiB", 4096.0, false), ("1 to 64 KiB", 1024.0, true)] {
        // The whole number in exact mode, where evidence is strongest; in the others when the whole table is asked for.
        let sites = if interval == 0.0 || runs() >= 10 { 10_000 } else { 2_000 };
        let found = stationary(sites, 400, 7, interval, changes);
        println!("{sites} stationary sites, {label}: suspected, leak: {found:?}");
        assert_eq!(found, (0, 0), "{label}");
    }
}

/// The largest of t requests whose sizes have a heavy tail grows like t^0.8. By its luck a run of it can't be told from t.
const NEARLY_A_LEAK: &str = "buffer_of_record_requests";

#[test]
fn shapes_beyond_the_corpus_are_judged_as_well() {
    let (mut wrong, mut asked_at_64_kib, mut nearly) = (Vec::new(), 0, 0);
    let (mut accused, mut healthy_runs) = (Vec::new(), 0);
    for shape in others().into_iter().chain(trials()) {
        for (label, interval) in INTERVALS {
            let (mut suspected, mut leak, mut last) = (0, 0, Vec::new());
            let mut innocents = [0; 4];
            for seed in first_seed() + 100..first_seed() + 100 + runs() {
                let score = run(&shape, interval, seed);
                suspected = suspected.max(score.suspected.unwrap_or(999));
                leak = leak.max(score.leak.unwrap_or(999));
                innocents[0] += u64::from(score.innocent_ever_suspected);
                innocents[1] += u64::from(score.innocent_suspected_at_end);
                innocents[2] += u64::from(score.innocent_ever_leak);
                innocents[3] += u64::from(score.innocent_leak_at_end);
                let askable = interval < 20_000.0 || score.culprit_samples >= SAMPLES_TO_NAME;
                let line = || format!("{} at {label}, seed {seed}: {:?}", shape.name, score.states);
                if score.innocent_leak_at_end {
                    assert_eq!(shape.name, NEARLY_A_LEAK, "called a leak at the end: {}", line());
                    nearly += 1;
                }
                healthy_runs += usize::from(shape.expect == Expect::Healthy);
                asked_at_64_kib += usize::from(shape.expect == Expect::Leak && askable && interval > 20_000.0);
                if score.innocent_ever_leak {
                    accused.push(line());
                }
                if shape.expect == Expect::Leak && askable && !named(&score, Expect::Leak) {
                    wrong.push(line());
                }
                last = score.states;
            }
            if shape.expect == Expect::Leak {
                println!(
                    "| {} | {label} | suspected {suspected}, leak {leak} | {innocents:?} | {last:?} |",
                    shape.name
                );
            } else {
                println!("| {} | {label} | {innocents:?} | {last:?} |", shape.name);
            }
        }
    }
    println!("ever called a leak, of {healthy_runs} healthy runs: {accused:#?}");
    println!("{NEARLY_A_LEAK}: called a leak at the end in {nearly} runs at all samplings");
    assert!(nearly <= runs() * 3 / 50, "{NEARLY_A_LEAK}: {nearly}");
    println!("not named, of as many at each sampling as the {asked_at_64_kib} at 64 KiB, or more: {wrong:#?}");
    let missed = |label: &str| wrong.iter().filter(|line| line.contains(label)).count();
    assert_eq!(missed("exact"), 0, "exact every leak is named: {wrong:#?}");
    // A leak beside as much old stock that is replaced is the hardest.
    assert!(missed("16 KiB") <= 1 + asked_at_64_kib / 100, "{wrong:#?}");
    assert!(missed("64 KiB") <= 1 + asked_at_64_kib / 20, "{wrong:#?}");
    // What fills for 150 of the 180 epochs is sometimes called a leak for a while.
    assert!(accused.len() <= 1 + healthy_runs * 3 / 100, "{} of {healthy_runs}: {accused:#?}", accused.len());
}

/// A leak of 3 blocks an epoch that begins when the process is old, between churn and a large steady table.
#[test]
fn a_leak_in_an_old_process_is_named_within_a_third_of_its_age() {
    for (label, interval) in [("exact", 0.0), ("4 KiB", 4096.0)] {
        for onset in [700u32, 2000] {
            let mut world = World::new(u64::from(onset), interval, 2 * onset, 2);
            let (mut suspected, mut leak) = (None, None);
            for now in 0..2 * onset {
                world.begin_epoch(now);
                for _ in 0..world.random.poisson(20.0) {
                    let life = world.random.exponential(5.0);
                    world.brief(0, 2048, life);
                }
                if now >= onset {
                    (0..3).for_each(|_| drop_handle(world.alloc(0, 2048)));
                }
                world.end_epoch();
                let tier = world.histories[0].case.tier();
                assert!(now >= onset || tier < Tier::Suspected, "{label}: suspected at {now} without a leak");
                if tier >= Tier::Suspected {
                    suspected.get_or_insert(now - onset);
                }
                if tier == Tier::Leak {
                    leak.get_or_insert(now - onset);
                }
            }
            println!("onset {onset}, {label}: suspected after {suspected:?}, leak after {leak:?} epochs");
            assert!(suspected.is_some_and(|after| after <= onset / 2), "{label}, onset {onset}: {suspected:?}");
            assert!(leak.is_some_and(|after| after <= onset / 2), "{label}, onset {onset}: {leak:?}");
        }
    }
}

fn drop_handle(_: world::Held) {}

/// Batches of correlated blocks in a stationary site: the bound must hold without independence.
#[test]
fn the_ladder_spends_no_more_than_its_share_on_fair_coins() {
    let alpha = 0.5;
    let mut random = world::Random::new(11);
    for (label, group, per_epoch) in [("single", 1.0, 0.4), ("many", 1.0, 30.0), ("groups of 20", 20.0, 0.4)] {
        let (runs, mut rejected) = (20_000, 0);
        for _ in 0..runs {
            let mut rungs = [super::ladder::Rung::NEW; super::ladder::RUNGS];
            for now in 0..300 {
                let (mut matured, mut died) = (0.0, 0.0);
                for _ in 0..random.poisson(per_epoch) {
                    *(if random.chance(0.5) { &mut matured } else { &mut died }) += group;
                }
                let occasions = if matured > 0.0 { 1.0 } else { 0.0 };
                // As in a site of which what grows old at all grows very old.
                for rung in &mut rungs {
                    rung.advance(now, super::ladder::Step { matured, occasions, width: 1.0, died }, false);
                }
                if super::ladder::log_evidence(&rungs) >= super::ladder::threshold(1, alpha) {
                    rejected += 1;
                    break;
                }
            }
        }
        let share = f64::from(rejected) / f64::from(runs);
        // The first site has a fifth of α, over all rungs and restarts.
        let bound = alpha / 5.0;
        println!("{label}: {share:.4} of runs rejected, bound {bound}");
        assert!(share <= bound, "{label}: {share} > {bound}");
    }
}

/// 5,000 sites, busy ones and leaking ones: the cost of closing an epoch.
#[test]
fn five_thousand_sites_are_judged_in_milliseconds() {
    let sites = 5000;
    let mut world = World::new(3, 0.0, 200, sites);
    let mut fastest = f64::INFINITY;
    for now in 0..200 {
        world.begin_epoch(now);
        for site in 0..sites {
            world.brief(site, 64, f64::from(now % 7));
            if site % 10 == 0 {
                drop_handle(world.alloc(site, 64));
            }
        }
        let start = std::time::Instant::now();
        world.judge_epoch();
        if now > 150 {
            fastest = fastest.min(start.elapsed().as_secs_f64());
        }
    }
    let leaking = world.histories.iter().filter(|history| history.case.tier() >= Tier::Suspected).count();
    println!("5,000 sites, {leaking} suspected: {:.2} ms", fastest * 1e3);
    let block = super::history::Block {
        size: 64,
        interval_bytes: 4096.0,
        weight: crate::sampler::weight::Weight::of(64, 4096.0),
        thread: 0,
    };
    let history = &mut world.histories[1];
    history.begin(0);
    let start = std::time::Instant::now();
    let pairs = 1_000_000u32;
    for i in 0..pairs {
        let now = i / 5_000;
        history.born(now, &block);
        history.freed(now.saturating_sub(i % 4), now, &block);
    }
    println!("one birth and one free: {:.1} ns", start.elapsed().as_secs_f64() * 1e9 / f64::from(pairs));
    assert_eq!(leaking, 500);
    // Unoptimised test builds and busy machines are slower; the aim is 1 ms, the limit 5.
    assert!(fastest < 0.05, "{fastest} s");
}
