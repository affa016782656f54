//! A report of leaks as text that a person reads in half a minute: how much leaks, the worst chains (the program's own
//! functions in front), and what to do, each advice once.
//!
//! Sites that read the same are one. Rates are by the minute only where a minute was observed.

use std::collections::HashMap;
use std::fmt;

use super::frame::Frame;
use super::summary::{chain_of, grouped, sizes};
use super::text::{THROUGH, chain, memory_line, wrapped};
use crate::leak::recommend::rate;
use crate::leak::{Leak, LeakReport, State};
use crate::units::{StackId, duration, size};

/// Chains shown in full; the rest is counted.
const CHAINS_SHOWN: usize = 5;
/// A forecast beyond a year says nothing.
const LONGEST_FORECAST: f64 = 365.0 * 86_400.0;

impl fmt::Display for LeakReport<Frame> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.sites().next().is_none() {
            return Ok(());
        }
        let chains = self.chains();
        memory_line(f, self.memory())?;
        self.findings(f, &chains)?;
        self.what_to_do(f, &chains)?;
        self.untold(f)
    }
}

/// Sites to look at that read the same: the gravest stands for all.
pub(super) struct Chain<'a> {
    pub(super) text: String,
    leak: &'a Leak<Frame>,
    /// The sites that it is made of.
    pub(super) stacks: Vec<StackId>,
    bytes: f64,
    /// Squares of the half widths of the interval.
    below: f64,
    above: f64,
    blocks: f64,
    growth_per_minute: f64,
    /// Share freed, times what lives.
    freed: f64,
}

impl Chain<'_> {
    fn add(&mut self, leak: &Leak<Frame>) {
        let bytes = leak.live_bytes();
        self.stacks.extend(leak.stacks());
        self.bytes += bytes.value;
        self.below += (bytes.value - bytes.low).powi(2);
        self.above += (bytes.high - bytes.value).powi(2);
        self.blocks += leak.live_blocks().value;
        self.growth_per_minute += leak.growth_bytes_per_minute().value;
        self.freed += leak.evidence().freed_share * bytes.value;
    }
}

impl LeakReport<Frame> {
    /// What is to be shown as leaking, worst first; nothing before verdicts are possible.
    pub(super) fn chains(&self) -> Vec<Chain<'_>> {
        let mut chains: Vec<Chain<'_>> = Vec::new();
        for leak in self.leaks() {
            let text = chain_of(leak.frames());
            match chains.iter_mut().find(|chain| chain.text == text) {
                Some(chain) => chain.add(leak),
                None => {
                    let (bytes, below, above, blocks, growth_per_minute, freed) = Default::default();
                    let stacks = Vec::new();
                    let mut chain = Chain { text, leak, stacks, bytes, below, above, blocks, growth_per_minute, freed };
                    chain.add(leak);
                    chains.push(chain);
                }
            }
        }
        // What was merged may outgrow what stood before it. A trifle that doubled is graver by its percentage than much that did not.
        chains.sort_by(|a, b| {
            (self.is_trifle(a.leak, a.bytes).cmp(&self.is_trifle(b.leak, b.bytes)))
                .then(b.leak.severity().cmp(&a.leak.severity()))
                .then((b.leak.state() == State::Leak).cmp(&(a.leak.state() == State::Leak)))
                .then(b.growth_per_minute.total_cmp(&a.growth_per_minute))
        });
        chains
    }

    /// The verdict on each site, or on those that it is judged with; none before verdicts are possible.
    pub(super) fn states(&self) -> HashMap<StackId, State> {
        if self.epochs() < self.suspect_after_epochs() {
            return HashMap::new();
        }
        self.sites().flat_map(|leak| leak.stacks().iter().map(|&stack| (stack, leak.state()))).collect()
    }

    /// How much leaks, and where.
    pub(super) fn findings(&self, f: &mut fmt::Formatter<'_>, chains: &[Chain<'_>]) -> fmt::Result {
        let judged = self.sites().count();
        if judged == 0 {
            return Ok(());
        }
        // That a scope exceeds its bound is known at once.
        if chains.is_empty() && self.epochs() < self.suspect_after_epochs() {
            return writeln!(
                f,
                "unfreed: Which of them leak can be told after {} epochs; this run had {}",
                self.suspect_after_epochs(),
                self.epochs()
            );
        }
        self.headline(f, judged, chains)?;
        let texts = joined_tails(chains.iter().take(CHAINS_SHOWN).map(|chain| chain.text.as_str()));
        for (i, (one, text)) in chains.iter().zip(&texts).enumerate() {
            Self::chain(f, i + 1, one, text)?;
        }
        if chains.len() > CHAINS_SHOWN {
            let rest: f64 = chains.iter().skip(CHAINS_SHOWN).map(|chain| chain.bytes).sum();
            writeln!(f, "unfreed: and {} more with {}", chains.len() - CHAINS_SHOWN, size(rest))?;
        }
        Ok(())
    }

    fn headline(&self, f: &mut fmt::Formatter<'_>, judged: usize, chains: &[Chain<'_>]) -> fmt::Result {
        let named = |state: State, one: &str, many: &str| {
            let count = chains.iter().filter(|chain| chain.leak.state() == state).count();
            (count > 0).then(|| format!("{count} {}", if count == 1 { one } else { many }))
        };
        let found: Vec<String> = [
            named(State::Leak, "LEAK", "LEAKS"),
            named(State::Suspected, "SUSPECT", "SUSPECTS"),
            named(State::Backlog, "BACKLOG", "BACKLOGS"),
        ]
        .into_iter()
        .flatten()
        .collect();
        let live = whole(self.current_bytes());
        if found.is_empty() {
            writeln!(f, "unfreed: No leak found in {} judged sites", grouped(judged as u64))?;
        } else {
            // The estimates' sum may exceed what is live, which is known exactly.
            let held = chains.iter().map(|chain| chain.bytes).sum::<f64>().min(live);
            let share = 100.0 * held / live.max(1.0);
            write!(f, "unfreed: {}: {}, {share:.0}% of what is live", found.join(", "), size(held))?;
            if self.allocated_bytes() > 0 {
                let of_all = (100.0 * held / whole(self.allocated_bytes())).min(100.0);
                write!(f, " and {of_all:.1}% of the {} ever allocated", size(whole(self.allocated_bytes())))?;
            }
            writeln!(f)?;
        }
        write!(f, "unfreed: Live: {}", size(live))?;
        if found.is_empty() && self.allocated_bytes() > 0 {
            write!(f, ", {:.1}% of all that was allocated", 100.0 * live / whole(self.allocated_bytes()))?;
        }
        if !self.is_growing() {
            return writeln!(f, "; not growing over {}", duration(self.window_seconds()));
        }
        write!(f, "; {}", rate(self.growth_mb_per_minute() * 1e6, self.window_seconds()))?;
        if self.window_seconds() >= 60.0 {
            write!(f, " over {}", duration(self.window_seconds()))?;
        }
        if let Some(seconds) = self.forecast_seconds().filter(|seconds| *seconds < LONGEST_FORECAST) {
            write!(f, "; the limit is reached in about {}", duration(seconds))?;
        }
        writeln!(f)
    }

    fn chain(f: &mut fmt::Formatter<'_>, number: usize, one: &Chain<'_>, text: &str) -> fmt::Result {
        let leak = one.leak;
        write!(f, "unfreed: {number}. {}, {}: {}", leak.state(), leak.severity(), size(one.bytes))?;
        if one.below + one.above > 0.0 {
            write!(f, " (95%: {})", sizes(one.bytes - one.below.sqrt(), one.bytes + one.above.sqrt()))?;
        }
        writeln!(
            f,
            " in {} blocks, {:.1}% freed, {}",
            grouped(rounded(one.blocks)),
            100.0 * one.freed / one.bytes.max(1.0),
            rate(one.growth_per_minute, leak.growth_seconds())
        )?;
        chain(f, text)?;
        if let (Some(scope), Some(bound)) = (leak.scope(), leak.evidence().bound_bytes) {
            let held = leak.evidence().scope_live_bytes.unwrap_or_default().value;
            writeln!(
                f,
                "unfreed:      in scope {scope}, which holds {} of at most {}",
                size(held),
                size(whole(bound))
            )?;
        }
        Ok(())
    }

    /// What no listener was told of.
    pub(super) fn untold(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.untold_changes() {
            0 => Ok(()),
            count => writeln!(
                f,
                "unfreed: Lost: {} changes of verdicts were not told, since the listener (on_verdict, or a logger) was busy",
                grouped(count)
            ),
        }
    }

    /// Each advice once, with the numbers of the chains that it is for; then what concerns the whole process.
    pub(super) fn what_to_do(&self, f: &mut fmt::Formatter<'_>, chains: &[Chain<'_>]) -> fmt::Result {
        let mut advice: Vec<(&str, Vec<String>)> = Vec::new();
        for (i, one) in chains.iter().take(CHAINS_SHOWN).enumerate() {
            let words = one.leak.advice();
            match advice.iter_mut().find(|(known, _)| *known == words) {
                Some((_, numbers)) => numbers.push((i + 1).to_string()),
                None => advice.push((words, vec![(i + 1).to_string()])),
            }
        }
        // The first is about the leaks, which stand above.
        let about_leaks = usize::from(!chains.is_empty());
        let by_chain = advice.into_iter().map(|(words, numbers)| format!("{}: {words}", numbers.join(", ")));
        let general = self.recommendations().iter().skip(about_leaks).cloned();
        for (i, line) in by_chain.chain(general).enumerate() {
            if i == 0 {
                writeln!(f, "unfreed: What to do:")?;
            }
            wrapped(f, &line)?;
        }
        Ok(())
    }
}

/// Functions that two chains have in common at their outer end before it is shown once.
const TAIL_SHOWN_ONCE: usize = 3;
const ARROW: &str = " ← ";

/// Chains of which each outer end that an earlier one has, too, is shown by its innermost function and that chain's number.
fn joined_tails<'a>(texts: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut whole: Vec<Vec<&str>> = Vec::new();
    let mut shown = Vec::new();
    for text in texts {
        let (own, library) = text.split_once(THROUGH).map_or((text, None), |(own, library)| (own, Some(library)));
        let functions: Vec<&str> = own.split(ARROW).collect();
        let common = |other: &Vec<&str>| {
            let same = functions.iter().rev().zip(other.iter().rev()).take_while(|(a, b)| a == b).count();
            // The chains are cut to the same length: of equal ends nothing is known.
            if functions.last() == Some(&"…") { 0 } else { same }
        };
        let best = whole.iter().map(common).enumerate().max_by_key(|&(number, same)| (same, std::cmp::Reverse(number)));
        let mut line = match best {
            Some((number, same)) if same >= TAIL_SHOWN_ONCE => {
                let kept = functions.get(..functions.len() - same + 1).unwrap_or_default();
                format!("{}{ARROW}… as in {}", kept.join(ARROW), number + 1)
            }
            _ => own.to_owned(),
        };
        if let Some(library) = library {
            line.push_str(THROUGH);
            line.push_str(library);
        }
        shown.push(line);
        whole.push(functions);
    }
    shown
}

#[expect(clippy::cast_precision_loss, reason = "shown with three digits")]
fn whole(bytes: u64) -> f64 {
    bytes as f64
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "non-negative; such a cast saturates")]
fn rounded(blocks: f64) -> u64 {
    blocks.round() as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::leak::Severity;

    #[test]
    fn a_trifle_comes_after_what_matters_however_grave() {
        let frame = |name: &str| {
            let symbol = crate::report::frame::Symbol { name: Some(name.into()), ..Default::default() };
            Frame { address: 0, symbol: symbol.into() }
        };
        let of = |name, bytes| LeakReport::of_one(vec![frame(name)], Vec::new(), bytes, 5_000_000);
        let report = of("trifle", 8e3).and(of("much", 4e6), Severity::Low).and(of("some", 1e5), Severity::High);
        let shown: Vec<String> = report.chains().into_iter().map(|chain| chain.text).collect();
        assert_eq!(shown, ["some", "much", "trifle"]);
        // Of 20 GB 150 MB are less than a hundredth, and no trifle.
        let of = |name, bytes| LeakReport::of_one(vec![frame(name)], Vec::new(), bytes, 20_000_000_000);
        let report = of("much", 4e9).and(of("urgent", 150e6), Severity::Critical);
        assert_eq!(report.chains()[0].text, "urgent");
    }

    #[test]
    fn an_outer_end_is_shown_once() {
        let texts = [
            "parse ← from ← fetch ← sync ← run ← main, through mail_parser: decode",
            "part_tree ← parse ← from ← fetch ← sync ← run ← main",
            "from ← fetch ← sync ← run ← main",
            "accept ← run ← main",
            "parse ← from ← fetch ← sync ← run ← main, through mail_parser: quoted",
        ];
        assert_eq!(
            joined_tails(texts.into_iter()),
            [
                texts[0],
                "part_tree ← parse ← … as in 1",
                "from ← … as in 1",
                texts[3],
                "parse ← … as in 1, through mail_parser: quoted",
            ]
        );
    }
}
