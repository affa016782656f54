//! Growing tables: a `Vec` or hash table of which one block is live and all its predecessors were freed, so that
//! survival never shows it; and arenas, of which all are live, but so few that survival shows it late.
//!
//! Links: a `Vec` grows by realloc, and the block keeps its identity; hashbrown allocates about twice the size and
//! then frees the old table of the same site on the same thread; an arena allocates a chunk of about twice the size and
//! frees none, so that both live for an epoch at least. Only a new maximum of the site counts, so many
//! small tables that grow to the same size are silent.
//!
//! Under linear growth the table fills at a constant rate: the time between growths is proportional to what was
//! added. A rate that keeps (gap ratios up to 2.5 where capacities double) is a leak's; one that falls (like √t)
//! is not; a growth that is overdue by half is a plateau. Rates instead of gaps, so that a missed link does no harm.
//!
//! Sampled, a table is invisible while it is small. Where it is first seen at a size before which a sampler may well have missed
//! it, it is taken to have filled evenly from the profile's start, which is an assumption until the next growth: comes that
//! when the assumed rate says, neither earlier nor later, two of the growths that were not seen are credited, and the growth
//! counts from where that rate began. Else the sighting is one growth, and counts from itself.

use super::config::LeakConfig;
use super::history::Block;
use super::state::{Tier, Withdrawal};
use super::tally;

/// Growths in the profile's first epochs are start-up.
const WARM_UP_EPOCHS: u32 = 3;
/// Growths for any verdict, of which one may be in the warm-up. An even growth from a small size has made so many when it has
/// lasted for a fifteenth of the least time; three are also what a few large steps make. 'Suspected' needs one steady ratio of
/// rates, 'leak' two.
const LEAST_GROWTHS: u16 = 4;
/// Growths that are credited to a table which was too small to be seen.
const UNSEEN_GROWTHS: u16 = 2;
/// A table of which so many mean intervals were never sampled is missed once in 150 times; beyond, it was born large.
const UNSEEN_INTERVALS: f64 = 5.0;
/// A table of which half is less than this of an interval is seen by luck, one in five at best, and not because it has just become
/// large enough: nothing is credited to it.
const LUCK_INTERVALS: f64 = 0.25;
/// A gap ratio of 2.5 at a capacity ratio of 2.
const LEAST_RATE_RATIO: f32 = 2.0 / 2.5;
/// What a rate may have become, up or down, and still counts as kept.
pub(super) const PACE_KEPT: f32 = LEAST_RATE_RATIO;
/// What grows by less is no table.
const LEAST_GROWTH: f32 = 1.4;
/// Gaps are whole epochs: a rate over few of them is uncertain by 1 in so many.
const OVERDUE_PLATEAU: f32 = 1.5;
/// A verdict is not begun on a growth that is already late.
const OVERDUE_LEAK: f32 = 1.1;

/// The largest table of a site. All-zero bytes: none seen.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Spine {
    /// Bytes of the largest block in the chain.
    pub(crate) capacity_bytes: u64,
    /// A block of about twice that, born and not yet linked.
    pending_bytes: u64,
    /// Whose it is; and `WAITED`.
    pending_thread: u32,
    /// When the chain began, when it last grew.
    first_epoch: u32,
    last_epoch: u32,
    /// Bytes in use at the last counted growth (the old capacity).
    fill_bytes: f32,
    /// Bytes an epoch between the last two growths.
    rate: f32,
    /// Growths past warm-up.
    pub(crate) growths: u16,
    /// The last two rate ratios were a leak's: two bits, latest lowest.
    steady: u8,
    /// 0, or one of the following.
    chained: u8,
}

/// `Spine::chained`: growths are counted; beside them there was one in the warm-up, or before the sampler saw the table.
const CHAINED: u8 = 1;
const EARLY: u8 = 2;
/// So far there is one sighting, of a table that may have grown unseen.
const SIGHTED: u8 = 3;
/// Growths are counted, of an arena: each block is a chunk, and all are live.
const CHUNKS: u8 = 4;
/// Chunks that double hold twice what the last one does, and a table no more than that.
const CHUNKS_HOLD: f32 = 2.0;
/// In `Spine::pending_thread`: it was there when the last epoch ended.
const WAITED: u32 = 1 << 31;

const _: () = assert!(size_of::<Spine>() == 40, "a spine shares its site's kilobyte");

impl Spine {
    /// No table.
    pub(crate) const NONE: Spine = Spine {
        capacity_bytes: 0,
        pending_bytes: 0,
        pending_thread: 0,
        first_epoch: 0,
        last_epoch: 0,
        fill_bytes: 0.0,
        rate: 0.0,
        growths: 0,
        steady: 0,
        chained: 0,
    };

    /// A block of this site was born. Epochs count from the profile's start.
    #[inline(always)]
    pub(crate) fn born(&mut self, block: &Block, now: u32) {
        let size = block.size;
        if self.capacity_bytes == 0 || size > self.capacity_bytes.saturating_mul(5) / 2 {
            self.begin(block, now);
        } else if doubles(self.capacity_bytes, size) {
            (self.pending_bytes, self.pending_thread) = (size, block.thread & !WAITED);
        }
    }

    #[inline(never)]
    fn begin(&mut self, block: &Block, now: u32) {
        let size = block.size;
        // Another table than the one so far. Sampled, a table is first seen at the growth that a sample point hit;
        // its first half was full then.
        *self = Spine::NONE;
        if block.interval_bytes > 0.0 && now >= WARM_UP_EPOCHS {
            self.grew(size / 2, size, now);
            // As far as known it filled evenly since the start. If it came later, it filled faster than that.
            self.rate = self.fill_bytes / (now + 1) as f32;
            let intervals = (size / 2) as f64 / block.interval_bytes;
            self.chained = match intervals {
                few if few < LUCK_INTERVALS => CHAINED,
                some if some <= UNSEEN_INTERVALS => SIGHTED,
                _ => EARLY,
            };
        }
        self.capacity_bytes = size;
    }

    /// A block of this site was freed.
    #[inline(always)]
    pub(crate) fn freed(&mut self, size: u64, thread: u32, now: u32) {
        if self.links(size, thread) {
            let new = self.pending_bytes;
            self.pending_bytes = 0;
            self.grew(size, new, now);
        } else if size == self.pending_bytes {
            self.pending_bytes = 0;
        } else if size == self.capacity_bytes && self.chained != 0 {
            // The table itself is gone, without a successor: its size was no growth that stays.
            *self = Spine { capacity_bytes: size, last_epoch: now, ..Spine::NONE };
        }
    }

    /// Does this free tell that the table moved into the block that is pending?
    #[inline(always)]
    fn links(&self, size: u64, thread: u32) -> bool {
        self.pending_bytes != 0
            && thread & !WAITED == self.pending_thread & !WAITED
            && doubles(size, self.pending_bytes)
    }

    /// What can be told later, in sums: see `tally::ears`.
    pub(super) fn ears(&self) -> (u64, u64) {
        tally::ears(self.capacity_bytes, self.pending_bytes != 0, self.chained != 0)
    }

    /// Does this birth leave the table as it is?
    pub(crate) fn is_deaf_to_birth(&self, size: u64, thread: u32) -> bool {
        self.capacity_bytes != 0
            && size <= self.capacity_bytes.saturating_mul(5) / 2
            && (!doubles(self.capacity_bytes, size) || (self.pending_bytes, self.pending_thread) == (size, thread))
    }

    /// Does this free leave the table as it is?
    pub(crate) fn is_deaf_to_free(&self, size: u64, thread: u32) -> bool {
        let hears = self.links(size, thread) || size == self.pending_bytes;
        !hears && (size != self.capacity_bytes || self.chained == 0)
    }

    /// Does this growth leave the table as it is?
    pub(crate) fn is_deaf_to_growth(&self, old: u64, new: u64) -> bool {
        // Among many tables of unequal size another one that became a little larger is no growth of the largest.
        new <= self.capacity_bytes || (new as f32) < self.capacity_bytes.max(old) as f32 * LEAST_GROWTH
    }

    /// A block of this site, or the table itself, went from `old` to `new` bytes.
    pub(crate) fn grew(&mut self, old: u64, new: u64, now: u32) {
        if self.is_deaf_to_growth(old, new) {
            return;
        }
        self.capacity_bytes = new;
        let fill = old as f32;
        if self.chained == 0 {
            let is_early = now < WARM_UP_EPOCHS;
            self.chained = if is_early { EARLY } else { CHAINED };
            (self.first_epoch, self.last_epoch, self.fill_bytes) = (now, now, fill);
            self.growths = u16::from(!is_early);
            return;
        }
        if now == self.last_epoch {
            self.fill_bytes = fill;
            return;
        }
        let rate = (fill - self.fill_bytes).max(0.0) / (now - self.last_epoch) as f32;
        let kept = self.rate > 0.0 && rate >= self.rate * LEAST_RATE_RATIO;
        self.steady = (self.steady << 1) | u8::from(kept);
        if self.chained == SIGHTED {
            self.chained = EARLY;
            if kept && rate * LEAST_RATE_RATIO <= self.rate {
                self.chained = CHAINED;
                self.growths = self.growths.saturating_add(UNSEEN_GROWTHS);
                self.first_epoch -= since(self.fill_bytes, rate).min(self.first_epoch);
            }
        }
        (self.rate, self.fill_bytes, self.last_epoch) = (rate, fill, now);
        if now >= WARM_UP_EPOCHS {
            self.growths = self.growths.saturating_add(1);
        }
    }

    /// How late the next growth is: time since the last over the predicted gap.
    fn overdue(&self, now: u32) -> f32 {
        let predicted = (self.capacity_bytes as f32 - self.fill_bytes) / self.rate.max(f32::MIN_POSITIVE);
        now.saturating_sub(self.last_epoch) as f32 / predicted.max(1.0)
    }

    /// Twice as much as the largest block was allocated in an earlier epoch, and neither was freed since: a chunk of an arena. But
    /// not beside a table, of which more is known.
    #[cold]
    fn outlived(&mut self, now: u32) {
        if matches!(self.chained, CHAINED | EARLY) {
            return;
        }
        if self.pending_thread & WAITED == 0 {
            self.pending_thread |= WAITED;
            return;
        }
        let new = std::mem::take(&mut self.pending_bytes);
        self.grew(self.capacity_bytes, new, now);
        self.chained = CHUNKS;
    }

    /// Closes an epoch: a chain that is overdue ends.
    pub(crate) fn end_epoch(&mut self, now: u32) {
        if self.pending_bytes != 0 {
            self.outlived(now);
        }
        if self.chained != 0 && self.rate > 0.0 && self.overdue(now) > OVERDUE_PLATEAU {
            *self = Spine { capacity_bytes: self.capacity_bytes, last_epoch: now, ..Spine::NONE };
        }
    }

    /// What the growths so far amount to.
    pub(crate) fn tier(&self, now: u32, held: Tier, config: &LeakConfig) -> Tier {
        let growths = self.growths.saturating_add(u16::from(self.chained == EARLY));
        if self.chained == 0 || growths < LEAST_GROWTHS || self.steady & 1 == 0 {
            return Tier::None;
        }
        let run = now.saturating_sub(self.first_epoch);
        if run < config.suspect_after_epochs || f64::from(run) < config.age_share * f64::from(now) {
            return Tier::Growing;
        }
        let grown_late = (self.last_epoch - self.first_epoch) >= config.suspect_after_epochs * 3 / 2;
        let leak = run >= config.leak_after_epochs && self.steady & 3 == 3;
        if leak && (held == Tier::Leak || (grown_late && self.overdue(now) <= OVERDUE_LEAK)) {
            return Tier::Leak;
        }
        Tier::Suspected
    }

    /// Did a chain of growths end in this very epoch?
    pub(crate) fn filled(&self, now: u32) -> bool {
        self.chained == 0 && self.last_epoch == now
    }

    /// Why a verdict that this table gave is withdrawn.
    pub(crate) fn why_withdrawn(&self, now: u32) -> Withdrawal {
        match self.chained {
            _ if self.filled(now) => Withdrawal::TableFilled,
            // Another table than the one that was growing, or hardly anything is known of this one.
            0 | SIGHTED => Withdrawal::Restarted,
            _ if self.growths < LEAST_GROWTHS => Withdrawal::Restarted,
            _ => Withdrawal::Slowed,
        }
    }

    /// Bytes that its last growth added, if that was counted in epoch `since` or later.
    pub(crate) fn last_step(&self, since: u32) -> f32 {
        let counts = self.chained != 0 && self.last_epoch >= since;
        if counts { (self.capacity_bytes as f32 - self.fill_bytes).max(0.0) } else { 0.0 }
    }

    /// At which pace it fills, where that is known: as between its last two growths, and no faster than that what was added by
    /// the last one is still not full.
    pub(super) fn filling(&self, now: u32) -> Option<Filling> {
        if !self.is_growing() || self.rate <= 0.0 {
            return None;
        }
        let since = now.saturating_sub(self.last_epoch);
        let room = (self.capacity_bytes as f32 - self.fill_bytes).max(0.0);
        let hold = if self.is_of_chunks() { CHUNKS_HOLD } else { 1.0 };
        let bytes_per_epoch = hold * self.rate.min(room / since.max(1) as f32);
        let held_bytes = hold * self.fill_bytes + bytes_per_epoch * since as f32;
        Some(Filling { bytes_per_epoch, held_bytes, epochs: now.saturating_sub(self.first_epoch) })
    }

    /// Is it an arena, whose chunks are all live?
    pub(crate) fn is_of_chunks(&self) -> bool {
        self.chained == CHUNKS && self.is_growing()
    }

    /// Is a chain of growths under way?
    pub(crate) fn is_growing(&self) -> bool {
        self.chained != 0 && self.growths >= 2
    }
}

/// How a table fills.
#[derive(Clone, Copy, Debug)]
pub(super) struct Filling {
    pub(super) bytes_per_epoch: f32,
    /// What it holds by now, at this pace.
    pub(super) held_bytes: f32,
    /// Since the first growth that counts.
    pub(super) epochs: u32,
}

/// How many epochs it takes to fill so much at this rate.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "not negative; the cast saturates")]
fn since(fill_bytes: f32, rate: f32) -> u32 {
    (fill_bytes / rate.max(f32::MIN_POSITIVE)) as u32
}

/// Is `new` about twice `old`? hashbrown's tables: buckets double, control bytes and alignment add a little.
fn doubles(old: u64, new: u64) -> bool {
    new > old.saturating_add(old / 4 * 3) && new < old.saturating_mul(2).saturating_add(old / 2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sampler::weight::Weight;

    fn block(size: u64) -> Block {
        Block { size, interval_bytes: 0.0, weight: Weight::of(size, 0.0), thread: 7 }
    }

    /// Feeds a table that holds `fill(t)` bytes at epoch t, and returns when each tier was first reached.
    fn run(fill: impl Fn(f64) -> f64, epochs: u32) -> (Option<u32>, Option<u32>, Tier) {
        let config = LeakConfig::default();
        let mut spine = Spine::default();
        let (mut suspected, mut leak, mut tier) = (None, None, Tier::None);
        let mut capacity = 64u64;
        spine.born(&block(capacity), 0);
        for now in 0..epochs {
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small positive test figures")]
            let needed = fill(f64::from(now) + 1.0) as u64;
            while capacity < needed {
                spine.born(&block(capacity * 2), now);
                spine.freed(capacity, 7, now);
                capacity *= 2;
            }
            spine.end_epoch(now);
            tier = spine.tier(now, tier, &config);
            if tier >= Tier::Suspected {
                suspected.get_or_insert(now);
            }
            if tier == Tier::Leak {
                leak.get_or_insert(now);
            }
        }
        (suspected, leak, tier)
    }

    #[test]
    fn linear_growth_is_a_leak_in_time_at_every_phase_of_its_doublings() {
        for step in 0..200 {
            let rate = 500.0 * (1.0 + f64::from(step) / 200.0);
            let (suspected, leak, end) = run(|t| rate * t, 480);
            assert!(suspected.is_some_and(|at| at <= 75), "rate {rate}: suspected {suspected:?}");
            assert!(leak.is_some_and(|at| at <= 200), "rate {rate}: leak {leak:?}");
            assert_eq!(end, Tier::Leak, "rate {rate}");
        }
    }

    #[test]
    fn a_table_that_fills_and_is_reused_is_no_leak() {
        for filled in [5.0f64, 20.0, 38.0, 60.0, 77.0, 85.0] {
            let (_, leak, end) = run(|t| 700.0 * t.min(filled), 480);
            assert_eq!((leak, end), (None, Tier::None), "filled at {filled}");
        }
    }

    #[test]
    fn a_square_root_is_no_leak() {
        let (_, leak, _) = run(|t| 4000.0 * t.sqrt(), 480);
        assert_eq!(leak, None);
    }

    #[test]
    fn ever_larger_buffers_that_are_freed_again_are_no_table() {
        let mut spine = Spine::NONE;
        for now in 0..480u32 {
            // Heavy-tailed requests: the largest so far doubles whenever the time does.
            let mut size = 64;
            while size <= 64 * u64::from(now) {
                spine.grew(size, size * 2, now);
                size *= 2;
            }
            spine.freed(size, 7, now);
            spine.end_epoch(now);
            assert!(spine.tier(now, Tier::None, &LeakConfig::default()) < Tier::Suspected);
        }
    }

    /// An arena that holds `fill(t)` bytes at epoch t, of chunks that double; `of_chunk` is done to each when the next one is allocated.
    fn arena(
        fill: impl Fn(f64) -> f64,
        epochs: u32,
        mut of_chunk: impl FnMut(&mut Spine, u64, u32),
    ) -> (Option<u32>, Tier, Spine) {
        let (mut spine, mut tier, mut suspected) = (Spine::default(), Tier::None, None);
        let (mut chunk, mut room) = (512u64, 512u64);
        spine.born(&block(chunk), 0);
        for now in 0..epochs {
            while (room as f64) < fill(f64::from(now) + 1.0) {
                spine.born(&block(chunk * 2), now);
                of_chunk(&mut spine, chunk, now);
                chunk *= 2;
                room += chunk;
            }
            spine.end_epoch(now);
            tier = spine.tier(now, tier, &LeakConfig::default());
            if tier >= Tier::Suspected {
                suspected.get_or_insert(now);
            }
        }
        (suspected, tier, spine)
    }

    #[test]
    fn an_arena_that_is_never_reset_is_a_leak_and_grows_as_fast_as_what_it_holds() {
        for step in 0..100 {
            let rate = 3000.0 * (1.0 + f64::from(step) / 100.0);
            let (suspected, end, spine) = arena(|t| rate * t, 480, |_, _, _| ());
            assert!(suspected.is_some_and(|at| at <= 140), "rate {rate}: suspected {suspected:?}");
            assert_eq!((end, spine.is_of_chunks()), (Tier::Leak, true), "rate {rate}");
            let pace = f64::from(spine.filling(479).map_or(0.0, |filling| filling.bytes_per_epoch)) / rate;
            assert!((0.75..1.25).contains(&pace), "rate {rate}: {pace} of it");
        }
    }

    #[test]
    fn an_arena_that_fills_is_no_leak() {
        for filled in [5.0f64, 20.0, 38.0, 60.0, 77.0, 85.0] {
            let (_, end, _) = arena(|t| 7000.0 * t.min(filled), 480, |_, _, _| ());
            assert_eq!(end, Tier::None, "filled at {filled}");
        }
    }

    /// Larger and larger blocks, of which each is freed before the next but one, or at once: whatever they are, none was kept.
    #[test]
    fn ever_larger_blocks_that_are_freed_are_no_arena() {
        let mut last = 0;
        let (suspected, _, spine) = arena(
            |t| 3000.0 * t,
            480,
            |spine, _, now| {
                // The one that was allocated just now is freed in the same epoch.
                spine.freed(spine.pending_bytes, 9, now);
            },
        );
        assert_eq!((suspected, spine.is_of_chunks()), (None, false));
        let (suspected, _, spine) = arena(
            |t| 3000.0 * t,
            480,
            |spine, chunk, now| {
                // Another thread frees the one before: where it is the largest so far it is no chunk.
                spine.freed(chunk, 9, now);
                last = chunk;
            },
        );
        assert!(last > 0);
        assert_eq!((suspected, spine.is_of_chunks()), (None, false));
    }

    /// A table that grows, at a site that has a block of twice its size now and then, is still a table.
    #[test]
    fn a_block_beside_a_table_does_not_end_its_chain() {
        let mut spine = Spine::default();
        let mut capacity = 64u64;
        spine.born(&block(capacity), 0);
        for now in 0..480u32 {
            while (capacity as f64) < 700.0 * f64::from(now + 1) {
                spine.born(&block(capacity * 2), now);
                spine.freed(capacity, 7, now);
                capacity *= 2;
            }
            if now % 7 == 3 {
                spine.born(&Block { thread: 8, ..block(capacity * 2) }, now);
            }
            spine.end_epoch(now);
            if now % 7 == 6 {
                spine.freed(capacity * 2, 8, now);
            }
        }
        assert_eq!(spine.tier(479, Tier::None, &LeakConfig::default()), Tier::Leak);
        assert!(!spine.is_of_chunks());
    }

    /// As a sampler at 16 KiB sees a `Vec` that fills by 960 bytes an epoch, if it misses all growths up to `first` bytes.
    fn sampled(first: u64, until: u32, rate: f64) -> (Option<u32>, Option<u32>) {
        let seen = |size| Block { interval_bytes: 16384.0, ..block(size) };
        let (mut spine, mut capacity, mut tier) = (Spine::NONE, 64u64, Tier::None);
        let (mut suspected, mut leak) = (None, None);
        for now in 0..until {
            while (capacity as f64) < rate * f64::from(now + 1) {
                capacity *= 2;
                match capacity.cmp(&first) {
                    std::cmp::Ordering::Less => (),
                    std::cmp::Ordering::Equal => spine.born(&seen(capacity), now),
                    std::cmp::Ordering::Greater => spine.grew(capacity / 2, capacity, now),
                }
            }
            spine.end_epoch(now);
            tier = spine.tier(now, tier, &LeakConfig::default());
            if tier >= Tier::Suspected {
                suspected.get_or_insert(now);
            }
            if tier == Tier::Leak {
                leak.get_or_insert(now);
            }
        }
        (suspected, leak)
    }

    #[test]
    fn a_table_first_seen_when_it_is_large_counts_from_where_its_rate_began() {
        for first in [16 << 10, 32 << 10, 64 << 10] {
            let (suspected, leak) = sampled(first, 240, 960.0);
            assert!(suspected.is_some_and(|at| at <= 75), "first seen at {first}: suspected {suspected:?}");
            assert!(leak.is_some_and(|at| at <= 200), "first seen at {first}: leak {leak:?}");
        }
        // So large, it would have been seen before: it was born large, and has to grow twice more.
        let (suspected, _) = sampled(256 << 10, 240, 3840.0);
        assert!(suspected.is_some_and(|at| at >= 130), "suspected {suspected:?}");
    }

    /// Six steps in the run, of a table far smaller than the interval: that a sample saw it at its second growth was luck, and says
    /// nothing of how often it grew before.
    #[test]
    fn a_few_large_steps_that_a_sample_saw_by_luck_are_no_steady_growth() {
        for interval_bytes in [16384.0, 65536.0] {
            let seen = |size| Block { interval_bytes, ..block(size) };
            let mut spine = Spine::NONE;
            for now in 0..400u32 {
                match now {
                    66 => spine.born(&seen(2880), now),
                    132 => spine.grew(2880, 5760, now),
                    264 => spine.grew(5760, 11520, now),
                    _ => (),
                }
                spine.end_epoch(now);
                assert!(spine.tier(now, Tier::None, &LeakConfig::default()) < Tier::Suspected, "epoch {now}");
            }
        }
    }

    #[test]
    fn a_few_large_steps_are_no_steady_growth() {
        let mut spine = Spine::NONE;
        spine.born(&block(1440), 0);
        for now in 0..400u32 {
            if let (66, size) | (132, size) | (264, size) = (now, 1440 * u64::from(now / 66)) {
                spine.grew(size, size * 2, now);
            }
            spine.end_epoch(now);
            assert!(spine.tier(now, Tier::None, &LeakConfig::default()) < Tier::Suspected, "epoch {now}");
        }
        assert_eq!(spine.growths, 3);
    }

    #[test]
    fn many_tables_of_one_bounded_size_are_silent() {
        let mut spine = Spine::default();
        for now in 0..400u32 {
            for size in [64u64, 128, 256, 512] {
                spine.grew(size, size * 2, now);
            }
            spine.end_epoch(now);
            assert!(spine.tier(now, Tier::None, &LeakConfig::default()) < Tier::Suspected);
        }
    }
}
