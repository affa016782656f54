//! Lines of the page on stderr: what is long goes on in the next line.

use std::fmt;

use crate::leak::Memory;
use crate::units::{duration, size};

/// Characters of a line behind `unfreed: `.
const WIDTH: usize = 108;

/// `function ← function`, continued before an arrow; the library that it went through on a line of its own.
pub(super) fn chain(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    let (own, library) = match text.split_once(THROUGH) {
        Some((own, library)) => (own, Some(library)),
        None => (text, None),
    };
    broken(f, own.split(" ← "), "   ", "     ← ", " ← ")?;
    match library {
        Some(library) => broken(f, library.split(" ← "), "     through ", "     ← ", " ← "),
        None => Ok(()),
    }
}

/// Between the program's functions and those of a library.
pub(super) const THROUGH: &str = ", through ";

/// One piece of advice.
pub(super) fn wrapped(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    broken(f, text.split_whitespace(), " → ", "   ", " ")
}

fn broken<'a>(
    f: &mut fmt::Formatter<'_>,
    parts: impl Iterator<Item = &'a str>,
    first: &str,
    next: &str,
    between: &str,
) -> fmt::Result {
    let length = |text: &str| text.chars().count();
    let mut line = String::new();
    for part in parts {
        if line.is_empty() {
            line = format!("{first}{part}");
        } else if length(&line) + length(between) + length(part) > WIDTH {
            writeln!(f, "unfreed: {}{}", line, if between == ", " { "," } else { "" })?;
            line = format!("{next}{part}");
        } else {
            line.push_str(between);
            line.push_str(part);
        }
    }
    if line.is_empty() { Ok(()) } else { writeln!(f, "unfreed: {line}") }
}

/// An answer older than this is no longer shown as the present.
const STALE_SECONDS: f64 = 60.0;

/// Requested, usable, resident, cgroup, limit: what can't be said says why.
pub(super) fn memory_line(f: &mut fmt::Formatter<'_>, memory: &Memory) -> fmt::Result {
    let mut parts = vec![format!("{} requested", bytes(memory.requested_bytes))];
    let fresh = memory.answer_age_seconds.filter(|&age| age < STALE_SECONDS);
    parts.push(match (memory.usable_bytes, fresh) {
        (Some(usable), Some(age)) => {
            let from = memory.allocator.unwrap_or_default();
            let old = if memory.not_asked.is_some() { format!(", {} ago", duration(age)) } else { String::new() };
            format!("{} usable ({from}{old})", bytes(usable))
        }
        _ => format!("usable not asked ({})", memory.not_asked.unwrap_or("nobody did")),
    });
    if let Some(resident) = memory.resident_bytes {
        // It is the most that ours may be, and what was given back is not resident: a part is no more than the whole.
        let ours = match memory.profiler_bytes.min(resident) {
            0 => String::new(),
            ours => format!(" (up to {} unfreed's own)", bytes(ours)),
        };
        parts.push(format!("{} resident{ours}", bytes(resident)));
    }
    if let Some(charged) = memory.cgroup_bytes {
        parts.push(format!("cgroup {}", bytes(charged)));
    }
    parts.push(match (memory.limit_bytes, memory.limit_name) {
        (Some(limit), Some(name)) => format!("limit {} ({name})", bytes(limit)),
        _ => "limit unknown".into(),
    });
    broken(f, parts.iter().map(String::as_str), "Memory:    ", "           ", ", ")
}

#[expect(clippy::cast_precision_loss, reason = "shown with three digits")]
fn bytes(bytes: u64) -> String {
    size(bytes as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Show<F: Fn(&mut fmt::Formatter<'_>) -> fmt::Result>(F);

    impl<F: Fn(&mut fmt::Formatter<'_>) -> fmt::Result> fmt::Display for Show<F> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            (self.0)(f)
        }
    }

    #[test]
    fn long_chains_go_on_before_an_arrow() {
        let names = (0..20).map(|n| format!("Service::function_{n}")).collect::<Vec<_>>().join(" ← ");
        let text = Show(|f| chain(f, &names)).to_string();
        assert!(text.lines().count() > 3, "{text}");
        assert!(text.lines().all(|line| line.starts_with("unfreed:    ") && line.chars().count() <= 120), "{text}");
        assert!(text.lines().skip(1).all(|line| line.starts_with("unfreed:      ← Service::")), "{text}");
        let lines: Vec<&str> = text.lines().map(|line| line.trim_start_matches("unfreed: ").trim()).collect();
        assert_eq!(lines.join(" "), names, "nothing is lost");
        let text = Show(|f| chain(f, "parse ← main, through mail_parser: decode ← parse_")).to_string();
        assert_eq!(text, "unfreed:    parse ← main\nunfreed:      through mail_parser: decode ← parse_\n");
    }

    #[test]
    fn the_line_says_what_is_not_known() {
        let mut memory = Memory {
            requested_bytes: 326_000_000,
            allocator: Some("glibc malloc"),
            usable_bytes: Some(338_000_000),
            answer_age_seconds: Some(0.001),
            profiler_bytes: 9_000_000,
            resident_bytes: Some(362_000_000),
            cgroup_bytes: Some(900_000_000),
            limit_bytes: Some(4_000_000_000),
            limit_name: Some("cgroup memory.max"),
            ..Memory::default()
        };
        let line = |memory: &Memory| Show(|f| memory_line(f, memory)).to_string();
        assert_eq!(
            line(&memory),
            "unfreed: Memory:    326 MB requested, 338 MB usable (glibc malloc), 362 MB resident (up to 9.0 MB unfreed's \
             own),\nunfreed:            cgroup 900 MB, limit 4.0 GB (cgroup memory.max)\n"
        );
        memory.not_asked = Some("of locks");
        memory.answer_age_seconds = Some(12.0);
        assert!(line(&memory).contains("338 MB usable (glibc malloc, 12.0 s ago)"), "{}", line(&memory));
        memory.answer_age_seconds = Some(3600.0);
        assert!(line(&memory).contains("usable not asked (of locks)"), "{}", line(&memory));
        // What is its own at most may have been given back, or never come to be resident.
        memory.resident_bytes = Some(6_100_000);
        assert!(line(&memory).contains("6.1 MB resident (up to 6.1 MB unfreed's own)"), "{}", line(&memory));
        let little = Memory { requested_bytes: 5, not_asked: Some("a file"), ..Memory::default() };
        assert_eq!(line(&little), "unfreed: Memory:    5 bytes requested, usable not asked (a file), limit unknown\n");
    }
}
