//! The report of leaks as a program sees it: every accessor, its order, its JSON; and the thresholds, each refused when bad
//! and each of effect.

use std::hint::black_box;
use std::sync::{Mutex, MutexGuard, PoisonError};

use unfreed::{Error, LeakConfig, LeakReport, Profiler, Severity, State};

#[global_allocator]
static ALLOC: unfreed::Alloc = unfreed::Alloc::system();

/// One profile runs at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn config(change: impl FnOnce(&mut LeakConfig)) -> LeakConfig {
    let mut config = LeakConfig::default();
    config.suspect_after_epochs = 16;
    config.leak_after_epochs = 40;
    config.age_share = 0.0;
    change(&mut config);
    config
}

/// An exact profile of `round`, called so many times with the number of the epoch.
fn profile(config: LeakConfig, epochs: usize, mut round: impl FnMut(usize)) -> (Profiler, LeakReport) {
    let builder = Profiler::builder().exact().manual_epochs().no_output().quiet().store_in_memory();
    let profiler = builder.leak_config(config).start().expect("starts");
    for epoch in 0..epochs {
        round(epoch);
        profiler.advance_epoch();
    }
    let report = profiler.leaks();
    (profiler, report)
}

type Kept = Vec<Box<[u8]>>;

#[inline(never)]
fn keep(kept: &mut Kept, blocks: usize, bytes: usize) {
    for _ in 0..blocks {
        kept.push(black_box(vec![1u8; bytes].into_boxed_slice()));
    }
}

fn room() -> Kept {
    // So that no table of ours grows beside.
    Vec::with_capacity(100_000)
}

/// The state of the site that `keep` is.
#[track_caller]
fn state(report: &LeakReport) -> State {
    let named = |leak: &&unfreed::Leak<unfreed::Frame>| {
        leak.frames().iter().any(|frame| frame.name().is_some_and(|name| name.contains("leak_report::keep")))
    };
    report.sites().find(named).unwrap_or_else(|| panic!("no such site in\n{report}")).state()
}

#[test]
fn every_figure_is_there() {
    let _alone = alone();
    let mut kept = room();
    let mut small = room();
    let profiler = Profiler::builder().exact().manual_epochs().no_output().quiet().store_in_memory();
    let profiler = profiler.leak_config(config(|_| {})).start().expect("starts");
    assert_eq!(profiler.leaks().baseline_bytes(), None);
    for epoch in 0..80 {
        keep(&mut kept, 20, 10_000);
        small.push(black_box(vec![1u8; 100]).into_boxed_slice());
        drop(black_box(vec![0u8; 5000]));
        if epoch == 30 {
            profiler.set_leak_baseline();
        }
        profiler.advance_epoch();
    }
    let report = profiler.leaks();
    assert!(report.has_leaks());
    assert_eq!((report.epochs(), report.suspect_after_epochs()), (80, 16));
    let baseline = report.baseline_bytes().expect("set at any time");
    assert!((31 * 200_000..32 * 200_000 + 100_000).contains(&baseline), "{baseline}");
    assert!((80 * 200_000..81 * 200_000 + 100_000).contains(&report.current_bytes()), "{}", report.current_bytes());
    assert!(report.allocated_bytes() >= report.current_bytes() + 80 * 5000);
    assert!(report.window_seconds() > 0.0 && report.growth_percent() > 1000.0);
    let rate = report.growth_mb_per_minute() * report.window_seconds() / 60.0;
    assert!((14.0..17.0).contains(&rate), "79 rounds of 0.2 MB: {rate}");
    assert!(report.limit_bytes().is_some_and(|limit| limit > report.current_bytes()));
    assert!(report.exhaustion_seconds().is_some_and(|seconds| seconds > 0.0));

    let worst = report.sites().next().expect("the leak");
    assert_eq!((worst.state(), worst.live_bytes().value), (State::Leak, 16_000_000.0));
    assert_eq!((worst.live_bytes().low, worst.live_bytes().high), (16_000_000.0, 16_000_000.0), "exact");
    assert_eq!(worst.live_blocks().value, 1600.0);
    assert!(worst.frames().iter().any(|frame| frame.name().is_some_and(|name| name.contains("every_figure_is_there"))));
    let growth = worst.growth_bytes_per_minute();
    assert!(growth.low <= growth.value && growth.value <= growth.high && growth.value > 0.0);
    assert!(worst.growth_seconds() > 0.0 && worst.oldest_seconds() > 0.0);
    assert!(worst.since_seconds() >= 0.0 && worst.since_seconds() < worst.oldest_seconds());
    assert!(worst.exhaustion_seconds().is_some() && worst.withdrawn().is_none());
    let evidence = worst.evidence();
    assert_eq!(evidence.freed_share, 0.0);
    assert!(evidence.log_evidence > evidence.log_evidence_needed && evidence.log_evidence_needed > 0.0);
    assert!(evidence.run_epochs >= 40 && evidence.matured_samples > 100.0 && evidence.stacks == 1);
    assert!(worst.advice().contains("Almost nothing"), "{}", worst.advice());
    assert!(report.recommendations()[0].contains("hold"), "{:?}", report.recommendations());

    // Severity first, then the verdict, then the lower end of growth.
    let order: Vec<(Severity, bool)> =
        report.sites().map(|site| (site.severity(), site.state() == State::Leak)).collect();
    assert!(order.is_sorted_by(|a, b| a >= b), "{order:?}");
    let leaks: Vec<f64> = report.leaks().map(|site| site.growth_bytes_per_minute().low).collect();
    assert_eq!(leaks.len(), 2, "the second one is small:\n{report}");
    assert!(report.leaks().nth(1).is_some_and(|site| site.live_bytes().value < 10_000.0), "\n{report}");

    // JSON has it all under the same names.
    let json = serde_json::to_value(&report).expect("serializable");
    for name in [
        "has_leaks",
        "is_growing",
        "growth_percent",
        "growth_mb_per_minute",
        "window_seconds",
        "epochs",
        "suspect_after_epochs",
        "baseline_bytes",
        "current_bytes",
        "allocated_bytes",
        "limit_bytes",
        "exhaustion_seconds",
        "unjudged",
        "recommendations",
    ] {
        assert!(!json[name].is_null(), "no {name} in {json}");
    }
    assert!(json["memory"]["requested_bytes"].as_u64() >= Some(16_000_000), "{}", json["memory"]);
    let site = &json["sites"][0];
    for name in ["growth_bytes_per_minute", "oldest_seconds", "since_seconds", "growth_seconds", "evidence", "advice"] {
        assert!(!site[name].is_null(), "no {name} in {site}");
    }
    assert_eq!((&site["state"], &site["live_bytes"]["value"]), (&"leak".into(), &16_000_000.0.into()));
    assert_eq!((&site["severity"], &site["live_blocks"]["low"]), (&worst.severity().name().into(), &1600.0.into()));
    assert!(site["frames"].as_array().is_some_and(|frames| frames.len() > 1), "{site}");

    // And so has the page, on lines that fit a terminal.
    let text = report.to_string();
    assert!(text.contains("2 LEAKS: 16.0 MB, ") && text.contains("unfreed: Memory: "), "{text}");
    assert!(text.contains("16.0 MB in 1,600 blocks, 0.0% freed, +"), "{text}");
    assert!(text.contains("keep ← every_figure_is_there"), "{text}");
    assert!(text.contains("unfreed: What to do:\nunfreed:  → 1"), "{text}");
    assert!(!text.contains("a minute"), "seconds were observed: {text}");
    assert!(text.lines().all(|line| line.starts_with("unfreed: ") && line.chars().count() <= 120), "{text}");
    assert_eq!(text.matches("Almost nothing").count(), 1, "each advice once: {text}");
    drop((profiler, kept, small));
}

#[test]
fn bad_thresholds_are_refused_by_name() {
    let _alone = alone();
    type Spoil = fn(&mut LeakConfig);
    let cases: [(&str, Spoil); 16] = [
        ("alpha", |c| c.alpha = 0.0),
        ("alpha", |c| c.alpha = 0.51),
        ("suspect_after_epochs", |c| c.suspect_after_epochs = 7),
        ("leak_after_epochs", |c| c.leak_after_epochs = c.suspect_after_epochs - 1),
        ("minimum_samples", |c| c.minimum_samples = 2),
        ("steady_ratio", |c| c.steady_ratio = 1.1),
        ("steady_ratio", |c| c.steady_ratio = f64::NAN),
        ("sublinear_ratio", |c| c.sublinear_ratio = c.steady_ratio),
        ("surviving_cohorts", |c| c.surviving_cohorts = 0.0),
        ("age_share", |c| c.age_share = 1.0),
        ("age_share", |c| c.age_share = -0.1),
        ("cleanup_factor", |c| c.cleanup_factor = 0.9),
        ("growth_threshold_percent", |c| c.growth_threshold_percent = -1.0),
        ("growth_threshold_percent", |c| c.growth_threshold_percent = f64::INFINITY),
        ("window_epochs", |c| c.window_epochs = 1),
        ("window_epochs", |c| c.window_epochs = 2_000_000),
    ];
    let mut named: Vec<&str> = cases.iter().map(|(field, _)| *field).collect();
    named.dedup();
    let json = serde_json::to_value(LeakConfig::default()).expect("serializable");
    assert_eq!(named.len(), json.as_object().expect("an object").len(), "each field has a case");
    for (field, spoil) in cases {
        let builder = Profiler::builder().no_output().quiet().leak_config(config(spoil));
        match builder.start() {
            Err(Error::LeakConfig(error)) => {
                assert_eq!(error.field, field);
                assert!(error.to_string().contains("allowed is"), "{error}");
            }
            other => panic!("{field}: {other:?}"),
        }
    }
}

/// What a program is called under two values of one threshold, everything else equal.
#[test]
fn every_threshold_has_effect() {
    let _alone = alone();
    let found = |change: fn(&mut LeakConfig), epochs: usize, shape: fn(&mut Kept, usize)| {
        let mut kept = room();
        let (profiler, report) = profile(config(change), epochs, |epoch| shape(&mut kept, epoch));
        let state = state(&report);
        drop(profiler);
        state
    };
    let steady = |kept: &mut Kept, _: usize| keep(kept, 10, 1000);
    assert_eq!(found(|_| {}, 60, steady), State::Leak);
    assert_eq!(found(|c| c.leak_after_epochs = 1000, 60, steady), State::Suspected);
    assert_eq!(found(|c| (c.suspect_after_epochs, c.leak_after_epochs) = (500, 1000), 60, steady), State::Growing);
    // Six blocks a rung refute balance at 0.5, not at one in a billion.
    let sparse = |kept: &mut Kept, epoch: usize| keep(kept, usize::from(epoch.is_multiple_of(4)), 1000);
    let (loose, strict) = (found(|c| c.alpha = 0.5, 60, sparse), found(|c| c.alpha = 1e-9, 60, sparse));
    assert_ne!(loose, strict);
    assert_eq!(found(|c| c.minimum_samples = 1000, 60, sparse), State::Unknown);
    // It slows down to two fifths in its second half.
    let slowing = |kept: &mut Kept, epoch: usize| keep(kept, if epoch < 50 { 10 } else { 4 }, 1000);
    assert_eq!(found(|c| (c.steady_ratio, c.sublinear_ratio) = (0.2, 0.1), 100, slowing), State::Leak);
    assert_ne!(found(|c| c.steady_ratio = 1.0, 100, slowing), State::Leak);
    // Like √t: between the ratios, or below both.
    let root = |kept: &mut Kept, epoch: usize| {
        let at = |epoch: usize| (300.0 * (epoch as f64).sqrt()) as usize;
        keep(kept, at(epoch + 1) - at(epoch), 100);
    };
    assert_eq!(found(|_| {}, 160, root), State::Sublinear);
    assert_eq!(found(|c| c.sublinear_ratio = 0.58, 160, root), State::Warming);
    // Births in all of its cohorts, of eight epochs each, survivors from two fifths of them. Ten bursts are about ten
    // observations, so few must suffice here.
    let bursts = |kept: &mut Kept, epoch: usize| {
        keep(kept, 80, 1000);
        if !epoch.is_multiple_of(20) {
            kept.truncate(kept.len() - 80);
        }
    };
    let convicted = |state: State| matches!(state, State::Leak | State::Suspected);
    let few = found(
        |c| (c.alpha, c.steady_ratio, c.sublinear_ratio, c.surviving_cohorts) = (0.5, 0.1, 0.0, 0.05),
        230,
        bursts,
    );
    let all = found(
        |c| (c.alpha, c.steady_ratio, c.sublinear_ratio, c.surviving_cohorts) = (0.5, 0.1, 0.0, 1.0),
        230,
        bursts,
    );
    assert!(convicted(few) && !convicted(all), "{few}, {all}");
    // It begins when half of the time is over.
    let late = |kept: &mut Kept, epoch: usize| {
        if epoch >= 60 {
            keep(kept, 10, 1000);
        } else {
            drop(black_box(vec![0u8; 300]));
        }
    };
    assert_eq!(found(|_| {}, 120, late), State::Leak);
    assert_ne!(found(|c| c.age_share = 0.9, 120, late), State::Leak);
    // Cleaned up once, after 40 epochs, the newest first, since a queue is another matter; growing since.
    let cleaned = |kept: &mut Kept, epoch: usize| {
        if epoch == 40 {
            kept.truncate(kept.len() / 8);
        }
        keep(kept, 10, 1000);
    };
    assert_eq!(found(|c| c.cleanup_factor = 1.0, 110, cleaned), State::Leak);
    assert_ne!(found(|c| c.cleanup_factor = 10.0, 110, cleaned), State::Leak);
}

#[test]
fn growth_below_the_threshold_is_none() {
    let _alone = alone();
    // A tenth more over the window.
    let grown = |percent: f64| {
        let mut kept = room();
        let (profiler, report) = profile(config(|c| c.growth_threshold_percent = percent), 50, |epoch| {
            keep(&mut kept, 1, if epoch == 0 { 5_000_000 } else { 10_000 });
        });
        drop(profiler);
        (report.is_growing(), report.to_string())
    };
    let (above, below) = (grown(1.0), grown(1000.0));
    assert!(above.0 && above.1.contains("; +"), "{}", above.1);
    assert!(!below.0 && below.1.contains("; not growing over "), "{}", below.1);
}

#[test]
fn the_window_is_as_long_as_it_is_said_to_be() {
    let _alone = alone();
    let grown = |epochs: u32| {
        let mut kept = room();
        let (profiler, report) = profile(config(|c| c.window_epochs = epochs), 50, |_| keep(&mut kept, 10, 10_000));
        drop(profiler);
        report.growth_mb_per_minute() * report.window_seconds() / 60.0
    };
    let (short, long) = (grown(5), grown(40));
    assert!((0.4..0.7).contains(&short) && (3.9..4.2).contains(&long), "{short} {long} MB in 5 and 40 rounds");
}

#[inline(never)]
fn copy_body(kept: &mut Kept) {
    kept.push(black_box(vec![1u8; 1000].into_boxed_slice()));
}

/// So many functions that do the same and are not one.
macro_rules! routes {
    ($($route:ident)*) => {
        $(
            #[inline(never)]
            fn $route(kept: &mut Kept) {
                copy_body(kept);
                black_box(stringify!($route));
            }
        )*
        const ROUTES: &[fn(&mut Kept)] = &[$($route),*];
    };
}
routes!(status users orders items search login upload export);

#[inline(never)]
fn dispatch(kept: &mut Kept, epoch: usize) {
    black_box(ROUTES)[epoch % ROUTES.len()](kept);
    black_box(epoch);
}

/// Eight routes leak through one function, each too little to be judged: their group is named by what they share at both ends.
#[test]
fn chains_that_are_judged_together_are_named_from_both_ends() {
    let _alone = alone();
    let mut kept = room();
    let profile = Profiler::builder().exact().manual_epochs().no_output().quiet().store_in_memory();
    let profile = profile.leak_config(config(|c| c.minimum_samples = 20)).start().expect("starts");
    for epoch in 0..150 {
        dispatch(&mut kept, epoch);
        profile.advance_epoch();
    }
    let report = profile.leaks();
    let group =
        report.leaks().find(|leak| leak.evidence().stacks > 1).unwrap_or_else(|| panic!("no group in\n{report}"));
    assert_eq!((group.state(), group.evidence().stacks), (State::Leak, 8), "{report}");
    let last =
        |frame: &unfreed::Frame| frame.name().unwrap_or_default().rsplit("::").next().unwrap_or_default().to_owned();
    let names: Vec<String> = group.frames().iter().map(last).collect();
    assert_eq!(names[..3], ["copy_body", "[8 ways]", "dispatch"], "{names:?}");
    assert!(report.to_string().contains("copy_body ← [8 ways] ← dispatch ← chains_that_are_judged"), "{report}");
    // A thousand bytes an epoch, over the time that it was measured over.
    let epochs = group.evidence().run_epochs;
    let grown = group.growth_bytes_per_minute().value * group.growth_seconds() / 60.0;
    assert!((grown / f64::from(epochs) - 1000.0).abs() < 200.0, "{grown} bytes in {epochs} epochs");
    drop((profile, kept));
}
