//! Runs one case in this process under the profiler, and notes what is said of whom and when.
//!
//! Uses unfreed's public interface, and the tests' means to seed its sampler. The process's global allocator must be unfreed's (or pass on to it), and
//! no other profile may run.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use unfreed::{Frame, Leak, Profiler, State, VerdictKind};

use crate::background::Background;
use crate::case::Case;
use crate::chain::{Role, role};
use crate::outcome::{Culprit, Innocents, Outcome, Reached, Sampling};

/// A change of a verdict, noted on the profiler's thread.
struct Heard {
    epoch: u32,
    is_leak: bool,
    role: Role,
    chain: String,
    bytes: f64,
}

/// Runs `case` for `epochs` epochs.
///
/// # Errors
/// Those of starting a profile.
pub fn observe(case: &'static Case, sampling: Sampling, seed: u64, epochs: u32) -> Result<Outcome, unfreed::Error> {
    let epoch = Arc::new(AtomicU32::new(0));
    let heard: Arc<Mutex<Vec<Heard>>> = Arc::default();
    let profiler = start(case, sampling, &epoch, &heard)?;
    // So that a run repeats, with all its samples: but for the programs that have threads of their own.
    unfreed::internals::seed_sampler(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15));
    let began = Instant::now();
    let mut program = (case.begin)(seed, epochs);
    let mut background = Background::start(seed);
    for t in 0..epochs {
        // Relaxed: the order to end the epoch goes over a channel, which orders this store before it.
        epoch.store(t, Ordering::Relaxed);
        program(t);
        background.serve();
        profiler.advance_epoch();
        // What is heard is of this epoch.
        assert!(profiler.wait_until_told(Duration::from_secs(60)), "the listener is quick");
    }
    let took_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    let report = profiler.leaks();
    if std::env::var_os("CORPUS_REPORT").is_some() {
        print_report(case, &report);
    }
    let mut culprits = vec![Culprit::default(); case.culprits.len()];
    let mut innocents = Innocents::default();
    for (index, leak) in report.sites().enumerate() {
        match role_of(case, leak) {
            Role::Culprit(number) => at_end(&mut culprits[number], index + 1, leak),
            Role::Accomplice => (),
            Role::Innocent => {
                innocents.sites += 1;
                match leak.state() {
                    State::Leak => innocents.leak_at_end.push(chain(leak)),
                    State::Suspected => innocents.suspected_at_end.push(chain(leak)),
                    State::Backlog => innocents.backlog_at_end.push(chain(leak)),
                    _ => (),
                }
            }
        }
    }
    let heard = std::mem::take(&mut *heard.lock().expect("no listener panics"));
    for change in heard {
        note(&mut culprits, &mut innocents, change, case.onset_epoch(epochs));
    }
    drop(profiler);
    // Until here everything that the programs hold was alive.
    drop((program, background));
    Ok(Outcome { case: case.name.to_owned(), sampling, seed, culprits, innocents, took_ms })
}

/// For whoever asks why a case came out as it did: every judged site, with the role that its names give it.
fn print_report(case: &Case, report: &unfreed::LeakReport) {
    for leak in report.sites() {
        let names: Vec<&str> = leak.frames().iter().filter_map(Frame::name).collect();
        eprintln!("{:?} {} {}", role_of(case, leak), leak.state(), leak.severity());
        eprintln!("    {} bytes, {:?}", leak.live_bytes().value, leak.evidence());
        eprintln!("    {}", names.join(" ← "));
    }
}

fn start(
    case: &'static Case,
    sampling: Sampling,
    epoch: &Arc<AtomicU32>,
    heard: &Arc<Mutex<Vec<Heard>>>,
) -> Result<Profiler, unfreed::Error> {
    let builder = Profiler::builder().manual_epochs().no_output().quiet().store_in_memory();
    let builder = match sampling {
        Sampling::Exact => builder.exact(),
        Sampling::Every(bytes) => builder.sample_interval(bytes),
    };
    let (epoch, heard) = (Arc::clone(epoch), Arc::clone(heard));
    let listener = move |change: &unfreed::VerdictChange| {
        let is_leak = match change.kind {
            VerdictKind::Suspected => false,
            VerdictKind::Leak => true,
            _ => return,
        };
        let change = Heard {
            epoch: epoch.load(Ordering::Relaxed),
            is_leak,
            role: role_of(case, &change.leak),
            chain: chain(&change.leak),
            bytes: change.leak.live_bytes().value,
        };
        heard.lock().expect("no listener panics").push(change);
    };
    builder.on_verdict(listener).start()
}

fn role_of(case: &Case, leak: &Leak<Frame>) -> Role {
    role(case, leak.frames().iter().filter_map(Frame::name), leak.evidence().stacks > 1)
}

/// The report as it is at the end. Where several stacks are one culprit (an unrolled loop), the largest speaks, and their samples count
/// together.
fn at_end(culprit: &mut Culprit, rank: usize, leak: &Leak<Frame>) {
    culprit.rank = Some(culprit.rank.map_or(rank, |other| other.min(rank)));
    culprit.live_samples += leak.evidence().live_samples;
    let bytes = leak.live_bytes().value;
    if culprit.state.is_empty() || bytes > culprit.live_bytes {
        culprit.state = leak.state().name().to_owned();
        culprit.live_bytes = bytes;
    }
}

fn note(culprits: &mut [Culprit], innocents: &mut Innocents, change: Heard, onset: u32) {
    match change.role {
        Role::Culprit(number) => {
            let culprit = &mut culprits[number];
            let reached = Reached { epochs: change.epoch.saturating_sub(onset), bytes: change.bytes };
            culprit.suspected.get_or_insert(reached);
            if change.is_leak {
                culprit.leak.get_or_insert(reached);
            }
        }
        Role::Accomplice => (),
        Role::Innocent => {
            let ever = [
                Some(&mut innocents.ever_suspected),
                if change.is_leak { Some(&mut innocents.ever_leak) } else { None },
            ];
            for list in ever.into_iter().flatten() {
                if !list.contains(&change.chain) {
                    list.push(change.chain.clone());
                }
            }
        }
    }
}

/// The program's own frames, leaf first.
fn chain(leak: &Leak<Frame>) -> String {
    let own = leak.frames().iter().filter(|frame| !frame.is_std()).filter_map(Frame::name).take(4);
    own.map(|name| name.rsplit("::").next().unwrap_or(name)).collect::<Vec<_>>().join(" ← ")
}
