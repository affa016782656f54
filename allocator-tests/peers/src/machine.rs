//! What machine this is, and whether it had anything else to do.

use std::fs;
use std::process::Command;

/// What the table says of the machine.
#[derive(Debug)]
pub struct Machine {
    pub cpu: String,
    pub cores: usize,
    pub kernel: String,
    pub compiler: String,
    pub commit: String,
    /// `YYYY-MM-DD`.
    pub date: String,
}

fn said(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default()
}

impl Machine {
    pub fn here() -> Machine {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let cpu = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
        let changed = if said("git", &["status", "--porcelain", "--", "src", "Cargo.toml"]).is_empty() {
            ""
        } else {
            ", changed"
        };
        Machine {
            cpu: cpu.map_or_else(|| std::env::consts::ARCH.to_owned(), |(_, name)| name.trim().to_owned()),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            kernel: said("uname", &["-sr"]),
            compiler: said("rustc", &["--version"]),
            commit: format!("{}{changed}", said("git", &["rev-parse", "--short=12", "HEAD"])),
            date: said("date", &["-u", "+%Y-%m-%d"]),
        }
    }

    /// For a file's name: `amd-epyc-2-cores`.
    pub fn slug(&self) -> String {
        let words: Vec<String> = self
            .cpu
            .split(|c: char| !c.is_ascii_alphanumeric())
            .filter(|word| !word.is_empty() && !["Processor", "CPU", "R", "TM", "Core"].contains(word))
            .take(3)
            .map(str::to_lowercase)
            .collect();
        format!("{}-{}-cores", words.join("-"), self.cores)
    }
}

/// The processors' time so far, in ticks: all of it, idle, and stolen by the machine's host.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    all: u64,
    idle: u64,
    stolen: u64,
    ours: u64,
}

impl Usage {
    pub fn now() -> Usage {
        let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
        let line = stat.lines().next().unwrap_or_default();
        let ticks: Vec<u64> = line.split_whitespace().skip(1).filter_map(|tick| tick.parse().ok()).collect();
        let tick = |n: usize| ticks.get(n).copied().unwrap_or(0);
        Usage {
            // guest time is in user time already
            all: ticks.iter().take(8).sum(),
            idle: tick(3) + tick(4),
            stolen: tick(7),
            ours: hundredths(libc::RUSAGE_SELF) + hundredths(libc::RUSAGE_CHILDREN),
        }
    }

    /// Since `earlier`, the share of the processors that others used, and the share that the host took.
    pub fn others_since(&self, earlier: &Usage) -> (f64, f64) {
        let all = (self.all - earlier.all).max(1) as f64;
        let stolen = (self.stolen - earlier.stolen) as f64;
        let busy = all - (self.idle.saturating_sub(earlier.idle)) as f64 - stolen;
        let ours = (self.ours - earlier.ours) as f64;
        (((busy - ours) / all).max(0.0), stolen / all)
    }
}

/// CPU time so far of this process or of its children, in hundredths of a second, as `/proc/stat` has it.
fn hundredths(whose: i32) -> u64 {
    // SAFETY: `rusage` is plain integers, for which zeros are valid.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a live `rusage`.
    unsafe { libc::getrusage(whose, &raw mut usage) };
    let time = |time: libc::timeval| time.tv_sec.unsigned_abs() * 100 + time.tv_usec.unsigned_abs() / 10_000;
    time(usage.ru_utime) + time(usage.ru_stime)
}
