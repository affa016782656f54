//! Streaks: equal records one after another, applied as one.
//!
//! In exact mode a loop that makes and drops a block sends the same two records again and again, and one that fills a
//! table the same record. What such a streak does to its site is known from its first record and its length:
//! - **pairs** (a birth, then that very block's free) leave everything live as it was; a peak that they reach, of the
//!   site or of the process, is reached by each of them alike, so that looking at the last one suffices;
//! - **births** only raise, so that the highest moment is after the last one.
//!
//! So the result is what applying them one by one gives, to the last bit, but for the number of peaks counted, which
//! says no more than 'another': `store::tests::streaks` compares the two.
//!
//! Promises: looks only at records of one ring, up to the limit that the merge sets; no allocation, no wait, no panic.

use crate::ring::record::{Kind, RECORD_WORDS, SIZE_MASK, STACK_WORD};
use crate::ring::{Consumer, RingId};
use crate::sampler::weight::BYTES_FRACTION_BITS;
use crate::store::attribution::Attribution;
use crate::store::attribution::size_class;
use crate::store::exact::{Change, ONE, begin, stack_of};
use crate::store::observer::Observer;
use crate::store::tables::Tables;
use crate::store::words::{add, get, set, signed};
use crate::units::{SiteId, Ticks};

/// Records in a streak at most: so many may a reader of a dead writer's file have to step over.
pub(crate) const MOST_RECORDS: u64 = 512;

/// What a streak is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Streak {
    /// So many births, each followed by the free of that block; how long the blocks lived in all, and when the last
    /// one was born.
    Pairs { times: u64, ages: u64, last_birth: Ticks },
    /// So many births; their moments' sum, in ticks since the first.
    Births { times: u64, since_first: u64 },
}

impl Streak {
    /// The streak at the head of `consumer`, the ticks of its last record, and how many records it is made of; `None`
    /// where there is none. `may` says whether a record of that time may be applied now.
    #[inline]
    pub(super) fn at(consumer: &Consumer<'_>, first: &[u64; RECORD_WORDS], may: impl Fn(u64) -> bool) -> Option<Found> {
        if first[1] >> 48 != Kind::Alloc as u64 {
            // No birth, or no exact one: the interval codes lie above the kind.
            return None;
        }
        // One word first: mostly it is another site's.
        if u64::from(consumer.stack_ahead(1)?) != first[STACK_WORD] {
            return None;
        }
        let second = consumer.ahead(1)?;
        if frees(&second, first) {
            return Some(pairs(consumer, first, &second, may));
        }
        // A copy, so that the reading side itself need not lie in memory.
        (second[1] == first[1] && may(second[0])).then(|| births(*consumer, first, may))
    }
}

/// A streak that was applied, for whoever watches the sites.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AppliedStreak {
    pub(crate) site: SiteId,
    pub(crate) streak: Streak,
    /// Of each block, in bytes.
    pub(crate) size: u64,
    pub(crate) ring: RingId,
}

impl Attribution {
    /// Applies the streak that begins with the record `first`, a birth of exact mode, and whose last record stands at
    /// `source`, in the ring that is marked: as its records one by one. A streak of one pair, as programs without loops make
    /// them, costs some 100 instructions, and what the observer takes.
    #[inline(always)]
    pub(super) fn apply_streak(
        &mut self,
        tables: &Tables<'_>,
        first: &[u64; RECORD_WORDS],
        found: &Found,
        source: (RingId, u64),
        observer: &mut impl Observer,
    ) {
        let Some(change) = begin(tables, stack_of(first), source.1) else { return };
        let size = first[1] & SIZE_MASK;
        change.stamp(false);
        match found.streak {
            Streak::Pairs { times, ages, last_birth } => {
                pairs_live_and_die(tables, &change, size, times, ages, last_birth)
            }
            Streak::Births { times, since_first } => {
                let since_base = first[0].saturating_sub(self.base);
                births_live(tables, &change, size, times, (since_base, since_first), found.last_at);
            }
        }
        change.end(found.last_at.0);
        observer.applied_streak(&AppliedStreak { site: change.site, streak: found.streak, size, ring: source.0 });
    }
}

/// So many blocks of `size` bytes, one after another, that lived for `ages` ticks in all.
#[inline(always)]
fn pairs_live_and_die(tables: &Tables<'_>, change: &Change<'_>, size: u64, times: u64, ages: u64, last_birth: Ticks) {
    let (bytes, cells, global) = (size << BYTES_FRACTION_BITS, &change.row.current, change.global);
    let live_bytes = get(&global.live_bytes).wrapping_add(bytes);
    let mut peak = None;
    if signed(live_bytes) >= signed(get(&global.max_bytes)) {
        set(&global.max_bytes, live_bytes);
        set(&global.max_blocks, get(&global.live_blocks).wrapping_add(ONE));
        set(&global.max_at, last_birth.0);
        // It ends with the free.
        add(&global.peak_generation, 1);
        peak = Some(get(&global.peak_generation));
    }
    cells.live_blip(bytes, ONE, peak);
    let (bytes, blocks) = (bytes.wrapping_mul(times), ONE.wrapping_mul(times));
    cells.total_add_exactly(bytes, blocks);
    cells.freed_together(blocks, ONE, ages);
    if let Some(class) = size_class(tables, size, change.epoch) {
        class.current.total_add_exactly(bytes, blocks);
    }
}

/// So many blocks of `size` bytes that stay; `since` are the ticks from the profile's begin to the first birth, and those from
/// there to each, summed up.
#[inline(never)]
fn births_live(tables: &Tables<'_>, change: &Change<'_>, size: u64, times: u64, since: (u64, u64), last_at: Ticks) {
    let cells = &change.row.current;
    let (bytes, blocks) = ((size << BYTES_FRACTION_BITS).wrapping_mul(times), ONE.wrapping_mul(times));
    cells.live_rises_exactly(bytes, blocks);
    cells.total_add_exactly(bytes, blocks);
    let since_base = u128::from(times) * u128::from(since.0) + u128::from(since.1);
    cells.live_births.add(u128::from(ONE) * since_base);
    if let Some(class) = size_class(tables, size, change.epoch) {
        class.current.live_add_exactly(bytes, blocks);
        class.current.total_add_exactly(bytes, blocks);
    }
    change.rises(bytes, blocks, last_at.0);
}

/// A streak, and where it ends.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found {
    pub(super) streak: Streak,
    pub(super) records: u64,
    pub(super) last_at: Ticks,
    /// Of pairs: there are more, whose time has not come. Then there may be none yet.
    pub(super) is_cut: bool,
}

/// Is `free` the free of the block that `birth` made?
#[inline]
pub(super) fn frees(free: &[u64; RECORD_WORDS], birth: &[u64; RECORD_WORDS]) -> bool {
    let kinds = ((Kind::Free as u64) ^ (Kind::Alloc as u64)) << 48;
    free[1] ^ birth[1] == kinds && free[2] == birth[0] && free[3] == birth[3]
}

#[inline(always)]
fn pairs(
    consumer: &Consumer<'_>,
    first: &[u64; RECORD_WORDS],
    second: &[u64; RECORD_WORDS],
    may: impl Fn(u64) -> bool,
) -> Found {
    let (mut times, mut ages, mut last_at) = (0, 0u64, 0);
    let (mut birth_at, mut free_at, mut last_birth) = (first[0], second[0], 0);
    let mut is_cut = false;
    loop {
        if !may(free_at) {
            is_cut = true;
            break;
        }
        times += 1;
        // Wraps, as all sums do: a corrupt file may hold anything.
        ages = ages.wrapping_add(free_at.saturating_sub(birth_at));
        (last_birth, last_at) = (birth_at, free_at);
        // One word first, as in `at`.
        if 2 * times < MOST_RECORDS
            && consumer.stack_ahead(2 * times).map(u64::from) == Some(first[STACK_WORD])
            && let Some(birth) = consumer.ahead(2 * times)
            && birth[1] == first[1]
            && birth[3] == first[3]
            && let Some(free) = consumer.ahead(2 * times + 1)
            && frees(&free, &birth)
        {
            (birth_at, free_at) = (birth[0], free[0]);
        } else {
            break;
        }
    }
    let streak = Streak::Pairs { times, ages, last_birth: Ticks(last_birth) };
    Found { streak, records: 2 * times, last_at: Ticks(last_at), is_cut }
}

/// The streak of the next `times` pairs, which are known to be alike.
pub(super) fn of_pairs(consumer: &Consumer<'_>, times: u64) -> Found {
    let (mut ages, mut last_birth, mut last_at) = (0u64, 0, 0);
    for pair in 0..times {
        if let (Some(birth), Some(free)) = (consumer.ahead(2 * pair), consumer.ahead(2 * pair + 1)) {
            ages = ages.wrapping_add(free[0].saturating_sub(birth[0]));
            (last_birth, last_at) = (birth[0], free[0]);
        }
    }
    let streak = Streak::Pairs { times, ages, last_birth: Ticks(last_birth) };
    Found { streak, records: 2 * times, last_at: Ticks(last_at), is_cut: false }
}

#[inline(always)]
fn births(consumer: Consumer<'_>, first: &[u64; RECORD_WORDS], may: impl Fn(u64) -> bool) -> Found {
    let (mut times, mut since_first, mut last_at) = (1, 0u64, first[0]);
    while times < MOST_RECORDS
        && let Some(birth) = consumer.ahead(times)
        && birth[1] == first[1]
        && birth[3] == first[3]
        && may(birth[0])
    {
        times += 1;
        since_first = since_first.wrapping_add(birth[0].saturating_sub(first[0]));
        last_at = birth[0];
    }
    Found { streak: Streak::Births { times, since_first }, records: times, last_at: Ticks(last_at), is_cut: false }
}
