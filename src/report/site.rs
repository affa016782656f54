//! One site: a whole stack that allocated, and what became of its blocks.

use std::time::Duration;

use serde::ser::{Serialize, SerializeStruct, Serializer};

use super::estimate::Estimate;
use super::frame::Frames;
use super::snapshot::Snapshot;
use crate::sampler::weight::{BLOCKS_FRACTION_BITS, BYTES_FRACTION_BITS};
use crate::store::picture::{Amount, Figures, SitePicture};

/// One call chain that allocated. In sampled mode its figures are estimates with 95% intervals, in exact mode they
/// are exact. Copy and cheap.
///
/// A block that grows by `realloc` stays with the chain of its birth in exact mode. In sampled mode it belongs to the chain in which it
/// was first sampled, which is that of a growth where the growth was met and the block before was not: so buffers that are made small in
/// one place and grow large in another are mostly the latter's. Over both places together the figures are unbiased alike.
#[derive(Clone, Copy, Debug)]
pub struct Site<'a> {
    pub(crate) snapshot: &'a Snapshot,
    pub(crate) index: usize,
}

impl<'a> Site<'a> {
    pub(crate) fn picture(self) -> &'a SitePicture {
        // Sites are made from indices of the very picture.
        &self.snapshot.picture.sites[self.index]
    }

    /// The call chain, the allocating function first. The allocator's frames in front and the runtime's behind are
    /// left out; the first call symbolizes the whole snapshot.
    pub fn frames(&self) -> Frames<'a> {
        Frames::new(self.snapshot.frames_of(self.index))
    }

    /// The names of the scopes of [`bounded`](crate::bounded) that it allocated in, the innermost first. The same calls
    /// within and without a scope are two sites.
    pub fn scopes(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        let all = &self.snapshot.picture.scopes;
        let named = self.picture().scopes.iter().filter_map(|&scope| all.get(scope as usize));
        named.map(|scope| scope.name.as_str()).filter(|name| !name.is_empty())
    }

    /// Bytes allocated here and not freed.
    pub fn live_bytes(&self) -> Estimate {
        self.snapshot.bytes(&self.picture().figures.live)
    }

    /// Blocks allocated here and not freed.
    pub fn live_blocks(&self) -> Estimate {
        self.blocks(&self.picture().figures.live)
    }

    /// Bytes ever allocated here; a reallocation counts its whole new size.
    pub fn total_bytes(&self) -> Estimate {
        self.snapshot.bytes(&self.picture().figures.total)
    }

    /// Blocks ever allocated here; a reallocation counts as one.
    pub fn total_blocks(&self) -> Estimate {
        self.blocks(&self.picture().figures.total)
    }

    /// This site's own peak of live bytes. In sampled mode the largest of many estimates, so too high rather than too
    /// low, and the interval is an approximation (see `live_bytes_at_peak`).
    pub fn max_live_bytes(&self) -> Estimate {
        self.snapshot.bytes(&resembling(&self.picture().figures, self.figures().max_bytes, self.figures().max_blocks))
    }

    /// Live blocks at this site's own peak.
    pub fn max_live_blocks(&self) -> Estimate {
        self.blocks(&resembling(&self.picture().figures, self.figures().max_bytes, self.figures().max_blocks))
    }

    /// Bytes live here when the whole process was at its peak. In sampled mode the interval is approximate: it takes
    /// the blocks of that moment to have been of the same sizes as the site's blocks over all time.
    pub fn live_bytes_at_peak(&self) -> Estimate {
        self.snapshot.bytes(&resembling(&self.picture().figures, self.figures().gmax_bytes, self.figures().gmax_blocks))
    }

    /// Blocks live here when the whole process was at its peak.
    pub fn live_blocks_at_peak(&self) -> Estimate {
        self.blocks(&resembling(&self.picture().figures, self.figures().gmax_bytes, self.figures().gmax_blocks))
    }

    /// The mean time from a block's birth to its end, or to now where it is still alive; `None` without blocks.
    pub fn mean_lifetime(&self) -> Option<Duration> {
        let ns = lifetimes_ns(self.figures(), &self.snapshot.picture) / blocks_f64(self.figures().total.blocks);
        (ns.is_finite() && ns >= 0.0).then(|| Duration::try_from_secs_f64(ns / 1e9).ok()).flatten()
    }

    /// Records of this site were dropped, or other stacks folded into it: its figures say too much or too little.
    pub fn is_unknown(&self) -> bool {
        self.picture().tainted || self.picture().folded
    }

    fn figures(&self) -> &'a Figures {
        &self.picture().figures
    }

    fn blocks(&self, amount: &Amount) -> Estimate {
        Estimate::blocks(amount, self.snapshot.unseen(&self.figures().total))
    }
}

impl Serialize for Site<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut out = serializer.serialize_struct("Site", 7)?;
        out.serialize_field("frames", &self.frames())?;
        out.serialize_field("scopes", &self.scopes().collect::<Vec<_>>())?;
        out.serialize_field("live_bytes", &self.live_bytes())?;
        out.serialize_field("live_blocks", &self.live_blocks())?;
        out.serialize_field("total_bytes", &self.total_bytes())?;
        out.serialize_field("total_blocks", &self.total_blocks())?;
        out.serialize_field("unknown", &self.is_unknown())?;
        out.end()
    }
}

/// An amount of `bytes` and `blocks` (fixed point) whose sampled share, samples and variance are those of the
/// figures' total, scaled: what a moment's amount was like when only its sums were kept.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "products of non-negative finite numbers")]
#[expect(clippy::cast_precision_loss, reason = "an approximation already")]
pub(crate) fn resembling(figures: &Figures, bytes: u64, blocks: u64) -> Amount {
    let like = &figures.total;
    if like.bytes == 0 || like.blocks == 0 {
        return Amount { bytes, blocks, ..Amount::default() };
    }
    let of_bytes = bytes as f64 / like.bytes as f64;
    let of_blocks = blocks as f64 / like.blocks as f64;
    let sampled_bytes = (like.sampled_bytes as f64 * of_bytes) as u64;
    let mut samples = (like.samples as f64 * of_bytes).round() as u64;
    if sampled_bytes > 0 {
        samples = samples.max(1);
    }
    Amount {
        bytes,
        blocks,
        sampled_bytes: sampled_bytes.min(bytes),
        sampled_blocks: ((like.sampled_blocks as f64 * of_blocks) as u64).min(blocks),
        samples,
        bytes_variance: (like.bytes_variance as f64 * of_bytes) as u128,
        blocks_variance: (like.blocks_variance as f64 * of_blocks) as u128,
        smallest_bytes: like.smallest_bytes,
        resized: false,
    }
}

/// The sum of the lifetimes of all blocks so far, the living ones' up to now, in nanoseconds.
#[expect(clippy::cast_precision_loss, reason = "a sum of estimates, shown as a mean")]
pub(crate) fn lifetimes_ns(figures: &Figures, picture: &crate::store::picture::Picture) -> f64 {
    let ages = (u128::from(figures.live.blocks) * u128::from(picture.now_ticks)).saturating_sub(figures.live_births);
    let ticks = figures.ended_lifetimes.saturating_add(ages) as f64 / f64::from(1u32 << BLOCKS_FRACTION_BITS);
    ticks * picture.ns_per_tick
}

#[expect(clippy::cast_precision_loss, reason = "53 bits are enough for a mean")]
fn blocks_f64(blocks: u64) -> f64 {
    blocks as f64 / f64::from(1u32 << BLOCKS_FRACTION_BITS)
}

const _: () = assert!(BYTES_FRACTION_BITS < 32 && BLOCKS_FRACTION_BITS < 32, "shifted as u32 above");
