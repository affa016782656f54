//! The judge's thresholds, in one place, with the reason for each default.
//!
//! Promises: a `LeakConfig` that passed `validate` makes every rule of this module well defined. Bad values are
//! refused with an error that names the field, the value and what is allowed; none is silently corrected.

use std::fmt;

/// The thresholds of the leak judge. All durations are in epochs (5 s each by default, or rounds of manual epochs).
///
/// More may come, so it is made from the default:
///
/// ```
/// let mut thresholds = unfreed::LeakConfig::default();
/// thresholds.suspect_after_epochs = 30;
/// let profiler = unfreed::Profiler::builder().leak_config(thresholds);
/// ```
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
#[non_exhaustive]
pub struct LeakConfig {
    /// Chance that any site at all of a steady (not growing) program is ever suspected. In (0, 0.5]. Default 0.01.
    pub alpha: f64,
    /// Growth must have lasted this long to be suspected. 8 to 1,000,000. Default 60 (5 minutes): the warm-ups of
    /// most services are over by then.
    pub suspect_after_epochs: u32,
    /// Growth must have lasted this long to be called a leak. At least `suspect_after_epochs`. Default 180
    /// (15 minutes): a cache that fills over a third of a quarter of an hour is not called a leak.
    pub leak_after_epochs: u32,
    /// A site is judged by itself once so many of its sampled blocks grew old; with fewer it is pooled. 3 to 1,000.
    /// Default 8: below that no shape can be told from another.
    pub minimum_samples: u32,
    /// Growth in the run's second half must be at least this share of that in its first. In [0.1, 1]. Default 0.6:
    /// a warm-up that saturates falls below it when it has filled to about two thirds.
    pub steady_ratio: f64,
    /// Below this share growth is on its way to a bound ('warming'), above it 'sublinear'. In [0, `steady_ratio`).
    /// Default 0.3: growth like √t gives 0.41.
    pub sublinear_ratio: f64,
    /// At least this share of the run's birth cohorts must have survivors. In (0, 1]. Default 0.6: survivors from
    /// a few moments only are batches, not a leak.
    pub surviving_cohorts: f64,
    /// A run must also span this share of the process's age. In [0, 0.9]. Default 0.25: what an old process did
    /// for a short while only is no verdict.
    pub age_share: f64,
    /// A run must also last this many times the longest earlier run that a clean-up ended. 1 to 10. Default 1.5:
    /// a periodic clean-up is waited for.
    pub cleanup_factor: f64,
    /// Growth of the whole process, in percent over the window, that the report calls growth at all: of live bytes, and of
    /// resident memory beyond them. In [0, 1000]. Default 5.
    pub growth_threshold_percent: f64,
    /// The window of the report's overall growth rate. 2 to 1,000,000 epochs. Default 120 (10 minutes).
    pub window_epochs: u32,
}

impl Default for LeakConfig {
    fn default() -> LeakConfig {
        LeakConfig {
            alpha: 0.01,
            suspect_after_epochs: 60,
            leak_after_epochs: 180,
            minimum_samples: 8,
            steady_ratio: 0.6,
            sublinear_ratio: 0.3,
            surviving_cohorts: 0.6,
            age_share: 0.25,
            cleanup_factor: 1.5,
            growth_threshold_percent: 5.0,
            window_epochs: 120,
        }
    }
}

/// A threshold that makes no sense.
#[derive(Clone, Debug, PartialEq)]
pub struct LeakConfigError {
    /// The field's name.
    pub field: &'static str,
    /// The value that was refused.
    pub value: f64,
    /// The smallest value allowed.
    pub least: f64,
    /// The largest value allowed.
    pub most: f64,
}

impl fmt::Display for LeakConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let LeakConfigError { field, value, least, most } = self;
        write!(f, "LeakConfig::{field} is {value}; allowed is {least} to {most}")
    }
}

impl std::error::Error for LeakConfigError {}

impl LeakConfig {
    /// Refuses thresholds that make no sense.
    ///
    /// # Errors
    /// The first field outside its range (`NaN` is outside every range).
    pub fn validate(&self) -> Result<(), LeakConfigError> {
        let ranges = [
            ("alpha", self.alpha, 1e-9, 0.5),
            ("suspect_after_epochs", f64::from(self.suspect_after_epochs), 8.0, 1e6),
            ("leak_after_epochs", f64::from(self.leak_after_epochs), f64::from(self.suspect_after_epochs), 1e7),
            ("minimum_samples", f64::from(self.minimum_samples), 3.0, 1000.0),
            ("steady_ratio", self.steady_ratio, 0.1, 1.0),
            ("sublinear_ratio", self.sublinear_ratio, 0.0, self.steady_ratio - 0.01),
            ("surviving_cohorts", self.surviving_cohorts, 0.01, 1.0),
            ("age_share", self.age_share, 0.0, 0.9),
            ("cleanup_factor", self.cleanup_factor, 1.0, 10.0),
            ("growth_threshold_percent", self.growth_threshold_percent, 0.0, 1000.0),
            ("window_epochs", f64::from(self.window_epochs), 2.0, 1e6),
        ];
        for (field, value, least, most) in ranges {
            if !(least..=most).contains(&value) {
                return Err(LeakConfigError { field, value, least, most });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_valid() {
        assert_eq!(LeakConfig::default().validate(), Ok(()));
    }

    #[test]
    fn refusals_name_the_field_the_value_and_the_range() {
        let bad = LeakConfig { alpha: 0.7, ..LeakConfig::default() };
        assert_eq!(bad.validate().unwrap_err().to_string(), "LeakConfig::alpha is 0.7; allowed is 0.000000001 to 0.5");
        let bad = LeakConfig { leak_after_epochs: 59, ..LeakConfig::default() };
        assert_eq!(bad.validate().unwrap_err().field, "leak_after_epochs");
        let bad = LeakConfig { sublinear_ratio: 0.6, ..LeakConfig::default() };
        assert_eq!(bad.validate().unwrap_err().field, "sublinear_ratio");
        let bad = LeakConfig { steady_ratio: f64::NAN, ..LeakConfig::default() };
        assert_eq!(bad.validate().unwrap_err().field, "steady_ratio");
    }
}
