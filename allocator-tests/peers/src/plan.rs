//! What is run: the variants, the workloads, how much of each, and how often.

/// A program (a build of `subject`) in a mode, and what it is compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Variant {
    /// As it is called in tables and by `--profilers`.
    pub name: &'static str,
    /// The cargo feature that builds it; empty for none.
    pub build: &'static str,
    pub mode: &'static str,
    /// The variant without a profiler over the same allocator; its own name where it is one itself.
    pub base: &'static str,
    /// The depth of stacks that is asked for; 0 is the profiler's default.
    pub frames: usize,
    /// What it is run under: heaptrack, or nothing.
    pub under: Option<&'static str>,
}

impl Variant {
    pub fn is_base(&self) -> bool {
        self.name == self.base
    }
}

const fn variant(name: &'static str, build: &'static str, mode: &'static str, base: &'static str) -> Variant {
    Variant { name, build, mode, base, frames: 0, under: None }
}

/// The base once more, as a variant: how far from 1.00 a program is from itself.
pub const AGAIN: &str = "none, again";

/// Neighbours are compared most closely, so each base stands beside unfreed, and no further than [`AGAIN`] from it.
pub const SAMPLED: [Variant; 14] = [
    variant("none", "", "off", "none"),
    variant("unfreed, not started", "unfreed", "off", "none"),
    variant("unfreed, sampled", "unfreed", "sampled", "none"),
    variant("unfreed, governed", "unfreed", "governed", "none"),
    variant(AGAIN, "", "off", "none"),
    variant("dial9", "dial9", "sampled", "none"),
    variant("heapscope, sampled", "heapscope", "sampled", "none"),
    variant("pprof-alloc", "pprof-alloc", "sampled", "none"),
    variant("jemalloc", "jemalloc", "off", "jemalloc"),
    variant("unfreed over jemalloc", "unfreed-jemalloc", "sampled", "jemalloc"),
    variant("jemalloc's profiler", "jemalloc-prof", "sampled", "jemalloc"),
    variant("mimalloc", "mimalloc", "off", "mimalloc"),
    variant("unfreed over mimalloc", "unfreed-mimalloc", "sampled", "mimalloc"),
    variant("mimalloc-pprof", "mimalloc-pprof", "sampled", "mimalloc"),
];

pub const EXACT: [Variant; 6] = [
    variant("none", "", "off", "none"),
    variant("unfreed, exact", "unfreed", "exact", "none"),
    variant("mod-alloc", "mod-alloc", "exact", "none"),
    variant("heapscope, exact", "heapscope", "exact", "none"),
    variant("dhat", "dhat", "exact", "none"),
    Variant { under: Some("heaptrack"), ..variant("heaptrack", "", "off", "none") },
];

/// Beside the default depths, on deep stacks alone: unfreed keeps as many frames as the peer it is compared with.
pub const EXACT_AT_DEPTH: [Variant; 4] = [
    Variant { frames: 8, ..variant("unfreed, 8 frames", "unfreed", "exact", "none") },
    Variant { frames: 10, ..variant("unfreed, 10 frames", "unfreed", "exact", "none") },
    Variant { frames: 64, ..variant("unfreed, 64 frames", "unfreed", "exact", "none") },
    Variant { frames: 64, ..variant("heapscope, 64 frames", "heapscope", "exact", "none") },
];

/// How much of a workload: in a slice for sampling profilers, for exact ones (up to 160 times slower), and for callgrind in the two modes
/// (the difference between a fifth of it and all of it is counted; 0: not counted).
#[derive(Clone, Copy, Debug)]
pub struct Work {
    pub name: &'static str,
    pub threads: usize,
    /// In all slices.
    pub sampled: u64,
    /// How many slices that is.
    pub slices: usize,
    /// In [`HEAVY_SLICES`].
    pub exact: u64,
    pub counted_sampled: u64,
    pub counted_exact: u64,
}

impl Work {
    /// Whether one thread does all of it.
    pub fn is_single_threaded(&self) -> bool {
        self.threads == 1 && !["server", "handoff", "threads"].contains(&self.name)
    }

    /// `pair`, or `pair ×4` on four threads.
    pub fn label(&self) -> String {
        if self.threads == 1 { self.name.to_owned() } else { format!("{} \u{d7}{}", self.name, self.threads) }
    }
}

const fn work(name: &'static str, threads: usize, sampled: u64, exact: u64) -> Work {
    Work { name, threads, sampled, slices: SLICES, exact, counted_sampled: 0, counted_exact: 0 }
}

const fn counted(work: Work, sampled: u64, exact: u64) -> Work {
    Work { counted_sampled: sampled, counted_exact: exact, ..work }
}

/// Of one run of a workload, where nothing else is said. Slices that are shorter are nearer to their neighbours, and a disturbance
/// spoils fewer of them: a program against itself, on a machine with twice as much to do as it has processors, was 17% off (the median
/// of 18 rounds) as one slice, 1.7% as 24 and 0.8% as 72. But in each slice caches are cold at first and timers have fallen due: unfreed's
/// drain thread takes about 0.1 ms a slice more than in a program that is never stopped, 3% of CPU time with 72 slices of 3 ms. With
/// 8, of some 25 ms, it is 0.4%.
const SLICES: usize = 8;
/// Of a run under an exact profiler.
const EXACT_SLICES: usize = 8;
/// Those of them that the slowest do, up to 160 times slower than none: the first ones, compared with the same ones.
const HEAVY_SLICES: usize = 2;
const HEAVY: [&str; 2] = ["dhat", "heaptrack"];

/// The same total work on any number of threads. About 0.2 s each without a profiler, for the sampling ones; a slice of the exact ones 6 ms and more,
/// and 20 ms and more under a profiler, so that what falls due in each is little beside it.
pub const WORKS: [Work; 19] = [
    counted(work("pair", 1, 18_000_000, 1_200_000), 1_000_000, 10_000),
    work("pair", 2, 18_000_000, 1_200_000),
    work("pair", 4, 18_000_000, 1_200_000),
    counted(work("churn", 1, 5_250_000, 800_000), 400_000, 10_000),
    work("churn", 2, 5_250_000, 800_000),
    work("churn", 4, 5_250_000, 800_000),
    counted(work("json", 1, 165_600, 24_000), 50_000, 1_000),
    work("json", 2, 165_600, 24_000),
    work("json", 4, 165_600, 24_000),
    counted(work("grow", 1, 210_000, 40_000), 10_000, 2_000),
    work("grow", 2, 210_000, 40_000),
    work("grow", 4, 210_000, 40_000),
    work("handoff", 1, 3_000_000, 300_000),
    work("buffers", 1, 1_152, 800),
    work("deep", 1, 262_800, 32_000),
    // a slice's 99th percentile is of 2,400 requests, and slices are so long that timers fall due about as often as in a
    // program that is never stopped
    Work { slices: 12, ..work("server", 1, 57_600, 8_000) },
    // emails come by five
    Work { slices: 12, ..work("mail", 1, 264, 80) },
    work("batch", 1, 300_000, 60_000),
    Work { slices: 24, ..work("threads", 1, 15_000, 4_000) },
];

/// How much in all.
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    pub name: &'static str,
    /// Slices are this many times fewer, at least 3, and the operations that callgrind counts.
    pub divisor: u64,
    pub rounds: usize,
    pub exact_rounds: usize,
    /// Of all workloads under [`PROMISED`] alone: where 2% are asked, the interval of a few rounds is wider than that.
    pub promised_rounds: usize,
    /// The same of the server: its 99th percentile differs more from round to round than its throughput.
    pub server_rounds: usize,
}

pub const QUICK: Scale =
    Scale { name: "quick", divisor: 5, rounds: 3, exact_rounds: 2, promised_rounds: 6, server_rounds: 6 };
pub const DEFAULT: Scale =
    Scale { name: "default", divisor: 1, rounds: 6, exact_rounds: 6, promised_rounds: 20, server_rounds: 40 };
pub const LONG: Scale =
    Scale { name: "long", divisor: 1, rounds: 20, exact_rounds: 12, promised_rounds: 60, server_rounds: 120 };

/// The variants that are promised to take no longer than none, within 2 or 3%, and what they are compared with.
pub const PROMISED: [&str; 4] = ["none", "unfreed, sampled", "unfreed, governed", AGAIN];

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Group {
    Sampled,
    Exact,
    /// Exact profilers on the same work, none of it measured: do they count the same?
    Counts,
}

/// How a run is cut: a warm-up, and slices of so many operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slicing {
    /// Caches fill, and a governor finds its interval.
    pub warm_up: u64,
    pub slice: u64,
    pub slices: usize,
    /// Slices of the slowest.
    pub heavy_slices: usize,
}

impl Slicing {
    /// How many slices this variant does.
    pub fn of(&self, variant: &Variant) -> usize {
        if HEAVY.contains(&variant.name) { self.heavy_slices } else { self.slices }
    }
}

impl Scale {
    /// Rounds of a workload under [`PROMISED`], those under all variants among them.
    pub fn promised_rounds_of(&self, work: &Work) -> usize {
        if work.name == "server" { self.server_rounds } else { self.promised_rounds }.max(self.rounds)
    }
}

impl Group {
    pub fn slicing(self, work: &Work, scale: &Scale) -> Slicing {
        let fewer = |slices: usize| (slices / usize::try_from(scale.divisor).unwrap_or(1)).max(3);
        match self {
            Group::Sampled => {
                let slice = work.sampled / work.slices as u64;
                Slicing { warm_up: work.sampled / 4, slice, slices: fewer(work.slices), heavy_slices: 0 }
            }
            Group::Exact => {
                let slice = work.exact / HEAVY_SLICES as u64;
                let slices = fewer(EXACT_SLICES);
                Slicing { warm_up: slice, slice, slices, heavy_slices: HEAVY_SLICES.min(slices) }
            }
            Group::Counts => Slicing { slices: 0, heavy_slices: 0, ..Group::Exact.slicing(work, scale) },
        }
    }

    /// Which variants run this workload.
    pub fn variants(self, work: &Work) -> Vec<Variant> {
        match self {
            Group::Sampled => SAMPLED.to_vec(),
            Group::Exact if work.name == "deep" => EXACT.into_iter().chain(EXACT_AT_DEPTH).collect(),
            Group::Exact => EXACT.to_vec(),
            Group::Counts => EXACT.into_iter().filter(|variant| variant.mode == "exact").collect(),
        }
    }
}
