//! What to do, from evidence. Each sentence says what was seen before it says what that suggests, and says of a name that it
//! is a name. What was not seen is not suggested.

use super::relations::Use;
use super::report::Evidence;
use super::state::State;

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
    /// The function that fills a table which grows beside this site.
    pub(crate) table: Option<String>,
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
}

/// One sentence or two for a site.
pub(crate) fn advise(state: State, evidence: &Evidence, around: &Surroundings) -> String {
    if around.beyond_bound {
        return format!(
            "Its scope exceeds its stated bound: {:.1} MB are live of at most {:.1} MB. The bound is not kept, or was set too \
             low.",
            evidence.scope_live_bytes.unwrap_or_default().value / 1e6,
            evidence.bound_bytes.unwrap_or_default() as f64 / 1e6
        );
    }
    if around.within_bound {
        return format!(
            "It grows within the bound stated for its scope: {:.1} MB are live of at most {:.1} MB. Nothing to do.",
            evidence.scope_live_bytes.unwrap_or_default().value / 1e6,
            evidence.bound_bytes.unwrap_or_default() as f64 / 1e6
        );
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
        State::Growing => {
            "Old blocks accumulate beyond chance, but not yet for long enough to tell a leak from a cache \
                           that fills. Wait, or look at the estimated time to exhaustion."
                .into()
        }
        State::Warming => "Its growth slows down: a cache or table on its way to a bound. Nothing to do.".into(),
        State::Sawtooth => "It grows and is cleaned up again. If its peaks are too high, clean up more often.".into(),
        State::Unknown => {
            "Not judged: records of it were lost, or too few samples were seen. A smaller sampling interval \
                           shows more."
                .into()
        }
        State::Constant | State::Churn | State::Plateau => "Nothing to do.".into(),
    }
}

fn leak(evidence: &Evidence, around: &Surroundings) -> String {
    let is_kept = evidence.freed_share < KEPT_SHARE;
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
    if let (Some(partner), None, true) = (&around.partner, &around.table, is_kept) {
        return lockstep(partner, around.shares);
    }
    if let (Some(table), None) = (&around.table, &around.pool) {
        return format!(
            "Almost nothing of what this chain allocates is freed, and a table grows with it (filled in `{table}`): a \
             collection without a limit. Keep less in each entry, remove entries, or cap it (LRU, TTL)."
        );
    }
    if let Some(pool) = &around.pool {
        return format!(
            "Almost nothing of what `{pool}` allocates is freed; by its name it is a pool. How much is in use at once is not \
             known here: see whether it reuses what it gets back, and give it a limit."
        );
    }
    let cycle = match around.shares {
        Some(true) => "an `Arc` or `Rc` cycle (there is one among what is kept: make the reference back a `Weak`), ",
        _ => "",
    };
    format!(
        "Almost nothing of what this chain allocates is ever freed, and no table was seen to grow with it. Find who owns it: a \
         collection without a limit, {cycle}or a forgotten `Box::leak`, `mem::forget` or `into_raw`."
    )
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

/// Two sites of one operation, none of either freed, and no table.
fn lockstep(partner: &str, shares: Option<bool>) -> String {
    let seen =
        format!("It is born together with {partner}, none of either is ever freed, and no table grows with them");
    match shares {
        Some(true) => format!(
            "{seen}; an `Arc` or `Rc` is among them: this is what an `Arc` or `Rc` cycle looks like. Make the reference back a \
             `Weak`."
        ),
        None => format!(
            "{seen}: an `Arc` or `Rc` cycle looks like this (make the reference back a `Weak`), and so does what is forgotten \
             by `Box::leak`, `mem::forget` or `into_raw`."
        ),
        Some(false) => format!(
            "{seen}; neither they nor what is born with them is an `Arc` or `Rc`: one owner that is never dropped, or forgotten \
             by `Box::leak`, `mem::forget` or `into_raw`."
        ),
    }
}
