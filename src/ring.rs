//! The single-producer single-consumer ring of fixed-size records, one per thread.
//!
//! Promises: records come out whole and in the order in which they went in; `push` and `advance` never wait, never
//! allocate, never panic and make no system call; a full ring refuses the record and says so. Two indices count
//! records and never wrap in practice (2^64); each lies on a cache line of its own and is written by one side alone.
//! The memory is a slice of words that somebody else owns (the store's mapping, a copy of it, a test's vector), so the
//! same ring outlives its threads, can be read from a dead process's file, and can be checked by loom.
//!
//! It never checks that there is one producer and one consumer: [`registry`] hands a ring to one thread at a time, and
//! the aggregator's lock admits one consumer.
//!
//! | words | content | written by |
//! |---|---|---|
//! | 0 | head: records pushed so far | the producer |
//! | 8 | tail: records consumed so far | the consumer |
//! | 16 + 4·(i mod capacity) | record i | the producer; and, as it is, the consumer when it has read it |
//!
//! Source: Lamport's queue with each side's cached copy of the other's index (as in FastForward, MCRingBuffer, rtrb).

#![allow(unsafe_code, reason = "a slot by a masked index")]

pub(crate) mod record;
pub(crate) mod registry;

use crate::sys::prefetch;
use crate::sys::sync::{AtomicU64, Ordering};
use record::RECORD_WORDS;
#[cfg(test)]
use record::Record;

/// Records until a slot is wanted for writing: the processor of whoever drains has it, and to get it back takes longer than
/// all the rest of a record.
const AHEAD: usize = 8;

/// Words in a cache line: head and tail are this far apart, so that the two sides don't take it from each other.
pub(crate) const LINE_WORDS: usize = 8;
/// Records in a line.
const LINE_RECORDS: u64 = (LINE_WORDS / RECORD_WORDS) as u64;
/// Words before the first record: the head's line and the tail's.
pub(crate) const INDEX_WORDS: usize = 2 * LINE_WORDS;

/// The words that a ring of `records` records needs.
pub(crate) const fn words_for(records: usize) -> usize {
    INDEX_WORDS + records * RECORD_WORDS
}

/// The number of a ring in the store's table of rings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub(crate) struct RingId(pub(crate) u32);

/// The ring holds as many unread records as it can: nothing was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Full;

/// Why a record was not written at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The ring is half full or fuller: it can be drained before it must be. Said at half, and at each further eighth; there is
    /// room for the record.
    Due,
    /// As [`struct@Full`].
    Full,
}

/// A view of the words of one ring; both sides are made from it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ring<'a> {
    head: &'a AtomicU64,
    tail: &'a AtomicU64,
    /// A power of two of records.
    records: &'a [[AtomicU64; RECORD_WORDS]],
}

impl<'a> Ring<'a> {
    /// The ring over `words`; `None` unless they are [`words_for`] a power of two of records.
    pub(crate) fn over(words: &'a [AtomicU64]) -> Option<Ring<'a>> {
        let head = words.first()?;
        let tail = words.get(LINE_WORDS)?;
        let (records, rest) = words.get(INDEX_WORDS..)?.as_chunks();
        (rest.is_empty() && records.len().is_power_of_two()).then_some(Ring { head, tail, records })
    }

    /// How many records fit.
    pub(crate) fn capacity(&self) -> u64 {
        self.records.len() as u64
    }

    /// The slot of record `index`.
    #[inline(always)]
    fn slot(&self, index: u64) -> &'a [AtomicU64; RECORD_WORDS] {
        #[expect(clippy::cast_possible_truncation, reason = "masked to below the slice's length")]
        let slot = (index & (self.records.len() as u64).wrapping_sub(1)) as usize;
        // SAFETY: `over` saw a power of two of records, so there is one, and what is masked with one less lies below.
        unsafe { self.records.get_unchecked(slot) }
    }

    /// Records pushed so far.
    pub(crate) fn head(&self) -> u64 {
        // Acquire pairs with the Release in `push`: all records below the result are whole.
        self.head.load(Ordering::Acquire)
    }

    /// Records consumed so far.
    pub(crate) fn tail(&self) -> u64 {
        // Relaxed: for the consumer it is its own word; a reader of a copy is alone with it.
        self.tail.load(Ordering::Relaxed)
    }

    /// The side that writes.
    pub(crate) fn producer(self) -> Producer<'a> {
        // Relaxed: the head is the producer's own word; whoever handed the ring over (`registry`) ordered its last
        // owner's store before this load.
        let next = self.head.load(Ordering::Relaxed);
        // Which looks at the tail at the first record.
        Producer { ring: self, next, limit: next }
    }

    /// The side that reads, up to `end`, a head seen before.
    pub(crate) fn consumer_to(self, end: u64) -> Consumer<'a> {
        Consumer { ring: self, next: self.tail(), end, taker: 0 }
    }

    /// The side that reads, up to the head as it is now.
    pub(crate) fn consumer(self) -> Consumer<'a> {
        self.consumer_to(self.head())
    }
}

/// The writing side. Exactly one at a time per ring.
#[derive(Debug)]
pub(crate) struct Producer<'a> {
    ring: Ring<'a>,
    /// The head; this side alone writes it.
    next: u64,
    /// No record at or past this index may be written before another look at the tail.
    limit: u64,
}

impl Producer<'_> {
    /// Appends one record.
    #[cfg(test)]
    pub(crate) fn push(&mut self, record: &Record) -> Result<(), Full> {
        self.put(&record.encode()).map(|_| ())
    }

    /// Appends one record, of these words, or refuses it when the ring is full. True: and the ring is due.
    #[inline]
    pub(crate) fn put(&mut self, words: &[u64; RECORD_WORDS]) -> Result<bool, Full> {
        let mut is_due = false;
        loop {
            match self.push_words(words) {
                Ok(()) => return Ok(is_due),
                // There is room: the next time it is written.
                Err(Refusal::Due) => is_due = true,
                Err(Refusal::Full) => return Err(Full),
            }
        }
    }

    /// The same, but that nothing is written where the ring is due, which is found out where the tail must be looked at anyway. About
    /// two dozen instructions.
    #[inline(always)]
    pub(crate) fn push_words(&mut self, words: &[u64; RECORD_WORDS]) -> Result<(), Refusal> {
        let next = self.next;
        if next == self.limit {
            self.look_at_tail()?;
        }
        let slot = self.ring.slot(next);
        prefetch::for_writing(std::ptr::from_ref(slot).wrapping_add(AHEAD));
        for (cell, &word) in slot.iter().zip(words) {
            // Relaxed: published by the head's Release below.
            cell.store(word, Ordering::Relaxed);
        }
        self.next = next.wrapping_add(1);
        // Release pairs with the Acquire in `Ring::head`: who sees this head sees the record's words.
        self.ring.head.store(next.wrapping_add(1), Ordering::Release);
        Ok(())
    }

    #[cold]
    #[inline(never)]
    fn look_at_tail(&mut self) -> Result<(), Refusal> {
        // Acquire pairs with the Release in `advance_by`: the consumer has read a slot before we write it anew.
        let tail = self.ring.tail.load(Ordering::Acquire);
        let (capacity, unread) = (self.ring.capacity(), self.next.wrapping_sub(tail));
        if unread >= capacity {
            return Err(Refusal::Full);
        }
        if unread < capacity / 2 {
            self.limit = tail.wrapping_add(capacity / 2);
            return Ok(());
        }
        self.limit = self.next.wrapping_add((capacity / 8).max(1)).min(tail.wrapping_add(capacity));
        Err(Refusal::Due)
    }
}

/// The reading side, bounded by a head taken when it was made. Exactly one at a time per ring.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Consumer<'a> {
    ring: Ring<'a>,
    next: u64,
    /// The head that was taken; records from here on are for the next consumer.
    end: u64,
    /// Which record of each line takes the line: the first; or none, where it is this thread that writes the ring.
    taker: u64,
}

impl Consumer<'_> {
    /// The same for the thread that writes the ring: its processor has the lines.
    pub(crate) fn of_the_producer(self) -> Self {
        Consumer { taker: LINE_RECORDS, ..self }
    }

    /// Records left up to the head that was taken.
    pub(crate) fn unread(&self) -> u64 {
        self.end.wrapping_sub(self.next)
    }

    /// The index of the record that `peek` shows.
    pub(crate) fn index(&self) -> u64 {
        self.next
    }

    /// The next record's words, not consumed; `None` at the head that was taken.
    #[inline]
    pub(crate) fn peek(&self) -> Option<[u64; RECORD_WORDS]> {
        if self.next == self.end {
            return None;
        }
        // Relaxed: `Ring::head`'s Acquire ordered these words before.
        Some(self.ring.slot(self.next).each_ref().map(|cell| cell.load(Ordering::Relaxed)))
    }

    /// The words of the record `distance` after the one that `peek` shows; `None` past the head that was taken.
    #[inline]
    pub(crate) fn ahead(&self, distance: u64) -> Option<[u64; RECORD_WORDS]> {
        if self.unread() <= distance {
            return None;
        }
        // Relaxed: as in `peek`.
        let slot = self.ring.slot(self.next.wrapping_add(distance));
        Some(slot.each_ref().map(|cell| cell.load(Ordering::Relaxed)))
    }

    /// The stack of the record `distance` after the one that `peek` shows.
    #[inline]
    pub(crate) fn stack_ahead(&self, distance: u64) -> Option<u32> {
        if self.unread() <= distance {
            return None;
        }
        let slot = self.ring.slot(self.next.wrapping_add(distance));
        #[expect(clippy::cast_possible_truncation, reason = "the lower half of the last word")]
        // Relaxed: as in `peek`.
        Some(slot[record::STACK_WORD].load(Ordering::Relaxed) as u32)
    }

    /// Before record `index`, which was read and begins a line, is given back: takes the line from the producer's processor, by
    /// writing what is there. Else it stays with both, shared, and the producer waits for each line that it writes anew: asking
    /// for it ahead (`AHEAD`) has an effect where its processor does not have the line, but not where it has it to read. What that
    /// costs depends on how far apart the processors are: on the machine of `docs/benchmarks` 6 ns a record, at times 50.
    #[inline(always)]
    fn take_line(&self, index: u64) {
        let word = &self.ring.slot(index)[0];
        // Relaxed: the producer writes here again only after it has seen the tail.
        word.store(word.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    /// Consumes the record that `peek` showed.
    #[inline(always)]
    pub(crate) fn advance(&mut self) {
        debug_assert!(self.next != self.end, "shown, so there");
        if self.next % LINE_RECORDS == self.taker {
            self.take_line(self.next);
        }
        self.next = self.next.wrapping_add(1);
        // Release: as in `advance_by`.
        self.ring.tail.store(self.next, Ordering::Release);
    }

    /// Consumes `count` records, the one that `peek` shows and those after it; at most what is left.
    #[inline]
    pub(crate) fn advance_by(&mut self, count: u64) {
        let count = count.min(self.unread());
        if self.taker == 0 {
            // To the first line that begins here.
            let mut distance = self.next.wrapping_neg() % LINE_RECORDS;
            while distance < count {
                self.take_line(self.next.wrapping_add(distance));
                distance += LINE_RECORDS;
            }
        }
        self.next = self.next.wrapping_add(count);
        // Release pairs with the Acquire in `look_at_tail`: our reads of the slots come before the
        // producer's next writes to them. It also orders what was done with the records before their disappearance.
        self.ring.tail.store(self.next, Ordering::Release);
    }

    /// Drops everything up to the head that was taken and says how many records that were: for a ring whose indices
    /// make no sense.
    #[cold]
    pub(crate) fn skip_all(&mut self) -> u64 {
        let skipped = self.unread();
        self.next = self.end;
        // Release: as in `advance_by`.
        self.ring.tail.store(self.next, Ordering::Release);
        skipped
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ring::record::Kind;
    use crate::sampler::weight::IntervalCode;
    use crate::units::{StackId, Ticks};

    pub(super) fn record(at: u64) -> Record {
        Record {
            at: Ticks(at),
            kind: Kind::Alloc,
            #[expect(clippy::cast_possible_truncation, reason = "a mark that ties the words together")]
            stack: StackId(at as u32),
            interval: IntervalCode::EXACT,
            size: at & 0xffff,
            old_size: 0,
            old_interval: IntervalCode::EXACT,
            birth: Ticks(0),
            carried: 0.0,
        }
    }

    fn words(records: usize) -> Vec<AtomicU64> {
        (0..words_for(records)).map(|_| AtomicU64::new(0)).collect()
    }

    #[test]
    #[cfg(not(loom))]
    fn behaves_as_a_bounded_queue() {
        let seed = 0x9e37_79b9_7f4a_7c15u64;
        println!("seed {seed:#x}");
        let mut random = seed;
        let words = words(8);
        let ring = Ring::over(&words).expect("a power of two");
        let mut producer = ring.producer();
        let mut oracle = std::collections::VecDeque::new();
        let mut at = 0;
        for _ in 0..100_000 {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            if random & 1 == 0 {
                at += 1;
                let pushed = producer.push(&record(at));
                assert_eq!(pushed.is_ok(), oracle.len() < 8);
                if pushed.is_ok() {
                    oracle.push_back(at);
                }
            } else if random & 2 == 0 {
                let mut consumer = ring.consumer();
                for _ in 0..(random >> 8) % 10 {
                    let seen = consumer.peek().and_then(Record::decode);
                    assert_eq!(seen, oracle.pop_front().map(record));
                    if seen.is_some() {
                        consumer.advance();
                    }
                }
            } else if random & 0xff == 0xff {
                // A thread ends and another takes the ring over.
                producer = ring.producer();
            }
        }
        assert!(at > 10_000);
    }

    /// At half, and at each further eighth, a ring says that it is due, and writes nothing; to push again writes. A full one refuses
    /// each time, and what was drained meanwhile is found out where the tail must be looked at.
    #[test]
    #[cfg(not(loom))]
    fn says_from_half_on_that_it_is_due() {
        let words = words(64);
        let ring = Ring::over(&words).expect("a power of two");
        let mut producer = ring.producer();
        let mut due = Vec::new();
        for at in 1..=64 {
            let was_due = if at % 2 == 0 {
                producer.put(&record(at).encode()).expect("room")
            } else {
                let said = producer.push_words(&record(at).encode());
                if said.is_err() {
                    assert_eq!((said, ring.head()), (Err(Refusal::Due), at - 1), "nothing was written");
                    producer.push_words(&record(at).encode()).expect("room");
                }
                said.is_err()
            };
            if was_due {
                due.push(at - 1);
            }
        }
        assert_eq!(due, [32, 40, 48, 56]);
        for _ in 0..2 {
            assert_eq!(producer.push_words(&record(65).encode()), Err(Refusal::Full));
            assert_eq!(producer.push(&record(65)), Err(Full));
        }
        ring.consumer().advance_by(32);
        assert_eq!(producer.push_words(&record(65).encode()), Err(Refusal::Due));
        assert_eq!(producer.push(&record(65)), Ok(()));
        ring.consumer().advance_by(63);
        // Half of the ring is empty: not due before it is half full.
        while producer.push_words(&record(66).encode()).is_ok() {}
        assert_eq!(ring.consumer().unread(), 32);
    }

    /// What was read stays as it was, wherever in a line the reading begins and ends: a line is taken by writing what is there.
    #[test]
    #[cfg(not(loom))]
    fn what_is_given_back_is_as_it_was() {
        for (begin, count, is_near) in (0..5).flat_map(|b| (0..6).flat_map(move |c| [(b, c, false), (b, c, true)])) {
            let words = words(8);
            let ring = Ring::over(&words).expect("a power of two");
            let mut producer = ring.producer();
            // Around the end of the ring, too.
            for at in 1..=8 {
                producer.push(&record(at)).expect("room");
            }
            ring.consumer().advance_by(begin);
            for at in 9..9 + begin {
                producer.push(&record(at)).expect("room");
            }
            let records =
                || words.iter().skip(INDEX_WORDS).map(|word| word.load(Ordering::Relaxed)).collect::<Vec<_>>();
            let before = records();
            let mut consumer = if is_near { ring.consumer().of_the_producer() } else { ring.consumer() };
            consumer.advance_by(count);
            consumer.advance();
            assert_eq!(records(), before, "from {begin}, {count} and one");
            assert_eq!((consumer.index(), ring.tail()), (begin + count + 1, begin + count + 1));
        }
    }

    #[test]
    #[cfg(not(loom))]
    fn refuses_slices_that_are_no_ring() {
        for bad in [0, 1, 8, 16, 17, 16 + 4 * 3, 16 + 4 * 4 + 1] {
            let words: Vec<AtomicU64> = (0..bad).map(|_| AtomicU64::new(0)).collect();
            assert!(Ring::over(&words).is_none(), "{bad} words");
        }
    }

    #[test]
    #[cfg(not(loom))]
    fn two_threads_hand_over_a_million_records() {
        let words = words(64);
        let ring = Ring::over(&words).expect("a power of two");
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let mut producer = ring.producer();
                for at in 1..=1_000_000 {
                    while producer.push(&record(at)).is_err() {
                        std::thread::yield_now();
                    }
                }
            });
            let mut expected = 1;
            while expected <= 1_000_000 {
                let mut consumer = ring.consumer();
                if consumer.unread() == 0 {
                    std::thread::yield_now();
                }
                while let Some(words) = consumer.peek() {
                    assert_eq!(Record::decode(words), Some(record(expected)));
                    expected += 1;
                    consumer.advance();
                }
            }
        });
    }

    /// Three records through a ring of two, in all interleavings: each arrives whole, in order, once.
    #[test]
    #[cfg(loom)]
    fn loom_hands_over_whole_records_in_order() {
        loom::model(|| {
            let words: &'static [AtomicU64] = Box::leak(words(2).into_boxed_slice());
            let ring = Ring::over(words).expect("a power of two");
            let producer = loom::thread::spawn(move || {
                let mut producer = ring.producer();
                let mut pushed = 0;
                for at in 1..=3 {
                    if producer.push(&record(at)).is_err() {
                        break;
                    }
                    pushed = at;
                }
                pushed
            });
            let mut expected = 1;
            for _ in 0..2 {
                let mut consumer = ring.consumer();
                while let Some(words) = consumer.peek() {
                    assert_eq!(Record::decode(words), Some(record(expected)));
                    expected += 1;
                    consumer.advance();
                }
            }
            let pushed = producer.join().expect("no panic");
            let mut consumer = ring.consumer();
            while let Some(words) = consumer.peek() {
                assert_eq!(Record::decode(words), Some(record(expected)));
                expected += 1;
                consumer.advance();
            }
            assert_eq!(expected, pushed + 1);
        });
    }
}
