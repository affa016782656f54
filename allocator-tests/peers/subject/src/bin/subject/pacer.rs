//! The clock of a run, and its stops. A part ends, its time is told in a line of JSON, and the whole process group stops itself at once:
//! no thread of a profiler's works while another program is measured. The runner wakes it (SIGCONT) for its next slice, or,
//! after the last, to end. The thread that sent the signal may run on until another thread has taken it, so it also
//! waits for a line that the runner writes when it wakes the program.
//!
//! Wall time is that from the waking to the end of the slice. CPU time is that from the end of the part before, so that all that a
//! profiler's threads do between is in it; what they had left to do when the process stopped, they do in its next slice.

use std::io::Write as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use serde_json::json;

/// What the slices took so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Taken {
    pub checksum: u64,
    pub wall_ns: u64,
    pub cpu_ns: u64,
}

pub struct Pacer {
    /// Slices to do; where there is none, the work is one slice, which is not told of, and the process never stops.
    slices: Option<u64>,
    done: u64,
    began: Option<Instant>,
    cpu_ns: u64,
    taken: Arc<Mutex<Taken>>,
}

impl Pacer {
    pub fn new(slices: Option<u64>, taken: Arc<Mutex<Taken>>) -> Pacer {
        Pacer { slices, done: 0, began: None, cpu_ns: 0, taken }
    }

    /// Ends a part: the warm-up, or a slice. `checksum` is that of the work so far. Says whether there is another slice.
    pub fn pause(&mut self, checksum: u64) -> bool {
        let now = Instant::now();
        let cpu_ns = workloads::cpu_ns();
        let slice = self.began.map(|began| Taken {
            checksum,
            wall_ns: u64::try_from((now - began).as_nanos()).unwrap_or(u64::MAX),
            cpu_ns: cpu_ns - self.cpu_ns,
        });
        if let Some(slice) = slice {
            self.done += 1;
            let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
            taken.checksum = checksum;
            taken.wall_ns += slice.wall_ns;
            taken.cpu_ns += slice.cpu_ns;
        }
        if self.slices.is_some() {
            tell(slice);
        }
        self.cpu_ns = cpu_ns;
        if self.slices.is_some() {
            // SAFETY: a plain system call; the runner gave this program a process group of its own, with what it runs under.
            unsafe { libc::kill(0, libc::SIGSTOP) };
            if !is_asked() {
                // the runner is gone
                std::process::exit(1);
            }
        }
        self.began = Some(Instant::now());
        self.slices.is_none_or(|slices| self.done < slices)
    }
}

/// Waits for a line; `false` at the end of the input.
fn is_asked() -> bool {
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).is_ok_and(|read| read > 0)
}

/// A line: ready, or what a slice took.
fn tell(slice: Option<Taken>) {
    let told = match slice {
        None => json!({ "ready": true }),
        Some(Taken { checksum, wall_ns, cpu_ns }) => {
            json!({ "checksum": format!("{checksum:016x}"), "wall_ns": wall_ns, "cpu_ns": cpu_ns })
        }
    };
    // a runner that is gone gets nothing
    let _ = writeln!(std::io::stdout(), "{told}");
}
