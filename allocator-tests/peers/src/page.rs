//! The page of a run, `docs/benchmarks/DATE-machine.md`.

use std::fmt::Write as _;

use crate::bounds::{Row, governed, shown};
use crate::machine::Machine;
use crate::plan::{AGAIN, Group, Scale, Variant, Work};
use crate::results::{Figure, Results, cpu, wall};
use crate::server;
use crate::statistics::{Middle, middle};

/// All that a page tells.
pub struct Page<'a> {
    pub machine: &'a Machine,
    pub scale: &'a Scale,
    pub works: &'a [Work],
    pub results: &'a Results,
    pub rows: &'a [Row],
    /// What a reader has to know before believing the figures.
    pub warnings: &'a [String],
    pub plot: &'a str,
    pub minutes: u64,
}

impl Page<'_> {
    pub fn text(&self) -> String {
        let mut text = String::new();
        // writing to a String cannot fail
        let _ = self.write(&mut text);
        text
    }

    fn write(&self, out: &mut String) -> std::fmt::Result {
        let Machine { cpu, cores, kernel, compiler, commit, date, .. } = self.machine;
        writeln!(out, "# unfreed beside its peers, {date}\n")?;
        writeln!(out, "{cpu}, {cores} cores; {kernel}; {compiler}; commit {commit}.")?;
        writeln!(
            out,
            "Written by `cargo run --release --manifest-path allocator-tests/peers/Cargo.toml`, scale '{}': {} rounds, {} of the exact profilers, {} where 2 or 3% are promised and {} of the server, {} minutes.\n",
            self.scale.name,
            self.scale.rounds,
            self.scale.exact_rounds,
            self.scale.promised_rounds.max(self.scale.rounds),
            self.scale.server_rounds.max(self.scale.rounds),
            self.minutes
        )?;
        for warning in self.warnings {
            writeln!(out, "> **{warning}**\n")?;
        }
        writeln!(out, "![ratios of wall time to no profiler, by workload and profiler]({})\n", self.plot)?;
        self.explain(out)?;
        self.bounds(out)?;
        self.ratios(out)?;
        server::write(self, out)?;
        self.governor(out)?;
        self.instructions(out)?;
        self.memory(out)?;
        self.ends(out)?;
        self.agreement(out)?;
        self.failures(out)
    }

    fn explain(&self, out: &mut String) -> std::fmt::Result {
        writeln!(
            out,
            "How to read it: in a round, all variants of a workload are started, with the same layout of the heap, another than in the last round; the profilers start, and all warm up. \
             Then they do the work in slices of 15 to 30 ms (without a profiler; of the exact ones 6 to 100 ms; the server's are of 7,200 requests, 200 ms), in turn, A B C \u{2026} A B C \u{2026}, one program at a time: between its slices a program is stopped, with all its \
             threads. Where 2 or 3% are promised, more rounds follow of those variants and none alone. A round's value is the median of its ratios of a slice to the same slice of the same workload without a profiler over the same allocator, which ran shortly before or after. \
             Each figure is the median over the rounds, and in brackets the interval that holds the true median with 95% probability (with fewer than six rounds: all that was seen).\n"
        )?;
        writeln!(
            out,
            "What a profiler's thread has left to do at the end of a slice, it does in its own next slice; after the last, and with the final dump, which is timed apart, it is paid by nobody, as what the warm-up left is paid by the first. \
             What it does by the clock (unfreed's wakes ten times a second) has fallen due whenever it is woken, so it happens in each slice, more often than in a program that is never stopped: this is counted too dearly, for unfreed by about 0.1 ms a slice, 0.3 to 0.6%. \
             CPU time is of all threads, from the end of one slice to the end of the next. The slowest profilers, dhat and heaptrack, do the first quarter of the exact slices, and are compared in those. \
             All variants did the same work, by the checksum after each slice, or have no figure. All are built with frame pointers, which unfreed, dhat, \
             jemalloc and heaptrack do not need and the others do. All have a second thread, which sleeps, since malloc is cheaper in a process that never had one. \
             Sampling profilers sample every 512 KiB, but for the governed one.\n"
        )?;
        self.again(out)
    }

    /// How far from 1.00 the program without a profiler is from itself.
    fn again(&self, out: &mut String) -> std::fmt::Result {
        let ratio = |work: &Work| self.results.ratio(Group::Sampled, work, AGAIN, "none", wall);
        let all: Vec<Middle> = self.works.iter().filter_map(ratio).collect();
        let Some(medians) = middle(&all.iter().map(|one| one.median).collect::<Vec<_>>()) else { return Ok(()) };
        let widths = middle(&all.iter().map(|one| (one.high - one.low) / 2.0).collect::<Vec<_>>());
        let (low, high) =
            all.iter().fold((f64::MAX, f64::MIN), |(low, high), one| (low.min(one.median), high.max(one.median)));
        writeln!(
            out,
            "**The same program against itself** (`{AGAIN}`, a second process without a profiler, further from the first than unfreed's): {:.3} in the middle of {} workloads, {low:.3} to {high:.3} at the extremes; half of their intervals \
             are narrower than \u{b1}{:.1}%. What lies closer to 1 than that on its workload, says nothing.\n",
            medians.median,
            all.len(),
            widths.map_or(0.0, |widths| widths.median * 100.0)
        )
    }

    fn bounds(&self, out: &mut String) -> std::fmt::Result {
        writeln!(out, "## Bounds\n\n| what | aim | at most | measured | |\n|---|---|---|---|---|")?;
        for Row { what, aim, at_most, measured, verdict, .. } in self.rows {
            writeln!(out, "| {what} | {aim} | {at_most} | {measured} | {} |", verdict.text())?;
        }
        writeln!(out)
    }

    pub fn profilers(&self, group: Group) -> Vec<Variant> {
        let mut variants: Vec<Variant> = Vec::new();
        for variant in self.works.iter().flat_map(|work| group.variants(work)) {
            let was_run = self.works.iter().any(|work| self.results.cell(group, work, variant.name).is_some());
            if was_run && !variants.contains(&variant) {
                variants.push(variant);
            }
        }
        variants
    }

    fn head(out: &mut String, first: &str, columns: &[Variant]) -> std::fmt::Result {
        let names: Vec<&str> = columns.iter().map(|variant| variant.name).collect();
        writeln!(out, "| {first} | {} |\n|---|{}", names.join(" | "), "--:|".repeat(columns.len()))
    }

    fn table(&self, out: &mut String, group: Group, figure: Figure, with_interval: bool) -> std::fmt::Result {
        let columns: Vec<Variant> = self.profilers(group).into_iter().filter(|variant| !variant.is_base()).collect();
        Self::head(out, "workload", &columns)?;
        for work in self.works {
            write!(out, "| {} |", work.label())?;
            let runs = group.variants(work);
            for variant in &columns {
                let text = match self.results.ratio(group, work, variant.name, variant.base, figure) {
                    Some(middle) if with_interval => shown(&middle),
                    Some(middle) => format!("{:.2}", middle.median),
                    None if !runs.contains(variant) => String::new(),
                    None => self.results.why_not(group, work, variant.name),
                };
                write!(out, " {text} |")?;
            }
            writeln!(out)?;
        }
        writeln!(out)
    }

    fn ratios(&self, out: &mut String) -> std::fmt::Result {
        for (group, name) in [(Group::Sampled, "Sampling profilers"), (Group::Exact, "Exact profilers")] {
            writeln!(out, "## {name}: wall time over no profiler's\n")?;
            self.table(out, group, wall, true)?;
            writeln!(out, "CPU time of the whole process, the profiler's threads included, over no profiler's:\n")?;
            self.table(out, group, cpu, false)?;
        }
        writeln!(out, "One operation without a profiler, ns of wall time (ratios count, not these):\n")?;
        writeln!(out, "| workload | system | jemalloc | mimalloc |\n|---|--:|--:|--:|")?;
        for work in self.works {
            let operations = Group::Sampled.slicing(work, self.scale).slice as f64;
            let of = |base| {
                let ns = self.results.median(Group::Sampled, work, base, wall);
                ns.map_or_else(
                    || self.results.why_not(Group::Sampled, work, base),
                    |ns| format!("{:.1}", ns / operations),
                )
            };
            writeln!(out, "| {} | {} | {} | {} |", work.label(), of("none"), of("jemalloc"), of("mimalloc"))?;
        }
        writeln!(out)
    }

    fn governor(&self, out: &mut String) -> std::fmt::Result {
        writeln!(
            out,
            "## The governed interval at the end of a run\n\n| workload | allocates, MB/s | interval, KiB |\n|---|--:|--:|"
        )?;
        for work in self.works {
            if let Some((rate, interval)) = governed(self.results, work) {
                writeln!(out, "| {} | {rate:.0} | {:.0} |", work.label(), interval / 1024.0)?;
            }
        }
        writeln!(out)
    }

    fn instructions(&self, out: &mut String) -> std::fmt::Result {
        if self.results.instructions.is_empty() {
            return Ok(());
        }
        writeln!(
            out,
            "## Instructions an operation, one thread (callgrind)\n\nThe difference between two runs, without the dump; on json the mean over three layouts of the heap. What a profiler's own threads do by the \
             clock is counted some fifty times too often, since valgrind is that slow.\n"
        )?;
        for group in [Group::Sampled, Group::Exact] {
            writeln!(
                out,
                "| workload | profiler | instructions | added | in the profiler's threads |\n|---|---|--:|--:|--:|"
            )?;
            for work in self.works.iter().filter(|work| work.counted_sampled > 0) {
                for variant in group.variants(work) {
                    let key = (group, work.label(), variant.name.to_owned());
                    let Some(count) = self.results.instructions.get(&key) else { continue };
                    let added = self.results.instructions_added(group, work, variant.name, variant.base);
                    let (all, own) = match added.filter(|_| !variant.is_base()) {
                        Some((all, own)) => (format!("{:+.2}%", all * 100.0), format!("{:.2}%", own * 100.0)),
                        None => (String::new(), String::new()),
                    };
                    let count = count.as_ref().map_or_else(Clone::clone, |count| format!("{:.1}", count.all));
                    writeln!(out, "| {} | {} | {count} | {all} | {own} |", work.label(), variant.name)?;
                }
            }
            writeln!(out)?;
        }
        Ok(())
    }

    fn memory(&self, out: &mut String) -> std::fmt::Result {
        for (group, name) in [(Group::Sampled, "sampling"), (Group::Exact, "exact")] {
            writeln!(out, "## Peak resident memory before the dump, MiB: {name}\n")?;
            let columns: Vec<Variant> =
                self.profilers(group).into_iter().filter(|variant| variant.under.is_none()).collect();
            Self::head(out, "workload", &columns)?;
            for work in self.works {
                write!(out, "| {} |", work.label())?;
                for variant in &columns {
                    let kib = self.results.of_rounds(group, work, variant.name, |s| Some(s.peak_rss_kib));
                    write!(out, " {} |", kib.map_or_else(String::new, |kib| format!("{:.1}", kib / 1024.0)))?;
                }
                writeln!(out)?;
            }
            writeln!(out)?;
        }
        Ok(())
    }

    fn ends(&self, out: &mut String) -> std::fmt::Result {
        writeln!(
            out,
            "## The final dump, apart from the measured time\n\n| profiler | median, ms | longest, ms | on |\n|---|--:|--:|---|"
        )?;
        for group in [Group::Sampled, Group::Exact] {
            for variant in self.profilers(group).into_iter().filter(|variant| variant.mode != "off") {
                let mut all: Vec<(f64, String)> = self
                    .works
                    .iter()
                    .filter_map(|work| {
                        Some((self.results.of_rounds(group, work, variant.name, |s| Some(s.dump_ns))?, work.label()))
                    })
                    .collect();
                all.sort_by(|a, b| a.0.total_cmp(&b.0));
                if let Some((longest, on)) = all.last() {
                    let median = all[all.len() / 2].0;
                    writeln!(out, "| {} | {:.0} | {:.0} | {on} |", variant.name, median / 1e6, longest / 1e6)?;
                }
            }
        }
        writeln!(out)
    }

    /// Exact profilers count the same program: do they say the same?
    fn agreement(&self, out: &mut String) -> std::fmt::Result {
        writeln!(
            out,
            "## What the exact profilers counted\n\nBlocks, of a run that is the warm-up alone. mod-alloc counts a reallocation otherwise than dhat.\n"
        )?;
        let columns = self.profilers(Group::Counts);
        Self::head(out, "workload", &columns)?;
        for work in self.works {
            let count = |variant: &Variant| {
                let blocks = self.results.fact(Group::Counts, work, variant.name, "total_blocks");
                blocks.map_or_else(String::new, |blocks| format!("{blocks:.0}"))
            };
            writeln!(out, "| {} | {} |", work.label(), columns.iter().map(count).collect::<Vec<_>>().join(" | "))?;
        }
        writeln!(out)
    }

    fn failures(&self, out: &mut String) -> std::fmt::Result {
        writeln!(out, "## What did not work\n")?;
        let mut told = self.results.failures();
        for group in [Group::Sampled, Group::Exact] {
            for work in self.works {
                for variant in self.profilers(group) {
                    let mut samples =
                        self.results.cell(group, work, variant.name).into_iter().flat_map(|cell| cell.samples.values());
                    let lost = samples.rfind(|sample| sample.facts["losses"].is_object());
                    if let Some(sample) = lost {
                        let some = sample.facts["losses"]
                            .as_object()
                            .into_iter()
                            .flatten()
                            .filter(|(_, n)| n.as_u64() != Some(0));
                        let some: Vec<String> = some.map(|(name, n)| format!("{name} {n}")).collect();
                        told.push(format!("{}, {}: lost and told: {}", variant.name, work.label(), some.join(", ")));
                    }
                }
            }
        }
        if told.is_empty() {
            told.push("Nothing failed, and unfreed lost nothing.".to_owned());
        }
        told.iter().try_for_each(|line| writeln!(out, "- {line}"))
    }
}
