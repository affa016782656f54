//! The page on stderr at shutdown: totals, what was lost, the largest live sites by name, where the rest is.
//!
//! Its first lines are those of the dhat crate's. In sampled mode totals are exact and say so, and what the sites
//! account for stands beside them with its interval. A site takes two lines: figures, then the user's own functions
//! from the allocating one outwards, then the library's that they allocated through. Names are cut to what tells
//! them apart (`Email::from`), consecutive repeats are one.

use std::collections::HashMap;
use std::fmt;
use std::path::Path;

use super::estimate::Estimate;
use super::facts::{Losses, Mode, ProcessState};
use super::frame::Frame;
use super::points::{Point, Points};
use super::snapshot::{Snapshot, add};
use super::trim::Role;
use crate::store::picture::Amount;

/// Sites shown.
const SITES_SHOWN: usize = 5;
/// Functions shown of one chain; a page is read, not studied.
const FUNCTIONS_SHOWN: usize = 12;
/// Library functions shown of one chain.
const LIBRARY_SHOWN: usize = 3;

/// Prints a snapshot's summary; `saved` is the DHAT file that was written of it.
#[derive(Debug)]
pub(crate) struct Summary<'a> {
    pub(crate) snapshot: &'a Snapshot,
    pub(crate) saved: Option<&'a Path>,
}

impl fmt::Display for Summary<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let totals = self.snapshot.totals();
        let exact = if self.snapshot.mode() == Mode::Sampled { " (exact)" } else { "" };
        for (what, bytes, blocks) in [
            ("Total:    ", totals.total_bytes, totals.total_blocks),
            ("At t-gmax:", totals.max_live_bytes, totals.max_live_blocks),
            ("At t-end: ", totals.live_bytes, totals.live_blocks),
        ] {
            writeln!(f, "unfreed: {what} {} bytes in {} blocks{exact}", grouped(bytes), grouped(blocks))?;
        }
        if self.snapshot.mode() == Mode::Sampled {
            self.sampling(f)?;
        }
        if totals.older_freed_blocks > 0 {
            writeln!(
                f,
                "unfreed: Freed besides: {} bytes in {} blocks that are older than the profiler",
                grouped(totals.older_freed_bytes),
                grouped(totals.older_freed_blocks)
            )?;
        }
        if self.snapshot.process_state() == ProcessState::Killed {
            let age = self.snapshot.totals_age().as_secs_f64();
            writeln!(f, "unfreed: The process was killed; its totals may be {age:.1} s older than its end")?;
        }
        write_losses(f, &self.snapshot.losses())?;
        self.largest(f)?;
        if let Some(path) = self.saved {
            writeln!(
                f,
                "unfreed: Saved to {}: load it in dh_view.html (Valgrind's, or https://nnethercote.github.io/dh_view/dh_view.html) and sort by 'At t-end (bytes)'",
                path.display()
            )?;
        }
        Ok(())
    }
}

impl Summary<'_> {
    fn sampling(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (live, total) = self.snapshot.attributed();
        writeln!(
            f,
            "unfreed: Call sites below are estimated from a sample (mean interval {} bytes, {}); they sum to",
            grouped(self.snapshot.sample_interval_bytes()),
            if self.snapshot.is_interval_fixed() { "fixed" } else { "governed" }
        )?;
        writeln!(
            f,
            "unfreed:   total {} bytes (95%: {}), at t-end {} bytes (95%: {})",
            grouped(total.whole_bytes()),
            range(self.snapshot.bytes(&total)),
            grouped(live.whole_bytes()),
            range(self.snapshot.bytes(&live))
        )
    }

    fn largest(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let points = Points::of(self.snapshot);
        let (chains, all) = merged_by_name(&points);
        let shown = chains.iter().filter(|chain| chain.live.bytes > 0).take(SITES_SHOWN);
        let mut is_first = true;
        for (i, chain) in shown.enumerate() {
            if is_first {
                writeln!(f, "unfreed: Largest live at t-end:")?;
                is_first = false;
            }
            let estimate = self.snapshot.bytes(&chain.live);
            write!(f, "unfreed: {}. {} ({})", i + 1, size(estimate.value), percent(&chain.live, &all))?;
            if self.snapshot.mode() == Mode::Sampled {
                write!(f, ", 95%: {} to {}", size(estimate.low), size(estimate.high))?;
            }
            write!(f, ", in {} blocks", grouped(chain.live.whole_blocks()))?;
            writeln!(f, "{}", if chain.unknown { ", UNKNOWN: records were lost" } else { "" })?;
            writeln!(f, "unfreed:    {}", chain.text)?;
        }
        Ok(())
    }
}

/// Sites that read the same.
struct Chain {
    text: String,
    live: Amount,
    unknown: bool,
}

/// The points that are live, merged by what is shown of them, the largest first; and the sum of all.
fn merged_by_name(points: &Points<'_>) -> (Vec<Chain>, Amount) {
    let mut all = Amount::default();
    let mut chains: Vec<Chain> = Vec::new();
    let mut by_text: HashMap<String, usize> = HashMap::new();
    for point in points.points.iter().filter(|point| point.figures.live.bytes > 0) {
        add(&mut all, &point.figures.live);
        let text = chain_text(point, points);
        match by_text.get(&text).and_then(|&known| chains.get_mut(known)) {
            Some(chain) => {
                add(&mut chain.live, &point.figures.live);
                chain.unknown |= point.unknown;
            }
            None => {
                by_text.insert(text.clone(), chains.len());
                chains.push(Chain { text, live: point.figures.live, unknown: point.unknown });
            }
        }
    }
    chains.sort_by(|a, b| b.live.bytes.cmp(&a.live.bytes).then_with(|| a.text.cmp(&b.text)));
    (chains, all)
}

/// `user ← user ← …, through library ← library`.
fn chain_text(point: &Point, points: &Points<'_>) -> String {
    let frames: Vec<&Frame> = point.frames.iter().filter_map(|&i| points.frames.get(i as usize).copied()).collect();
    let is_user = |frame: &&Frame| frame.symbol.role == Role::Code && !is_library(frame);
    let through: Vec<&Frame> = frames.iter().copied().take_while(|frame| !is_user(frame)).collect();
    let user = joined(frames.iter().copied().filter(is_user), FUNCTIONS_SHOWN);
    let named: Vec<&Frame> = through.into_iter().filter(|frame| frame.symbol.role == Role::Code).collect();
    let library = joined(named.iter().copied(), LIBRARY_SHOWN);
    match (user.is_empty(), library.is_empty()) {
        (false, false) => format!("{user}, through {}{library}", crate_prefix(&named)),
        (false, true) => user,
        (true, false) => library,
        (true, true) => joined(frames.iter().copied(), FUNCTIONS_SHOWN),
    }
}

/// The crate of the innermost library function, where its short name does not tell.
fn crate_prefix(frames: &[&Frame]) -> String {
    let name = frames.first().and_then(|frame| frame.name()).unwrap_or_default();
    match name.trim_start_matches(['<', '&']).split_once("::") {
        Some((krate, _)) if krate.chars().all(|c| c.is_alphanumeric() || c == '_') => format!("{krate}: "),
        _ => String::new(),
    }
}

/// Sources of packages that Cargo fetched.
fn is_library(frame: &Frame) -> bool {
    frame.file().is_some_and(|file| file.contains("/registry/src/") || file.contains("/git/checkouts/"))
}

fn joined<'a>(frames: impl Iterator<Item = &'a Frame>, limit: usize) -> String {
    let mut text = String::new();
    let mut previous = String::new();
    let mut count = 0;
    for frame in frames {
        let name = frame.name().map_or_else(|| format!("{:#x}", frame.address()), short_name);
        if name == previous {
            continue;
        }
        if count == limit {
            text.push_str(" ← …");
            break;
        }
        if count > 0 {
            text.push_str(" ← ");
        }
        text.push_str(&name);
        previous = name;
        count += 1;
    }
    text
}

/// A function's name without its modules, but with its type: `<mail::Email as From<imap::Fetch>>::from` is
/// `Email::from`, `mail::sync::run::{{closure}}` (the body of an async fn) is `run`. Control characters are taken out.
fn short_name(name: &str) -> String {
    let (of_type, rest) = match name.strip_prefix('<').and_then(split_generic) {
        Some((inside, rest)) => {
            let of = split_top(inside, " as ").map_or(inside, |(of, _)| of);
            (Some(without_generics(of)), rest)
        }
        None => (None, name),
    };
    let path = without_generics(rest);
    let mut parts: Vec<&str> =
        path.split("::").filter(|part| !part.is_empty() && !part.starts_with('{') && *part != "closure").collect();
    let last = parts.pop().unwrap_or("?");
    let owner = match (&of_type, parts.pop()) {
        (Some(of), _) => of.rsplit("::").next(),
        // Modules are lower case, types are not.
        (None, Some(parent)) if parent.starts_with(|c: char| c.is_uppercase()) => Some(parent),
        (None, _) => None,
    };
    let short = match owner {
        Some(owner) => format!("{owner}::{last}"),
        None => last.to_owned(),
    };
    short.chars().filter(|c| !c.is_control()).collect()
}

/// Splits `…>rest` at the bracket that closes one opened before.
fn split_generic(text: &str) -> Option<(&str, &str)> {
    let mut depth = 1;
    let mut previous = ' ';
    for (at, c) in text.char_indices() {
        match c {
            '<' => depth += 1,
            // Not the arrow of a function's type.
            '>' if previous != '-' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Some((text.get(..at)?, text.get(at + 1..)?));
        }
        previous = c;
    }
    None
}

/// Splits at the first `separator` outside of brackets.
fn split_top<'a>(text: &'a str, separator: &str) -> Option<(&'a str, &'a str)> {
    let mut depth = 0;
    for (at, c) in text.char_indices() {
        match c {
            '<' => depth += 1,
            '>' => depth -= 1,
            _ if depth == 0 && text.get(at..)?.starts_with(separator) => {
                return Some((text.get(..at)?, text.get(at + separator.len()..)?));
            }
            _ => {}
        }
    }
    None
}

fn without_generics(text: &str) -> String {
    let mut out = String::new();
    let mut depth = 0;
    let mut previous = ' ';
    for c in text.chars() {
        match c {
            '<' => depth += 1,
            '>' if previous != '-' => depth -= 1,
            _ if depth <= 0 => out.push(c),
            _ => {}
        }
        previous = c;
    }
    out
}

fn write_losses(f: &mut fmt::Formatter<'_>, losses: &Losses) -> fmt::Result {
    for (count, what) in [
        (losses.dropped_records, "records were dropped since the drain thread fell behind; their sites are UNKNOWN"),
        (losses.truncated_stacks, "stacks were cut at the frame limit or could not be unwound to their end"),
        (losses.folded_stacks, "stacks were shortened since the store was full; their sites are UNKNOWN"),
        (losses.folded_sites, "records have no site since the store was full"),
        (losses.unlisted_modules, "libraries have no names since the table of modules was full"),
        (losses.untracked_blocks, "sampled blocks could not be followed; they count in totals alone"),
        (losses.rows_in_doubt, "sites were being written when the process died"),
        (losses.ringless_threads, "threads had to share a ring"),
        (losses.replay_disagreements, "replayed stacks were wrong; please report this"),
    ] {
        if count > 0 {
            writeln!(f, "unfreed: Lost: {} {what}", grouped(count))?;
        }
    }
    Ok(())
}

/// `1,234,567`.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "non-negative; such a cast saturates")]
fn range(estimate: Estimate) -> String {
    format!("{} to {}", grouped(estimate.low.round() as u64), grouped(estimate.high.round() as u64))
}

/// `46.5 MB`: powers of a thousand, three digits.
fn size(bytes: f64) -> String {
    let mut value = bytes;
    for unit in ["bytes", "kB", "MB", "GB"] {
        if value < 999.5 {
            let decimals = if unit == "bytes" || value >= 99.95 { 0 } else { 1 };
            return format!("{value:.decimals$} {unit}");
        }
        value /= 1000.0;
    }
    format!("{value:.1} TB")
}

#[expect(clippy::cast_precision_loss, reason = "a percentage")]
fn percent(part: &Amount, all: &Amount) -> String {
    format!("{:.1}% of live", 100.0 * part.bytes as f64 / (all.bytes.max(1)) as f64)
}
