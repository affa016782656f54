//! Records in, pictures out: equal to the oracle's, whichever way they went.

use super::*;
use crate::store::attribution::Attribution;
use crate::store::epoch::end_epoch;
use crate::store::picture::{ExactTotals, HistoryPoint, Life, ModulePicture};
use crate::store::reader;
use crate::tree::TAINTED;

/// Random events through four rings, drained at random times; pictures from memory and from the file.
fn through_rings(seed: u64, intervals: &[u8], sizes: &[u64], name: &str) {
    let path = temporary(name);
    let store = Store::create(&options(Place::Path(path.clone()))).expect("a store");
    let tables = store.tables();
    let mut attribution = Attribution::new(BASE, 3_000);
    let stacks = add_stacks(&tables, 40);
    let rings: Vec<_> = (1..=4).map(|tid| store.claim_ring(tid).expect("a ring")).collect();
    let mut producers: Vec<_> = rings.iter().map(|&id| store.ring(id).expect("its words").producer()).collect();
    let mut oracle = Oracle::new(seed, intervals, sizes);
    let mut choices = Random(seed ^ 0x5555);
    for step in 0..20_000 {
        let record = oracle.step(&stacks);
        let ring = choices.below(4) as usize;
        if producers[ring].push(&record).is_err() {
            attribution.drain(&tables, Ticks(u64::MAX), &mut ());
            producers[ring].push(&record).expect("drained");
        }
        if choices.below(50) == 0 {
            attribution.drain(&tables, Ticks(oracle.now), &mut ());
        }
        if choices.below(500) == 0 {
            end_epoch(&tables, Ticks(oracle.now));
        }
        if step % 1000 == 999 {
            attribution.drain(&tables, Ticks(oracle.now), &mut ());
            oracle.check(&own_picture(&store, Ticks(oracle.now)), &stacks);
        }
    }
    store.finish(true);
    let picture = reader::read(&path).expect("a sound store");
    assert_eq!(picture.life, Life::Finished);
    oracle.check(&picture, &stacks);
    std::fs::remove_file(path).expect("kept");
}

#[test]
fn exact_mode_equals_the_oracle() {
    through_rings(0x1234_5678_9abc_def1, &[0], &[1, 16, 24, 100, 4096, 1 << 20], "exact");
}

#[test]
fn equal_peaks_count_the_latest() {
    for seed in 1..20 {
        through_rings(0x9e37_79b9_7f4a_7c15u64.wrapping_mul(seed), &[0], &[16, 32], "equal-peaks");
    }
}

#[test]
fn sampled_mode_equals_the_oracle() {
    through_rings(0xfeed_beef_dead_0001, &[1, 10, 16, 20], &[1, 16, 24, 100, 4096, 60_000, 1 << 22], "sampled");
}

#[test]
fn a_resize_among_the_equal_keeps_the_peak() {
    // The peak is reached by a resize to the same size, so its time is the later one.
    let store = Store::create(&options(Place::Memory)).expect("a store");
    let tables = store.tables();
    let mut attribution = Attribution::new(BASE, 0);
    let stack = add_stack(&tables, StackId::ROOT, 5);
    let record = |at, kind, size, old_size| Record {
        at: Ticks(at),
        kind,
        stack,
        interval: IntervalCode::EXACT,
        size,
        old_size,
        old_interval: IntervalCode::EXACT,
        birth: Ticks(if kind == Kind::Alloc { 0 } else { 1_001 }),
        carried: 0.0,
    };
    attribution.apply(&tables, &record(1_001, Kind::Alloc, 64, 0), None, &mut ());
    attribution.apply(&tables, &record(1_005, Kind::Resize, 64, 64), None, &mut ());
    attribution.apply(&tables, &record(1_007, Kind::Resize, 32, 64), None, &mut ());
    let picture = own_picture(&store, Ticks(1_010));
    assert_eq!((picture.gmax_ns, picture.gmax_bytes), (5, 64 << 8));
    let figures = picture.sites[0].figures;
    assert_eq!((figures.live.whole_bytes(), figures.total.whole_bytes(), figures.total.whole_blocks()), (32, 160, 3));
    assert_eq!((figures.gmax_bytes, figures.max_bytes), (64 << 8, 64 << 8));
}

#[test]
fn a_free_that_overtakes_its_birth_cancels_it() {
    let store = Store::create(&options(Place::Memory)).expect("a store");
    let tables = store.tables();
    let mut attribution = Attribution::new(BASE, 0);
    let stack = add_stack(&tables, StackId::ROOT, 5);
    let mut record = Record {
        at: Ticks(2_000),
        kind: Kind::Free,
        stack,
        interval: IntervalCode(12),
        size: 64,
        old_size: 0,
        old_interval: IntervalCode::EXACT,
        birth: Ticks(1_500),
        carried: 0.0,
    };
    attribution.apply(&tables, &record, None, &mut ());
    assert_eq!(own_picture(&store, Ticks(2_000)).sites.len(), 0, "nothing is shown below zero");
    record.kind = Kind::Alloc;
    record.at = Ticks(1_500);
    attribution.apply(&tables, &record, None, &mut ());
    let figures = own_picture(&store, Ticks(2_000)).sites[0].figures;
    assert_eq!(figures.live, Amount { smallest_bytes: 64, ..Amount::default() });
    assert_eq!((figures.live_births, figures.total.samples), (0, 1));
}

#[test]
fn a_full_table_of_sites_folds_into_the_root_and_says_so() {
    let store = Store::create(&StoreOptions { bound_bytes: 128 << 10, ..options(Place::Memory) }).expect("a store");
    let tables = store.tables();
    let mut attribution = Attribution::new(BASE, 0);
    let stacks = add_stacks(&tables, 200);
    let alloc = |stack, kind| Record {
        at: Ticks(1_000),
        kind,
        stack,
        interval: IntervalCode::EXACT,
        size: 8,
        old_size: 0,
        old_interval: IntervalCode::EXACT,
        birth: Ticks(if kind == Kind::Alloc { 0 } else { 1_000 }),
        carried: 0.0,
    };
    for &stack in &stacks {
        attribution.apply(&tables, &alloc(stack, Kind::Alloc), None, &mut ());
    }
    let picture = own_picture(&store, BASE);
    let rows = picture.sites.len() - 1;
    assert!(rows > 10 && rows < 200, "{rows}");
    let folded = 200 - rows as u64;
    assert_eq!(picture.loss.folded_sites, folded);
    let root = picture.sites.iter().find(|site| site.stack == StackId::ROOT).expect("the root's row");
    assert!(root.folded && root.figures.live.whole_blocks() == folded);
    let total: u64 = picture.sites.iter().map(|site| site.figures.live.whole_bytes()).sum();
    assert_eq!(total, 1600);
    for &stack in &stacks[rows..] {
        assert!(tables.nodes[stack.0 as usize].site.load(Ordering::Relaxed) & TAINTED != 0);
    }
    assert!(store.bound_reached());
    for &stack in &stacks {
        attribution.apply(&tables, &alloc(stack, Kind::Free), None, &mut ());
    }
    assert!(own_picture(&store, BASE).sites.iter().all(|site| site.figures.live == Amount::default()));
}

#[test]
fn the_header_tells_what_it_was_told() {
    let path = temporary("header");
    let store = Store::create(&StoreOptions {
        ns_per_tick: 0.5,
        started_unix_ns: 77,
        interval: IntervalCode(10),
        // In exact mode totals are those of the sites.
        exact_mode: false,
        ..options(Place::Path(path.clone()))
    })
    .expect("a store");
    store.set_unwinder("framehop + replay");
    store.set_interval(IntervalCode(13));
    let totals = ExactTotals {
        total_bytes: 1,
        total_blocks: 2,
        freed_bytes: 3,
        freed_blocks: 4,
        max_live_bytes: 5,
        max_live_blocks: 6,
        older_freed_bytes: 7,
        older_freed_blocks: 8,
    };
    store.set_exact_totals(&totals, Ticks(1_500));
    let module = ModulePicture {
        path: "/usr/lib/libexample.so".into(),
        build_id: vec![1, 2, 3, 4, 5, 6, 7, 8, 9],
        bias: 10,
        start: 20,
        end: 30,
        loaded: true,
    };
    let id = store.add_module(&module);
    let other = store.add_module(&ModulePicture { path: String::new(), ..module.clone() });
    store.mark_unloaded(other);
    assert_eq!((id, other), (ModuleId(1), ModuleId(2)));
    let points: Vec<_> = (0..200u64)
        .map(|at_ns| HistoryPoint {
            at_ns,
            live_bytes: 1,
            live_blocks: 2,
            total_bytes: 3,
            total_blocks: 4,
            resident_bytes: 5,
            interval: IntervalCode(11),
        })
        .collect();
    for point in &points {
        store.push_history(point);
        store.lay_out_ahead();
    }
    end_epoch(&store.tables(), Ticks(2_000));
    store.loss().truncated_stacks.fetch_add(9, Ordering::Relaxed);
    let pictures = [own_picture(&store, Ticks(2_000)), reader::read(&path).expect("a running store")];
    store.finish(true);
    for picture in pictures.into_iter().chain([reader::read(&path).expect("a finished store")]) {
        assert_eq!(picture.unwinder, "framehop + replay");
        assert_eq!(picture.interval, IntervalCode(13));
        assert_eq!(picture.exact, totals);
        assert_eq!(picture.modules[1], module);
        assert_eq!(picture.modules[2], ModulePicture { path: String::new(), loaded: false, ..module.clone() });
        assert_eq!(picture.modules.len(), 3);
        let kept = picture.history.len();
        assert!(kept >= 100, "{kept}");
        assert_eq!(picture.history, points[200 - kept..]);
        assert_eq!((picture.elapsed_ns, picture.now_ticks, picture.epoch), (500, 1_000, 1));
        assert_eq!((picture.started_unix_ns, picture.ns_per_tick), (77, 0.5));
        assert_eq!(picture.loss.truncated_stacks, 9);
        assert_eq!(picture.pid, std::process::id());
        assert!(!picture.exact_mode && picture.fixed_interval_bytes == 3_000);
        assert!(!picture.command.is_empty());
    }
    std::fs::remove_file(path).expect("kept");
}

#[test]
fn many_rings_merge_by_time_and_up_to_it() {
    let seed = 0x0dd_ba11u64;
    println!("seed {seed:#x}");
    let store = Store::create(&StoreOptions { bound_bytes: 32 << 20, ..options(Place::Memory) }).expect("a store");
    let tables = store.tables();
    let mut attribution = Attribution::new(BASE, 0);
    let stacks = add_stacks(&tables, 40);
    let mut oracle = Oracle::new(seed, &[0], &[8, 64]);
    let mut choices = Random(seed);
    let mut producers = Vec::new();
    while producers.len() < 1000 {
        store.lay_out_ahead();
        let id = store.claim_ring(1).expect("rings are laid out ahead");
        producers.push(store.ring(id).expect("its words").producer());
    }
    for _ in 0..20 {
        for _ in 0..5_000 {
            let record = oracle.step(&stacks);
            producers[choices.below(1000) as usize].push(&record).expect("64 records fit");
        }
        // What is later than the time stays.
        let before = oracle.now;
        oracle.now += 1;
        let late: Vec<_> = (0..50).map(|_| oracle.step(&stacks)).collect();
        for record in &late {
            producers[choices.below(1000) as usize].push(record).expect("64 records fit");
        }
        attribution.drain(&tables, Ticks(before), &mut ());
        let unread: u64 =
            (0..1000).filter_map(|id| Some(tables.ring(crate::ring::RingId(id))?.consumer().unread())).sum();
        assert_eq!(unread, 50);
        attribution.drain(&tables, Ticks(oracle.now), &mut ());
        oracle.check(&own_picture(&store, Ticks(oracle.now)), &stacks);
    }
}
