//! The work in parts: a warm-up, then slices of equal size, and a pause after each of them, in which nothing is done and all
//! that the work holds stays: slices are the same work as one run of all of them.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Barrier, Mutex, PoisonError};

/// Told the checksum of the work so far; says whether there is to be more. Returns when the next part is to begin.
type Pause = Box<dyn FnMut(u64) -> bool + Send>;

/// How much of a workload, in which parts, and what is done between them.
pub struct Turns {
    warm_up: u64,
    slice: u64,
    slices: u64,
    pause: Mutex<Pause>,
}

/// What one thread does at once: these operations, counted since the thread's first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) operations: Range<u64>,
    /// After the warm-up and after the last slice: what is done once a run is done here.
    pub(crate) ends_run: bool,
}

impl Turns {
    /// A warm-up and `slices` slices, of so many operations; `pause` is called after each, the warm-up first (even where it
    /// is of no operations).
    pub fn new(warm_up: u64, slice: u64, slices: u64, pause: impl FnMut(u64) -> bool + Send + 'static) -> Turns {
        Turns { warm_up, slice, slices, pause: Mutex::new(Box::new(pause)) }
    }

    /// Ends a part.
    pub(crate) fn pause(&self, checksum: u64) -> bool {
        // the pause is called by one thread at a time, and what it keeps is whole wherever it panics
        (self.pause.lock().unwrap_or_else(PoisonError::into_inner))(checksum)
    }

    /// The share of thread `thread` of `threads`.
    pub(crate) fn parts(&self, thread: u64, threads: u64) -> impl Iterator<Item = Part> {
        let mut done = 0;
        let (warm_up, slice, slices) = (self.warm_up, self.slice, self.slices);
        (0..=slices).map(move |part| {
            let all = if part == 0 { warm_up } else { slice };
            let own = all / threads + u64::from(thread < all % threads);
            done += own;
            Part { operations: done - own..done, ends_run: part == 0 || part == slices }
        })
    }
}

/// Shares the parts among `threads` (the caller alone, where it is one), which live through all of them, and adds up what they return.
/// `make` makes what a thread keeps from one part to the next, and does a part of it.
pub(crate) fn share<S: FnMut(&Part) -> u64>(threads: usize, turns: &Turns, make: impl Fn(u64) -> S + Sync) -> u64 {
    if threads <= 1 {
        let mut step = make(0);
        let mut sum = 0_u64;
        for part in turns.parts(0, 1) {
            sum = sum.wrapping_add(step(&part));
            if !turns.pause(sum) {
                break;
            }
        }
        return sum;
    }
    let meeting = Meeting { barrier: Barrier::new(threads), sum: AtomicU64::new(0), goes_on: AtomicBool::new(true) };
    std::thread::scope(|scope| {
        for thread in 0..threads as u64 {
            let (make, meeting) = (&make, &meeting);
            scope.spawn(move || {
                let mut step = make(thread);
                for part in turns.parts(thread, threads as u64) {
                    if !meeting.after(step(&part), turns) {
                        break;
                    }
                }
            });
        }
    });
    meeting.sum.into_inner()
}

/// Where threads wait for each other after each part.
struct Meeting {
    barrier: Barrier,
    // The barrier's lock orders these: Relaxed is enough.
    sum: AtomicU64,
    goes_on: AtomicBool,
}

impl Meeting {
    /// All have done their part when this pauses, and go on together.
    fn after(&self, sum: u64, turns: &Turns) -> bool {
        self.sum.fetch_add(sum, Ordering::Relaxed);
        if self.barrier.wait().is_leader() {
            self.goes_on.store(turns.pause(self.sum.load(Ordering::Relaxed)), Ordering::Relaxed);
        }
        self.barrier.wait();
        self.goes_on.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::{Part, Turns};

    #[test]
    fn parts_are_shared_without_loss_and_only_the_ends_end_a_run() {
        let turns = Turns::new(5, 3, 2, |_| true);
        let parts = |thread| turns.parts(thread, 2).collect::<Vec<_>>();
        let part = |operations, ends_run| Part { operations, ends_run };
        assert_eq!(parts(0), [part(0..3, true), part(3..5, false), part(5..7, true)]);
        assert_eq!(parts(1), [part(0..2, true), part(2..3, false), part(3..4, true)]);
    }
}
