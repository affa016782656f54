//! The loops whose instructions `tests/cost.rs` counts, shared by one program per allocator (`src/bin/cost_*.rs`).
//!
//! A program of a pair is the same as its partner but for the `#[global_allocator]` line. Its arguments are the state,
//! the loop, the size and the number of rounds; callgrind counts inside the loop's function alone, on its thread alone.

use std::alloc::{Layout, alloc, dealloc, realloc};
use std::hint::black_box;

use unfreed::internals;

use crate::costs;

/// The size and the alignment are the caller's, so that nothing of the path is decided at compile time, as in a `Vec`'s.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn cost_of_pairs(rounds: u64, size: usize) {
    for _ in 0..rounds {
        let layout = layout(black_box(size));
        // SAFETY: the size is not 0.
        let block = black_box(unsafe { alloc(layout) });
        assert!(!block.is_null(), "no memory");
        // SAFETY: allocated above with this layout.
        unsafe { dealloc(block, layout) };
    }
}

/// A block that grows by a half and shrinks back, with `realloc`: two reallocs a round, beside no other event.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn cost_of_reallocs(rounds: u64, size: usize) {
    let small = layout(black_box(size));
    let large = layout(black_box(size + size / 2));
    // SAFETY: the size is not 0.
    let mut block = black_box(unsafe { alloc(small) });
    for _ in 0..rounds {
        // SAFETY: the block has the layout `small`.
        block = black_box(unsafe { realloc(block, small, large.size()) });
        // SAFETY: the block has the layout `large`.
        block = black_box(unsafe { realloc(block, large, small.size()) });
    }
    assert!(!block.is_null(), "no memory");
    // SAFETY: allocated above, and of the layout `small` again.
    unsafe { dealloc(block, small) };
}

/// Captures of one stack, over and over.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn cost_of_repeated(captures: &mut internals::Captures, rounds: u64) {
    for _ in 0..rounds {
        black_box(captures.capture());
    }
}

/// Captures of one stack whose frames are new each time; the code that they are in is known, and so are the stacks.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn cost_of_new(captures: &mut internals::Captures, rounds: u64) {
    for _ in 0..rounds {
        captures.forget();
        black_box(captures.capture());
    }
}

/// Empties the rings; the number of records.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn cost_of_drains() -> u64 {
    internals::drain()
}

/// Calls `last` below `depth` more frames, of two shapes.
#[inline(never)]
pub fn below(depth: usize, last: &mut dyn FnMut()) -> usize {
    let local = black_box([depth; 5]);
    match depth {
        0 => last(),
        n if n % 2 == 0 => drop(black_box(other(n - 1, last))),
        n => drop(black_box(below(n - 1, last))),
    }
    black_box(local[2])
}

#[inline(never)]
fn other(depth: usize, last: &mut dyn FnMut()) -> usize {
    let local = black_box([depth; 9]);
    black_box(below(depth - 1, last));
    black_box(local[3])
}

/// Calls `of` on a stack of `frames` frames as the unwinder counts them. `of` gets the captures.
pub fn at_depth(frames: usize, of: &mut dyn FnMut(&mut internals::Captures)) {
    let mut captures = internals::Captures::new(1 << 16);
    let mut shallow = 0;
    below(0, &mut || shallow = captures.capture().1 as usize);
    let mut deep = 0;
    // An odd number ends in a frame less.
    below((frames - shallow) & !1, &mut || {
        deep = captures.capture().1 as usize;
        of(&mut captures);
    });
    assert!(deep.abs_diff(frames) <= 1, "{deep} frames in place of {frames}");
}

/// Births and deaths of `blocks` blocks at a time, drained while no other thread drains. The number of records.
fn drains(rounds: u64, blocks: usize) -> u64 {
    let _paused = internals::pause_drain();
    let mut held: Vec<Box<[u8; 64]>> = Vec::with_capacity(blocks);
    let mut records = 0;
    for _ in 0..rounds {
        held.extend((0..blocks).map(|_| black_box(Box::new([0; 64]))));
        records += cost_of_drains();
        held.clear();
        records += cost_of_drains();
    }
    records
}

/// Blocks that are freed before the next is made, no two alike in a row, drained as above. The number of records.
fn drains_pairs(rounds: u64, pairs: usize) -> u64 {
    let _paused = internals::pause_drain();
    let mut records = 0;
    for _ in 0..rounds {
        for _ in 0..pairs / 2 {
            black_box(Box::new([0u8; 64]));
            black_box(Box::new([0u8; 96]));
        }
        records += cost_of_drains();
    }
    records
}

fn layout(size: usize) -> Layout {
    Layout::from_size_align(size, black_box(8)).expect("a size of a block")
}

/// The program behind every `cost_*` binary: `STATE LOOP SIZE ROUNDS`. What is not counted but timed or weighed is
/// in `costs`.
///
/// # Panics
/// Where the arguments are not those that `tests/cost.rs` gives.
pub fn run() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [state, what, size, rounds] = arguments.as_slice() else { panic!("STATE LOOP SIZE ROUNDS") };
    // Only an end that is timed writes anything.
    let builder = || match std::env::var_os("COST_OUTPUT") {
        Some(path) => unfreed::Profiler::builder().output(path).store_in_memory(),
        None => unfreed::Profiler::builder().no_output().store_in_memory().quiet(),
    };
    let profiler = match state.as_str() {
        "off" => None,
        "sampled" => Some(builder().sample_interval(512 * 1024).start().expect("a profile starts")),
        "fine" => Some(builder().sample_interval(16).start().expect("a profile starts")),
        "governed" => Some(builder().start().expect("a profile starts")),
        "exact" => Some(builder().exact().start().expect("a profile starts")),
        other => panic!("the state is '{other}', not off, sampled, fine, governed or exact"),
    };
    println!("range {}", reserved_bytes());
    let (size, rounds) = (size.parse().expect("a size"), rounds.parse().expect("a number of rounds"));
    match what.as_str() {
        "pairs" => cost_of_pairs(rounds, size),
        "reallocs" => cost_of_reallocs(rounds, size),
        // The modules are listed by a profile, but captures are counted apart from it.
        "repeated" => at_depth(size, &mut |captures| cost_of_repeated(captures, rounds)),
        "new" => at_depth(size, &mut |captures| cost_of_new(captures, rounds)),
        "drains" => println!("records {}", drains(rounds, size)),
        "drains-pairs" => println!("records {}", drains_pairs(rounds, size)),
        other => return costs::run(other, size, rounds, profiler),
    }
    drop(profiler);
}

/// The largest inaccessible mapping of this process: the range of slots, where the system granted one.
fn reserved_bytes() -> u64 {
    let maps = std::fs::read_to_string("/proc/self/maps").expect("a Linux /proc");
    let bytes = |line: &str| {
        let mut fields = line.split_ascii_whitespace();
        let (from, to) = fields.next()?.split_once('-')?;
        let inaccessible = fields.next()? == "---p";
        let end = |text| u64::from_str_radix(text, 16).ok();
        inaccessible.then_some(end(to)?.saturating_sub(end(from)?))
    };
    maps.lines().filter_map(bytes).max().unwrap_or(0)
}
