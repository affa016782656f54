//! The page on stderr at shutdown: totals, what was lost, what leaks and what to do, the largest live sites by name; then
//! what that rests on, and where the rest is.
//!
//! Its first lines are those of the dhat crate's. In sampled mode totals are exact and say so, and what the sites
//! account for stands beside them with its interval; the peak is the largest that a tick or the sample saw, and says
//! which. A site takes two lines: figures, then the user's own functions from the allocating one outwards, then the
//! library's that they allocated through. Names are cut to what tells them apart (`Email::from`), consecutive repeats
//! are one.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::fmt;
use std::path::Path;

use super::facts::{Losses, Mode, ProcessState};
use super::frame::{Frame, file_name};
use super::leaks::Chain as LeakChain;
use super::name::short_name;
use super::points::{Point, Points};
use super::snapshot::{Snapshot, add, take_out};
use super::text::{self, THROUGH, memory_line};
use super::trim::Role;
use crate::leak::State;
use crate::store::picture::Amount;
use crate::units::size;

/// Sites shown.
const SITES_SHOWN: usize = 5;
/// Sites shown beside leaks, if they hold one part in so many of what is live.
const BESIDES_SHOWN: usize = 3;
const BESIDES_PART: u64 = 20;
/// Sites whose verdict is looked up for the chains shown: those that hold most.
const SITES_NAMED: usize = 64;
/// Functions shown of one chain; a page is read, not studied.
const FUNCTIONS_SHOWN: usize = 12;
/// Library functions shown of one chain.
const LIBRARY_SHOWN: usize = 3;

/// Prints a snapshot's summary; `saved` is the DHAT file that was written of it.
#[derive(Debug)]
pub(crate) struct Summary<'a> {
    pub(crate) snapshot: &'a Snapshot,
    /// The snapshot's.
    pub(crate) points: &'a Points<'a>,
    pub(crate) saved: Option<&'a Path>,
}

impl fmt::Display for Summary<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let totals = self.snapshot.totals();
        let exact = if self.snapshot.mode() == Mode::Sampled { " (exact)" } else { "" };
        let figures = |bytes, blocks| format!("{} bytes in {} blocks", grouped(bytes), grouped(blocks));
        writeln!(f, "unfreed: Total:     {}{exact}", figures(totals.total_bytes, totals.total_blocks))?;
        writeln!(f, "unfreed: At t-gmax: {}", self.peak(&figures(totals.max_live_bytes, totals.max_live_blocks)))?;
        writeln!(f, "unfreed: At t-end:  {}{exact}", figures(totals.live_bytes, totals.live_blocks))?;
        if totals.older_freed_blocks > 0 {
            writeln!(
                f,
                "unfreed: Freed besides: {} bytes in {} blocks that are older than the profiler",
                grouped(totals.older_freed_bytes),
                grouped(totals.older_freed_blocks)
            )?;
        }
        if self.snapshot.process_state() == ProcessState::Killed {
            match self.snapshot.totals_age().as_secs_f64() {
                0.0 => writeln!(f, "unfreed: The process was killed; all that it had recorded is here")?,
                age => writeln!(f, "unfreed: The process was killed; its totals may be {age:.1} s older than its end")?,
            }
        }
        write_losses(f, &self.snapshot.losses())?;
        match &self.snapshot.leaks {
            Some(leaks) => {
                let chains = leaks.chains();
                if chains.is_empty() {
                    self.largest(f, &[])?;
                    leaks.findings(f, &chains)?;
                } else {
                    leaks.findings(f, &chains)?;
                    self.largest(f, &chains)?;
                }
                leaks.what_to_do(f, &chains)?;
                leaks.untold(f)?;
            }
            None => self.largest(f, &[])?,
        }
        // What the figures rest on comes behind what they say.
        memory_line(f, &self.snapshot.memory())?;
        if self.snapshot.mode() == Mode::Sampled {
            self.sampling(f)?;
        }
        if let Some(path) = self.saved {
            writeln!(
                f,
                "unfreed: Saved to {}: load it in dh_view.html and sort by 'At t-end (bytes)'\n\
                 unfreed:   (Valgrind's, or https://nnethercote.github.io/dh_view/dh_view.html)",
                path.display()
            )?;
        }
        Ok(())
    }
}

impl Summary<'_> {
    /// The peak, of which `counted` is the exact counters'. Those of all threads are summed at ticks alone, where a sample's records
    /// are in the order of time: what lies between two ticks only the sample has seen. It is believed where it says more than its error may
    /// be: the variance of a block's estimate, s²(1 − p)/p with p = 1 − exp(−s/R), is at most s·R.
    #[expect(clippy::cast_precision_loss, reason = "shown with three digits")]
    fn peak(&self, counted: &str) -> String {
        let (bytes, blocks) = self.snapshot.picture.peak_whole();
        let error = 1.96 * (self.snapshot.largest_interval_bytes * bytes as f64).sqrt();
        if self.snapshot.mode() == Mode::Exact {
            counted.into()
        } else if bytes as f64 > self.snapshot.totals().max_live_bytes as f64 + error {
            format!(
                "{} in {} blocks (estimated; exact counts, made at ticks, were at most {counted})",
                size(bytes as f64),
                grouped(blocks)
            )
        } else {
            format!("{counted} (the largest exact count at a tick)")
        }
    }

    fn sampling(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (live, total) = self.snapshot.attributed();
        writeln!(
            f,
            "unfreed: Sampled:   call sites are estimated from a sample (mean interval {} bytes, {});",
            grouped(self.snapshot.sample_interval_bytes()),
            if self.snapshot.is_interval_fixed() { "fixed" } else { "governed" }
        )?;
        let (total, live) = (self.snapshot.bytes(&total), self.snapshot.bytes(&live));
        writeln!(
            f,
            "unfreed:            they sum to a total of {} (95%: {}), and {} at t-end (95%: {})",
            size(total.value),
            sizes(total.low, total.high),
            size(live.value),
            sizes(live.low, live.high)
        )
    }

    /// What the sites that were shown as leaks hold, by their own texts: what several of them share is another than that of each, and
    /// sites that are no leak may read the same.
    fn held_by_leaks(&self, leaks: &[LeakChain<'_>]) -> HashMap<String, Amount> {
        let sites = self.snapshot.sites_by_stack();
        let mut held: HashMap<String, Amount> = HashMap::new();
        for &index in leaks.iter().flat_map(|leak| &leak.stacks).filter_map(|stack| sites.get(stack)) {
            if let Some(site) = self.snapshot.picture.sites.get(index) {
                add(held.entry(chain_of(self.snapshot.frames_of(index))).or_default(), &site.figures.live);
            }
        }
        held
    }

    /// What the largest sites beside these leaks are judged to be, by their text: that of the largest site that reads so.
    fn states_by_text(&self, shown: &[LeakChain<'_>]) -> HashMap<String, State> {
        let Some(leaks) = &self.snapshot.leaks else { return HashMap::new() };
        let mut states = leaks.states();
        shown.iter().flat_map(|leak| &leak.stacks).for_each(|stack| _ = states.remove(stack));
        let sites = &self.snapshot.picture.sites;
        let mut largest: Vec<usize> = (0..sites.len()).collect();
        let live = |index: &usize| Reverse(sites.get(*index).map_or(0, |site| site.figures.live.bytes));
        if largest.len() > SITES_NAMED {
            largest.select_nth_unstable_by_key(SITES_NAMED, live);
            largest.truncate(SITES_NAMED);
        }
        largest.sort_by_key(live);
        let mut by_text = HashMap::new();
        for index in largest {
            if let Some(&state) = sites.get(index).and_then(|site| states.get(&site.stack)) {
                by_text.entry(chain_of(self.snapshot.frames_of(index))).or_insert(state);
            }
        }
        by_text
    }

    /// The largest live chains; of those beside leaks, fewer.
    fn largest(&self, f: &mut fmt::Formatter<'_>, leaks: &[LeakChain<'_>]) -> fmt::Result {
        let (mut chains, all) = merged_by_name(self.points);
        let (heading, most) = match leaks {
            [] => ("Largest live at t-end:", SITES_SHOWN),
            _ => ("Largest live at t-end besides:", BESIDES_SHOWN),
        };
        let least = if leaks.is_empty() { 1 } else { (all.bytes / BESIDES_PART).max(1) };
        let (held, states) = (self.held_by_leaks(leaks), self.states_by_text(leaks));
        for chain in &mut chains {
            if let Some(held) = held.get(&chain.text) {
                take_out(&mut chain.live, held);
            }
        }
        chains.sort_by(|a, b| b.live.bytes.cmp(&a.live.bytes).then_with(|| a.text.cmp(&b.text)));
        let shown = chains.iter().filter(|chain| chain.live.bytes >= least).take(most);
        let mut is_first = true;
        for (i, chain) in shown.enumerate() {
            if is_first {
                writeln!(f, "unfreed: {heading}")?;
                is_first = false;
            }
            let estimate = self.snapshot.bytes(&chain.live);
            match leaks {
                [] => write!(f, "unfreed: {}. ", i + 1)?,
                _ => write!(f, "unfreed: -  ")?,
            }
            write!(f, "{} ({})", size(estimate.value), percent(&chain.live, &all))?;
            if self.snapshot.mode() == Mode::Sampled {
                write!(f, ", 95%: {}", sizes(estimate.low, estimate.high))?;
            }
            write!(f, ", in {} blocks", grouped(chain.live.whole_blocks()))?;
            match states.get(&chain.text) {
                _ if chain.unknown => writeln!(f, ", UNKNOWN: records were lost")?,
                Some(State::Unknown) => writeln!(f, "; not judged")?,
                Some(state) => writeln!(f, "; {state}")?,
                None => writeln!(f)?,
            }
            text::chain(f, &chain.text)?;
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

/// The points that are live, merged by what is shown of them; and the sum of all.
fn merged_by_name(points: &Points<'_>) -> (Vec<Chain>, Amount) {
    let names: Vec<Name> = points.frames.iter().map(|frame| Name::of(frame)).collect();
    let mut all = Amount::default();
    let mut chains: Vec<Chain> = Vec::new();
    let mut by_text: HashMap<String, usize> = HashMap::new();
    for point in points.points.iter().filter(|point| point.figures.live.bytes > 0) {
        add(&mut all, &point.figures.live);
        let text = chain_text(point, &names);
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
    (chains, all)
}

/// Whose a function is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Owner {
    User,
    Library,
    Other,
}

/// A frame as chains show it.
struct Name {
    owner: Owner,
    short: String,
    /// `crate: `, or nothing.
    krate: String,
}

impl Name {
    fn of(frame: &Frame) -> Name {
        let owner = match frame.symbol.role {
            // At the outermost place, whatever is left out before it.
            Role::Scope | Role::Ways => Owner::User,
            Role::Code if is_library(frame) => Owner::Library,
            Role::Code => Owner::User,
            _ => Owner::Other,
        };
        let short = match frame.name() {
            Some(name) if matches!(frame.symbol.role, Role::Scope | Role::Ways) => {
                name.chars().filter(|c| !c.is_control()).collect()
            }
            Some(name) => short_name(name).unwrap_or_else(|| place(frame)),
            None if frame.symbol.role == Role::Cut => "[callers not captured]".into(),
            None => frame.nameless(),
        };
        let krate = krate_of(frame.name().unwrap_or_default()).map_or_else(String::new, |krate| format!("{krate}: "));
        Name { owner, short, krate }
    }
}

/// Whose a function is, by its name; `<alloc::vec::Vec<T> as byte_pool::Realloc>::realloc` is `byte_pool`'s, since the
/// standard library knows no such trait.
fn krate_of(name: &str) -> Option<&str> {
    let first = |path: &'_ str| -> Option<usize> {
        let (krate, _) = path.split_once("::")?;
        krate.chars().all(|c| c.is_alphanumeric() || c == '_').then_some(krate.len())
    };
    let path = name.trim_start_matches(['<', '&']);
    let of_type = first(path).and_then(|length| path.get(..length));
    let of_trait = name.strip_prefix('<').and_then(|rest| rest.split_once(" as ")).and_then(|(_, path)| {
        let length = first(path)?;
        path.get(..length)
    });
    match (of_type, of_trait) {
        (None | Some("alloc" | "core" | "std"), Some(krate)) => Some(krate),
        (of_type, _) => of_type,
    }
}

/// For a closure that lost its function's name: `sync.rs:42`.
fn place(frame: &Frame) -> String {
    frame.file().map_or_else(|| "closure".into(), |file| format!("{}:{}", file_name(file), frame.line().unwrap_or(0)))
}

/// `user ← user ← …, through library: function ← function`.
fn chain_text(point: &Point, names: &[Name]) -> String {
    text_of(|| point.frames.iter().filter_map(|&number| names.get(number as usize)))
}

fn text_of<'n, I: Iterator<Item = &'n Name>>(names: impl Fn() -> I) -> String {
    let user = joined(names().filter(|name| name.owner == Owner::User), FUNCTIONS_SHOWN);
    let through = || names().take_while(|name| name.owner != Owner::User).filter(|name| name.owner == Owner::Library);
    let library = joined(through(), LIBRARY_SHOWN);
    match (user.is_empty(), library.is_empty()) {
        (false, true) => user,
        (true, true) if names().next().is_none() => "[no stack]".into(),
        (true, true) => joined(names(), FUNCTIONS_SHOWN),
        (of_library, false) => {
            let krate = through().next().map_or("", |name| &name.krate);
            if of_library { format!("{krate}{library}") } else { format!("{user}{THROUGH}{krate}{library}") }
        }
    }
}

/// One chain, of frames that belong to no point.
pub(crate) fn chain_of(frames: &[Frame]) -> String {
    let names: Vec<Name> = frames.iter().map(Name::of).collect();
    text_of(|| names.iter())
}

/// Sources of packages that Cargo fetched.
pub(super) fn is_library(frame: &Frame) -> bool {
    frame.file().is_some_and(|file| file.contains("/registry/src/") || file.contains("/git/checkouts/"))
}

fn joined<'a>(names: impl Iterator<Item = &'a Name>, limit: usize) -> String {
    let mut text = String::new();
    let mut previous = "";
    let mut count = 0;
    for name in names {
        if count > 0 && name.short == previous {
            continue;
        }
        if count == limit {
            text.push_str(" ← …");
            break;
        }
        if count > 0 {
            text.push_str(" ← ");
        }
        text.push_str(&name.short);
        previous = &name.short;
        count += 1;
    }
    text
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
        (losses.ringless_threads, "threads had no ring for a while, and attributed their records themselves"),
        (losses.unlisted_scopes, "guards of bounded() tagged nothing: too many names, or too many in each other"),
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

/// `64.1 to 87.6 MB`.
pub(super) fn sizes(low: f64, high: f64) -> String {
    let (low, high) = (size(low.max(0.0)), size(high));
    match (low.split_once(' '), high.split_once(' ')) {
        (Some((number, unit)), Some((_, same))) if unit == same => format!("{number} to {high}"),
        _ => format!("{low} to {high}"),
    }
}

#[expect(clippy::cast_precision_loss, reason = "a percentage")]
fn percent(part: &Amount, all: &Amount) -> String {
    format!("{:.1}% of live", 100.0 * part.bytes as f64 / (all.bytes.max(1)) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::frame::Symbol;
    use crate::report::synthetic::{self, Builder};
    use crate::units::FrameKey;

    #[test]
    fn numbers_read_well() {
        for (number, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(grouped(number), text);
        }
        for (bytes, text) in [
            (0.0, "0 bytes"),
            (999.0, "999 bytes"),
            (999.7, "1.0 kB"),
            (46.49e9, "46.5 GB"),
            (123.4e6, "123 MB"),
            (5e15, "5000.0 TB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }

    /// A stripped program: an address means nothing after the run, a place in the file does.
    #[test]
    fn a_frame_without_a_name_is_a_place_in_its_module() {
        let symbol = Symbol { module: Some("/opt/mail".into()), offset: 0x1234, ..Symbol::default() };
        let frame = |symbol: Symbol| Frame { address: 0x5555_0000_1234, symbol: symbol.into() };
        assert_eq!(Name::of(&frame(symbol)).short, "mail+0x1234");
        assert_eq!(Name::of(&frame(Symbol::default())).short, "0x555500001234");
    }

    #[test]
    fn an_exact_page() {
        let mut builder = Builder::new(0);
        let module = builder.module("/opt/mail", &[1; 20], 0, 0x9000);
        let stack = |leaf: u64| [leaf, 2, 3, 3, 4].map(|offset| FrameKey::new(module, offset));
        builder.site(&stack(10), 1000, 50, 0);
        // The same chain by another address: one line.
        builder.site(&stack(11), 1000, 25, 5);
        builder.site(&stack(20), 100, 3, 0);
        builder.site(&stack(30), 100, 0, 9);
        let snapshot = Snapshot::from_picture(builder.picture);
        snapshot.name_frames(|offset| {
            Some(match offset {
                10 | 11 => "mail::decode_base64_mime".into(),
                2 => "<mail::Email as core::convert::From<imap::Fetch>>::from".into(),
                3 => "mail::fetch_emails::{{closure}}".into(),
                4 => "mail::start_background_sync".into(),
                _ => format!("mail::other_{offset}"),
            })
        });
        let text =
            Summary { snapshot: &snapshot, points: &Points::of(&snapshot), saved: Some(Path::new("dhat-heap.json")) }
                .to_string();
        let expected = "\
unfreed: Total:     81,200 bytes in 92 blocks
unfreed: At t-gmax: 75,300 bytes in 78 blocks
unfreed: At t-end:  75,300 bytes in 78 blocks
unfreed: Largest live at t-end:
unfreed: 1. 75.0 kB (99.6% of live), in 75 blocks
unfreed:    decode_base64_mime ← Email::from ← fetch_emails ← start_background_sync
unfreed: 2. 300 bytes (0.4% of live), in 3 blocks
unfreed:    other_20 ← Email::from ← fetch_emails ← start_background_sync
unfreed: Memory:    75.3 kB requested, usable not asked (this was read from the store's file, not from the process),
unfreed:            limit unknown
unfreed: Saved to dhat-heap.json: load it in dh_view.html and sort by 'At t-end (bytes)'
unfreed:   (Valgrind's, or https://nnethercote.github.io/dh_view/dh_view.html)
";
        assert_eq!(text, expected);
    }

    #[test]
    fn a_sampled_page_has_intervals_and_losses() {
        let snapshot = synthetic::snapshot("unknown").expect("known");
        let text = Summary { snapshot: &snapshot, points: &Points::of(&snapshot), saved: None }.to_string();
        let has = |line: &str| assert!(text.contains(line), "no '{line}' in\n{text}");
        has("bytes in 458,082 blocks (exact)");
        has("estimated from a sample (mean interval 65,536 bytes, fixed)");
        has("unfreed: Lost: 7 records were dropped");
        has(", 95%: ");
        has(", UNKNOWN: records were lost");
        assert_eq!(text.matches(" of live)").count(), SITES_SHOWN, "{text}");
        assert!(text.lines().all(|line| line.starts_with("unfreed: ")), "{text}");
    }

    /// The maximum of the exact counters is taken at ticks: what lies between two of them the sample alone has seen.
    #[test]
    fn a_sampled_peak_is_not_called_exact() {
        let mut builder = Builder::new(1000);
        let module = builder.module("/opt/mail", &[1; 20], 0, 0x9000);
        builder.site(&[FrameKey::new(module, 10)], 100_000, 20, 0);
        let page = |builder: &Builder| {
            let snapshot = Snapshot::from_picture(builder.picture.clone());
            snapshot.name_frames(|_| None);
            Summary { snapshot: &snapshot, points: &Points::of(&snapshot), saved: None }.to_string()
        };
        let line = |page: &str| page.lines().find(|line| line.contains("t-gmax")).expect("a line").to_owned();
        builder.picture.exact.max_live_blocks = 21;
        // More than the sample's, or less by no more than its error.
        let mut seen = String::new();
        for (counted, text) in [(2_100_000, "2,100,000"), (1_950_000, "1,950,000")] {
            builder.picture.exact.max_live_bytes = counted;
            seen = page(&builder);
            let expected = format!("unfreed: At t-gmax: {text} bytes in 21 blocks (the largest exact count at a tick)");
            assert_eq!(line(&seen), expected);
        }
        assert_eq!(seen.matches(" blocks (exact)").count(), 2, "{seen}");
        builder.picture.exact.max_live_bytes = 678;
        builder.picture.exact.max_live_blocks = 6;
        assert_eq!(
            line(&page(&builder)),
            "unfreed: At t-gmax: 2.0 MB in 20 blocks (estimated; exact counts, made at ticks, were at most 678 bytes in 6 blocks)"
        );
    }

    /// Two sites that leak as one, and one that reads like the first of them, holds nearly all, and is no leak.
    #[test]
    fn what_reads_like_a_leak_s_part_is_shown_besides() {
        let mut builder = Builder::new(0);
        let module = builder.module("/opt/mail", &[1; 20], 0, 0x9000);
        let stack = |leaf: u64, route: u64| [leaf, route, 4].map(|offset| FrameKey::new(module, offset));
        let mut of = |leaf, route, bytes, blocks| builder.site(&stack(leaf, route), bytes, blocks, 0).stack;
        let leaking = vec![of(10, 20, 1000, 5), of(10, 30, 1000, 5)];
        of(11, 20, 1_000_000, 500);
        let mut snapshot = Snapshot::from_picture(builder.picture);
        snapshot.name_frames(|offset| {
            Some(match offset {
                10 | 11 => "mail::copy".into(),
                20 => "mail::route_a".into(),
                30 => "mail::route_b".into(),
                _ => "mail::run".into(),
            })
        });
        let chains: Vec<&[Frame]> = [0, 1].iter().map(|&index| snapshot.frames_of(index)).collect();
        let frames = crate::report::common(&chains);
        snapshot.set_leaks(crate::leak::LeakReport::of_one(frames, leaking, 10_000.0, 500_010_000));
        let page = Summary { snapshot: &snapshot, points: &Points::of(&snapshot), saved: None }.to_string();
        let expected = "\
unfreed: 1. leak, medium: 10.0 kB in 10 blocks, 0.0% freed, +1.0 kB a minute
unfreed:    copy ← [2 ways] ← run
unfreed: Largest live at t-end besides:
unfreed: -  500 MB (100.0% of live), in 500 blocks
unfreed:    copy ← route_a ← run
";
        assert!(page.contains(expected), "{page}");
        assert!(!page.contains("route_b"), "{page}");
    }

    #[test]
    fn a_function_is_of_its_types_crate_or_of_its_traits() {
        for (name, krate) in [
            ("mail_parser::decode", Some("mail_parser")),
            ("<byte_pool::pool::BytePool<T>>::alloc", Some("byte_pool")),
            ("<alloc::vec::Vec<T> as byte_pool::poolable::Realloc>::realloc", Some("byte_pool")),
            ("<mail::Email as core::convert::From<imap::Fetch>>::from", Some("mail")),
            ("main", None),
        ] {
            assert_eq!(krate_of(name), krate, "{name}");
        }
    }

    #[test]
    fn library_functions_come_behind_the_users() {
        let name = |owner, short: &str, krate: &str| Name { owner, short: short.into(), krate: krate.into() };
        let names = [
            name(Owner::Library, "decode_base64_mime", "mail_parser: "),
            name(Owner::Library, "MessageParser::parse", "mail_parser: "),
            name(Owner::User, "Email::parse_mime_content", "mail: "),
            name(Owner::Other, "map", "core: "),
            name(Owner::User, "fetch_emails", "mail: "),
            name(Owner::Library, "poll", "tokio: "),
        ];
        let text = |frames: &[u32]| {
            chain_text(&Point { frames: frames.into(), figures: Default::default(), unknown: false }, &names)
        };
        let expected =
            "Email::parse_mime_content ← fetch_emails, through mail_parser: decode_base64_mime ← MessageParser::parse";
        assert_eq!(text(&[0, 1, 2, 3, 4, 5]), expected);
        assert_eq!(text(&[2, 3, 4]), "Email::parse_mime_content ← fetch_emails");
        assert_eq!(text(&[0, 5]), "mail_parser: decode_base64_mime ← poll");
        assert_eq!(text(&[3]), "map");
        assert_eq!(text(&[]), "[no stack]");
    }
}
