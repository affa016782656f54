//! When the drain thread wakes of itself: for ticks, by the clock; and in exact mode as often as the rings fill.
//!
//! Promises: while the program allocates or frees anything a tick comes after 100 ms; while it does neither, after a second
//! of that, after 400 ms. An epoch's end wakes it between ticks: epochs are as long as they were asked to be, unless closing one takes
//! more than half of that. Orders, signals and full rings wake it at any time.

use std::time::{Duration, Instant};

use super::aggregator::AGGREGATOR;
use crate::store::picture::ExactTotals;
use crate::store::writer::EXACT_RING_RECORDS;

/// Between ticks: the rings hold far more than this at the governor's rates.
pub(super) const TICK: Duration = Duration::from_millis(100);
/// Between ticks while nothing happens: of an idle service's cost most is to wake up at all.
const STILL_TICK: Duration = Duration::from_millis(400);
/// So many ticks at which nothing had happened since the last: a pause in a program's work is not its end.
const STILL_AFTER: u32 = 10;

/// The ticks' distance.
pub(super) struct Rhythm {
    tick_at: Instant,
    pause: Duration,
    /// What all threads had allocated and freed.
    seen: ExactTotals,
    /// Ticks since that last changed.
    still: u32,
}

impl Rhythm {
    pub(super) fn new() -> Rhythm {
        Rhythm { tick_at: Instant::now() + TICK, pause: TICK, seen: ExactTotals::default(), still: 0 }
    }

    /// When to wake: at the next tick, or at the open epoch's end where that comes sooner.
    pub(super) fn next(&self, epoch_end: Option<Instant>) -> Instant {
        epoch_end.map_or(self.tick_at, |end| end.min(self.tick_at))
    }

    /// Is a tick due?
    pub(super) fn is_tick(&self, now: Instant) -> bool {
        now >= self.tick_at
    }

    /// From tick to tick at present.
    pub(super) fn pause(&self) -> Duration {
        self.pause
    }

    /// A tick that began then found these totals.
    pub(super) fn ticked(&mut self, began: Instant, totals: &ExactTotals) {
        self.still = if *totals == self.seen { self.still.saturating_add(1) } else { 0 };
        self.seen = *totals;
        self.pause = if self.still < STILL_AFTER { TICK } else { STILL_TICK };
        self.tick_at = began + self.pause;
    }
}

/// The open epoch by the clock.
pub(super) struct EpochClock {
    /// `None`: epochs end by order alone.
    length: Option<Duration>,
    began: Instant,
    /// No epoch's end alone wakes the thread before that: however short epochs are, and however long it takes to close one, it is at work
    /// for half of the time at most.
    rests_until: Instant,
}

impl EpochClock {
    pub(super) fn new(length: Option<Duration>, now: Instant) -> EpochClock {
        EpochClock { length, began: now, rests_until: now }
    }

    /// When the thread is to wake for its end.
    pub(super) fn end(&self) -> Option<Instant> {
        self.length.map(|length| self.rests_until.max(self.began + length))
    }

    /// Is it over?
    pub(super) fn is_over(&self, now: Instant) -> bool {
        self.end().is_some_and(|end| now >= end)
    }

    /// It was over at `now`, and was closed by `closed`. The next begins where this one was to end, so that epochs have their length in the
    /// mean though the thread wakes late. But one that is much shorter would look like a pause of the program: where the thread
    /// was away for a fourth of an epoch (a stopped process), it begins now.
    pub(super) fn passed(&mut self, now: Instant, closed: Instant) {
        if let Some(length) = self.length {
            let end = self.began + length;
            self.began = if now.saturating_duration_since(end) <= length / 4 { end } else { now };
        }
        self.rests_until = closed + closed.saturating_duration_since(now);
    }

    /// It ended by order.
    pub(super) fn ended(&mut self, now: Instant) {
        self.began = now;
    }
}

/// Exact mode: how long the rings take to fill. Ticks alone would leave nearly all draining to the program's threads,
/// which do it when their ring is full; between ticks the thread comes as often as half a ring takes, on a processor that may be
/// idle. Where none is, it stays away, and they do it when it is half full (`store::fill`). An idle program is left alone, and calls when it is idle no more: by the first ring that is full.
/// What a ring takes counts from where the last drain began: it fills while it is drained.
pub(super) struct Pace {
    looked: Instant,
    filled: u64,
    pause: Duration,
    wake: Instant,
}

/// As often as once in this time: a wake-up costs some 4 µs, and no thread fills half a ring sooner.
const LEAST_PAUSE: Duration = Duration::from_micros(50);

impl Pace {
    pub(super) fn new() -> Pace {
        let now = Instant::now();
        Pace { looked: now, filled: AGGREGATOR.filled(), pause: TICK, wake: now + TICK }
    }

    /// Another has the lock, and is not done: there is nothing to be learned.
    pub(super) fn later(&mut self) {
        self.wake = Instant::now() + self.pause;
    }

    /// A ring was full before its time.
    pub(super) fn hurry(&mut self) {
        let now = Instant::now();
        *self = Pace { looked: now, filled: AGGREGATOR.filled(), pause: LEAST_PAUSE, wake: now + LEAST_PAUSE };
    }

    /// When to look again.
    pub(super) fn wake(&self) -> Instant {
        self.wake
    }

    /// After a drain that `began` then: the pause follows the rate of records since the last look, whoever drained them, and
    /// is at most `most`.
    pub(super) fn look(&mut self, began: Instant, most: Duration) {
        let (now, filled) = (Instant::now(), AGGREGATOR.filled());
        let records = u32::try_from(filled.wrapping_sub(self.filled)).unwrap_or(u32::MAX).max(1);
        #[expect(clippy::cast_possible_truncation, reason = "8192")]
        let half_a_ring = (EXACT_RING_RECORDS / 2) as u32;
        let until_half = (now - self.looked).saturating_mul(half_a_ring) / records;
        // Longer step by step: a program that was not running for a moment is not an idle one.
        let longest = self.pause.saturating_mul(2).clamp(LEAST_PAUSE, most);
        self.pause = until_half.clamp(LEAST_PAUSE, longest);
        (self.looked, self.filled, self.wake) = (now, filled, began + self.pause);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A thread that has slept for long, because nothing happened, comes at the shortest distance once a ring was full.
    #[test]
    fn an_idle_pace_is_quick_at_once_and_slow_again_step_by_step() {
        let mut pace = Pace::new();
        assert_eq!(pace.pause, TICK);
        pace.hurry();
        assert_eq!(pace.pause, LEAST_PAUSE);
        assert!(pace.wake <= Instant::now() + LEAST_PAUSE);
        let mut before = pace.pause;
        // Nobody drains meanwhile, or little.
        while pace.pause < TICK {
            pace.looked = Instant::now() - pace.pause;
            pace.look(Instant::now(), TICK);
            assert!(pace.pause <= before * 2 && pace.wake <= Instant::now() + TICK, "{:?}", pace.pause);
            before = pace.pause;
        }
    }

    /// A ring goes on filling while it is drained: half a ring is due that long after the drain began, and not after it ended.
    #[test]
    fn a_drain_that_took_as_long_as_half_a_ring_is_followed_by_the_next() {
        let mut pace = Pace::new();
        pace.hurry();
        let began = Instant::now() - Duration::from_millis(1);
        pace.look(began, TICK);
        assert_eq!(pace.wake(), began + pace.pause);
        assert!(pace.wake() <= Instant::now(), "{:?}", pace.pause);
    }

    /// Ticks, one after another as they are due; totals as this tells by the tick's number.
    fn ticks(count: u32, totals: impl Fn(u32) -> u64) -> Vec<Duration> {
        let mut rhythm = Rhythm::new();
        let mut began = rhythm.next(None);
        (0..count)
            .map(|number| {
                let totals = ExactTotals { freed_blocks: totals(number), ..ExactTotals::default() };
                rhythm.ticked(began, &totals);
                let pause = rhythm.next(None) - began;
                began = rhythm.next(None);
                pause
            })
            .collect()
    }

    #[test]
    fn ticks_are_seldom_while_nothing_happens_and_often_at_once_when_something_does() {
        // A hundredth of all ticks find a change.
        let pauses = ticks(300, |number| u64::from(number / 100 + 1));
        for still in pauses.chunks(100) {
            let often = still.iter().filter(|&&pause| pause == TICK).count();
            assert_eq!(often, STILL_AFTER as usize, "{still:?}");
            assert!(still[..often].iter().all(|&pause| pause == TICK));
            assert!(still[often..].iter().all(|&pause| pause == STILL_TICK));
        }
        assert!(ticks(100, u64::from).iter().all(|&pause| pause == TICK), "something happens at each");
    }

    /// Busy or idle, and though the thread wakes late: so many epochs take as long as that many times their length.
    #[test]
    fn epochs_are_as_long_as_they_were_asked_to_be() {
        let late = Duration::from_millis(2);
        for length in [10, 99, 100, 250, 1000, 1150].map(Duration::from_millis) {
            for is_idle in [true, false] {
                let mut rhythm = Rhythm::new();
                let start = rhythm.next(None) - TICK;
                let mut epoch = EpochClock::new(Some(length), start);
                let (mut epochs, mut ticks, mut now) = (0u32, 0u32, start);
                while epochs < 100 {
                    let wake = rhythm.next(epoch.end());
                    assert!(wake <= now + STILL_TICK, "{length:?}");
                    now = wake.max(now) + late;
                    if rhythm.is_tick(now) {
                        ticks += 1;
                        let totals = ExactTotals { freed_blocks: u64::from(ticks), ..ExactTotals::default() };
                        rhythm.ticked(now, &(if is_idle { ExactTotals::default() } else { totals }));
                    }
                    if epoch.is_over(now) {
                        epoch.passed(now, now);
                        epochs += 1;
                    }
                }
                assert!(now - start < length * 100 + late * 2, "{length:?}: {:?}", now - start);
                let seconds = (now - start).as_secs_f64();
                let per_second = f64::from(ticks) / seconds;
                assert!(if is_idle { per_second < 4.0 + 8.0 / seconds } else { per_second > 9.0 }, "{per_second}");
            }
        }
    }

    #[test]
    fn a_process_that_was_stopped_does_not_make_up_for_epochs() {
        let start = Instant::now();
        let began = |seconds| {
            let mut epoch = EpochClock::new(Some(Duration::from_secs(5)), start);
            let now = start + Duration::from_secs(seconds);
            assert!(epoch.is_over(now));
            epoch.passed(now, now);
            epoch.began - start
        };
        // No epoch is shorter than three quarters.
        assert_eq!([5, 6, 7, 9, 3600].map(began), [5, 5, 7, 9, 3600].map(Duration::from_secs));
    }

    #[test]
    fn epochs_that_take_longer_to_close_than_they_last_leave_half_of_the_time() {
        let length = Duration::from_millis(10);
        for work in [12, 30, 150].map(Duration::from_millis) {
            let mut rhythm = Rhythm::new();
            let start = rhythm.next(None) - TICK;
            let (mut epoch, mut now, mut asleep) = (EpochClock::new(Some(length), start), start, Duration::ZERO);
            let mut ticks = 0;
            while now - start < Duration::from_secs(20) {
                let wake = rhythm.next(epoch.end());
                asleep += wake.saturating_duration_since(now);
                now = wake.max(now);
                let (began, is_over) = (now, epoch.is_over(now));
                if is_over {
                    now += work;
                    epoch.passed(began, now);
                }
                if rhythm.is_tick(began) {
                    ticks += 1;
                    rhythm.ticked(began, &ExactTotals { freed_blocks: ticks, ..ExactTotals::default() });
                }
            }
            assert!(asleep > Duration::from_millis(9800), "{work:?}: asleep for {asleep:?} of 20 s");
        }
    }

    #[test]
    fn epochs_that_end_by_order_end_by_no_clock() {
        let epoch = EpochClock::new(None, Instant::now());
        assert!(epoch.end().is_none() && !epoch.is_over(Instant::now() + Duration::from_secs(86_400)));
    }
}
