//! The work that every profiler is measured on: the same instructions, decided by counters alone.
//!
//! A workload is made (texts, regular expressions: not measured) and run in parts ([`turns`]): a warm-up, then the slices that are
//! measured. After each there is a checksum of what it did; the runner refuses rows whose checksums differ.

mod batch;
mod blocks;
mod deep;
pub mod heap;
mod json;
mod mail;
pub mod server;
mod threads;
mod turns;

use std::sync::Arc;

pub use turns::Turns;

/// Something to run.
pub trait Workload {
    /// Does all the parts, on as many threads as it was made for, and pauses after each. Returns a checksum of the work, which
    /// depends on the numbers of operations and threads alone.
    fn run(&mut self, turns: &Arc<Turns>) -> u64;
}

/// The names that [`make`] knows; the server is apart ([`server::serve`]).
pub const NAMES: [&str; 10] =
    ["pair", "churn", "json", "grow", "handoff", "buffers", "deep", "mail", "batch", "threads"];

/// Makes the workload of this name, or `None`.
#[must_use]
pub fn make(name: &str, threads: usize) -> Option<Box<dyn Workload>> {
    Some(match name {
        "pair" => Box::new(blocks::Pair { threads }),
        "churn" => Box::new(blocks::Churn { threads }),
        "grow" => Box::new(blocks::Grow { threads }),
        "handoff" => Box::new(threads::HandOff { pairs: threads }),
        "buffers" => Box::new(blocks::Buffers { threads }),
        "json" => Box::new(json::Json::new(threads)),
        "deep" => Box::new(deep::Deep { threads }),
        "mail" => Box::new(mail::Mail),
        "batch" => Box::new(batch::Batch::new()),
        "threads" => Box::new(threads::ShortThreads),
        _ => return None,
    })
}

/// Xorshift: numbers that look random and are the same everywhere.
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// From 0 to `bound` − 1.
    fn below(&mut self, bound: u64) -> u64 {
        (self.next() >> 11) % bound
    }
}

/// What this process has used of all cores so far, user and system, in nanoseconds; the profiler's threads included.
#[must_use]
pub fn cpu_ns() -> u64 {
    // SAFETY: `rusage` is plain integers, for which zeros are valid.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a live `rusage`.
    unsafe { libc::getrusage(libc::RUSAGE_SELF, &raw mut usage) };
    let ns = |time: libc::timeval| time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_usec.unsigned_abs() * 1000;
    ns(usage.ru_utime) + ns(usage.ru_stime)
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex, PoisonError};

    use super::{NAMES, Turns, make};

    /// The checksum at the end, and those told at the pauses.
    fn run(name: &str, threads: usize, slice: u64, slices: u64, until: usize) -> (u64, Vec<u64>) {
        let told = Arc::new(Mutex::new(Vec::new()));
        let tell = Arc::clone(&told);
        let pause = move |sum| {
            let mut told = tell.lock().unwrap_or_else(PoisonError::into_inner);
            told.push(sum);
            told.len() < until
        };
        let turns = Arc::new(Turns::new(20, slice, slices, pause));
        let sum = make(name, threads).expect("a known name").run(&turns);
        let told = told.lock().unwrap_or_else(PoisonError::into_inner).clone();
        (sum, told)
    }

    #[test]
    fn the_same_work_has_the_same_checksum() {
        for name in NAMES {
            for threads in [1, 2] {
                let all = |operations| run(name, threads, operations, 1, usize::MAX).0;
                assert_eq!(all(40), all(40), "{name} on {threads} threads");
                assert_ne!(all(40), all(41), "{name} on {threads} threads: a checksum that sees no difference");
            }
        }
        assert!(make("pears", 1).is_none());
    }

    #[test]
    fn slices_are_the_same_work_as_one_run_of_them() {
        for name in NAMES {
            for threads in [1, 2] {
                let (whole, _) = run(name, threads, 120, 1, usize::MAX);
                let (sliced, told) = run(name, threads, 30, 4, usize::MAX);
                assert_eq!(whole, sliced, "{name} on {threads} threads");
                assert_eq!(
                    told.len(),
                    5,
                    "{name} on {threads} threads: a pause after the warm-up and after each slice"
                );
                assert_eq!(told.last(), Some(&sliced), "{name} on {threads} threads");
                assert!(told.is_sorted_by(|a, b| a < b), "{name} on {threads} threads: a slice without work, {told:?}");
            }
        }
    }

    #[test]
    fn who_is_told_to_end_ends_having_done_the_same() {
        for name in NAMES {
            let (_, all) = run(name, 2, 30, 4, usize::MAX);
            let (_, some) = run(name, 2, 30, 4, 3);
            assert_eq!(some[..], all[..3], "{name}: told to end after the second slice");
        }
    }
}
