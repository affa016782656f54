//! What `tests/costs.rs` times and weighs, in the same pairs of programs as `cost`: alike but for the `#[global_allocator]` line.
//!
//! Each prints lines of a name and a number.

use std::hint::black_box;
use std::time::{Duration, Instant};

use unfreed::{Profiler, internals};

use crate::cost::{at_depth, below, cost_of_new, cost_of_repeated};

/// # Panics
/// Where the arguments are not those that the tests give.
pub fn run(what: &str, size: usize, rounds: u64, profiler: Option<Profiler>) {
    match what {
        "captures" => captures(size, rounds),
        "threads" => threads(rounds),
        "resident" => resident(size, rounds),
        "idle" => idle(rounds),
        "samples" => samples(size, rounds),
        "starts" => starts(rounds, profiler.is_none()),
        "dump" => return dump(size, profiler.expect("a profile to end")),
        other => panic!("'{other}' is no loop of `cost` and no measurement of `costs`"),
    }
    drop(profiler);
}

/// Nanoseconds a capture of `frames` frames: the least of rounds of 1,000.
fn captures(frames: usize, rounds: u64) {
    at_depth(frames, &mut |captures| {
        let mut least = |of: extern "C" fn(&mut internals::Captures, u64)| {
            let times = (0..rounds).map(|_| {
                let start = Instant::now();
                of(captures, 1000);
                start.elapsed().as_secs_f64() * 1e6
            });
            times.fold(f64::INFINITY, f64::min)
        };
        println!("repeated {}", least(cost_of_repeated));
        println!("new {}", least(cost_of_new));
    });
}

/// CPU time and time of a thread's start, a pair in it, and its end: the least of rounds of 200, in nanoseconds. All on one
/// processor: on two it is luck where the kernel places each, and a third of the time.
fn threads(rounds: u64) {
    // SAFETY: all zero is an empty set.
    let mut one: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: of this thread, the one that runs; its processor is in the set's range.
    unsafe { libc::CPU_SET(usize::try_from(libc::sched_getcpu()).unwrap_or(0), &mut one) };
    // SAFETY: a valid set; where it is refused the figures scatter.
    unsafe { libc::sched_setaffinity(0, size_of_val(&one), &raw const one) };
    let body = || drop(black_box(Box::new([0_u8; 64])));
    let (mut cpu, mut wall) = (u64::MAX, u64::MAX);
    for _ in 0..rounds {
        let (start, before) = (Instant::now(), cpu_ns(libc::CLOCK_PROCESS_CPUTIME_ID));
        for _ in 0..200 {
            std::thread::spawn(body).join().expect("it ends");
        }
        cpu = cpu.min((cpu_ns(libc::CLOCK_PROCESS_CPUTIME_ID) - before) / 200);
        wall = wall.min(u64::try_from(start.elapsed().as_nanos()).expect("centuries") / 200);
    }
    println!("cpu {cpu}\nwall {wall}");
}

/// Resident memory with `blocks` blocks of `size` bytes live, allocated on 64 stacks, in bytes.
fn resident(size: usize, blocks: u64) {
    let mut held: Vec<Vec<u8>> = Vec::with_capacity(usize::try_from(blocks).expect("64 bits"));
    while (held.len() as u64) < blocks {
        let depth = held.len() / 1000 % 64;
        below(depth, &mut || {
            let some = (blocks - held.len() as u64).min(1000);
            // Written, so that the block is resident and not only its first page.
            held.extend((0..some).map(|_| black_box(vec![1; size])));
        });
    }
    // Two ticks of the drain thread.
    std::thread::sleep(Duration::from_millis(250));
    let rollup = std::fs::read_to_string("/proc/self/smaps_rollup").expect("a Linux /proc");
    let kib = |name: &str| {
        let line = rollup.lines().find_map(|line| line.strip_prefix(name)).expect("the line");
        line.split_ascii_whitespace().next().and_then(|kib| kib.parse::<u64>().ok()).expect("a number")
    };
    println!("resident {}\nlive {}", kib("Rss:") << 10, size * held.len());
}

/// What a sampled block costs, birth, death and draining, and what the governor is told that it does, in nanoseconds: the difference
/// of CPU time between one interval and another 128 times as long, the least of rounds in turn.
fn samples(size: usize, rounds: u64) {
    const OPERATIONS: usize = 500_000;
    const CODES: [u8; 2] = [13, 20];
    let mut held = vec![Vec::new(); 4096];
    let mut random = 1_u64;
    let (mut least, mut charges) = ([u64::MAX; 2], [u64::MAX; 2]);
    let mut bytes = 0;
    for _ in 0..rounds {
        for ((code, least), charge) in CODES.into_iter().zip(&mut least).zip(&mut charges) {
            internals::set_interval_code(code);
            // Draws anew.
            internals::seed_sampler(random);
            let (charged, before, _) = internals::sampling_costs();
            bytes = 0;
            for _ in 0..OPERATIONS {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let place = usize::try_from(random >> 52).expect("12 bits");
                let size = size + usize::try_from(random >> 44 & 0xFF).expect("8 bits");
                held[place] = black_box(Vec::<u8>::with_capacity(size));
                bytes += size;
            }
            let (charged_now, now, _) = internals::sampling_costs();
            *least = (*least).min(now - before);
            *charge = (*charge).min(charged_now - charged);
        }
    }
    let of = |code: u8| bytes as f64 / f64::from(1_u32 << code);
    let more = of(CODES[0]) - of(CODES[1]);
    let a_sample = |ns: [u64; 2]| (ns[0] as f64 - ns[1] as f64) / more;
    println!("cost {}\ncharged {}", a_sample(least), a_sample(charges));
}

/// CPU time that the process uses while its one thread sleeps for so many milliseconds, in nanoseconds.
fn idle(ms: u64) {
    let before = cpu_ns(libc::CLOCK_PROCESS_CPUTIME_ID);
    std::thread::sleep(Duration::from_millis(ms));
    println!("cpu {}", cpu_ns(libc::CLOCK_PROCESS_CPUTIME_ID) - before);
}

/// Starts and ends of a profile without results: the least CPU time of one, user's and system's, in nanoseconds.
fn starts(rounds: u64, none_runs: bool) {
    assert!(none_runs, "the state is 'off'");
    let one = |exact: bool| {
        let builder = Profiler::builder().no_output().quiet();
        let (start, before) = (Instant::now(), cpu_ns(libc::CLOCK_PROCESS_CPUTIME_ID));
        let builder = if exact { builder.exact() } else { builder };
        drop(builder.start().expect("a profile starts"));
        (cpu_ns(libc::CLOCK_PROCESS_CPUTIME_ID) - before, start.elapsed())
    };
    for (name, exact) in [("sampled", false), ("exact", true)] {
        let (cpu, wall) = (0..rounds).map(|_| one(exact)).min().expect("a round");
        println!("{name}_cpu {cpu}\n{name}_wall {}", wall.as_nanos());
    }
}

/// Allocates on `sites` different stacks of about 20 frames, and times the end of the profile, in nanoseconds.
fn dump(sites: usize, profiler: Profiler) {
    let mut held = Vec::with_capacity(sites);
    for site in 0..sites {
        by_bits(site, 17, &mut held);
    }
    let found = profiler.snapshot().sites().count();
    println!("sites {found}");
    let (start, before) = (Instant::now(), cpu_ns(libc::CLOCK_PROCESS_CPUTIME_ID));
    drop(profiler);
    println!("wall {}\ncpu {}", start.elapsed().as_nanos(), cpu_ns(libc::CLOCK_PROCESS_CPUTIME_ID) - before);
    drop(held);
}

/// One of two callers for each bit of `site`, and an allocation at the end.
#[inline(never)]
fn by_bits(site: usize, bits: u32, held: &mut Vec<Box<[u8; 32]>>) {
    let local = black_box([site; 4]);
    match bits {
        0 => held.push(black_box(Box::new([1; 32]))),
        n if site & 1 == 0 => by_bits(local[1] >> 1, n - 1, held),
        n => by_other_bits(local[2] >> 1, n - 1, held),
    }
    black_box(local);
}

#[inline(never)]
fn by_other_bits(site: usize, bits: u32, held: &mut Vec<Box<[u8; 32]>>) {
    let local = black_box([site; 6]);
    match bits {
        0 => held.push(black_box(Box::new([2; 32]))),
        n if site & 1 == 0 => by_bits(local[1] >> 1, n - 1, held),
        n => by_other_bits(local[2] >> 1, n - 1, held),
    }
    black_box(local);
}

fn cpu_ns(clock: libc::clockid_t) -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: a valid place for the answer.
    let answer = unsafe { libc::clock_gettime(clock, &raw mut time) };
    assert_eq!(answer, 0, "the clock is there");
    u64::try_from(time.tv_sec * 1_000_000_000 + time.tv_nsec).expect("after 1970")
}
