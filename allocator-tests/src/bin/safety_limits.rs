//! A program under limits that it sets for itself: `safety_limits MODE CASE [VALUE]`.
//!
//! Whatever the system refuses, the program is served, its blocks hold what was written, and it ends with status 0:
//! with a profile (`started`) or with an error of `start()` in words (`refused: …`), as the test then judges.

use std::alloc::Layout;
use std::path::Path;

use allocator_tests::load::{Block, Load, Xorshift, size};
use allocator_tests::runner::end_within;

#[global_allocator]
static ALLOC: unfreed::Alloc = unfreed::Alloc::system();

fn limit(resource: Resource, bytes: u64) {
    let limit = libc::rlimit { rlim_cur: bytes, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: a valid limit.
    let failed = unsafe { libc::setrlimit(resource, &raw const limit) } != 0;
    assert!(!failed, "setrlimit({resource}): {}", std::io::Error::last_os_error());
}

#[cfg(target_env = "gnu")]
type Resource = libc::__rlimit_resource_t;
#[cfg(not(target_env = "gnu"))]
type Resource = libc::c_int;

fn address_space() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    text.split_whitespace().next().and_then(|pages| pages.parse::<u64>().ok()).expect("a number") * 4096
}

/// glibc reserves 64 to 128 MiB for each thread that allocates, as long as it gets them. Under a limit of that size it depends on
/// which thread comes first whether the next one's stack still fits, with a profiler or without.
fn one_arena() {
    #[cfg(target_env = "gnu")]
    // SAFETY: a parameter of malloc's, set before there is another thread.
    let set = unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
    #[cfg(target_env = "gnu")]
    assert_eq!(set, 1, "malloc takes it");
}

/// Has the kernel refuse these system calls with `errno`, for all threads to come.
fn refuse(calls: &[libc::c_long], errno: i32) {
    let statement = |code: u32, k: u32| libc::sock_filter { code: code as u16, jt: 0, jf: 0, k };
    // A = the system call's number (the first word of `seccomp_data`).
    let mut program = vec![statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0)];
    for call in calls {
        let k = u32::try_from(*call).expect("a number");
        program.push(libc::sock_filter { code: (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16, jt: 0, jf: 1, k });
        program.push(statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ERRNO | errno.cast_unsigned()));
    }
    program.push(statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW));
    let length = u16::try_from(program.len()).expect("short");
    let program = libc::sock_fprog { len: length, filter: program.as_mut_ptr() };
    // SAFETY: a flag of this process.
    unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    // SAFETY: a valid program, which the kernel copies.
    let done = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) };
    assert_eq!(done, 0, "seccomp: {}", std::io::Error::last_os_error());
}

fn builder(mode: &str) -> unfreed::Builder {
    match mode {
        "exact" => unfreed::Profiler::builder().exact(),
        "fine" => unfreed::Profiler::builder().sample_interval(512),
        other => panic!("no mode {other}"),
    }
    .output("out.json")
}

#[inline(never)]
fn keep(n: usize) -> Vec<Block> {
    let mut random = Xorshift(7);
    let blocks: Vec<_> = (0..n).map(|n| Block::new(size(&mut random).min(9_000), n as u8)).collect();
    std::hint::black_box(&blocks);
    blocks
}

/// Work for the profiler: blocks that live and die in several threads, or in this one alone.
fn work(threads: usize, rounds: u64) {
    if threads > 0 {
        let load = Load::start(threads);
        load.wait_turns(rounds);
        load.stop();
    }
    let mut blocks = keep(2_000);
    for n in 0..blocks.len() {
        if n % 2 == 0 {
            let block = blocks.swap_remove(n % blocks.len());
            blocks.push(block.resize(1 + n * 7));
        }
    }
    for block in &blocks {
        block.check();
    }
}

/// The exact counters against the truth: `keep`'s blocks and nothing else.
#[track_caller]
fn exact_totals(profiler: &unfreed::Profiler) {
    let before = profiler.snapshot().totals();
    let blocks = keep(3_000);
    let bytes: usize = blocks.iter().map(Block::len).sum();
    let during = profiler.snapshot().totals();
    drop(blocks);
    let after = profiler.snapshot().totals();
    let vector = 3_000 * size_of::<Block>();
    assert_eq!(during.live_bytes - before.live_bytes, (bytes + vector) as u64, "{before:?} {during:?}");
    assert_eq!(during.live_blocks - before.live_blocks, 3_001);
    assert_eq!((after.live_bytes, after.live_blocks), (before.live_bytes, before.live_blocks));
}

/// Blocks by hand, so that a refusal is seen and survived; their table is made before anything is counted.
struct Held {
    blocks: Vec<(*mut u8, Layout)>,
    refused: u32,
}

impl Held {
    fn bytes(&self) -> usize {
        self.blocks.iter().map(|(_, layout)| layout.size()).sum()
    }

    /// Takes memory until `refusals` requests were refused; every fourth is the growth of a block.
    fn fill(&mut self, random: &mut Xorshift, refusals: u32) {
        let end = self.refused + refusals;
        while self.refused < end && self.blocks.len() < self.blocks.capacity() {
            let size = 1 + random.below(60_000);
            if random.below(4) == 0 && !self.blocks.is_empty() {
                let at = random.below(self.blocks.len());
                let (block, layout) = self.blocks[at];
                // SAFETY: a block of ours.
                let moved = unsafe { std::alloc::realloc(block, layout, size) };
                match moved.is_null() {
                    true => self.refused += 1,
                    false => self.blocks[at] = (moved, Layout::from_size_align(size, layout.align()).expect("small")),
                }
                continue;
            }
            let layout = Layout::from_size_align(size, 1 << random.below(7)).expect("a layout");
            // SAFETY: of at least a byte.
            let block = unsafe {
                if random.below(3) == 0 { std::alloc::alloc_zeroed(layout) } else { std::alloc::alloc(layout) }
            };
            match block.is_null() {
                true => self.refused += 1,
                false => self.blocks.push((block, layout)),
            }
        }
        assert!(
            self.refused >= end,
            "{} blocks of {} bytes, {} refused",
            self.blocks.len(),
            self.bytes(),
            self.refused
        );
    }

    fn free(&mut self, keep: usize) {
        while self.blocks.len() > keep {
            let (block, layout) = self.blocks.pop().expect("there are more");
            // SAFETY: a block of ours.
            unsafe { std::alloc::dealloc(block, layout) };
        }
    }
}

/// Exact whatever is refused: in `mode`, or with no profile at all between two.
fn refused_small(mode: &str) {
    let start = || {
        let builder = if mode == "off" { unfreed::Profiler::builder() } else { builder(mode) };
        builder.no_output().quiet().start().expect("starts")
    };
    let live = |profiler: &unfreed::Profiler| {
        let totals = profiler.snapshot().totals();
        (totals.live_bytes, totals.live_blocks)
    };
    println!("a line, whose buffer the standard library keeps");
    let mut random = Xorshift(0xFACE);
    let mut held = Held { blocks: Vec::with_capacity(100_000), refused: 0 };
    let mut profiler = Some(start());
    let before = live(profiler.as_ref().expect("started"));
    for round in 0..6 {
        let mut room = None;
        if mode == "off" {
            profiler = None;
            // For the next start: of what small blocks have taken, the system's allocator gives back as much as happens to lie at its end.
            room = Some(Vec::<u8>::with_capacity(33 << 20));
        }
        held.fill(&mut random, 50);
        let full = (before.0 + held.bytes() as u64, before.1 + held.blocks.len() as u64);
        let seen = profiler.as_ref().map(live);
        held.free(100 * round);
        drop(room.take());
        let profiler = profiler.get_or_insert_with(start);
        let expected = (before.0 + held.bytes() as u64, before.1 + held.blocks.len() as u64);
        assert!(seen.is_none_or(|seen| seen == full), "{mode}, round {round}: {seen:?}, not {full:?}");
        assert_eq!(live(profiler), expected, "{mode}, round {round}");
    }
    println!("refused {}", held.refused);
}

fn profile(mode: &str, threads: usize) -> Option<unfreed::Profiler> {
    match builder(mode).start() {
        Ok(profiler) => {
            println!("started");
            work(threads, 40);
            profiler.flush();
            exact_totals(&profiler);
            Some(profiler)
        }
        Err(error) => {
            println!("refused: {error}");
            work(threads, 10);
            None
        }
    }
}

fn main() {
    end_within(50);
    let arguments: Vec<String> = std::env::args().collect();
    let (mode, case) = (arguments[1].as_str(), arguments[2].as_str());
    let value = || arguments[3].parse::<u64>().expect("a number");
    match case {
        // `ulimit -v`, this many MiB above what the program has already.
        "address-space" => {
            if value() < 400 {
                one_arena();
            }
            limit(libc::RLIMIT_AS, address_space() + (value() << 20));
            drop(profile(mode, 2));
        }
        // The limit comes while the profile runs, a little above what is used: later mappings fail.
        "address-space-later" => {
            let profiler = builder(mode).start().expect("starts");
            work(1, 10);
            limit(libc::RLIMIT_AS, address_space() + (value() << 20));
            // Opening more of the range is no new address space, but tables, regions and files' mappings are.
            work(0, 0);
            profiler.flush();
            let blocks = keep(2_000);
            for block in &blocks {
                block.check();
            }
            exact_totals(&profiler);
        }
        // Private memory that can be written, this many KiB of it: a start may be refused at any of its steps.
        "data" => {
            one_arena();
            limit(libc::RLIMIT_DATA, value() << 10);
            match builder(mode).start() {
                Ok(profiler) => drop(profiler),
                Err(error) => println!("refused: {error}"),
            }
        }
        // Private memory that can be written: what mprotect opens counts as well.
        "data-later" => {
            let profiler = builder(mode).start().expect("starts");
            work(1, 10);
            limit(libc::RLIMIT_DATA, 0);
            // The wrapped allocator is as poor as we: only what it gives is used.
            let mut held: Vec<Vec<u8>> = Vec::new();
            let mut refused = 0;
            for n in 0..20_000usize {
                let mut bytes: Vec<u8> = Vec::new();
                if held.len() == held.capacity() && held.try_reserve(1).is_err() {
                    break;
                }
                match bytes.try_reserve_exact(1 + n % 300) {
                    Ok(()) => {
                        bytes.push(n as u8);
                        held.push(bytes);
                    }
                    Err(_) => refused += 1,
                }
            }
            for bytes in held {
                std::hint::black_box(bytes);
            }
            println!("refused {refused}");
            limit(libc::RLIMIT_DATA, libc::RLIM_INFINITY);
            work(1, 10);
            profiler.flush();
        }
        // Small requests that the system's allocator refuses, in a limit set by the program or found at its start.
        "refused-small" => {
            if arguments[3] == "set" {
                limit(libc::RLIMIT_AS, address_space() + (300 << 20));
            }
            refused_small(mode);
        }
        "file-size" => {
            limit(libc::RLIMIT_FSIZE, value());
            drop(profile(mode, 1));
        }
        "file-size-later" => {
            let profiler = builder(mode).start().expect("starts");
            limit(libc::RLIMIT_FSIZE, value());
            work(2, 60);
            profiler.flush();
            drop(profiler);
        }
        "no-threads" => {
            refuse(&[libc::SYS_clone, libc::SYS_clone3], libc::EAGAIN);
            drop(profile(mode, 0));
        }
        "refused" => {
            let errno = if arguments[4] == "EPERM" { libc::EPERM } else { libc::ENOSYS };
            let calls: Vec<libc::c_long> = match arguments[3].as_str() {
                "membarrier" => vec![libc::SYS_membarrier],
                "memfd" => vec![libc::SYS_memfd_create],
                "madvise" => vec![libc::SYS_madvise],
                "fallocate" => vec![libc::SYS_fallocate],
                "statfs" => vec![libc::SYS_statfs],
                "ftruncate" => vec![libc::SYS_ftruncate],
                "sigaction" => vec![libc::SYS_rt_sigaction],
                "readlink" => vec![libc::SYS_readlinkat, SYS_READLINK],
                "getdents" => vec![libc::SYS_getdents64],
                "prctl" => vec![libc::SYS_prctl],
                "process_vm" => vec![libc::SYS_process_vm_readv],
                "affinity" => vec![libc::SYS_sched_getaffinity],
                "prlimit" => vec![libc::SYS_prlimit64],
                "clock" => vec![libc::SYS_clock_gettime],
                "unlink" => vec![libc::SYS_unlinkat, SYS_UNLINK],
                "open" => vec![libc::SYS_openat, SYS_OPEN],
                "many" => vec![
                    libc::SYS_membarrier,
                    libc::SYS_memfd_create,
                    libc::SYS_madvise,
                    libc::SYS_statfs,
                    libc::SYS_fallocate,
                    libc::SYS_process_vm_readv,
                ],
                other => panic!("no call {other}"),
            };
            refuse(&calls, errno);
            let profiler = profile(mode, 2);
            forked(profiler.as_ref());
            drop(profiler);
        }
        // The store's directory and the output are as the test made them.
        "places" => drop(profile(mode, 1)),
        "descriptors" => descriptors_closed(mode, arguments[3] == "refused"),
        // Who prints without a stdout writes into no file of the profiler's.
        "no-stdout" => {
            // SAFETY: nobody prints from here on.
            unsafe { libc::close(libc::STDOUT_FILENO) };
            let profiler = builder(mode).start().expect("starts");
            // SAFETY: a question about a number.
            let taken = unsafe { libc::fcntl(libc::STDOUT_FILENO, libc::F_GETFD) };
            assert_eq!(taken, -1, "descriptor 1 is the profiler's");
            work(1, 10);
            drop(profiler);
        }
        // Stacks by the thousand in a directory that is soon full.
        "full" => {
            let profiler = builder(mode).start().expect("starts");
            let mut kept = Vec::new();
            for n in 0..200_000u64 {
                spread(n, 18, &mut kept);
            }
            profiler.flush();
            let snapshot = profiler.snapshot();
            println!("losses: {:?}", snapshot.losses());
            let unknown = snapshot.sites().filter(unfreed::Site::is_unknown).count();
            println!("unknown: {unknown}");
            let truth = kept.len();
            println!("kept {truth}");
            drop(kept);
            exact_totals(&profiler);
        }
        other => panic!("no case {other}"),
    }
    assert!(Path::new(".").exists());
}

/// A program that closes all descriptors, as daemons do, and has files of its own at these numbers then.
/// With `is_refused` the store's space is made by writing zeros.
fn descriptors_closed(mode: &str, is_refused: bool) {
    if is_refused {
        refuse(&[libc::SYS_fallocate], libc::ENOSYS);
    }
    let profiler = builder(mode).start().expect("starts");
    // SAFETY: nobody in this program uses a descriptor from here on that it had before.
    let closed = unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, 0) };
    assert_eq!(closed, 0, "close_range: {}", std::io::Error::last_os_error());
    std::fs::write("own", "ten bytes.").expect("written");
    let file = std::fs::OpenOptions::new().append(true).open("own").expect("there");
    let copies: Vec<_> = std::iter::repeat_with(|| file.try_clone().expect("a descriptor")).take(200).collect();
    let mut kept = Vec::new();
    for n in 0..60_000u64 {
        spread(n, 18, &mut kept);
    }
    profiler.flush();
    let losses = profiler.snapshot().losses();
    println!("started, then {losses:?}");
    drop(kept);
    exact_totals(&profiler);
    drop(profiler);
    assert_eq!(std::fs::metadata("own").expect("there").len(), 10, "the program's file is as it was");
    for mut copy in copies {
        std::io::Write::write_all(&mut copy, b".").expect("still open");
    }
}

#[cfg(target_arch = "x86_64")]
const SYS_READLINK: libc::c_long = libc::SYS_readlink;
#[cfg(not(target_arch = "x86_64"))]
const SYS_READLINK: libc::c_long = libc::SYS_readlinkat;
#[cfg(target_arch = "x86_64")]
const SYS_UNLINK: libc::c_long = libc::SYS_unlink;
#[cfg(not(target_arch = "x86_64"))]
const SYS_UNLINK: libc::c_long = libc::SYS_unlinkat;
#[cfg(target_arch = "x86_64")]
const SYS_OPEN: libc::c_long = libc::SYS_open;
#[cfg(not(target_arch = "x86_64"))]
const SYS_OPEN: libc::c_long = libc::SYS_openat;

/// A child, made without the C library's handlers, leaves the parent's profile alone here as well.
fn forked(profiler: Option<&unfreed::Profiler>) {
    let before = profiler.map(|profiler| profiler.snapshot().totals());
    let blocks = keep(500);
    // SAFETY: the only thread that allocates; the child uses the C library's allocator, whose locks are free.
    let pid = unsafe { libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0) };
    if pid == 0 {
        end_within(10);
        let more = keep(3_000);
        drop(blocks);
        drop(more);
        // SAFETY: ends the child.
        unsafe { libc::_exit(0) };
    }
    let mut status = 0;
    // SAFETY: a child of ours.
    unsafe { libc::waitpid(i32::try_from(pid).expect("a pid"), &raw mut status, 0) };
    assert_eq!(status, 0, "the child");
    drop(blocks);
    let after = profiler.map(|profiler| profiler.snapshot().totals());
    if let (Some(before), Some(after)) = (before, after) {
        assert_eq!(before.live_bytes, after.live_bytes);
        // The child's 3,000 are not among them.
        assert!(after.total_blocks - before.total_blocks < 1_000, "{before:?} {after:?}");
    }
}

/// A stack for each number: one of two functions at each level, by its bits.
#[inline(never)]
fn spread(n: u64, depth: u32, kept: &mut Vec<Box<[u8; 24]>>) {
    if depth == 0 {
        kept.push(Box::new([0; 24]));
    } else if n >> (depth - 1) & 1 == 0 {
        spread(n, depth - 1, kept);
    } else {
        spread_otherwise(n, depth - 1, kept);
    }
    std::hint::black_box(kept);
}

#[inline(never)]
fn spread_otherwise(n: u64, depth: u32, kept: &mut Vec<Box<[u8; 24]>>) {
    spread(n, depth, kept);
    std::hint::black_box(kept);
}
