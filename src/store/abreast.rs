//! Streaks abreast: several rings that each hold a streak of pairs, whose records alternate in time.
//!
//! Threads that run at once and each make and drop a block again and again send records of which hardly two of one ring
//! follow each other in time. The order between rings shows in peaks alone: all else is sums. And of rings that hold
//! nothing but pairs the next peaks are known beforehand: each has one block at most that is live for a while, so that
//! the highest moment is that of them all at once. Where that moment is no news, neither to the process's peak nor to
//! a site's nor to the observer, each ring's pairs are applied as one streak (`store::streak`), up to a common horizon:
//! what comes after the horizon may be anything, but for a birth whose free lies beyond it.
//!
//! Such births of before the horizon are left for the usual order. They are then applied late, but still one block of
//! each ring at most is live, and that is no news; all that happens beyond the horizon finds all of before it applied.
//!
//! **Where the process's peak is the very moment of them all at once**, the last such moment is the one that counts: its
//! time, and what each site held then. It is looked for from the horizon backwards, and if there is one, it is where the
//! streaks end: the births that make it, and the frees that end it, are applied in the usual order.
//!
//! So the result is what the usual order leaves, to the last bit: `store::tests::abreast` compares the two.
//!
//! Promises: as `store::merge`; of a killed writer's rings some are read further in time than others, which its readers
//! go on with by the same code.

use crate::ring::record::{Kind, RECORD_WORDS, SIZE_MASK};
use crate::ring::{Consumer, RingId};
use crate::sampler::weight::BYTES_FRACTION_BITS;
use crate::store::attribution::{Attribution, known_site_row, mark_ring};
use crate::store::exact::stack_of;
use crate::store::merge::{FEW, Turns};
use crate::store::observer::Observer;
use crate::store::row::Row;
use crate::store::streak::{MOST_RECORDS, frees, of_pairs};
use crate::store::tables::Tables;
use crate::store::words::{get, signed};
use crate::units::{SiteId, StackId};
use std::cmp::Ordering;

/// How far to look, and when to look at all, by what came of it before: looking costs some hundred instructions and ten a
/// pair, which records in another order must not pay each time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Effort {
    /// Chances to be let pass.
    wait: u32,
    /// Pairs of a ring to look at.
    most: u64,
}

/// Pairs of a ring to look at in the beginning, and at least.
const LEAST: u64 = 16;
/// A streak's.
const MOST: u64 = MOST_RECORDS / 2;
/// Chances let pass where a peak is within reach: it lasts for a while.
const LONG_WAIT: u32 = 128;
/// And where little was found.
const SHORT_WAIT: u32 = 8;
/// Less is little: what it saves is what it costs.
const FEW_RECORDS: u64 = 16;

impl Effort {
    pub(super) const NEW: Effort = Effort { wait: 0, most: LEAST };

    /// Is this chance to be taken?
    pub(super) fn goes(&mut self) -> bool {
        let goes = self.wait == 0;
        self.wait = self.wait.saturating_sub(1);
        goes
    }

    fn learns(&mut self, consumed: u64) {
        (self.most, self.wait) = match consumed < FEW_RECORDS {
            true => ((self.most / 2).max(LEAST), SHORT_WAIT),
            false => ((self.most * 2).min(MOST), 0),
        };
    }
}

/// When, and of which of the rings: the order in which records are applied.
type Key = (u64, usize);

/// A ring whose next record is a pair's birth.
#[derive(Clone, Copy)]
struct Lane<'a> {
    index: usize,
    ring: RingId,
    consumer: Consumer<'a>,
    birth: [u64; RECORD_WORDS],
    /// Whole pairs up to the horizon.
    pairs: u64,
}

impl Attribution {
    /// Applies what can be applied as streaks of several rings; the number of records consumed, which may be 0. The earliest
    /// ring's next record is a pair's birth.
    #[inline(never)]
    pub(super) fn abreast(
        &mut self,
        tables: &Tables<'_>,
        turns: &mut Turns<'_>,
        until: u64,
        effort: &mut Effort,
        observer: &mut impl Observer,
    ) -> u64 {
        let mut lanes: [Option<Lane<'_>>; FEW] = [None; FEW];
        let mut horizon = enter(turns, &mut lanes, (until, usize::MAX));
        for lane in lanes.iter_mut().flatten() {
            horizon = lane.look(horizon, effort.most);
        }
        let mut count = 0;
        for place in &mut lanes {
            match place {
                Some(lane) if lane.birth_key(0) < horizon => {
                    lane.end_at(horizon);
                    count += 1;
                }
                _ => *place = None,
            }
        }
        if count < 2 {
            // Another one's block is live: soon it is not.
            effort.wait = 1;
            return 0;
        }
        match reach(tables, &lanes, observer) {
            Reach::News => {
                *effort = Effort { wait: LONG_WAIT, most: LEAST };
                return 0;
            }
            Reach::Peak => end_at_last_peak(&mut lanes, horizon),
            Reach::Nothing => {}
        }
        let mut consumed = 0;
        for lane in lanes.iter().flatten() {
            consumed += self.apply_lane(tables, lane, turns, observer);
        }
        for index in (0..FEW).rev().filter(|&index| lanes.get(index).is_some_and(Option::is_some)) {
            turns.look_again(index, until);
        }
        effort.learns(consumed);
        consumed
    }

    fn apply_lane(
        &mut self,
        tables: &Tables<'_>,
        lane: &Lane<'_>,
        turns: &mut Turns<'_>,
        observer: &mut impl Observer,
    ) -> u64 {
        let Some(consumer) = turns.consumer(lane.index).filter(|_| lane.pairs > 0) else { return 0 };
        let found = of_pairs(consumer, lane.pairs);
        observer.reads(lane.ring);
        mark_ring(tables, lane.ring, consumer.index());
        let source = (lane.ring, consumer.index().wrapping_add(found.records - 1));
        self.apply_streak(tables, &lane.birth, &found, source, observer);
        consumer.advance_by(found.records);
        found.records
    }
}

/// Makes lanes of the rings that begin with a pair; the horizon ends before all others' first records.
fn enter<'a>(turns: &Turns<'a>, lanes: &mut [Option<Lane<'a>>; FEW], mut horizon: Key) -> Key {
    for (index, place) in lanes.iter_mut().enumerate() {
        let Some((at, ring, consumer)) = turns.waiting(index) else { break };
        match consumer.peek().zip(consumer.ahead(1)) {
            Some((birth, free)) if is_exact_birth(&birth) && frees(&free, &birth) => {
                *place = Some(Lane { index, ring, consumer, birth, pairs: 0 });
            }
            _ => horizon = horizon.min((at, index)),
        }
    }
    horizon
}

/// A birth of exact mode, of a block that has a size: without one, the most bytes would not mean the most blocks.
fn is_exact_birth(words: &[u64; RECORD_WORDS]) -> bool {
    words[1] >> SIZE_MASK.count_ones() == Kind::Alloc as u64 && words[1] & SIZE_MASK != 0
}

impl Lane<'_> {
    fn size(&self) -> u64 {
        self.birth[1] & SIZE_MASK
    }

    fn stack(&self) -> StackId {
        stack_of(&self.birth)
    }

    /// Its weight.
    fn bytes(&self) -> i64 {
        signed(self.size() << BYTES_FRACTION_BITS)
    }

    /// Of the birth that begins pair `number`; after all there are: never.
    fn birth_key(&self, number: u64) -> Key {
        self.consumer.ahead(2 * number).map_or((u64::MAX, usize::MAX), |words| (words[0], self.index))
    }

    /// Of the free that ends pair `number`; beyond the whole ones: later than all.
    fn free_key(&self, number: u64) -> Key {
        match self.consumer.ahead(2 * number + 1) {
            Some(words) if number < self.pairs => (words[0], self.index),
            _ => (u64::MAX, usize::MAX),
        }
    }

    /// Counts pairs up to the horizon, and gives the horizon, nearer if something else comes before it.
    fn look(&mut self, horizon: Key, most: u64) -> Key {
        let first = &self.birth;
        loop {
            let Some(birth) = self.consumer.ahead(2 * self.pairs) else { return horizon };
            let key = (birth[0], self.index);
            if key >= horizon {
                return horizon;
            }
            if self.pairs == most || birth[1] != first[1] || birth[3] != first[3] {
                return key;
            }
            match self.consumer.ahead(2 * self.pairs + 1) {
                Some(free) if !frees(&free, &birth) => return key,
                Some(free) if (free[0], self.index) < horizon => self.pairs += 1,
                // The block outlives the horizon, or its free is not there yet.
                _ => return horizon,
            }
        }
    }

    /// The horizon came nearer.
    fn end_at(&mut self, horizon: Key) {
        while let Some(last) = self.pairs.checked_sub(1)
            && self.free_key(last) >= horizon
        {
            self.pairs = last;
        }
    }
}

/// What of them all at once would be.
enum Reach {
    /// Nothing that shows.
    Nothing,
    /// The process's peak, once more.
    Peak,
    /// Higher than what is known.
    News,
}

/// A lane's site, and its row, if it has one.
type Place<'a> = (SiteId, &'a Row);

/// How high all lanes' blocks at once would reach.
fn reach(tables: &Tables<'_>, lanes: &[Option<Lane<'_>>; FEW], observer: &mut impl Observer) -> Reach {
    let mut places: [Option<Place<'_>>; FEW] = [None; FEW];
    let mut all = 0i64;
    for (lane, place) in lanes.iter().zip(&mut places) {
        let Some(lane) = lane else { continue };
        *place = known_site_row(tables, lane.stack());
        if place.is_none() {
            return Reach::News;
        }
        all = all.saturating_add(lane.bytes());
    }
    for (lane, place) in lanes.iter().zip(&places) {
        let (Some(lane), Some((site, row))) = (lane, place) else { continue };
        let at_site = || lanes.iter().zip(&places).filter(|(_, other)| other.is_some_and(|(other, _)| other == *site));
        let (bytes, blocks) = at_site()
            .filter_map(|(lane, _)| lane.as_ref())
            .fold((0i64, 0), |(bytes, blocks), lane| (bytes.saturating_add(lane.bytes()), blocks + 1));
        if !row.current.has_reached(bytes, blocks) || !observer.may_reorder(*site, lane.size(), lane.ring, blocks) {
            return Reach::News;
        }
    }
    let global = &tables.header.global;
    match signed(get(&global.live_bytes)).saturating_add(all).cmp(&signed(get(&global.max_bytes))) {
        Ordering::Less => Reach::Nothing,
        Ordering::Equal => Reach::Peak,
        Ordering::Greater => Reach::News,
    }
}

/// Ends the lanes' pairs before the last moment at which a block of each is live, if there is one before the horizon.
///
/// The interval that begins last and the one that ends first tell: if they meet, so do all; if not, the one that begins last
/// meets no earlier one of the other's either.
fn end_at_last_peak(lanes: &mut [Option<Lane<'_>>; FEW], horizon: Key) {
    let mut last = [0u64; FEW];
    for (lane, last) in lanes.iter().zip(&mut last) {
        let Some(lane) = lane else { continue };
        *last = lane.pairs;
        // The one that crosses the horizon, if there is one.
        if lane.birth_key(lane.pairs) >= horizon {
            match lane.pairs.checked_sub(1) {
                Some(whole) => *last = whole,
                None => return,
            }
        }
    }
    let mut blocks: [Option<(Key, Key)>; FEW] = std::array::from_fn(|index| {
        let (lane, number) = (lanes.get(index)?.as_ref()?, *last.get(index)?);
        Some((lane.birth_key(number), lane.free_key(number)))
    });
    loop {
        let (mut begins, mut ends) = ((0, 0), (u64::MAX, usize::MAX));
        for &(birth, free) in blocks.iter().flatten() {
            (begins, ends) = (begins.max(birth), ends.min(free));
        }
        // Of one ring: the same block's.
        if begins < ends || begins.1 == ends.1 {
            break;
        }
        let (Some(Some(lane)), Some(block)) = (lanes.get(begins.1), blocks.get_mut(begins.1)) else { return };
        match last.get_mut(begins.1).filter(|number| **number > 0) {
            Some(number) => *number -= 1,
            None => return,
        }
        *block = last.get(begins.1).map(|&number| (lane.birth_key(number), lane.free_key(number)));
    }
    for (lane, &number) in lanes.iter_mut().zip(&last) {
        if let Some(lane) = lane {
            lane.pairs = number;
        }
    }
}
