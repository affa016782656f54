//! A clock that goes back hides no records.

use super::*;
use crate::store::attribution::Attribution;

/// Two threads write while the clock is five hours ahead; then it goes back, and both go on. Neither may wait for five hours.
#[test]
fn records_from_ahead_of_a_clock_that_went_back_are_due() {
    let store = Store::create(&options(Place::Memory)).expect("a store");
    let tables = store.tables();
    let stack = add_stack(&tables, StackId::ROOT, 5);
    let mut attribution = Attribution::new(BASE, 0);
    let mut producers = [1, 2].map(|thread| {
        let ring = store.claim_ring(thread).expect("a ring");
        store.ring(ring).expect("its words").producer()
    });
    let record = |at| Record {
        at: Ticks(at),
        kind: Kind::Alloc,
        stack,
        interval: IntervalCode::EXACT,
        size: 10,
        old_size: 0,
        old_interval: IntervalCode::EXACT,
        birth: Ticks(0),
        carried: 0.0,
    };
    let ahead = 2_000 + (18_000 << 31);
    producers[0].push(&record(1_500)).expect("room");
    for producer in &mut producers {
        for at in [ahead, 1_600, 1_700] {
            producer.push(&record(at)).expect("room");
        }
    }
    // One of the two begins with what hides the rest; the other gets there.
    let mut drained = attribution.drain(&tables, Ticks(1_800), &mut ());
    drained += attribution.drain(&tables, Ticks(1_800), &mut ());
    assert_eq!(drained, 7);
    // Later by less than that is later: it waits.
    producers[0].push(&record(1_900)).expect("room");
    assert_eq!(attribution.drain(&tables, Ticks(1_800), &mut ()), 0);
    assert_eq!(attribution.drain(&tables, Ticks(1_900), &mut ()), 1);
    let picture = own_picture(&store, Ticks(2_000));
    assert_eq!(picture.sites.iter().map(|site| site.figures.live.whole_blocks()).sum::<u64>(), 8);
}
