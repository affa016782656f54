//! The drain: all rings' records up to a time, merged by their ticks and applied.
//!
//! Promises: records of one ring keep their order; records of different rings are applied by ticks, ties by ring
//! number, as far as they were visible when the drain took the heads; no record after `until` is consumed, and no more
//! than the rings held at that moment, so the work is bounded. A record that arrives too late for its time is applied
//! by the next drain: sums don't mind, only a peak may be seen a little lower. No allocation, no wait, no panic.
//!
//! A heap of the rings that have something, keyed by their next record's time; the top ring is drained for as long as
//! it stays the earliest, so one busy ring costs one comparison a record and empty rings two loads each.
//! Source: Knuth, TAOCP 3, 5.4.1 (replacement on a heap of runs).

use crate::ring::record::{RECORD_WORDS, Record};
use crate::ring::{Consumer, RingId};
use crate::store::attribution::{Attribution, Observer};
use crate::store::layout::{MAX_RINGS, Region};
use crate::store::row::add;
use crate::store::streak::Streak;
use crate::store::tables::Tables;
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
        // Taken out of `self` so that `apply` can borrow it; an empty box allocates nothing.
        let mut runs = std::mem::take(&mut self.scratch.runs);
        let mut length = 0;
        let used = tables.used(Region::Rings).min(runs.len() as u64);
        #[expect(clippy::cast_possible_truncation, reason = "at most 4096")]
        for ring in 0..used as u32 {
            let Some(consumer) = consumer(tables, ring, None) else { continue };
            if let (Some(at), Some(run)) = (next_at(&consumer, until), runs.get_mut(length)) {
                *run = Run { at, ring, end: consumer.index().wrapping_add(consumer.unread()) };
                length += 1;
            }
        }
        let heap = runs.get_mut(..length).unwrap_or_default();
        for top in (0..length / 2).rev() {
            sift_down(heap, top);
        }
        let consumed = self.merge(tables, until, heap, observer);
        self.scratch.runs = runs;
        consumed
    }

    fn merge(&mut self, tables: &Tables<'_>, until: Ticks, runs: &mut [Run], observer: &mut impl Observer) -> u64 {
        let mut length = runs.len();
        let mut consumed = 0;
        while let Some(heap) = runs.get_mut(..length)
            && let Some(&top) = heap.first()
        {
            let second = heap.get(1..length.min(3)).unwrap_or_default().iter().map(Run::key).min();
            let mut next = None;
            if let Some(mut consumer) = consumer(tables, top.ring, Some(top.end)) {
                // The latest that this ring may give before another one has its turn: ties go by number.
                let bound = second.map_or(u64::MAX, |(at, ring)| at.saturating_sub(u64::from(ring < top.ring)));
                let bound = bound.min(until.0);
                consumed += self.consume(tables, top.ring, &mut consumer, bound, observer);
                next = next_at(&consumer, until);
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

impl Attribution {
    /// Applies what `consumer` shows of ring `ring`, up to the time `bound`.
    fn consume(
        &mut self,
        tables: &Tables<'_>,
        ring: u32,
        consumer: &mut Consumer<'_>,
        bound: u64,
        observer: &mut impl Observer,
    ) -> u64 {
        let begun = consumer.index();
        observer.reads(RingId(ring));
        let far = tables.used(Region::Sites) > NEAR_SITES;
        while let Some(words) = consumer.peek()
            && words[0] <= bound
        {
            if far {
                look_ahead(tables, consumer);
            }
            let streak = Streak::at(consumer, &words, |at| at <= bound);
            let records = streak.map_or(1, |streak| streak.records);
            let source = (RingId(ring), consumer.index().wrapping_add(records - 1));
            match streak {
                Some(found) => match Record::decode(words) {
                    Some(first) => self.apply_streak(tables, &first, &found, source, observer),
                    None => add(&tables.header.loss.dropped_records, 1),
                },
                None if self.apply_exactly(tables, &words, source, observer) => {}
                None => self.apply_other(tables, words, source, observer),
            }
            consumer.advance_by(records);
        }
        consumer.index().wrapping_sub(begun)
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

/// The reading side of ring `ring`, up to `end` or to its head. A ring whose indices make no sense (its memory was
/// written by a thread that had lost it) is emptied and what it held is counted as dropped.
#[inline]
fn consumer<'a>(tables: &Tables<'a>, ring: u32, end: Option<u64>) -> Option<Consumer<'a>> {
    let ring = tables.ring(RingId(ring))?;
    let mut consumer = match end {
        Some(end) => ring.consumer_to(end),
        None => ring.consumer(),
    };
    if consumer.unread() > ring.capacity() {
        let skipped = consumer.skip_all().min(ring.capacity());
        add(&tables.header.loss.dropped_records, skipped);
        return None;
    }
    Some(consumer)
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
