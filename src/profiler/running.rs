//! Starting and stopping: the order in which the parts come up and go down.
//!
//! Promises: at most one profile runs; start undoes what it did when it fails; stop waits until no thread can still
//! write for the profile that ended, then ends the store. The same works in a forked child, which begins anew.

#![allow(unsafe_code, reason = "one cell behind a lock that is not std's; a store that is lent for as long as it runs")]

use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Sender, unbounded};

use super::leaks::OnVerdict;
use super::link;
use super::news::{self, Listening, Telling};
use super::output;
use super::scopes;
use crate::config::{Config, Epochs, Sampling, StorePlace};
use crate::drain::aggregator::AGGREGATOR;
use crate::drain::orders::{self, Order, ask};
use crate::drain::verdict::{Bench, Evidence};
use crate::drain::watch::Watch;
use crate::drain::worker::{Surroundings, Worker};
use crate::error::Error;
use crate::hook::session::{self, Mode};
use crate::hook::{self, Inside};
use crate::leak::pool::Whose;
use crate::live::LIVE;
use crate::sampler::weight::IntervalCode;
use crate::sampler::{governor, interval};
use crate::slots::{Half, RANGE};
use crate::store::attribution::Attribution;
use crate::store::picture::{ExactTotals, ModulePicture, Picture};
use crate::store::{Place, Store, StoreOptions};
use crate::sys::thread::OwnThread;
use crate::sys::{self, barrier, clock, fork, heap, lock, process, thread};
use crate::units::{FrameKey, ModuleId};
use crate::unwind::{self, LoadedModule, ModuleSink};

/// A profile that runs.
struct Running {
    config: Config,
    store: &'static Store,
    orders: Sender<Order>,
    thread: OwnThread,
    listening: Option<Listening>,
}

/// The one of this process.
struct Slot {
    lock: lock::Lock,
    running: UnsafeCell<Option<Running>>,
}

// SAFETY: the cell is touched only while the lock is held.
unsafe impl Sync for Slot {}

static RUNNING: Slot = Slot { lock: lock::Lock::new(), running: UnsafeCell::new(None) };

/// The number of the profile that runs, so that a handle of an earlier one does not stop it; 0: none.
static TICKET: AtomicU32 = AtomicU32::new(0);
static TICKETS: AtomicU32 = AtomicU32::new(1);

/// The longest that `stop` waits for threads inside the cold path. A thread there does bounded work; one that was
/// stopped by a debugger is not waited for.
const LONGEST_QUIESCE: Duration = Duration::from_secs(2);

fn with_running<T>(f: impl FnOnce(&mut Option<Running>) -> T) -> Option<T> {
    let held = RUNNING.lock.take()?;
    // SAFETY: the lock is held.
    let result = f(unsafe { &mut *RUNNING.running.get() });
    drop(held);
    Some(result)
}

/// Starts a profile. Returns its ticket.
pub(super) fn start(config: Config, listener: Option<OnVerdict>) -> Result<u32, Error> {
    config.check()?;
    if !sys::IS_SUPPORTED {
        return Err(Error::Unsupported);
    }
    if fork::in_child() {
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
    let started = with_running(|running| {
        if running.is_some() {
            return Err(Error::AlreadyRunning);
        }
        let begun = begin(config, listener)?;
        *running = Some(begun);
        let ticket = TICKETS.fetch_add(1, Ordering::Relaxed).max(1);
        TICKET.store(ticket, Ordering::SeqCst);
        Ok(ticket)
    });
    drop(inside);
    let ticket = started.unwrap_or(Err(Error::AlreadyRunning))?;
    process::at_exit(at_exit);
    ask_allocator(ticket);
    Ok(ticket)
}

/// Asks the allocator what it holds, on this thread of the program, and tells the drain thread, which must not ask: the
/// allocator's locks may be held by a thread that a signal interrupted and that waits for the drain thread. Nothing that
/// the drain thread needs to serve signals is held meanwhile, so if this waits for such a thread, it ends all the same.
pub(super) fn ask_allocator(ticket: u32) {
    if fork::in_child() || TICKET.load(Ordering::SeqCst) != ticket {
        return;
    }
    let answer = heap::ask();
    let _inside: Inside = hook::inside();
    if let Some(orders) = with_running(|running| running.as_ref().map(|running| running.orders.clone())).flatten() {
        orders::tell(&orders, Order::Answered(answer));
    }
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
    options.place = place_of(&config);
    let store: &'static Store = Box::leak(Box::new(create_store(&mut options)?));

    // A child's `start` would otherwise wait for a loader's lock that our thread held at the fork.
    fork::around(before_fork, after_fork);
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
    let bench = Bench::new(config.leaks.clone(), epoch_length, owners).map_err(Error::LeakConfig);
    let (watch, bench) = match (watch, bench) {
        (Ok(watch), Ok(bench)) => (watch, bench),
        (Err(error), _) | (_, Err(error)) => {
            end_store(store, false);
            return Err(error);
        }
    };
    AGGREGATOR.begin(Attribution::new(base.0, fixed), store.tables(), watch);
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
        end_store(store, false);
        Err(Error::Thread(error))
    };
    let (desk, listening) = match news::begin(listener) {
        Ok(begun) => begun,
        Err(error) => return failed(error),
    };
    let told = desk.telling();
    let (orders, inbox) = unbounded();
    let signal_config = config.clone();
    let worker = Worker {
        store,
        orders: inbox,
        surroundings: Surroundings {
            totals: exact_totals,
            requested,
            hooks_memory,
            refresh_modules: |store| unwind::refresh(&mut Modules(store)),
            govern: |live, drained_ns| {
                governor::drained(drained_ns);
                governor::tick(live)
            },
            store_is_full: governor::store_is_full,
            end_by_signal: Box::new(move |evidence, signal| {
                end_by_signal(&signal_config, store, evidence, &told, signal);
            }),
            news: Box::new(desk),
        },
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
                switch_off();
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
        process::catch_ending_signals(heed_signal);
    }
    let mode = if exact_mode { Mode::Exact } else { Mode::Sampled };
    let state = session::change(mode, true);
    hook::thread::call_all(state, Some(state.profile()));
    Ok(Running { config, store, orders, thread, listening })
}

/// A signal arrived that asks the process to end: wakes the drain thread, which is to write the profile, and says whether the
/// interrupted thread may wait for that. Async-signal-safe.
fn heed_signal() -> bool {
    orders::hurry();
    hook::may_be_held_up()
}

/// Where the store is to be: as configured, else where the environment says.
fn place_of(config: &Config) -> Place {
    match &config.store {
        StorePlace::Path(path) => Place::Path(path.clone()),
        StorePlace::Memory => Place::Memory,
        StorePlace::Default => match crate::config::store_directory() {
            Some(directory) => Place::Directory(directory),
            None => Place::Default,
        },
    }
}

/// A store where it was asked for; else in memory only, which is said once: a service that runs without its file is
/// better than one that does not run.
fn create_store(options: &mut StoreOptions) -> Result<Store, Error> {
    let asked = options.place.clone();
    match Store::create(options) {
        Ok(store) => {
            if store.path().is_none() && asked != Place::Memory {
                process::say(
                    "unfreed: no shared memory file system at /dev/shm: the profile is in memory only and is gone if \
                     the process is killed; set UNFREED_DIR to a tmpfs directory\n",
                );
            }
            Ok(store)
        }
        Err(error) if asked != Place::Memory => {
            process::say(&format!(
                "unfreed: {error}; the profile is in memory only and is gone if the process is killed\n"
            ));
            options.place = Place::Memory;
            Store::create(options).map_err(Error::Store)
        }
        Err(error) => Err(Error::Store(error)),
    }
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

/// The exact totals in the report's terms.
fn exact_totals(exact_mode: bool) -> Option<ExactTotals> {
    let all = hook::thread::totals()?;
    let c = if exact_mode { all.profile } else { all.process };
    let live = |allocated: u64, freed: u64, older: u64| {
        // A process that frees what was there before its first count (none known) can't be below nothing.
        let live = allocated.wrapping_sub(freed).wrapping_add(older);
        if live.cast_signed() < 0 { 0 } else { live }
    };
    let (older_bytes, older_blocks) = if exact_mode { (c.older_bytes, c.older_blocks) } else { (0, 0) };
    let total_bytes = c.alloc_bytes.wrapping_add(c.kept_bytes);
    let total_blocks = c.alloc_blocks.wrapping_add(c.reallocs);
    Some(ExactTotals {
        total_bytes,
        total_blocks,
        freed_bytes: total_bytes.saturating_sub(live(c.alloc_bytes, c.free_bytes, older_bytes)),
        freed_blocks: total_blocks.saturating_sub(live(c.alloc_blocks, c.free_blocks, older_blocks)),
        max_live_bytes: 0,
        max_live_blocks: 0,
        older_freed_bytes: c.older_bytes,
        older_freed_blocks: c.older_blocks,
    })
}

/// What the process requested and has not freed.
fn requested() -> u64 {
    exact_totals(false).map_or(0, |totals| totals.total_bytes.saturating_sub(totals.freed_bytes))
}

/// The most memory that the program's slots, and our own blocks, take.
fn hooks_memory() -> (u64, u64) {
    (RANGE.memory_bytes(Half::Sampled) as u64, RANGE.memory_bytes(Half::Own) as u64)
}

/// The unwinder's modules, listed in the store.
struct Modules(&'static Store);

impl ModuleSink for Modules {
    fn add(&mut self, module: &LoadedModule) -> ModuleId {
        self.0.add_module(&ModulePicture {
            path: module.path.clone(),
            build_id: module.build_id.clone(),
            bias: module.bias,
            start: module.text.start,
            end: module.text.end,
            loaded: true,
        })
    }

    fn unload(&mut self, id: ModuleId) {
        self.0.mark_unloaded(id);
    }
}

/// Asks the drain thread something. `None`: no profile of this ticket runs in this process.
pub(super) fn order<T>(ticket: u32, make: impl FnOnce(Sender<T>) -> Order) -> Option<T> {
    if fork::in_child() || TICKET.load(Ordering::SeqCst) != ticket {
        return None;
    }
    let _inside: Inside = hook::inside();
    let orders = with_running(|running| running.as_ref().map(|running| running.orders.clone())).flatten()?;
    ask(orders, make)
}

/// Waits until whoever listens was told of everything, or for so long. False: it was not, or this is the thread that tells.
pub(super) fn wait_until_told(ticket: u32, limit: Duration) -> bool {
    let deadline = Instant::now().checked_add(limit).unwrap_or_else(|| Instant::now() + LONGEST_WAIT);
    let telling = {
        let _inside: Inside = hook::inside();
        with_running(|running| running.as_ref().and_then(|running| Some(running.listening.as_ref()?.telling())))
            .flatten()
    };
    let Some(telling) = telling else { return true };
    if telling.is_here() {
        return false;
    }
    loop {
        let Some(is_handed_over) = order(ticket, Order::Tell) else { return true };
        let is_told = telling.wait_until(deadline);
        if is_handed_over || !is_told {
            return is_told;
        }
    }
}

/// A century is not a time that a clock can add.
const LONGEST_WAIT: Duration = Duration::from_secs(86_400);

/// The ticket of the running profile, for the dhat surface; 0: none.
pub(crate) fn current_ticket() -> u32 {
    TICKET.load(Ordering::SeqCst)
}

/// What a profile ended with.
pub(super) struct Finished {
    pub(super) config: Config,
    pub(super) evidence: Option<Box<Evidence>>,
    /// Whoever is told of verdicts: to be ended last, and with no lock held, since it may be the program's own code that
    /// ends the profile.
    pub(super) listening: Option<Listening>,
    store: &'static Store,
    /// No thread is inside any more.
    quiet: bool,
}

/// Stops recording and takes the last picture. `None` where another has stopped it, or in a forked child.
pub(super) fn stop(ticket: u32) -> Option<Finished> {
    if fork::in_child() || TICKET.compare_exchange(ticket, 0, Ordering::SeqCst, Ordering::SeqCst).is_err() {
        return None;
    }
    let Running { config, store, orders, thread, listening } = with_running(Option::take).flatten()?;
    let off = session::change(Mode::Off, false);
    hook::thread::call_all(off, None);
    let quiet = quiesce(off);
    let evidence = ask(orders, Order::Stop).flatten();
    thread.join();
    link::disconnect();
    AGGREGATOR.end();
    let quiet = quiet && quiesce(off);
    if !quiet {
        process::say("unfreed: a thread stayed inside the profiler for 2 s; its last records are not in the profile\n");
    }
    Some(Finished { config, evidence, listening, store, quiet })
}

impl Finished {
    /// Ends the store, whose file stays where that was asked for. Signals have their way again from here on: until now,
    /// while the results were written, they were held.
    pub(super) fn end(self) {
        if self.quiet {
            end_store(self.store, self.config.keep_store);
        } else {
            self.store.abandon(self.config.keep_store);
        }
        if !self.config.signals {
            return;
        }
        process::release_ending_signals();
        // It came when nobody was left to obey it: its effect is what it would have been.
        if let Some(signal) = process::arrived_signal() {
            process::end_by(signal);
        }
    }

    /// Where the store's file lies.
    pub(super) fn store_path(&self) -> Option<&std::path::Path> {
        self.store.path()
    }
}

/// Whose code these frames are.
fn owners(keys: &[FrameKey], picture: &Picture) -> Vec<Whose> {
    crate::report::owners(keys, picture)
}

/// The drain thread failed: nothing is recorded any more, memory is served on.
fn switch_off() {
    hook::thread::call_all(session::change(Mode::Off, false), None);
    process::say("unfreed: the profiler's thread failed; profiling is off, the program goes on\n");
}

/// Waits until no thread can still write for an older state than `now`.
fn quiesce(now: session::State) -> bool {
    barrier::everywhere();
    let deadline = Instant::now() + LONGEST_QUIESCE;
    while hook::thread::anyone_behind(now) || link::in_use() {
        if Instant::now() > deadline {
            return false;
        }
        std::thread::yield_now();
    }
    true
}

fn end_store(store: &'static Store, keep: bool) {
    // SAFETY: leaked by `begin`, ended once; nobody can reach it since `disconnect` and `quiesce`.
    let store = unsafe { Box::from_raw(std::ptr::from_ref(store).cast_mut()) };
    store.finish(keep);
}

/// A forked child starts a profile of its own: the parent's is forgotten, not ended.
fn begin_anew_in_child() {
    RUNNING.lock.reset_in_child();
    output::reset_in_child();
    let parents = with_running(Option::take).flatten();
    // Its channel and thread are the parent's: not dropped, not joined.
    std::mem::forget(parents);
    TICKET.store(0, Ordering::SeqCst);
    heap::ask_nobody();
    AGGREGATOR.reset_in_child();
    LIVE.reset_in_child(hook::OWN);
    link::reset_in_child();
    // The parent's handlers; this profile may want none.
    process::release_ending_signals();
    session::change(Mode::Off, false);
    hook::thread::reset_in_child();
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

/// The process ends while a profile runs: `process::exit`, or a profiler that was leaked.
extern "C" fn at_exit() {
    if fork::in_child() {
        return;
    }
    let ticket = TICKET.load(Ordering::SeqCst);
    let _inside = hook::inside();
    if ticket == 0 {
        output::wait_for_finish();
    } else {
        output::finish(ticket);
    }
}

/// On the drain thread: the profile is written, then the signal ends the process.
fn end_by_signal(config: &Config, store: &'static Store, evidence: Option<Box<Evidence>>, told: &Telling, signal: i32) {
    if let Some(evidence) = evidence
        && !config.testing
    {
        output::write(config, *evidence, store.path());
    }
    if !config.keep_store {
        store.remove_file();
    }
    told.wait();
    process::end_by(signal);
}
