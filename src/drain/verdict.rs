//! The judge at work: what the drain thread does at the end of each epoch, and what a report of leaks is made from.
//!
//! Promises: the judge is the drain thread's alone; site histories are touched under the aggregator's lock, where
//! nothing is allocated; pools of thin sites are formed on a copy, outside the lock.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Duration;

use super::aggregator::AGGREGATOR;
use super::memory::{Answer, Books};
use super::watch::Watch;
use crate::leak::activity::Activity;
use crate::leak::assemble::{Course, Process};
use crate::leak::habits::{Habits, Ways};
use crate::leak::history::History;
use crate::leak::judge::{Judge, Subject};
use crate::leak::memory::{Memory, Moment};
use crate::leak::pool::{self, KeyFrame, Whose};
use crate::leak::state::Change;
use crate::leak::{LeakConfig, LeakConfigError};
use crate::store::picture::{ExactTotals, Picture};
use crate::store::tables::Tables;
use crate::units::{FrameKey, StackId, Ticks};

/// Changes of verdicts that wait to be told; more are counted, and seen in the next report.
const MOST_CHANGES: usize = 1024;
/// Epochs between looks at what is too thin to be judged by itself.
const REGROUP_EVERY: u32 = 12;
/// After so many epochs their mean length is known, and what it may be above what was asked for.
const EPOCHS_TO_MEASURE: u32 = 20;
const MEASURED_LONGER: f64 = 1.2;

/// Tells whose code frames are (a library's says nothing about whose leak it is), and numbers the functions there: equal ones alike.
/// May take long: it reads symbols.
pub(crate) type Owners = fn(&[FrameKey], &Picture) -> Vec<(Whose, u64)>;

/// The drain thread's judge.
#[derive(Debug)]
pub(crate) struct Bench {
    judge: Judge,
    /// When the program was busy and when idle.
    activity: Activity,
    /// What was live, resident and held, for the reports.
    books: Books,
    /// Exact live bytes of the profile at the ends of the epochs that `books` has.
    live_past: VecDeque<u64>,
    baseline: Option<u64>,
    blocks_before: u64,
    changes: Vec<(Subject, Change)>,
    /// Changes that found no room among them.
    untold: u64,
    owners_known: HashMap<FrameKey, (Whose, u64)>,
    owners: Owners,
    epoch_length: Option<Duration>,
    /// Epochs that have ended.
    epochs: u32,
}

/// What a report of leaks is made from: copies, so that it is made outside the drain thread.
#[derive(Debug)]
pub(crate) struct Evidence {
    pub(crate) judge: Judge,
    pub(crate) histories: Vec<History>,
    pub(crate) ways: Ways,
    /// The stack of each history's row.
    pub(crate) stacks: Vec<StackId>,
    pub(crate) process: Process,
    pub(crate) picture: Box<Picture>,
}

impl Bench {
    pub(crate) fn new(
        config: LeakConfig,
        epoch_length: Option<Duration>,
        owners: Owners,
    ) -> Result<Bench, LeakConfigError> {
        Ok(Bench {
            judge: Judge::new(config)?,
            activity: Activity::default(),
            books: Books::default(),
            live_past: VecDeque::new(),
            baseline: None,
            blocks_before: 0,
            changes: Vec::with_capacity(MOST_CHANGES),
            untold: 0,
            owners_known: HashMap::new(),
            owners,
            epoch_length,
            epochs: 0,
        })
    }

    /// Within `AGGREGATOR.watched`: closes the open epoch and begins the next.
    pub(crate) fn end_epoch(&mut self, watch: &mut Watch, totals: &ExactTotals, at: Ticks) {
        let allocated = totals.total_blocks.saturating_sub(self.blocks_before);
        self.blocks_before = totals.total_blocks;
        self.epochs = self.epochs.saturating_add(1);
        self.activity.saw_threads(watch.threads());
        let is_idle = self.activity.end_epoch(allocated);
        watch.habits().iter_mut().for_each(|habits| habits.end_epoch(is_idle));
        let (changes, untold) = (&mut self.changes, &mut self.untold);
        self.judge.end_epoch(watch.epoch(), allocated, watch.histories(), &mut |subject, change| {
            if changes.len() < changes.capacity() {
                // Room was made before: nothing is allocated here.
                changes.push((subject, change));
            } else {
                *untold += 1;
            }
        });
        watch.begin_epoch(at);
    }

    /// After the lock: remembers the process's course.
    pub(crate) fn after_epoch(&mut self, totals: &ExactTotals, moment: Moment) {
        let window = usize::try_from(self.judge.config.window_epochs).unwrap_or(usize::MAX).clamp(1, 1_000_000);
        if self.live_past.len() > window {
            self.live_past.pop_front();
        }
        self.live_past.push_back(live_of(totals));
        self.books.end_epoch(moment, window);
    }

    /// Is it time to look at thin sites?
    pub(crate) fn regroups_now(&self) -> bool {
        self.judge.now % REGROUP_EVERY == REGROUP_EVERY - 1
    }

    /// Forms pools of sites that are too thin to be judged by themselves. `picture` is made only where there are any.
    pub(crate) fn regroup(&mut self, picture: impl FnOnce() -> Option<Box<Picture>>) {
        let Some((mut histories, stacks)) = copy_histories() else { return };
        let thin = |history: &History| history.is_in_use() && history.case.order == 0 && history.matured > 0.0;
        #[expect(clippy::cast_precision_loss, reason = "at most 1,000")]
        let enough = self.judge.config.minimum_samples as f32;
        let matured: f32 = histories.iter().filter(|history| thin(history)).map(|history| history.matured).sum();
        if matured < enough {
            return;
        }
        let Some(picture) = picture() else { return };
        let by_stack: HashMap<StackId, &[FrameKey]> =
            picture.sites.iter().map(|site| (site.stack, site.frames.as_slice())).collect();
        let frames_of = |index: usize| stacks.get(index).and_then(|stack| by_stack.get(stack)).copied().unwrap_or(&[]);
        // What is in a declared scope is judged against its bound, which chains outside of it have nothing to do with.
        let scoped: HashSet<StackId> =
            picture.sites.iter().filter(|site| !site.scopes.is_empty()).map(|site| site.stack).collect();
        let is_free = |i: usize| stacks.get(i).is_some_and(|stack| !scoped.contains(stack));
        let wanted: Vec<usize> =
            (0..histories.len()).filter(|&i| histories.get(i).is_some_and(thin) && is_free(i)).collect();
        let mut new: Vec<FrameKey> = wanted
            .iter()
            .flat_map(|&index| frames_of(index))
            .filter(|key| !self.owners_known.contains_key(key))
            .copied()
            .collect();
        new.sort_unstable();
        new.dedup();
        if !new.is_empty() {
            let known = (self.owners)(&new, &picture);
            self.owners_known.extend(new.into_iter().zip(known));
        }
        let mut keys: Vec<Vec<KeyFrame>> = vec![Vec::new(); histories.len()];
        for index in wanted {
            let known = |key: &FrameKey| self.owners_known.get(key).copied().unwrap_or((Whose::Library, key.0));
            let stack = frames_of(index);
            // What all stacks share would make one group of everything.
            let outside = stack.iter().position(|key| known(key).0 == Whose::Allocator).map_or(0, |at| at + 1);
            let frame = |key: &FrameKey| {
                let (whose, key) = known(key);
                KeyFrame { key, library: whose != Whose::Program }
            };
            let mut frames: Vec<KeyFrame> = stack.iter().skip(outside).map(frame).collect();
            pool::collapse_runs(&mut frames);
            if let Some(slot) = keys.get_mut(index) {
                *slot = frames;
            }
        }
        pool::regroup(&mut self.judge, &mut histories, &|index| keys.get(index).map_or(&[], Vec::as_slice));
        AGGREGATOR.watched(|_, watch, _| {
            for (ours, theirs) in histories.iter().zip(watch.histories()) {
                // What regrouping decides is the drain thread's alone; everything else went on meanwhile.
                theirs.group = ours.group;
            }
        });
    }

    /// From here on growth is measured against now.
    pub(crate) fn set_baseline(&mut self, totals: &ExactTotals) {
        self.baseline = Some(live_of(totals));
    }

    /// Did verdicts change since `take_changes`?
    pub(crate) fn has_changes(&self) -> bool {
        !self.changes.is_empty()
    }

    /// The changes of verdicts since the last call.
    pub(crate) fn take_changes(&mut self) -> Vec<(Subject, Change)> {
        std::mem::replace(&mut self.changes, Vec::with_capacity(MOST_CHANGES))
    }

    /// A thread of the program asked the allocator just now.
    pub(crate) fn note_answer(&mut self, answer: Answer, now: Moment) {
        self.books.note(answer, now);
    }

    /// Where the process's memory is.
    pub(crate) fn memory(&self, now: &Moment) -> Memory {
        self.books.memory(now, self.judge.config.growth_threshold_percent).0
    }

    /// Copies everything that a report needs.
    pub(crate) fn evidence(&self, totals: &ExactTotals, now: &Moment, picture: Box<Picture>) -> Option<Evidence> {
        let (histories, stacks) = copy_histories()?;
        let unwatched = AGGREGATOR.watched(|_, watch, _| watch.unwatched())?;
        let (memory, limit) = self.books.memory(now, self.judge.config.growth_threshold_percent);
        #[expect(clippy::cast_precision_loss, reason = "seconds")]
        let window_seconds = now.at_ns.saturating_sub(self.books.first().at_ns) as f64 / 1e9;
        let epochs = u32::try_from(self.books.epochs()).unwrap_or(u32::MAX);
        let epoch_seconds = epoch_seconds(self.epoch_length, window_seconds, epochs);
        let before_bytes = self.live_past.front().copied().unwrap_or_default();
        let process = Process {
            epoch_seconds,
            epochs: self.epochs,
            window_seconds,
            live: Course { now_bytes: live_of(totals), before_bytes },
            allocated_bytes: totals.total_bytes,
            memory,
            limit_bytes: limit.limit_bytes,
            used_bytes: limit.used_bytes,
            baseline_bytes: self.baseline,
            unwatched_records: unwatched,
            untold_changes: self.untold,
            interval_bytes: picture.interval.interval_bytes(picture.fixed_interval_bytes),
        };
        let habits = copy_habits(histories.len())?;
        let ways = Ways { habits, activity: self.activity.clone() };
        Some(Evidence { judge: self.judge.clone(), histories, ways, stacks, process, picture })
    }
}

/// How long epochs are: as asked, or as so many of them took, where that is clearly longer since closing them takes long, or where none
/// was asked.
fn epoch_seconds(asked: Option<Duration>, window_seconds: f64, epochs: u32) -> f64 {
    let measured = window_seconds / f64::from(epochs.max(1));
    match asked.map(|length| length.as_secs_f64()) {
        Some(asked) if epochs < EPOCHS_TO_MEASURE || measured <= MEASURED_LONGER * asked => asked,
        _ => measured,
    }
}

fn live_of(totals: &ExactTotals) -> u64 {
    totals.total_bytes.saturating_sub(totals.freed_bytes)
}

/// The histories and their rows' stacks. Memory is made before the lock; histories that come between are left out.
fn copy_histories() -> Option<(Vec<History>, Vec<StackId>)> {
    let used = AGGREGATOR.watched(|_, watch, _| watch.histories().len())?;
    let mut histories: Vec<History> = Vec::with_capacity(used);
    let mut stacks: Vec<StackId> = Vec::with_capacity(used);
    AGGREGATOR.watched(|tables: &Tables<'static>, watch, _| {
        // Also what was lost since the last epoch makes a site 'unknown' in a report.
        watch.taint(tables);
        for (history, row) in watch.histories().iter().zip(tables.sites).take(used) {
            histories.push(*history);
            stacks.push(row.stack());
        }
    })?;
    Some((histories, stacks))
}

/// What the sites of so many histories do. Memory is made before the lock.
fn copy_habits(count: usize) -> Option<Vec<Habits>> {
    let mut habits: Vec<Habits> = Vec::with_capacity(count);
    AGGREGATOR.watched(|_, watch, _| habits.extend(watch.habits().iter().take(count)))?;
    Some(habits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn epochs_are_as_long_as_asked_unless_many_took_clearly_longer() {
        let asked = Some(Duration::from_millis(10));
        let is = |found: f64, wanted: f64| assert!((found - wanted).abs() < 1e-9, "{found} is not {wanted}");
        // The open one is in the window, too: of few it is a large part.
        is(epoch_seconds(asked, 0.04, 2), 0.01);
        is(epoch_seconds(asked, 1.01, 100), 0.01);
        is(epoch_seconds(asked, 2.4, 100), 0.024);
        is(epoch_seconds(None, 2.4, 100), 0.024);
        is(epoch_seconds(None, 2.4, 0), 2.4);
    }
}
