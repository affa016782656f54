//! Feeding the judge: each applied record goes into its site's history, and births are dated in epochs.
//!
//! Promises: O(1) a record and no allocation, since it runs under the aggregator's lock; at most 1,112 bytes a site (1 KiB of
//! history, the rest habits for advice), and no more than [`MOST_SITES`] sites, in a mapping of its own that costs what
//! is touched. Sites beyond that are not judged and are counted.

#![allow(unsafe_code, reason = "histories in a mapping of their own")]

use std::ptr::NonNull;

use crate::leak::habits::Habits;
use crate::leak::history::{Block, History};
use crate::ring::record::Kind;
use crate::sampler::weight::{IntervalCode, Weight};
use crate::store::attribution::{Applied, Observer, exactly};
use crate::store::exact::{AppliedExactly, Exactly};
use crate::store::streak::Streak;
use crate::store::tables::Tables;
use crate::sys::map;
use crate::units::{SiteId, Ticks};

/// Sites that are judged at most: 18 MB where all of them exist. Far more than a service has that hold
/// memory; an exact profile of a huge program may exceed it.
pub(crate) const MOST_SITES: usize = 16_384;
/// Epochs whose beginnings are remembered. When the list is full every second one goes.
const MOST_BOUNDARIES: usize = 4096;

/// All sites' histories, by the number of their row.
#[derive(Debug)]
pub(crate) struct Watch {
    histories: NonNull<History>,
    habits: NonNull<Habits>,
    /// Rows seen so far, and 1; at most `MOST_SITES`.
    used: usize,
    /// Records of sites without a history.
    unwatched: u64,
    /// Rings that records came from are numbered below this: threads that were recorded at once, at most.
    threads: u32,
    epochs: Epochs,
    /// The interval in bytes that `IntervalCode::FIXED` means.
    fixed_bytes: u64,
}

// SAFETY: the mapping belongs to this value alone.
unsafe impl Send for Watch {}

impl Watch {
    /// For a profile that begins at `base`. `None` where no memory is to be had.
    pub(crate) fn new(base: Ticks, fixed_bytes: u64) -> Option<Watch> {
        let histories = map::anonymous(MOST_SITES * size_of::<History>())?;
        let Some(habits) = map::anonymous(MOST_SITES * size_of::<Habits>()) else {
            // SAFETY: exactly the mapping just made; nobody else has it.
            unsafe { map::unmap(histories.as_ptr().cast(), MOST_SITES * size_of::<History>()) };
            return None;
        };
        let (histories, habits, epochs) = (histories.cast(), habits.cast(), Epochs::new(base));
        Some(Watch { histories, habits, used: 0, unwatched: 0, threads: 0, epochs, fixed_bytes })
    }

    /// The histories of the rows seen so far.
    pub(crate) fn histories(&mut self) -> &mut [History] {
        // SAFETY: `used` is within the mapping, whose zeroed bytes are unused histories; `&mut self` makes this the
        // only access.
        unsafe { std::slice::from_raw_parts_mut(self.histories.as_ptr(), self.used) }
    }

    /// What the sites of the histories do epoch by epoch.
    pub(crate) fn habits(&mut self) -> &mut [Habits] {
        // SAFETY: as in `histories`; zeroed bytes are a site's that has not done anything.
        unsafe { std::slice::from_raw_parts_mut(self.habits.as_ptr(), self.used) }
    }

    /// The most threads that were recorded at once so far.
    pub(crate) fn threads(&self) -> u32 {
        self.threads
    }

    /// The memory that histories and habits take.
    pub(crate) fn memory_bytes(&self) -> u64 {
        (self.used * (size_of::<History>() + size_of::<Habits>())) as u64
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
        self.epochs.begin(at);
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // SAFETY: exactly the mapping made by `new`; nobody else has it.
        unsafe { map::unmap(self.histories.as_ptr().cast(), MOST_SITES * size_of::<History>()) };
        // SAFETY: the same.
        unsafe { map::unmap(self.habits.as_ptr().cast(), MOST_SITES * size_of::<Habits>()) };
    }
}

impl Observer for Watch {
    #[inline]
    fn applied(&mut self, applied: &Applied<'_>) {
        let record = applied.record;
        let now = self.epochs.open;
        let birth = match record.kind {
            Kind::Alloc => now,
            _ => self.epochs.of(record.birth),
        };
        let thread = applied.ring.map_or(u32::MAX, |ring| ring.0);
        if thread != u32::MAX {
            self.threads = self.threads.max(thread + 1);
        }
        let fixed_bytes = self.fixed_bytes;
        let block = |size: u64, interval: IntervalCode, weight: &Weight| Block {
            size,
            interval_bytes: interval.interval_bytes(fixed_bytes),
            weight: *weight,
            thread,
        };
        let new = block(record.size, record.interval, applied.weight);
        let index = applied.site.0 as usize;
        if self.history_of(applied.site).is_none() {
            return;
        }
        if let Some(habits) = self.habits().get_mut(index) {
            match (applied.streak, record.kind) {
                (Some(Streak::Births { times, .. }), _) => habits.born(&new, times),
                (Some(Streak::Pairs { times, .. }), _) => habits.turned_over(&new, times),
                (None, Kind::Alloc) => habits.born(&new, 1),
                (None, Kind::Free | Kind::Forget) => habits.left(&new),
                (None, Kind::Resize) => habits.resized(&block(record.old_size, record.old_interval, applied.old), &new),
            }
        }
        let Some(history) = self.histories().get_mut(index) else { return };
        match applied.streak {
            Some(Streak::Births { times, .. }) => return history.born_often(now, &new, times),
            Some(Streak::Pairs { times, .. }) => return history.born_and_freed_often(now, &new, times),
            None => {}
        }
        match record.kind {
            Kind::Alloc => history.born(now, &new),
            Kind::Free => history.freed(birth, now, &new),
            Kind::Forget => history.forgotten(birth, now, &new),
            Kind::Resize => {
                let old = block(record.old_size, record.old_interval, applied.old);
                history.resized(Some(birth), now, &old, &new);
            }
        }
    }

    #[inline(always)]
    fn applied_exactly(&mut self, applied: &AppliedExactly) {
        let now = self.epochs.open;
        let birth = match applied.what {
            Exactly::Born => now,
            Exactly::Freed { birth } | Exactly::Resized { birth, .. } => self.epochs.of(birth),
        };
        let block = |size| Block { size, interval_bytes: 0.0, weight: exactly(size), thread: applied.ring.0 };
        let index = applied.site.0 as usize;
        if self.history_of(applied.site).is_none() {
            return;
        }
        self.threads = self.threads.max(applied.ring.0 + 1);
        if let Some(habits) = self.habits().get_mut(index) {
            match applied.what {
                Exactly::Born => habits.born(&block(applied.size), 1),
                Exactly::Freed { .. } => habits.left(&block(applied.size)),
                Exactly::Resized { from, .. } => habits.resized(&block(from), &block(applied.size)),
            }
        }
        let Some(history) = self.histories().get_mut(index) else { return };
        match applied.what {
            Exactly::Born => history.born_here(now, &block(applied.size)),
            Exactly::Freed { .. } => history.freed_here(birth, now, &block(applied.size)),
            Exactly::Resized { from, .. } => history.resized(Some(birth), now, &block(from), &block(applied.size)),
        }
    }
}

impl Watch {
    /// The history of a site that has an event now, begun if need be; `None` where it is not judged.
    #[inline(always)]
    fn history_of(&mut self, site: SiteId) -> Option<&mut History> {
        let index = site.0 as usize;
        // Row 0 is what is attributed to no stack.
        if index == 0 || index >= MOST_SITES {
            self.unwatched += 1;
            return None;
        }
        self.used = self.used.max(index + 1);
        let now = self.epochs.open;
        let history = self.histories().get_mut(index)?;
        if !history.is_in_use() {
            history.begin(now);
        }
        Some(history)
    }
}

/// When epochs began.
#[derive(Debug)]
struct Epochs {
    /// (ticks, epoch), ascending in both. Allocated once.
    began: Vec<(u64, u32)>,
    open: u32,
    /// When the open one began, while each is remembered; else never.
    open_since: Ticks,
    /// Every so many epochs one is remembered.
    stride: u32,
}

impl Epochs {
    fn new(base: Ticks) -> Epochs {
        let mut began = Vec::with_capacity(MOST_BOUNDARIES);
        began.push((base.0, 0));
        Epochs { began, open: 0, open_since: base, stride: 1 }
    }

    fn begin(&mut self, at: Ticks) {
        self.open = self.open.saturating_add(1);
        self.open_since = Ticks(if self.stride == 1 { at.0 } else { u64::MAX });
        if !self.open.is_multiple_of(self.stride) {
            return;
        }
        if self.began.len() == MOST_BOUNDARIES {
            let mut index = 0;
            self.began.retain(|_| {
                index += 1;
                index % 2 == 1
            });
            self.stride = self.stride.saturating_mul(2);
            self.open_since = Ticks(u64::MAX);
            if !self.open.is_multiple_of(self.stride) {
                return;
            }
        }
        self.began.push((at.0, self.open));
    }

    /// The epoch of a moment; between two remembered beginnings by proportion.
    #[inline]
    fn of(&self, at: Ticks) -> u32 {
        // Most blocks are young.
        if at >= self.open_since { self.open } else { self.of_earlier(at) }
    }

    #[cold]
    fn of_earlier(&self, at: Ticks) -> u32 {
        let next = self.began.partition_point(|&(began, _)| began <= at.0);
        let Some(&(began, epoch)) = next.checked_sub(1).and_then(|i| self.began.get(i)) else { return 0 };
        let Some(&(ends, end_epoch)) = self.began.get(next) else {
            // In the last stretch: at most a stride of epochs long.
            return if self.stride == 1 {
                epoch
            } else {
                epoch.max(self.open.saturating_sub(self.stride / 2)).min(self.open)
            };
        };
        let share = u128::from(at.0 - began) * u128::from(end_epoch - epoch) / u128::from((ends - began).max(1));
        epoch + u32::try_from(share).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_fall_into_their_epochs() {
        let mut epochs = Epochs::new(Ticks(100));
        for epoch in 1..=50_000u64 {
            epochs.begin(Ticks(100 + epoch * 10));
        }
        assert!(epochs.began.len() <= MOST_BOUNDARIES);
        assert_eq!(epochs.open, 50_000);
        for epoch in (0..49_000u32).step_by(997) {
            let at = Ticks(100 + u64::from(epoch) * 10 + 5);
            assert!(epochs.of(at).abs_diff(epoch) <= 1, "{epoch} {}", epochs.of(at));
        }
        assert_eq!(epochs.of(Ticks(0)), 0);
    }

    #[test]
    fn short_runs_are_exact() {
        let mut epochs = Epochs::new(Ticks(0));
        for epoch in 1..=300u64 {
            epochs.begin(Ticks(epoch * 1000));
        }
        for epoch in 0..=300u32 {
            assert_eq!(epochs.of(Ticks(u64::from(epoch) * 1000)), epoch);
            assert_eq!(epochs.of(Ticks(u64::from(epoch) * 1000 + 999)), epoch);
        }
    }
}
