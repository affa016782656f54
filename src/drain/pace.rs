//! When the drain thread wakes of itself: for ticks, by the clock; and in exact mode as often as the rings fill.
//!
//! Promises: while the program allocates or frees anything a tick comes after 100 ms; while it does neither, after a second
//! of that, after 400 ms, but as soon as an epoch ends. Orders, signals and full rings wake it at any time.

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
    next: Instant,
    pause: Duration,
    /// What all threads had allocated and freed.
    seen: ExactTotals,
    /// Ticks since that last changed.
    still: u32,
}

impl Rhythm {
    pub(super) fn new() -> Rhythm {
        Rhythm { next: Instant::now() + TICK, pause: TICK, seen: ExactTotals::default(), still: 0 }
    }

    /// When the next tick is due.
    pub(super) fn next(&self) -> Instant {
        self.next
    }

    /// From tick to tick at present.
    pub(super) fn pause(&self) -> Duration {
        self.pause
    }

    /// A tick that began then found these totals; the open epoch ends by itself at `epoch_end`.
    pub(super) fn ticked(&mut self, began: Instant, totals: &ExactTotals, epoch_end: Option<Instant>) {
        self.still = if *totals == self.seen { self.still.saturating_add(1) } else { 0 };
        self.seen = *totals;
        self.pause = if self.still < STILL_AFTER { TICK } else { STILL_TICK };
        let (soonest, latest) = (began + TICK, began + self.pause);
        self.next = epoch_end.map_or(latest, |end| end.clamp(soonest, latest));
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
    fn ticks(count: u32, totals: impl Fn(u32) -> u64, epoch: Option<Duration>) -> Vec<Duration> {
        let mut rhythm = Rhythm::new();
        let (mut began, mut epoch_began) = (rhythm.next(), rhythm.next());
        (0..count)
            .map(|number| {
                if epoch.is_some_and(|length| began - epoch_began >= length) {
                    epoch_began = began;
                }
                let totals = ExactTotals { freed_blocks: totals(number), ..ExactTotals::default() };
                rhythm.ticked(began, &totals, epoch.map(|length| epoch_began + length));
                let pause = rhythm.next() - began;
                began = rhythm.next();
                pause
            })
            .collect()
    }

    #[test]
    fn ticks_are_seldom_while_nothing_happens_and_often_at_once_when_something_does() {
        // A hundredth of all ticks find a change.
        let pauses = ticks(300, |number| u64::from(number / 100 + 1), None);
        for still in pauses.chunks(100) {
            let often = still.iter().filter(|&&pause| pause == TICK).count();
            assert_eq!(often, STILL_AFTER as usize, "{still:?}");
            assert!(still[..often].iter().all(|&pause| pause == TICK));
            assert!(still[often..].iter().all(|&pause| pause == STILL_TICK));
        }
        assert!(ticks(100, u64::from, None).iter().all(|&pause| pause == TICK), "something happens at each");
    }

    #[test]
    fn an_idle_programs_epochs_end_in_time() {
        for epoch in [1, 99, 100, 250, 1000, 1150].map(Duration::from_millis) {
            let pauses = ticks(200, |_| 1, Some(epoch));
            let mut since = Duration::ZERO;
            for pause in &pauses {
                assert!((TICK..=STILL_TICK).contains(pause), "{pause:?}");
                // By the tick after the epoch's end it began anew.
                since = if since >= epoch { *pause } else { since + *pause };
                assert!(since < epoch + TICK, "{epoch:?}: {since:?}");
            }
        }
    }
}
