//! Three simpler rules on the same program with the same seed and interval, each as its authors or users describe it.
//!
//! Independent of unfreed: an allocator of its own notes blocks, samples them by the same law with its own draws, and
//! takes their stacks by the `backtrace` crate. The rules are judged at the end of each epoch, as those who use them would.
//!
//! - *Scalene's formula*: at each new peak of the footprint the block that made it is watched until the next peak; a site
//!   is a leak where by the rule of succession over 95% of its watched blocks stay.
//! - *Old live blocks*: 8 or more live sampled blocks older than 60 epochs.
//! - *Slope test*: a least-squares slope of its live bytes over 60 epochs above 0 with t > 3.

mod rules;
mod watched;

pub use watched::Watched;

use crate::background::Background;
use crate::case::{Case, Expect};
use crate::chain::{Role, role};
use crate::outcome::{RivalSaid, RivalsOutcome, Sampling};
use rules::{Said, SiteRules};

/// Runs `case` for `epochs` epochs and asks the rules.
#[must_use]
pub fn run(case: &'static Case, sampling: Sampling, seed: u64, epochs: u32) -> RivalsOutcome {
    watched::begin(sampling.interval_bytes(), seed);
    let mut program = (case.begin)(seed, epochs);
    let mut background = Background::start(seed);
    for t in 0..epochs {
        program(t);
        background.serve();
        watched::end_epoch(t);
    }
    let sites = watched::end();
    drop((program, background));
    RivalsOutcome { case: case.name.to_owned(), sampling, seed, said: score(case, &sites) }
}

fn score(case: &Case, sites: &[(Vec<usize>, SiteRules)]) -> [RivalSaid; 3] {
    let mut named = vec![Said::default(); case.culprits.len()];
    let (mut at_end, mut ever) = (Said::default(), Said::default());
    for (stack, rules) in sites.iter().filter(|(_, rules)| rules.ever.any()) {
        let site = if case.expect == Expect::Healthy {
            Role::Innocent
        } else {
            let names = names(stack);
            role(case, names.iter().map(String::as_str), false)
        };
        match site {
            Role::Culprit(number) => named[number].add(rules.now),
            Role::Accomplice => (),
            Role::Innocent => {
                at_end.add(rules.now);
                ever.add(rules.ever);
            }
        }
    }
    std::array::from_fn(|rule| RivalSaid {
        names_culprits: !named.is_empty() && named.iter().all(|said| said.0[rule]),
        accuses_at_end: at_end.0[rule],
        accused_ever: ever.0[rule],
    })
}

fn names(stack: &[usize]) -> Vec<String> {
    let mut names = Vec::new();
    for &address in stack {
        // A return address may be the next function's first.
        backtrace::resolve(std::ptr::without_provenance_mut(address - 1), |symbol| {
            names.extend(symbol.name().map(|name| format!("{name:#}")));
        });
    }
    names
}
