//! Many short profiles through the real hook, of blocks whose truth is known: `unbiased_rounds SCENARIO ROUNDS SEED`.
//!
//! A cell is one way to use memory at one sample interval. In each round every cell runs at `SITES` call sites, which are
//! independent of one another since the sample points are a Poisson process: each gives an estimate and an interval for
//! live and total bytes and blocks. After all rounds, for each cell:
//!
//! * the mean of the estimates is within 4 standard errors (of the estimates' own spread) of the truth, weights being
//!   stored with 8 and 12 fractional bits;
//! * intervals cover the truth at least 93% of times, and at most 97% where 20 samples with p < 0.1 are expected under
//!   one interval (of blocks: where these are of one size, see `report::estimate`).
//!
//! **False failures.** The sampler is seeded, one thread allocates, and nothing depends on time: a run repeats itself
//! exactly (the program prints a checksum that shows it), so at a seed that passes it cannot fail by chance at all. Over
//! fresh seeds each comparison of a mean would fail once in 16,000.
//!
//! Which stack is whose is learnt in exact mode, by running sites alone: frames have the same numbers in all profiles of
//! one process.

use std::alloc::{Layout, alloc, dealloc, realloc};
use std::collections::HashMap;
use std::hint::black_box;

use unfreed::{Profiler, Snapshot, internals};

#[global_allocator]
static ALLOC: unfreed::Alloc = unfreed::Alloc::system();

/// Call sites a cell.
const SITES: usize = 16;

/// Blocks of the run that goes on, made before the profile starts.
struct Heap {
    blocks: Vec<(*mut u8, Layout)>,
}

/// What a site's memory should come to.
#[derive(Clone, Copy, Debug, Default)]
struct Truth {
    live_bytes: f64,
    live_blocks: f64,
    total_bytes: f64,
    total_blocks: f64,
}

impl Truth {
    fn figures(self) -> [f64; 4] {
        [self.live_bytes, self.live_blocks, self.total_bytes, self.total_blocks]
    }
}

/// The sizes that each block of a cell has in turn; 0 is a free. `u8` beside each: log2 of the interval in force from
/// there on, 0 for 'as before'.
type Life = &'static [(usize, u8)];

#[derive(Clone, Copy)]
struct Cell {
    name: &'static str,
    /// log2 of the interval.
    interval: u8,
    blocks: usize,
    /// Each block has one of these lives in turn.
    lives: &'static [Life],
    /// Repeats of each life after its first step.
    cycles: usize,
}

impl Cell {
    /// Steps of one block.
    fn steps(&self, life: Life) -> impl Iterator<Item = (usize, u8)> {
        let number = 1 + self.cycles * (life.len() - 1);
        (0..number).map(|k| if k == 0 { life[0] } else { life[1 + (k - 1) % (life.len() - 1)] })
    }

    fn truth(&self) -> Truth {
        let mut truth = Truth::default();
        for i in 0..self.blocks {
            let mut size = 0;
            for (step, _) in self.steps(self.lives[i % self.lives.len()]) {
                if step > 0 {
                    truth.total_blocks += 1.0;
                    truth.total_bytes += step as f64;
                }
                size = step;
            }
            truth.live_bytes += size as f64;
            truth.live_blocks += f64::from(u8::from(size > 0));
        }
        truth
    }

    /// Samples of the last state, or of the first, that count for the upper bound of coverage: those expected with
    /// p < 0.1. None where the interval changes: intervals of confidence allow for the coarsest then.
    fn fine_samples(&self, final_state: bool) -> f64 {
        if self.is_stepwise() {
            return 0.0;
        }
        let interval = 2f64.powi(self.interval.into());
        let mut expected = 0.0;
        for i in 0..self.blocks {
            let life = self.lives[i % self.lives.len()];
            let last = self.steps(life).last().map_or(0, |(size, _)| size);
            let size = if final_state { last } else { life[0].0 };
            let p = -(-(size as f64) / interval).exp_m1();
            expected += if p < 0.1 { p } else { 0.0 };
        }
        expected
    }

    /// Is every block of one size for all its life, under one interval?
    fn is_plain(&self) -> bool {
        let plain = |life: Life| life.iter().all(|&(size, code)| code == 0 && (size == 0 || size == life[0].0));
        self.lives.iter().all(|life| plain(life)) && self.lives.iter().all(|life| life[0].0 == self.lives[0][0].0)
    }

    fn largest_interval(&self) -> u8 {
        self.lives.iter().flat_map(|life| life.iter().map(|&(_, code)| code)).fold(self.interval, u8::max)
    }

    /// Does it step all blocks in turn (for an interval that changes under all of them), or one after another?
    fn is_stepwise(&self) -> bool {
        self.lives.iter().any(|life| life.iter().any(|&(_, code)| code > 0))
    }

    #[inline(never)]
    fn run(&self, heap: &mut Heap) {
        if self.is_stepwise() {
            return self.run_stepwise(heap);
        }
        for i in 0..self.blocks {
            let mut block = (std::ptr::null_mut(), Layout::new::<u8>());
            for (size, _) in self.steps(self.lives[i % self.lives.len()]) {
                block = step(block, size);
            }
            if !block.0.is_null() {
                heap.blocks.push(block);
            }
        }
    }

    #[inline(never)]
    fn run_stepwise(&self, heap: &mut Heap) {
        let first = heap.blocks.len();
        heap.blocks.resize(first + self.blocks, (std::ptr::null_mut(), Layout::new::<u8>()));
        for (k, (_, code)) in self.steps(self.lives[0]).enumerate() {
            if code > 0 {
                internals::set_interval_code(code);
            }
            let mut sizes = [0; 8];
            for (size, life) in sizes.iter_mut().zip(self.lives) {
                *size = self.steps(life).nth(k).map_or(0, |(size, _)| size);
            }
            for (i, block) in heap.blocks[first..].iter_mut().enumerate() {
                *block = step(*block, sizes[i % self.lives.len()]);
            }
        }
        heap.blocks.retain(|(address, _)| !address.is_null());
    }
}

/// One step of one block: born, resized or freed.
#[inline(never)]
fn step((address, layout): (*mut u8, Layout), size: usize) -> (*mut u8, Layout) {
    if address.is_null() {
        let layout = Layout::from_size_align(size, 8).expect("valid");
        // SAFETY: not empty: no life begins with a free.
        return (black_box(unsafe { alloc(layout) }), layout);
    }
    if size == 0 {
        // SAFETY: allocated with this layout.
        unsafe { dealloc(address, layout) };
        return (std::ptr::null_mut(), layout);
    }
    // SAFETY: allocated with this layout.
    (black_box(unsafe { realloc(address, layout, size) }), Layout::from_size_align(size, 8).expect("valid"))
}

/// A call site of its own for each number.
#[inline(never)]
fn site<const N: usize>(cell: &Cell, heap: &mut Heap) {
    cell.run(heap);
    black_box(N);
}

type SiteFn = fn(&Cell, &mut Heap);

static CALL_SITES: [SiteFn; SITES] = [
    site::<0>, site::<1>, site::<2>, site::<3>, site::<4>, site::<5>, site::<6>, site::<7>, site::<8>, site::<9>,
    site::<10>, site::<11>, site::<12>, site::<13>, site::<14>, site::<15>,
];

/// Runs those cells at those sites that are `wanted`.
fn run_cells(cells: &[Cell], heap: &mut Heap, seed: Option<u64>, wanted: impl Fn(usize, usize) -> bool) {
    for (c, cell) in cells.iter().enumerate() {
        for (s, site) in CALL_SITES.iter().enumerate() {
            if !wanted(c, s) {
                continue;
            }
            if let Some(seed) = seed {
                internals::set_interval_code(cell.interval);
                // Draws anew, by the interval just set.
                internals::seed_sampler(mixed(seed ^ ((c * SITES + s) as u64) << 48));
            }
            CELLS[c](site, cell, heap);
        }
    }
}

/// splitmix64's finisher (Steele, Lea, Flood 2014).
fn mixed(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// A frame of its own for each cell.
#[inline(never)]
fn cell<const N: usize>(site: &SiteFn, cell: &Cell, heap: &mut Heap) {
    site(cell, heap);
    black_box(N);
}

type CellFn = fn(&SiteFn, &Cell, &mut Heap);

static CELLS: [CellFn; 12] = [
    cell::<0>, cell::<1>, cell::<2>, cell::<3>, cell::<4>, cell::<5>, cell::<6>, cell::<7>, cell::<8>, cell::<9>,
    cell::<10>, cell::<11>,
];

fn free_all(heap: &mut Heap) {
    for (address, layout) in heap.blocks.drain(..) {
        // SAFETY: allocated with this layout.
        unsafe { dealloc(address, layout) };
    }
}

/// Frames (numbers) that one cell's, or one site's, stacks alone have. A stack belongs to the cell and the site that its
/// frames name, whatever else is in it: a block that is first sampled when it grows has the stack of that growth.
#[derive(Default)]
struct Owners {
    cells: HashMap<u64, Option<usize>>,
    sites: HashMap<u64, Option<usize>>,
}

impl Owners {
    fn learn(&mut self, (c, s): (usize, usize), snapshot: &Snapshot) {
        // Site 0 of each cell tells the cells apart, and each site of cell 0 the sites.
        for frame in internals::site_stacks(snapshot).into_iter().flatten() {
            let note = |map: &mut HashMap<u64, Option<usize>>, of: usize| {
                let owner = map.entry(frame).or_insert(Some(of));
                *owner = owner.filter(|&known| known == of);
            };
            if s == 0 {
                note(&mut self.cells, c);
            }
            if c == 0 {
                note(&mut self.sites, s);
            }
        }
    }

    /// `None`: the runner's own.
    fn of(&self, stack: &[u64]) -> Option<(usize, usize)> {
        let find = |map: &HashMap<u64, Option<usize>>| stack.iter().find_map(|frame| map.get(frame).copied().flatten());
        Some((find(&self.cells)?, find(&self.sites)?))
    }
}

/// One profile of a run.
enum Round<'a> {
    /// Of this cell's site alone, in exact mode.
    Learn(usize, usize),
    /// Of all whose coarsest interval is this: intervals of confidence allow for the coarsest that held.
    Measure { seed: u64, largest: u8, measured: &'a mut Measured },
}

/// What all rounds came to.
struct Measured {
    /// So many sites of each cell run at a time.
    sites: usize,
    truths: Vec<Truth>,
    sums: Vec<[Sum; 4]>,
    checksum: u64,
}

/// Runs one profile. From one place in `main`, for all of them: the call chain is part of every stack.
#[inline(never)]
fn one_profile(round: &mut Round<'_>, cells: &[Cell], few: &[Cell], heap: &mut Heap, owners: &mut Owners) {
    let builder = Profiler::builder().no_output().quiet().store_in_memory().manual_epochs().no_signals();
    let (builder, cells, seed) = match *round {
        Round::Learn(..) => (builder.exact(), few, None),
        Round::Measure { seed, largest, .. } => (builder.sample_interval(1 << largest), cells, Some(seed)),
    };
    let profiler = builder.start().expect("starts");
    let wanted = |c: usize, s: usize| match *round {
        Round::Learn(cell, site) => (c, s) == (cell, site),
        Round::Measure { largest, ref measured, .. } => s < measured.sites && cells[c].largest_interval() == largest,
    };
    run_cells(cells, heap, seed, wanted);
    let snapshot = profiler.snapshot();
    // A block may be freed while its profile runs, or afterwards.
    if seed.is_some_and(|seed| seed % 2 == 0) {
        free_all(heap);
    }
    drop(profiler);
    free_all(heap);
    match round {
        Round::Learn(c, s) => owners.learn((*c, *s), &snapshot),
        Round::Measure { largest, measured, .. } => measure(cells, *largest, owners, &snapshot, measured),
    }
}

/// What one figure of one cell came to.
#[derive(Clone, Copy, Default)]
struct Sum {
    trials: f64,
    value: f64,
    squares: f64,
    covered: f64,
}

fn measure(cells: &[Cell], largest: u8, owners: &Owners, snapshot: &Snapshot, measured: &mut Measured) {
    let mut of_sites: HashMap<(usize, usize), Vec<usize>> = HashMap::new();
    for (i, stack) in internals::site_stacks(snapshot).into_iter().enumerate() {
        if let Some(owner) = owners.of(&stack) {
            of_sites.entry(owner).or_default().push(i);
        }
    }
    for c in (0..cells.len()).filter(|&c| cells[c].largest_interval() == largest) {
        for s in 0..measured.sites {
            let sites = of_sites.get(&(c, s)).map_or(&[][..], Vec::as_slice);
            let estimates = internals::estimates(snapshot, sites);
            let truths = measured.truths[c].figures();
            for ((estimate, truth), sum) in estimates.iter().zip(truths).zip(&mut measured.sums[c]) {
                sum.trials += 1.0;
                sum.value += estimate.value;
                sum.squares += (estimate.value - truth) * (estimate.value - truth);
                // Weights are rounded to 1/256 byte and 1/4096 block.
                let slack = 2.5e-4 * truth;
                let holds = estimate.low <= truth + slack && truth <= estimate.high + slack;
                sum.covered += f64::from(u8::from(holds));
                measured.checksum = mixed(measured.checksum ^ estimate.value.to_bits());
            }
        }
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let rounds: u64 = arguments[2].parse().expect("a number of rounds");
    let seed: u64 = arguments[3].parse().expect("a seed");
    let cells = scenario(&arguments[1]);
    assert!(cells.len() <= CELLS.len());
    let few: Vec<Cell> = cells.iter().map(|cell| Cell { blocks: cell.lives.len(), ..*cell }).collect();
    let most: usize = cells.iter().map(|cell| cell.blocks * SITES).sum();
    let mut heap = Heap { blocks: Vec::with_capacity(most) };
    let mut owners = Owners::default();
    let mut measured = Measured {
        sites: if arguments[1] == "alone" { 1 } else { SITES },
        truths: cells.iter().map(Cell::truth).collect(),
        sums: vec![[Sum::default(); 4]; cells.len()],
        checksum: 0,
    };
    let of_cells = (0..cells.len()).map(|c| (c, 0));
    let lessons: Vec<_> = of_cells.chain((1..SITES).map(|s| (0, s))).collect();
    let first = lessons.len() as u64;
    let mut intervals: Vec<u8> = cells.iter().map(Cell::largest_interval).collect();
    intervals.sort_unstable();
    intervals.dedup();
    let profiles = rounds * intervals.len() as u64;
    for i in 0..first + profiles {
        let mut round = if let Some(&(c, s)) = lessons.get(i as usize) {
            Round::Learn(c, s)
        } else {
            let (round, largest) = ((i - first) % rounds, intervals[((i - first) / rounds) as usize]);
            Round::Measure { seed: mixed(seed).wrapping_add(mixed(round + 1)), largest, measured: &mut measured }
        };
        one_profile(&mut round, cells, &few, &mut heap, &mut owners);
    }
    let Measured { truths, sums, checksum, .. } = measured;
    println!("{} {rounds} rounds, seed {seed}, checksum {checksum:016x}", arguments[1]);
    let mut faults = String::new();
    for ((cell, truth), sums) in cells.iter().zip(&truths).zip(&sums) {
        for (i, (sum, truth)) in sums.iter().zip(truth.figures()).enumerate() {
            let what = ["live bytes", "live blocks", "total bytes", "total blocks"][i];
            let mean = sum.value / sum.trials;
            let error = (sum.squares / sum.trials / sum.trials).sqrt();
            let off = (mean - truth) / error.max(f64::MIN_POSITIVE);
            let coverage = sum.covered / sum.trials;
            let fine = cell.fine_samples(i < 2);
            println!(
                "{:<34} {what:<12} mean/truth {:.4} ({off:+5.2} s.e.)  covers {:.4}  {fine:.0} fine samples",
                cell.name,
                mean / truth,
                coverage
            );
            if (mean - truth).abs() > 4.0 * error + 2.5e-4 * truth {
                faults += &format!("{}: {what} off by {off:.1} standard errors\n", cell.name);
            }
            if coverage < 0.93 {
                faults += &format!("{}: {what} covered {coverage:.4} of times\n", cell.name);
            }
            // Blocks of many sizes: their number may be covered more often (`report::estimate`).
            let alike = i % 2 == 0 || cell.is_plain();
            if alike && fine >= 20.0 && coverage > 0.97 {
                faults += &format!("{}: {what} covered {coverage:.4} of times, too wide\n", cell.name);
            }
        }
    }
    assert!(faults.is_empty(), "\n{faults}");
}

const fn plain(name: &'static str, interval: u8, blocks: usize, lives: &'static [Life]) -> Cell {
    Cell { name, interval, blocks, lives, cycles: 1 }
}

macro_rules! plain {
    ($name:literal, $size:expr, $interval:expr, $blocks:expr) => {
        plain($name, $interval, $blocks, &[&[($size, 0)], &[($size, 0), (0, 0)]])
    };
}

fn scenario(name: &str) -> &'static [Cell] {
    match name {
        // Half of the blocks is freed at once. Few, some and many samples.
        "small" => {
            const {
                &[
                    plain!("8 B at 1 KiB, 0.5 samples", 8, 10, 64),
                    plain!("8 B at 1 KiB, 3", 8, 10, 400),
                    plain!("8 B at 1 KiB, 50", 8, 10, 6400),
                    plain!("64 B at 4 KiB, 8", 64, 12, 512),
                    plain!("64 B at 4 KiB, 45", 64, 12, 2880),
                    plain!("500 B at 1 KiB, 10", 500, 10, 26),
                    plain!("1000 B at 16 KiB, 2", 1000, 14, 32),
                    plain!("1000 B at 16 KiB, 50", 1000, 14, 820),
                ]
            }
        }
        "large" => {
            const {
                &[
                    plain!("30,000 B at 64 KiB, 1", 30_000, 16, 2),
                    plain!("30,000 B at 64 KiB, 20", 30_000, 16, 54),
                    plain!("40,000 B at 1 MiB, 50", 40_000, 20, 1300),
                    plain!("300,000 B at 1 MiB, 5", 300_000, 20, 20),
                    plain!("4 MiB at 1 MiB", 4 << 20, 20, 4),
                    plain!("4 MiB at 16 MiB, 4", 4 << 20, 24, 18),
                    plain!("4 MiB at 64 MiB, 22", 4 << 20, 26, 360),
                    plain(
                        "mixed, 16 B to 32 KiB at 16 KiB",
                        14,
                        600,
                        &[&[(16, 0)], &[(500, 0)], &[(5000, 0), (0, 0)], &[(32_768, 0)], &[(200, 0), (0, 0)]],
                    ),
                ]
            }
        }
        "realloc" => {
            const {
                &[
                    plain("vector of 64 B to 4 KiB at 4 KiB", 12, 200, &[GROWTH]),
                    plain("vector of 1 KiB to 256 KiB at 64 KiB", 16, 100, &[LARGE_GROWTH]),
                    plain("shrunk 4 KiB to 100 B at 16 KiB", 14, 400, &[SHRUNK]),
                    // Hardly one stays in the sample.
                    plain("few shrunk 16,000 B to 500 B at 16 KiB", 14, 20, &[&[(16_000, 0), (500, 0)]]),
                    plain("into the table and back at 64 KiB", 16, 100, &[ACROSS]),
                    Cell {
                        name: "4K and 2K, ten times at 64 KiB",
                        interval: 16,
                        blocks: 300,
                        lives: &[CYCLE],
                        cycles: 10,
                    },
                    Cell {
                        name: "4K and 2K, 100 times at 64 KiB",
                        interval: 16,
                        blocks: 60,
                        lives: &[CYCLE],
                        cycles: 100,
                    },
                    plain("grown and freed at 4 KiB", 12, 400, &[&[(64, 0), (256, 0), (1024, 0), (0, 0)], &[(64, 0)]]),
                ]
            }
        }
        // Most of what counts were sizes so small that none is ever sampled, here or elsewhere in the process.
        "alone" => const { &[plain("vector of 8 B to 32 KiB at 64 KiB", 16, 100, &[FROM_EIGHT])] },
        // All blocks are born under one interval, and grow and shrink under others.
        "changing" => {
            const {
                &[
                    plain("500 B at 1 KiB, 4 KiB at 64 KiB", 10, 400, &[&[(500, 0), (4096, 16)]]),
                    plain("500 B at 64 KiB, 4 KiB at 1 KiB", 16, 2000, &[&[(500, 0), (4096, 10)]]),
                    plain(
                        "grown under six intervals",
                        12,
                        400,
                        &[&[(64, 0), (128, 14), (256, 11), (1024, 16), (1500, 10), (8192, 16)]],
                    ),
                    plain(
                        "grown and shrunk under six",
                        12,
                        400,
                        &[&[(4096, 0), (1000, 15), (3000, 10), (500, 16), (50_000, 14), (20_000, 16)]],
                    ),
                    plain("born and freed under many", 11, 800, &[&[(100, 0), (0, 16), (700, 12), (0, 10), (300, 14)]]),
                    // 16 KiB of growth, mostly within one draw of 64 KiB that is pending when the interval becomes 1 KiB.
                    plain("a draw that outlives a change", 16, 4, &[&[(4096, 0), (8192, 10)]]),
                    Cell {
                        name: "cycles under two",
                        interval: 14,
                        blocks: 200,
                        lives: &[&[(4096, 0), (2048, 12), (4096, 15)]],
                        cycles: 10,
                    },
                ]
            }
        }
        other => panic!("no scenario '{other}'"),
    }
}

const GROWTH: Life = &[(64, 0), (128, 0), (256, 0), (512, 0), (1024, 0), (2048, 0), (4096, 0)];
const LARGE_GROWTH: Life =
    &[(1024, 0), (2048, 0), (4096, 0), (8192, 0), (16_384, 0), (32_768, 0), (65_536, 0), (131_072, 0), (262_144, 0)];
const FROM_EIGHT: Life = &[
    (8, 0),
    (16, 0),
    (32, 0),
    (64, 0),
    (128, 0),
    (256, 0),
    (512, 0),
    (1024, 0),
    (2048, 0),
    (4096, 0),
    (8192, 0),
    (16_384, 0),
    (32_768, 0),
];
const SHRUNK: Life = &[(4096, 0), (2000, 0), (100, 0)];
const ACROSS: Life = &[(16_384, 0), (65_536, 0), (9000, 0), (40_000, 0), (32_768, 0)];
const CYCLE: Life = &[(4096, 0), (2048, 0), (4096, 0)];
