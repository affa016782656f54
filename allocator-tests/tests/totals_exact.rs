//! The exact totals are exact, in every mode: compared with an allocator above ours that counts by atomics.
//!
//! Storms of threads, sizes, reallocations and cross-thread frees; ten thousand short threads; a thread that only frees;
//! a profiler that starts and stops while the program runs; an inner allocator that returns null. Compared when all threads
//! have been joined. Nothing depends on chance.

use std::alloc::{GlobalAlloc, Layout, System, alloc, alloc_zeroed, dealloc, realloc};
use std::cell::Cell;
use std::hint::black_box;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use unfreed::{Builder, Profiler, Totals, internals};

/// The system's allocator, which refuses what the calling thread says.
struct Refusing;

thread_local! {
    /// Requests of this many bytes and more are refused.
    static REFUSED_FROM: Cell<usize> = const { Cell::new(usize::MAX) };
}

fn refuses(size: usize) -> bool {
    size >= REFUSED_FROM.get()
}

// SAFETY: the system's allocator, or null.
unsafe impl GlobalAlloc for Refusing {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if refuses(layout.size()) {
            return std::ptr::null_mut();
        }
        // SAFETY: the caller's layout.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if refuses(layout.size()) {
            return std::ptr::null_mut();
        }
        // SAFETY: the caller's layout.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller's block.
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        if refuses(new_size) {
            return std::ptr::null_mut();
        }
        // SAFETY: the caller's block.
        unsafe { System.realloc(block, layout, new_size) }
    }
}

/// Counts what the program was given, above the allocator under test.
struct Counting(unfreed::Alloc<Refusing>);

#[global_allocator]
static ALLOC: Counting = Counting(unfreed::Alloc::new(Refusing));

static TOTAL_BYTES: AtomicU64 = AtomicU64::new(0);
static TOTAL_BLOCKS: AtomicU64 = AtomicU64::new(0);
static LIVE_BYTES: AtomicU64 = AtomicU64::new(0);
static LIVE_BLOCKS: AtomicU64 = AtomicU64::new(0);
static REFUSALS: AtomicU64 = AtomicU64::new(0);

fn count_new(is_programs: bool, block: *mut u8, size: usize) {
    if is_programs && block.is_null() {
        REFUSALS.fetch_add(1, Ordering::Relaxed);
    } else if is_programs {
        TOTAL_BYTES.fetch_add(size as u64, Ordering::Relaxed);
        TOTAL_BLOCKS.fetch_add(1, Ordering::Relaxed);
        LIVE_BYTES.fetch_add(size as u64, Ordering::Relaxed);
        LIVE_BLOCKS.fetch_add(1, Ordering::Relaxed);
    }
}

// SAFETY: passes on to `unfreed::Alloc`.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let is_programs = internals::is_outside();
        // SAFETY: the caller's layout.
        let block = unsafe { self.0.alloc(layout) };
        count_new(is_programs, block, layout.size());
        block
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        let is_programs = internals::is_outside();
        // SAFETY: the caller's layout.
        let block = unsafe { self.0.alloc_zeroed(layout) };
        count_new(is_programs, block, layout.size());
        block
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if !internals::is_own_block(block) {
            LIVE_BYTES.fetch_sub(layout.size() as u64, Ordering::Relaxed);
            LIVE_BLOCKS.fetch_sub(1, Ordering::Relaxed);
        }
        // SAFETY: the caller's block.
        unsafe { self.0.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        let is_programs = !internals::is_own_block(block);
        // SAFETY: the caller's block.
        let moved = unsafe { self.0.realloc(block, layout, new_size) };
        if is_programs && moved.is_null() {
            REFUSALS.fetch_add(1, Ordering::Relaxed);
        } else if is_programs {
            TOTAL_BYTES.fetch_add(new_size as u64, Ordering::Relaxed);
            TOTAL_BLOCKS.fetch_add(1, Ordering::Relaxed);
            LIVE_BYTES.fetch_add((new_size as u64).wrapping_sub(layout.size() as u64), Ordering::Relaxed);
        }
        moved
    }
}

/// Total bytes, total blocks, live bytes, live blocks.
type Counts = [u64; 4];

fn counted() -> Counts {
    [&TOTAL_BYTES, &TOTAL_BLOCKS, &LIVE_BYTES, &LIVE_BLOCKS].map(|counter| counter.load(Ordering::Relaxed))
}

fn of(totals: &Totals) -> Counts {
    [totals.total_bytes, totals.total_blocks, totals.live_bytes, totals.live_blocks]
}

/// Sampled: everything since the process began.
fn check_process(profiler: &Profiler, when: &str) {
    let totals = profiler.snapshot().totals();
    assert_eq!(of(&totals), counted(), "{when}: total bytes and blocks, live bytes and blocks");
}

/// Exact: everything since `start`; what was older and is gone is counted apart. And the sites sum to it.
fn check_profile(profiler: &Profiler, start: Counts, when: &str) {
    let snapshot = profiler.snapshot();
    let totals = snapshot.totals();
    let now = counted();
    let expected = [
        now[0] - start[0],
        now[1] - start[1],
        (now[2] + totals.older_freed_bytes) - start[2],
        (now[3] + totals.older_freed_blocks) - start[3],
    ];
    assert_eq!(of(&totals), expected, "{when}: total bytes and blocks, live bytes and blocks");
    check_sites(profiler, when);
}

/// What was counted when an exact profile began: `start()` allocates and frees a little before it does.
fn at_start(profiler: &Profiler, before: Counts) -> Counts {
    let totals = profiler.snapshot().totals();
    let now = counted();
    assert!(totals.total_blocks <= 100 && totals.older_freed_blocks == 0, "{totals:?}");
    assert!(now[1] - before[1] <= totals.total_blocks + 100, "{before:?} {now:?}");
    let [total_bytes, total_blocks, live_bytes, live_blocks] = of(&totals);
    [now[0] - total_bytes, now[1] - total_blocks, now[2] - live_bytes, now[3] - live_blocks]
}

fn check_sites(profiler: &Profiler, when: &str) {
    let snapshot = profiler.snapshot();
    let all: Vec<usize> = (0..snapshot.sites().len()).collect();
    let [live_bytes, live_blocks, total_bytes, total_blocks] =
        internals::estimates(&snapshot, &all).map(|estimate| estimate.value as u64);
    assert_eq!([total_bytes, total_blocks, live_bytes, live_blocks], of(&snapshot.totals()), "{when}: sum of sites");
    // A thread for which no ring was left took the slower way, and lost nothing.
    let losses = snapshot.losses();
    assert_eq!(
        (losses.dropped_records, losses.untracked_blocks, losses.folded_stacks),
        (0, 0, 0),
        "{when}: {losses:?}"
    );
}

/// While threads run: what the totals and the sites say is of one moment.
fn check_moment(profiler: &Profiler) {
    check_sites(profiler, "in the middle");
    let totals = profiler.snapshot().totals();
    assert!(totals.max_live_bytes >= totals.live_bytes, "{totals:?}");
}

/// Blocks that any thread may take over.
static SHARED: Mutex<Vec<(usize, Layout)>> = Mutex::new(Vec::new());

/// xorshift64*.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % limit
    }

    fn size(&mut self) -> usize {
        let exponent = self.below(18);
        (1 << exponent) + self.below(1 << exponent)
    }
}

fn make(random: &mut Random) -> (usize, Layout) {
    let align = if random.below(50) == 0 { 1 << random.below(14) } else { 8 };
    let layout = Layout::from_size_align(random.size(), align).expect("valid");
    // SAFETY: not empty.
    let block = unsafe { if random.below(2) == 0 { alloc(layout) } else { alloc_zeroed(layout) } };
    (black_box(block) as usize, layout)
}

fn free((block, layout): (usize, Layout)) {
    // SAFETY: whoever holds the pair holds the block.
    unsafe { dealloc(block as *mut u8, layout) };
}

fn resize((block, layout): (usize, Layout), size: usize) -> (usize, Layout) {
    // SAFETY: whoever holds the pair holds the block.
    let moved = (unsafe { realloc(block as *mut u8, layout, size) }) as usize;
    if moved == 0 {
        return (block, layout);
    }
    (moved, Layout::from_size_align(size, layout.align()).expect("valid"))
}

/// One thread of a storm.
fn storm_thread(seed: u64, operations: usize) {
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut mine: Vec<(usize, Layout)> = Vec::new();
    for _ in 0..operations {
        match random.below(8) {
            0..3 => mine.push(make(&mut random)),
            3 | 4 if !mine.is_empty() => {
                let at = random.below(mine.len());
                mine[at] = resize(mine[at], random.size());
            }
            5 if !mine.is_empty() => free(mine.swap_remove(random.below(mine.len()))),
            6 if !mine.is_empty() => {
                let block = mine.swap_remove(random.below(mine.len()));
                SHARED.lock().expect("not poisoned").push(block);
            }
            _ => {
                let taken = SHARED.lock().expect("not poisoned").pop();
                mine.extend(taken.map(|block| resize(block, 24)));
            }
        }
    }
    let kept = mine.len() / 10;
    mine.drain(kept..).for_each(free);
    SHARED.lock().expect("not poisoned").append(&mut mine);
}

fn storm(seed: u64) {
    let threads = (0..6).map(|thread| std::thread::spawn(move || storm_thread(seed * 100 + thread, 4000)));
    join(threads.collect());
}

/// Waits for the very end of threads: a scope would not wait for what they free after their closures.
fn join(threads: Vec<JoinHandle<()>>) {
    for thread in threads {
        thread.join().expect("no panic");
    }
}

/// Threads that live for a few allocations.
fn short_threads(number: u64) {
    for batch in 0..number / 20 {
        let threads = (0..20u64)
            .map(|i| {
                std::thread::spawn(move || {
                    let mut random = Random(batch * 20 + i + 1);
                    let (first, second) = (make(&mut random), make(&mut random));
                    free(resize(first, 300));
                    let mut shared = SHARED.lock().expect("not poisoned");
                    if i % 2 == 0 {
                        shared.push(second);
                    } else {
                        free(second);
                        shared.pop().into_iter().for_each(free);
                    }
                })
            })
            .collect();
        join(threads);
    }
}

/// A thread that never allocates itself.
fn only_frees() {
    let blocks: Vec<_> = (1..3000).map(|i| make(&mut Random(i))).collect();
    join(vec![std::thread::spawn(move || blocks.iter().copied().for_each(free))]);
}

/// Requests that nobody can serve, and those that the inner allocator refuses: from `refused_from` bytes on.
fn refusals(refused_from: usize) {
    let before = REFUSALS.load(Ordering::Relaxed);
    let huge = isize::MAX as usize - 4096;
    for layout in [Layout::from_size_align(huge, 8), Layout::from_size_align(1 << 50, 4096)] {
        let layout = layout.expect("valid");
        // SAFETY: not empty.
        assert!(black_box(unsafe { alloc(layout) }).is_null());
        // SAFETY: not empty.
        assert!(black_box(unsafe { alloc_zeroed(layout) }).is_null());
    }
    for size in [10, 5000, 40_000, 70_000, 3_000_000] {
        let layout = Layout::from_size_align(size, 8).expect("valid");
        // SAFETY: not empty.
        let block = (black_box(unsafe { alloc(layout) }) as usize, layout);
        assert_eq!(resize(block, huge), block);
        REFUSED_FROM.set(refused_from);
        assert_eq!(resize(block, refused_from.max(size) + 1_000_000), block);
        for size in [refused_from, 2 * refused_from, 100 * refused_from] {
            let layout = Layout::from_size_align(size, 8).expect("valid");
            // SAFETY: not empty.
            assert!(black_box(unsafe { alloc(layout) }).is_null());
            // SAFETY: not empty.
            assert!(black_box(unsafe { alloc_zeroed(layout) }).is_null());
        }
        REFUSED_FROM.set(usize::MAX);
        free(block);
    }
    assert!(REFUSALS.load(Ordering::Relaxed) >= before + 44);
}

fn builders() -> Vec<(&'static str, Builder, bool)> {
    let builder = || Profiler::builder().no_output().quiet().store_in_memory();
    vec![
        ("sampled at 1 byte", builder().sample_interval(1), false),
        ("sampled at 1 KiB", builder().sample_interval(1 << 10), false),
        ("sampled at 512 KiB", builder().sample_interval(1 << 19), false),
        ("governed", builder(), false),
        ("exact", builder().exact(), true),
    ]
}

#[test]
fn totals_are_exact() {
    ask_the_allocator();
    for (round, (mode, builder, is_exact)) in builders().into_iter().enumerate() {
        let check = |profiler: &Profiler, start: Counts, when: &str| {
            let when = format!("{mode}, {when}");
            if is_exact { check_profile(profiler, start, &when) } else { check_process(profiler, &when) }
        };
        // Not started: what happens here is in the totals of the next profile.
        storm(round as u64 * 2 + 1);
        // While nothing runs, and in each mode.
        short_threads(if round == 0 { 10_000 } else { 200 });
        refusals(16);
        let before = counted();
        let profiler = builder.clone().start().expect("starts");
        let start = if is_exact { at_start(&profiler, before) } else { before };
        check(&profiler, start, "at once");
        // Smaller blocks may be slots, which nobody refuses.
        refusals(33_000);
        check(&profiler, start, "after refusals");
        storm(round as u64 * 2 + 2);
        check(&profiler, start, "after a storm");
        short_threads(10_000);
        check(&profiler, start, "after short threads");
        only_frees();
        check(&profiler, start, "after a thread that only frees");
        drop(profiler);
        in_the_middle(mode, &builder, is_exact);
    }
    let older = std::mem::take(&mut *SHARED.lock().expect("not poisoned"));
    older.into_iter().for_each(free);
    let profiler = Profiler::builder().no_output().quiet().store_in_memory().start().expect("starts");
    check_process(&profiler, "at the end");
}

/// The first start asks who serves the process, by a few blocks that pass us and count nowhere else: neither shall they here.
fn ask_the_allocator() {
    let profiler = Profiler::builder().no_output().quiet().store_in_memory().start().expect("starts");
    let [total_bytes, total_blocks, ..] = of(&profiler.snapshot().totals());
    drop(profiler);
    let asked = TOTAL_BLOCKS.swap(total_blocks, Ordering::Relaxed) - total_blocks;
    assert!((1..=20).contains(&asked), "{asked} blocks");
    TOTAL_BYTES.store(total_bytes, Ordering::Relaxed);
}

/// Profilers start and stop while threads run that never pause.
fn in_the_middle(mode: &str, builder: &Builder, is_exact: bool) {
    static ENDS: AtomicBool = AtomicBool::new(false);
    static STORMS: AtomicU64 = AtomicU64::new(0);
    ENDS.store(false, Ordering::Relaxed);
    let threads = (0..3).map(|thread| {
        std::thread::spawn(move || {
            while !ENDS.load(Ordering::Relaxed) {
                let number = STORMS.fetch_add(1, Ordering::Relaxed);
                storm_thread(1000 * thread + number, 300);
            }
        })
    });
    let threads = threads.collect();
    let mut last = None;
    for _ in 0..5 {
        drop(last.take());
        last = Some(builder.clone().start().expect("starts"));
        let begun = STORMS.load(Ordering::Relaxed);
        while STORMS.load(Ordering::Relaxed) < begun + 6 {
            std::thread::yield_now();
        }
        if is_exact {
            for _ in 0..20 {
                check_moment(last.as_ref().expect("runs"));
            }
        }
    }
    ENDS.store(true, Ordering::Relaxed);
    join(threads);
    let profiler = last.expect("runs");
    let when = format!("{mode}, started in the middle");
    if is_exact { check_sites(&profiler, &when) } else { check_process(&profiler, &when) }
}
