//! What to do overall, most urgent first: the leaks, the time that is left, and memory that is not live at all.

use super::assemble::Process;
use super::report::{Leak, LeakReport};

/// Exhaustion further away than this is no recommendation.
const WEEK_SECONDS: f64 = 7.0 * 86_400.0;
const HOUR_SECONDS: f64 = 3600.0;
/// What could hide in unjudged sites is mentioned from this share of live bytes on.
const UNJUDGED_SHARE: f64 = 0.01;

/// The recommendations of a report that lacks only these.
pub(super) fn recommend<F>(report: &LeakReport<F>, process: &Process, growth_threshold_percent: f64) -> Vec<String> {
    let mut words = Vec::new();
    let worst: Vec<&Leak<F>> = report.leaks().collect();
    if let Some(first) = worst.first() {
        let together: f64 = worst.iter().map(|site| site.growth_bytes_per_minute.value).sum();
        words.push(format!(
            "{} call chain{} hold{} ever more memory, together {:.2} MB a minute. Begin with the first ({}): {}",
            worst.len(),
            if worst.len() == 1 { "" } else { "s" },
            if worst.len() == 1 { "s" } else { "" },
            together / 1e6,
            first.state,
            first.advice
        ));
    }
    if let Some(seconds) = report.exhaustion_seconds.filter(|&seconds| seconds < WEEK_SECONDS) {
        let left = if seconds < 2.0 * HOUR_SECONDS {
            format!("{:.1} minutes", seconds / 60.0)
        } else {
            format!("{:.1} hours", seconds / HOUR_SECONDS)
        };
        words.push(format!("At this rate the memory limit is reached in {left}."));
    }
    let flat = report.growth_percent < growth_threshold_percent;
    if let Some(resident) = process.resident.filter(|course| flat && course.percent() >= growth_threshold_percent) {
        let seen = format!("Resident memory grew by {:.1} MB while live bytes did not", resident.growth() / 1e6);
        let outside = process.allocator.map(|held| held.growth() < resident.growth() / 2.0);
        words.push(match outside {
            Some(true) => {
                format!("{seen}, and the allocator holds no more than before: it is memory of C libraries or mappings.")
            }
            Some(false) => {
                format!("{seen}: the allocator keeps freed memory. Set its decay, trim, or use fewer arenas.")
            }
            // Without the allocator's own figures the two can't be told apart.
            None => format!(
                "{seen}: either the allocator keeps freed memory (set its decay, trim, or use fewer arenas), or C \
                 libraries and mappings hold it."
            ),
        });
    }
    if report.unjudged.bytes > UNJUDGED_SHARE * report.current_bytes as f64 {
        words.push(format!(
            "{} sites with up to {:.1} MB could not be judged; a smaller sampling interval shows more.",
            report.unjudged.sites,
            report.unjudged.bytes / 1e6
        ));
    }
    words
}
