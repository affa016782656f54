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
    /// Whose it is; and `WAITED`, `GONE`.
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
/// In `Spine::pending_thread`: it was there when the last epoch ended; a block of its size was freed in this one.
const WAITED: u32 = 1 << 31;
const GONE: u32 = 1 << 30;
const THREAD: u32 = GONE - 1;

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
        if self.begins(size) {
            self.begin(block, now);
        } else if !self.is_deaf_to_birth(size, block.thread) {
            (self.pending_bytes, self.pending_thread) = (size, block.thread & THREAD);
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
            let new = std::mem::take(&mut self.pending_bytes);
            self.grew(size, new, now);
        } else if self.minds(size) {
            self.lost(size, now);
        }
    }

    /// Does this free tell that the table moved into the block that is pending?
    #[inline(always)]
    fn links(&self, size: u64, thread: u32) -> bool {
        self.pending_bytes != 0
            && self.pending_thread & GONE == 0
            && thread & THREAD == self.pending_thread & THREAD
            && doubles(size, self.pending_bytes)
    }

    /// Does it matter that a block of this size was freed?
    #[inline(always)]
    fn minds(&self, size: u64) -> bool {
        self.minds_pending(size) || (self.chained != 0 && (size == self.capacity_bytes || self.is_last_but_one(size)))
    }

    /// Is it of the size of the block that is pending, as far as that is still there?
    #[inline(always)]
    fn minds_pending(&self, size: u64) -> bool {
        size == self.pending_bytes && self.pending_thread & GONE == 0
    }

    /// Is it the size of an arena's last chunk but one?
    #[inline(always)]
    fn is_last_but_one(&self, size: u64) -> bool {
        self.chained == CHUNKS && size as f32 == self.fill_bytes
    }

    #[cold]
    fn lost(&mut self, size: u64, now: u32) {
        if self.minds_pending(size) {
            // Gone, unless one more of its size is born.
            self.pending_thread = (self.pending_thread & THREAD) | GONE;
        } else if self.is_last_but_one(size) {
            // It was a table, whose old block was freed late.
            self.chained = CHAINED;
        } else {
            // The table itself is gone, without a successor: its size was no growth that stays.
            *self = Spine { capacity_bytes: size, last_epoch: now, ..Spine::NONE };
        }
    }

    /// What can be told later, in sums: see `tally::ears`.
    pub(super) fn ears(&self) -> (u64, u64) {
        tally::ears(self.capacity_bytes, self.pending_bytes != 0 || self.chained == CHUNKS, self.chained != 0)
    }

    /// Does this birth leave the table as it is?
    pub(crate) fn is_deaf_to_birth(&self, size: u64, thread: u32) -> bool {
        let is_pending = (self.pending_bytes, self.pending_thread & !WAITED) == (size, thread & THREAD);
        !self.begins(size) && (is_pending || !doubles(self.capacity_bytes, size))
    }

    /// Is it too large for what is known?
    #[inline(always)]
    fn begins(&self, size: u64) -> bool {
        self.capacity_bytes == 0 || size > self.capacity_bytes.saturating_mul(5) / 2
    }

    /// Does this free leave the table as it is?
    pub(crate) fn is_deaf_to_free(&self, size: u64, thread: u32) -> bool {
        !self.links(size, thread) && !self.minds(size)
    }

    /// Do a birth and the free of that block, one after the other, leave the table as it is?
    pub(crate) fn is_deaf_to_pair(&self, size: u64, thread: u32) -> bool {
        if !self.begins(size) && doubles(self.capacity_bytes, size) {
            // The birth brings back what was pending, and the free takes it away again.
            return (self.pending_bytes, self.pending_thread) == (size, (thread & THREAD) | GONE);
        }
        self.is_deaf_to_birth(size, thread) && self.is_deaf_to_free(size, thread)
    }

    /// Does this change of a block's size leave the table as it is?
    pub(crate) fn is_deaf_to_growth(&self, old: u64, new: u64) -> bool {
        if new < old {
            // What is a little smaller is the same table; what was pending is no more what it was.
            let is_less = (new as f32) * LEAST_GROWTH <= old as f32;
            return !(self.minds_pending(old) || is_less && self.minds(old));
        }
        // Among many tables of unequal size another one that became a little larger is no growth of the largest.
        new <= self.capacity_bytes || (new as f32) < self.capacity_bytes.max(old) as f32 * LEAST_GROWTH
    }

    /// A block of this site, or the table itself, went from `old` to `new` bytes.
    pub(crate) fn grew(&mut self, old: u64, new: u64, now: u32) {
        if self.is_deaf_to_growth(old, new) {
            return;
        }
        if new < old {
            return self.lost(old, now);
        }
        self.count_growth(old, new, now);
        if self.chained == CHUNKS {
            self.chained = CHAINED;
        }
    }

    fn count_growth(&mut self, old: u64, new: u64, now: u32) {
        self.capacity_bytes = new;
        if !doubles(new, self.pending_bytes) {
            self.pending_bytes = 0;
        }
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

    /// Twice as much as the largest block was allocated in an earlier epoch, and not freed since: a chunk of an arena. (Nor was the
    /// largest, if it ends a chain of them.) But not beside a table that was seen to grow.
    #[cold]
    fn outlived(&mut self, now: u32) {
        if self.pending_thread & GONE != 0 {
            self.pending_bytes = 0;
            return;
        }
        if self.pending_thread & WAITED == 0 {
            self.pending_thread |= WAITED;
            return;
        }
        if matches!(self.chained, CHAINED | EARLY) && self.first_epoch != self.last_epoch {
            return;
        }
        let new = std::mem::take(&mut self.pending_bytes);
        self.count_growth(self.capacity_bytes, new, now);
        self.chained = CHUNKS;
    }

    /// Closes an epoch: a chain that is overdue ends.
    pub(crate) fn end_epoch(&mut self, now: u32) {
        if self.pending_bytes != 0 {
            self.outlived(now);
        }
        if self.chained != 0 && self.rate > 0.0 && self.overdue(now) > OVERDUE_PLATEAU {
            let Spine { capacity_bytes, pending_bytes, pending_thread, .. } = *self;
            *self = Spine { capacity_bytes, pending_bytes, pending_thread, last_epoch: now, ..Spine::NONE };
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
mod tests;
