//! The bounds that unfreed promises to keep, and whether it kept them in this run. Says by how much a row is missed, and
//! whether the run was long enough to know.

use crate::plan::{Group, Work};
use crate::results::{Figure, Results, cpu, p99, wall};
use crate::statistics::Middle;

/// A figure and what it should be, at best and at most.
#[derive(Clone, Debug)]
pub struct Row {
    pub what: String,
    pub aim: String,
    pub at_most: String,
    pub measured: String,
    pub verdict: Verdict,
    /// Rows of one promise, for the short table.
    pub promise: &'static str,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// As good as hoped.
    Aim,
    /// Within the bound.
    Kept,
    /// By how much it was missed, in the row's own figure, and whether the interval leaves it open.
    Missed { by: f64, unit: &'static str, open: bool },
    /// The bound is not for this workload, and why. Not counted.
    NotAsked(&'static str),
    /// Nothing could keep it on this workload, and why.
    Beyond(String),
    /// No figure, and why.
    Unknown(String),
}

impl Verdict {
    pub fn text(&self) -> String {
        match self {
            Verdict::Aim => "aim met".to_owned(),
            Verdict::Kept => "kept".to_owned(),
            Verdict::Missed { by, unit, open } => {
                let digits = if *by < 20.0 { 2 } else { 0 };
                let open = if *open { " (the interval reaches into the bound)" } else { "" };
                format!("**missed by {by:.digits$}{unit}**{open}")
            }
            Verdict::NotAsked(why) => format!("does not apply: {why}"),
            Verdict::Beyond(why) => format!("nothing could: {why}"),
            Verdict::Unknown(why) => format!("no figure: {why}"),
        }
    }
}

/// `1.04 (1.02–1.06)`: a median and its interval.
pub fn shown(middle: &Middle) -> String {
    let digits = if middle.median < 3.0 {
        2
    } else if middle.median < 30.0 {
        1
    } else {
        0
    };
    format!("{:.digits$} ({:.digits$}\u{2013}{:.digits$})", middle.median, middle.low, middle.high)
}

/// To the hundredth that bounds are given in.
fn hundredths(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

fn judge(middle: Option<Middle>, aim: f64, most: f64, why: impl FnOnce() -> String) -> (String, Verdict) {
    let Some(middle) = middle else { return ("\u{2013}".to_owned(), Verdict::Unknown(why())) };
    let median = hundredths(middle.median);
    let verdict = if median <= aim {
        Verdict::Aim
    } else if median <= most {
        Verdict::Kept
    } else {
        Verdict::Missed { by: hundredths(median - most), unit: "", open: hundredths(middle.low) <= most }
    };
    (shown(&middle), verdict)
}

pub const SAMPLED_WALL: &str = "sampled every 512 KiB: wall time, each workload";
pub const GOVERNED_WALL: &str = "governed: wall time, each workload";
pub const GOVERNED_INTERVAL: &str = "governed: the interval it settles at, where under 500 MB/s are allocated";
pub const INSTRUCTIONS: &str = "instructions added on json, all included";
pub const SERVER: &str = "server: time a request and p99, sampled and governed";
pub const DHAT: &str = "exact, one thread: faster than dhat";
pub const EXACT_PEERS: &str = "exact: time over mod-alloc's and heapscope's, each workload, equal depth";
pub const EXACT_THREADS: &str = "exact: 4 threads over 1, same work";

/// The promises, in the order of the short table.
pub const PROMISES: [&str; 8] =
    [SAMPLED_WALL, GOVERNED_WALL, GOVERNED_INTERVAL, INSTRUCTIONS, SERVER, DHAT, EXACT_PEERS, EXACT_THREADS];

/// All rows of the workloads that were run.
pub fn rows(results: &Results, works: &[Work]) -> Vec<Row> {
    let mut rows = Vec::new();
    for work in works {
        if work.name == "server" {
            server(&mut rows, results, work);
        } else {
            for (promise, variant, aim, most) in
                [(SAMPLED_WALL, "unfreed, sampled", 1.00, 1.02), (GOVERNED_WALL, "unfreed, governed", 1.01, 1.03)]
            {
                let ratio = results.ratio(Group::Sampled, work, variant, "none", wall);
                let (measured, verdict) = judge(ratio, aim, most, || results.why_not(Group::Sampled, work, variant));
                let mode = variant.trim_start_matches("unfreed, ");
                rows.push(row(
                    promise,
                    format!("{mode}, wall: {}", work.label()),
                    format!("{aim:.2}"),
                    format!("{most:.2}"),
                    measured,
                    verdict,
                ));
            }
        }
        interval(&mut rows, results, work);
        if work.counted_sampled > 0 && work.name == "json" {
            instructions(&mut rows, results, work);
        }
        exact(&mut rows, results, work);
    }
    threads(&mut rows, results, works);
    rows.sort_by_key(|row| PROMISES.iter().position(|promise| *promise == row.promise));
    rows
}

fn row(promise: &'static str, what: String, aim: String, at_most: String, measured: String, verdict: Verdict) -> Row {
    Row { what, aim, at_most, measured, verdict, promise }
}

/// MB/s that the program allocates, and the interval.
pub fn governed(results: &Results, work: &Work) -> Option<(f64, f64)> {
    let variant = "unfreed, governed";
    let interval = results.fact(Group::Sampled, work, variant, "interval_bytes")?;
    let bytes = results.fact(Group::Sampled, work, variant, "total_bytes")?;
    let wall_ns = results.of_rounds(Group::Sampled, work, variant, |s| s.slices.iter().map(wall).sum())?;
    // the warm-up's bytes are among the total's: a fifth
    Some((bytes * 0.8 / wall_ns * 1000.0, interval))
}

fn interval(rows: &mut Vec<Row>, results: &Results, work: &Work) {
    let what = format!("governed, interval: {}", work.label());
    let Some((rate, interval)) = governed(results, work) else { return };
    let kib = interval / 1024.0;
    let measured = format!("{kib:.0} KiB at {rate:.0} MB/s");
    let verdict = interval_verdict(rate, kib);
    rows.push(row(GOVERNED_INTERVAL, what, "\u{2013}".to_owned(), "64 KiB".to_owned(), measured, verdict));
}

/// Of an interval in KiB, at so many MB/s. There is no aim.
fn interval_verdict(rate: f64, kib: f64) -> Verdict {
    if rate >= 500.0 {
        Verdict::NotAsked("500 MB/s or more")
    } else if kib <= 64.0 {
        Verdict::Kept
    } else {
        Verdict::Missed { by: kib - 64.0, unit: " KiB", open: false }
    }
}

fn instructions(rows: &mut Vec<Row>, results: &Results, work: &Work) {
    let added = |variant, base| results.instructions_added(Group::Sampled, work, variant, base);
    let peer = added("jemalloc's profiler", "jemalloc").map(|(all, _)| all);
    let aim = peer
        .map_or_else(|| "jemalloc's profiler".to_owned(), |peer| format!("{:.2}% (jemalloc's profiler)", peer * 100.0));
    for (variant, base) in
        [("unfreed, sampled", "none"), ("unfreed over jemalloc", "jemalloc"), ("unfreed over mimalloc", "mimalloc")]
    {
        let what = format!("instructions on json: {variant}");
        let (measured, verdict) = match added(variant, base) {
            None => ("\u{2013}".to_owned(), Verdict::Unknown("not counted".to_owned())),
            Some((share, own_threads)) => {
                let verdict = if share <= 0.03 {
                    if peer.is_some_and(|peer| share <= peer) { Verdict::Aim } else { Verdict::Kept }
                } else {
                    Verdict::Missed { by: (share - 0.03) * 100.0, unit: " points", open: false }
                };
                (format!("{:.2}%, {:.2} of it in its thread", share * 100.0, own_threads * 100.0), verdict)
            }
        };
        rows.push(row(INSTRUCTIONS, what, aim.clone(), "3%".to_owned(), measured, verdict));
    }
}

fn server(rows: &mut Vec<Row>, results: &Results, work: &Work) {
    for variant in ["unfreed, sampled", "unfreed, governed"] {
        for (what, figure) in [("time a request", wall as Figure), ("p99 of one connection", p99 as Figure)] {
            let ratio = results.ratio(Group::Sampled, work, variant, "none", figure);
            let what = format!("server, {}: {what}", variant.trim_start_matches("unfreed, "));
            let (measured, verdict) = match ratio {
                None => ("\u{2013}".to_owned(), Verdict::Unknown(results.why_not(Group::Sampled, work, variant))),
                Some(middle) => {
                    let verdict = if middle.low <= 1.0 && middle.count >= 6 && middle.high < 1.03 {
                        Verdict::Aim
                    } else if middle.high < 1.03 {
                        Verdict::Kept
                    } else {
                        Verdict::Missed { by: middle.high - 1.03, unit: "", open: middle.low < 1.03 }
                    };
                    (shown(&middle), verdict)
                }
            };
            let (aim, most) = ("contains 1.00".to_owned(), "all below 1.03".to_owned());
            rows.push(row(SERVER, what, aim, most, measured, verdict));
        }
    }
}

fn exact(rows: &mut Vec<Row>, results: &Results, work: &Work) {
    let group = Group::Exact;
    // the same depth on both sides: dhat shows 10 frames, mod-alloc has 8, heapscope 64
    let deep = work.name == "deep";
    let own = |at_depth: &'static str| if deep { at_depth } else { "unfreed, exact" };
    if work.is_single_threaded() {
        over_dhat(rows, results, work, own("unfreed, 10 frames"));
    }
    let heapscope = if deep { "heapscope, 64 frames" } else { "heapscope, exact" };
    for (peer, own) in [("mod-alloc", own("unfreed, 8 frames")), (heapscope, own("unfreed, 64 frames"))] {
        if results.cell(group, work, peer).is_none() || results.cell(group, work, own).is_none() {
            continue;
        }
        let ratio = results.ratio(group, work, own, peer, wall);
        let why =
            || format!("{peer}: {}; {own}: {}", results.why_not(group, work, peer), results.why_not(group, work, own));
        let (measured, verdict) = judge(ratio, 1.0, 1.0, why);
        rows.push(row(
            EXACT_PEERS,
            format!("{own} over {peer}: {}", work.label()),
            "below 1".to_owned(),
            "1.00".to_owned(),
            measured,
            verdict,
        ));
    }
}

fn over_dhat(rows: &mut Vec<Row>, results: &Results, work: &Work, own: &str) {
    let group = Group::Exact;
    if results.cell(group, work, "dhat").is_none() || results.cell(group, work, own).is_none() {
        return;
    }
    // A workload that does much besides allocating: dhat itself is not that slow on it.
    let most = results.ratio(group, work, "dhat", "none", wall).map_or(0.0, |middle| middle.median);
    let (measured, verdict) = match results.ratio(group, work, "dhat", own, wall) {
        None => {
            let why = |name| format!("{name}: {}", results.why_not(group, work, name));
            ("\u{2013}".to_owned(), Verdict::Unknown(format!("{}; {}", why("dhat"), why(own))))
        }
        Some(middle) => {
            let verdict = if middle.median >= 30.0 {
                Verdict::Aim
            } else if middle.median >= 20.0 {
                Verdict::Kept
            } else if most < 20.0 {
                Verdict::Beyond(format!("dhat is {most:.1}\u{d7} no profiler"))
            } else {
                Verdict::Missed { by: 20.0 - middle.median, unit: "\u{d7}", open: middle.high >= 20.0 }
            };
            (shown(&middle), verdict)
        }
    };
    let what = format!("dhat over {own}: {}", work.label());
    rows.push(row(DHAT, what, "30\u{d7}".to_owned(), "20\u{d7} or more".to_owned(), measured, verdict));
}

fn threads(rows: &mut Vec<Row>, results: &Results, works: &[Work]) {
    for four in works.iter().filter(|work| work.threads == 4) {
        let Some(one) = works.iter().find(|work| work.name == four.name && work.threads == 1) else { continue };
        let variant = "unfreed, exact";
        let ratio = results.ratio_of_works(Group::Exact, four, one, variant, wall);
        let (measured, verdict) = judge(ratio, 1.0, 1.1, || results.why_not(Group::Exact, four, variant));
        let processors = results.ratio_of_works(Group::Exact, four, one, variant, cpu);
        let beside = processors.map_or_else(String::new, |cpu| format!("; CPU time {:.2}", cpu.median));
        let what = format!("exact, 4 threads over 1: {}", four.name);
        rows.push(row(EXACT_THREADS, what, "1.00".to_owned(), "1.10".to_owned(), measured + &beside, verdict));
    }
}

#[cfg(test)]
mod tests {
    use super::{Verdict, interval_verdict, judge};
    use crate::statistics::Middle;

    #[test]
    fn bounds_are_in_hundredths_and_misses_are_told() {
        let middle = |median: f64| Some(Middle { median, low: median - 0.02, high: median + 0.02, count: 9 });
        let verdict = |median| judge(middle(median), 1.00, 1.02, String::new).1;
        assert_eq!(verdict(1.004), Verdict::Aim);
        assert_eq!(verdict(1.006), Verdict::Kept);
        assert_eq!(verdict(1.024), Verdict::Kept);
        assert_eq!(verdict(1.03), Verdict::Missed { by: 0.01, unit: "", open: true });
        assert_eq!(verdict(1.10), Verdict::Missed { by: 0.08, unit: "", open: false });
        assert_eq!(judge(None, 1.0, 1.0, || "x".to_owned()).1, Verdict::Unknown("x".to_owned()));
    }

    #[test]
    fn the_bound_on_the_interval_is_for_programs_below_its_rate_alone() {
        let not_asked = Verdict::NotAsked("500 MB/s or more");
        assert_eq!(interval_verdict(6059.0, 256.0), not_asked);
        assert_eq!(interval_verdict(8758.0, 2.0), not_asked);
        assert_eq!(interval_verdict(500.0, 64.0), not_asked);
        assert_eq!(not_asked.text(), "does not apply: 500 MB/s or more");
        assert_eq!(interval_verdict(206.0, 32.0), Verdict::Kept);
        assert_eq!(interval_verdict(499.9, 64.0), Verdict::Kept);
        assert_eq!(interval_verdict(499.9, 128.0), Verdict::Missed { by: 64.0, unit: " KiB", open: false });
    }
}
