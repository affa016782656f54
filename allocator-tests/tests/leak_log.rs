//! Feature `log`: a line when a verdict begins, worsens or is withdrawn, on a thread of its own; and a logger that allocates,
//! asks the profile, or panics harms nothing.

use std::sync::{Condvar, Mutex, OnceLock};
use std::time::Duration;

use allocator_tests::panics::keep_quiet_about;
use log::{Level, LevelFilter, Log, Metadata, Record};
use unfreed::{LeakConfig, Profiler};

#[global_allocator]
static ALLOC: unfreed::Alloc = unfreed::Alloc::system();

static PROFILER: OnceLock<Profiler> = OnceLock::new();
static LINES: Mutex<Vec<(Level, String, String)>> = Mutex::new(Vec::new());
static CAME: Condvar = Condvar::new();
static SITES_SEEN: OnceLock<usize> = OnceLock::new();

/// The logger's panic.
const MEANT: &str = "a logger of this kind";

struct Logger;

impl Log for Logger {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        if record.target() != "unfreed" {
            return;
        }
        let thread = std::fs::read_to_string("/proc/thread-self/comm").unwrap_or_default().trim().to_owned();
        // What it keeps is the program's.
        LINES.lock().expect("no panic here").push((record.level(), record.args().to_string(), thread));
        CAME.notify_all();
        // The drain thread goes on meanwhile, so it can be asked.
        if let Some(profiler) = PROFILER.get() {
            SITES_SEEN.get_or_init(|| profiler.leaks().sites().count() + profiler.snapshot().sites().len());
        }
        if record.level() == Level::Warn {
            panic!("{MEANT}");
        }
    }

    fn flush(&self) {}
}

#[inline(never)]
fn accumulate(kept: &mut Vec<Box<[u8; 1000]>>) {
    for _ in 0..10 {
        kept.push(std::hint::black_box(Box::new([1; 1000])));
    }
}

#[test]
fn verdicts_are_logged_as_they_change() {
    keep_quiet_about(MEANT);
    log::set_logger(&Logger).expect("the first");
    log::set_max_level(LevelFilter::Info);
    let mut config = LeakConfig::default();
    (config.suspect_after_epochs, config.leak_after_epochs, config.age_share) = (16, 40, 0.0);
    let builder = Profiler::builder().exact().manual_epochs().no_output().quiet().store_in_memory();
    let profiler = builder.leak_config(config).start().expect("starts");
    let profiler = PROFILER.get_or_init(|| profiler);
    let advance = || profiler.advance_epoch();
    let mut kept = Vec::with_capacity(10_000);
    for _ in 0..60 {
        accumulate(&mut kept);
        advance();
    }
    // Waits for so many lines of the site.
    let lines = |count: usize| -> Vec<(Level, String, String)> {
        let of_site = |all: &Vec<(Level, String, String)>| -> Vec<_> {
            all.iter().filter(|(_, line, _)| line.contains("accumulate")).cloned().collect()
        };
        let held = LINES.lock().expect("no panic");
        let too_few = |all: &mut Vec<_>| of_site(all).len() < count;
        let (held, _) = CAME.wait_timeout_while(held, Duration::from_secs(60), too_few).expect("no panic");
        of_site(&held)
    };
    let begun = lines(2);
    let levels: Vec<Level> = begun.iter().map(|(level, _, _)| *level).collect();
    assert_eq!(levels, [Level::Warn, Level::Error], "suspected, then a leak: {begun:?}");
    assert!(begun[0].1.starts_with("suspected leak (") && begun[1].1.starts_with("leak ("), "{begun:?}");
    assert!(begun.iter().all(|(_, line, _)| line.contains("accumulate ← verdicts_are_logged") && line.contains("; ")));
    // After a panic of the logger the profile goes on: it still hears of the clean-up.
    for round in 0..200 {
        kept.drain(..kept.len().min(20));
        if round % 2 == 0 {
            accumulate(&mut kept);
        }
        advance();
    }
    let all = lines(3);
    assert_eq!(all.get(2).map(|(level, _, _)| *level), Some(Level::Info), "{all:?}");
    assert!(all[2].1.starts_with("verdict withdrawn ("), "{all:?}");
    assert!(all.iter().all(|(_, _, thread)| thread == "unfreed-news"), "never inside an allocation: {all:?}");
    // The profile ends with the process; by then the test's runner has put back the hook that says every panic.
    log::set_max_level(LevelFilter::Off);
    assert!(SITES_SEEN.get().is_some_and(|&sites| sites > 0), "the profile answers: {SITES_SEEN:?}");
}
