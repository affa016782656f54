//! The rest of the dhat surface, with the allocator declared: what is counted, what assertions do, what panics.
//!
//! One test, since a second one would bring the test harness's threads, whose blocks are counted as well.

use std::hint::black_box;
use std::panic::catch_unwind;
use std::path::PathBuf;
use std::time::Instant;

use serde_json::Value;
use unfreed::dhat;

#[global_allocator]
static ALLOC: dhat::Alloc = dhat::Alloc;

fn file(name: &str) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("dhat-surface-{name}.json"));
    let _ = std::fs::remove_file(&path);
    path
}

fn read(path: &PathBuf) -> Value {
    serde_json::from_slice(&std::fs::read(path).expect("the file was written")).expect("JSON")
}

fn panic_of(f: impl FnOnce() + std::panic::UnwindSafe) -> String {
    let payload = catch_unwind(f).expect_err("a panic");
    payload.downcast_ref::<String>().cloned().unwrap_or_else(|| (*payload.downcast_ref::<&str>().expect("text")).into())
}

#[test]
fn surface() {
    documentation_examples();
    what_was_there_before();
    assertions();
    refusals();
    files();
    statistics_are_cheap();
}

/// The examples of the items' own documentation.
fn documentation_examples() {
    let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    std::env::set_current_dir(directory).expect("exists");
    {
        let _profiler = dhat::Profiler::new_heap();
    }
    {
        let _profiler = dhat::Profiler::new_ad_hoc();
    }
    {
        let _profiler = dhat::Profiler::builder().ad_hoc().build();
    }
    {
        let _profiler = dhat::Profiler::builder().testing().build();
    }
    {
        let file_name = format!("heap-{}.json", std::process::id());
        let _profiler = dhat::Profiler::builder().file_name(&file_name).build();
        drop(_profiler);
        std::fs::remove_file(file_name).expect("it was written");
    }
    {
        let _profiler = dhat::Profiler::builder().trim_backtraces(None).build();
    }
    dhat::ad_hoc_event(100);
}

/// Blocks that are older than the profile: freed, they are ignored; reallocated, they are born again.
fn what_was_there_before() {
    let (freed, mut grown, untouched) = (vec![1u32; 4], vec![1u32; 4], vec![1u32; 4]);
    let profiler = dhat::Profiler::builder().testing().build();
    let zero = dhat::HeapStats::get();
    dhat::assert_eq!((zero.total_blocks, zero.total_bytes, zero.curr_blocks, zero.max_bytes), (0, 0, 0, 0));
    drop(black_box(freed));
    grown.push(5);
    let held = black_box(vec![0u8; 1000]);
    let mut large = black_box(vec![0u8; 100_000]);
    large.reserve_exact(100_000);
    drop(held);
    large.truncate(50);
    large.shrink_to_fit();
    for i in 0..10u8 {
        drop(black_box(vec![i]));
    }
    let stats = dhat::HeapStats::get();
    // grown, held, large, its growth, its shrink, ten.
    dhat::assert_eq!(stats.total_blocks, 15);
    dhat::assert_eq!(stats.total_bytes, 32 + 1000 + 100_000 + 200_000 + 50 + 10);
    dhat::assert_eq!((stats.curr_blocks, stats.curr_bytes), (2, 32 + 50));
    dhat::assert_eq!((stats.max_blocks, stats.max_bytes), (3, 32 + 1000 + 200_000));
    drop(profiler);
    drop((untouched, grown, large));
}

/// A failing assertion writes the profile and panics; what follows is refused until the profiler is dropped.
fn assertions() {
    let path = file("assertion");
    let profiler = dhat::Profiler::builder().testing().file_name(&path).build();
    let kept = black_box(vec![7u8; 333]);
    let stats = dhat::HeapStats::get();
    let three = 3;
    dhat::assert!(stats.curr_bytes == 333);
    dhat::assert!(stats.curr_bytes == 333, "not {}", three);
    dhat::assert_eq!(stats.curr_blocks, 1,);
    dhat::assert_eq!(stats.curr_blocks, 1, "not {three}");
    dhat::assert_ne!(stats.curr_blocks, 2);
    dhat::assert_ne!(stats.curr_blocks, 2, "not {}", three);
    assert!(!path.exists());
    let said = panic_of(|| dhat::assert_eq!(stats.curr_bytes, 334, "oh {}", three));
    assert_eq!(said, "dhat: assertion failed: `(left == right)`\n  left: `333`,\n right: `334`: oh 3");
    let written = read(&path);
    assert_eq!(written["pps"].as_array().expect("pps").iter().map(|pp| pp["eb"].as_u64().unwrap()).sum::<u64>(), 333);
    assert_eq!(panic_of(|| dhat::assert!(true)), "dhat: asserting after the profiler has asserted");
    let said = panic_of(|| drop(dhat::HeapStats::get()));
    assert_eq!(said, "dhat: getting heap stats after the profiler has asserted");
    let said = panic_of(|| drop(dhat::Profiler::new_heap()));
    assert_eq!(said, "dhat: creating a profiler while a profiler is already running");
    drop(profiler);
    drop(kept);

    for (expected, failing) in [
        ("dhat: assertion failed: 1 > 2", (|| dhat::assert!(1 > 2)) as fn()),
        ("dhat: assertion failed: 1 > 2: two 2", || dhat::assert!(1 > 2, "two {}", 2)),
        ("dhat: assertion failed: `(left == right)`\n  left: `1`,\n right: `2`", || dhat::assert_eq!(1, 2)),
        ("dhat: assertion failed: `(left != right)`\n  left: `2`,\n right: `2`", || dhat::assert_ne!(2, 2)),
        ("dhat: assertion failed: `(left != right)`\n  left: `2`,\n right: `2`: so", || dhat::assert_ne!(2, 2, "so")),
    ] {
        let _profiler = dhat::Profiler::builder().testing().file_name(file("failing")).build();
        dhat::assert_is_panic(failing, expected);
    }
}

/// The dhat crate's panics.
fn refusals() {
    assert_eq!(panic_of(|| drop(dhat::HeapStats::get())), "dhat: getting heap stats when no profiler is running");
    assert_eq!(panic_of(|| drop(dhat::AdHocStats::get())), "dhat: getting ad hoc stats when no profiler is running");
    assert_eq!(panic_of(|| dhat::assert!(true)), "dhat: asserting when no profiler is running");
    {
        let _profiler = dhat::Profiler::builder().file_name(file("refusals")).build();
        for second in [dhat::Profiler::new_heap as fn() -> dhat::Profiler, dhat::Profiler::new_ad_hoc] {
            let said = panic_of(|| drop(second()));
            assert_eq!(said, "dhat: creating a profiler while a profiler is already running");
        }
        let said = panic_of(|| drop(dhat::AdHocStats::get()));
        assert_eq!(said, "dhat: getting ad hoc stats while doing heap profiling");
        assert_eq!(panic_of(|| dhat::assert!(true)), "dhat: asserting while not in testing mode");
        assert!(unfreed::Profiler::start().is_err(), "one profiler at a time, whatever its surface");
    }
    assert_eq!(panic_of(|| dhat::assert!(true)), "dhat: asserting when no profiler is running");
    let running = unfreed::Profiler::builder().no_output().quiet().start().expect("starts");
    let said = panic_of(|| drop(dhat::Profiler::new_heap()));
    assert_eq!(said, "dhat: creating a profiler while a profiler is already running");
    drop(running);
}

/// A file's frames are trimmed as asked, and name the allocating function.
fn files() {
    for (trim, most) in [(Some(usize::MAX), usize::MAX), (Some(4), 4), (None, usize::MAX)] {
        let path = file("frames");
        let profiler = dhat::Profiler::builder().trim_backtraces(trim).file_name(&path).build();
        let kept = black_box(deep(20));
        drop(profiler);
        drop(kept);
        let written = read(&path);
        assert_eq!((&written["mode"], &written["dhatFileVersion"]), (&"rust-heap".into(), &2.into()));
        let frames: Vec<&str> = written["ftbl"].as_array().expect("ftbl").iter().map(|f| f.as_str().unwrap()).collect();
        let points = written["pps"].as_array().expect("pps");
        let point = points.iter().find(|point| point["tb"] == 4321).expect("the block's point");
        let chain: Vec<&str> =
            point["fs"].as_array().unwrap().iter().map(|i| frames[i.as_u64().unwrap() as usize]).collect();
        let addresses: std::collections::BTreeSet<_> = chain.iter().map(|frame| frame.split(':').next()).collect();
        // Recursion repeats one address.
        let own = chain.iter().filter(|frame| frame.contains("dhat_surface_heap::deep")).count();
        assert!(own >= 4.min(most), "{trim:?}: {chain:#?}");
        assert_eq!(own >= 20, most == usize::MAX, "{trim:?}: {chain:#?}");
        assert!(addresses.len() <= most);
        let shows_runtime = chain
            .iter()
            .any(|frame| ["lang_start", "thread_start", "start_thread"].iter().any(|start| frame.contains(start)));
        assert_eq!(shows_runtime, trim.is_none(), "{trim:?}: {chain:#?}");
    }
}

#[inline(never)]
fn deep(levels: u32) -> Vec<u8> {
    if black_box(levels) == 0 {
        return vec![0; 4321];
    }
    let mut block = deep(levels - 1);
    block[0] = 1;
    block
}

/// 'Cheap enough for tests': a thousand in well under a second, on a busy machine too.
fn statistics_are_cheap() {
    let _profiler = dhat::Profiler::builder().testing().build();
    let begun = Instant::now();
    for _ in 0..1000 {
        black_box(dhat::HeapStats::get());
    }
    let each = begun.elapsed() / 1000;
    println!("HeapStats::get: {each:?}");
    assert!(each.as_micros() < 5000, "{each:?}");
}
