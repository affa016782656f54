//! The page's table of the server: throughput under eight connections, latency of one alone.

use std::fmt::Write as _;

use crate::bounds::shown;
use crate::lanes::CONNECTIONS;
use crate::page::Page;
use crate::plan::{Group, Variant, Work};
use crate::results::{Figure, cpu, crowd_p99, p50, p99, wall};

/// Writes it; nothing where the server was not run.
pub fn write(page: &Page<'_>, out: &mut String) -> std::fmt::Result {
    let Some(work) = page.works.iter().find(|work| work.name == "server") else { return Ok(()) };
    writeln!(out, "## The server: axum on two worker threads, keep-alive connections on loopback\n")?;
    writeln!(
        out,
        "Requests a second and CPU time are those of {CONNECTIONS} connections at once, each with a thread that asks again as soon as it is answered. With them a \
         99th percentile (the last column) is that of the queue for two processors, in which clients and server stand alike: it differs by half between neighbouring slices of one \
         program. So p50 and p99 are those of one connection alone, which makes half as many requests after each such slice.\n"
    )?;
    writeln!(
        out,
        "| profiler | requests/s | throughput | p50, \u{b5}s | p50 | p99, \u{b5}s | p99 | CPU time | p99 of {CONNECTIONS} |\n|---|--:|--:|--:|--:|--:|--:|--:|--:|"
    )?;
    for group in [Group::Sampled, Group::Exact] {
        for variant in page.profilers(group).into_iter().filter(|variant| group.variants(work).contains(variant)) {
            let is_shown_above = group == Group::Exact && variant.is_base() && variant.under.is_none();
            if !is_shown_above {
                row(page, out, group, work, &variant)?;
            }
        }
    }
    writeln!(out)
}

fn row(page: &Page<'_>, out: &mut String, group: Group, work: &Work, variant: &Variant) -> std::fmt::Result {
    let Some(ns) = page.results.median(group, work, variant.name, wall) else {
        return writeln!(
            out,
            "| {} | {} | | | | | | | |",
            variant.name,
            page.results.why_not(group, work, variant.name)
        );
    };
    let middle = |figure: Figure| {
        let middle = page.results.ratio(group, work, variant.name, variant.base, figure);
        middle.filter(|_| !variant.is_base())
    };
    let ratio = |figure: Figure| middle(figure).map_or_else(String::new, |middle| shown(&middle));
    let us = |figure: Figure| {
        let ns = page.results.median(group, work, variant.name, figure);
        ns.map_or_else(String::new, |ns| format!("{:.1}", ns / 1e3))
    };
    let rate = group.slicing(work, page.scale).slice as f64 / ns * 1e9;
    // a throughput's ratio is the inverse of the time's
    let throughput = middle(wall).map_or_else(String::new, |time| {
        format!("{:.2} ({:.2}\u{2013}{:.2})", 1.0 / time.median, 1.0 / time.high, 1.0 / time.low)
    });
    writeln!(
        out,
        "| {} | {rate:.0} | {throughput} | {} | {} | {} | {} | {} | {} |",
        variant.name,
        us(p50),
        ratio(p50),
        us(p99),
        ratio(p99),
        ratio(cpu),
        ratio(crowd_p99)
    )
}
