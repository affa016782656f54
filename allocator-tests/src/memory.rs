//! What the programs do whose reports must say where memory is: it grows by the same amount in each, by another way.

use std::hint::black_box;

/// How much grows, about.
pub const GROWN_BYTES: usize = 160_000_000;
const BLOCK_BYTES: usize = 2000;
const ROUNDS: usize = 4;

/// Runs `case` under a profile that sees samples of blocks; returns the report at its end.
///
/// # Panics
/// On an unknown case, or where no profile starts.
pub fn run(case: &str) -> unfreed::LeakReport {
    // Coarse, so that blocks are the allocator's and not slots of the profiler's.
    let builder = unfreed::Profiler::builder().sample_interval(512 * 1024).manual_epochs().no_output().quiet();
    let profiler = builder.start().expect("starts");
    let base = filled(GROWN_BYTES / 20 / BLOCK_BYTES);
    profiler.advance_epoch();
    let mut kept = Vec::new();
    for _ in 0..ROUNDS {
        match case {
            "fragmentation" | "leak" => kept.append(&mut filled(GROWN_BYTES / ROUNDS / BLOCK_BYTES)),
            "mapping" => map_and_touch(GROWN_BYTES / ROUNDS),
            "c-malloc" => malloc_and_touch(GROWN_BYTES / ROUNDS / BLOCK_BYTES),
            "nothing" => drop(filled(100)),
            other => panic!("no case {other}"),
        }
        profiler.advance_epoch();
    }
    if case == "fragmentation" {
        // Every twentieth stays, so that no page becomes free; they replace what was live before.
        let mut index = 0;
        kept.retain(|_| {
            index += 1;
            index % 20 == 0
        });
        drop(base);
    } else {
        black_box(&base);
    }
    profiler.advance_epoch();
    let report = profiler.leaks();
    black_box(&kept);
    drop(profiler);
    report
}

fn filled(blocks: usize) -> Vec<Box<[u8; BLOCK_BYTES]>> {
    (0..blocks).map(|n| Box::new([u8::try_from(n % 251).unwrap_or(0); BLOCK_BYTES])).collect()
}

fn map_and_touch(bytes: usize) {
    let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: a mapping where the kernel likes, kept for ever.
    let at = unsafe { libc::mmap(std::ptr::null_mut(), bytes, protection, flags, -1, 0) };
    assert_ne!(at, libc::MAP_FAILED);
    // SAFETY: just mapped, for writing.
    unsafe { at.cast::<u8>().write_bytes(1, bytes) };
}

fn malloc_and_touch(blocks: usize) {
    for _ in 0..blocks {
        // SAFETY: kept for ever.
        let at = unsafe { libc::malloc(BLOCK_BYTES) };
        assert!(!at.is_null());
        // SAFETY: just allocated, of this size.
        unsafe { black_box(at).cast::<u8>().write_bytes(1, BLOCK_BYTES) };
    }
}

/// Prints a report as its test reads it: a line of JSON, then what a person reads.
///
/// # Panics
/// Where a report can't be serialized.
pub fn print(report: &unfreed::LeakReport) {
    println!("{}", serde_json::to_string(report).expect("serializable"));
    println!("{report}");
}
