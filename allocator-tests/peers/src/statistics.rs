//! Medians of paired ratios, with intervals that assume nothing about how the noise is distributed.

/// A median and, where there are six values or more, an interval that holds the true median with at least 95% probability:
/// order statistics, by the binomial distribution of how many values lie below it. Fewer values: the whole range.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Middle {
    pub median: f64,
    pub low: f64,
    pub high: f64,
    pub count: usize,
}

/// `None` where there is nothing.
pub fn middle(values: &[f64]) -> Option<Middle> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let count = sorted.len();
    let median = match (count, count % 2) {
        (0, _) => return None,
        (_, 1) => sorted[count / 2],
        _ => f64::midpoint(sorted[count / 2 - 1], sorted[count / 2]),
    };
    let cut = cut(count);
    Some(Middle { median, low: sorted[cut], high: sorted[count - 1 - cut], count })
}

/// How many of the smallest, and as many of the largest, can be left out: the largest k with
/// P(Binomial(n, 1/2) ≤ k) · 2 ≤ 5%, where k+1 values being below the median is what would put it outside; else 0.
fn cut(count: usize) -> usize {
    let mut at_most = 0.0;
    let mut probability = 0.5_f64.powi(i32::try_from(count).unwrap_or(i32::MAX));
    for k in 0..count {
        at_most += probability;
        if 2.0 * at_most > 0.05 {
            return k.saturating_sub(1);
        }
        probability *= (count - k) as f64 / (k + 1) as f64;
    }
    0
}

/// A round's value: the median of the ratios of pairs (of a slice and its base's).
pub fn paired(pairs: &[(f64, f64)]) -> Option<f64> {
    let ratios: Vec<f64> = pairs.iter().filter(|(_, base)| *base > 0.0).map(|(value, base)| value / base).collect();
    middle(&ratios).map(|middle| middle.median)
}

#[cfg(test)]
mod tests {
    use super::{cut, middle, paired};

    #[test]
    fn intervals_are_the_tables() {
        // Conover's table of order-statistic intervals for the median, at 95% or more.
        for (count, left_out) in [(1, 0), (5, 0), (6, 0), (8, 0), (9, 1), (11, 1), (12, 2), (15, 3), (20, 5), (31, 9)] {
            assert_eq!(cut(count), left_out, "{count} values");
        }
    }

    #[test]
    fn the_median_of_nothing_is_nothing() {
        assert_eq!(middle(&[]), None);
        let four = middle(&[4.0, 1.0, 2.0, 3.0]).expect("four values");
        assert!((four.median - 2.5).abs() < 1e-9 && four.low < 1.1 && four.high > 3.9);
    }

    #[test]
    fn a_drift_and_a_few_disturbed_slices_leave_a_rounds_value_as_it_is() {
        // a machine that gets slower and faster, by a factor of two: both sides do, since they are neighbours
        let pace = |n: u32| 1.0 + f64::from(n % 7) / 6.0;
        let mut pairs: Vec<(f64, f64)> = (0..16).map(|n| (1.05 * 300.0 * pace(n), 300.0 * pace(n))).collect();
        let value = |pairs: &[(f64, f64)]| paired(pairs).expect("pairs");
        assert!((value(&pairs) - 1.05).abs() < 1e-9);
        // someone else's work, on either side
        for n in [1, 5, 6] {
            pairs[n].0 *= 3.0;
            pairs[n + 6].1 *= 3.0;
        }
        assert!((value(&pairs) - 1.05).abs() < 1e-9);
        assert_eq!(paired(&[]), None);
        assert_eq!(paired(&[(1.0, 0.0)]), None, "a base that took nothing");
    }
}
