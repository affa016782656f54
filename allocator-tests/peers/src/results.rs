//! What was measured, by group, workload and variant, round by round; and the ratios that follow from it.

use std::collections::BTreeMap;

use crate::callgrind::Count;
use crate::lanes::{Sample, Slice};
use crate::plan::{Group, Work};
use crate::statistics::{Middle, middle, paired};

/// Runs of one variant on one workload.
#[derive(Debug, Default)]
pub struct Cell {
    /// By round.
    pub samples: BTreeMap<usize, Sample>,
    /// By what went wrong, how often.
    pub failures: BTreeMap<String, usize>,
}

/// Everything.
#[derive(Debug, Default)]
pub struct Results {
    cells: BTreeMap<(Group, String, String), Cell>,
    /// Instructions an operation, by group, workload and variant; or a word.
    pub instructions: BTreeMap<(Group, String, String), Result<Count, String>>,
}

/// A figure of a slice.
pub type Figure = fn(&Slice) -> Option<f64>;

pub fn wall(slice: &Slice) -> Option<f64> {
    Some(slice.wall_ns)
}

pub fn cpu(slice: &Slice) -> Option<f64> {
    Some(slice.cpu_ns)
}

pub fn p50(slice: &Slice) -> Option<f64> {
    slice.p50_ns
}

pub fn p99(slice: &Slice) -> Option<f64> {
    slice.p99_ns
}

pub fn crowd_p99(slice: &Slice) -> Option<f64> {
    slice.crowd_p99_ns
}

/// The median of a sample's slices.
fn typical(sample: &Sample, figure: Figure) -> Option<f64> {
    middle(&sample.slices.iter().filter_map(figure).collect::<Vec<_>>()).map(|middle| middle.median)
}

/// A sample's figure over its base's: of their slices, one by one.
fn ratio(sample: &Sample, base: &Sample, figure: Figure) -> Option<f64> {
    let pairs = sample.slices.iter().zip(&base.slices);
    paired(&pairs.filter_map(|(slice, base)| Some((figure(slice)?, figure(base)?))).collect::<Vec<_>>())
}

impl Results {
    pub fn cell(&self, group: Group, work: &Work, variant: &str) -> Option<&Cell> {
        self.cells.get(&(group, work.label(), variant.to_owned()))
    }

    /// Notes a run. One that did other work than the first is a failure.
    pub fn note(&mut self, group: Group, work: &Work, variant: &str, round: usize, run: Result<Sample, String>) {
        // the same checksums for all, or the figures are of different work
        let other = run.as_ref().is_ok_and(|sample| self.others(group, work).any(|first| !sample.did_the_same(first)));
        let cell = self.cells.entry((group, work.label(), variant.to_owned())).or_default();
        match run {
            Ok(_) if other => *cell.failures.entry("did other work".to_owned()).or_default() += 1,
            Ok(sample) => _ = cell.samples.insert(round, sample),
            Err(why) => *cell.failures.entry(why).or_default() += 1,
        }
    }

    /// One sample of each variant that has any.
    fn others(&self, group: Group, work: &Work) -> impl Iterator<Item = &Sample> {
        let label = work.label();
        let of_work = self.cells.iter().filter(move |((g, w, _), _)| *g == group && *w == label);
        of_work.filter_map(|(_, cell)| cell.samples.values().next())
    }

    /// Two failures are no accident; another try would cost as long again.
    pub fn is_given_up(&self, group: Group, work: &Work, variant: &str) -> bool {
        self.cell(group, work, variant).is_some_and(|cell| cell.failures.values().sum::<usize>() >= 2)
    }

    /// The figure of `variant` over that of `base`, round by round.
    pub fn ratio(&self, group: Group, work: &Work, variant: &str, base: &str, figure: Figure) -> Option<Middle> {
        let (variant, base) = (self.cell(group, work, variant)?, self.cell(group, work, base)?);
        let rounds =
            variant.samples.iter().filter_map(|(round, sample)| ratio(sample, base.samples.get(round)?, figure));
        middle(&rounds.collect::<Vec<_>>())
    }

    /// The figure of `variant` on one workload over the figure of the same variant on another, round by round. They are no neighbours
    /// in time: each has its median of a round's slices.
    pub fn ratio_of_works(&self, group: Group, of: &Work, to: &Work, variant: &str, figure: Figure) -> Option<Middle> {
        let (of, to) = (self.cell(group, of, variant)?, self.cell(group, to, variant)?);
        let rounds = of
            .samples
            .iter()
            .filter_map(|(round, sample)| Some(typical(sample, figure)? / typical(to.samples.get(round)?, figure)?));
        middle(&rounds.collect::<Vec<_>>())
    }

    /// A figure of a slice, the median over the rounds.
    pub fn median(&self, group: Group, work: &Work, variant: &str, figure: Figure) -> Option<f64> {
        self.of_rounds(group, work, variant, |sample| typical(sample, figure))
    }

    /// A figure of a round, the median over the rounds.
    pub fn of_rounds(
        &self,
        group: Group,
        work: &Work,
        variant: &str,
        figure: impl Fn(&Sample) -> Option<f64>,
    ) -> Option<f64> {
        let cell = self.cell(group, work, variant)?;
        middle(&cell.samples.values().filter_map(figure).collect::<Vec<_>>()).map(|middle| middle.median)
    }

    /// A number among the facts, the median over the rounds.
    pub fn fact(&self, group: Group, work: &Work, variant: &str, name: &str) -> Option<f64> {
        let cell = self.cell(group, work, variant)?;
        let values: Vec<f64> = cell.samples.values().filter_map(|sample| sample.facts[name].as_f64()).collect();
        middle(&values).map(|middle| middle.median)
    }

    /// Why there is nothing, in a word.
    pub fn why_not(&self, group: Group, work: &Work, variant: &str) -> String {
        let cell = self.cell(group, work, variant);
        let why = cell.and_then(|cell| cell.failures.keys().next().cloned());
        let ran = cell.is_some_and(|cell| !cell.samples.is_empty());
        why.unwrap_or_else(|| if ran { "ran" } else { "not run" }.to_owned())
    }

    /// All that went wrong: variant, workload, what, how often, and in how many runs.
    pub fn failures(&self) -> Vec<String> {
        let mut told = Vec::new();
        for ((group, work, variant), cell) in &self.cells {
            for (why, times) in &cell.failures {
                let runs = cell.samples.len() + cell.failures.values().sum::<usize>();
                told.push(format!("{variant}, {work} ({group:?}): {why}, {times} of {runs} runs"));
            }
        }
        told
    }

    /// What each slice took: group, workload, variant, round, and a list of wall time, CPU time, p50 and p99.
    pub fn slices(&self) -> serde_json::Value {
        let mut rows = Vec::new();
        for ((group, work, variant), cell) in &self.cells {
            for (round, sample) in &cell.samples {
                let slices = sample.slices.iter().map(|s| serde_json::json!([s.wall_ns, s.cpu_ns, s.p50_ns, s.p99_ns]));
                let slices: Vec<_> = slices.collect();
                rows.push(serde_json::json!([format!("{group:?}"), work, variant, round, slices]));
            }
        }
        serde_json::Value::Array(rows)
    }

    /// Added instructions of `variant` over `base`, as a share of `base`'s: in all, and in threads that the profiler started.
    pub fn instructions_added(&self, group: Group, work: &Work, variant: &str, base: &str) -> Option<(f64, f64)> {
        let count = |name: &str| {
            let key = (group, work.label(), name.to_owned());
            self.instructions.get(&key).and_then(|count| count.as_ref().ok()).copied()
        };
        let (variant, base) = (count(variant)?, count(base)?.all);
        (base > 0.0).then(|| (variant.all / base - 1.0, variant.own_threads / base))
    }
}

#[cfg(test)]
mod tests {
    use super::{Results, wall};
    use crate::lanes::{Sample, Slice};
    use crate::plan::{Group, WORKS};

    fn sample(walls: &[f64], checksum: &str) -> Sample {
        let slice = |(n, wall_ns): (usize, &f64)| Slice {
            wall_ns: *wall_ns,
            cpu_ns: *wall_ns,
            p50_ns: None,
            p99_ns: None,
            crowd_p99_ns: None,
            checksum: format!("{checksum}{n}"),
        };
        let slices = walls.iter().enumerate().map(slice).collect();
        Sample { slices, dump_ns: 1.0, peak_rss_kib: 1.0, facts: serde_json::Value::Null }
    }

    #[test]
    fn a_slice_is_compared_with_the_same_slice_of_its_base() {
        let (group, work) = (Group::Exact, &WORKS[0]);
        let mut results = Results::default();
        for round in 0..6 {
            let slower = 1.0 + round as f64;
            results.note(group, work, "none", round, Ok(sample(&[10.0, 20.0, 40.0, 1000.0].map(|t| t * slower), "a")));
            results.note(group, work, "dear", round, Ok(sample(&[11.0, 22.0, 44.0, 1.0].map(|t| t * slower), "a")));
            // the slowest do the first slices alone
            results.note(group, work, "slow", round, Ok(sample(&[100.0, 200.0].map(|t| t * slower), "a")));
        }
        let ratio = |variant| results.ratio(group, work, variant, "none", wall).expect("rounds");
        let dear = ratio("dear");
        assert!((dear.median - 1.1).abs() < 1e-9 && (dear.high - dear.low).abs() < 1e-9 && dear.count == 6, "{dear:?}");
        assert!((ratio("slow").median - 10.0).abs() < 1e-9);
    }

    #[test]
    fn who_did_other_work_in_any_slice_has_no_figure() {
        let (group, work) = (Group::Sampled, &WORKS[0]);
        let mut results = Results::default();
        results.note(group, work, "none", 0, Ok(sample(&[1.0, 1.0], "a")));
        let mut other = sample(&[1.0, 1.0], "a");
        other.slices[1].checksum = "b".to_owned();
        results.note(group, work, "other", 0, Ok(other));
        assert_eq!(results.ratio(group, work, "other", "none", wall), None);
        assert_eq!(results.why_not(group, work, "other"), "did other work");
    }
}
