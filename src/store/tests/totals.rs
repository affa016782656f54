//! Totals and sites of one picture are of one moment, whatever was counted when.

use super::*;
use crate::store::attribution::Attribution;
use crate::store::epoch::end_epoch;
use crate::store::picture::{ExactTotals, Life};
use crate::store::reader;

fn event(at: u64, kind: Kind, stack: StackId, size: u64) -> Record {
    Record {
        at: Ticks(at),
        kind,
        stack,
        interval: IntervalCode::EXACT,
        size,
        old_size: 0,
        old_interval: IntervalCode::EXACT,
        birth: Ticks(if kind == Kind::Alloc { 0 } else { 1_001 }),
        carried: 0.0,
    }
}

/// Live bytes and blocks, of the sites together and of the totals.
fn live(picture: &Picture) -> [(u64, u64); 2] {
    let of_sites = picture.sites.iter().map(|site| site.figures.live);
    let of_sites = of_sites.fold((0, 0), |sum, live| (sum.0 + live.whole_bytes(), sum.1 + live.whole_blocks()));
    let exact = &picture.exact;
    [of_sites, (exact.total_bytes - exact.freed_bytes, exact.total_blocks - exact.freed_blocks)]
}

/// A tick copies the totals; then the program goes on, and what it does is read, drained or in its rings.
#[test]
fn totals_are_of_the_moment_of_the_sites() {
    let path = temporary("one-moment");
    let store = Store::create(&options(Place::Path(path.clone()))).expect("a store");
    let tables = store.tables();
    let stack = add_stack(&tables, StackId::ROOT, 5);
    let mut attribution = Attribution::new(BASE, 0);
    let mut producer = store.ring(store.claim_ring(1).expect("a ring")).expect("its words").producer();
    for (at, size) in [(1_001, 100), (1_002, 50)] {
        producer.push(&event(at, Kind::Alloc, stack, size)).expect("room");
    }
    attribution.drain(&tables, Ticks(1_002), &mut ());
    // Summed a block earlier; the maximum is of a block earlier still; older blocks are counted apart.
    let counted = ExactTotals {
        total_bytes: 100,
        total_blocks: 1,
        max_live_bytes: 60,
        max_live_blocks: 1,
        older_freed_bytes: 7,
        older_freed_blocks: 1,
        ..ExactTotals::default()
    };
    store.set_exact_totals(&counted, Ticks(1_002));
    end_epoch(&tables, Ticks(1_002));
    let read =
        |gone: bool| reader::read_from(&std::fs::read(&path).expect("the file")[..], |_| gone).expect("a sound store");
    let total = |picture: &Picture| (picture.exact.total_bytes, picture.exact.total_blocks);
    let max = |picture: &Picture| (picture.exact.max_live_bytes, picture.exact.max_live_blocks);
    for picture in [own_picture(&store, Ticks(1_002)), read(false)] {
        assert_eq!((live(&picture), total(&picture), max(&picture)), ([(150, 2); 2], (150, 2), (150, 2)));
        assert_eq!((picture.exact.older_freed_bytes, picture.exact.older_freed_blocks), (7, 1));
    }
    producer.push(&event(1_003, Kind::Alloc, stack, 1000)).expect("room");
    producer.push(&event(1_004, Kind::Free, stack, 100)).expect("room");
    // The open epoch is not a live reader's.
    assert_eq!((live(&read(false)), max(&read(false))), ([(150, 2); 2], (150, 2)));
    let dead = read(true);
    assert_eq!((dead.life, live(&dead), total(&dead)), (Life::Killed, [(1050, 2); 2], (1150, 3)));
    assert_eq!((max(&dead), dead.totals_stale_ns), ((1150, 3), 0));
    attribution.drain(&tables, Ticks(1_004), &mut ());
    let own = own_picture(&store, Ticks(1_004));
    assert_eq!((live(&own), total(&own), max(&own)), ([(1050, 2); 2], (1150, 3), (1150, 3)));
}

/// Where records were lost the counters know more than the sites; the maximum is no less than what is live then, too.
#[test]
fn what_was_lost_is_in_the_totals_alone() {
    let path = temporary("lost-totals");
    let store = Store::create(&options(Place::Path(path.clone()))).expect("a store");
    let tables = store.tables();
    let stack = add_stack(&tables, StackId::ROOT, 5);
    Attribution::new(BASE, 0).apply(&tables, &event(1_001, Kind::Alloc, stack, 100), None, &mut ());
    let counted = ExactTotals {
        total_bytes: 400,
        total_blocks: 5,
        freed_bytes: 100,
        freed_blocks: 1,
        max_live_bytes: 60,
        max_live_blocks: 9,
        ..ExactTotals::default()
    };
    store.set_exact_totals(&counted, Ticks(1_002));
    end_epoch(&tables, Ticks(1_002));
    store.loss().dropped_records.fetch_add(3, Ordering::Relaxed);
    let expected = ExactTotals { max_live_bytes: 300, max_live_blocks: 4, ..counted };
    assert_eq!(own_picture(&store, Ticks(1_002)).exact, expected);
    for gone in [false, true] {
        let bytes = std::fs::read(&path).expect("the file");
        assert_eq!(reader::read_from(&bytes[..], |_| gone).expect("a sound store").exact, expected);
    }
}
