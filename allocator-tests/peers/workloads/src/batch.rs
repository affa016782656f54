//! A batch job: log lines matched by a regular expression and gathered in a BTreeMap; then a report of it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use regex::Regex;

use crate::turns::{Part, Turns, share};
use crate::{Random, Workload};

pub(crate) struct Batch {
    lines: Vec<String>,
    pattern: Regex,
}

#[derive(Default)]
struct Group {
    calls: u64,
    times: Vec<u32>,
    hosts: BTreeMap<String, u32>,
}

impl Batch {
    pub(crate) fn new() -> Batch {
        let mut random = Random::new(7);
        let lines = (0..4096)
            .map(|_| {
                let level = ["INFO", "WARN", "ERROR", "DEBUG"][random.below(4) as usize];
                let (host, route, ms) = (random.below(40), random.below(300), random.below(5000));
                format!("2026-11-21T12:00:00Z {level} host-{host} GET /api/items/{route} took {ms}ms")
            })
            .collect();
        let pattern = r"(?P<level>INFO|WARN|ERROR) (?P<host>[a-z]+-\d+) GET (?P<route>\S+) took (?P<ms>\d+)ms";
        Batch { lines, pattern: Regex::new(pattern).expect("a pattern of ours") }
    }
}

impl Workload for Batch {
    fn run(&mut self, turns: &Arc<Turns>) -> u64 {
        let batch = &*self;
        share(1, turns, |_| {
            let mut groups: BTreeMap<String, Group> = BTreeMap::new();
            move |part: &Part| {
                for n in part.operations.clone() {
                    let line = &batch.lines[(n % 4096) as usize];
                    let Some(found) = batch.pattern.captures(line) else { continue };
                    let group = groups.entry(format!("{} {}", &found["level"], &found["route"])).or_default();
                    group.calls += 1;
                    group.times.push(found["ms"].parse().unwrap_or(0));
                    *group.hosts.entry(found["host"].to_owned()).or_default() += 1;
                }
                let done = part.operations.end - part.operations.start;
                if part.ends_run { done + report(std::mem::take(&mut groups)) } else { done }
            }
        })
    }
}

/// The report of all groups, as a checksum of its text.
fn report(groups: BTreeMap<String, Group>) -> u64 {
    let mut report = String::new();
    let mut calls = 0;
    for (name, mut group) in groups {
        group.times.sort_unstable();
        let median = group.times[group.times.len() / 2];
        // writing to a String cannot fail
        let _ = writeln!(report, "{name}: {} calls, {median} ms, {} hosts", group.calls, group.hosts.len());
        calls += group.calls * 3;
    }
    calls + report.bytes().map(u64::from).sum::<u64>()
}
