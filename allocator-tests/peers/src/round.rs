//! A round of one workload: all its variants' processes are started, warm up one after another, and then do their slices in turn, A B C
//! … A B C and again, one at a time while the others are stopped. So a slice and that of its base are neighbours in time, and each
//! finds the caches as the program before it left them: there and back again, A B C C B A, the first and the last would find every
//! second time what they had left there themselves, which made the first 8 to 13% faster than the same program in the midst of the others
//! (`churn` ×2).

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

/// Lanes by their numbers.
fn turns(lanes: usize, cycles: usize) -> impl Iterator<Item = usize> {
    (0..cycles).flat_map(move |_| 0..lanes)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::{Round, turns};
    use crate::builds::Programs;
    use crate::lanes::Bench;
    use crate::plan::{Group, SAMPLED, Slicing, WORKS};
    use crate::results::{Results, wall};

    #[test]
    fn nobody_follows_itself() {
        let lanes: Vec<usize> = turns(3, 3).collect();
        assert_eq!(lanes, [0, 1, 2, 0, 1, 2, 0, 1, 2]);
    }

    /// Does as `subject` does, and notes when it works.
    const SUBJECT: &str = r#"#!/bin/sh
note() { echo "$1 $mode" >> ../log; }
mode=$1 slices=$8 n=0
note warm
echo '{"ready":true}'
kill -STOP 0
read line
while [ $n -lt $slices ]; do
    n=$((n + 1))
    note begin
    note end
    echo "{\"wall_ns\":$((n * ${#mode})),\"cpu_ns\":1,\"checksum\":\"$n\"}"
    kill -STOP 0
    read line
done
note over
echo profile > "$7/profile"
echo '{"dump_ns":1,"peak_rss_kib":1,"facts":{}}'
"#;

    #[test]
    fn one_program_works_at_a_time_in_its_turn() {
        let scratch = std::env::temp_dir().join(format!("unfreed-peers-test-round-{}", std::process::id()));
        fs::create_dir_all(&scratch).expect("a directory");
        let program = scratch.join("subject");
        fs::write(&program, SUBJECT).expect("a program");
        fs::set_permissions(&program, fs::Permissions::from_mode(0o700)).expect("it may run");
        let bench = Bench { scratch: scratch.clone(), load: scratch.join("load") };
        let programs = Programs::at(&["", "unfreed"], &program);
        let mut results = Results::default();
        let (group, work) = (Group::Sampled, &WORKS[0]);
        let slicing = Slicing { warm_up: 1, slice: 1, slices: 2, heavy_slices: 0 };
        let variants = vec![SAMPLED[0], SAMPLED[2]];
        Round { work, group, number: 0, variants, slicing }.run(&bench, &programs, &mut results);
        let log = fs::read_to_string(scratch.join("log")).expect("a log");
        let _ = fs::remove_dir_all(&scratch);
        let expected = "warm off|warm sampled|begin off|end off|begin sampled|end sampled\
            |begin off|end off|begin sampled|end sampled|over off|over sampled|";
        assert_eq!(log.replace('\n', "|"), expected);
        let ratio = results.ratio(group, work, "unfreed, sampled", "none", wall).expect("a ratio");
        assert!((ratio.median - 7.0 / 3.0).abs() < 1e-9, "{ratio:?}");
    }
}
