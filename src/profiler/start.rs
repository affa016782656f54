//! Starting a profile: the order in which the parts come up.
//!
//! Promises: undoes what it did when it fails. What tells our blocks from others comes first, then the store and all that writes to
//! it, then the threads that serve it; the program's threads are called last, when everything is there. A forked child begins anew.

use std::num::NonZero;
use std::sync::Once;

use crossbeam_channel::unbounded;

use super::leaks::OnVerdict;
use super::link;
use super::news::{self, Listening};
use super::output;
use super::running::{self, Running};
use super::scopes;
use super::stop;
use super::store;
use super::surroundings::{self, Modules};
use crate::config::{Config, Epochs, Sampling};
use crate::drain::aggregator::AGGREGATOR;
use crate::drain::verdict::Bench;
use crate::drain::watch::Watch;
use crate::drain::worker::Worker;
use crate::error::Error;
use crate::hook;
use crate::hook::session::{self, Mode};
use crate::live::LIVE;
use crate::sampler::weight::IntervalCode;
use crate::sampler::{governor, interval};
use crate::slots::RANGE;
use crate::store::StoreOptions;
use crate::store::attribution::Attribution;
use crate::sys::{self, barrier, clock, fork, heap, process, thread};
use crate::unwind;

/// Starts a profile. Returns its ticket.
pub(super) fn start(config: Config, listener: Option<OnVerdict>) -> Result<u32, Error> {
    config.check()?;
    if !sys::IS_SUPPORTED {
        return Err(Error::Unsupported);
    }
    if fork::in_child() {
        begin_anew_in_child();
        LIVE.reset_in_child(hook::OWN);
        hook::thread::reset_in_child();
    } else if hook::thread::was_taken_over() {
        // Its parent never had a profile, but another thread of it may have been about to start one.
        begin_anew_in_child();
    }
    // Nothing is recorded yet; its few requests go to the allocator that it asks, and are not the program's.
    hook::uncounted(heap::recognise);
    fork::arm();
    barrier::register();
    hook::prepare();
    let inside = hook::inside();
    let slots_off = crate::config::slots_off()?;
    clock::choose();
    let inside = if RANGE.bounds().1 == 0 && !slots_off {
        // Nothing of ours is alive here: blocks of ours are known by the range from now on.
        RANGE.reserve();
        drop(inside);
        hook::prepare();
        hook::inside()
    } else {
        inside
    };
    if !hook::is_installed(&inside) {
        return Err(Error::NotInstalled);
    }
    let started = running::keep(|| begin(config, listener));
    drop(inside);
    let ticket = started?;
    process::at_exit(stop::at_exit);
    running::ask_allocator(ticket);
    Ok(ticket)
}

/// A forked child starts a profile of its own: the parent's is forgotten, not ended.
fn begin_anew_in_child() {
    running::forget_in_child();
    output::reset_in_child();
    heap::ask_nobody();
    AGGREGATOR.reset_in_child();
    link::reset_in_child();
    // The parent's handlers; this profile may want none.
    process::release_ending_signals();
    session::change(Mode::Off, false);
}

/// Everything that `start` does, but for refusing.
fn begin(config: Config, listener: Option<OnVerdict>) -> Result<Running, Error> {
    let exact_mode = config.sampling == Sampling::Exact;
    let ns_per_tick = measure_clock();
    let (code, fixed) = match config.sampling {
        Sampling::Exact => (IntervalCode::EXACT, 0),
        Sampling::Fixed(bytes) => (IntervalCode::FIXED, bytes),
        Sampling::Governed(_) => (governor::FINEST, 0),
    };
    let base = (clock::now(), clock::monotonic_ns());
    let mut options = StoreOptions::new(exact_mode);
    options.fixed_interval_bytes = fixed;
    options.interval = code;
    options.base = base.0;
    options.ns_per_tick = ns_per_tick;
    options.started_unix_ns = clock::wall_ns();
    let store = store::create(&config, options)?;

    // A child's `start` would otherwise wait for a loader's lock that our thread held at the fork.
    static AROUND_FORKS: Once = Once::new();
    AROUND_FORKS.call_once(|| fork::around(before_fork, after_fork, after_fork));
    if exact_mode {
        unwind::keep_free(EXACT_WORKSPACES);
    }
    let name = unwind::start(config.max_frames, &mut Modules(store));
    unwind::set_checking(config.check_stacks);
    store.set_unwinder(name);
    store.lay_out_ahead();
    let epoch_length = match config.epochs {
        Epochs::Every(length) => Some(length),
        Epochs::Manual => None,
    };
    let watch = Watch::new(base.0, fixed).ok_or_else(|| Error::Thread(std::io::ErrorKind::OutOfMemory.into()));
    let bench = Bench::new(config.leaks.clone(), epoch_length, crate::report::owners).map_err(Error::LeakConfig);
    let (watch, bench) = match (watch, bench) {
        (Ok(watch), Ok(bench)) => (watch, bench),
        (Err(error), _) | (_, Err(error)) => {
            store::end(store, false);
            return Err(error);
        }
    };
    let processors = std::thread::available_parallelism().map_or(1, NonZero::get);
    AGGREGATOR.begin(Attribution::new(base.0, fixed), store.tables(), watch, processors);
    interval::set(code, fixed);
    // Of this profile alone.
    interval::take_coarsest();
    governor::begin(
        match config.sampling {
            Sampling::Governed(budget) => Some(budget),
            _ => None,
        },
        ns_per_tick,
    );
    link::connect(store);
    scopes::describe_all(store);
    static SINK: &dyn hook::sink::Sink = link::SINK;
    session::set_sink(&SINK);

    let failed = |error| {
        link::disconnect();
        AGGREGATOR.end();
        store::end(store, false);
        Err(Error::Thread(error))
    };
    let (desk, listening) = match news::begin(listener) {
        Ok(begun) => begun,
        Err(error) => return failed(error),
    };
    let (orders, inbox) = unbounded();
    let worker = Worker {
        store,
        orders: inbox,
        surroundings: surroundings::of(&config, store, desk),
        exact_mode,
        interval: code,
        epoch: epoch_length,
        bench,
        base,
    };
    let spawned = thread::spawn(
        c"unfreed",
        Box::new(move || {
            let inside = hook::inside();
            if std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| worker.run())).is_err() {
                stop::switch_off();
            }
            drop(inside);
        }),
    );
    let thread = match spawned {
        Ok(thread) => thread,
        // The worker is gone, and its desk with it: the other thread ends.
        Err(error) => {
            listening.into_iter().for_each(Listening::end);
            return failed(error);
        }
    };
    if config.signals {
        process::catch_ending_signals(stop::heed_signal);
    }
    let mode = if exact_mode { Mode::Exact } else { Mode::Sampled };
    let state = session::change(mode, true);
    hook::thread::call_all(state, Some(state.profile()));
    Ok(Running { config, store, orders, thread, listening })
}

/// Nanoseconds a tick, from 200 µs of both clocks; the drain thread improves on it.
fn measure_clock() -> f64 {
    let (ticks, ns) = (clock::now().0, clock::monotonic_ns());
    let mut elapsed = 0;
    while elapsed < 200_000 {
        std::hint::spin_loop();
        elapsed = clock::monotonic_ns().saturating_sub(ns);
    }
    #[expect(clippy::cast_precision_loss, reason = "a ratio")]
    let ratio = elapsed as f64 / clock::now().0.saturating_sub(ticks).max(1) as f64;
    ratio
}

/// Threads that are in the middle of a capture at one moment, in exact mode; 33 KiB each.
const EXACT_WORKSPACES: usize = 64;

extern "C" fn before_fork() {
    let _inside = hook::inside();
    unwind::before_fork();
}

extern "C" fn after_fork() {
    let _inside = hook::inside();
    unwind::after_fork();
}
