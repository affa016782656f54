//! Tables and arenas as the spine sees them, and what only looks like them.

use super::*;
use crate::sampler::weight::Weight;

fn block(size: u64) -> Block {
    Block { size, interval_bytes: 0.0, weight: Weight::of(size, 0.0), thread: 7 }
}

/// Feeds a table that holds `fill(t)` bytes at epoch t, and returns when each tier was first reached.
fn run(fill: impl Fn(f64) -> f64, epochs: u32) -> (Option<u32>, Option<u32>, Tier) {
    let config = LeakConfig::default();
    let mut spine = Spine::default();
    let (mut suspected, mut leak, mut tier) = (None, None, Tier::None);
    let mut capacity = 64u64;
    spine.born(&block(capacity), 0);
    for now in 0..epochs {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small positive test figures")]
        let needed = fill(f64::from(now) + 1.0) as u64;
        while capacity < needed {
            spine.born(&block(capacity * 2), now);
            spine.freed(capacity, 7, now);
            capacity *= 2;
        }
        spine.end_epoch(now);
        tier = spine.tier(now, tier, &config);
        if tier >= Tier::Suspected {
            suspected.get_or_insert(now);
        }
        if tier == Tier::Leak {
            leak.get_or_insert(now);
        }
    }
    (suspected, leak, tier)
}

#[test]
fn linear_growth_is_a_leak_in_time_at_every_phase_of_its_doublings() {
    for step in 0..200 {
        let rate = 500.0 * (1.0 + f64::from(step) / 200.0);
        let (suspected, leak, end) = run(|t| rate * t, 480);
        assert!(suspected.is_some_and(|at| at <= 75), "rate {rate}: suspected {suspected:?}");
        assert!(leak.is_some_and(|at| at <= 200), "rate {rate}: leak {leak:?}");
        assert_eq!(end, Tier::Leak, "rate {rate}");
    }
}

#[test]
fn a_table_that_fills_and_is_reused_is_no_leak() {
    for filled in [5.0f64, 20.0, 38.0, 60.0, 77.0, 85.0] {
        let (_, leak, end) = run(|t| 700.0 * t.min(filled), 480);
        assert_eq!((leak, end), (None, Tier::None), "filled at {filled}");
    }
}

#[test]
fn a_square_root_is_no_leak() {
    let (_, leak, _) = run(|t| 4000.0 * t.sqrt(), 480);
    assert_eq!(leak, None);
}

#[test]
fn ever_larger_buffers_that_are_freed_again_are_no_table() {
    let mut spine = Spine::NONE;
    for now in 0..480u32 {
        // Heavy-tailed requests: the largest so far doubles whenever the time does.
        let mut size = 64;
        while size <= 64 * u64::from(now) {
            spine.grew(size, size * 2, now);
            size *= 2;
        }
        spine.freed(size, 7, now);
        spine.end_epoch(now);
        assert!(spine.tier(now, Tier::None, &LeakConfig::default()) < Tier::Suspected);
    }
}

/// An arena that holds `fill(t)` bytes at epoch t, of chunks that double; `of_chunk` is done to each when the next one is allocated.
fn arena(
    fill: impl Fn(f64) -> f64,
    epochs: u32,
    mut of_chunk: impl FnMut(&mut Spine, u64, u32),
) -> (Option<u32>, Tier, Spine) {
    let (mut spine, mut tier, mut suspected) = (Spine::default(), Tier::None, None);
    let (mut chunk, mut room) = (512u64, 512u64);
    spine.born(&block(chunk), 0);
    for now in 0..epochs {
        while (room as f64) < fill(f64::from(now) + 1.0) {
            spine.born(&block(chunk * 2), now);
            of_chunk(&mut spine, chunk, now);
            chunk *= 2;
            room += chunk;
        }
        spine.end_epoch(now);
        tier = spine.tier(now, tier, &LeakConfig::default());
        if tier >= Tier::Suspected {
            suspected.get_or_insert(now);
        }
    }
    (suspected, tier, spine)
}

#[test]
fn an_arena_that_is_never_reset_is_a_leak_and_grows_as_fast_as_what_it_holds() {
    for step in 0..100 {
        let rate = 3000.0 * (1.0 + f64::from(step) / 100.0);
        let (suspected, end, spine) = arena(|t| rate * t, 480, |_, _, _| ());
        assert!(suspected.is_some_and(|at| at <= 140), "rate {rate}: suspected {suspected:?}");
        assert_eq!((end, spine.is_of_chunks()), (Tier::Leak, true), "rate {rate}");
        let filling = spine.filling(479).expect("it grows");
        let (pace, held) = (f64::from(filling.bytes_per_epoch) / rate, f64::from(filling.held_bytes) / (480.0 * rate));
        assert!((0.75..1.25).contains(&pace), "rate {rate}: {pace} of it");
        assert!((0.75..1.25).contains(&held), "rate {rate}: {held} of what it holds");
    }
}

#[test]
fn an_arena_that_fills_is_no_leak() {
    for filled in [5.0f64, 20.0, 38.0, 60.0, 77.0, 85.0] {
        let (_, end, _) = arena(|t| 7000.0 * t.min(filled), 480, |_, _, _| ());
        assert_eq!(end, Tier::None, "filled at {filled}");
    }
}

/// Larger and larger blocks, of which each is freed before the next but one, or at once: whatever they are, none was kept.
#[test]
fn ever_larger_blocks_that_are_freed_are_no_arena() {
    let mut last = 0;
    let (suspected, _, spine) = arena(
        |t| 3000.0 * t,
        480,
        |spine, _, now| {
            // The one that was allocated just now is freed in the same epoch.
            spine.freed(spine.pending_bytes, 9, now);
        },
    );
    assert_eq!((suspected, spine.is_of_chunks()), (None, false));
    let (suspected, _, spine) = arena(
        |t| 3000.0 * t,
        480,
        |spine, chunk, now| {
            // Another thread frees the one before: where it is the largest so far it is no chunk.
            spine.freed(chunk, 9, now);
            last = chunk;
        },
    );
    assert!(last > 0);
    assert_eq!((suspected, spine.is_of_chunks()), (None, false));
}

/// A table that grows, at a site that has a block of twice its size now and then, is still a table.
#[test]
fn a_block_beside_a_table_does_not_end_its_chain() {
    let mut spine = Spine::default();
    let mut capacity = 64u64;
    spine.born(&block(capacity), 0);
    for now in 0..480u32 {
        while (capacity as f64) < 700.0 * f64::from(now + 1) {
            spine.born(&block(capacity * 2), now);
            spine.freed(capacity, 7, now);
            capacity *= 2;
        }
        if now % 7 == 3 {
            spine.born(&Block { thread: 8, ..block(capacity * 2) }, now);
        }
        spine.end_epoch(now);
        if now % 7 == 6 {
            spine.freed(capacity * 2, 8, now);
        }
    }
    assert_eq!(spine.tier(479, Tier::None, &LeakConfig::default()), Tier::Leak);
    assert!(!spine.is_of_chunks());
}

/// As a sampler at 16 KiB sees a `Vec` that fills by 960 bytes an epoch, if it misses all growths up to `first` bytes.
fn sampled(first: u64, until: u32, rate: f64) -> (Option<u32>, Option<u32>) {
    let seen = |size| Block { interval_bytes: 16384.0, ..block(size) };
    let (mut spine, mut capacity, mut tier) = (Spine::NONE, 64u64, Tier::None);
    let (mut suspected, mut leak) = (None, None);
    for now in 0..until {
        while (capacity as f64) < rate * f64::from(now + 1) {
            capacity *= 2;
            match capacity.cmp(&first) {
                std::cmp::Ordering::Less => (),
                std::cmp::Ordering::Equal => spine.born(&seen(capacity), now),
                std::cmp::Ordering::Greater => spine.grew(capacity / 2, capacity, now),
            }
        }
        spine.end_epoch(now);
        tier = spine.tier(now, tier, &LeakConfig::default());
        if tier >= Tier::Suspected {
            suspected.get_or_insert(now);
        }
        if tier == Tier::Leak {
            leak.get_or_insert(now);
        }
    }
    (suspected, leak)
}

#[test]
fn a_table_first_seen_when_it_is_large_counts_from_where_its_rate_began() {
    for first in [16 << 10, 32 << 10, 64 << 10] {
        let (suspected, leak) = sampled(first, 240, 960.0);
        assert!(suspected.is_some_and(|at| at <= 75), "first seen at {first}: suspected {suspected:?}");
        assert!(leak.is_some_and(|at| at <= 200), "first seen at {first}: leak {leak:?}");
    }
    // So large, it would have been seen before: it was born large, and has to grow twice more.
    let (suspected, _) = sampled(256 << 10, 240, 3840.0);
    assert!(suspected.is_some_and(|at| at >= 130), "suspected {suspected:?}");
}

/// Six steps in the run, of a table far smaller than the interval: that a sample saw it at its second growth was luck, and says
/// nothing of how often it grew before.
#[test]
fn a_few_large_steps_that_a_sample_saw_by_luck_are_no_steady_growth() {
    for interval_bytes in [16384.0, 65536.0] {
        let seen = |size| Block { interval_bytes, ..block(size) };
        let mut spine = Spine::NONE;
        for now in 0..400u32 {
            match now {
                66 => spine.born(&seen(2880), now),
                132 => spine.grew(2880, 5760, now),
                264 => spine.grew(5760, 11520, now),
                _ => (),
            }
            spine.end_epoch(now);
            assert!(spine.tier(now, Tier::None, &LeakConfig::default()) < Tier::Suspected, "epoch {now}");
        }
    }
}

#[test]
fn a_few_large_steps_are_no_steady_growth() {
    let mut spine = Spine::NONE;
    spine.born(&block(1440), 0);
    for now in 0..400u32 {
        if let (66, size) | (132, size) | (264, size) = (now, 1440 * u64::from(now / 66)) {
            spine.grew(size, size * 2, now);
        }
        spine.end_epoch(now);
        assert!(spine.tier(now, Tier::None, &LeakConfig::default()) < Tier::Suspected, "epoch {now}");
    }
    assert_eq!(spine.growths, 3);
}

#[test]
fn many_tables_of_one_bounded_size_are_silent() {
    let mut spine = Spine::default();
    for now in 0..400u32 {
        for size in [64u64, 128, 256, 512] {
            spine.grew(size, size * 2, now);
        }
        spine.end_epoch(now);
        assert!(spine.tier(now, Tier::None, &LeakConfig::default()) < Tier::Suspected);
    }
}

/// Two buffers of one site, of which the larger one then grows where it is; a table whose old block is freed some epochs after it was
/// copied (by epochs, or by reference counts): both look like an arena's first chunks, and neither is called one, or grows twice as fast.
#[test]
fn what_is_seen_to_be_a_table_is_no_arena() {
    let rate = 1000.0;
    let pace = |spine: &Spine| f64::from(spine.filling(479).expect("it grows").bytes_per_epoch) / rate;
    let needed = |now: u32| 1000 * u64::from(now + 1);

    let (mut spine, mut capacity) = (Spine::default(), 128);
    spine.born(&block(64), 0);
    spine.born(&block(128), 0);
    for now in 0..480 {
        while now >= 5 && capacity < needed(now) {
            spine.grew(capacity, capacity * 2, now);
            capacity *= 2;
        }
        spine.end_epoch(now);
    }
    assert!(!spine.is_of_chunks() && (0.75..1.25).contains(&pace(&spine)), "{spine:?}");
    assert_eq!(spine.tier(479, Tier::None, &LeakConfig::default()), Tier::Leak);

    let (mut spine, mut capacity, mut old) = (Spine::default(), 512, Vec::new());
    spine.born(&block(capacity), 0);
    for now in 0..480 {
        while capacity < needed(now) {
            spine.born(&block(capacity * 2), now);
            old.push((now + 3, capacity));
            capacity *= 2;
        }
        old.retain(|&(due, size)| {
            if due == now {
                spine.freed(size, 7, now);
            }
            due != now
        });
        spine.end_epoch(now);
    }
    assert!(!spine.is_of_chunks() && (0.75..1.25).contains(&pace(&spine)), "{spine:?}");
    assert_eq!(spine.tier(479, Tier::None, &LeakConfig::default()), Tier::Leak);
}

/// A sampler's first sighting of a chunk, small or large, is no table that was seen to grow.
#[test]
fn an_arena_is_seen_whatever_its_first_chunk() {
    let seen = |size| Block { interval_bytes: 65536.0, ..block(size) };
    for first in [8u64 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20] {
        let (mut spine, mut tier) = (Spine::default(), Tier::None);
        let (mut chunk, mut room, mut filled) = (first, 0, 0);
        for now in 0..480 {
            if now >= 20 {
                filled += first;
            }
            while room < filled {
                spine.born(&seen(chunk), now);
                room += chunk;
                chunk *= 2;
            }
            spine.end_epoch(now);
            tier = spine.tier(now, tier, &LeakConfig::default());
        }
        assert_eq!((tier, spine.is_of_chunks()), (Tier::Leak, true), "first chunk {first}: {spine:?}");
    }
}

/// Read into a buffer of the next power of two, which is then shrunk to what was read and freed later: a heavy tail has the largest
/// so far double whenever the time does, but no such buffer is there any more.
#[test]
fn buffers_that_are_shrunk_are_no_arena() {
    let mut random = 0x9e37_79b9_7f4a_7c15u64;
    let mut unit = || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        ((random >> 11) + 1) as f64 / (1u64 << 53) as f64
    };
    for hold in [0usize, 1, 3] {
        let mut suspected = 0;
        for _ in 0..400 {
            let (mut spine, mut tier, mut ever) = (Spine::default(), Tier::None, Tier::None);
            let mut held: Vec<Vec<u64>> = Vec::new();
            for now in 0..480 {
                let mut shrunk = Vec::new();
                for _ in 0..5 {
                    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "positive and small")]
                    let read = (100.0 / unit()) as u64;
                    let buffer = read.next_power_of_two();
                    spine.born(&block(buffer), now);
                    spine.grew(buffer, read * 3 / 4, now);
                    shrunk.push(read * 3 / 4);
                }
                held.push(shrunk);
                if held.len() > hold {
                    held.remove(0).into_iter().for_each(|size| spine.freed(size, 7, now));
                }
                spine.end_epoch(now);
                tier = spine.tier(now, tier, &LeakConfig::default());
                ever = ever.max(tier);
            }
            suspected += u32::from(ever >= Tier::Suspected);
        }
        assert_eq!(suspected, 0, "held for {hold} epochs: of 400");
    }
}

/// Scratch buffers that grow with the input, C and 2C at one time, of which each is freed at once, in either order: nothing is live.
#[test]
fn buffers_that_are_freed_in_reverse_are_no_table() {
    for is_reverse in [true, false] {
        let (mut spine, mut tier, mut size) = (Spine::default(), Tier::None, 64);
        spine.born(&block(size), 0);
        for now in 0..480 {
            if size < 64 * u64::from(now) {
                spine.born(&block(size), now);
                spine.born(&block(2 * size), now);
                let (first, second) = if is_reverse { (2 * size, size) } else { (size, 2 * size) };
                spine.freed(first, 7, now);
                spine.freed(second, 7, now);
                size *= 2;
            }
            spine.end_epoch(now);
            tier = spine.tier(now, tier, &LeakConfig::default());
            assert!(tier < Tier::Suspected, "reverse: {is_reverse}, epoch {now}: {spine:?}");
        }
    }
}

/// Two buffers, of which the smaller one grows where it is and then rests: what was pending all the while is no larger block.
#[test]
fn the_largest_block_stays_the_largest() {
    let mut spine = Spine::default();
    spine.born(&block(64), 5);
    spine.born(&block(128), 5);
    let mut capacity = 64;
    for now in 5..480u32 {
        while now < 120 && capacity < 1000 * u64::from(now) {
            spine.grew(capacity, capacity * 2, now);
            capacity *= 2;
        }
        let before = spine.capacity_bytes;
        spine.end_epoch(now);
        assert!(spine.capacity_bytes >= before, "epoch {now}: {spine:?}");
    }
    assert_eq!((spine.capacity_bytes, spine.is_of_chunks()), (131_072, false));
}

/// A table that gives back a tenth after each growth is one that grows all the same.
#[test]
fn a_table_that_is_trimmed_a_little_is_a_leak() {
    let (mut spine, mut tier, mut capacity) = (Spine::default(), Tier::None, 64u64);
    spine.born(&block(capacity), 0);
    for now in 0..480 {
        while capacity < 1000 * u64::from(now + 1) {
            spine.grew(capacity, capacity * 2, now);
            spine.grew(capacity * 2, capacity * 2 / 10 * 9, now);
            capacity = capacity * 2 / 10 * 9;
        }
        spine.end_epoch(now);
        tier = spine.tier(now, tier, &LeakConfig::default());
    }
    assert_eq!(tier, Tier::Leak, "{spine:?}");
}

/// A brief block of twice the size hides no table's move in the same epoch.
#[test]
fn a_move_after_a_pair_is_a_growth() {
    let (mut spine, mut tier, mut capacity) = (Spine::default(), Tier::None, 64);
    spine.born(&block(capacity), 0);
    for now in 0..480 {
        while capacity < 1000 * u64::from(now + 1) {
            spine.born(&block(2 * capacity), now);
            spine.freed(2 * capacity, 7, now);
            assert!(spine.is_deaf_to_pair(2 * capacity, 7) && !spine.is_deaf_to_birth(2 * capacity, 7));
            spine.born(&block(2 * capacity), now);
            spine.freed(capacity, 7, now);
            capacity *= 2;
        }
        spine.end_epoch(now);
        tier = spine.tier(now, tier, &LeakConfig::default());
    }
    assert_eq!(tier, Tier::Leak, "{spine:?}");
}
