//! From the drain thread's evidence to a report of leaks: figures and frames come from the snapshot, verdicts from the
//! judge.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;

use super::bounds::BoundChange;
use crate::drain::verdict::Evidence;
use crate::leak::Leak;
use crate::leak::assemble::{self, Bound, SiteFigures, Source, is_judged_alone};
use crate::leak::clues::Function;
use crate::leak::history::History;
use crate::leak::judge::{Judge, Subject};
use crate::leak::relations::Relations;
use crate::leak::state::Change;
use crate::report::{Frame, Scope, Snapshot, Trim, common};
use crate::units::{FrameKey, StackId};

/// Which call chains leak, how sure, how bad, and what to do.
pub type LeakReport = crate::leak::LeakReport<Frame>;

/// A verdict that began, worsened or was withdrawn.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct VerdictChange {
    /// What happened.
    pub kind: VerdictKind,
    /// The site as it stands now.
    pub leak: Leak<Frame>,
}

/// What happened to a verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum VerdictKind {
    /// A site is suspected.
    Suspected,
    /// A site is called a leak; or it holds a scope that now exceeds its bound.
    Leak,
    /// A scope that exceeds its bound holds twice of what it held when that was last told.
    Worsened,
    /// An earlier verdict no longer holds; `Leak::withdrawn` says why. (It says so of the last time also when a verdict has begun again.)
    Withdrawn,
}

/// Whoever is told of verdicts.
#[derive(Clone)]
pub(super) struct OnVerdict(pub(super) Arc<dyn Fn(&VerdictChange) + Send + Sync>);

impl std::fmt::Debug for OnVerdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("OnVerdict")
    }
}

/// Splits the evidence: the snapshot, and the report that rests on it.
pub(super) fn report(evidence: Evidence, trim: Trim) -> (Snapshot, LeakReport) {
    let Evidence { judge, histories, ways, stacks, process, picture } = evidence;
    let mut snapshot = Snapshot::trimmed(*picture, trim);
    snapshot.set_memory(process.memory.clone());
    let source = FromSnapshot::new(&snapshot, &stacks, &judge, &histories);
    let report = assemble::report(&judge, &histories, &ways, &process, &source);
    (snapshot, report)
}

/// What changed, with the sites as they stand. Looks up the symbols of these alone, and of what their advice speaks of.
pub(super) fn changes(evidence: Evidence, changes: &[(Subject, Change)], bounds: &[BoundChange]) -> Vec<VerdictChange> {
    let Evidence { judge, histories, ways, stacks, process, picture } = evidence;
    let site_of: HashMap<StackId, usize> = stacks.iter().enumerate().map(|(index, &stack)| (stack, index)).collect();
    let of_bounds = bounds.iter().filter_map(|change| Some((Subject::Site(*site_of.get(&change.stack)?), change.kind)));
    let by_bound: Vec<(Subject, VerdictKind)> = of_bounds.collect();
    let relations = Relations::of(&judge, &histories, &ways);
    let subjects = || changes.iter().map(|&(subject, _)| subject).chain(by_bound.iter().map(|&(subject, _)| subject));
    let spoken_of = |subject| std::iter::once(subject).chain(relations.spoken_of(subject).map(Subject::Site));
    let snapshot = Snapshot::from_picture(*picture);
    let source = FromSnapshot::new(&snapshot, &stacks, &judge, &histories);
    snapshot.resolve_only(subjects().flat_map(spoken_of).flat_map(|subject| source.keys(subject)).collect());

    let one = |subject| assemble::one(&judge, &histories, &ways, &process, &source, &relations, subject);
    let by_judge = changes.iter().filter_map(|&(subject, change)| {
        let kind = match change {
            Change::Suspected => VerdictKind::Suspected,
            Change::Leak => VerdictKind::Leak,
            Change::Withdrawn(_) => VerdictKind::Withdrawn,
        };
        let leak = one(subject)?;
        // In a scope it is judged against the bound: that is told by the bound's own news.
        leak.evidence().bound_bytes.is_none().then_some(VerdictChange { kind, leak })
    });
    let by_bound = by_bound.iter().filter_map(|&(subject, kind)| {
        let leak = one(subject)?;
        let leak = if kind == VerdictKind::Withdrawn { leak.within_its_bound_again() } else { leak };
        Some(VerdictChange { kind, leak })
    });
    by_judge.chain(by_bound).collect()
}

/// Figures and frames of histories, by way of their rows' stacks.
struct FromSnapshot<'a> {
    snapshot: &'a Snapshot,
    stacks: &'a [StackId],
    judge: &'a Judge,
    histories: &'a [History],
    sites: HashMap<StackId, usize>,
    scopes: Vec<Scope<'a>>,
}

impl<'a> FromSnapshot<'a> {
    fn new(
        snapshot: &'a Snapshot,
        stacks: &'a [StackId],
        judge: &'a Judge,
        histories: &'a [History],
    ) -> FromSnapshot<'a> {
        let (sites, scopes) = (snapshot.sites_by_stack(), snapshot.scopes().collect());
        FromSnapshot { snapshot, stacks, judge, histories, sites, scopes }
    }

    /// Of the scopes of a site the one nearest to, or furthest beyond, its bound.
    fn scope_of(&self, index: usize) -> Option<&Scope<'_>> {
        let share = |scope: &Scope<'_>| {
            #[expect(clippy::cast_precision_loss, reason = "a share")]
            let bound = scope.max_bytes().max(1) as f64;
            scope.live_bytes().low / bound
        };
        let numbers = &self.snapshot.site(index).picture().scopes;
        let own = self.scopes.iter().filter(|scope| numbers.contains(&scope.number));
        own.max_by(|a, b| a.exceeds_its_bound().cmp(&b.exceeds_its_bound()).then_with(|| share(a).total_cmp(&share(b))))
    }

    fn bound(&self, index: usize) -> Option<Bound> {
        let scope = self.scope_of(index)?;
        Some(Bound {
            max_bytes: scope.max_bytes(),
            live_bytes: scope.live_bytes(),
            is_exceeded: scope.exceeds_its_bound(),
            is_held_here: scope.is_held_by(&self.snapshot.site(index).picture().figures.live),
        })
    }

    /// The histories that a subject is made of.
    fn members(&self, subject: Subject) -> Vec<usize> {
        match subject {
            Subject::Site(history) => vec![history],
            Subject::Group(group) => {
                let members = self.judge.groups.get(group).map_or(&[][..], |group| &group.members);
                let is_pooled = |&&member: &&usize| self.histories.get(member).is_some_and(|it| !is_judged_alone(it));
                members.iter().filter(is_pooled).copied().collect()
            }
        }
    }

    /// The sites that a subject is made of.
    fn sites_of(&self, subject: Subject) -> Vec<usize> {
        self.members(subject).into_iter().filter_map(|history| self.site(history)).collect()
    }

    /// The frames of a subject's sites, not yet named.
    fn keys(&self, subject: Subject) -> Vec<FrameKey> {
        let sites = self.sites_of(subject).into_iter().filter_map(|index| self.snapshot.picture.sites.get(index));
        sites.flat_map(|site| site.frames.iter().copied()).collect()
    }

    fn site(&self, history: usize) -> Option<usize> {
        self.sites.get(self.stacks.get(history)?).copied()
    }
}

impl Source<Frame> for FromSnapshot<'_> {
    fn figures(&self, history: usize) -> SiteFigures {
        let Some(index) = self.site(history) else { return SiteFigures::default() };
        let site = self.snapshot.site(index);
        SiteFigures {
            live_bytes: site.live_bytes(),
            live_blocks: site.live_blocks(),
            total_bytes: site.total_bytes().value,
            folded: site.picture().folded,
            bound: self.bound(index),
        }
    }

    fn scope(&self, subject: Subject) -> Option<String> {
        let Subject::Site(history) = subject else { return None };
        Some(self.scope_of(self.site(history)?)?.name().to_owned())
    }

    fn functions(&self, subject: Subject) -> Vec<Function> {
        crate::report::functions(&self.frames(subject))
    }

    fn is_shared_pointer(&self, history: usize) -> Option<bool> {
        crate::report::is_shared_pointer(self.snapshot, &self.keys(Subject::Site(history)))
    }

    fn frames(&self, subject: Subject) -> Vec<Frame> {
        let mut sites = self.sites_of(subject);
        let live = |index: &usize| self.snapshot.picture.sites.get(*index).map_or(0, |site| site.figures.live.bytes);
        sites.sort_by_key(|index| Reverse(live(index)));
        let chains: Vec<&[Frame]> = sites.iter().map(|&index| self.snapshot.frames_of(index)).collect();
        match chains.as_slice() {
            [one] => one.to_vec(),
            chains => common(chains),
        }
    }

    fn stacks(&self, subject: Subject) -> Vec<StackId> {
        self.members(subject).into_iter().filter_map(|history| self.stacks.get(history)).copied().collect()
    }
}

/// Does the application's log take any line of ours?
pub(super) fn is_logged() -> bool {
    let by_log = {
        #[cfg(feature = "log")]
        {
            log::max_level() > log::LevelFilter::Off
        }
        #[cfg(not(feature = "log"))]
        {
            false
        }
    };
    #[cfg(feature = "tracing")]
    let by_tracing = tracing::level_filters::LevelFilter::current() > tracing::level_filters::LevelFilter::OFF;
    #[cfg(not(feature = "tracing"))]
    let by_tracing = false;
    by_log || by_tracing
}

/// One line, of the target `unfreed`, to the application's log: by the `log` facade, as a `tracing` event with the verdict's figures,
/// or both, as the features are.
#[cfg(any(feature = "log", feature = "tracing"))]
pub(super) fn log(change: &VerdictChange) {
    let leak = &change.leak;
    let chain = crate::report::summary::chain_of(leak.frames());
    let (severity, advice) = (leak.severity(), leak.advice());
    macro_rules! say {
        ($level:ident, $($line:tt)+) => {{
            #[cfg(feature = "log")]
            log::$level!(target: "unfreed", $($line)+);
            #[cfg(feature = "tracing")]
            tracing::$level!(
                target: "unfreed",
                state = %leak.state(),
                severity = %severity,
                live_bytes = leak.live_bytes().value,
                growth_bytes_per_minute = leak.growth_bytes_per_minute().value,
                $($line)+
            );
        }};
    }
    match change.kind {
        VerdictKind::Suspected => say!(warn, "suspected leak ({severity}): {chain}; {advice}"),
        VerdictKind::Leak => say!(error, "leak ({severity}): {chain}; {advice}"),
        VerdictKind::Worsened => say!(error, "leak has worsened ({severity}): {chain}; {advice}"),
        VerdictKind::Withdrawn => {
            let why = leak.withdrawn().map_or("", |withdrawn| withdrawn.reason);
            say!(info, "verdict withdrawn ({why}): {chain}");
        }
    }
}
