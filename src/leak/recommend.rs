//! What to do overall, most urgent first: the leaks, the time that is left, and memory that is not live at all.

use super::report::{Leak, LeakReport, Unjudged};
use super::severity::WEEK;
use crate::units::{duration, size};

/// What could hide in unjudged sites is mentioned from this share of live bytes on.
const UNJUDGED_SHARE: f64 = 0.01;
/// Below this a rate by the minute would be an extrapolation.
const MINUTE: f64 = 60.0;
/// A forecast reaches this many times as far as what was observed.
const FORECAST_REACH: f64 = 10.0;

/// The recommendations of a report that lacks only these. If there are leaks the first is about them.
pub(super) fn recommend<F>(report: &LeakReport<F>) -> Vec<String> {
    let mut words = Vec::new();
    let worst: Vec<&Leak<F>> = report.leaks().collect();
    let is_trifle = |site: &&&Leak<F>| report.is_trifle(site, site.live_bytes.value);
    let first_of_weight = worst.iter().find(|site| !is_trifle(site)).or(worst.first());
    if let (Some(first), Some(begin)) = (worst.first(), first_of_weight) {
        let together: f64 = worst.iter().map(|site| site.live_bytes.value).sum();
        words.push(format!(
            "{} call chain{} hold{} ever more memory, {} now. Begin with the first{} ({}): {}",
            worst.len(),
            if worst.len() == 1 { "" } else { "s" },
            if worst.len() == 1 { "s" } else { "" },
            size(together),
            if std::ptr::eq(*first, *begin) { "" } else { " that is no trifle" },
            begin.state,
            begin.advice
        ));
    }
    if let Some(seconds) = report.forecast_seconds().filter(|&seconds| seconds < WEEK) {
        words.push(format!("At this rate the memory limit is reached in {}.", duration(seconds)));
    }
    if let Some(unexplained) = report.memory.unexplained {
        words.push(unexplained.advice(report.memory.allocator));
    }
    if report.unjudged.bytes > UNJUDGED_SHARE * report.current_bytes as f64 {
        words.push(unjudged(&report.unjudged));
    }
    words
}

/// What was not judged, how much can hide there, and what would show it.
fn unjudged(unjudged: &Unjudged) -> String {
    let (chains, they) =
        if unjudged.sites == 1 { ("call chain", "it holds") } else { ("call chains", "together they hold") };
    let seen = format!(
        "Not judged: {} {chains} with too little evidence; {they} {} at most.",
        unjudged.sites,
        size(unjudged.bytes)
    );
    if unjudged.smallest_visible_bytes == 0.0 {
        return format!("{seen} More epochs tell.");
    }
    let few = match unjudged.seen_sites {
        0 => String::new(),
        all if all == unjudged.sites => {
            let (they, their) = if all == 1 { ("It has", "its") } else { ("They have", "their") };
            return format!("{seen} {they} few blocks, and {their} size leaves none unseen: more epochs tell.");
        }
        1 => " Of 1 of them, which has few and large blocks, more epochs tell.".into(),
        some => format!(" Of {some} of them, which have few and large blocks, more epochs tell."),
    };
    format!(
        "{seen}{few} A leak of {} or more in one chain shows at this sampling interval (19 times in 20); for smaller ones set a \
         smaller `sample_interval`, or a larger `overhead_budget`.",
        size(unjudged.smallest_visible_bytes)
    )
}

impl<F> LeakReport<F> {
    /// When memory runs out, where what was observed allows to say so: a minute at least, or a tenth of that time.
    pub(crate) fn forecast_seconds(&self) -> Option<f64> {
        let reach = FORECAST_REACH * self.window_seconds;
        self.exhaustion_seconds.filter(|&seconds| self.window_seconds >= MINUTE || seconds <= reach)
    }
}

/// `+3.4 MB a minute`; of what was observed for less than a minute, `+3.4 MB in the last 2.9 s`.
pub(crate) fn rate(bytes_per_minute: f64, observed_seconds: f64) -> String {
    let (bytes, per) = if observed_seconds < MINUTE {
        (bytes_per_minute * observed_seconds / MINUTE, format!("in the last {}", duration(observed_seconds)))
    } else {
        (bytes_per_minute, "a minute".into())
    };
    let sign = if bytes < 0.0 { '-' } else { '+' };
    format!("{sign}{} {per}", size(bytes.abs()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_do_not_reach_beyond_what_was_observed() {
        assert_eq!(rate(29_662e6, 0.6), "+297 MB in the last 0.6 s");
        assert_eq!(rate(1.2e6, 600.0), "+1.2 MB a minute");
        assert_eq!(rate(-6e6, 30.0), "-3.0 MB in the last 30.0 s");
    }

    #[test]
    fn what_was_not_judged_is_said_with_what_would_show_it() {
        let few = Unjudged { sites: 142, bytes: 50.9e6, smallest_visible_bytes: 6.9e6, ..Unjudged::default() };
        assert_eq!(
            unjudged(&few),
            "Not judged: 142 call chains with too little evidence; together they hold 50.9 MB at most. A leak of 6.9 MB or \
             more in one chain shows at this sampling interval (19 times in 20); for smaller ones set a smaller \
             `sample_interval`, or a larger `overhead_budget`."
        );
        let seen = |sites, seen_sites| unjudged(&Unjudged { sites, seen_sites, ..few });
        assert!(
            seen(142, 3)
                .contains("at most. Of 3 of them, which have few and large blocks, more epochs tell. A leak of")
        );
        assert_eq!(
            seen(2, 2),
            "Not judged: 2 call chains with too little evidence; together they hold 50.9 MB at most. They have few blocks, and \
             their size leaves none unseen: more epochs tell."
        );
        let exact = Unjudged { sites: 1, bytes: 5e3, ..Unjudged::default() };
        assert_eq!(
            unjudged(&exact),
            "Not judged: 1 call chain with too little evidence; it holds 5.0 kB at most. More epochs tell."
        );
    }

    /// Sites are in the order of severity; which one is meant is said.
    #[test]
    fn one_begins_with_what_matters() {
        let first = |report: &LeakReport<()>| recommend(report).into_iter().next().unwrap_or_default();
        let of = |bytes| LeakReport::<()>::of_one(Vec::new(), Vec::new(), bytes, 5_000_000);
        let said = first(&of(8e3).and(of(4e6), super::super::severity::Severity::Low));
        assert_eq!(
            said,
            "2 call chains hold ever more memory, 4.0 MB now. Begin with the first that is no trifle (leak): it holds 4.0 MB"
        );
        let said = first(&of(4e6).and(of(8e3), super::super::severity::Severity::Low));
        assert!(said.ends_with("Begin with the first (leak): it holds 4.0 MB"), "{said}");
    }

    #[test]
    fn forecasts_do_not_either() {
        let report = |window, left| {
            LeakReport::<()> { window_seconds: window, exhaustion_seconds: Some(left), ..LeakReport::default() }
                .forecast_seconds()
        };
        assert_eq!(report(3.0, 300.0), None);
        assert_eq!(report(3.0, 20.0), Some(20.0));
        assert_eq!(report(60.0, 1e6), Some(1e6));
    }
}
