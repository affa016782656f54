//! The rules themselves, over one site's sampled blocks.

use std::collections::HashMap;

/// A block is old for the old-blocks rule after so many epochs, and so many old ones are a leak.
const OLD_EPOCHS: u32 = 60;
const OLD_BLOCKS: u32 = 8;
/// The slope test's window.
const SLOPE_EPOCHS: usize = 60;
/// Scalene calls a leak what is kept with more than this.
const KEPT: f64 = 0.95;

/// One bit for each rule, in the order of `RIVALS`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Said(pub(super) [bool; 3]);

impl Said {
    /// Does any rule call it a leak?
    pub(super) fn any(self) -> bool {
        self.0.contains(&true)
    }

    /// What either says.
    pub(super) fn add(&mut self, other: Said) {
        self.0.iter_mut().zip(other.0).for_each(|(said, other)| *said |= other);
    }
}

/// One site's figures.
#[derive(Debug, Default)]
pub(crate) struct SiteRules {
    pub(super) peaks_watched: u32,
    pub(super) peaks_freed: u32,
    pub(super) live_bytes: f64,
    live_by_birth: HashMap<u32, u32>,
    curve: Vec<f64>,
    /// What is said now, and what was ever said.
    pub(super) now: Said,
    pub(super) ever: Said,
}

impl SiteRules {
    pub(super) fn born(&mut self, epoch: u32, bytes: f64) {
        self.live_bytes += bytes;
        *self.live_by_birth.entry(epoch).or_default() += 1;
    }

    pub(super) fn freed(&mut self, birth: u32, bytes: f64) {
        self.live_bytes -= bytes;
        if let Some(count) = self.live_by_birth.get_mut(&birth) {
            *count -= 1;
        }
    }

    pub(super) fn end_epoch(&mut self, epoch: u32) {
        self.curve.push(self.live_bytes);
        let kept = 1.0 - f64::from(self.peaks_freed + 1) / f64::from(self.peaks_watched + 2);
        let old = self.live_by_birth.iter().filter(|(birth, _)| epoch.saturating_sub(**birth) >= OLD_EPOCHS);
        let old: u32 = old.map(|(_, count)| count).sum();
        let window = self.curve.len().checked_sub(SLOPE_EPOCHS).map(|from| &self.curve[from..]);
        self.now = Said([kept > KEPT, old >= OLD_BLOCKS, window.is_some_and(rises)]);
        self.ever.add(self.now);
    }
}

/// A least-squares slope above 0 with t > 3.
#[expect(clippy::cast_precision_loss, reason = "60 points")]
fn rises(curve: &[f64]) -> bool {
    let n = curve.len() as f64;
    let (mean_x, mean_y) = ((n - 1.0) / 2.0, curve.iter().sum::<f64>() / n);
    let (mut xx, mut xy, mut yy) = (0.0, 0.0, 0.0);
    for (x, y) in curve.iter().enumerate() {
        let (dx, dy) = (x as f64 - mean_x, y - mean_y);
        xx += dx * dx;
        xy += dx * dy;
        yy += dy * dy;
    }
    let slope = xy / xx;
    let residual = (yy - slope * xy).max(0.0);
    slope > 0.0 && slope > 3.0 * (residual / (n - 2.0) / xx).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_rule_says_what_it_is_known_for() {
        let (mut leak, mut churn) = (SiteRules::default(), SiteRules::default());
        for epoch in 0..100 {
            leak.born(epoch, 10.0);
            leak.peaks_watched += 1;
            churn.born(epoch, 10.0);
            churn.freed(epoch, 10.0);
            churn.peaks_watched += 1;
            churn.peaks_freed += 1;
            leak.end_epoch(epoch);
            churn.end_epoch(epoch);
        }
        assert_eq!((leak.now, churn.ever), (Said([true; 3]), Said::default()));
    }
}
