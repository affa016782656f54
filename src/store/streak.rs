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

use crate::ring::record::{Kind, RECORD_WORDS, Record, STACK_WORD};
use crate::ring::{Consumer, RingId};
use crate::sampler::weight::Weight;
use crate::store::attribution::{Applied, Attribution, Observer, exactly, mark_pending, row_id, site_row, size_class};
use crate::store::row::{add, get, set, signed};
use crate::store::tables::Tables;
use crate::units::Ticks;

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
            return Some(pairs(consumer, first, may));
        }
        (second[1] == first[1] && may(second[0])).then(|| births(consumer, first, may))
    }
}

impl Attribution {
    /// Applies the streak that begins with `first` and whose last record stands at `source`: as `apply` does for one.
    #[inline(never)]
    pub(super) fn apply_streak(
        &mut self,
        tables: &Tables<'_>,
        first: &Record,
        found: &Found,
        source: (RingId, u64),
        observer: &mut impl Observer,
    ) {
        let Some((index, row)) = site_row(tables, first.stack) else { return };
        self.spared = self.spared.wrapping_add(found.records - 1);
        let weight = exactly(first.size);
        let epoch = get(&tables.header.state.epoch);
        let global = &tables.header.global;
        row.enter_epoch(epoch);
        mark_pending(tables, Some(source), index, row);
        row.begin_change();

        let cells = &row.current;
        cells.stamp_peak(get(&global.peak_generation));
        let class = size_class(tables, first.size, epoch);
        let all = |times: u64| Weight {
            bytes: weight.bytes.wrapping_mul(times),
            blocks: weight.blocks.wrapping_mul(times),
            ..weight
        };
        // What is live at the highest moment.
        let raised = all(if let Streak::Births { times, .. } = found.streak { times } else { 1 });
        let (live_bytes, live_blocks) =
            (get(&global.live_bytes).wrapping_add(raised.bytes), get(&global.live_blocks).wrapping_add(raised.blocks));
        let at_peak = signed(live_bytes) >= signed(get(&global.max_bytes));
        if at_peak {
            set(&global.max_bytes, live_bytes);
            set(&global.max_blocks, live_blocks);
        }
        match found.streak {
            Streak::Pairs { times, ages, last_birth } => {
                if at_peak {
                    // It ends with the free: as in `apply`.
                    set(&global.max_at, last_birth.0);
                    add(&global.peak_generation, 1);
                }
                cells.live_blip(&weight, at_peak.then(|| get(&global.peak_generation)));
                let total = all(times);
                cells.total_add(&total);
                cells.freed_together(total.blocks, weight.blocks, ages);
                if let Some(class) = class {
                    class.current.total_add(&total);
                }
            }
            Streak::Births { times, since_first } => {
                if at_peak {
                    set(&global.max_at, found.last_at.0);
                }
                cells.live_add(&raised);
                cells.total_add(&raised);
                let since_base = u128::from(times) * u128::from(first.at.0.saturating_sub(self.base));
                cells.live_births.add(u128::from(weight.blocks) * (since_base + u128::from(since_first)));
                cells.raise_max();
                if let Some(class) = class {
                    class.current.live_add(&raised);
                    class.current.total_add(&raised);
                }
                set(&global.live_bytes, live_bytes);
                set(&global.live_blocks, live_blocks);
            }
        }
        set(&global.last_at, found.last_at.0.max(get(&global.last_at)));
        row.end_change();
        observer.applied(&Applied {
            site: row_id(index),
            record: first,
            weight: &weight,
            old: &Weight::default(),
            ring: Some(source.0),
            streak: Some(found.streak),
        });
    }
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

#[inline]
fn pairs(consumer: &Consumer<'_>, first: &[u64; RECORD_WORDS], may: impl Fn(u64) -> bool) -> Found {
    let (mut times, mut ages, mut last_birth, mut last_at) = (0, 0u64, 0, 0);
    let mut is_cut = false;
    while 2 * times < MOST_RECORDS
        && let Some(birth) = consumer.ahead(2 * times)
        && birth[1] == first[1]
        && birth[3] == first[3]
        && let Some(free) = consumer.ahead(2 * times + 1)
        && frees(&free, &birth)
    {
        is_cut = !may(free[0]);
        if is_cut {
            break;
        }
        times += 1;
        // Wraps, as all sums do: a corrupt file may hold anything.
        ages = ages.wrapping_add(free[0].saturating_sub(birth[0]));
        (last_birth, last_at) = (birth[0], free[0]);
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

#[inline]
fn births(consumer: &Consumer<'_>, first: &[u64; RECORD_WORDS], may: impl Fn(u64) -> bool) -> Found {
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
