//! What the judge remembers of one site: under a kilobyte, plain data, all-zero bytes being an empty one.
//!
//! Promises: each hook is O(1) (amortised: cohorts merge when 32 are full), never allocates, never panics, never looks
//! at a clock. A history may begin late: frees of blocks born before it count as frees of old blocks, so it errs
//! towards innocence. Which is also the rule for every rounding here.
//!
//! Time is cut into 32 equal birth cohorts. When they are full, neighbours merge and the width doubles, so a cohort is
//! at most 1/16 of the site's age wide. A cohort counts as having reached a rung's age when its youngest block did, and
//! frees count as 'of old blocks' by the same measure, so both sides of the test speak of the same blocks.
//!
//! Counts are in samples, not in blocks: whether a block is sampled does not depend on its fate, so samples are fair
//! evidence, and nothing else bounds its variance. If the sampling interval changes, a sample counts as the chance
//! that the site's reference interval (the largest lately) would have sampled it too; when that one changes, all counts
//! so far are converted, or a change of interval would look like a change of growth.

use super::case::Case;
use super::ladder::{RUNG_EPOCHS, RUNGS, Step};
use super::marks::Marks;
use super::spine::Spine;
use super::tally::{Tally, signed};
use crate::sampler::weight::{BYTES_FRACTION_BITS, Weight, probability};

/// How many birth cohorts.
pub(crate) const COHORTS: usize = 32;
/// The same, to reckon with epochs.
pub(crate) const COHORTS_U32: u32 = 32;
const _: () = assert!(COHORTS_U32 as usize == COHORTS);
/// A sample is 256 units, so that a part of one can count.
pub(crate) const SAMPLE: u32 = 256;
/// The reference interval falls by one octave in so many epochs at most.
pub(crate) const REFERENCE_HOLD_EPOCHS: u32 = 64;

/// The order of frees is forgotten by half in so many epochs: what was a queue once may be none today.
const QUEUE_MEMORY_EPOCHS: u32 = 64;
/// The order of frees tells a queue only where live blocks span so many cohorts.
pub(crate) const QUEUE_COHORTS: usize = 2;
/// Fewer old blocks freed in one epoch are no clean-up.
const CLEAN_UP_SAMPLES: f32 = 8.0;

/// One table, and what is being copied of it.
const FEW_TABLES: f32 = 2.0;
/// Clean-ups of half of all or more that make a saw's teeth.
const CLEAN_UPS: u16 = 2;

/// A sampled block as the hooks see it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Block {
    /// Requested bytes.
    pub(crate) size: u64,
    /// The mean interval that it was sampled with; 0.0 in exact mode.
    pub(crate) interval_bytes: f64,
    /// `Weight::of(size, interval_bytes)`; the drain has it at hand.
    pub(crate) weight: Weight,
    /// Any number that is the same for events of one thread (its ring's index).
    pub(crate) thread: u32,
}

/// One site's history. `History::begin` makes one; the bytes of an unused one may be zero.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct History {
    /// Live weight by birth, in 1/2^8 bytes.
    pub(crate) live_bytes: [u64; COHORTS],
    /// Live evidence by birth, in 1/256 samples.
    pub(crate) live: [u32; COHORTS],
    /// Born evidence by birth, in 1/256 samples, saturating.
    pub(crate) born: [u32; COHORTS],
    /// Epochs with births, saturating.
    pub(crate) occasions: [u8; COHORTS],
    /// The age ladder, and how far the verdict has got.
    pub(crate) case: Case,
    /// Frees in the epoch under way of blocks that had reached each rung, in samples.
    died: [f32; RUNGS],
    /// The largest table.
    pub(crate) spine: Spine,
    /// Live bytes over time.
    pub(crate) trend: Marks,
    /// Live weight, 1/2^8 bytes.
    pub(crate) live_total: u64,
    /// Weight of all births, 1/2^8 bytes.
    pub(crate) born_total: u64,
    /// Variance of `live_total`, bytes².
    pub(crate) live_variance: f32,
    /// The history's first epoch.
    pub(crate) origin: u32,
    /// The epoch of the last birth.
    pub(crate) last_birth: u32,
    /// Its group, plus 1; 0: judged by itself.
    pub(crate) group: u32,
    /// Samples that reached the first rung.
    pub(crate) matured: f32,
    /// Recent mean of the sizes of births.
    usual_size: f32,
    /// The interval that a sample is measured by, and the latest one seen; bytes.
    reference_interval: f32,
    latest_interval: f32,
    /// Of late (halved every `QUEUE_MEMORY_EPOCHS`), in samples: what reached the first rung, frees of old blocks while the oldest live
    /// ones were several cohorts old, and those that hit these oldest.
    pub(crate) queue_matured: f32,
    pub(crate) queue_frees: f32,
    pub(crate) oldest_frees: f32,
    /// log₂ of a cohort's width in epochs.
    pub(crate) width_shift: u8,
    /// No cohort before this one has live blocks.
    oldest: u8,
    in_use: u8,
    tainted: u8,
}

const _: () = assert!(size_of::<History>() <= 1024, "5,000 sites must fit a core's cache");

impl History {
    /// No site's history.
    pub(crate) const EMPTY: History = History {
        live_bytes: [0; COHORTS],
        live: [0; COHORTS],
        born: [0; COHORTS],
        occasions: [0; COHORTS],
        case: Case::NEW,
        died: [0.0; RUNGS],
        spine: Spine::NONE,
        trend: Marks::EMPTY,
        live_total: 0,
        born_total: 0,
        live_variance: 0.0,
        origin: 0,
        last_birth: 0,
        group: 0,
        matured: 0.0,
        usual_size: 0.0,
        reference_interval: 0.0,
        latest_interval: 0.0,
        queue_matured: 0.0,
        queue_frees: 0.0,
        oldest_frees: 0.0,
        width_shift: 0,
        oldest: 0,
        in_use: 0,
        tainted: 0,
    };

    /// Begins a history in place.
    pub(crate) fn begin(&mut self, now: u32) {
        *self = History { origin: now, in_use: 1, ..History::EMPTY };
    }

    /// Has it begun?
    pub(crate) fn is_in_use(&self) -> bool {
        self.in_use != 0
    }

    /// Records of this site were lost: it is never judged again.
    pub(crate) fn taint(&mut self) {
        self.tainted = 1;
    }

    /// Were records lost?
    pub(crate) fn is_tainted(&self) -> bool {
        self.tainted != 0
    }

    /// A sampled block was born in epoch `now`.
    pub(crate) fn born(&mut self, now: u32, block: &Block) {
        let cohort = self.cohort_at(now);
        let evidence = self.evidence_of_birth(block);
        self.live[cohort] = self.live[cohort].saturating_add(evidence);
        self.born[cohort] = self.born[cohort].saturating_add(evidence);
        if now != self.last_birth || self.occasions[cohort] == 0 {
            self.occasions[cohort] = self.occasions[cohort].saturating_add(1);
            self.last_birth = now;
        }
        self.live_bytes[cohort] = self.live_bytes[cohort].saturating_add(block.weight.bytes);
        self.live_total = self.live_total.saturating_add(block.weight.bytes);
        self.born_total = self.born_total.saturating_add(block.weight.bytes);
        if block.weight.bytes_variance != 0 {
            self.live_variance += narrow(block.weight.bytes_variance as f64);
        }
        self.spine.born(block, now);
    }

    /// Is nothing of it sampled, so far?
    pub(super) fn is_exact(&self) -> bool {
        self.in_use != 0 && self.reference_interval == 0.0
    }

    /// May this birth be tallied? Not where it changes the table.
    pub(crate) fn is_deaf_to_birth(&self, block: &Block) -> bool {
        self.is_exact() && self.spine.is_deaf_to_birth(block.size, block.thread)
    }

    /// May this free be tallied?
    pub(crate) fn is_deaf_to_free(&self, block: &Block) -> bool {
        self.is_exact() && self.spine.is_deaf_to_free(block.size, block.thread)
    }

    /// May this birth and the free of that block be tallied?
    pub(crate) fn is_deaf_to_pair(&self, block: &Block) -> bool {
        self.is_exact() && self.spine.is_deaf_to_pair(block.size, block.thread)
    }

    /// May this resize be tallied?
    pub(crate) fn is_deaf_to_growth(&self, old: u64, new: u64) -> bool {
        self.is_exact() && self.spine.is_deaf_to_growth(old, new)
    }

    /// All that was tallied in epoch `now`: births, and frees and resizes of blocks born in it. Exact mode's alone.
    pub(super) fn tallied(&mut self, now: u32, tally: &Tally) {
        let cohort = self.cohort_at(now);
        let evidence = |blocks: u64| SAMPLE.saturating_mul(u32::try_from(blocks).unwrap_or(u32::MAX));
        if tally.born != 0 {
            self.born[cohort] = self.born[cohort].saturating_add(evidence(tally.born));
            if now != self.last_birth || self.occasions[cohort] == 0 {
                self.occasions[cohort] = self.occasions[cohort].saturating_add(1);
                self.last_birth = now;
            }
        }
        let live = &mut self.live[cohort];
        *live = match tally.born.checked_sub(tally.gone) {
            Some(more) => live.saturating_add(evidence(more)),
            None => live.saturating_sub(evidence(tally.gone - tally.born)),
        };
        let change = signed(tally.live_bytes).saturating_mul(1 << BYTES_FRACTION_BITS);
        for bytes in [&mut self.live_bytes[cohort], &mut self.live_total] {
            *bytes = bytes.saturating_add_signed(change);
        }
        self.born_total = self.born_total.saturating_add(tally.born_bytes.saturating_mul(1 << BYTES_FRACTION_BITS));
        if tally.gone != 0 {
            self.pass_empty_cohorts(cohort);
        }
    }

    /// A sampled block that was born in epoch `birth` was freed in epoch `now`.
    pub(crate) fn freed(&mut self, birth: u32, now: u32, block: &Block) {
        self.left(birth, now, block);
        self.spine.freed(block.size, block.thread, now);
    }

    /// A sampled block shrank and was thinned out of the sample. The ladder counts it as a free.
    pub(crate) fn forgotten(&mut self, birth: u32, now: u32, block: &Block) {
        self.left(birth, now, block);
        self.spine.grew(block.size, 0, now);
    }

    /// A sampled block changed its size and kept its identity. `birth`: if known.
    #[inline(always)]
    pub(crate) fn resized(&mut self, birth: Option<u32>, now: u32, old: &Block, new: &Block) {
        self.live_total = self.live_total.saturating_sub(old.weight.bytes).saturating_add(new.weight.bytes);
        self.born_total = self.born_total.saturating_add(new.weight.bytes);
        if new.weight.bytes_variance != 0 || old.weight.bytes_variance != 0 {
            let variance = new.weight.bytes_variance as f64 - old.weight.bytes_variance as f64;
            self.live_variance = (self.live_variance + narrow(variance)).max(0.0);
        }
        if let Some(cohort) = birth.and_then(|birth| self.cohort_of(birth)) {
            let live = &mut self.live_bytes[cohort];
            *live = live.saturating_sub(old.weight.bytes).saturating_add(new.weight.bytes);
        }
        self.spine.grew(old.size, new.size, now);
    }

    #[inline(always)]
    fn left(&mut self, birth: u32, now: u32, block: &Block) {
        let evidence = self.evidence_of_death(block);
        self.live_total = self.live_total.saturating_sub(block.weight.bytes);
        if block.weight.bytes_variance != 0 {
            self.live_variance = (self.live_variance - narrow(block.weight.bytes_variance as f64)).max(0.0);
        }
        let samples = evidence as f32 / SAMPLE as f32;
        let Some(cohort) = self.cohort_of(birth) else {
            let age = now.saturating_sub(birth);
            for (died, rung) in self.died.iter_mut().zip(RUNG_EPOCHS) {
                *died += if age >= rung { samples } else { 0.0 };
            }
            return;
        };
        self.live[cohort] = self.live[cohort].saturating_sub(evidence);
        self.live_bytes[cohort] = self.live_bytes[cohort].saturating_sub(block.weight.bytes);
        self.pass_empty_cohorts(cohort);
        let end = self.end_of(cohort);
        let now = now.saturating_sub(self.origin).max(self.straddlers_until());
        // As `end_epoch` had it when the last epoch ended.
        if end.saturating_add(RUNG_EPOCHS[0]) <= now {
            self.left_mature(cohort, end, now, samples);
        }
    }

    /// After a free in `cohort`.
    #[inline(always)]
    fn pass_empty_cohorts(&mut self, cohort: usize) {
        while usize::from(self.oldest) < cohort && self.live[usize::from(self.oldest)] == 0 {
            self.oldest += 1;
        }
    }

    /// Of a block that had reached the first rung; `end` and `now` from the origin.
    fn left_mature(&mut self, cohort: usize, end: u32, now: u32, samples: f32) {
        for (died, rung) in self.died.iter_mut().zip(RUNG_EPOCHS) {
            if end.saturating_add(rung) > now {
                break;
            }
            *died += samples;
        }
        let newest = (self.last_birth.saturating_sub(self.origin) >> self.width_shift) as usize;
        let oldest = usize::from(self.oldest).min(cohort);
        if newest >= oldest + QUEUE_COHORTS {
            self.queue_frees += samples;
            self.oldest_frees += if cohort <= oldest + 1 { samples } else { 0.0 };
        }
    }

    /// Closes epoch `now` and returns what happened on each rung in it.
    pub(crate) fn end_epoch(&mut self, now: u32) -> [Step; RUNGS] {
        self.cohort_at(now);
        let relative = now.saturating_sub(self.origin);
        let width = 1u32 << self.width_shift;
        let mut steps = [Step::default(); RUNGS];
        for (r, step) in steps.iter_mut().enumerate() {
            step.died = self.died[r];
            // A cohort ends at a multiple of `width`; its youngest block reaches the age in this very epoch or never.
            let Some(reached) = (relative + 1).checked_sub(RUNG_EPOCHS[r]) else { continue };
            if reached == 0 || reached & (width - 1) != 0 || relative < self.straddlers_until() {
                continue;
            }
            let cohort = ((reached >> self.width_shift) - 1) as usize;
            step.matured = self.live[cohort] as f32 / SAMPLE as f32;
            step.occasions = f32::from(self.occasions[cohort]);
            step.width = width as f32;
        }
        if self.died[0] >= CLEAN_UP_SAMPLES && self.died[0] >= self.live_samples() {
            self.case.cleanups = self.case.cleanups.saturating_add(1);
            self.case.cleaned_in = u8::try_from(relative >> self.width_shift).unwrap_or(u8::MAX);
        }
        self.died = [0.0; RUNGS];
        self.matured += steps[0].matured;
        if now.is_multiple_of(QUEUE_MEMORY_EPOCHS) {
            for count in [&mut self.queue_matured, &mut self.queue_frees, &mut self.oldest_frees] {
                *count /= 2.0;
            }
        }
        self.queue_matured += steps[0].matured;
        self.trend.note(relative + 1, bytes(self.live_total));
        self.spine.end_epoch(now);
        if now.is_multiple_of(REFERENCE_HOLD_EPOCHS) && self.latest_interval < self.reference_interval {
            self.measure_by((self.reference_interval / 2.0).max(self.latest_interval));
        }
        steps
    }

    /// The cohort of births in epoch `now`, made room for.
    #[inline]
    fn cohort_at(&mut self, now: u32) -> usize {
        let relative = now.saturating_sub(self.origin);
        while relative >> self.width_shift >= COHORTS_U32 {
            self.merge();
        }
        (relative >> self.width_shift) as usize
    }

    /// The cohort of an earlier epoch; `None` before the history began.
    #[inline]
    fn cohort_of(&self, birth: u32) -> Option<usize> {
        let cohort = (birth.checked_sub(self.origin)? >> self.width_shift) as usize;
        (cohort < COHORTS).then_some(cohort)
    }

    /// One past the last epoch of a cohort, counted from the origin.
    fn end_of(&self, cohort: usize) -> u32 {
        u32::try_from(cohort + 1).unwrap_or(COHORTS_U32) << self.width_shift
    }

    /// When cohorts merge, one of a pair may have reached a rung and the other not. Such a pair counts as having reached
    /// it, without the other's maturation: until this epoch (from the origin) nothing else matures.
    fn straddlers_until(&self) -> u32 {
        let width = 1u32 << self.width_shift;
        if width == 1 { 0 } else { (COHORTS_U32 / 2) * width + width / 2 }
    }

    #[cold]
    fn merge(&mut self) {
        for i in 0..COHORTS {
            let (left, right) = (2 * i, 2 * i + 1);
            let inside = right < COHORTS;
            self.live_bytes[i] = if inside { self.live_bytes[left].saturating_add(self.live_bytes[right]) } else { 0 };
            self.live[i] = if inside { self.live[left].saturating_add(self.live[right]) } else { 0 };
            self.born[i] = if inside { self.born[left].saturating_add(self.born[right]) } else { 0 };
            self.occasions[i] = if inside { self.occasions[left].saturating_add(self.occasions[right]) } else { 0 };
        }
        self.oldest /= 2;
        self.case.cleaned_in /= 2;
        self.width_shift += 1;
    }

    #[inline(always)]
    fn evidence_of_birth(&mut self, block: &Block) -> u32 {
        if block.interval_bytes == 0.0 && self.reference_interval == 0.0 {
            // Exact mode: there is nothing to convert, now or later.
            return SAMPLE;
        }
        self.evidence_of_sampled_birth(block)
    }

    #[inline(never)]
    fn evidence_of_sampled_birth(&mut self, block: &Block) -> u32 {
        let interval = narrow(block.interval_bytes);
        self.latest_interval = interval;
        let size = block.size as f32;
        self.usual_size += if self.usual_size == 0.0 { size } else { (size - self.usual_size) / 32.0 };
        if interval > self.reference_interval {
            self.measure_by(interval);
        }
        self.evidence_of_death(block)
    }

    /// Changes the reference interval, and with it what all counts so far are worth: exactly so for blocks of the site's
    /// usual size.
    #[cold]
    fn measure_by(&mut self, interval: f32) {
        if self.reference_interval > 0.0 {
            let scale = self.in_measure_of(interval);
            for units in self.live.iter_mut().chain(&mut self.born) {
                *units = if *units == 0 { 0 } else { to_units(*units as f32 * scale).max(1) };
            }
            self.case.rescale(scale);
        }
        self.reference_interval = interval;
    }

    /// The interval that a sample of this site is measured by, in bytes; 0.0 in exact mode.
    pub(crate) fn reference_interval(&self) -> f32 {
        self.reference_interval
    }

    /// What a sample of this site is worth where samples are measured by `interval`: exactly so for its usual size.
    pub(crate) fn in_measure_of(&self, interval: f32) -> f32 {
        #[expect(clippy::float_cmp, reason = "the very same interval, not a computed one")]
        if interval == self.reference_interval {
            return 1.0;
        }
        let size = u64::from(to_units(self.usual_size));
        let own = probability(size, f64::from(self.reference_interval)).max(f64::MIN_POSITIVE);
        narrow(probability(size, f64::from(interval)) / own)
    }

    #[inline(always)]
    fn evidence_of_death(&self, block: &Block) -> u32 {
        #[expect(clippy::float_cmp, reason = "the very same interval, not a computed one")]
        if narrow(block.interval_bytes) == self.reference_interval {
            return SAMPLE;
        }
        self.converted_evidence(block)
    }

    #[inline(never)]
    fn converted_evidence(&self, block: &Block) -> u32 {
        let reference = probability(block.size, f64::from(self.reference_interval));
        let own = probability(block.size, block.interval_bytes).max(f64::MIN_POSITIVE);
        to_units(narrow(reference / own) * SAMPLE as f32).max(1)
    }

    /// Was it cleaned up again and again, and not only long ago: lately, as seen from its age?
    pub(crate) fn is_cleaned_up(&self, now: u32) -> bool {
        let cohort = now.saturating_sub(self.origin) >> self.width_shift;
        self.case.cleanups >= CLEAN_UPS && u32::from(self.case.cleaned_in) * 2 >= cohort
    }

    /// Is the largest table nearly all that lives here?
    pub(crate) fn is_mostly_a_table(&self) -> bool {
        self.live_samples() <= FEW_TABLES || self.spine.capacity_bytes.saturating_mul(2) >= self.live_total >> 8
    }

    /// Live samples.
    pub(crate) fn live_samples(&self) -> f32 {
        self.live.iter().map(|&live| live as f32).sum::<f32>() / SAMPLE as f32
    }

    /// Age of the oldest live blocks' cohort in epochs, by its middle.
    pub(crate) fn oldest_age(&self, now: u32) -> Option<u32> {
        let cohort = self.live.iter().position(|&live| live > 0)?;
        let middle = self.end_of(cohort) - (1 << self.width_shift) / 2;
        Some(now.saturating_sub(self.origin).saturating_sub(middle.saturating_sub(1)))
    }
}

/// 1/2^8 bytes to bytes.
pub(crate) fn bytes(fixed: u64) -> f32 {
    fixed as f32 / 256.0
}

#[expect(clippy::cast_possible_truncation, reason = "24 bits of precision are enough for evidence and variance")]
fn narrow(value: f64) -> f32 {
    value as f32
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "not negative; the cast saturates")]
fn to_units(value: f32) -> u32 {
    value.round() as u32
}

#[cfg(test)]
mod tests;
