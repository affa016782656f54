//! A curve in constant memory: values at equal steps since a start; when full, every other one goes and the step
//! doubles. Between marks the curve is straight.

/// How many marks: 3 to 6 are in use once the first doubling happened, enough for halves and quarters.
const MARKS: usize = 6;

/// A curve that starts at 0 with the value 0. All-zero bytes are the empty curve.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Marks {
    values: [f32; MARKS],
    /// log₂ of the step.
    step_shift: u8,
    /// Marks in use: 0..=MARKS.
    used: u8,
}

impl Marks {
    /// The empty curve.
    pub(crate) const EMPTY: Marks = Marks { values: [0.0; MARKS], step_shift: 0, used: 0 };

    /// Notes the curve's value at `at`, which must be called with 1, 2, 3, … in turn; only whole steps are kept.
    pub(crate) fn note(&mut self, at: u32, value: f32) {
        if at == 0 || at & ((1 << self.step_shift) - 1) != 0 {
            return;
        }
        if usize::from(self.used) == MARKS {
            for i in 0..MARKS / 2 {
                self.values[i] = self.values[2 * i + 1];
            }
            self.used = 3;
            self.step_shift += 1;
            if at & ((1 << self.step_shift) - 1) != 0 {
                return;
            }
        }
        self.values[usize::from(self.used)] = value;
        self.used += 1;
    }

    /// Multiplies the whole curve.
    pub(crate) fn rescale(&mut self, scale: f32) {
        self.values.iter_mut().for_each(|value| *value *= scale);
    }

    /// The curve at `at`, given that it is now at `now` with the value `value_now`.
    pub(crate) fn value(&self, at: f32, now: u32, value_now: f32) -> f32 {
        let step = f32::from(1u16.checked_shl(u32::from(self.step_shift.min(15))).unwrap_or(1))
            * (f32::from(self.step_shift.saturating_sub(15))).exp2();
        let (mut left, mut left_value) = (0.0, 0.0);
        let mut position = 0.0;
        for &mark in &self.values[..usize::from(self.used)] {
            position += step;
            if at <= position {
                return left_value + (mark - left_value) * (at - left) / step;
            }
            (left, left_value) = (position, mark);
        }
        let span = now as f32 - left;
        if span <= 0.0 {
            return value_now;
        }
        left_value + (value_now - left_value) * ((at - left) / span).min(1.0)
    }
}

const _: () = assert!(MARKS == 6, "halving keeps exactly three");
const _: () = assert!(size_of::<Marks>() == 28);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_straight_line_stays_straight_through_all_doublings() {
        let mut marks = Marks::default();
        for now in 1..5000u32 {
            marks.note(now, now as f32 * 3.0);
            for share in [0.25, 0.5, 0.75, 1.0] {
                let at = now as f32 * share;
                let value = marks.value(at, now, now as f32 * 3.0);
                assert!((value - at * 3.0).abs() <= 1e-3 * at.max(1.0), "at {at} of {now}: {value}");
            }
        }
    }

    #[test]
    fn a_step_is_found_within_a_third_of_the_curve() {
        let mut marks = Marks::default();
        for now in 1..=1000u32 {
            marks.note(now, if now <= 500 { now as f32 } else { 500.0 });
        }
        assert!((marks.value(500.0, 1000, 500.0) - 500.0).abs() < 170.0);
        assert!((marks.value(900.0, 1000, 500.0) - 500.0).abs() < 1.0);
    }
}
