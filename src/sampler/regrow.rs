//! What a tracked block stands for after it grew, when the interval changed since it was drawn.
//!
//! A block of a bytes in the sample with weight w = 1/P(tracked) grows by g to b bytes while the interval in force is
//! R. Had it not been tracked, its growth alone would have put it into the sample with p_R(g), at weight 1/p_R(b). The
//! expected weight stays one block exactly if a tracked block takes
//!
//! ```text
//! w' = ρ + (1 − ρ)·w,   ρ = p_R(g) / p_R(b)
//! ```
//!
//! since P·w' + (1 − P)·ρ = 1 wherever P·w = 1. With an unchanged interval w' is 1/p_R(b), the plain rule. Without this
//! a block of 500 B drawn at 1 KiB that grows to 4 KiB at 64 KiB is off by 26%.
//!
//! Weights are functions of (size, interval code) alone, so w' is reached by choosing at random between the two codes
//! whose weights enclose it, with the probability that makes the expectation right.

use super::random::Random;
use super::weight::{IntervalCode, probability};

/// The largest power-of-two interval code that is considered: 2^48 bytes.
const LAST_CODE: u8 = 48;

/// The code that a tracked block takes when it grows from `old_size` to `new_size` while `now` is in force.
pub(crate) fn regrown_interval(
    block: IntervalCode,
    old_size: u64,
    new_size: u64,
    now: IntervalCode,
    fixed_bytes: u64,
    random: &mut Random,
) -> IntervalCode {
    if block == now || new_size <= old_size {
        return block;
    }
    // Exact before, sampled now (or the reverse) happens only across sessions, which share no blocks.
    if block == IntervalCode::EXACT || now == IntervalCode::EXACT {
        return block;
    }
    let weight = |code: IntervalCode, size: u64| 1.0 / probability(size, code.interval_bytes(fixed_bytes));
    let r = now.interval_bytes(fixed_bytes);
    let rho = probability(new_size - old_size, r) / probability(new_size, r);
    let target = rho + (1.0 - rho) * weight(block, old_size);
    let mut below = IntervalCode(2);
    if target <= weight(below, new_size) {
        return below;
    }
    for code in 3..=LAST_CODE {
        let above = IntervalCode(code);
        let (low, high) = (weight(below, new_size), weight(above, new_size));
        if target <= high {
            let share = (target - low) / (high - low);
            return if random.unit() <= share { above } else { below };
        }
        below = above;
    }
    below
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Blocks born at one interval grow in steps at others; the mean weight must stay one block.
    /// False-failure rate: 5 standard errors a case, about one in 10^6 each.
    #[test]
    fn the_expected_weight_stays_one_across_changes_of_the_interval() {
        let cases: [(u8, &[(u64, u8)]); 5] = [
            (10, &[(500, 10), (4096, 16)]),
            (16, &[(500, 16), (4096, 10)]),
            (12, &[(64, 12), (128, 14), (256, 11), (8192, 18)]),
            (18, &[(1000, 18), (2000, 10), (3000, 10), (9000, 13)]),
            (10, &[(100, 10), (200, 10), (400, 10)]),
        ];
        for (case, (_, steps)) in cases.iter().enumerate() {
            let mut random = Random::new(7 + case as u64);
            let n = 400_000u32;
            let (mut sum, mut squares) = (0.0, 0.0);
            for _ in 0..n {
                let mut tracked: Option<IntervalCode> = None;
                let mut size = 0;
                for &(new, now) in *steps {
                    let now = IntervalCode(now);
                    tracked = match tracked {
                        Some(code) => Some(regrown_interval(code, size, new, now, 0, &mut random)),
                        None => (random.unit() <= probability(new - size, now.interval_bytes(0))).then_some(now),
                    };
                    size = new;
                }
                let w = tracked.map_or(0.0, |code| 1.0 / probability(size, code.interval_bytes(0)));
                sum += w;
                squares += w * w;
            }
            let n = f64::from(n);
            let mean = sum / n;
            let error = ((squares / n - mean * mean) / n).sqrt();
            assert!((mean - 1.0).abs() < 5.0 * error, "case {case}: {mean} ± {error}");
        }
    }
}
