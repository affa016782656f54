//! What the six programs share: they start unfreed, work in rounds of one epoch each, and print one JSON line of what
//! was found. Nothing here knows whether the crate below leaks: the reader of that line does.
//!
//! Arguments: `exact`, or a sample interval such as `16K`; a seed, of the work and of the sampling; how many rounds.
//! Everything runs on one thread, so that a run can be repeated; but for moka, whose hashes are seeded by the system.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use unfreed::{Frame, Profiler, State, VerdictChange, VerdictKind};

#[global_allocator]
static ALLOC: unfreed::Alloc = unfreed::Alloc::system();

/// So many sites go into the outcome.
const WORST_SITES: usize = 6;

/// What a program's leak looks like, if it leaks.
pub struct Case {
    pub name: &'static str,
    /// The culprit's chain has a frame whose name holds one of these: where the crate allocates what it forgets, or where
    /// the program allocated what it gave away.
    pub culprit: &'static [&'static str],
    /// What only the culprit keeps alive is lost with it; a chain with such a frame is no false alarm.
    pub lost_with_it: &'static [&'static str],
}

impl Case {
    fn is_culprit(&self, frames: &[Frame]) -> bool {
        names_one_of(frames, self.culprit)
    }

    fn is_lost(&self, frames: &[Frame]) -> bool {
        self.is_culprit(frames) || names_one_of(frames, self.lost_with_it)
    }
}

fn names_one_of(frames: &[Frame], parts: &[&str]) -> bool {
    let has = |frame: &Frame| frame.name().is_some_and(|name| parts.iter().any(|part| name.contains(part)));
    frames.iter().any(has)
}

/// Random numbers for the work: xorshift64*, the same on every machine.
pub struct Dice(u64);

impl Dice {
    fn new(seed: u64) -> Dice {
        Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// From 0 to `end` − 1.
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % end
    }

    /// A size from `least` to `most`, small ones more often.
    pub fn size(&mut self, least: u64, most: u64) -> usize {
        let spread = most - least + 1;
        let size = least + self.below(spread).min(self.below(spread));
        usize::try_from(size).expect("a size in memory")
    }
}

/// When verdicts on the culprit began, and whether others were ever accused.
#[derive(Default)]
struct Heard {
    suspected: Option<(u32, f64)>,
    leak: Option<(u32, f64)>,
    withdrawn: u32,
    others_suspected: u32,
    others_leak: u32,
}

impl Heard {
    fn note(&mut self, case: &Case, epoch: u32, change: &VerdictChange) {
        let leak = &change.leak;
        let bytes = leak.live_bytes().value;
        let lost = case.is_lost(leak.frames());
        match change.kind {
            VerdictKind::Suspected if lost => drop(self.suspected.get_or_insert((epoch, bytes))),
            VerdictKind::Leak if lost => drop(self.leak.get_or_insert((epoch, bytes))),
            VerdictKind::Suspected => self.others_suspected += 1,
            VerdictKind::Leak => self.others_leak += 1,
            VerdictKind::Withdrawn if lost => self.withdrawn += 1,
            _ => {}
        }
    }
}

/// Runs the case: `round` once an epoch.
pub fn run(case: Case, mut round: impl FnMut(&mut Dice)) {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, mode, seed, rounds] = arguments.as_slice() else { panic!("arguments: exact|16K SEED ROUNDS") };
    let seed: u64 = seed.parse().expect("a seed");
    let rounds: u32 = rounds.parse().expect("a number of rounds");
    let builder = match mode.strip_suffix('K') {
        Some(kib) => Profiler::builder().sample_interval(kib.parse::<u64>().expect("KiB") * 1024),
        None if mode == "exact" => Profiler::builder().exact(),
        None => panic!("the mode is exact, or an interval such as 16K"),
    };

    let case = Arc::new(case);
    let heard = Arc::new(Mutex::new(Heard::default()));
    let epoch = Arc::new(AtomicU32::new(0));
    let listener = {
        let (case, heard, epoch) = (Arc::clone(&case), Arc::clone(&heard), Arc::clone(&epoch));
        move |change: &VerdictChange| heard.lock().expect("heard").note(&case, epoch.load(Ordering::SeqCst), change)
    };
    let builder = builder.manual_epochs().store_in_memory().no_output().quiet().on_verdict(listener);
    let profiler = builder.start().expect("a profile");
    unfreed::internals::seed_sampler(seed);

    let mut dice = Dice::new(seed);
    for number in 1..=rounds {
        round(&mut dice);
        epoch.store(number, Ordering::SeqCst);
        profiler.advance_epoch();
        // What is heard is of this round.
        assert!(profiler.wait_until_told(std::time::Duration::from_secs(60)), "the listener is quick");
    }
    let outcome = outcome(&case, &profiler, &heard.lock().expect("heard"), rounds);
    drop(profiler);
    println!("{outcome}");
}

fn outcome(case: &Case, profiler: &Profiler, heard: &Heard, rounds: u32) -> Value {
    let totals = profiler.snapshot().totals();
    let report = profiler.leaks();
    let accused = |state: State| matches!(state, State::Suspected | State::Leak);
    let culprits = || report.sites().enumerate().filter(|(_, site)| case.is_culprit(site.frames()));
    let first_accused = culprits().find(|(_, site)| accused(site.state())).or_else(|| culprits().next());
    let others = |state: State| report.sites().filter(|s| s.state() == state && !case.is_lost(s.frames())).count();
    let worst: Vec<Value> = report
        .sites()
        .take(WORST_SITES)
        .map(|site| {
            json!({
                "state": site.state(),
                "severity": site.severity(),
                "culprit": case.is_culprit(site.frames()),
                "live_bytes": site.live_bytes().value.round(),
                "evidence": site.evidence(),
                "frames": site.frames().iter().filter(|f| !f.is_std()).filter_map(Frame::name).collect::<Vec<_>>(),
            })
        })
        .collect();
    json!({
        "case": case.name,
        "rounds": rounds,
        "rank": first_accused.map(|(index, _)| index + 1),
        "state": first_accused.map(|(_, site)| site.state()),
        "culprit_bytes": first_accused.map(|(_, site)| site.live_bytes().value.round()),
        "suspected": heard.suspected,
        "leak": heard.leak,
        "withdrawn": heard.withdrawn,
        "others_suspected_ever": heard.others_suspected,
        "others_leak_ever": heard.others_leak,
        "accused": report.sites().filter(|site| accused(site.state())).count(),
        "others_suspected": others(State::Suspected),
        "others_leak": others(State::Leak),
        "live_bytes": totals.live_bytes,
        "total_bytes": totals.total_bytes,
        "total_blocks": totals.total_blocks,
        "worst": worst,
    })
}
