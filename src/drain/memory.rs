//! The process's memory over time: what was live and resident at the ends of epochs, and what the allocator said when it
//! was asked.
//!
//! Promises: bounded; reads /proc alone. The allocator is never asked here: its answers come with the orders of the
//! program's own threads (`sys::heap` says why), and what a report lacks is said in it.

use std::collections::VecDeque;

use crate::leak::memory::{self, Memory, Moment, Said};
use crate::sys::heap::{Heap, HeapFigures};
use crate::sys::limits::{self, MemoryLimit};

/// Answers that are remembered; when there are so many every second one goes.
const MOST_ANSWERS: usize = 64;
/// An answer this old is as good as one for this very report.
const FRESH_NS: u64 = 1_000_000_000;

/// What the allocator answered a thread of the program.
pub(crate) type Answer = Option<(Heap, HeapFigures)>;

/// The course of the process's memory.
#[derive(Debug, Default)]
pub(crate) struct Books {
    /// The ends of the last epochs, oldest first.
    past: VecDeque<Moment>,
    said: Vec<Said>,
    allocator: Option<&'static str>,
    /// Was a thread of the program ever told that there is nobody to ask?
    nobody_to_ask: bool,
}

impl Books {
    /// An epoch ended. `window`: how many are of interest.
    pub(crate) fn end_epoch(&mut self, moment: Moment, window: usize) {
        if self.past.len() > window {
            self.past.pop_front();
        }
        self.past.push_back(moment);
    }

    /// Epochs in the window.
    pub(crate) fn epochs(&self) -> usize {
        self.past.len()
    }

    /// The window's first moment.
    pub(crate) fn first(&self) -> Moment {
        self.past.front().copied().unwrap_or_default()
    }

    /// A thread of the program asked the allocator just now.
    pub(crate) fn note(&mut self, answer: Answer, at: Moment) {
        let Some((heap, figures)) = answer else {
            self.nobody_to_ask = true;
            return;
        };
        self.allocator = Some(heap.name());
        if self.said.len() >= MOST_ANSWERS {
            // Every second one goes, never the first.
            let mut index = 0;
            self.said.retain(|_| {
                index += 1;
                index % 2 == 1
            });
        }
        self.said.push(Said { at, allocated: figures.allocated_bytes, held: figures.held_bytes });
    }

    /// The line of every report, and the limit that it was made with.
    pub(crate) fn memory(&self, now: &Moment, growth_threshold_percent: f64) -> (Memory, MemoryLimit) {
        let limit = limits::memory_limit();
        let last = self.said.last();
        let age_ns = last.map(|said| now.at_ns.saturating_sub(said.at.at_ns));
        #[expect(clippy::cast_precision_loss, reason = "seconds")]
        let answer_age_seconds = age_ns.map(|ns| ns as f64 / 1e9);
        let memory = Memory {
            requested_bytes: now.requested,
            allocator: self.allocator,
            usable_bytes: last.map(|said| said.allocated + said.at.slots),
            held_bytes: last.map(|said| said.held + said.at.slots),
            answer_age_seconds,
            not_asked: match age_ns {
                Some(age) if age <= FRESH_NS => None,
                Some(_) => Some("asking takes its locks, which a thread that waits for this report may hold"),
                None if self.nobody_to_ask => Some("no allocator with statistics was recognised"),
                None => Some("no thread of the program asked for a report yet"),
            },
            slots_bytes: now.slots,
            profiler_bytes: now.own,
            resident_bytes: (now.resident > 0).then_some(now.resident),
            cgroup_bytes: limit.cgroup_bytes,
            limit_bytes: limit.limit_bytes,
            limit_name: limit.name,
            unexplained: memory::unexplained(&self.first(), now, &self.said, growth_threshold_percent),
        };
        (memory, limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_thinned_and_the_first_stays() {
        let mut books = Books::default();
        for second in 0..1000 {
            let figures = HeapFigures { allocated_bytes: second, held_bytes: second };
            books.note(Some((Heap::Glibc, figures)), Moment { at_ns: second, ..Moment::default() });
        }
        assert!(books.said.len() <= MOST_ANSWERS);
        assert_eq!(books.said.first().map(|said| said.allocated), Some(0));
        assert_eq!(books.said.last().map(|said| said.allocated), Some(999));
        assert!(books.said.is_sorted_by_key(|said| said.at.at_ns));
    }

    #[test]
    fn an_old_answer_is_shown_with_its_age_and_the_reason() {
        let mut books = Books::default();
        let now = Moment { at_ns: 90_000_000_000, requested: 5, resident: 9, own: 1, slots: 2 };
        let (memory, _) = books.memory(&now, 5.0);
        assert_eq!((memory.usable_bytes, memory.allocator), (None, None));
        assert!(memory.not_asked.is_some_and(|why| why.contains("no thread")), "{memory:?}");
        books.note(Some((Heap::Glibc, HeapFigures { allocated_bytes: 7, held_bytes: 8 })), Moment::default());
        let (memory, _) = books.memory(&now, 5.0);
        assert_eq!((memory.usable_bytes, memory.answer_age_seconds), (Some(7), Some(90.0)));
        assert!(memory.not_asked.is_some_and(|why| why.contains("locks")), "{memory:?}");
        let (memory, _) = books.memory(&Moment { at_ns: 0, ..now }, 5.0);
        assert_eq!(memory.not_asked, None);
        let mut books = Books::default();
        books.note(None, now);
        assert!(books.memory(&now, 5.0).0.not_asked.is_some_and(|why| why.contains("recognised")));
    }
}
