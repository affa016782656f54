//! A profile at one moment, and the questions that it answers.
//!
//! Made from a picture of the store; reads no store itself and changes nothing. Names are resolved once, at the
//! first question that shows frames, and the memory for debug information is given back before the answer.

use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use super::diff::Diff;
use super::estimate::{Estimate, Unseen};
use super::facts::{HistoryPoint, Losses, Mode, Module, ProcessState, SizeClass, Totals};
use super::frame::Frame;
use super::scope::{self, Scope};
use super::site::Site;
use super::symbolize::SymbolTable;
use super::trim::Trim;
use crate::leak::{LeakReport, Memory};
use crate::sampler::weight::IntervalCode;
use crate::store::picture::{Amount, Picture};
use crate::units::FrameKey;

/// A profile at one moment.
#[derive(Debug)]
pub struct Snapshot {
    pub(crate) picture: Picture,
    pub(crate) trim: Trim,
    /// The largest mean sample interval that any block may have been drawn with; 0.0 in exact mode.
    pub(super) largest_interval_bytes: f64,
    /// The least size of which a block was recorded, or a little less; 1 where there was none.
    smallest_bytes: u64,
    symbols: OnceLock<SymbolTable>,
    /// The frames to show of each site, made when first asked for.
    site_frames: Box<[OnceLock<Box<[Frame]>>]>,
    /// The pseudo-frame of each scope that has a name, by its number.
    pub(crate) scope_frames: Box<[Option<Frame>]>,
    /// The verdicts, where they were asked for.
    pub(crate) leaks: Option<LeakReport<Frame>>,
    /// Where the process's memory was, where the process itself was asked.
    memory: Option<Memory>,
    /// The last of its profile, which this process itself has stopped.
    is_last: bool,
}

impl Snapshot {
    /// A snapshot of a picture, with the frames that dhat's default trimming would hide hidden, at any depth.
    pub(crate) fn from_picture(picture: Picture) -> Snapshot {
        Snapshot::trimmed(picture, Trim::default())
    }

    /// A snapshot of a picture that shows of each stack what `trim` says.
    pub(crate) fn trimmed(picture: Picture, trim: Trim) -> Snapshot {
        let bytes = |code: IntervalCode| code.interval_bytes(picture.fixed_interval_bytes);
        let current = bytes(picture.interval);
        let largest = picture.history.iter().map(|point| bytes(point.interval)).fold(current, f64::max);
        let site_frames = picture.sites.iter().map(|_| OnceLock::new()).collect();
        let largest_interval_bytes = if picture.exact_mode { 0.0 } else { largest };
        let used = picture.size_classes.iter().zip(0u32..).find(|(class, _)| class.total.blocks > 0);
        let smallest_bytes = used.map_or(1, |(_, exponent)| class_bytes(exponent));
        let frame = |name: &str| (!name.is_empty()).then(|| Frame::of_scope(name));
        let scope_frames = picture.scopes.iter().map(|scope| frame(&scope.name)).collect();
        Snapshot {
            picture,
            trim,
            largest_interval_bytes,
            smallest_bytes,
            symbols: OnceLock::new(),
            site_frames,
            scope_frames,
            leaks: None,
            memory: None,
            is_last: false,
        }
    }

    /// The exact totals. They hold in every mode, and do not depend on the sample.
    pub fn totals(&self) -> Totals {
        Totals::of(&self.picture.exact)
    }

    /// Whether figures of sites are exact or estimates.
    pub fn mode(&self) -> Mode {
        if self.picture.exact_mode { Mode::Exact } else { Mode::Sampled }
    }

    /// The mean sample interval in force, in bytes; 0 in exact mode.
    pub fn sample_interval_bytes(&self) -> u64 {
        self.interval_bytes(self.picture.interval)
    }

    /// Whether the interval was fixed by the user, not governed.
    pub fn is_interval_fixed(&self) -> bool {
        !self.picture.exact_mode && self.picture.fixed_interval_bytes > 0
    }

    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a whole number of bytes, as stored")]
    fn interval_bytes(&self, code: IntervalCode) -> u64 {
        if self.picture.exact_mode { 0 } else { code.interval_bytes(self.picture.fixed_interval_bytes) as u64 }
    }

    /// All sites: each a whole stack that allocated, in no particular order. Cheap; names are resolved when the
    /// first frame is asked for.
    pub fn sites(&self) -> impl ExactSizeIterator<Item = Site<'_>> + Clone {
        (0..self.picture.sites.len()).map(|index| self.site(index))
    }

    pub(crate) fn site(&self, index: usize) -> Site<'_> {
        Site { snapshot: self, index }
    }

    /// What blocks of each power of two of sizes amount to; classes that never had a block are left out.
    pub fn size_classes(&self) -> Vec<SizeClass> {
        let classes = self.picture.size_classes.iter().zip(0u32..);
        let used = classes.filter(|(class, _)| class.total != Amount::default() || class.live != Amount::default());
        used.map(|(class, exponent)| {
            let min_bytes = class_bytes(exponent);
            let unseen = match self.mode() {
                Mode::Exact => Unseen::NONE,
                Mode::Sampled => Unseen::of_class(min_bytes, self.largest_interval_bytes),
            };
            SizeClass {
                min_bytes,
                max_bytes: 1u64.checked_shl(exponent + 1).map_or(u64::MAX, |next| next - 1),
                live_bytes: self.bytes(&class.live),
                live_blocks: Estimate::blocks(&class.live, unseen),
                total_bytes: self.bytes(&class.total),
                total_blocks: Estimate::blocks(&class.total, unseen),
            }
        })
        .collect()
    }

    /// What is live in each scope of [`bounded`](crate::bounded), and what it may hold; in no particular order.
    pub fn scopes(&self) -> impl Iterator<Item = Scope<'_>> {
        scope::all(self)
    }

    /// What changed since an earlier snapshot.
    pub fn since<'a>(&'a self, earlier: &'a Snapshot) -> Diff<'a> {
        Diff::between(earlier, self)
    }

    /// What is missing from this profile, and why.
    pub fn losses(&self) -> Losses {
        Losses::of(&self.picture.loss)
    }

    /// How stacks were unwound: `framehop + replay`, say.
    pub fn unwinder(&self) -> &str {
        &self.picture.unwinder
    }

    /// The program and libraries, also those that are no longer loaded.
    pub fn modules(&self) -> impl Iterator<Item = Module> {
        // Row 0 stands for 'no module'.
        self.picture.modules.iter().skip(1).map(Module::of)
    }

    /// Exact counts at the end of each epoch, oldest first.
    pub fn history(&self) -> impl ExactSizeIterator<Item = HistoryPoint> {
        self.picture.history.iter().map(|point| HistoryPoint {
            at_ns: point.at_ns,
            live_bytes: point.live_bytes,
            live_blocks: point.live_blocks,
            total_bytes: point.total_bytes,
            total_blocks: point.total_blocks,
            resident_bytes: point.resident_bytes,
            sample_interval_bytes: self.interval_bytes(point.interval),
        })
    }

    /// What became of the process.
    pub fn process_state(&self) -> ProcessState {
        if self.is_last { ProcessState::Finished } else { ProcessState::of(self.picture.life) }
    }

    /// Nothing comes after it: the profile was stopped.
    pub(crate) fn set_last(&mut self) {
        self.is_last = true;
    }

    /// The process's id, in its own namespace.
    pub fn pid(&self) -> u32 {
        self.picture.pid
    }

    /// The process's command line.
    pub fn command(&self) -> &str {
        &self.picture.command
    }

    /// When the profiler started, by the wall clock.
    pub fn started(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_nanos(self.picture.started_unix_ns)
    }

    /// From the profiler's start to this snapshot.
    pub fn elapsed(&self) -> Duration {
        Duration::from_nanos(self.picture.elapsed_ns)
    }

    /// Where the process's memory was: requested, usable, resident, its cgroup's, the limit. Of a store's file only what
    /// is in the file is known: live bytes, and resident memory at the last epoch's end.
    pub fn memory(&self) -> Memory {
        self.memory.clone().unwrap_or_else(|| Memory {
            requested_bytes: self.totals().live_bytes,
            resident_bytes: self.picture.history.iter().map(|point| point.resident_bytes).rfind(|&bytes| bytes > 0),
            not_asked: Some("this was read from the store's file, not from the process"),
            ..Memory::default()
        })
    }

    pub(crate) fn set_memory(&mut self, memory: Memory) {
        self.memory = Some(memory);
    }

    /// How old the exact totals may be at most: zero but for the file of another, or dead, process.
    pub fn totals_age(&self) -> Duration {
        Duration::from_nanos(self.picture.totals_stale_ns)
    }

    /// How often the store's figures had been closed for readers: grows while the profiled process runs.
    pub fn epoch(&self) -> u64 {
        self.picture.epoch
    }

    /// The sum over all sites of live and total amounts: what the exact totals are estimated at.
    pub(crate) fn attributed(&self) -> (Amount, Amount) {
        let (mut live, mut total) = (Amount::default(), Amount::default());
        for site in &self.picture.sites {
            add(&mut live, &site.figures.live);
            add(&mut total, &site.figures.total);
        }
        (live, total)
    }

    /// Adds the verdicts, to be written with the rest.
    pub(crate) fn set_leaks(&mut self, leaks: LeakReport<Frame>) {
        self.leaks = Some(leaks);
    }

    /// Each site's place by its stack.
    pub(crate) fn sites_by_stack(&self) -> std::collections::HashMap<crate::units::StackId, usize> {
        self.picture.sites.iter().enumerate().map(|(index, site)| (site.stack, index)).collect()
    }

    pub(crate) fn bytes(&self, amount: &Amount) -> Estimate {
        Estimate::bytes(amount, self.largest_interval_bytes)
    }

    /// What a block that was not recorded may have stood for, where `total` has all that were.
    pub(crate) fn unseen(&self, total: &Amount) -> Unseen {
        if self.picture.exact_mode {
            return Unseen::NONE;
        }
        Unseen::of(total, self.largest_interval_bytes, self.smallest_bytes)
    }

    pub(crate) fn symbols(&self) -> &SymbolTable {
        // What symbols take is ours, also where the program asks while it is profiled.
        let _inside = crate::hook::inside();
        self.symbols.get_or_init(|| SymbolTable::resolve(&self.picture))
    }

    /// Looks up these frames' names alone: others have none. Before any name was asked for.
    pub(crate) fn resolve_only(&self, keys: Vec<FrameKey>) {
        let _inside = crate::hook::inside();
        // Lost only where all are known already.
        let _ = self.symbols.set(SymbolTable::of(keys, &self.picture));
    }

    /// The frames to show of a site.
    pub(crate) fn frames_of(&self, index: usize) -> &[Frame] {
        let (Some(cell), Some(site)) = (self.site_frames.get(index), self.picture.sites.get(index)) else {
            return &[];
        };
        cell.get_or_init(|| self.shown_frames(&site.frames))
    }

    /// The frames to show of a call chain, or of the inner part of one.
    pub(crate) fn shown_frames(&self, keys: &[FrameKey]) -> Box<[Frame]> {
        let symbols = self.symbols();
        let numbered = keys.iter().zip(0u64..);
        let (all, roles): (Vec<&Frame>, Vec<_>) = numbered
            .flat_map(|(&key, number)| {
                symbols.frames(key).iter().map(move |frame| (frame, (frame.symbol.role, number)))
            })
            .unzip();
        let shown = all.get(self.trim.shown(&roles)).unwrap_or_default();
        shown.iter().map(|&frame| frame.clone()).collect()
    }
}

/// The least size of blocks of class `exponent`.
fn class_bytes(exponent: u32) -> u64 {
    1u64.checked_shl(exponent).unwrap_or(u64::MAX)
}

/// Adds an amount to a sum.
pub(crate) fn add(sum: &mut Amount, amount: &Amount) {
    each(sum, amount, u64::saturating_add, u128::saturating_add);
    sum.smallest_bytes = Amount::smaller(sum.smallest_bytes, amount.smallest_bytes);
    sum.resized |= amount.resized;
}

/// Takes a part of a sum out of it again.
pub(crate) fn take_out(sum: &mut Amount, part: &Amount) {
    each(sum, part, u64::saturating_sub, u128::saturating_sub);
}

/// Makes of each figure of `sum` what `figure`, or `variance`, makes of it and the other's.
fn each(sum: &mut Amount, other: &Amount, figure: impl Fn(u64, u64) -> u64, variance: impl Fn(u128, u128) -> u128) {
    sum.bytes = figure(sum.bytes, other.bytes);
    sum.blocks = figure(sum.blocks, other.blocks);
    sum.sampled_bytes = figure(sum.sampled_bytes, other.sampled_bytes);
    sum.sampled_blocks = figure(sum.sampled_blocks, other.sampled_blocks);
    sum.samples = figure(sum.samples, other.samples);
    sum.bytes_variance = variance(sum.bytes_variance, other.bytes_variance);
    sum.blocks_variance = variance(sum.blocks_variance, other.blocks_variance);
}

#[cfg(any(test, feature = "_synthetic"))]
impl Snapshot {
    /// Names all frames by their offset, before anything was symbolized.
    pub(crate) fn name_frames(&self, name: impl Fn(u64) -> Option<String>) {
        let set = self.symbols.set(SymbolTable::made_up(&self.picture, name));
        assert!(set.is_ok(), "named before symbolized");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::synthetic::{self, Builder};
    use crate::report::{Diff, Frames, SiteDiff};
    use crate::store::picture::{HistoryPoint as Point, Life};

    #[test]
    fn everything_can_go_to_other_threads() {
        fn check<T: Send + Sync>() {}
        check::<Snapshot>();
        check::<Site<'_>>();
        check::<Frames<'_>>();
        check::<Frame>();
        check::<Diff<'_>>();
        check::<SiteDiff<'_>>();
    }

    #[test]
    fn facts_are_those_of_the_picture() {
        let mut builder = Builder::new(0);
        builder.module("/opt/app", &[0xab, 0x01], 0x1000, 0x9000);
        let picture = &mut builder.picture;
        picture.life = Life::Killed;
        picture.totals_stale_ns = 5_000_000;
        picture.exact.total_bytes = 100;
        picture.exact.freed_bytes = 30;
        // A reader may meet a free before its allocation; a live figure is never negative.
        picture.exact.freed_blocks = 1;
        let snapshot = Snapshot::from_picture(builder.picture);
        let totals = snapshot.totals();
        assert_eq!((totals.live_bytes, totals.live_blocks), (70, 0));
        assert_eq!((snapshot.mode(), snapshot.sample_interval_bytes()), (Mode::Exact, 0));
        assert_eq!(snapshot.process_state(), ProcessState::Killed);
        assert_eq!(snapshot.totals_age(), Duration::from_millis(5));
        let modules: Vec<Module> = snapshot.modules().collect();
        assert_eq!((modules.len(), modules[0].build_id.as_str()), (1, "ab01"));
        assert!(snapshot.losses().is_none());
    }

    #[test]
    fn frames_are_a_slice_and_an_iterator() {
        let snapshot = synthetic::snapshot("exact").expect("known");
        let site = snapshot.sites().next().expect("a site");
        let by_iterator: Vec<_> = site.frames().map(|frame| frame.name()).collect();
        let frames = site.frames();
        assert_eq!(by_iterator.len(), 4);
        assert_eq!((frames.len(), frames[0].name(), frames[3].name()), (4, by_iterator[0], Some("app::main")));
        assert!(frames.iter().zip(site.frames()).all(|(a, b)| a == b));
        assert_eq!(site.frames().next_back().and_then(Frame::name), Some("app::main"));
        let json = serde_json::to_value(site).expect("JSON");
        assert_eq!(json["frames"][3]["name"], "app::main");
        assert_eq!(json["live_bytes"]["value"], site.live_bytes().value);
    }

    /// Chains that are judged together have their inner frames in common: these, as of a whole chain, without what leads
    /// from their leaf to us.
    #[test]
    fn of_the_inner_part_of_a_chain_the_leaf_is_trimmed() {
        let mut builder = Builder::new(0);
        let names = ["", "alloc::raw_vec::finish_grow", "alloc::vec::push", "app::leaf", "app::caller", "app::main"];
        let keys: Vec<FrameKey> = (1..6).map(FrameKey).collect();
        builder.site(&keys, 64, 1, 0);
        let snapshot = Snapshot::from_picture(builder.picture);
        snapshot.name_frames(|offset| names.get(usize::try_from(offset).ok()?).map(|&name| name.to_owned()));
        let shown: Vec<_> = snapshot.shown_frames(&keys[..4]).iter().map(|f| f.name().map(str::to_owned)).collect();
        assert_eq!(shown, [Some("app::leaf".to_owned()), Some("app::caller".to_owned())]);
    }

    #[test]
    fn size_classes_that_were_used() {
        let mut builder = Builder::new(0);
        for (size, live) in [(1, 2), (100, 3), (127, 1), (128, 1)] {
            builder.site(&[FrameKey(size)], size, live, 1);
        }
        let classes = Snapshot::from_picture(builder.picture).size_classes();
        let found: Vec<_> =
            classes.iter().map(|c| (c.min_bytes, c.max_bytes, c.live_blocks.value, c.live_bytes.value)).collect();
        assert_eq!(found, [(1, 1, 2.0, 2.0), (64, 127, 4.0, 427.0), (128, 255, 1.0, 128.0)]);
    }

    /// With no live sample left, what may be alive unseen depends on the coarsest interval that ever held.
    #[test]
    fn the_largest_interval_of_the_history_bounds_what_was_not_seen() {
        let mut builder = Builder::new(1);
        builder.picture.fixed_interval_bytes = 0;
        builder.picture.interval = IntervalCode(10);
        builder.site(&[FrameKey(1)], 64, 0, 5);
        let calm = Snapshot::from_picture(builder.picture.clone());
        builder.picture.history = vec![Point { interval: IntervalCode(16), ..Point::default() }];
        let coarse = Snapshot::from_picture(builder.picture);
        let high = |snapshot: &Snapshot| snapshot.site(0).live_bytes().high;
        assert!((high(&coarse) / high(&calm) - 64.0).abs() < 1e-9);
        assert_eq!((calm.sample_interval_bytes(), calm.is_interval_fixed()), (1024, false));
    }
}
