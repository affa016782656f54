//! What a history remembers of streams of births and frees that are known.

use super::*;

struct Alive {
    birth: u32,
    size: u64,
}

fn block(size: u64, interval_bytes: f64) -> Block {
    Block { size, interval_bytes, weight: Weight::of(size, interval_bytes), thread: 0 }
}

/// Numbers below what is asked for, by xorshift.
fn numbers(seed: u64) -> impl FnMut(u64) -> u64 {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    move |n| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) % n
    }
}

/// Against a list of all blocks: sums are exact at any time; as long as cohorts are one epoch wide so are the
/// ladder's counts, and later on they err towards innocence only.
#[test]
fn counts_equal_those_of_a_plain_list() {
    for seed in 1..=40u64 {
        let mut random = numbers(seed);
        let origin = 17;
        let mut history = History::EMPTY;
        history.begin(origin);
        let mut alive: Vec<Alive> = Vec::new();
        let (mut matured, mut died) = ([0.0f32; RUNGS], [0.0f32; RUNGS]);
        let (mut true_matured, mut true_died) = ([0.0f32; RUNGS], [0.0f32; RUNGS]);
        for now in origin..origin + 300 {
            for _ in 0..random(6) {
                let size = 1 + random(5000);
                history.born(now, &block(size, 0.0));
                alive.push(Alive { birth: now, size });
            }
            for _ in 0..random(6).min(alive.len() as u64) {
                #[expect(clippy::cast_possible_truncation, reason = "an index")]
                let gone = alive.swap_remove(random(alive.len() as u64) as usize);
                history.freed(gone.birth, now, &block(gone.size, 0.0));
                for r in 0..RUNGS {
                    // It reached the age at the end of an earlier epoch.
                    true_died[r] += if now > gone.birth + RUNG_EPOCHS[r] { 1.0 } else { 0.0 };
                }
            }
            for (r, step) in history.end_epoch(now).into_iter().enumerate() {
                matured[r] += step.matured;
                died[r] += step.died;
                true_matured[r] += alive.iter().filter(|b| b.birth + RUNG_EPOCHS[r] == now).count() as f32;
            }
            let bytes: u64 = alive.iter().map(|block| block.size << 8).sum();
            assert_eq!(history.live_total, bytes, "seed {seed}, epoch {now}");
            assert_eq!(history.live_bytes.iter().sum::<u64>(), bytes, "seed {seed}, epoch {now}");
            assert_eq!(history.live_samples(), alive.len() as f32, "seed {seed}, epoch {now}");
            for r in 0..RUNGS {
                let label = format!("seed {seed}, epoch {now}, rung {r}");
                if history.width_shift == 0 {
                    assert_eq!((matured[r], died[r]), (true_matured[r], true_died[r]), "{label}");
                }
                let old = alive.iter().filter(|block| block.birth + RUNG_EPOCHS[r] <= now).count() as f32;
                assert!(matured[r] - died[r] <= old, "{label}: {} - {} > {old}", matured[r], died[r]);
            }
        }
        assert_eq!(history.width_shift, 4, "300 epochs in 32 cohorts of 16");
    }
}

/// A site whose interval falls and rises keeps counting fairly: its live evidence never exceeds its samples.
#[test]
fn evidence_is_measured_by_the_coarsest_interval_lately() {
    let near = |history: &History, samples: f32| {
        assert!((history.live_samples() - samples).abs() < 0.05, "{} is not {samples}", history.live_samples());
    };
    let mut history = History::EMPTY;
    history.begin(0);
    (0..64).for_each(|_| history.born(0, &block(16, 1024.0)));
    assert_eq!(history.live_samples(), 64.0);
    // One sample at 16 KiB stands for sixteen at 1 KiB: (1 - e^(-16/16384)) / (1 - e^(-16/1024)) = 0.063.
    history.born(1, &block(16, 16384.0));
    near(&history, 64.0 * 0.06296 + 1.0);
    history.born(1, &block(16, 1024.0));
    near(&history, 65.0 * 0.06296 + 1.0);
    // Large blocks are in every sample, so they count in full at any interval.
    history.born(1, &block(1 << 24, 1024.0));
    near(&history, 65.0 * 0.06296 + 2.0);
    (0..64).for_each(|_| history.freed(0, 2, &block(16, 1024.0)));
    near(&history, 0.06296 + 2.0);
}

#[test]
fn frees_of_blocks_older_than_the_history_count_against_a_leak() {
    let mut history = History::EMPTY;
    history.begin(100);
    history.freed(90, 101, &block(64, 0.0));
    let died: Vec<f32> = history.end_epoch(101).iter().map(|step| step.died).collect();
    assert_eq!(died, [1.0, 1.0, 0.0, 0.0, 0.0]);
    assert_eq!(history.live_total, 0);
}
