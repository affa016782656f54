//! A wrapped allocator that refuses: `safety_null MODE`.
//!
//! In this thread it refuses every third request of at least so many bytes, or all above a size. The program copes, as
//! one that uses `try_reserve` does; what it holds stays whole and is counted.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::ptr::null_mut;

use allocator_tests::load::Xorshift;
use allocator_tests::runner::end_within;

#[global_allocator]
static ALLOC: unfreed::Alloc<Refusing> = unfreed::Alloc::new(Refusing);

struct Refusing;

thread_local! {
    /// Every so many requests, 0: none; of at least so many bytes.
    static EVERY: Cell<u64> = const { Cell::new(0) };
    static FROM: Cell<usize> = const { Cell::new(0) };
    static REQUESTS: Cell<u64> = const { Cell::new(0) };
}

fn refuses(size: usize) -> bool {
    let every = EVERY.get();
    if every == 0 || size < FROM.get() {
        return false;
    }
    REQUESTS.set(REQUESTS.get() + 1);
    REQUESTS.get().is_multiple_of(every)
}

// SAFETY: the system's allocator, or null.
unsafe impl GlobalAlloc for Refusing {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's layout.
        if refuses(layout.size()) { null_mut() } else { unsafe { System.alloc(layout) } }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's layout.
        if refuses(layout.size()) { null_mut() } else { unsafe { System.alloc_zeroed(layout) } }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: the caller's block.
        unsafe { System.dealloc(ptr, layout) };
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        if refuses(new_size) {
            null_mut()
        } else {
            // SAFETY: the caller's block and size.
            unsafe { System.realloc(ptr, layout, new_size) }
        }
    }
}

/// A block by hand, so that a refusal is seen and survived.
struct Raw {
    at: *mut u8,
    layout: Layout,
    mark: u8,
}

fn layout(size: usize, align: usize) -> Layout {
    Layout::from_size_align(size, align).expect("a layout")
}

impl Raw {
    fn new(size: usize, align: usize, zeroed: bool, mark: u8) -> Option<Raw> {
        let layout = layout(size, align);
        // SAFETY: a layout of at least a byte.
        let at = unsafe { if zeroed { std::alloc::alloc_zeroed(layout) } else { std::alloc::alloc(layout) } };
        if at.is_null() {
            return None;
        }
        assert_eq!(at.addr() % align, 0);
        if zeroed {
            // SAFETY: a block of this size.
            let bytes = unsafe { std::slice::from_raw_parts(at, size) };
            assert!(bytes.iter().all(|byte| *byte == 0), "zeroed");
        }
        let raw = Raw { at, layout, mark };
        raw.fill();
        Some(raw)
    }

    fn fill(&self) {
        // SAFETY: a block of this size.
        unsafe { self.at.write_bytes(self.mark, self.layout.size()) };
    }

    fn check(&self, bytes: usize) {
        // SAFETY: a block of at least this size.
        let bytes = unsafe { std::slice::from_raw_parts(self.at, bytes) };
        assert!(bytes.iter().all(|byte| *byte == self.mark), "somebody wrote into a block");
    }

    /// False: refused, and the block is as it was.
    fn resize(&mut self, size: usize) -> bool {
        // SAFETY: a block of ours.
        let at = unsafe { std::alloc::realloc(self.at, self.layout, size) };
        if at.is_null() {
            self.check(self.layout.size());
            return false;
        }
        let new = layout(size, self.layout.align());
        let old = std::mem::replace(&mut self.layout, new);
        self.at = at;
        self.check(old.size().min(size));
        self.fill();
        true
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        self.check(self.layout.size());
        // SAFETY: a block of ours.
        unsafe { std::alloc::dealloc(self.at, self.layout) };
    }
}

fn totals(profiler: &unfreed::Profiler) -> (u64, u64) {
    let every = EVERY.replace(0);
    let totals = profiler.snapshot().totals();
    EVERY.set(every);
    (totals.live_bytes, totals.live_blocks)
}

fn storm(profiler: &unfreed::Profiler, mode: &str, every: u64, from: usize, largest: usize) {
    let seed = 0xFEED + every;
    // Before anything is counted: the first line makes the standard library's buffer.
    println!("seed {seed}");
    let before = totals(profiler);
    let mut held: Vec<Raw> = Vec::with_capacity(128);
    let mut random = Xorshift(seed);
    let mut refused = 0;
    FROM.set(from);
    EVERY.set(every);
    for _ in 0..30_000u32 {
        let bound = if random.below(8) == 0 { largest } else { 600 };
        let size = 1 + random.below(bound);
        match random.below(3) {
            0 if held.len() < 128 => {
                let shifts = if random.below(10) == 0 { 13 } else { 5 };
                let align = 1 << random.below(shifts);
                match Raw::new(size, align, random.below(2) == 0, random.below(256) as u8) {
                    Some(raw) => held.push(raw),
                    None => refused += 1,
                }
            }
            1 if !held.is_empty() => {
                let at = random.below(held.len());
                refused += usize::from(!held[at].resize(size));
            }
            _ if !held.is_empty() => {
                let at = random.below(held.len());
                drop(held.swap_remove(at));
            }
            _ => {}
        }
    }
    EVERY.set(0);
    // In exact mode small blocks live in slots, which nobody refuses.
    assert!(refused > 100 || (mode == "exact" && largest < 32 * 1024), "{refused} refused");
    let bytes: usize = held.iter().map(|raw| raw.layout.size()).sum::<usize>() + 128 * size_of::<Raw>();
    let during = totals(profiler);
    let expected = (before.0 + bytes as u64, before.1 + held.len() as u64 + 1);
    assert_eq!(during, expected, "every {every} from {from}");
    drop(held);
    assert_eq!(totals(profiler), before, "every {every} from {from}");
    if mode == "exact" {
        let snapshot = profiler.snapshot();
        let sum: f64 = snapshot.sites().map(|site| site.live_bytes().value).sum();
        assert_eq!(sum, snapshot.totals().live_bytes as f64);
    }
    for site in profiler.snapshot().sites() {
        assert!(site.live_bytes().value >= 0.0 && !site.is_unknown());
    }
}

fn main() {
    end_within(50);
    let mode = std::env::args().nth(1).expect("a mode");
    let builder = match mode.as_str() {
        "exact" => unfreed::Profiler::builder().exact(),
        "fine" => unfreed::Profiler::builder().sample_interval(300),
        other => panic!("no mode {other}"),
    };
    let profiler = builder.no_output().quiet().start().expect("starts");
    storm(&profiler, &mode, 3, 0, 300_000);
    storm(&profiler, &mode, 3, 40_000, 300_000);
    // Growth beyond an instalment by itself: always seen.
    storm(&profiler, &mode, 1, 200_000, 300_000);
    storm(&profiler, &mode, 2, 100, 2_000);
}
