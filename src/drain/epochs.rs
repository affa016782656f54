//! When epochs began, so that births are dated in epochs.
//!
//! Promises: allocates once; the latest epochs exactly, older ones by proportion between those that are remembered.

use crate::units::Ticks;

/// Epochs whose beginnings are remembered. When the list is full every second one goes.
const MOST_BOUNDARIES: usize = 4096;

/// See the module.
#[derive(Debug)]
pub(super) struct Epochs {
    /// (ticks, epoch), ascending in both. Allocated once.
    began: Vec<(u64, u32)>,
    pub(super) open: u32,
    /// When the open one began, while each is remembered; else never.
    pub(super) open_since: Ticks,
    /// Every so many epochs one is remembered.
    stride: u32,
}

impl Epochs {
    pub(super) fn new(base: Ticks) -> Epochs {
        let mut began = Vec::with_capacity(MOST_BOUNDARIES);
        began.push((base.0, 0));
        Epochs { began, open: 0, open_since: base, stride: 1 }
    }

    pub(super) fn begin(&mut self, at: Ticks) {
        self.open = self.open.saturating_add(1);
        self.open_since = Ticks(if self.stride == 1 { at.0 } else { u64::MAX });
        if !self.open.is_multiple_of(self.stride) {
            return;
        }
        if self.began.len() == MOST_BOUNDARIES {
            let mut index = 0;
            self.began.retain(|_| {
                index += 1;
                index % 2 == 1
            });
            self.stride = self.stride.saturating_mul(2);
            self.open_since = Ticks(u64::MAX);
            if !self.open.is_multiple_of(self.stride) {
                return;
            }
        }
        self.began.push((at.0, self.open));
    }

    /// The epoch of a moment; between two remembered beginnings by proportion.
    #[inline]
    pub(super) fn of(&self, at: Ticks) -> u32 {
        // Most blocks are young.
        if at >= self.open_since { self.open } else { self.of_earlier(at) }
    }

    #[cold]
    fn of_earlier(&self, at: Ticks) -> u32 {
        let next = self.began.partition_point(|&(began, _)| began <= at.0);
        let Some(&(began, epoch)) = next.checked_sub(1).and_then(|i| self.began.get(i)) else { return 0 };
        let Some(&(ends, end_epoch)) = self.began.get(next) else {
            // In the last stretch: at most a stride of epochs long.
            return if self.stride == 1 {
                epoch
            } else {
                epoch.max(self.open.saturating_sub(self.stride / 2)).min(self.open)
            };
        };
        let share = u128::from(at.0 - began) * u128::from(end_epoch - epoch) / u128::from((ends - began).max(1));
        epoch + u32::try_from(share).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_fall_into_their_epochs() {
        let mut epochs = Epochs::new(Ticks(100));
        for epoch in 1..=50_000u64 {
            epochs.begin(Ticks(100 + epoch * 10));
        }
        assert!(epochs.began.len() <= MOST_BOUNDARIES);
        assert_eq!(epochs.open, 50_000);
        for epoch in (0..49_000u32).step_by(997) {
            let at = Ticks(100 + u64::from(epoch) * 10 + 5);
            assert!(epochs.of(at).abs_diff(epoch) <= 1, "{epoch} {}", epochs.of(at));
        }
        assert_eq!(epochs.of(Ticks(0)), 0);
    }

    #[test]
    fn short_runs_are_exact() {
        let mut epochs = Epochs::new(Ticks(0));
        for epoch in 1..=300u64 {
            epochs.begin(Ticks(epoch * 1000));
        }
        for epoch in 0..=300u32 {
            assert_eq!(epochs.of(Ticks(u64::from(epoch) * 1000)), epoch);
            assert_eq!(epochs.of(Ticks(u64::from(epoch) * 1000 + 999)), epoch);
        }
    }
}
