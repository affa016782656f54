//! A report of leaks as text that a person reads in half a minute: totals, the share that leaks, the worst sites with
//! their chains (the program's own functions in front), what to do.

use std::fmt;

use super::frame::Frame;
use super::summary::{chain_of, grouped, size};
use crate::leak::{Leak, LeakReport, State};

/// Sites shown in full; the rest is counted.
const SITES_SHOWN: usize = 5;
/// Width that advice is wrapped to.
const WIDTH: usize = 110;

impl fmt::Display for LeakReport<Frame> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown: Vec<&Leak<Frame>> = self.leaks().collect();
        let judged = self.sites().count();
        if judged == 0 {
            return Ok(());
        }
        // That a scope exceeds its bound is known at once.
        if self.epochs() < self.suspect_after_epochs() && !self.has_leaks() {
            return writeln!(
                f,
                "unfreed: Which of them leak is told after {} epochs; this run had {}",
                self.suspect_after_epochs(),
                self.epochs()
            );
        }
        let named = |state: State| self.sites().filter(|site| site.state() == state).count();
        let (leaks, suspects) = (named(State::Leak), named(State::Suspected));
        match (leaks, suspects) {
            (0, 0) => writeln!(f, "unfreed: No leak found in {} judged sites", grouped(judged as u64))?,
            (leaks, suspects) => writeln!(
                f,
                "unfreed: {leaks} {}, {suspects} suspected, of {} judged sites",
                if leaks == 1 { "LEAK" } else { "LEAKS" },
                grouped(judged as u64)
            )?,
        }
        let leaking: f64 = shown.iter().map(|site| site.live_bytes().value).sum();
        write!(f, "unfreed: Live {}", size(whole(self.current_bytes())))?;
        if leaking > 0.0 {
            let share = 100.0 * leaking / whole(self.current_bytes()).max(1.0);
            write!(f, ", of which {} ({:.0}%) in these sites", size(leaking), share.min(100.0))?;
        }
        write!(f, "; {:+.2} MB a minute over {}", self.growth_mb_per_minute(), duration(self.window_seconds()))?;
        if let Some(limit) = self.limit_bytes() {
            write!(f, "; limit {}", size(whole(limit)))?;
        }
        if let Some(seconds) = self.exhaustion_seconds().filter(|seconds| *seconds < LONGEST_FORECAST) {
            write!(f, ", reached in about {}", duration(seconds))?;
        }
        writeln!(f)?;
        for (i, leak) in shown.iter().take(SITES_SHOWN).enumerate() {
            self.site(f, i + 1, leak)?;
        }
        if shown.len() > SITES_SHOWN {
            writeln!(f, "unfreed: and {} more sites", shown.len() - SITES_SHOWN)?;
        }
        let unjudged = self.unjudged();
        if unjudged.sites > 0 {
            writeln!(
                f,
                "unfreed: {} sites are not judged; up to {} could hide there",
                unjudged.sites,
                size(unjudged.bytes)
            )?;
        }
        for line in self.recommendations() {
            wrapped(f, "→ ", line)?;
        }
        Ok(())
    }
}

/// A forecast beyond a year says nothing.
const LONGEST_FORECAST: f64 = 365.0 * 86_400.0;

impl LeakReport<Frame> {
    fn site(&self, f: &mut fmt::Formatter<'_>, number: usize, leak: &Leak<Frame>) -> fmt::Result {
        let bytes = leak.live_bytes();
        write!(f, "unfreed: {number}. {} ({}): {}", leak.state(), leak.severity(), size(bytes.value))?;
        if bytes.low < bytes.high {
            write!(f, " (95%: {} to {})", size(bytes.low), size(bytes.high))?;
        }
        let evidence = leak.evidence();
        writeln!(
            f,
            " in {:.0} blocks, {:.1}% ever freed, {:+.2} MB a minute",
            leak.live_blocks().value,
            evidence.freed_share * 100.0,
            leak.growth_bytes_per_minute().value / 1e6
        )?;
        writeln!(f, "unfreed:    {}", chain_of(leak.frames()))?;
        if let (Some(scope), Some(bound)) = (leak.scope(), evidence.bound_bytes) {
            let held = evidence.scope_live_bytes.unwrap_or_default().value;
            writeln!(f, "unfreed:    in scope {scope}, which holds {} of at most {}", size(held), size(whole(bound)))?;
        }
        wrapped(f, "  ", leak.advice())
    }
}

#[expect(clippy::cast_precision_loss, reason = "shown with three digits")]
fn whole(bytes: u64) -> f64 {
    bytes as f64
}

/// `4.3 h`: the largest unit that fits.
fn duration(seconds: f64) -> String {
    for (unit, length) in [("days", 86_400.0), ("h", 3600.0), ("min", 60.0)] {
        if seconds >= 2.0 * length {
            return format!("{:.1} {unit}", seconds / length);
        }
    }
    format!("{seconds:.1} s")
}

fn wrapped(f: &mut fmt::Formatter<'_>, mark: &str, text: &str) -> fmt::Result {
    let mut line = String::new();
    for word in text.split_whitespace() {
        if !line.is_empty() && line.len() + word.len() >= WIDTH {
            writeln!(f, "unfreed:  {mark}{line}")?;
            line.clear();
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    if line.is_empty() { Ok(()) } else { writeln!(f, "unfreed:  {mark}{line}") }
}
