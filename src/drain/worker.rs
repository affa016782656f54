//! The drain thread: a tick every 100 ms (while nothing happens every 400: `drain/pace.rs`), orders in between.
//!
//! A tick keeps stock (nodes, rows, modules), empties the rings, copies the exact totals into the store, ends epochs,
//! and lets the governor look.

use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};

use super::aggregator::{AGGREGATOR, Aggregator};
use super::orders::{self, Order};
use super::pace::{EpochClock, Pace, Rhythm};
use super::verdict::{Bench, Evidence};
use crate::leak::judge::Subject;
use crate::leak::memory::Moment;
use crate::leak::state::Change;
use crate::sampler::interval;
use crate::sampler::weight::IntervalCode;
use crate::store::picture::{ExactTotals, HistoryPoint, Picture};
use crate::store::totals::of_moment;
use crate::store::{PictureCopy, Store};
use crate::sys::{clock, process, refusal, thread};
use crate::units::Ticks;

/// How much later than asked its sleeps may end. By default it is half of the shortest of them.
const TIMER_SLACK: Duration = Duration::from_micros(1);

/// Who is told of verdicts. Called on the drain thread, which none of these may hold up: telling is another thread's.
pub(crate) trait News: Send {
    /// Does anyone listen? What nobody hears is not made: evidence is a copy of everything.
    fn is_heard(&self) -> bool;
    /// Looks at what the scopes hold, after an epoch.
    fn look(&mut self, picture: Box<Picture>);
    /// Did it see news there that were not told?
    fn has_seen(&self) -> bool;
    /// Was everything told that was given? Then there is room for more.
    fn has_room(&self) -> bool;
    /// Takes what changed, with everything that a report needs.
    fn tell(&mut self, evidence: Box<Evidence>, changes: Vec<(Subject, Change)>);
}

/// What the drain thread needs of the hot side and of the profiler, said as functions so that it knows neither.
pub(crate) struct Surroundings {
    /// The exact totals now: of the profile in exact mode, of the process otherwise.
    pub(crate) totals: fn(exact_mode: bool) -> Option<ExactTotals>,
    /// What the whole process requested and has not freed, in every mode.
    pub(crate) requested: fn() -> u64,
    /// The most memory that the hook's slots and our own blocks take: of the program, and ours.
    pub(crate) hooks_memory: fn() -> (u64, u64),
    /// Looks for modules that came or went.
    pub(crate) refresh_modules: fn(store: &'static Store),
    /// The governor's tick; takes live bytes and the CPU time that draining took since the last, returns the interval.
    pub(crate) govern: fn(live_bytes: u64, drained_ns: u64) -> IntervalCode,
    /// The store reached its bound: the governor is to sample less.
    pub(crate) store_is_full: fn(),
    /// A signal asked the process to end.
    pub(crate) end_by_signal: Box<dyn Fn(Option<Box<Evidence>>, i32) + Send>,
    /// Whoever is told of verdicts.
    pub(crate) news: Box<dyn News>,
}

/// The thread's state.
pub(crate) struct Worker {
    pub(crate) store: &'static Store,
    pub(crate) orders: Receiver<Order>,
    pub(crate) surroundings: Surroundings,
    pub(crate) exact_mode: bool,
    /// `None`: epochs end by order alone.
    pub(crate) epoch: Option<Duration>,
    pub(crate) bench: Bench,
    /// The interval that the profile begins with.
    pub(crate) interval: IntervalCode,
    /// The event clock and the monotonic one at the start.
    pub(crate) base: (Ticks, u64),
}

/// What a worker remembers between ticks.
struct Memory {
    epoch: EpochClock,
    /// CPU time of draining that the governor has not heard of. What totals, epochs, reports and verdicts take is not among it: a
    /// coarser sample would not make those cheaper.
    drained_ns: u64,
    max_live: (u64, u64),
    interval: IntervalCode,
    /// The code of the coarsest that the history tells.
    coarsest: u8,
    ticks: u64,
    /// Doublings of the interval because the store was full.
    steps_for_space: u32,
}

/// A full store stays full: after 16 times fewer samples, more would only blind the profile.
const MOST_STEPS_FOR_SPACE: u32 = 4;
/// A second between them.
const TICKS_A_STEP: u64 = 10;

impl Worker {
    /// Works until told to stop, or until nobody can tell it anything any more.
    pub(crate) fn run(mut self) {
        let mut memory = Memory {
            epoch: EpochClock::new(self.epoch, Instant::now()),
            drained_ns: 0,
            max_live: (0, 0),
            interval: self.interval,
            coarsest: 0,
            ticks: 0,
            steps_for_space: 0,
        };
        if self.exact_mode {
            thread::set_timer_slack(TIMER_SLACK);
        }
        let (mut rhythm, mut pace) = (Rhythm::new(), Pace::new());
        loop {
            let next = rhythm.next(memory.epoch.end());
            let wake = if self.exact_mode { next.min(pace.wake()) } else { next };
            match orders::next(&self.orders, wake) {
                Ok(order) => {
                    if self.obey(order, &mut memory) {
                        return;
                    }
                }
                Err(RecvTimeoutError::Timeout) if Instant::now() < next && process::arrived_signal().is_none() => {
                    let (at, began) = (Instant::now(), clock::thread_cpu_ns());
                    // A program may come to more new sites between two ticks than a tick laid out.
                    self.store.lay_out_ahead();
                    // Whoever has the lock drains.
                    let done = AGGREGATOR.drain(Duration::ZERO).is_some();
                    memory.drained_ns += clock::thread_cpu_ns().saturating_sub(began);
                    match (orders::is_to_hurry(), done) {
                        (true, _) => pace.hurry(),
                        (false, true) => pace.look(at, rhythm.pause()),
                        (false, false) => pace.later(),
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    let began = Instant::now();
                    if rhythm.is_tick(began) {
                        let totals = self.tick(&mut memory);
                        rhythm.ticked(began, &totals);
                    } else {
                        self.settle_in_time(&mut memory);
                    }
                    pace.look(began, rhythm.pause());
                    if let Some(signal) = process::arrived_signal() {
                        self.tell_the_rest(&mut memory);
                        // No loader's lock here: the thread that was interrupted may hold it.
                        let evidence = self.evidence(&mut memory).map(Box::new);
                        (self.surroundings.end_by_signal)(evidence, signal);
                        return;
                    }
                }
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// True: stop.
    fn obey(&mut self, order: Order, memory: &mut Memory) -> bool {
        match order {
            Order::Flush(reply) => {
                self.settle(memory, false);
                orders::answer(&reply, ());
            }
            Order::Totals(reply) => {
                orders::answer(&reply, self.settle(memory, false));
            }
            Order::Picture(reply) => {
                orders::answer(&reply, self.picture(memory));
            }
            Order::EndEpoch(reply) => {
                memory.epoch.ended(Instant::now());
                self.settle(memory, true);
                orders::answer(&reply, ());
            }
            Order::Evidence(reply) => {
                orders::answer(&reply, self.evidence(memory).map(Box::new));
            }
            Order::Answered(answer) => {
                let now = self.moment(process::resident_bytes());
                self.bench.note_answer(answer, now);
            }
            Order::Memory(reply) => {
                let now = self.moment(process::resident_bytes());
                orders::answer(&reply, self.bench.memory(&now));
            }
            Order::Tell(reply) => {
                self.tell(memory);
                orders::answer(&reply, !self.bench.has_changes() && !self.surroundings.news.has_seen());
            }
            Order::Baseline(reply) => {
                let totals = self.settle(memory, false);
                self.bench.set_baseline(&totals);
                orders::answer(&reply, ());
            }
            Order::LookAtModules(reply) => {
                (self.surroundings.refresh_modules)(self.store);
                orders::answer(&reply, ());
            }
            Order::Pause(reply, until) => {
                orders::answer(&reply, ());
                let _ = until.recv();
            }
            Order::Stop(reply) => {
                self.tell_the_rest(memory);
                orders::answer(&reply, self.evidence(memory).map(Box::new));
                return true;
            }
        }
        false
    }

    fn tick(&mut self, memory: &mut Memory) -> ExactTotals {
        refusal::look();
        memory.ticks += 1;
        if memory.steps_for_space < MOST_STEPS_FOR_SPACE
            && memory.ticks.is_multiple_of(TICKS_A_STEP)
            && self.store.bound_reached()
        {
            memory.steps_for_space += 1;
            (self.surroundings.store_is_full)();
        }
        if process::arrived_signal().is_none() {
            (self.surroundings.refresh_modules)(self.store);
        }
        let totals = self.settle_in_time(memory);
        let drained = std::mem::take(&mut memory.drained_ns);
        (self.surroundings.govern)(totals.live().0, drained);
        self.tell(memory);
        self.note_interval(memory, &totals);
        self.calibrate();
        totals
    }

    /// Settles, and ends the epoch where its time is over.
    fn settle_in_time(&mut self, memory: &mut Memory) -> ExactTotals {
        let now = Instant::now();
        let ends = memory.epoch.is_over(now);
        let totals = self.settle(memory, ends);
        if ends {
            memory.epoch.passed(now, Instant::now());
        }
        totals
    }

    /// Empties the rings and brings the store's totals up to date; ends the epoch where asked.
    fn settle(&mut self, memory: &mut Memory, ends_epoch: bool) -> ExactTotals {
        let resident = if ends_epoch { process::resident_bytes() } else { 0 };
        let mut totals = (self.surroundings.totals)(self.exact_mode).unwrap_or_default();
        let live = totals.live();
        if live.0 >= memory.max_live.0 {
            memory.max_live = live;
        }
        (totals.max_live_bytes, totals.max_live_blocks) = memory.max_live;
        let (store, base, bench) = (self.store, self.base, &mut self.bench);
        let began = clock::thread_cpu_ns();
        store.lay_out_ahead();
        AGGREGATOR.watched(|tables, watch, now| {
            // What comes after takes as long however few samples there are.
            memory.drained_ns += clock::thread_cpu_ns().saturating_sub(began);
            totals = of_moment(tables, totals);
            store.set_exact_totals(&totals, now);
            // The store's epochs are for its readers, who see the last one that was closed: every settling closes one.
            Aggregator::end_epoch(tables, now);
            if ends_epoch {
                watch.taint(tables);
                bench.end_epoch(watch, &totals, now);
                store.push_history(&history_point(base, &totals, resident));
            }
        });
        self.note_interval(memory, &totals);
        if ends_epoch {
            self.judge(memory, &totals, resident);
        }
        totals
    }

    /// Which interval held when is part of the profile. Looked at whenever figures are made: producers raise it between
    /// ticks, and a profile may end before the next one.
    fn note_interval(&self, memory: &mut Memory, totals: &ExactTotals) {
        let (held, interval) = (interval::take_coarsest().0.max(memory.interval.0), interval::get().0);
        let point = |interval| HistoryPoint { interval, ..history_point(self.base, totals, 0) };
        // What was not seen is bounded by the coarsest that ever held, for however short a time.
        if held > interval.0.max(memory.coarsest) {
            memory.coarsest = held;
            AGGREGATOR.drained(|_, _| self.store.push_history(&point(IntervalCode(held))));
        }
        if interval != memory.interval {
            memory.interval = interval;
            self.store.set_interval(interval);
            AGGREGATOR.drained(|_, _| self.store.push_history(&point(interval)));
        }
    }

    /// After an epoch: the process's course, pools of thin sites, and news for whoever listens.
    fn judge(&mut self, memory: &mut Memory, totals: &ExactTotals, resident: u64) {
        self.bench.after_epoch(totals, self.moment(resident));
        if self.bench.regroups_now() {
            let store = self.store;
            self.bench.regroup(|| copy(store));
        }
        if self.surroundings.news.is_heard()
            && self.store.has_scopes()
            && let Some(picture) = copy(self.store)
        {
            self.surroundings.news.look(picture);
        }
        self.tell(memory);
    }

    /// Hands on what changed, if whoever listens is done with what came before. Until then it is kept, up to a bound; a
    /// site is told as it stands when its turn comes.
    fn tell(&mut self, memory: &mut Memory) {
        if self.surroundings.news.has_room() {
            self.tell_the_rest(memory);
        }
    }

    /// Hands on what changed.
    fn tell_the_rest(&mut self, memory: &mut Memory) {
        if !self.bench.has_changes() && !self.surroundings.news.has_seen() {
            return;
        }
        if !self.surroundings.news.is_heard() {
            self.bench.take_changes();
            return;
        }
        if let Some(evidence) = self.evidence(memory) {
            let changes = self.bench.take_changes();
            self.surroundings.news.tell(Box::new(evidence), changes);
        }
    }

    /// Everything that a report of leaks needs.
    fn evidence(&mut self, memory: &mut Memory) -> Option<Evidence> {
        // Before the picture, which is ours and adds to it.
        let now = self.moment(process::resident_bytes());
        let picture = self.picture(memory)?;
        // Of one moment with its sites.
        let totals = picture.exact;
        self.bench.evidence(&totals, &now, picture)
    }

    /// The process's memory now.
    fn moment(&self, resident_bytes: u64) -> Moment {
        let (slots, own) = (self.surroundings.hooks_memory)();
        let histories = AGGREGATOR.watched(|_, watch, _| watch.memory_bytes()).unwrap_or(0);
        Moment {
            at_ns: clock::monotonic_ns().saturating_sub(self.base.1),
            requested: (self.surroundings.requested)(),
            resident: resident_bytes,
            own: own + self.store.memory_bytes() + histories,
            slots,
        }
    }

    /// Everything recorded so far, as a picture.
    fn picture(&mut self, memory: &mut Memory) -> Option<Box<Picture>> {
        self.settle(memory, false);
        self.calibrate();
        copy(self.store)
    }

    /// The longer both clocks have run, the better their ratio is known.
    fn calibrate(&self) {
        let ticks = clock::now().0.saturating_sub(self.base.0.0);
        let ns = clock::monotonic_ns().saturating_sub(self.base.1);
        if ticks > 0 && ns > 1_000_000 {
            #[expect(clippy::cast_precision_loss, reason = "a ratio")]
            self.store.set_ns_per_tick(ns as f64 / ticks as f64);
        }
    }
}

/// The totals as a point of history of a profile that began at `base` by the event clock and the monotonic one.
fn history_point(base: (Ticks, u64), totals: &ExactTotals, resident_bytes: u64) -> HistoryPoint {
    let (live_bytes, live_blocks) = totals.live();
    HistoryPoint {
        at_ns: clock::monotonic_ns().saturating_sub(base.1),
        live_bytes,
        live_blocks,
        total_bytes: totals.total_bytes,
        total_blocks: totals.total_blocks,
        resident_bytes,
        interval: interval::get().0,
    }
}

/// A picture of the store as it is.
fn copy(store: &'static Store) -> Option<Box<Picture>> {
    // A store that outgrew its copy while it was being made is copied again; it is bounded, so this ends.
    for _ in 0..16 {
        let mut copy = PictureCopy::begin(store);
        let taken = AGGREGATOR.drained(|_, now| copy.copy(store, || AGGREGATOR.goes_on()).then_some(now))?;
        if let Some(now) = taken {
            return copy.finish(now).ok().map(Box::new);
        }
    }
    None
}
