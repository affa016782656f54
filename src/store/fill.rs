//! How full a drain finds the rings, and what of it is the drain thread's to take: the measure of how often it comes.

use crate::store::writer::EXACT_RING_RECORDS;

/// How full a drain found the rings.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Fill {
    /// Records in the fullest.
    fullest: u64,
    /// Rings whose threads allocate all the time, as far as that shows: [`BUSY_RECORDS`] and more.
    busy: usize,
}

/// A sixteenth of a ring of exact mode, which is drained when it is half full.
const BUSY_RECORDS: u64 = EXACT_RING_RECORDS / 16;

impl Fill {
    /// Of one ring more, which has so many records to be read.
    pub(super) fn add(&mut self, unread: u64) {
        self.fullest = self.fullest.max(unread);
        self.busy += usize::from(unread >= BUSY_RECORDS);
    }

    /// Records that the drain thread does well to take off a thread of the program's: of the fullest ring, all, if a processor is idle.
    ///
    /// Where as many threads allocate as there are `processors`, what the drain thread does is their time as well. Then a streak counts as
    /// one record, of `drained` all but those that streaks `spared`: to apply a streak takes less than to hand its records over
    /// from one processor to the other.
    pub(crate) fn worth(self, drained: u64, spared: u64, processors: usize) -> u64 {
        if self.busy < processors {
            return self.fullest;
        }
        self.fullest.saturating_mul(drained.saturating_sub(spared)) / drained.max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streaks_are_the_drain_threads_only_where_a_processor_is_idle() {
        let fill = |busy| Fill { fullest: 4000, busy };
        // One thread that makes pairs alone, 8 records a streak, on two processors; on one; two threads on two.
        assert_eq!(fill(1).worth(4000, 3500, 2), 4000);
        assert_eq!(fill(1).worth(4000, 3500, 1), 500);
        assert_eq!(fill(2).worth(8000, 7000, 2), 500);
        // Threads that make other records too are helped in any case.
        assert_eq!(fill(2).worth(8000, 0, 2), 4000);
        assert_eq!(Fill::default().worth(0, 0, 2), 0);
    }

    /// A thread that makes a few records keeps no processor.
    #[test]
    fn the_fullest_ring_and_the_busy_ones_are_told() {
        let mut fill = Fill::default();
        for unread in [3, 4096, 511, 512] {
            fill.add(unread);
        }
        assert_eq!((fill.fullest, fill.busy), (4096, 2));
    }
}
