//! From what was live after each round to which sites leak: a sign test.
//!
//! A site whose live bytes grow in each of the last k rounds leaks: if growth and shrinkage were equally likely it would be
//! wrongly blamed with probability 2⁻ᵏ. Where no site does, the same question is asked of all of the test's sites together:
//! a leak that takes another way each round shows there.

use std::collections::HashMap;

use crate::store::picture::{Picture, SitePicture};
use crate::units::StackId;

/// Chains that are reported of a leak in all together.
const MOST_TOGETHER: usize = 5;

/// Rounds at the beginning that are not judged.
pub(super) fn warm_up(rounds: usize) -> usize {
    (rounds / 4).max(1)
}

/// What was live of each of a test's sites after each round.
#[derive(Debug)]
pub(super) struct Course {
    rounds: usize,
    noted: usize,
    sites: HashMap<StackId, Series>,
    unknown: bool,
}

/// Of one site: bytes and blocks after round 1, 2, …; round 0 was nothing.
#[derive(Debug, Default)]
struct Series {
    live: Vec<(u64, u64)>,
    /// After the last round it is in scopes that keep their bounds.
    bounded: bool,
}

/// A site that grew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Grown {
    pub(super) stack: StackId,
    /// From before the first round to after the last.
    pub(super) bytes: u64,
    pub(super) blocks: u64,
    /// In the judged rounds. A site may lose blocks while it gains bytes.
    pub(super) late_bytes: u64,
    pub(super) late_blocks: u64,
    /// This very site grew in each judged round.
    pub(super) in_each: bool,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Clean,
    /// The largest first.
    Leaks(Vec<Grown>),
    /// Records of the test's sites were lost.
    Unknown,
}

impl Course {
    pub(super) fn new(rounds: usize) -> Course {
        Course { rounds, noted: 0, sites: HashMap::new(), unknown: false }
    }

    /// Rounds so far.
    pub(super) fn noted(&self) -> usize {
        self.noted
    }

    /// A round has ended: notes what is live of the sites in `scope`.
    pub(super) fn note(&mut self, picture: &Picture, scope: u32) {
        let before = self.noted;
        let is_last = before + 1 == self.rounds;
        let within = if is_last { within_bounds(picture, scope) } else { Vec::new() };
        for site in picture.sites.iter().filter(|site| site.scopes.contains(&scope)) {
            let series = self.sites.entry(site.stack).or_default();
            series.live.resize(before, (0, 0));
            series.live.push((site.figures.live.whole_bytes(), site.figures.live.whole_blocks()));
            series.bounded = site.scopes.iter().any(|scope| within.contains(scope));
            self.unknown |= site.tainted || site.folded;
        }
        self.noted += 1;
    }

    /// What the rounds say.
    pub(super) fn verdict(&self) -> Verdict {
        if self.unknown {
            return Verdict::Unknown;
        }
        let first = warm_up(self.rounds);
        let judged: Vec<(StackId, &Series)> =
            self.sites.iter().filter(|(_, series)| !series.bounded).map(|(&stack, series)| (stack, series)).collect();
        let grows = |at: &dyn Fn(usize) -> u64| (first..self.rounds).all(|round| at(round + 1) > at(round));
        let mut grown: Vec<Grown> = judged
            .iter()
            .filter(|(_, series)| grows(&|round| series.after(round).0))
            .map(|(stack, series)| self.grown(*stack, series, true))
            .collect();
        if grown.is_empty() && grows(&|round| judged.iter().map(|(_, series)| series.after(round).0).sum()) {
            let all = judged.iter().map(|(stack, series)| self.grown(*stack, series, false));
            grown = all.filter(|grown| grown.late_bytes > 0).collect();
        }
        if grown.is_empty() {
            return Verdict::Clean;
        }
        let all_together = grown.iter().all(|grown| !grown.in_each);
        grown.sort_by_key(|grown| (std::cmp::Reverse(grown.late_bytes), grown.stack));
        if all_together {
            grown.truncate(MOST_TOGETHER);
        }
        Verdict::Leaks(grown)
    }

    fn grown(&self, stack: StackId, series: &Series, in_each: bool) -> Grown {
        let (before, end) = (series.after(warm_up(self.rounds)), series.after(self.rounds));
        let late_bytes = end.0.saturating_sub(before.0);
        Grown { stack, bytes: end.0, blocks: end.1, late_bytes, late_blocks: end.1.saturating_sub(before.1), in_each }
    }
}

impl Series {
    /// Live bytes and blocks after so many rounds.
    fn after(&self, rounds: usize) -> (u64, u64) {
        rounds.checked_sub(1).and_then(|index| self.live.get(index)).copied().unwrap_or_default()
    }
}

/// The declared scopes whose live bytes within this test are within their bounds.
fn within_bounds(picture: &Picture, test: u32) -> Vec<u32> {
    let of_test: Vec<&SitePicture> = picture.sites.iter().filter(|site| site.scopes.contains(&test)).collect();
    let held = |scope: u32| -> u64 {
        let sites = of_test.iter().filter(|site| site.scopes.contains(&scope));
        sites.map(|site| site.figures.live.whole_bytes()).sum()
    };
    let named = picture.scopes.iter().zip(0u32..).filter(|(scope, _)| !scope.name.is_empty());
    named.filter(|(scope, number)| held(*number) <= scope.bound_bytes).map(|(_, number)| number).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::synthetic::Builder;
    use crate::store::picture::ScopePicture;
    use crate::units::FrameKey;

    const TEST: u32 = 64;

    /// The course of sites whose live blocks of 10 bytes after each round are these.
    fn course(sites: &[&[u64]]) -> Course {
        scoped_course(sites, &[])
    }

    fn scoped_course(sites: &[&[u64]], scopes: &[ScopePicture]) -> Course {
        let rounds = sites[0].len();
        let mut course = Course::new(rounds);
        for round in 0..rounds {
            let mut builder = Builder::new(0);
            builder.picture.scopes = scopes.into();
            for (number, site) in (0u64..).zip(sites) {
                let within: &[u32] = if number == 0 && !scopes.is_empty() { &[1, TEST] } else { &[TEST] };
                builder.site(&[FrameKey(number)], 10, site[round], 0).scopes = within.into();
            }
            // Another test's.
            builder.site(&[FrameKey(77)], 10, round as u64 * 100, 0).scopes = [TEST + 1].into();
            course.note(&builder.picture, TEST);
        }
        course
    }

    fn blamed(course: &Course) -> Vec<(u32, u64, u64, bool)> {
        match course.verdict() {
            Verdict::Leaks(grown) => grown.iter().map(|g| (g.stack.0, g.bytes, g.late_bytes, g.in_each)).collect(),
            verdict => panic!("{verdict:?}"),
        }
    }

    #[test]
    fn growth_in_each_judged_round_is_a_leak() {
        let found =
            blamed(&course(&[&[1, 2, 3, 4, 5, 6, 7, 8], &[5, 5, 6, 7, 8, 9, 10, 20], &[4, 4, 4, 4, 4, 4, 4, 4]]));
        assert_eq!(found, [(2, 200, 150, true), (1, 80, 60, true)], "the largest first");
    }

    #[test]
    fn warm_up_replacement_and_one_quiet_round_are_none() {
        for healthy in [
            &[9, 10, 10, 10, 10, 10, 10, 10][..],
            &[1, 0, 1, 0, 1, 0, 1, 0],
            // A doubling buffer.
            &[1, 2, 4, 4, 8, 8, 8, 8],
            &[1, 2, 3, 4, 5, 6, 7, 7],
            &[0, 0, 0, 0, 0, 0, 0, 0],
        ] {
            assert_eq!(course(&[healthy]).verdict(), Verdict::Clean, "{healthy:?}");
        }
    }

    #[test]
    fn a_leak_by_another_way_each_round_is_seen_in_all_together() {
        let found = blamed(&course(&[&[1, 1, 2, 2, 3, 3, 4, 4], &[0, 1, 1, 2, 2, 3, 3, 4]]));
        assert_eq!(found, [(1, 40, 30, false), (2, 40, 30, false)]);
        // One cache takes from another: nothing grows.
        let moved = course(&[&[1, 2, 3, 4, 5, 6, 7, 8], &[8, 7, 6, 5, 4, 3, 2, 1]]);
        assert_eq!(blamed(&moved), [(1, 80, 60, true)], "a chain that grows is blamed whatever others free");
    }

    #[test]
    fn a_cache_within_its_bound_is_none_and_beyond_it_is_one() {
        let cache = |bound_bytes| [ScopePicture::default(), ScopePicture { name: "cache".into(), bound_bytes }];
        let fills: &[&[u64]] = &[&[1, 2, 3, 4, 5, 6, 7, 8]];
        assert_eq!(scoped_course(fills, &cache(80)).verdict(), Verdict::Clean);
        assert_eq!(blamed(&scoped_course(fills, &cache(79))), [(1, 80, 60, true)]);
    }

    #[test]
    fn lost_records_are_no_verdict() {
        let mut course = course(&[&[1, 1, 1, 1, 1, 1, 1, 1]]);
        let mut builder = Builder::new(0);
        let site = builder.site(&[FrameKey(1)], 10, 1, 0);
        (site.scopes, site.tainted) = ([TEST].into(), true);
        course.note(&builder.picture, TEST);
        assert_eq!(course.verdict(), Verdict::Unknown);
    }
}
