//! The loops whose instructions `tests/cost.rs` counts, shared by one program per allocator (`src/bin/cost_*.rs`).
//!
//! A program of a pair is the same as its partner but for the `#[global_allocator]` line. Its arguments are the state,
//! the loop, the size and the number of rounds; callgrind counts inside the loop's function alone, on its thread alone.

use std::alloc::{Layout, alloc, dealloc, realloc};
use std::hint::black_box;

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

fn layout(size: usize) -> Layout {
    Layout::from_size_align(size, black_box(8)).expect("a size of a block")
}

/// The program behind every `cost_*` binary: `STATE LOOP SIZE ROUNDS`.
///
/// # Panics
/// Where the arguments are not those that `tests/cost.rs` gives.
pub fn run() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [state, what, size, rounds] = arguments.as_slice() else { panic!("STATE LOOP SIZE ROUNDS") };
    let builder = || unfreed::Profiler::builder().no_output().store_in_memory().quiet();
    let profiler = match state.as_str() {
        "off" => None,
        "sampled" => Some(builder().sample_interval(512 * 1024).start().expect("a profile starts")),
        "governed" => Some(builder().start().expect("a profile starts")),
        "exact" => Some(builder().exact().start().expect("a profile starts")),
        other => panic!("the state is '{other}', not off, sampled, governed or exact"),
    };
    println!("range {}", reserved_bytes());
    let (size, rounds) = (size.parse().expect("a size"), rounds.parse().expect("a number of rounds"));
    match what.as_str() {
        "pairs" => cost_of_pairs(rounds, size),
        "reallocs" => cost_of_reallocs(rounds, size),
        other => panic!("the loop is '{other}', not pairs or reallocs"),
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
