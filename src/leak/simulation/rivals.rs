//! What three simpler rules would have said on the same samples, each as its authors or users describe it.

use super::world::Held;
use std::collections::HashMap;

/// A block is old for the old-blocks rule after so many epochs, and so many old ones are a leak.
const OLD_EPOCHS: u32 = 60;
const OLD_BLOCKS: u32 = 8;
/// The slope test's window.
const SLOPE_EPOCHS: usize = 60;

#[derive(Clone, Default)]
struct Site {
    scalene_tracked: u32,
    scalene_freed: u32,
    live_bytes: f64,
    live_by_birth: HashMap<u32, u32>,
    curve: Vec<f64>,
}

/// One bit of verdict for each rule and site.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Said {
    pub(crate) scalene: bool,
    pub(crate) old_blocks: bool,
    pub(crate) slope: bool,
}

pub(crate) struct Rivals {
    sites: Vec<Site>,
    pub(crate) said: Vec<Said>,
    pub(crate) ever: Vec<Said>,
    live: f64,
    peak: f64,
    tracked: Option<(usize, usize)>,
    now: u32,
}

impl Rivals {
    pub(crate) fn new(sites: usize) -> Rivals {
        Rivals {
            sites: vec![Site::default(); sites],
            said: vec![Said::default(); sites],
            ever: vec![Said::default(); sites],
            live: 0.0,
            peak: 0.0,
            tracked: None,
            now: 0,
        }
    }

    pub(crate) fn born(&mut self, site: usize, held: Held, _size: u64, fixed: u64) {
        let bytes = fixed as f64 / 256.0;
        self.live += bytes;
        self.sites[site].live_bytes += bytes;
        *self.sites[site].live_by_birth.entry(self.now).or_default() += 1;
        // Scalene: at each new peak of the footprint, watch this one block until the next peak.
        if self.live > self.peak {
            self.peak = self.live;
            self.tracked = Some((site, held.0));
            self.sites[site].scalene_tracked += 1;
        }
    }

    pub(crate) fn freed(&mut self, site: usize, held: Held, birth: u32, fixed: u64) {
        let bytes = fixed as f64 / 256.0;
        self.live -= bytes;
        self.sites[site].live_bytes -= bytes;
        if let Some(count) = self.sites[site].live_by_birth.get_mut(&birth) {
            *count = count.saturating_sub(1);
        }
        if self.tracked == Some((site, held.0)) {
            self.sites[site].scalene_freed += 1;
            self.tracked = None;
        }
    }

    pub(crate) fn resized(&mut self, site: usize, old: u64, new: u64) {
        let grown = (new as f64 - old as f64) / 256.0;
        self.live += grown;
        self.sites[site].live_bytes += grown;
    }

    pub(crate) fn end_epoch(&mut self, now: u32) {
        self.now = now + 1;
        for (index, site) in self.sites.iter_mut().enumerate() {
            site.curve.push(site.live_bytes);
            // Rule of succession: the next tracked block is kept with more than 95%.
            let kept = 1.0 - f64::from(site.scalene_freed + 1) / f64::from(site.scalene_tracked + 2);
            let old: u32 = site
                .live_by_birth
                .iter()
                .filter(|(birth, _)| now.saturating_sub(**birth) >= OLD_EPOCHS)
                .map(|(_, count)| count)
                .sum();
            let said = Said {
                scalene: kept > 0.95,
                old_blocks: old >= OLD_BLOCKS,
                slope: site.curve.len() >= SLOPE_EPOCHS && rises(&site.curve[site.curve.len() - SLOPE_EPOCHS..]),
            };
            self.said[index] = said;
            let ever = &mut self.ever[index];
            ever.scalene |= said.scalene;
            ever.old_blocks |= said.old_blocks;
            ever.slope |= said.slope;
        }
    }
}

/// A least-squares slope above 0 with t > 3.
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
