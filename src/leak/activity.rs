//! When the program as a whole was busy and when it was idle, for advice: no verdict rests on this.
//!
//! There are no scopes of requests. What stands for them is the exact number of blocks that the process allocates in an
//! epoch: busy is what at least ten epochs, and a twentieth of all, reached; idle is under a tenth of that. That idle
//! epochs mean 'no requests' is believed only where the program went from busy to idle three times: one burst, or a
//! start-up, after which everything looks idle, is no evidence.

use super::habits::Epochs;

/// An idle epoch has fewer allocations than this share of a busy one.
const IDLE_SHARE: u64 = 10;
/// A process of a few allocations an epoch has epochs without any by chance.
const IDLE_SLACK: u64 = 4;
/// So many epochs make a level.
const FEWEST_BUSY: u32 = 10;
/// And one in so many.
const BUSY_PART: u32 = 20;
/// Times that the program fell idle, and epochs in which it was.
const FEWEST_FALLS: u32 = 3;
const FEWEST_IDLE: u32 = 10;

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct Activity {
    /// Epochs by the length in bits of their number of allocations.
    by_length: [u32; 65],
    epochs: u32,
    is_busy: bool,
    falls: u32,
    idle_epochs: u32,
    most_threads: u32,
    threads: u32,
    /// Epochs in which more threads were recorded at once than ever before.
    thread_peaks: Epochs,
}

impl Default for Activity {
    fn default() -> Activity {
        Activity {
            by_length: [0; 65],
            epochs: 0,
            is_busy: false,
            falls: 0,
            idle_epochs: 0,
            most_threads: 0,
            threads: 0,
            thread_peaks: Epochs::default(),
        }
    }
}

impl Activity {
    /// So many threads were recorded at once, at most, so far. Before the epoch ends.
    pub(crate) fn saw_threads(&mut self, threads: u32) {
        self.threads = self.threads.max(threads);
    }

    /// Epochs in which more threads were recorded at once than ever before.
    pub(crate) fn thread_peaks(&self) -> Epochs {
        self.thread_peaks
    }

    /// An epoch ended, in which the process allocated so many blocks. Was it idle in it?
    pub(crate) fn end_epoch(&mut self, allocations: u64) -> bool {
        let length = |count: u64| (u64::BITS - count.leading_zeros()) as usize;
        self.thread_peaks.push(self.threads > self.most_threads);
        self.most_threads = self.threads;
        self.epochs = self.epochs.saturating_add(1);
        self.by_length[length(allocations)] += 1;
        let needed = FEWEST_BUSY.max(self.epochs / BUSY_PART);
        let mut reached = 0;
        let level = (1..65).rev().find(|&bits| {
            reached += self.by_length[bits];
            reached >= needed
        });
        let busy = level.map_or(0, |bits| 1u64 << (bits - 1));
        let is_idle = allocations.saturating_add(IDLE_SLACK).saturating_mul(IDLE_SHARE) < busy;
        if is_idle {
            self.falls += u32::from(self.is_busy);
            self.idle_epochs = self.idle_epochs.saturating_add(1);
            self.is_busy = false;
        } else if busy > 0 && allocations >= busy / 2 {
            self.is_busy = true;
        }
        is_idle
    }

    /// Idle epochs, where it is sure that there were such; else 0.
    pub(crate) fn idle_epochs(&self) -> u32 {
        if self.falls >= FEWEST_FALLS && self.idle_epochs >= FEWEST_IDLE { self.idle_epochs } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn idle_of(epochs: impl IntoIterator<Item = u64>) -> u32 {
        let mut activity = Activity::default();
        epochs.into_iter().for_each(|allocations| {
            activity.end_epoch(allocations);
        });
        activity.idle_epochs()
    }

    #[test]
    fn days_and_nights_are_told_apart() {
        let day_and_night = (0..200u64).map(|epoch| if epoch % 40 < 20 { 5000 + epoch * 7 } else { 3 });
        assert_eq!(idle_of(day_and_night), 100);
    }

    #[test]
    fn a_burst_a_start_and_an_even_program_have_no_idle_time() {
        assert_eq!(idle_of((0..400).map(|epoch| if epoch == 0 { 1_000_000 } else { 500 })), 0, "one burst");
        assert_eq!(idle_of((0..400).map(|epoch| if epoch < 30 { 1_000_000 } else { 500 })), 0, "a long start");
        assert_eq!(idle_of((0..400).map(|epoch| 500 + epoch % 13)), 0, "even");
        assert_eq!(idle_of((0..400).map(|epoch| epoch % 5)), 0, "a few blocks an epoch");
        assert_eq!(idle_of((0..400).map(|epoch| if epoch % 100 == 0 { 1_000_000 } else { 500 })), 0, "four bursts");
    }
}
