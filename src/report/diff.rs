//! What changed between two snapshots, site by site.
//!
//! Two snapshots of one process are not two measurements: most of the live samples are the same blocks, and those
//! must cancel, in the figure and in its interval. The figure is the difference of the sums, in which equal weights
//! cancel to the last bit. Its variance is that of the samples in just one of the two, V(B∖A) + V(A∖B), which the sums
//! bound from above in two ways:
//!
//! * by all births and all ends in between: births = total(B) − total(A), a difference of sums that only grow, so
//!   itself a sum over samples (and of their variances); ends = live(A) + births − live(B). Sharp where few blocks
//!   both came and went in between: a leak;
//! * by live(B) and live(A), as if they had nothing in common. Sharp where everything was replaced.
//!
//! The one with less variance is taken, so an interval is never narrower than it may be and seldom much wider.
//! Snapshots of different processes (or of two runs of the profiler) share no block: there the second holds
//! exactly, and sites are matched by module, build id and offset. Intervals of
//! differences: Zou and Donner (2008).

use std::collections::HashMap;

use super::estimate::Estimate;
use super::frame::Frames;
use super::site::Site;
use super::snapshot::{Snapshot, add};
use crate::store::picture::{Amount, ModulePicture, Picture};
use crate::units::{FrameKey, ModuleId};

/// What changed between two snapshots.
#[derive(Debug)]
pub struct Diff<'a> {
    sites: Vec<SiteDiff<'a>>,
    same_process: bool,
}

/// What changed at one site.
#[derive(Clone, Copy, Debug)]
pub struct SiteDiff<'a> {
    earlier: Option<Site<'a>>,
    later: Option<Site<'a>>,
    same_process: bool,
}

impl<'a> Diff<'a> {
    pub(crate) fn between(earlier: &'a Snapshot, later: &'a Snapshot) -> Diff<'a> {
        let same_process = earlier.picture.pid == later.picture.pid
            && earlier.picture.started_unix_ns == later.picture.started_unix_ns;
        let translate = if same_process { None } else { Some(same_modules(&earlier.picture, &later.picture)) };
        let mut before: HashMap<Vec<FrameKey>, Site<'a>> = HashMap::with_capacity(earlier.picture.sites.len());
        let mut sites = Vec::with_capacity(later.picture.sites.len());
        for site in earlier.sites() {
            let frames = &site.picture().frames;
            let key = match &translate {
                None => Some(frames.clone()),
                Some(modules) => frames.iter().map(|&frame| translated(frame, modules)).collect(),
            };
            match key {
                Some(key) => drop(before.insert(key, site)),
                None => sites.push(SiteDiff { earlier: Some(site), later: None, same_process }),
            }
        }
        for site in later.sites() {
            let earlier = before.remove(&site.picture().frames);
            sites.push(SiteDiff { earlier, later: Some(site), same_process });
        }
        sites.extend(before.into_values().map(|site| SiteDiff { earlier: Some(site), later: None, same_process }));
        sites.retain(SiteDiff::has_changed);
        sites.sort_by_cached_key(|site| {
            let (was, is) = (site.live(site.earlier), site.live(site.later));
            (std::cmp::Reverse(i128::from(is.bytes) - i128::from(was.bytes)), site.order())
        });
        Diff { sites, same_process }
    }

    /// The sites that changed, the largest growth of live bytes first.
    pub fn sites(&self) -> impl ExactSizeIterator<Item = SiteDiff<'a>> + '_ {
        self.sites.iter().copied()
    }

    /// Whether both snapshots are of one run of the profiler. Otherwise nothing cancels, and intervals are wider.
    pub fn is_of_one_process(&self) -> bool {
        self.same_process
    }
}

impl<'a> SiteDiff<'a> {
    /// The call chain, the allocating function first.
    pub fn frames(&self) -> Frames<'a> {
        self.later.or(self.earlier).map_or(Frames::new(&[]), |site| site.frames())
    }

    /// The change of live bytes: negative where more was freed than allocated.
    pub fn live_bytes(&self) -> Estimate {
        self.live_change(|amount| amount.bytes_variance, |snapshot, amount, _| snapshot.bytes(amount))
    }

    /// The change of live blocks.
    pub fn live_blocks(&self) -> Estimate {
        self.live_change(|amount| amount.blocks_variance, |_, amount, unseen| Estimate::blocks(amount, unseen))
    }

    /// Bytes allocated in between. (Of different processes: the difference of their totals, which may be negative.)
    pub fn total_bytes(&self) -> Estimate {
        self.total_change(|snapshot, amount, _| snapshot.bytes(amount))
    }

    /// Blocks allocated in between.
    pub fn total_blocks(&self) -> Estimate {
        self.total_change(|_, amount, unseen| Estimate::blocks(amount, unseen))
    }

    /// Records of this site were dropped, or other stacks folded into it, in either snapshot.
    pub fn is_unknown(&self) -> bool {
        [self.earlier, self.later].into_iter().flatten().any(|site| site.is_unknown())
    }

    fn live(&self, site: Option<Site<'a>>) -> Amount {
        site.map_or(Amount::default(), |site| site.picture().figures.live)
    }

    fn total(&self, site: Option<Site<'a>>) -> Amount {
        site.map_or(Amount::default(), |site| site.picture().figures.total)
    }

    fn order(&self) -> (bool, usize) {
        self.later.map_or((true, self.earlier.map_or(0, |site| site.index)), |site| (false, site.index))
    }

    fn has_changed(&self) -> bool {
        self.live(self.earlier) != self.live(self.later) || self.total(self.earlier) != self.total(self.later)
    }

    fn estimate(&self, amount: &Amount, of: impl Fn(&Snapshot, &Amount, f64) -> Estimate) -> Estimate {
        let Some(site) = self.later.or(self.earlier) else { return Estimate::default() };
        of(site.snapshot, amount, site.snapshot.unseen_block_weight(&site.picture().figures.total))
    }

    fn live_change(
        &self,
        variance: impl Fn(&Amount) -> u128,
        of: impl Fn(&Snapshot, &Amount, f64) -> Estimate,
    ) -> Estimate {
        let (was, is) = (self.live(self.earlier), self.live(self.later));
        let born = minus(&self.total(self.later), &self.total(self.earlier));
        let mut held = was;
        add(&mut held, &born);
        let ended = minus(&held, &is);
        let turnover = variance(&born).saturating_add(variance(&ended));
        let apart = variance(&is).saturating_add(variance(&was));
        let (gain, loss) = if self.same_process && turnover <= apart { (born, ended) } else { (is, was) };
        Estimate::difference(self.estimate(&gain, &of), self.estimate(&loss, &of))
    }

    fn total_change(&self, of: impl Fn(&Snapshot, &Amount, f64) -> Estimate) -> Estimate {
        let (was, is) = (self.total(self.earlier), self.total(self.later));
        if self.same_process {
            return self.estimate(&minus(&is, &was), of);
        }
        Estimate::difference(self.estimate(&is, &of), self.estimate(&was, &of))
    }
}

fn minus(sum: &Amount, part: &Amount) -> Amount {
    Amount {
        bytes: sum.bytes.saturating_sub(part.bytes),
        blocks: sum.blocks.saturating_sub(part.blocks),
        sampled_bytes: sum.sampled_bytes.saturating_sub(part.sampled_bytes),
        sampled_blocks: sum.sampled_blocks.saturating_sub(part.sampled_blocks),
        samples: sum.samples.saturating_sub(part.samples),
        bytes_variance: sum.bytes_variance.saturating_sub(part.bytes_variance),
        blocks_variance: sum.blocks_variance.saturating_sub(part.blocks_variance),
    }
}

/// For each module row of `earlier` the row of the same build in `later`.
fn same_modules(earlier: &Picture, later: &Picture) -> Vec<Option<ModuleId>> {
    let same = |a: &ModulePicture, b: &ModulePicture| a.path == b.path && a.build_id == b.build_id;
    let row_of = |module: &ModulePicture| {
        let row = later.modules.iter().skip(1).position(|other| same(module, other))? + 1;
        u16::try_from(row).ok().map(ModuleId)
    };
    earlier.modules.iter().enumerate().map(|(row, module)| if row == 0 { None } else { row_of(module) }).collect()
}

fn translated(frame: FrameKey, modules: &[Option<ModuleId>]) -> Option<FrameKey> {
    if frame == FrameKey::TRUNCATED {
        return Some(frame);
    }
    let row = *modules.get(usize::from(frame.module().0))?;
    row.map(|row| FrameKey::new(row, frame.offset()))
}
