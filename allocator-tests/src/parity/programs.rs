//! The programs of the comparison with the dhat crate: one source, compiled once with each profiler.
//!
//! Each returns what it keeps, so that the profile's end finds live blocks. What they do depends on their arguments
//! alone: no addresses, no clocks, no hash seeds that change the sizes or the order of allocations.

use std::alloc::{Layout, alloc, alloc_zeroed, dealloc, realloc};
use std::any::Any;
use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasherDefault, DefaultHasher};
use std::hint::black_box;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// What a program keeps until the profile has ended.
pub type Kept = Box<dyn Any>;

/// Runs the program of this name.
pub fn run(name: &str, seed: u64) -> Kept {
    match name {
        "vec_growth" => vec_growth(),
        "strings" => strings(),
        "nested_maps" => nested_maps(),
        "box_churn" => box_churn(),
        "threads" => threads(),
        "shrink_and_zeroed" => shrink_and_zeroed(),
        "random" => random(seed),
        "lifetimes" => lifetimes(),
        other => panic!("no program '{other}'"),
    }
}

/// Vectors of several element sizes, from one byte to far beyond any slot; one of them given back on the way.
fn vec_growth() -> Kept {
    let mut bytes = Vec::new();
    for i in 0..300_000u32 {
        bytes.push(black_box(i as u8));
    }
    let mut words: Vec<u64> = Vec::with_capacity(3);
    for i in 0..5000 {
        words.push(black_box(i));
        if i == 2500 {
            drop(std::mem::take(&mut bytes));
        }
    }
    let mut rows = Vec::new();
    for i in 0..40usize {
        let mut row = Vec::new();
        row.extend(std::iter::repeat_n(black_box(7u16), i * i));
        rows.push(row);
        if i % 3 == 0 {
            rows.swap_remove(i / 3);
        }
    }
    words.reserve_exact(10_000);
    Box::new((words, rows))
}

/// Texts built by pieces, by `format!`, by joining and by collecting.
fn strings() -> Kept {
    let mut log = String::new();
    let mut kept = Vec::new();
    for i in 0..400u32 {
        log.push_str("entry ");
        log += &black_box(i).to_string();
        log.push('\n');
        let line = format!("{i:>5}: {}", "x".repeat(i as usize % 37));
        if i % 5 == 0 {
            kept.push(line.clone());
        }
        if i % 7 == 0 {
            kept.push(line.chars().rev().filter(|c| !c.is_ascii_digit()).collect());
        }
    }
    let joined = kept.join(", ");
    kept.truncate(kept.len() / 2);
    let upper: Box<str> = joined.to_uppercase().into_boxed_str();
    Box::new((log, kept, upper))
}

type Map<K, V> = HashMap<K, V, BuildHasherDefault<DefaultHasher>>;

/// Maps in maps, filled, thinned out and filled again.
fn nested_maps() -> Kept {
    let mut users: Map<u32, Map<String, Vec<u32>>> = Map::default();
    let mut index: BTreeMap<String, BTreeMap<u32, Box<u64>>> = BTreeMap::new();
    for i in 0..1500u32 {
        let group = format!("group-{}", i % 23);
        users.entry(i % 61).or_default().entry(group.clone()).or_default().push(black_box(i));
        index.entry(group).or_default().insert(i, Box::new(u64::from(i)));
    }
    users.retain(|user, _| user % 4 != 1);
    for numbers in index.values_mut() {
        numbers.retain(|number, _| number % 2 == 0);
    }
    for i in 0..200u32 {
        users.entry(i).or_default().insert(String::from("late"), vec![i; 9]);
    }
    users.shrink_to_fit();
    Box::new((users, index))
}

#[expect(dead_code, reason = "a shape of memory, not of use")]
struct Node {
    payload: [u64; 5],
    next: Option<Box<Node>>,
}

/// Boxes that come and go: a list, trait objects, an `Rc` shared by many.
fn box_churn() -> Kept {
    let mut list: Option<Box<Node>> = None;
    for i in 0..3000u64 {
        list = Some(Box::new(Node { payload: black_box([i; 5]), next: list.take() }));
        if i % 500 == 499 {
            // Iteratively, as a long list would overflow the stack.
            while let Some(mut node) = list.take() {
                list = node.next.take();
                drop(node);
                if black_box(i) == 2999 {
                    break;
                }
            }
        }
    }
    let mut shapes: Vec<Box<dyn Any>> = Vec::new();
    for i in 0..600u32 {
        match black_box(i) % 3 {
            0 => shapes.push(Box::new(i)),
            1 => shapes.push(Box::new([u64::from(i); 17])),
            _ => drop(shapes.pop()),
        }
    }
    let shared = std::rc::Rc::new([1u8; 100]);
    let holders: Vec<_> = (0..50).map(|_| Box::new(std::rc::Rc::clone(&shared))).collect();
    while let Some(node) = list.as_mut().and_then(|node| node.next.take()) {
        list = Some(node);
    }
    Box::new((shapes, holders))
}

/// The number of the thread that may work. A child waits for its parent to have returned from `spawn`, so that the two
/// never allocate at the same time.
static TURN: AtomicU32 = AtomicU32::new(0);

/// Threads one after another; each works, leaves something behind and frees what the one before it left.
fn threads() -> Kept {
    let mut left: Vec<Vec<u8>> = Vec::new();
    let mut kept = Vec::new();
    for number in 1..=60u32 {
        let received = std::mem::take(&mut left);
        let thread = std::thread::spawn(move || {
            while TURN.load(Ordering::Acquire) != number {
                std::hint::spin_loop();
            }
            work_of_a_thread(number, received)
        });
        TURN.store(number, Ordering::Release);
        left = thread.join().expect("no panic");
        if number % 4 == 0 {
            kept.push(left.pop());
        }
    }
    Box::new((left, kept))
}

fn work_of_a_thread(number: u32, received: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    let mut mine: Vec<Vec<u8>> = (0..number % 9).map(|i| vec![black_box(i as u8); 100 << (i % 6)]).collect();
    let mut scratch = String::new();
    for i in 0..number * 3 {
        scratch.push_str(&i.to_string());
    }
    drop(received);
    mine.push(scratch.into_bytes());
    mine
}

/// Shrinking in place and out of slots, zeroed memory of every size class, over-aligned blocks, shrink and growth in
/// turns.
fn shrink_and_zeroed() -> Kept {
    let mut kept: Vec<Vec<u8>> = Vec::new();
    for exponent in 0..20usize {
        let mut zeroed = vec![0u8; black_box(3) << exponent];
        zeroed.truncate(1 << exponent);
        zeroed.shrink_to_fit();
        kept.push(zeroed);
    }
    for round in 0..30usize {
        for block in &mut kept {
            if round % 2 == 0 {
                block.truncate(black_box(block.len() / 2));
                block.shrink_to_fit();
            } else {
                block.reserve_exact(block.len() + 1);
                let room = block.capacity();
                block.resize(room, 1);
            }
        }
    }
    let mut aligned = Vec::new();
    for shift in 4..13u32 {
        let layout = Layout::from_size_align(40 * shift as usize, 1 << shift).expect("valid");
        let block = if shift % 2 == 0 { first(layout) } else { zeroed(layout) };
        aligned.push(resized(block, layout, 17));
    }
    kept.retain(|block| block.len() % 3 != 0);
    Box::new((kept, aligned))
}

/// xorshift64*.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % limit
    }

    /// Sizes of all magnitudes, 1 B to 128 KiB.
    fn size(&mut self) -> usize {
        let exponent = self.below(17);
        (1 << exponent) + self.below(1 << exponent)
    }
}

/// A script of raw allocations, reallocations and frees on one thread, from call chains of several depths.
fn random(seed: u64) -> Kept {
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut blocks: Vec<Option<(usize, Layout)>> = vec![None; 300];
    for _ in 0..20_000 {
        let at = random.below(blocks.len());
        let depth = random.below(5);
        step(depth, &mut random, &mut blocks[at]);
    }
    Box::new(blocks)
}

#[inline(never)]
fn step(depth: usize, random: &mut Random, block: &mut Option<(usize, Layout)>) {
    match depth {
        0 => act(random, block),
        1 => step(0, random, block),
        2 => step(1, random, block),
        _ => step(depth - 2, random, block),
    }
    black_box(depth);
}

#[inline(never)]
fn act(random: &mut Random, block: &mut Option<(usize, Layout)>) {
    let size = random.size();
    match *block {
        None => {
            let align = if random.below(20) == 0 { 1 << random.below(13) } else { 1 << random.below(5) };
            let layout = Layout::from_size_align(size, align).expect("valid");
            let address = match random.below(3) {
                0 => zeroed(layout),
                1 => first(layout),
                _ => second(layout),
            };
            *block = Some((address, layout));
        }
        Some((address, layout)) if random.below(3) > 0 => {
            let address = resized(address, layout, size);
            *block = Some((address, Layout::from_size_align(size, layout.align()).expect("valid")));
        }
        Some((address, layout)) => {
            // SAFETY: allocated with this layout.
            unsafe { dealloc(address as *mut u8, layout) };
            *block = None;
        }
    }
}

// Functions of their own, that differ: alike calls in one function are merged by the compiler, in one build or the other.

#[inline(never)]
fn zeroed(layout: Layout) -> usize {
    // SAFETY: not empty.
    black_box((unsafe { alloc_zeroed(layout) }) as usize)
}

#[inline(never)]
fn first(layout: Layout) -> usize {
    // SAFETY: not empty.
    black_box((unsafe { alloc(layout) }) as usize) ^ black_box(0)
}

#[inline(never)]
fn second(layout: Layout) -> usize {
    // SAFETY: not empty.
    black_box((unsafe { alloc(layout) }) as usize) + black_box(0)
}

#[inline(never)]
fn resized(address: usize, layout: Layout, size: usize) -> usize {
    // SAFETY: allocated with this layout.
    black_box((unsafe { realloc(address as *mut u8, layout, size) }) as usize)
}

/// How long `lifetimes` holds its first block, at least.
pub const HELD: Duration = Duration::from_millis(40);

/// One block held for a while and freed, one for twice as long and kept; no reallocation.
fn lifetimes() -> Kept {
    let kept = black_box(vec![1u8; 1000]);
    wait();
    let freed = black_box(vec![2u8; 2000]);
    wait();
    drop(freed);
    Box::new(kept)
}

/// Passes time without a system call: what is measured is a duration, not an order.
fn wait() {
    let begun = Instant::now();
    while begun.elapsed() < HELD {
        std::hint::spin_loop();
    }
}
