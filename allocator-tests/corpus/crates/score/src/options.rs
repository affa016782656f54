//! The command line.

use crate::programs::CASES;

pub const USAGE: &str = "run.sh [--modes exact,16K,64K] [--seeds N] [--rounds N] [--write] [--help] [NAME...]";
/// With fewer seeds or rounds, or a mode or crate left out, a run is a part.
const SEEDS: u64 = 3;
const ROUNDS: u32 = 400;

/// Growth must last 180 epochs to be called a leak, and 24 of the last 32 must have held: with fewer rounds none can be.
const FEWEST_ROUNDS: u32 = 240;

/// What is to be run.
pub struct Options {
    pub cases: Vec<&'static str>,
    pub modes: Vec<String>,
    pub seeds: u64,
    pub rounds: u32,
    pub write: bool,
}

impl Options {
    /// Refuses what it does not know, by what is allowed.
    pub fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Options, String> {
        let mut options = Options { cases: Vec::new(), modes: Vec::new(), seeds: SEEDS, rounds: ROUNDS, write: false };
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().ok_or(format!("{argument} takes a value: {USAGE}"));
            match argument.as_str() {
                "--modes" => options.modes = value()?.split(',').map(str::to_owned).collect(),
                "--seeds" => options.seeds = number(&value()?, 1)?,
                "--rounds" => options.rounds = number(&value()?, FEWEST_ROUNDS)?,
                "--write" => options.write = true,
                name => {
                    let known = CASES.iter().find(|case| case.name == name);
                    let names = || CASES.map(|case| case.name).join(" ");
                    let known = known.ok_or_else(|| format!("{name}: not one of {}; {USAGE}", names()))?;
                    options.cases.push(known.name);
                }
            }
        }
        let is_part =
            !options.cases.is_empty() || !options.modes.is_empty() || options.seeds < SEEDS || options.rounds < ROUNDS;
        if options.write && is_part {
            return Err(format!(
                "--write is for a whole run, and replaces its page: without --modes and names, with {SEEDS} seeds and {ROUNDS} rounds or more"
            ));
        }
        if options.cases.is_empty() {
            options.cases = CASES.iter().map(|case| case.name).collect();
        }
        if options.modes.is_empty() {
            options.modes = ["exact", "16K", "64K"].map(str::to_owned).to_vec();
        }
        let is_mode =
            |mode: &&String| mode.strip_suffix('K').is_some_and(|kib| kib.parse::<u32>().is_ok_and(|n| n > 0));
        if let Some(bad) = options.modes.iter().find(|mode| *mode != "exact" && !is_mode(mode)) {
            return Err(format!("{bad}: a mode is exact, or an interval in KiB such as 16K"));
        }
        Ok(options)
    }
}

fn number<N: std::str::FromStr + PartialOrd + std::fmt::Display>(text: &str, least: N) -> Result<N, String> {
    let parsed = text.parse().ok().filter(|number| *number >= least);
    parsed.ok_or(format!("{text}: a number of at least {least} is wanted"))
}
