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
        for align in [1, 16, 64, 4096] {
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
