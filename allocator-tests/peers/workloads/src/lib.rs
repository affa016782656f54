//! The work that every profiler is measured on: the same instructions, decided by counters alone.
//!
//! A workload is made (texts, regular expressions: not measured), run once to warm up, and run again for the figure.
//! Each run returns a checksum of what it did; the runner refuses rows whose checksums differ.

mod batch;
mod blocks;
mod deep;
pub mod heap;
mod json;
mod mail;
pub mod server;
mod threads;

/// Something to run.
pub trait Workload {
    /// Does `operations` of it, on as many threads as it was made for. Returns a checksum of the work, which depends on
    /// `operations` and the number of threads alone.
    fn run(&mut self, operations: u64) -> u64;
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

/// Shares `operations` among `threads` (the caller alone, where it is one) and adds up what they return.
fn share(threads: usize, operations: u64, work: impl Fn(u64, u64) -> u64 + Sync) -> u64 {
    if threads <= 1 {
        return work(0, operations);
    }
    let count = threads as u64;
    std::thread::scope(|scope| {
        let started: Vec<_> = (0..count)
            .map(|thread| {
                let part = operations / count + u64::from(thread < operations % count);
                let work = &work;
                scope.spawn(move || work(thread, part))
            })
            .collect();
        started.into_iter().map(|thread| thread.join().expect("a workload does not panic")).fold(0, u64::wrapping_add)
    })
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
    use super::{NAMES, make};

    #[test]
    fn the_same_work_has_the_same_checksum() {
        for name in NAMES {
            for threads in [1, 2] {
                let run = |operations| make(name, threads).expect("a known name").run(operations);
                assert_eq!(run(40), run(40), "{name} on {threads} threads");
                assert_ne!(run(40), run(41), "{name} on {threads} threads: a checksum that sees no difference");
            }
        }
        assert!(make("pears", 1).is_none());
    }
}
