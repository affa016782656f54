//! The ad hoc half of the dhat surface, in a program that declares no allocator.

use serde_json::Value;
use unfreed::dhat;

#[inline(never)]
fn inner() {
    dhat::ad_hoc_event(1);
    dhat::ad_hoc_event(2);
    // No tail call: it would leave no frame.
    std::hint::black_box(1u8);
}

#[inline(never)]
fn outer() {
    inner();
    dhat::ad_hoc_event(3);
    std::hint::black_box(1u8);
}

#[test]
fn ad_hoc() {
    let path = std::path::PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("dhat-surface-ad-hoc.json");
    dhat::ad_hoc_event(1000);
    let profiler = dhat::Profiler::builder().ad_hoc().trim_backtraces(Some(usize::MAX)).file_name(&path).build();
    dhat::ad_hoc_event(100);
    for _ in 0..2 {
        outer();
    }
    let stats = dhat::AdHocStats::get();
    assert_eq!((stats.total_events, stats.total_units), (7, 112));
    dhat::assert_is_panic(|| drop(dhat::HeapStats::get()), "dhat: getting heap stats while doing ad hoc profiling");
    dhat::assert_is_panic(|| dhat::assert!(true), "dhat: asserting while not in testing mode");
    drop(profiler);
    dhat::ad_hoc_event(1000);

    let file: Value = serde_json::from_slice(&std::fs::read(&path).expect("written")).expect("JSON");
    assert_eq!(
        (&file["mode"], &file["bklt"], &file["dhatFileVersion"]),
        (&"rust-ad-hoc".into(), &false.into(), &2.into())
    );
    assert_eq!((&file["bu"], &file["bsu"], &file["bksu"]), (&"unit".into(), &"units".into(), &"events".into()));
    let frames: Vec<&str> = file["ftbl"].as_array().expect("ftbl").iter().map(|f| f.as_str().unwrap()).collect();
    assert_eq!(frames[0], "[root]");
    let mut found: Vec<(u64, u64, bool, bool)> = Vec::new();
    for point in file["pps"].as_array().expect("pps") {
        let chain: Vec<&str> =
            point["fs"].as_array().unwrap().iter().map(|i| frames[i.as_u64().unwrap() as usize]).collect();
        let goes_through = |name: &str| chain.iter().any(|frame| frame.contains(name));
        assert!(goes_through("dhat_surface_ad_hoc::ad_hoc"), "{chain:#?}");
        assert!(
            !goes_through("lang_start") && !goes_through("start_thread") && !goes_through("backtrace::backtrace"),
            "{chain:#?}"
        );
        let number = |key: &str| point[key].as_u64().expect("a number");
        assert!(point.get("tl").is_none() && point.get("eb").is_none());
        found.push((number("tb"), number("tbk"), goes_through("::outer"), goes_through("::inner")));
    }
    found.sort_unstable();
    let expected = [(2, 2, true, true), (4, 2, true, true), (6, 2, true, false), (100, 1, false, false)];
    assert_eq!(found, expected);

    // Assertions about counts of events.
    let path = path.with_extension("assertion.json");
    let profiler = dhat::Profiler::builder().ad_hoc().testing().file_name(&path).build();
    dhat::ad_hoc_event(5);
    dhat::assert_eq!(dhat::AdHocStats::get().total_units, 5);
    dhat::assert_is_panic(
        || dhat::assert_ne!(dhat::AdHocStats::get().total_units, 5, "five"),
        "dhat: assertion failed: `(left != right)`\n  left: `5`,\n right: `5`: five",
    );
    drop(profiler);

    // Without an allocator a heap profile sees nothing, and says so.
    let profiler = dhat::Profiler::builder().testing().build();
    let _block = std::hint::black_box(vec![1u8]);
    dhat::assert_eq!(dhat::HeapStats::get().total_blocks, 0);
    drop(profiler);
}
