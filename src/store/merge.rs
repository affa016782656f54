//! The drain: all rings' records up to a time, merged by their ticks and applied.
//!
//! Promises: records of one ring keep their order; records of different rings are applied by ticks, ties by ring
//! number, as far as they were visible when the drain took the heads, or in an order that leaves the same
//! (`store::abreast`); no record after `until` is consumed, and no more than the rings held at that moment, so the work
//! is bounded. A record that arrives too late for its time is applied by the next drain: sums don't mind, only a peak
//! may be seen a little lower. No allocation, no wait, no panic.
//!
//! The ring whose next record is the earliest is drained for as long as it stays that, so one busy ring costs one comparison a
//! record and empty rings two loads each. Few rings that have something are looked at one by one, which is as cheap as a turn
//! can be; many are in a heap, keyed by their next record's time.
//! Source: Knuth, TAOCP 3, 5.4.1 (replacement on a heap of runs).

use crate::ring::record::{RECORD_WORDS, Record};
use crate::ring::{Consumer, RingId};
use crate::store::abreast::Effort;
use crate::store::attribution::{Attribution, mark_ring};
use crate::store::fill::Fill;
use crate::store::layout::{MAX_RINGS, Region};
use crate::store::observer::Observer;
use crate::store::streak::Streak;
use crate::store::tables::Tables;
use crate::store::words::add;
use crate::sys::prefetch;
use crate::sys::sync::Ordering;
use crate::tree::SITE_MASK;
use crate::units::Ticks;

/// A ring in the heap: when its next record was, which ring, and up to where it is read.
#[derive(Clone, Copy, Debug, Default)]
struct Run {
    at: u64,
    ring: u32,
    end: u64,
}

impl Run {
    fn key(&self) -> (u64, u32) {
        (self.at, self.ring)
    }
}

/// Some ring begins with a record from so far ahead that its clock must have gone back since (a machine that slept or was moved). It
/// would hide itself and all that follow it until the clock is there again: so all that there is is due.
struct WentBack;

/// Records are stamped before they are seen, and threads' clocks agree to a microsecond: no sound one is from 17 seconds ahead and more.
const FAR_TICKS: u64 = 1 << 36;

/// So many rings need no heap.
pub(super) const FEW: usize = 8;

/// The heap's memory: one run a ring.
#[derive(Debug)]
pub(super) struct Scratch {
    runs: Box<[Run]>,
}

impl Scratch {
    pub(super) fn new() -> Scratch {
        #[expect(clippy::cast_possible_truncation, reason = "4096")]
        let rings = MAX_RINGS as usize;
        Scratch { runs: vec![Run::default(); rings].into() }
    }
}

impl Attribution {
    /// Applies what the rings hold up to `until`; gives the number of records consumed. The caller holds the
    /// aggregator's lock.
    pub(crate) fn drain(&mut self, tables: &Tables<'_>, until: Ticks, observer: &mut impl Observer) -> u64 {
        match self.drain_in_time(tables, until, observer) {
            Ok(consumed) => consumed,
            Err(WentBack) => self.drain_in_time(tables, Ticks(u64::MAX), observer).unwrap_or(0),
        }
    }

    fn drain_in_time(
        &mut self,
        tables: &Tables<'_>,
        until: Ticks,
        observer: &mut impl Observer,
    ) -> Result<u64, WentBack> {
        // Taken out of `self` so that `apply` can borrow it; an empty box allocates nothing.
        let mut runs = std::mem::take(&mut self.scratch.runs);
        let (mut length, mut few, mut went_back) = (0, Turns::NONE, false);
        let mut fill = Fill::default();
        let used = tables.used(Region::Rings).min(runs.len() as u64);
        #[expect(clippy::cast_possible_truncation, reason = "at most 4096")]
        for ring in 0..used as u32 {
            let Some(consumer) = self.consumer(tables, ring, None) else { continue };
            let Some(at) = next_at(&consumer, until) else {
                went_back |= consumer.peek().is_some_and(|words| words[0] > until.0.saturating_add(FAR_TICKS));
                continue;
            };
            fill.add(consumer.unread());
            few.push(at, ring, consumer);
            if let Some(run) = runs.get_mut(length) {
                *run = Run { at, ring, end: consumer.index().wrapping_add(consumer.unread()) };
                length += 1;
            }
        }
        if went_back {
            self.scratch.runs = runs;
            return Err(WentBack);
        }
        self.fill = fill;
        // After the heads were taken: what records name was laid out before.
        let tables = &tables.ready();
        let consumed = if length <= FEW {
            self.consume(tables, &mut few, until.0, observer)
        } else {
            self.merge(tables, until, runs.get_mut(..length).unwrap_or_default(), observer)
        };
        self.scratch.runs = runs;
        Ok(consumed)
    }

    fn merge(&mut self, tables: &Tables<'_>, until: Ticks, runs: &mut [Run], observer: &mut impl Observer) -> u64 {
        let mut length = runs.len();
        let mut consumed = 0;
        for top in (0..length / 2).rev() {
            sift_down(runs, top);
        }
        while let Some(heap) = runs.get_mut(..length)
            && let Some(&top) = heap.first()
        {
            let second = heap.get(1..length.min(3)).unwrap_or_default().iter().map(Run::key).min();
            let mut next = None;
            if let Some(alone) = self.consumer(tables, top.ring, Some(top.end)) {
                // The latest that this ring may give before another one has its turn: ties go by number.
                let bound = second.map_or(u64::MAX, |(at, ring)| at.saturating_sub(u64::from(ring < top.ring)));
                let bound = bound.min(until.0);
                let mut turns = Turns::NONE;
                turns.push(top.at, top.ring, alone);
                consumed += self.consume(tables, &mut turns, bound, observer);
                next = self.consumer(tables, top.ring, Some(top.end)).and_then(|left| next_at(&left, until));
            }
            match next {
                Some(at) => {
                    if let Some(run) = heap.first_mut() {
                        run.at = at;
                    }
                }
                None => {
                    length -= 1;
                    heap.swap(0, length);
                }
            }
            sift_down(heap.get_mut(..length).unwrap_or_default(), 0);
        }
        consumed
    }
}

/// Rings that are read in turn, by their numbers. Threads that run at once take turns from record to record, so that a turn must
/// cost little: their reading sides stay where they are, and to find the earliest is a look at each.
pub(super) struct Turns<'a> {
    /// When each one's next record was.
    at: [u64; FEW],
    rings: [Option<(RingId, Consumer<'a>)>; FEW],
    count: usize,
}

impl<'a> Turns<'a> {
    const NONE: Turns<'a> = Turns { at: [0; FEW], rings: [None; FEW], count: 0 };

    /// By rising numbers; what is beyond `FEW` has no place.
    fn push(&mut self, at: u64, ring: u32, consumer: Consumer<'a>) {
        if let (Some(place), Some(turn)) = (self.at.get_mut(self.count), self.rings.get_mut(self.count)) {
            (*place, *turn) = (at, Some((RingId(ring), consumer)));
            self.count += 1;
        }
    }

    #[cold]
    fn remove(&mut self, index: usize) {
        self.at.get_mut(index..).unwrap_or_default().rotate_left(1);
        self.rings.get_mut(index..).unwrap_or_default().rotate_left(1);
        self.count -= 1;
    }

    /// A ring, and when its next record was.
    pub(super) fn waiting(&self, index: usize) -> Option<(u64, RingId, Consumer<'a>)> {
        let (ring, consumer) = self.rings.get(..self.count)?.get(index).copied().flatten()?;
        Some((*self.at.get(index)?, ring, consumer))
    }

    /// A ring's reading side.
    pub(super) fn consumer(&mut self, index: usize) -> Option<&mut Consumer<'a>> {
        self.rings.get_mut(index)?.as_mut().map(|(_, consumer)| consumer)
    }

    /// After a ring was read out of its turn: when its next record is, if that is not after `until`.
    pub(super) fn look_again(&mut self, index: usize, until: u64) {
        let next = self.consumer(index).and_then(|consumer| next_at(consumer, Ticks(until)));
        match (next, self.at.get_mut(index)) {
            (Some(next), Some(at)) => *at = next,
            _ => self.remove(index),
        }
    }

    /// The ring whose next record is the earliest, ties by number, and up to when it may be read before another has its turn.
    #[inline]
    fn earliest(&self) -> Option<(usize, u64)> {
        let (&first, rest) = self.at.get(..self.count)?.split_first()?;
        let (mut earliest, mut index, mut bound) = (first, 0, u64::MAX);
        for (&at, other) in rest.iter().zip(1..) {
            if at < earliest {
                // The one before has the lower number, and goes first at the same time.
                bound = bound.min(earliest - 1);
                (earliest, index) = (at, other);
            } else {
                bound = bound.min(at);
            }
        }
        Some((index, bound))
    }
}

impl Attribution {
    /// Applies what these rings hold, in order, up to the time `until`.
    fn consume<'a>(
        &mut self,
        tables: &Tables<'a>,
        turns: &mut Turns<'a>,
        until: u64,
        observer: &mut impl Observer,
    ) -> u64 {
        let (mut consumed, mut effort) = (0, Effort::NEW);
        let far = tables.used(Region::Sites) > NEAR_SITES;
        while let Some((index, bound)) = turns.earliest()
            && let Some(Some((ring, consumer))) = turns.rings.get_mut(index)
        {
            let (ring, is_alone, bound, begun) = (*ring, turns.count < 2, bound.min(until), consumer.index());
            observer.reads(ring);
            mark_ring(tables, ring, begun);
            let (mut next, mut abreast) = (None, false);
            // A copy, which lies in registers.
            let mut reader = *consumer;
            while let Some(words) = reader.peek() {
                if words[0] > bound {
                    next = Some(words[0]).filter(|&at| at <= until);
                    break;
                }
                if far {
                    look_ahead(tables, &reader);
                }
                if let Some(found) = Streak::at(&reader, &words, move |at| at <= bound) {
                    if found.is_cut && !is_alone && found.records < SHORT && effort.goes() {
                        (next, abreast) = (Some(words[0]), true);
                        break;
                    }
                    if found.records > 0 {
                        let source = (ring, reader.index().wrapping_add(found.records - 1));
                        self.apply_streak(tables, &words, &found, source, observer);
                        reader.advance_by(found.records);
                        continue;
                    }
                }
                let source = (ring, reader.index());
                if !self.apply_exactly(tables, &words, source, observer) {
                    self.apply_other(tables, words, source, observer);
                }
                reader.advance();
            }
            *consumer = reader;
            consumed += consumer.index().wrapping_sub(begun);
            match (next, turns.at.get_mut(index)) {
                (Some(next), Some(at)) => *at = next,
                _ => turns.remove(index),
            }
            if abreast {
                consumed += self.abreast(tables, turns, until, &mut effort, observer);
            }
        }
        consumed
    }

    #[inline(never)]
    fn apply_other(
        &mut self,
        tables: &Tables<'_>,
        words: [u64; RECORD_WORDS],
        source: (RingId, u64),
        observer: &mut impl Observer,
    ) {
        match Record::decode(words) {
            Some(record) => self.apply(tables, &record, Some(source), observer),
            None => add(&tables.header.loss.dropped_records, 1),
        }
    }
}

/// Of one ring, streaks of so many records need no other ring's.
const SHORT: u64 = 64;

/// So many rows and their nodes are in the caches anyway: 128 kB.
const NEAR_SITES: u64 = 256;
/// Records until a node is wanted, and until a row is: in 100,000 sites at random both are far from any cache, and a
/// record takes a third as long if they were asked for in time.
const NODE_AHEAD: u64 = 16;
/// As above; less, since the node says which row.
const ROW_AHEAD: u64 = 8;

/// Asks for the memory that records to come will need.
#[inline]
fn look_ahead(tables: &Tables<'_>, consumer: &Consumer<'_>) {
    let node = |stack: u32| tables.nodes.get(stack as usize);
    if let Some(node) = consumer.stack_ahead(NODE_AHEAD).and_then(node) {
        prefetch::for_reading(node);
    }
    if let Some(node) = consumer.stack_ahead(ROW_AHEAD).and_then(node) {
        // Relaxed: a hint.
        let number = (node.site.load(Ordering::Relaxed) & SITE_MASK) as usize;
        if let Some(row) = tables.sites.get(number.wrapping_sub(1)) {
            prefetch::for_reading(&row.key);
            prefetch::for_reading(&row.current.live_bytes);
            prefetch::for_reading(&row.current.live_births);
        }
    }
}

impl Attribution {
    /// The reading side of ring `ring`, up to `end` or to its head. A ring whose indices make no sense (its memory was
    /// written by a thread that had lost it) is emptied and what it held is counted as dropped.
    #[inline]
    fn consumer<'a>(&self, tables: &Tables<'a>, ring: u32, end: Option<u64>) -> Option<Consumer<'a>> {
        let id = RingId(ring);
        let ring = tables.ring(id)?;
        let mut consumer = match end {
            Some(end) => ring.consumer_to(end),
            None => ring.consumer(),
        };
        if self.near == Some(id) {
            consumer = consumer.of_the_producer();
        }
        if consumer.unread() > ring.capacity() {
            let skipped = consumer.skip_all().min(ring.capacity());
            add(&tables.header.loss.dropped_records, skipped);
            return None;
        }
        Some(consumer)
    }
}

/// When the consumer's next record was, if that is not after `until`.
#[inline]
fn next_at(consumer: &Consumer<'_>, until: Ticks) -> Option<u64> {
    consumer.peek().map(|words| words[0]).filter(|&at| at <= until.0)
}

/// Restores the heap below `top`.
fn sift_down(heap: &mut [Run], top: usize) {
    let mut parent = top;
    loop {
        let left = 2 * parent + 1;
        let smaller = match (heap.get(left), heap.get(left + 1)) {
            (Some(a), Some(b)) if b.key() < a.key() => left + 1,
            (Some(_), _) => left,
            (None, _) => return,
        };
        match (heap.get(parent), heap.get(smaller)) {
            (Some(up), Some(down)) if down.key() < up.key() => heap.swap(parent, smaller),
            _ => return,
        }
        parent = smaller;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ring::{Ring, words_for};
    use crate::sys::sync::AtomicU64;

    /// Few rings, in the order of (time, ring), ties included, whatever the times.
    #[test]
    #[cfg(not(loom))]
    fn rings_take_turns_by_time_and_then_by_number() {
        let words: Vec<AtomicU64> = (0..words_for(2)).map(|_| AtomicU64::new(0)).collect();
        let empty = Ring::over(&words).expect("a ring").consumer();
        let mut random = 0x9e37_79b9_7f4a_7c15u64;
        let mut below = |n: u64| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            (random >> 11) % n
        };
        for round in 0..2_000 {
            #[expect(clippy::cast_possible_truncation, reason = "at most 8")]
            let count = 1 + below(FEW as u64) as u32;
            let mut rings: Vec<Vec<u64>> = (0..count).map(|_| (0..1 + below(6)).map(|_| below(8)).collect()).collect();
            rings.iter_mut().for_each(|times| times.sort_unstable_by(|a, b| b.cmp(a)));
            let mut sorted: Vec<(u64, u32)> =
                (0..).zip(&rings).flat_map(|(ring, times)| times.iter().map(move |&at| (at, ring))).collect();
            sorted.sort_unstable();
            let mut turns = Turns::NONE;
            for (ring, times) in (0..).zip(&rings) {
                turns.push(times[times.len() - 1], ring, empty);
            }
            let mut taken = Vec::new();
            while let Some((index, bound)) = turns.earliest() {
                let ring = turns.rings[index].as_ref().expect("it waits").0.0;
                let times = &mut rings[ring as usize];
                while let Some(at) = times.pop_if(|at| *at <= bound) {
                    taken.push((at, ring));
                }
                match times.last() {
                    Some(&next) => turns.at[index] = next,
                    None => turns.remove(index),
                }
            }
            assert_eq!(taken, sorted, "round {round}");
        }
    }
}
