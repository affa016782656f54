//! What to do, from evidence. Each sentence says what was seen before it says what that suggests, and says of a name that it
//! is a name. What was not seen is not suggested.

use super::classify::SAMPLES_TO_DECIDE;
use super::clues::Near;
use super::relations::Use;
use super::report::Evidence;
use super::state::State;
use crate::units::size;

/// Kept blocks below this share of all are an exception to the site's rule.
const EXCEPTION_SHARE: f64 = 0.3;
/// Growth like t^b with b above log₂ 2.5 is accelerating.
const ACCELERATING_RATIO: f64 = 1.5;
/// The same where a name tells of failures.
const RISING_RATIO: f64 = 1.25;
/// So many sizes are few.
const FEW_SIZES: u32 = 4;
/// Hardly any block is freed.
const KEPT_SHARE: f64 = 0.01;

/// What is known beside a site's own evidence.
#[derive(Clone, Debug, Default)]
pub(crate) struct Surroundings {
    /// How near a table is that grows, and the function that fills it.
    pub(crate) table: Option<(Near, String)>,
    /// A site of the same operation is born in lockstep with this one, and none of either is freed: what to call it.
    pub(crate) partner: Option<String>,
    /// Is this site, its partner, or else a leak of the same operation an `Arc` or `Rc`? `None`: the frames do not tell.
    pub(crate) shares: Option<bool>,
    /// How its growth goes with use, and the function whose blocks stand for use.
    pub(crate) usage: Option<(Use, Option<String>)>,
    /// The function near the allocation that is a pool's, or an error path's, by its name.
    pub(crate) pool: Option<String>,
    pub(crate) error_path: Option<String>,
    /// The site is within the bound that its scope declared; beyond it.
    pub(crate) within_bound: bool,
    pub(crate) beyond_bound: bool,
    /// Every block is recorded.
    pub(crate) is_exact: bool,
    /// It has few blocks, of which hardly one was missed; records of it were lost.
    pub(crate) is_seen: bool,
    pub(crate) is_lost: bool,
}

/// One sentence or two for a site.
pub(crate) fn advise(state: State, evidence: &Evidence, around: &Surroundings) -> String {
    if around.beyond_bound {
        return format!(
            "Its scope exceeds its stated bound: {}. The bound is not kept, or was set too low.",
            held_of_bound(evidence)
        );
    }
    if around.within_bound {
        return format!("It grows within the bound stated for its scope: {}. Nothing to do.", held_of_bound(evidence));
    }
    match state {
        State::Leak | State::Suspected => leak(evidence, around),
        State::Backlog => {
            "The oldest blocks are freed first and more are born than freed: a queue whose consumer is too \
                           slow. Bound the channel, or speed up or add consumers."
                .into()
        }
        State::Sublinear | State::Growing if pool_that_never_shrinks(evidence, around).is_some() => {
            pool_that_never_shrinks(evidence, around).unwrap_or_default()
        }
        State::Sublinear => "It grows without end, but ever more slowly, as an interner does. Cap it if its keys come \
                             from outside."
            .into(),
        State::Growing if evidence.old_after_epochs == 0 && evidence.table_growths > 1 => format!(
            "{} {} times, to {} now, and not freed: too seldom, or not evenly enough, to tell a leak from what fills up. Wait, or \
             look at the estimated time to exhaustion.",
            if evidence.by_chunks { "An arena here allocated a larger chunk" } else { "A table or buffer here was enlarged" },
            evidence.table_growths,
            size(evidence.table_bytes as f64)
        ),
        State::Growing
            if evidence.old_after_epochs == 0
                && evidence.live_samples < f64::from(SAMPLES_TO_DECIDE)
                && evidence.freed_share < EXCEPTION_SHARE =>
        {
            "More is live than before, in few blocks, of which hardly one was freed: too few to tell a leak from what fills up. \
             Wait, or look at the estimated time to exhaustion."
                .into()
        }
        State::Growing if evidence.old_after_epochs == 0 => {
            "More is live than before, beyond chance: blocks are enlarged where they are, or what is cleaned up is less than \
                           what is added. Wait, or look at the estimated time to exhaustion."
                .into()
        }
        State::Growing => {
            "Old blocks accumulate beyond chance, but not yet for long enough to tell a leak from a cache \
                           that fills. Wait, or look at the estimated time to exhaustion."
                .into()
        }
        State::Warming => "Its growth slows down: a cache or table on its way to a bound. Nothing to do.".into(),
        State::Sawtooth => "It grows and is cleaned up again. If its peaks are too high, clean up more often.".into(),
        State::Unknown if around.is_lost => "Not judged: records of it were lost, or stacks were shortened.".into(),
        State::Unknown if around.is_exact => "Not judged: too few blocks, or too few epochs, were seen to judge.".into(),
        State::Unknown if around.is_seen => {
            "Not judged: it has too few blocks. They are so large that hardly one was missed: more epochs tell.".into()
        }
        State::Unknown => "Not judged: too few samples were seen. A smaller sampling interval shows more.".into(),
        State::Constant | State::Churn | State::Plateau => "Nothing to do.".into(),
    }
}

/// What is live in its scope, and what may be.
fn held_of_bound(evidence: &Evidence) -> String {
    let held = size(evidence.scope_live_bytes.unwrap_or_default().value);
    let bound = size(evidence.bound_bytes.unwrap_or_default() as f64);
    format!("{held} are live of at most {bound}")
}

fn leak(evidence: &Evidence, around: &Surroundings) -> String {
    let is_kept = evidence.freed_share < KEPT_SHARE;
    if evidence.by_table && evidence.by_chunks {
        return "An arena here grows at a steady rate: each chunk is about twice as large as the one before, and none is freed. \
                Reset or drop it where the use of what it holds ends, or make one for each unit of work."
            .into();
    }
    if evidence.table_growths > 0 && evidence.by_table {
        return "A table here grows at a steady rate and never shrinks: entries are added and not removed. Remove them \
                where their use ends, or cap the collection (LRU, TTL)."
            .into();
    }
    let pooled = pool_that_never_shrinks(evidence, around).or_else(|| pool_that_does_not_reuse(evidence, around));
    if let Some(advice) = pooled.or_else(|| background_task(evidence)).or_else(|| endless_retry(evidence, around)) {
        return advice;
    }
    if evidence.second_half_ratio > ACCELERATING_RATIO && evidence.births_ratio > ACCELERATING_RATIO {
        return "Its growth accelerates: each round keeps more than the one before. Look for a collection that is copied or \
                sent whole and grows meanwhile, or work that makes more work."
            .into();
    }
    if evidence.freed_share > 1.0 - EXCEPTION_SHARE {
        // The share stands in the site's figures: sites of one cause are to read the same here.
        let path = match &around.error_path {
            Some(name) => format!("an error path (`{name}` is one by its name)"),
            None => "an error or early return".into(),
        };
        return format!(
            "Most of what this chain allocates is freed; the rest is kept for ever. Look for the path that keeps it: {path}, a \
             map entry that is never removed, a clone held by a long-lived owner."
        );
    }
    let (near, table) = around.table.as_ref().map_or((None, None), |(near, name)| (Some(*near), Some(name.as_str())));
    if let (Some(partner), true) = (&around.partner, is_kept) {
        // That an `Arc` is among what is born in lockstep says more than that a table is filled by a function's caller.
        let most = if around.shares == Some(true) { Near::Caller } else { Near::Beside };
        if near.is_none_or(|near| near <= most) {
            return lockstep(partner, around.shares, table);
        }
    }
    let asserted = table.filter(|_| near > Some(Near::Beside) && around.pool.is_none());
    if let Some(table) = asserted {
        let or_cycle = match (near, around.shares) {
            (Some(Near::Caller), Some(true)) => {
                " If the table does not hold these blocks: an `Arc` or `Rc` is among what is kept, look for a cycle (make the \
                 reference back a `Weak`)."
            }
            _ => "",
        };
        return format!(
            "Almost nothing of what this chain allocates is freed, and a table grows with it (filled in `{table}`): a \
             collection without a limit. Keep less in each entry, remove entries, or cap it (LRU, TTL).{or_cycle}"
        );
    }
    if let Some(pool) = &around.pool {
        return format!(
            "Almost nothing of what `{pool}` allocates is freed; by its name it is a pool. How much is in use at once is not \
             known here: see whether it reuses what it gets back, and give it a limit."
        );
    }
    let cycle = match around.shares {
        Some(true) => {
            "an `Arc` or `Rc` cycle (an `Arc` or `Rc` is among what is kept; in a cycle make the reference back a `Weak`), "
        }
        _ => "",
    };
    let seen = match table {
        Some(table) => format!("Almost nothing of what this chain allocates is ever freed. {}", beside(table)),
        None => {
            "Almost nothing of what this chain allocates is ever freed, and no table was seen to grow with it.".into()
        }
    };
    format!(
        "{seen} Find who owns it: a collection without a limit, {cycle}or a forgotten `Box::leak`, `mem::forget` or `into_raw`."
    )
}

/// Of a table that grows near by.
fn beside(table: &str) -> String {
    format!("A table in `{table}` grows beside it; whether it holds these blocks is not known.")
}

/// Few sizes, and growth at new peaks of use alone.
fn pool_that_never_shrinks(evidence: &Evidence, around: &Surroundings) -> Option<String> {
    let (usage, of) = around.usage.as_ref()?;
    if !usage.at_peaks_alone || evidence.distinct_sizes > FEW_SIZES {
        return None;
    }
    let of = match of {
        Some(name) => format!("more blocks of `{name}` were live at once"),
        None => "more threads ran at once".into(),
    };
    Some(format!(
        "It grew in {} of the last {} epochs, and each time {of} than ever before: a pool that never shrinks. Give it a \
         maximum, or let it free what is idle.",
        usage.growths, usage.epochs
    ))
}

/// A pool by its name that grows without new peaks of use.
fn pool_that_does_not_reuse(evidence: &Evidence, around: &Surroundings) -> Option<String> {
    around.usage.as_ref().filter(|(usage, _)| usage.without_peaks)?;
    let pool = around.pool.as_ref().filter(|_| evidence.freed_share < EXCEPTION_SHARE)?;
    // The counts stand in the evidence: sites of one cause are to read the same here.
    Some(format!(
        "`{pool}`, a pool by its name, grows on and on, though next to never more is in use at once than before: it does \
         not reuse what it gets back. Look for returned blocks that do not fit what is asked for, or are never returned; \
         limit it."
    ))
}

/// It grows while the rest of the program does nothing.
fn background_task(evidence: &Evidence) -> Option<String> {
    evidence.grows_while_idle.then(|| {
        format!(
            "It grows also while the program is otherwise idle (in {} of {} epochs that had under a tenth of the usual \
             allocations): a background task accumulates. Prune what it keeps, or end it with its owner.",
            evidence.idle_births, evidence.idle_epochs
        )
    })
}

/// An error path by its name whose births rise.
fn endless_retry(evidence: &Evidence, around: &Surroundings) -> Option<String> {
    let name = around.error_path.as_ref()?;
    let rises = evidence.second_half_ratio > RISING_RATIO && evidence.births_ratio > RISING_RATIO;
    rises.then(|| {
        format!(
            "Its growth rises ({:.1} times as much in the second half as in the first), on an error path by its name \
             (`{name}`): what fails is tried again without end. Limit the attempts, wait longer between them, and drop what \
             failed for good.",
            evidence.second_half_ratio
        )
    })
}

/// Two sites of one operation, none of either freed, and no table that is known to hold them.
fn lockstep(partner: &str, shares: Option<bool>, table: Option<&str>) -> String {
    let seen = match table {
        Some(_) => format!("It is born together with {partner}, and none of either is ever freed"),
        None => {
            format!("It is born together with {partner}, none of either is ever freed, and no table grows with them")
        }
    };
    let suggests = match shares {
        Some(true) => {
            "; an `Arc` or `Rc` is among them: this is what an `Arc` or `Rc` cycle looks like. Make the reference back a `Weak`."
        }
        None => {
            ": an `Arc` or `Rc` cycle looks like this (make the reference back a `Weak`), and so does what is forgotten by \
             `Box::leak`, `mem::forget` or `into_raw`."
        }
        Some(false) => {
            "; neither they nor what is born with them is an `Arc` or `Rc`: one owner that is never dropped, or forgotten by \
             `Box::leak`, `mem::forget` or `into_raw`."
        }
    };
    let or_table = table.map_or_else(String::new, |table| {
        format!(
            " {} If it does, it is a collection without a limit: remove entries, or cap it (LRU, TTL).",
            beside(table)
        )
    });
    format!("{seen}{suggests}{or_table}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_smaller_interval_is_advised_only_where_there_is_one() {
        let of = |is_exact, is_seen, is_lost| {
            let around = Surroundings { is_exact, is_seen, is_lost, ..Surroundings::default() };
            advise(State::Unknown, &Evidence::default(), &around)
        };
        let says = |text: String, what: &str| assert!(text.contains(what), "{text}");
        says(of(false, false, false), "A smaller sampling interval shows more");
        says(of(true, true, false), "too few epochs, were seen");
        says(of(false, true, false), "more epochs tell");
        says(of(false, false, true), "records of it were lost");
    }

    fn kept(table: Option<Near>, partner: bool, shares: Option<bool>) -> String {
        let around = Surroundings {
            table: table.map(|near| (near, "remember".to_owned())),
            partner: partner.then(|| "`start`".to_owned()),
            shares,
            ..Surroundings::default()
        };
        advise(State::Leak, &Evidence::default(), &around)
    }

    #[test]
    fn an_arc_born_in_lockstep_says_more_than_a_table_that_the_same_function_fills() {
        let cycle = kept(Some(Near::Caller), true, Some(true));
        assert!(cycle.contains("this is what an `Arc` or `Rc` cycle looks like"), "{cycle}");
        assert!(cycle.contains("A table in `remember` grows beside it; whether it holds"), "{cycle}");
        assert!(!cycle.contains("no table"), "{cycle}");
        // One that its own functions fill says more than lockstep; so does any where no `Arc` is seen.
        for (near, shares) in [(Near::Filler, Some(true)), (Near::Caller, Some(false)), (Near::Caller, None)] {
            let collection = kept(Some(near), true, shares);
            assert!(collection.contains("a table grows with it (filled in `remember`)"), "{near:?}: {collection}");
        }
    }

    #[test]
    fn of_a_table_that_merely_grows_beside_it_nothing_is_concluded() {
        let owner = kept(Some(Near::Beside), false, None);
        assert!(owner.contains("A table in `remember` grows beside it; whether it holds these blocks is not known"));
        assert!(owner.contains("Find who owns it") && !owner.contains("LRU"), "{owner}");
        let two = kept(Some(Near::Beside), true, Some(false));
        assert!(two.contains("born together with `start`") && two.contains("A table in `remember`"), "{two}");
        assert!(kept(None, false, None).contains("no table was seen to grow with it"));
    }
}
