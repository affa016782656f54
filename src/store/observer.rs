//! Whoever watches the sites: it sees each record after it was applied.
//!
//! Promises: asked and told under the aggregator's lock, so an observer is bound by what `attribution` promises. It is told of every
//! record that changed a row, once, in the order in which they were applied, by itself or as one of a streak.

use crate::ring::RingId;
use crate::ring::record::Record;
use crate::sampler::weight::Weight;
use crate::store::exact::AppliedExactly;
use crate::store::streak::AppliedStreak;
use crate::units::SiteId;

/// One record that was applied, for whoever watches the sites.
#[derive(Debug)]
pub(crate) struct Applied<'a> {
    /// The row's number; 0 is the root's.
    pub(crate) site: SiteId,
    pub(crate) record: &'a Record,
    /// Of `record.size`.
    pub(crate) weight: &'a Weight,
    /// Of `record.old_size`; nothing but for a `Resize`.
    pub(crate) old: &'a Weight,
    /// The ring that it came from.
    pub(crate) ring: Option<RingId>,
}

/// Sees each record after it was applied, under the aggregator's lock and bound by its promises.
pub(crate) trait Observer {
    /// Records of this ring come next.
    fn reads(&mut self, _ring: RingId) {}

    /// Rings hold pairs of births and frees at `site`, `blocks` at once at most, each of `size` bytes and in `ring` or alike.
    /// May the rings be read one after another?
    fn may_reorder(&mut self, _site: SiteId, _size: u64, _ring: RingId, _blocks: u64) -> bool {
        true
    }

    /// `applied` changed its site's row.
    fn applied(&mut self, applied: &Applied<'_>);

    /// The same, of a record of exact mode that was applied by itself.
    fn applied_exactly(&mut self, applied: &AppliedExactly);

    /// The same, of records that were applied as a streak.
    fn applied_streak(&mut self, applied: &AppliedStreak);
}

/// Nobody watches.
impl Observer for () {
    fn applied(&mut self, _: &Applied<'_>) {}

    fn applied_exactly(&mut self, _: &AppliedExactly) {}

    fn applied_streak(&mut self, _: &AppliedStreak) {}
}
