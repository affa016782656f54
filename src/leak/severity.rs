//! How grave a finding is: from the lower ends of what is known, so that no alarm rests on noise.

use super::state::State;

/// How grave a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Severity {
    /// Watch the trend.
    Low,
    /// Over 100 MB, or over 20% growth, or memory runs out within a week.
    Medium,
    /// Over 500 MB, or over 50% growth, or memory runs out within a day.
    High,
    /// Over 1000 MB, or over 80% growth, or memory runs out within an hour.
    Critical,
}

impl Severity {
    /// The severity's name as it is printed and serialized.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Severity::Low => "low",
            Severity::Medium => "medium",
            Severity::High => "high",
            Severity::Critical => "critical",
        }
    }
}

impl std::fmt::Display for Severity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

const MB: f64 = 1e6;
const MINUTE: f64 = 60.0;
const HOUR: f64 = 3600.0;
const DAY: f64 = 24.0 * HOUR;
pub(super) const WEEK: f64 = 7.0 * DAY;

/// What severity is judged by.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Burden {
    /// The lower end of the site's live bytes.
    pub(crate) live_low_bytes: f64,
    /// The lower end of its growth over the window, in percent of what was live at the window's start.
    pub(crate) growth_low_percent: f64,
    /// When memory runs out at the lower end of its growth.
    pub(crate) exhaustion_seconds: Option<f64>,
    /// The memory limit, where one is known.
    pub(crate) limit_bytes: Option<u64>,
}

/// How grave `state` is under `burden`.
pub(crate) fn severity(state: State, burden: Burden) -> Severity {
    let soon = |seconds: f64| burden.exhaustion_seconds.is_some_and(|left| left < seconds);
    let by_size = step(burden.live_low_bytes / MB, [100.0, 500.0, 1000.0]);
    let mut by_growth = step(burden.growth_low_percent, [20.0, 50.0, 80.0]);
    // Twice as much of almost nothing is no emergency.
    if burden.limit_bytes.is_none_or(|limit| burden.live_low_bytes < limit as f64 / 100.0) {
        by_growth = by_growth.min(Severity::High);
    }
    let by_time = match () {
        () if soon(HOUR) => Severity::Critical,
        () if soon(DAY) => Severity::High,
        () if soon(WEEK) => Severity::Medium,
        () => Severity::Low,
    };
    let gravest = by_size.max(by_growth).max(by_time);
    match state {
        State::Leak | State::Suspected => gravest,
        State::Growing | State::Sublinear | State::Backlog if soon(15.0 * MINUTE) => gravest,
        State::Growing | State::Sublinear | State::Backlog => gravest.min(Severity::Medium),
        _ => Severity::Low,
    }
}

fn step(value: f64, [medium, high, critical]: [f64; 3]) -> Severity {
    match value {
        value if value > critical => Severity::Critical,
        value if value > high => Severity::High,
        value if value > medium => Severity::Medium,
        _ => Severity::Low,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn size_growth_and_time_each_raise_it() {
        let none = Burden { limit_bytes: Some(1 << 33), ..Burden::default() };
        let of = |burden| severity(State::Leak, burden);
        assert_eq!(of(none), Severity::Low);
        assert_eq!(of(Burden { live_low_bytes: 101e6, ..none }), Severity::Medium);
        assert_eq!(of(Burden { live_low_bytes: 1001e6, ..none }), Severity::Critical);
        assert_eq!(of(Burden { growth_low_percent: 60.0, ..none }), Severity::High);
        assert_eq!(of(Burden { exhaustion_seconds: Some(3599.0), ..none }), Severity::Critical);
        assert_eq!(of(Burden { exhaustion_seconds: Some(2.0 * DAY), ..none }), Severity::Medium);
    }

    #[test]
    fn percentage_alone_is_critical_only_above_a_hundredth_of_the_limit() {
        let burden = Burden { growth_low_percent: 300.0, limit_bytes: Some(1 << 30), ..Burden::default() };
        assert_eq!(severity(State::Leak, burden), Severity::High);
        assert_eq!(severity(State::Leak, Burden { live_low_bytes: 11e6, ..burden }), Severity::Critical);
        assert_eq!(severity(State::Leak, Burden { limit_bytes: None, live_low_bytes: 11e6, ..burden }), Severity::High);
    }

    #[test]
    fn growing_stays_medium_unless_memory_runs_out_at_once() {
        let burden = Burden { live_low_bytes: 2e9, exhaustion_seconds: Some(HOUR / 2.0), ..Burden::default() };
        assert_eq!(severity(State::Growing, burden), Severity::Medium);
        let soon = Burden { exhaustion_seconds: Some(10.0 * MINUTE), ..burden };
        assert_eq!(severity(State::Growing, soon), Severity::Critical);
        assert_eq!(severity(State::Plateau, soon), Severity::Low);
    }
}
