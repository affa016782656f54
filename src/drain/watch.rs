//! Feeding the judge: each applied record goes into its site's history, and births are dated in epochs.
//!
//! In exact mode what can be told in sums is tallied (`leak::tally`), and told when a site's history hears of something else or
//! somebody looks.
//!
//! Promises: O(1) a record and no allocation, since it runs under the aggregator's lock. What is kept of a site, and of how many,
//! is said in `watch/sites.rs`; sites beyond that are not judged and are counted.

mod sites;

use super::epochs::Epochs;
use crate::leak::habits::Habits;
use crate::leak::history::{Block, History};
use crate::ring::RingId;
use crate::ring::record::Kind;
use crate::sampler::weight::{IntervalCode, Weight};
use crate::store::exact::{AppliedExactly, Exactly};
use crate::store::observer::{Applied, Observer};
use crate::store::streak::{AppliedStreak, Streak};
use crate::store::tables::Tables;
use crate::store::weights::exactly;
use crate::units::{SiteId, Ticks};
use sites::{MOST_SITES, Site, Sites};

/// All sites' histories, and how they are fed.
#[derive(Debug)]
pub(crate) struct Watch {
    sites: Sites,
    /// Was anything told or tallied since `settle`?
    is_tallied: bool,
    /// Records of sites without a history.
    unwatched: u64,
    /// Rings that records came from are numbered below this: threads that were recorded at once, at most.
    threads: u32,
    epochs: Epochs,
    /// The interval in bytes that `IntervalCode::FIXED` means.
    fixed_bytes: u64,
}

impl Watch {
    /// For a profile that begins at `base`. `None` where no memory is to be had.
    pub(crate) fn new(base: Ticks, fixed_bytes: u64) -> Option<Watch> {
        let (sites, epochs) = (Sites::new()?, Epochs::new(base));
        Some(Watch { sites, is_tallied: false, unwatched: 0, threads: 0, epochs, fixed_bytes })
    }

    /// The histories of the rows seen so far.
    pub(crate) fn histories(&mut self) -> &mut [History] {
        self.settle();
        self.sites.histories()
    }

    /// What the sites of the histories do epoch by epoch.
    pub(crate) fn habits(&mut self) -> &mut [Habits] {
        self.settle();
        self.sites.habits()
    }

    /// The most threads that were recorded at once so far.
    pub(crate) fn threads(&self) -> u32 {
        self.threads
    }

    /// The memory that histories, habits and tallies take.
    pub(crate) fn memory_bytes(&self) -> u64 {
        self.sites.memory_bytes()
    }

    /// The open epoch's number.
    pub(crate) fn epoch(&self) -> u32 {
        self.epochs.open
    }

    /// Records of sites without a history.
    pub(crate) fn unwatched(&self) -> u64 {
        self.unwatched
    }

    /// Marks the histories of sites whose records were lost.
    pub(crate) fn taint(&mut self, tables: &Tables<'_>) {
        let tree = tables.tree();
        for (row, history) in tables.sites.iter().zip(self.histories()) {
            let stack = row.stack();
            if history.is_in_use() && (tree.is_tainted(stack) || tree.is_folded(stack)) {
                history.taint();
            }
        }
    }

    /// Begins the next epoch at `at`.
    pub(crate) fn begin_epoch(&mut self, at: Ticks) {
        self.settle();
        self.epochs.begin(at);
    }
}

impl Observer for Watch {
    fn reads(&mut self, ring: RingId) {
        self.threads = self.threads.max(ring.0.saturating_add(1));
    }

    fn may_reorder(&mut self, site: SiteId, size: u64, ring: RingId, blocks: u64) -> bool {
        let block = exact_block(size, ring);
        let index = site.0 as usize;
        if index == 0 || index >= MOST_SITES {
            return true;
        }
        self.sites.at(index).is_some_and(|site| {
            site.history.is_deaf_to_birth(&block)
                && site.history.is_deaf_to_free(&block)
                && (site.tally.has_reached(blocks) || site.habits.has_reached(site.tally.live().saturating_add(blocks)))
        })
    }

    #[inline]
    fn applied(&mut self, applied: &Applied<'_>) {
        let (record, now) = (applied.record, self.epochs.open);
        let birth = if record.kind == Kind::Alloc { now } else { self.epochs.of(record.birth) };
        let (fixed_bytes, thread) = (self.fixed_bytes, applied.ring.map_or(u32::MAX, |ring| ring.0));
        let block = |size: u64, interval: IntervalCode, weight: &Weight| Block {
            size,
            interval_bytes: interval.interval_bytes(fixed_bytes),
            weight: *weight,
            thread,
        };
        let new = block(record.size, record.interval, applied.weight);
        let Some(site) = self.site(applied.site) else { return };
        if record.interval == IntervalCode::EXACT {
            site.tally.settle(now, site.history, site.habits);
        }
        match record.kind {
            Kind::Alloc => {
                site.habits.born(&new, 1);
                site.history.born(now, &new);
            }
            Kind::Free => {
                site.habits.left(&new);
                site.history.freed(birth, now, &new);
            }
            Kind::Forget => {
                site.habits.left(&new);
                site.history.forgotten(birth, now, &new);
            }
            Kind::Resize => {
                let old = block(record.old_size, record.old_interval, applied.old);
                site.habits.resized(&old, &new);
                site.history.resized(Some(birth), now, &old, &new);
            }
        }
        if record.interval == IntervalCode::EXACT {
            site.tally.listen(site.history);
        }
    }

    #[inline(always)]
    fn applied_exactly(&mut self, applied: &AppliedExactly) {
        let (open_since, size) = (self.epochs.open_since, applied.size);
        // No closure: it would be a function of its own.
        let is_tallied = match (self.sites.tallies().get_mut(applied.site.0 as usize), applied.what) {
            (Some(tally), Exactly::Born) => tally.born(size, 1),
            (Some(tally), Exactly::Freed { birth }) => birth >= open_since && tally.freed(size),
            (Some(tally), Exactly::Resized { birth, from }) => birth >= open_since && tally.resized(from, size),
            (None, _) => false,
        };
        if is_tallied {
            return;
        }
        // In words, which are put together there: else they would be for each record.
        match applied.what {
            Exactly::Born => self.tell_born(applied.site, size, applied.ring),
            Exactly::Freed { birth } => self.tell_freed(applied.site, size, applied.ring, birth),
            Exactly::Resized { birth, from } => self.tell_resized(applied.site, size, applied.ring, birth, from),
        }
    }

    #[inline(always)]
    fn applied_streak(&mut self, applied: &AppliedStreak) {
        let is_tallied = match (self.sites.tallies().get_mut(applied.site.0 as usize), applied.streak) {
            (Some(tally), Streak::Births { times, .. }) => tally.born(applied.size, times),
            (Some(tally), Streak::Pairs { times, .. }) => tally.paired(applied.size, times),
            (None, _) => false,
        };
        if is_tallied {
            return;
        }
        match applied.streak {
            Streak::Births { times, .. } => self.tell_births(applied.site, applied.size, applied.ring, times),
            Streak::Pairs { times, .. } => self.tell_pairs(applied.site, applied.size, applied.ring, times),
        }
    }
}

impl Site<'_> {
    fn settle(&mut self, now: u32) {
        self.tally.settle(now, self.history, self.habits);
    }

    /// `times` equal births of exact mode: told one by one for as long as they change the table, then tallied.
    fn hears_births(&mut self, now: u32, block: &Block, times: u64) {
        let mut told = 0;
        while told < times && !self.history.is_deaf_to_birth(block) {
            self.settle(now);
            self.habits.born(block, 1);
            self.history.born(now, block);
            told += 1;
        }
        if told < times {
            self.tally.count_births(block.size, times - told);
        }
        self.tally.listen(self.history);
    }

    /// The same of births that are each followed by the free of that block.
    fn hears_pairs(&mut self, now: u32, block: &Block, times: u64) {
        let mut told = 0;
        while told < times && !self.history.is_deaf_to_pair(block) {
            self.settle(now);
            self.habits.born(block, 1);
            self.history.born(now, block);
            self.habits.left(block);
            self.history.freed(now, now, block);
            told += 1;
        }
        if told < times {
            self.tally.count_pairs(block.size, times - told);
        }
        self.tally.listen(self.history);
    }
}

impl Watch {
    #[inline(never)]
    fn tell_born(&mut self, site: SiteId, size: u64, ring: RingId) {
        self.tell(&AppliedExactly { site, what: Exactly::Born, size, ring });
    }

    #[inline(never)]
    fn tell_freed(&mut self, site: SiteId, size: u64, ring: RingId, birth: Ticks) {
        self.tell(&AppliedExactly { site, what: Exactly::Freed { birth }, size, ring });
    }

    #[inline(never)]
    fn tell_resized(&mut self, site: SiteId, size: u64, ring: RingId, birth: Ticks, from: u64) {
        self.tell(&AppliedExactly { site, what: Exactly::Resized { birth, from }, size, ring });
    }

    /// A record that may not be tallied, or not without asking.
    fn tell(&mut self, applied: &AppliedExactly) {
        let now = self.epochs.open;
        let birth = match applied.what {
            Exactly::Born => now,
            Exactly::Freed { birth } | Exactly::Resized { birth, .. } => self.epochs.of(birth),
        };
        let block = |size| exact_block(size, applied.ring);
        let new = block(applied.size);
        let Some(mut site) = self.site(applied.site) else { return };
        match applied.what {
            Exactly::Born if site.history.is_deaf_to_birth(&new) => site.tally.count_births(new.size, 1),
            Exactly::Born => {
                site.settle(now);
                site.habits.born(&new, 1);
                site.history.born(now, &new);
            }
            Exactly::Freed { .. } if birth == now && site.history.is_deaf_to_free(&new) => {
                site.tally.count_free(new.size);
            }
            Exactly::Freed { .. } => {
                site.settle(now);
                site.habits.left(&new);
                site.history.freed(birth, now, &new);
            }
            Exactly::Resized { from, .. } if birth == now && site.history.is_deaf_to_growth(from, new.size) => {
                site.tally.count_resize(from, new.size);
            }
            Exactly::Resized { from, .. } => {
                site.settle(now);
                site.habits.resized(&block(from), &new);
                site.history.resized(Some(birth), now, &block(from), &new);
            }
        }
        site.tally.listen(site.history);
    }

    /// Births that may not be tallied, or not without asking.
    #[inline(never)]
    fn tell_births(&mut self, site: SiteId, size: u64, ring: RingId, times: u64) {
        let (now, block) = (self.epochs.open, exact_block(size, ring));
        if let Some(mut site) = self.site(site) {
            site.hears_births(now, &block, times);
        }
    }

    /// The same of pairs.
    #[inline(never)]
    fn tell_pairs(&mut self, site: SiteId, size: u64, ring: RingId, times: u64) {
        let (now, block) = (self.epochs.open, exact_block(size, ring));
        if let Some(mut site) = self.site(site) {
            site.hears_pairs(now, &block, times);
        }
    }

    /// What is kept of a site that has an event now, begun if need be; `None` where it is not judged.
    #[inline(always)]
    fn site(&mut self, site: SiteId) -> Option<Site<'_>> {
        let (index, now) = (site.0 as usize, self.epochs.open);
        // Row 0 is what is attributed to no stack.
        if index == 0 || index >= MOST_SITES {
            self.unwatched += 1;
            return None;
        }
        self.is_tallied = true;
        let site = self.sites.see(index)?;
        if !site.history.is_in_use() {
            site.history.begin(now);
        }
        Some(site)
    }

    /// Tells the histories everything, and lets no tally know what it is that they need not hear: whoever asked for them
    /// may change them.
    fn settle(&mut self) {
        if !std::mem::take(&mut self.is_tallied) {
            return;
        }
        let now = self.epochs.open;
        for index in 1..self.sites.used() {
            if let Some(mut site) = self.sites.at(index) {
                site.settle(now);
                site.tally.listen_to_all();
            }
        }
    }
}

/// A block of exact mode.
fn exact_block(size: u64, ring: RingId) -> Block {
    Block { size, interval_bytes: 0.0, weight: exactly(size), thread: ring.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pairs of twice the size of all else at a site are no chunks of an arena, and are told in a sum after the first.
    #[test]
    fn a_streak_of_pairs_is_told_at_once_whatever_its_size() {
        for size in [32, 96, 128, 1000] {
            let mut watch = Watch::new(Ticks(0), 3_000).expect("memory");
            let (site, ring, times) = (SiteId(1), RingId(0), 1000);
            watch.applied_exactly(&AppliedExactly { site, what: Exactly::Born, size: 64, ring });
            let streak = Streak::Pairs { times, ages: times, last_birth: Ticks(1) };
            for _ in 0..2 {
                watch.applied_streak(&AppliedStreak { site, streak, size, ring });
                let history = watch.sites.at(1).expect("it is there").history;
                assert!(history.is_deaf_to_pair(&exact_block(size, ring)), "pairs of {size}");
            }
        }
    }

    /// Streaks of births and of pairs, of sizes that make tables and of such that don't, and frees between them.
    #[test]
    fn streaks_are_told_as_their_records() {
        let mut streaks = Watch::new(Ticks(0), 3_000).expect("memory");
        let mut singly = Watch::new(Ticks(0), 3_000).expect("memory");
        let mut random = 0x9e37_79b9_7f4a_7c15u64;
        let mut below = |n: u64| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            (random >> 11) % n
        };
        let mut at = 1;
        for round in 0..400 {
            #[expect(clippy::cast_possible_truncation, reason = "below 5")]
            let (site, ring) = (SiteId(1 + below(3) as u32), RingId(below(2) as u32));
            let (size, times, pairs) = (16 << below(6), 1 + below(9), below(2) == 0);
            let told = |what| AppliedExactly { site, what, size, ring };
            for _ in 0..times {
                singly.applied_exactly(&told(Exactly::Born));
                if pairs {
                    singly.applied_exactly(&told(Exactly::Freed { birth: Ticks(at) }));
                }
                at += 2;
            }
            let last_birth = Ticks(at - 2);
            let streak = match pairs {
                true => Streak::Pairs { times, ages: times, last_birth },
                false => Streak::Births { times, since_first: 0 },
            };
            streaks.applied_streak(&AppliedStreak { site, streak, size, ring });
            if !pairs && below(2) == 0 {
                for watch in [&mut streaks, &mut singly] {
                    watch.applied_exactly(&told(Exactly::Freed { birth: last_birth }));
                }
            }
            if round % 7 == 6 {
                for watch in [&mut streaks, &mut singly] {
                    watch.begin_epoch(Ticks(at));
                }
            }
            if round % 3 == 0 {
                assert_eq!(format!("{:?}", streaks.histories()), format!("{:?}", singly.histories()), "{round}");
                assert_eq!(format!("{:?}", streaks.habits()), format!("{:?}", singly.habits()), "{round}");
            }
        }
    }
}
