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
}

/// Do as many threads allocate all the time as there are processors?
///
/// Then what the drain thread does is their time as well, and it takes longer there: a processor is taken from one of them, and
/// every record goes from one to the other. So the program's threads drain, one at a time, as soon as a ring is half full
/// (`ring::Refusal::Due`): while one does, the others go on in the half that is left.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Crowd {
    /// How many threads can run at once.
    processors: usize,
    /// Drains since one found so many busy rings, of those that found any.
    since: usize,
}

impl Crowd {
    /// Not yet there.
    pub(crate) fn of(processors: usize) -> Crowd {
        Crowd { processors, since: usize::MAX }
    }

    /// After a drain. Records that the drain thread does well to take off a thread of the program's: those of the fullest ring,
    /// if a processor is idle.
    pub(crate) fn look(&mut self, fill: Fill) -> u64 {
        if fill.busy >= self.processors {
            self.since = 0;
        } else if fill.busy > 0 {
            self.since = self.since.saturating_add(1);
        }
        if self.is_there() { 0 } else { fill.fullest }
    }

    /// Who drains writes no records meanwhile, and others may wait for it and drain at once when it is done: its ring is empty to as
    /// many drains as there are others. So it takes more of them to find that a thread is busy no more.
    pub(crate) fn is_there(&self) -> bool {
        self.since <= self.processors
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_the_drain_threads_only_where_a_processor_is_idle() {
        let fill = |busy| Fill { fullest: 4000, busy };
        let told = |crowd: &mut Crowd, busy| (crowd.look(fill(busy)), crowd.is_there());
        let mut crowd = Crowd::of(2);
        assert!(!crowd.is_there());
        assert_eq!(told(&mut crowd, 1), (4000, false));
        assert_eq!(told(&mut crowd, 2), (0, true));
        assert_eq!(told(&mut crowd, 3), (0, true));
        // One has just drained; the others drain after it.
        for _ in 0..2 {
            assert_eq!(told(&mut crowd, 1), (0, true));
        }
        assert_eq!(told(&mut crowd, 2), (0, true));
        // One has ended. Drains of next to nothing tell nothing.
        for _ in 0..2 {
            assert_eq!(told(&mut crowd, 1), (0, true));
            assert_eq!(crowd.look(Fill::default()), 0);
        }
        assert_eq!(told(&mut crowd, 1), (4000, false));
        assert_eq!(told(&mut crowd, 1), (4000, false));
        assert_eq!(told(&mut Crowd::of(1), 1), (0, true));
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
