//! What advice may say of a finding beside its own evidence: relations with other sites, by name.

use super::advice::Surroundings;
use super::assemble::{Finding, Process, Source};
use super::clues::{self, Function, Near};
use super::judge::Subject;
use super::relations::{Relations, Table};
use super::state::State;

/// The chains of what relations speak of, named once a report.
pub(super) struct Chains {
    /// Of the tables that grow.
    tables: Vec<(Table, Vec<Function>)>,
}

impl Chains {
    pub(super) fn of<F>(relations: &Relations, source: &dyn Source<F>) -> Chains {
        let named = |&table: &Table| (table, source.functions(Subject::Site(table.index)));
        let mut tables: Vec<(Table, Vec<Function>)> = relations.tables.iter().map(named).collect();
        // The program's own before those within a library: what that keeps is seldom what the program fills.
        tables.sort_by_key(|(_, chain)| chain.first().is_none_or(|function| !function.is_own));
        Chains { tables }
    }
}

/// What is known beside a finding's own evidence. Names are looked at only where advice may rest on them.
pub(super) fn surroundings<F>(
    finding: &Finding,
    relations: &Relations,
    chains: &Chains,
    process: &Process,
    source: &dyn Source<F>,
) -> Surroundings {
    let (within_bound, beyond_bound) = (finding.within_bound, finding.beyond_bound);
    let is_exact = process.interval_bytes == 0.0;
    let (is_seen, is_lost) = (finding.is_seen(process.interval_bytes), finding.is_lost);
    let mut around = Surroundings { within_bound, beyond_bound, is_exact, is_seen, is_lost, ..Surroundings::default() };
    if !matches!(finding.leak.state, State::Leak | State::Suspected | State::Growing | State::Sublinear) {
        return around;
    }
    let chain = source.functions(finding.subject);
    around.pool = clues::pool(&chain).map(str::to_owned);
    around.error_path = clues::error_path(&chain).map(str::to_owned);
    let own = match finding.subject {
        Subject::Site(index) => Some(index),
        Subject::Group(_) => None,
    };
    let others = chains.tables.iter().filter(|(table, _)| Some(table.index) != own);
    let near = others.filter_map(|(table, filled_by)| {
        let (near, filler) = clues::fills_beside(filled_by, &chain)?;
        let holds = near == Near::Filler || table.may_hold(finding.leak.live_blocks.value);
        Some(if holds { (near, filler) } else { (Near::Beside, filler) })
    });
    // The nearest, of equals the first.
    let nearest = near.reduce(|best, other| if other.0 > best.0 { other } else { best });
    around.table = nearest.map(|(near, filler)| (near, filler.to_owned()));
    let Some(own) = own else { return around };
    let name_of = |index: usize| innermost(&source.functions(Subject::Site(index)));
    let is_partner = |&index: &usize| {
        let other = source.functions(Subject::Site(index));
        // The same lines by other addresses are one site to a reader: an unrolled loop.
        other != chain && clues::are_of_one_operation(&chain, &other)
    };
    let partners: Vec<usize> = relations.in_lockstep_with(own).filter(is_partner).collect();
    let mine = innermost(&chain);
    let told = |name: String| {
        if mine.as_ref() == Some(&name) { format!("other blocks of `{name}`") } else { format!("`{name}`") }
    };
    around.partner = partners.first().and_then(|&index| name_of(index)).map(told);
    // Sampling hides lockstep: then those stand for partners that leak in the same operation.
    let beside = || relations.kept_beside(own).iter().copied().filter(is_partner).collect();
    let partners = if partners.is_empty() { beside() } else { partners };
    let pointers = || partners.iter().chain(std::iter::once(&own)).map(|&index| source.is_shared_pointer(index));
    around.shares = match (pointers().any(|shared| shared == Some(true)), pointers().all(|shared| shared.is_some())) {
        (true, _) => Some(true),
        (false, true) => Some(false),
        (false, false) => None,
    };
    around.usage = relations.use_of(own).map(|found| (*found, found.of.and_then(name_of)));
    around
}

/// The program's own function nearest to the allocation, else the nearest of a library.
fn innermost(chain: &[Function]) -> Option<String> {
    chain.iter().find(|function| function.is_own).or(chain.first()).map(|function| function.short.clone())
}
