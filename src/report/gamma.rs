//! The inverse of the regularised incomplete gamma function at the two ends of a 95% interval.
//!
//! Pure, never panics; relative error of a quantile below 1e-8 for shapes up to 1,000 and below 1e-6 above. P(a, x)
//! comes from its power series left of a + 1 and from Legendre's continued fraction (Lentz's evaluation) right of
//! it; its inverse is Newton's method kept inside a bracket, started from Wilson and Hilferty's cube (1931), which
//! is itself the answer for large shapes. Source: Abramowitz and Stegun, 6.1.41, 6.5.29, 6.5.31, 26.4.17.

/// A probability with the standard normal's quantile at it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Level {
    probability: f64,
    normal_quantile: f64,
}

/// The lower end of a two-sided 95% interval.
pub(super) const LOWER: Level = Level { probability: 0.025, normal_quantile: -1.959_963_984_540_054 };
/// The upper end of a two-sided 95% interval.
pub(super) const UPPER: Level = Level { probability: 0.975, normal_quantile: 1.959_963_984_540_054 };

/// Above this shape Wilson and Hilferty's cube is within 1e-6 of the quantile; P itself would take √shape terms.
const CUBE_SHAPE: f64 = 1000.0;
/// Terms of either expansion: both need a few times √shape near the quantiles.
const TERMS_MAX: usize = 1000;
/// Newton from a start that is right to three digits needs four steps; the bracket halves otherwise.
const STEPS_MAX: usize = 80;

/// The x with P(`shape`, x) = the level's probability: that quantile of the gamma distribution of scale 1. 0.0 for
/// a shape that is not positive.
pub(super) fn quantile(shape: f64, level: Level) -> f64 {
    if shape.is_nan() || shape <= 0.0 {
        return 0.0;
    }
    let start = cube(shape, level.normal_quantile);
    if shape > CUBE_SHAPE {
        return start;
    }
    let ln_gamma_shape = ln_gamma(shape);
    // For small shapes the cube is off by its own size (or negative); P(a, x) ≈ x^a / Γ(a + 1) near 0 is not.
    let near_zero = ((level.probability.ln() + ln_gamma_shape + shape.ln()) / shape).exp();
    let mut x = if shape < 1.0 || start <= 0.0 { near_zero.max(f64::MIN_POSITIVE) } else { start };
    let (mut low, mut high) = (0.0, f64::INFINITY);
    for _ in 0..STEPS_MAX {
        let error = regularised(shape, x, ln_gamma_shape) - level.probability;
        if error > 0.0 {
            high = x;
        } else {
            low = x;
        }
        let density = ((shape - 1.0) * x.ln() - x - ln_gamma_shape).exp();
        let mut next = x - error / density;
        if !(next > low && next < high) {
            next = if high.is_finite() { 0.5 * (low + high) } else { 2.0 * x };
        }
        // Newton squares the error: what is left is 1e-16.
        if (next - x).abs() <= 1e-8 * x {
            return next;
        }
        x = next;
    }
    x
}

/// Wilson and Hilferty: the cube root of a gamma variable is nearly normal.
fn cube(shape: f64, normal_quantile: f64) -> f64 {
    let ninth = 1.0 / (9.0 * shape);
    shape * (1.0 - ninth + normal_quantile * ninth.sqrt()).powi(3)
}

/// P(shape, x), for shape and x above 0.
fn regularised(shape: f64, x: f64, ln_gamma_shape: f64) -> f64 {
    let factor = (shape * x.ln() - x - ln_gamma_shape).exp();
    if x < shape + 1.0 {
        let mut term = 1.0 / shape;
        let mut sum = term;
        let mut n = shape;
        for _ in 0..TERMS_MAX {
            n += 1.0;
            term *= x / n;
            sum += term;
            if term < sum * 1e-16 {
                break;
            }
        }
        (factor * sum).min(1.0)
    } else {
        // Q = factor / (x + 1 - a - 1(1-a)/(x + 3 - a - 2(2-a)/(x + 5 - a - …)))
        const TINY: f64 = 1e-300;
        let mut b = x + 1.0 - shape;
        let mut c = 1.0 / TINY;
        let mut d = 1.0 / b;
        let mut fraction = d;
        let mut n = 0.0;
        for _ in 0..TERMS_MAX {
            n += 1.0;
            let a = n * (shape - n);
            b += 2.0;
            d = 1.0 / not_zero(a * d + b, TINY);
            c = not_zero(b + a / c, TINY);
            let step = c * d;
            fraction *= step;
            if (step - 1.0).abs() < 1e-16 {
                break;
            }
        }
        (1.0 - factor * fraction).max(0.0)
    }
}

fn not_zero(value: f64, tiny: f64) -> f64 {
    if value.abs() < tiny { tiny } else { value }
}

/// ln Γ(x) for x > 0, by Stirling's series after stepping x up to where seven terms of it are exact to 1e-15.
fn ln_gamma(x: f64) -> f64 {
    let mut shifted = x;
    let mut product = 1.0;
    while shifted < 10.0 {
        product *= shifted;
        shifted += 1.0;
    }
    let inverse = 1.0 / shifted;
    let square = inverse * inverse;
    // B₂ₙ / (2n(2n − 1)), n = 1 to 7
    let series = inverse
        * (1.0 / 12.0
            - square
                * (1.0 / 360.0
                    - square
                        * (1.0 / 1260.0
                            - square
                                * (1.0 / 1680.0
                                    - square * (1.0 / 1188.0 - square * (691.0 / 360_360.0 - square / 156.0))))));
    let half_ln_two_pi = 0.918_938_533_204_672_8;
    (shifted - 0.5) * shifted.ln() - shifted + half_ln_two_pi + series - product.ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(found: f64, published: f64, relative: f64) {
        assert!((found - published).abs() <= relative * published, "{found} is not {published}");
    }

    #[test]
    fn ln_gamma_has_its_known_values() {
        close(ln_gamma(0.5), std::f64::consts::PI.sqrt().ln(), 1e-14);
        close(ln_gamma(5.0), 24f64.ln(), 1e-14);
        close(ln_gamma(21.0), 2_432_902_008_176_640_000f64.ln(), 1e-14);
        close(ln_gamma(100.0), 359.134_205_369_575_4, 1e-14);
    }

    /// Half of the tabulated 2.5% and 97.5% points of chi-square with twice the shape's degrees of freedom.
    #[test]
    fn quantiles_are_the_published_ones() {
        for (shape, low, high) in [
            (0.5, 0.000_982_069, 5.023_886),
            (1.0, 0.050_635_6, 7.377_759),
            (1.5, 0.215_795, 9.348_404),
            (5.0, 3.246_973, 20.483_177),
            (10.0, 9.590_777, 34.169_607),
            (20.0, 24.433_039, 59.341_707),
            (50.0, 74.221_927, 129.561_197),
        ] {
            close(quantile(shape, LOWER), low / 2.0, 3e-6);
            close(quantile(shape, UPPER), high / 2.0, 3e-7);
        }
    }

    /// P(1, x) = 1 − e^−x: both expansions against the closed form.
    #[test]
    fn regularised_agrees_with_the_exponential() {
        for x in [1e-6, 0.1, 0.9, 1.9, 2.1, 5.0, 40.0] {
            let found = regularised(1.0, x, ln_gamma(1.0));
            assert!((found + (-x).exp_m1()).abs() < 1e-14, "{x}: {found}");
        }
    }

    #[test]
    fn quantiles_invert() {
        for shape in [1e-3, 0.05, 0.3, 1.0, 2.5, 17.0, 333.3, 999.0] {
            for level in [LOWER, UPPER] {
                let x = quantile(shape, level);
                if x > f64::MIN_POSITIVE {
                    let back = regularised(shape, x, ln_gamma(shape));
                    assert!((back - level.probability).abs() < 1e-9, "{shape}: {back}");
                }
            }
        }
    }

    #[test]
    fn the_cube_takes_over_smoothly() {
        for level in [LOWER, UPPER] {
            let exact = quantile(CUBE_SHAPE, level);
            close(cube(CUBE_SHAPE, level.normal_quantile), exact, 1e-6);
        }
    }

    #[test]
    fn senseless_shapes_give_nothing() {
        assert_eq!(quantile(0.0, UPPER), 0.0);
        assert_eq!(quantile(-1.0, UPPER), 0.0);
        assert_eq!(quantile(f64::NAN, UPPER), 0.0);
        assert!(quantile(1e300, UPPER).is_finite());
    }
}
