//! What sites have to do with each other, for their advice: tables that grow, sites born in lockstep, and sites that grow
//! only when more of another's blocks are in use at once than ever before. Pure; made once a report.
//!
//! **Lockstep**: births equal, to a twentieth, in every birth cohort, and none freed. In sampled mode births are thinned by
//! chance, so that only large blocks, of which all are sampled, are found in it.
//!
//! **Peaks**: the program does not say how much is in use at once. The number of live blocks of sites that come and go
//! (requests, buffers, connections) stands for it, and the number of threads. A site that had births in k of the last n epochs, all of them among the r
//! epochs with a new peak of another, would do so by chance once in C(n,k) / C(r,k); it is believed below one in a
//! thousand, divided by the number of sites that were compared (Bonferroni).

use super::habits::{Epochs, Habits, WATCHED_EPOCHS, Ways};
use super::history::{History, SAMPLE};
use super::judge::{Judge, Subject};
use super::state::Tier;

/// Of the growing tables the largest are looked at.
const MOST_TABLES: usize = 16;
/// Bytes of a table for each block that it holds: an entry is no larger, and keeps no more blocks of one site than it has bytes, a
/// pointer to a list of eight.
const LEAST_ENTRY: f64 = 1.0;
const LARGEST_ENTRY: f64 = 512.0;
/// Leaking sites that are compared with each other.
const MOST_IN_LOCKSTEP: usize = 64;
/// Share of its births that lives where hardly any block was freed.
const KEPT_SHARE: f64 = 0.99;
/// Epochs with births from which on something is said about them.
const FEWEST_GROWTHS: u32 = 6;
/// The same to say that it grows without peaks.
const FEWEST_WITHOUT: u32 = 16;
/// At most this share of its growth falls on one other site's peaks: it does not grow with use.
const WITHOUT_SHARE: f64 = 0.25;
/// The chance that peaks and growth coincide, over all comparisons of a site.
const CHANCE: f64 = 1e-3;

/// How a site's growth goes with peaks of use.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Use {
    /// Epochs that were looked at; with births of the site; with a new peak of what it goes with best; with both.
    pub(crate) epochs: u32,
    pub(crate) growths: u32,
    pub(crate) peaks: u32,
    pub(crate) at_peaks: u32,
    /// What that is: a site's history, or `None` for the number of threads.
    pub(crate) of: Option<usize>,
    /// It grows at these peaks alone, beyond chance.
    pub(crate) at_peaks_alone: bool,
    /// It grows, and next to never at a peak of anything.
    pub(crate) without_peaks: bool,
}

/// A table that grows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Table {
    /// The history of its site.
    pub(crate) index: usize,
    /// What it holds by now.
    held_bytes: f32,
}

impl Table {
    /// May so many blocks be what its entries hold, going by their number? Where either is not known they may.
    pub(crate) fn may_hold(&self, blocks: f64) -> bool {
        let share = f64::from(self.held_bytes) / blocks;
        self.held_bytes <= 0.0 || blocks <= 0.0 || (LEAST_ENTRY..=LARGEST_ENTRY).contains(&share)
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Relations {
    /// Tables that grow, the largest first.
    pub(crate) tables: Vec<Table>,
    /// Histories of leaks of which hardly anything was freed.
    kept: Vec<usize>,
    /// Pairs of them born in lockstep.
    lockstep: Vec<(usize, usize)>,
    /// How growth goes with use, of the sites with a verdict.
    uses: Vec<(usize, Use)>,
}

impl Relations {
    /// Those of the last closed epoch.
    pub(crate) fn of(judge: &Judge, histories: &[History], ways: &Ways) -> Relations {
        let in_use = || histories.iter().enumerate().filter(|(_, history)| history.is_in_use());
        let table = |(index, history): (usize, &History)| {
            let held_bytes = history.spine.filling(judge.now).map_or(0.0, |filling| filling.held_bytes);
            Table { index, held_bytes }
        };
        let mut tables: Vec<Table> = in_use().filter(|(_, history)| is_a_table(history)).map(table).collect();
        tables.sort_by_key(|table| std::cmp::Reverse(histories[table.index].spine.capacity_bytes));
        tables.truncate(MOST_TABLES);
        let leaks: Vec<(usize, &History)> = in_use()
            .filter(|(_, history)| history.case.tier() == Tier::Leak)
            .filter(|(_, history)| history.live_total as f64 >= KEPT_SHARE * history.born_total as f64)
            .take(MOST_IN_LOCKSTEP)
            .collect();
        let pairs = leaks.iter().enumerate().flat_map(|(i, a)| leaks.iter().skip(i + 1).map(move |b| (a, b)));
        let lockstep = pairs.filter(|(a, b)| are_together(a.1, b.1)).map(|(a, b)| (a.0, b.0)).collect();
        let with_habits = || in_use().filter_map(|(index, history)| Some((index, history, ways.habits.get(index)?)));
        let others: Vec<Other> = with_habits()
            .filter(|(_, _, habits)| habits.comes_and_goes())
            .map(|(index, history, habits)| (Some(index), history.origin, habits.peaks))
            .collect();
        let threads = (None, 0, ways.activity.thread_peaks());
        let uses = with_habits()
            .filter(|(_, history, _)| history.case.tier() != Tier::None)
            .filter_map(|(index, history, habits)| {
                Some((index, use_of(index, history.origin, habits, &others, threads, judge.now)?))
            })
            .collect();
        let kept = leaks.iter().map(|(index, _)| *index).collect();
        Relations { tables, kept, lockstep, uses }
    }

    /// Sites born in lockstep with this one.
    pub(crate) fn in_lockstep_with(&self, index: usize) -> impl Iterator<Item = usize> {
        self.lockstep.iter().filter_map(move |&(a, b)| match index {
            _ if a == index => Some(b),
            _ if b == index => Some(a),
            _ => None,
        })
    }

    /// Leaks, this one among them if it is one, of which hardly anything was freed.
    pub(crate) fn kept_beside(&self, index: usize) -> &[usize] {
        if self.kept.contains(&index) { &self.kept } else { &[] }
    }

    /// How its growth goes with use; `None` where too little is known.
    pub(crate) fn use_of(&self, index: usize) -> Option<&Use> {
        self.uses.iter().find(|(of, _)| *of == index).map(|(_, found)| found)
    }

    /// The sites that a subject's advice may speak of.
    pub(crate) fn spoken_of(&self, subject: Subject) -> impl Iterator<Item = usize> {
        let site = match subject {
            Subject::Site(index) => Some(index),
            Subject::Group(_) => None,
        };
        let of_site = site.into_iter().flat_map(|index| {
            let peaks = self.use_of(index).and_then(|found| found.of);
            self.kept_beside(index).iter().copied().chain(peaks)
        });
        self.tables.iter().map(|table| table.index).chain(of_site)
    }
}

/// Where many live, as of buffers that grow by `realloc`, the growing block is none that holds what others allocate.
fn is_a_table(history: &History) -> bool {
    history.spine.is_growing() && !history.spine.is_of_chunks() && history.is_mostly_a_table()
}

/// Are births equal over all time?
fn are_together(a: &History, b: &History) -> bool {
    a.origin == b.origin
        && a.width_shift == b.width_shift
        && a.born.iter().zip(&b.born).all(|(&a, &b)| a.abs_diff(b) <= (a.max(b) / 20).max(SAMPLE / 2))
}

/// What stands for use: a site's history (`None`: threads), its first epoch, its peaks.
type Other = (Option<usize>, u32, Epochs);

fn use_of(index: usize, origin: u32, habits: &Habits, others: &[Other], threads: Other, now: u32) -> Option<Use> {
    let growths = habits.births.count();
    if growths < FEWEST_GROWTHS {
        return None;
    }
    let with = |&(of, since, peaks): &Other| Use {
        epochs: (now.saturating_sub(since.max(origin)) + 1).min(WATCHED_EPOCHS),
        growths,
        peaks: peaks.count(),
        at_peaks: habits.births.and(peaks).count(),
        of,
        at_peaks_alone: false,
        without_peaks: false,
    };
    let compared = others.iter().filter(|(of, ..)| *of != Some(index)).chain(std::iter::once(&threads));
    // The most growth at peaks; of equals the fewest peaks, which say most.
    let best = compared.map(with).max_by_key(|found| (found.at_peaks, std::cmp::Reverse(found.peaks)))?;
    let count = others.len() as f64 + 1.0;
    let is_alone = best.at_peaks == growths && by_chance(&best) * count < CHANCE;
    // Without anything that comes and goes nothing is known of use.
    let is_without = !others.is_empty()
        && growths >= FEWEST_WITHOUT
        && f64::from(best.at_peaks) <= WITHOUT_SHARE * f64::from(growths);
    Some(Use { at_peaks_alone: is_alone, without_peaks: is_without, ..best })
}

/// The chance that all of k growths fall on r peaks among n epochs: C(r,k) / C(n,k).
fn by_chance(found: &Use) -> f64 {
    let (k, r, n) = (found.growths, found.peaks.min(found.epochs), found.epochs.max(found.growths));
    (0..k).map(|i| f64::from(r.saturating_sub(i)) / f64::from(n - i)).product()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::leak::history::Block;
    use crate::sampler::weight::Weight;

    fn block() -> Block {
        Block { size: 64, interval_bytes: 0.0, weight: Weight::of(64, 0.0), thread: 0 }
    }

    #[test]
    fn a_table_holds_what_it_has_entries_for() {
        let table = Table { index: 0, held_bytes: 64_000.0 };
        // A pointer each, or a large entry; eight blocks an entry.
        assert!(table.may_hold(8_000.0) && table.may_hold(200.0) && table.may_hold(60_000.0));
        assert!(!table.may_hold(100.0) && !table.may_hold(100_000.0));
        assert!(table.may_hold(0.0) && Table { held_bytes: 0.0, ..table }.may_hold(5.0), "nothing is known");
    }

    /// A site that grows by one block in some of 60 epochs, and one of which so many are live at once in each.
    fn found(grows: impl Fn(u32) -> bool, in_use: impl Fn(u32) -> u64) -> Use {
        let (mut site, mut other) = (Habits::default(), Habits::default());
        for epoch in 0..60 {
            if grows(epoch) {
                site.born(&block(), 1);
            }
            other.born(&block(), in_use(epoch));
            (0..in_use(epoch)).for_each(|_| other.left(&block()));
            site.end_epoch(false);
            other.end_epoch(false);
        }
        assert!(other.comes_and_goes());
        let others = [(Some(1), 0, other.peaks)];
        use_of(0, 0, &site, &others, (None, 0, Epochs::default()), 59).expect("enough births")
    }

    #[test]
    fn growth_at_peaks_alone_is_told_from_growth_without_them() {
        // A new peak every fifth epoch.
        let in_use = |epoch: u32| 10 + u64::from(epoch.is_multiple_of(5)) * u64::from(epoch);
        let at_peaks = found(|epoch| epoch.is_multiple_of(5), in_use);
        assert!(at_peaks.at_peaks_alone && !at_peaks.without_peaks, "{at_peaks:?}");
        assert_eq!((at_peaks.growths, at_peaks.at_peaks, at_peaks.of, at_peaks.epochs), (12, 12, Some(1), 60));
        // Half of its growth is at other times; all of it is, or use never rises.
        let mixed = found(|epoch| epoch.is_multiple_of(5) || epoch % 5 == 2, in_use);
        assert!(!mixed.at_peaks_alone && !mixed.without_peaks, "{mixed:?}");
        for without in [found(|epoch| epoch % 5 != 0, in_use), found(|_| true, |_| 10)] {
            assert!(without.without_peaks && !without.at_peaks_alone, "{without:?}");
        }
        // Use rises in each epoch, and so does the site: that says nothing.
        let ramp = found(|_| true, |epoch| 10 + u64::from(epoch));
        assert!(!ramp.at_peaks_alone && !ramp.without_peaks, "{ramp:?}");
    }

    /// Of 2,000 sites that grow at random beside another's random peaks none is called a pool: each may with a chance of
    /// one in two thousand (two comparisons), so more than eight would come once in a hundred thousand runs.
    #[test]
    fn chance_is_no_evidence() {
        let mut state = 7u64;
        let mut one_in_three = move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33).is_multiple_of(3)
        };
        let mut called = 0;
        for _ in 0..2000 {
            let (mut site, mut peaks) = (Habits::default(), Epochs::default());
            for _ in 0..60 {
                if one_in_three() {
                    site.born(&block(), 1);
                }
                site.end_epoch(false);
                peaks.push(one_in_three());
            }
            let found = use_of(0, 0, &site, &[(Some(1), 0, peaks)], (None, 0, Epochs::default()), 59);
            called += u32::from(found.is_some_and(|found| found.at_peaks_alone));
        }
        assert!(called <= 8, "{called}");
    }
}
