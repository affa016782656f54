//! A round of one workload: all its variants' processes are started, warm up one after another, and then do their slices in turn, A B C
//! … C B A and again, one at a time while the others are stopped. So a slice and that of its base are neighbours in time.

use crate::builds::Programs;
use crate::lanes::{Bench, Lane, Sample};
use crate::plan::{Group, Slicing, Variant, Work};
use crate::results::Results;
use crate::say;

/// One round: of this work, under these variants.
#[derive(Debug)]
pub struct Round<'a> {
    pub work: &'a Work,
    pub group: Group,
    pub number: usize,
    pub variants: Vec<Variant>,
    pub slicing: Slicing,
}

impl Round<'_> {
    /// Odd rounds start backwards, so that a drift of the machine's favours nobody.
    pub fn run(&self, bench: &Bench, programs: &Programs, results: &mut Results) {
        let Round { work, group, number, slicing, .. } = *self;
        let mut variants: Vec<Variant> = self.variants.clone();
        variants.retain(|variant| !results.is_given_up(group, work, variant.name));
        if number % 2 == 1 {
            variants.reverse();
        }
        let mut lanes: Vec<Result<Lane, String>> = Vec::new();
        for variant in &variants {
            let program = programs.of(variant.build).map_err(str::to_owned);
            lanes.push(program.and_then(|program| Lane::start(bench, program, variant, work, slicing, number)));
        }
        for lane in turns(lanes.len(), slicing.slices) {
            let turn = match &mut lanes[lane] {
                Ok(lane) if lane.wants_more() => lane.slice(),
                _ => continue,
            };
            if let Err(why) = turn {
                lanes[lane] = Err(why);
            }
        }
        for (variant, lane) in variants.iter().zip(lanes) {
            let run: Result<Sample, String> = lane.and_then(Lane::end);
            if let Err(why) = &run {
                say(&format!("{}, {}: {why}", variant.name, work.label()));
            }
            results.note(group, work, variant.name, number, run);
        }
    }
}

/// Lanes by their numbers: forwards in even cycles, backwards in odd ones.
fn turns(lanes: usize, cycles: usize) -> impl Iterator<Item = usize> {
    (0..cycles).flat_map(move |cycle| (0..lanes).map(move |lane| if cycle % 2 == 0 { lane } else { lanes - 1 - lane }))
}

#[cfg(test)]
mod tests {
    use super::turns;

    #[test]
    fn turns_go_forwards_and_backwards() {
        let lanes: Vec<usize> = turns(3, 3).collect();
        assert_eq!(lanes, [0, 1, 2, 2, 1, 0, 0, 1, 2]);
    }
}
