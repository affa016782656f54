use super::*;
use std::collections::HashSet;

fn range() -> &'static Range {
    static ONCE: std::sync::Once = std::sync::Once::new();
    static TEST_RANGE: Range = Range::new();
    ONCE.call_once(|| TEST_RANGE.reserve());
    &TEST_RANGE
}

fn layout(size: usize, align: usize) -> Layout {
    Layout::from_size_align(size, align).expect("valid")
}

#[test]
fn slots_are_aligned_disjoint_and_found_again() {
    let range = range();
    let mut seen: Vec<(usize, usize)> = Vec::new();
    let mut slots = Vec::new();
    for size in (1..=SLOT_MAX_BYTES).step_by(797) {
        for align in [1, 16, 64, 4096, SLOT_MAX_BYTES] {
            let Some((at, slot)) = range.take(Half::Sampled, layout(size, align)) else { panic!("{size} {align}") };
            assert_eq!(at.as_ptr().addr() % align, 0);
            assert!(Range::slot_bytes(slot) >= size);
            assert_eq!(range.locate(at.as_ptr()), Some((Half::Sampled, slot)));
            // SAFETY: the slot is ours and that long.
            let last = unsafe { at.as_ptr().add(size - 1) };
            assert_eq!(range.locate(last), Some((Half::Sampled, slot)));
            // SAFETY: as above.
            unsafe { last.write(1) };
            seen.push((at.as_ptr().addr(), Range::slot_bytes(slot)));
            slots.push(slot);
        }
    }
    seen.sort_unstable();
    assert!(seen.windows(2).all(|w| w[0].0 + w[0].1 <= w[1].0), "overlap");
    for slot in slots {
        // SAFETY: taken above, used no more.
        unsafe { range.give(slot) };
    }
}

/// Linux aligns large mappings to 2 MiB since 6.7; before, to a page.
#[test]
fn the_range_is_aligned_wherever_the_system_maps_it() {
    for page in 1..=16 {
        let mapped = std::ptr::without_provenance_mut(page * 4096);
        let first = Range::aligned(mapped);
        assert!(first.addr().is_multiple_of(SLOT_MAX_BYTES), "{first:?}");
        assert!(first >= mapped && first.addr() - mapped.addr() < SLOT_MAX_BYTES, "{first:?}");
    }
}

#[test]
fn larger_than_the_limit_is_refused_and_foreign_pointers_are_not_ours() {
    let range = range();
    assert!(range.take(Half::Sampled, layout(SLOT_MAX_BYTES + 1, 1)).is_none());
    assert!(range.take(Half::Sampled, layout(1, SLOT_MAX_BYTES * 2)).is_none());
    let mut local = 0u8;
    assert!(!range.contains(&raw mut local));
    assert!(range.locate(null_mut()).is_none());
}

#[test]
fn own_blocks_may_be_large_and_are_told_apart() {
    let range = range();
    let (at, slot) = range.take(Half::Own, layout(3 << 20, 8)).expect("own");
    // SAFETY: 3 MiB are ours.
    let last = unsafe { at.as_ptr().add((3 << 20) - 1) };
    // SAFETY: as above.
    unsafe { last.write(7) };
    assert_eq!(range.locate(at.as_ptr()), Some((Half::Own, slot)));
    // SAFETY: taken above, used no more.
    unsafe { range.give(slot) };
}

#[test]
fn threads_never_share_a_slot() {
    let range = range();
    let threads: Vec<_> = (0..4)
        .map(|t: u64| {
            std::thread::spawn(move || {
                let mut held = Vec::new();
                let mut random = t * 2 + 1;
                for _ in 0..20_000 {
                    random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    if held.len() < 50 || random >> 63 == 0 {
                        let (at, slot) = range.take(Half::Sampled, layout(200, 8)).expect("room");
                        // SAFETY: ours.
                        unsafe { at.as_ptr().cast::<u64>().write(t) };
                        held.push((at.as_ptr().addr(), slot));
                    } else {
                        let index = usize::try_from(random >> 33).expect("64 bits") % held.len();
                        let (at, slot) = held.swap_remove(index);
                        let at: *mut u64 = std::ptr::with_exposed_provenance_mut(at);
                        // SAFETY: ours.
                        assert_eq!(unsafe { at.read() }, t, "somebody else wrote into it");
                        // SAFETY: ours, used no more.
                        unsafe { range.give(slot) };
                    }
                }
                held.into_iter().map(|(at, _)| at).collect::<Vec<_>>()
            })
        })
        .collect();
    let mut all = HashSet::new();
    for thread in threads {
        for at in thread.join().expect("no panic") {
            assert!(all.insert(at), "held by two");
        }
    }
}

/// Threads that keep free slots: they hand blocks to each other, so that piles overflow here and run empty there, and
/// give up all they keep at their end. No slot has two owners, and none is lost.
#[test]
fn kept_slots_have_one_owner_and_come_back() {
    // A range of its own: the other tests take from the shared one.
    static RANGE: Range = Range::new();
    RANGE.reserve();
    let rounds = 30_000;
    let layouts = [layout(24, 8), layout(200, 8), layout(20_000, 16)];
    let (forward, arrivals) = std::sync::mpsc::sync_channel::<(usize, u64)>(500);
    let free = |kept: &mut Kept, (at, mark): (usize, u64)| {
        let at: *mut u64 = std::ptr::with_exposed_provenance_mut(at);
        // SAFETY: handed to us by its owner.
        assert_eq!(unsafe { at.read() }, mark, "somebody else wrote into it");
        // SAFETY: handed out by the range.
        let (slot, entry) = unsafe { RANGE.sampled(at.cast()) }.expect("a slot");
        // SAFETY: ours, used no more.
        unsafe { RANGE.give_kept(kept, slot, entry) };
    };
    std::thread::scope(|scope| {
        for thread in 0..2u64 {
            let forward = forward.clone();
            scope.spawn(move || {
                let mut kept = Kept::new();
                let mut held = Vec::new();
                let mut random = thread * 2 + 1;
                for round in 0..rounds {
                    random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    let layout = layouts[usize::try_from(random >> 40).expect("64 bits") % layouts.len()];
                    let (at, entry) = RANGE.take_kept(&mut kept, SmallClass::of(layout).expect("small")).expect("room");
                    let (_, slot) = RANGE.locate(at.as_ptr()).expect("of the range");
                    assert!(Range::slot_bytes(slot) >= layout.size() && at.as_ptr().addr() % layout.align() == 0);
                    assert_eq!(
                        RANGE.entry(slot).map(|beside| std::ptr::from_ref(beside.entry)),
                        Some(std::ptr::from_ref(entry))
                    );
                    let mark = thread << 32 | round;
                    // SAFETY: ours.
                    unsafe { at.as_ptr().cast::<u64>().write(mark) };
                    held.push((at.as_ptr().expose_provenance(), mark));
                    match random >> 62 {
                        0 => forward.send(held.swap_remove(0)).expect("somebody listens"),
                        1 | 2 => free(&mut kept, held.swap_remove(held.len() / 2)),
                        _ => {}
                    }
                }
                held.into_iter().for_each(|block| free(&mut kept, block));
                RANGE.give_but(&mut kept, |_| 0);
                assert!(kept.piles.iter().all(|pile| pile.top == 0));
            });
        }
        drop(forward);
        scope.spawn(move || {
            let mut kept = Kept::new();
            arrivals.into_iter().for_each(|block| free(&mut kept, block));
            RANGE.give_but(&mut kept, |_| 0);
        });
    });
    for layout in layouts {
        let class = Range::class_of(Half::Sampled, layout).expect("small");
        let span = &RANGE.spans[class];
        let bumped = span.state.bumped.load(Ordering::Relaxed);
        let back = std::iter::from_fn(|| span.pop()).collect::<HashSet<_>>();
        assert_eq!(back.len(), bumped as usize, "every slot that was handed out came back, once");
    }
}

/// A thread that asks for a few slots finds a few; one that goes on soon finds half a pile.
#[test]
fn a_thread_asks_for_few_slots_at_first_and_then_for_more() {
    static RANGE: Range = Range::new();
    RANGE.reserve();
    let layout = layout(24, 8);
    let class = SmallClass::of(layout).expect("small");
    let take = |kept: &mut Kept| RANGE.take_kept(kept, class).expect("room");
    let mut other = Kept::new();
    let held = (0..64).map(|_| take(&mut other)).collect::<Vec<_>>();
    for (at, _) in held {
        // SAFETY: handed out by the range.
        let (slot, entry) = unsafe { RANGE.sampled(at.as_ptr()) }.expect("a slot");
        // SAFETY: ours, used no more.
        unsafe { RANGE.give_kept(&mut other, slot, entry) };
    }
    RANGE.give_but(&mut other, |_| 0);
    let mut kept = Kept::new();
    let room = |kept: &Kept| kept.piles.iter().map(|pile| pile.room).sum::<u32>();
    let all = room(&kept);
    let refills = std::iter::from_fn(|| {
        // The pile is empty: this one refills it.
        take(&mut kept);
        let found = all - room(&kept) + 1;
        for _ in 1..found {
            take(&mut kept);
        }
        Some(found)
    });
    assert_eq!(refills.take(4).collect::<Vec<_>>(), [4, 8, 16, 32]);
}

/// The slot of a block that grows or shrinks to these sizes, one after the other: by the bytes of its slot.
fn course(sizes: &[usize]) -> Vec<usize> {
    let range = range();
    let mut old = sizes[0];
    let (_, mut slot) = range.take(Half::Sampled, layout(old, 8)).expect("small");
    let mut slots = vec![Range::slot_bytes(slot)];
    for &size in &sizes[1..] {
        let new = layout(size, 8);
        if !Range::stays(slot, old, new) {
            let wanted = if size > old { Range::with_room(new) } else { new };
            // SAFETY: taken above, used no more.
            unsafe { range.give(slot) };
            slot = range.take(Half::Sampled, wanted).expect("small").1;
            assert!(Range::slot_bytes(slot) >= size);
        }
        slots.push(Range::slot_bytes(slot));
        old = size;
    }
    // SAFETY: as above.
    unsafe { range.give(slot) };
    slots
}

#[test]
fn blocks_that_grow_have_room_from_a_page_on_and_blocks_that_shrink_have_none() {
    let k = 1024;
    // What is made at its size is rounded up, and no more; below half a page so is what grows.
    assert_eq!(course(&[5 * k - 100]), [5 * k]);
    assert_eq!(course(&[32, 64, 65, 2 * k]), [32, 64, 80, 2 * k]);
    // Every second doubling is in place.
    assert_eq!(course(&[2 * k, 4 * k, 8 * k, 16 * k, 32 * k]), [2 * k, 8 * k, 8 * k, 32 * k, 32 * k]);
    assert_eq!(course(&[16 * k, 20 * k]), [16 * k, 32 * k]);
    // A block that shrinks leaves a slot that is twice as large as the one it needs.
    assert_eq!(course(&[2 * k, 3 * k, 2 * k + 1]), [2 * k, 6 * k, 2560]);
    assert_eq!(course(&[2 * k, 5 * k, 4 * k + 1, k]), [2 * k, 10 * k, 5 * k, k]);
    assert_eq!(course(&[8 * k, 5 * k, 4 * k]), [8 * k, 8 * k, 4 * k]);
    assert_eq!(course(&[256, 129, 128]), [256, 256, 128]);
    // And grows in what it kept.
    assert_eq!(course(&[128, 80, 112, 129]), [128, 128, 128, 160]);
}

/// The lean way asks by classes, the long way by layouts.
#[test]
fn both_ways_give_a_block_that_grows_the_same_room() {
    for size in (1..=SLOT_MAX_BYTES).step_by(61) {
        let class = SmallClass::of_bytes(size).expect("small").grown();
        let by_layout = SmallClass::of(Range::with_room(layout(size, 8))).expect("small");
        assert_eq!(class.0, by_layout.0, "{size}");
    }
    let large = layout(SLOT_MAX_BYTES + 1, 8);
    assert_eq!(Range::with_room(large), large);
}

/// Of what a thread keeps at its end the next one inherits the slots that were used last, as many as a short thread needs; all
/// others are everybody's, and none is lost.
#[test]
fn a_thread_leaves_some_slots_to_the_next_and_the_others_to_all() {
    static RANGE: Range = Range::new();
    RANGE.reserve();
    for (size, most) in [(16, 16), (128, 16), (256, 8), (2048, 1), (4096, 0), (32 * 1024, 0)] {
        for held in [1, 2, 5, 8, 9, 16, 17, 18, 40] {
            let class = SmallClass::of(layout(size, 8)).expect("small");
            let mut kept = Kept::new();
            let blocks = (0..held).map(|_| RANGE.take_kept(&mut kept, class).expect("room").0).collect::<Vec<_>>();
            for at in &blocks {
                // SAFETY: handed out by the range.
                let (slot, entry) = unsafe { RANGE.sampled(at.as_ptr()) }.expect("a slot");
                // SAFETY: ours, used no more.
                unsafe { RANGE.give_kept(&mut kept, slot, entry) };
            }
            let before = kept.piles.map(|pile| pile.room);
            RANGE.give_most(&mut kept);
            let mut kept = kept.inherited();
            // The pile is as long as its room says, and ends.
            let pile = kept.piles[class.0];
            let span = &RANGE.spans[class::OWN_CLASSES + class.0];
            let (state, entries) = (&span.state, span.open_entries());
            let next = |&top: &u32| Some(entries[top as usize - 1].next()).filter(|&top| top != 0);
            let tops = std::iter::successors(Some(pile.top).filter(|&top| top != 0), next).collect::<Vec<_>>();
            assert!(tops.len() <= most, "{size}, {held}: {}", tops.len());
            assert_eq!(tops.len(), (Kept::new().piles[class.0].room - pile.room) as usize, "{size}, {held}");
            assert!(pile.room >= before[class.0]);
            // Used last, so first again.
            let last = blocks.iter().rev().take(tops.len());
            for at in last {
                assert_eq!(RANGE.take_kept(&mut kept, class).expect("room").0, *at, "{size}, {held}");
            }
            assert_eq!(kept.piles[class.0].top, 0);
            // All others are listed.
            let listed = std::iter::from_fn(|| state.free.pop(entries)).collect::<HashSet<_>>();
            assert_eq!(listed.len() + tops.len(), state.bumped.load(Ordering::Relaxed) as usize, "{size}, {held}");
            let all = listed.into_iter().chain(tops.iter().map(|top| top - 1));
            all.for_each(|index| state.free.push(entries, index));
        }
    }
}
