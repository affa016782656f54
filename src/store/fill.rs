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

    /// Do as many threads allocate all the time as there are `processors`? Then what the drain thread does is their time as well, and it
    /// takes longer there: a processor is taken from one of them, and every record goes from one to the other. So the program's
    /// threads drain, one at a time, as soon as a ring is half full (`ring::Refusal::Due`): while one does, the others go on, and none
    /// waits until its own is full.
    pub(crate) fn is_crowded(self, processors: usize) -> bool {
        self.busy >= processors
    }

    /// Records that the drain thread does well to take off a thread of the program's: those of the fullest ring, if a processor is idle.
    pub(crate) fn worth(self, processors: usize) -> u64 {
        if self.is_crowded(processors) { 0 } else { self.fullest }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_the_drain_threads_only_where_a_processor_is_idle() {
        let fill = |busy| Fill { fullest: 4000, busy };
        let told = |busy, processors| (fill(busy).is_crowded(processors), fill(busy).worth(processors));
        assert_eq!(told(1, 2), (false, 4000));
        assert_eq!(told(2, 2), (true, 0));
        assert_eq!(told(3, 2), (true, 0));
        assert_eq!(told(1, 1), (true, 0));
        assert_eq!((Fill::default().is_crowded(2), Fill::default().worth(2)), (false, 0));
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
