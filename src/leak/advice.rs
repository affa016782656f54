//! What to do, from evidence. Each sentence says what was seen before it says what that suggests.

use super::report::Evidence;
use super::state::State;

/// Kept blocks below this share of all are an exception to the site's rule.
const EXCEPTION_SHARE: f64 = 0.3;
/// Growth like t^b with b above log₂ 2.5 is accelerating.
const ACCELERATING_RATIO: f64 = 1.5;

/// The facts beside a site's own evidence.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Surroundings {
    /// A table grows somewhere in the process.
    pub(crate) a_table_grows: bool,
    /// Another leaking site is born in lockstep with this one, and neither is ever freed.
    pub(crate) in_lockstep: bool,
    /// The site is within the bound that its scope declared; beyond it.
    pub(crate) within_bound: bool,
    pub(crate) beyond_bound: bool,
}

/// One sentence or two for a site.
pub(crate) fn advise(state: State, evidence: &Evidence, around: Surroundings) -> String {
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

fn leak(evidence: &Evidence, around: Surroundings) -> String {
    if evidence.table_growths > 0 && evidence.by_table {
        return "A table here grows at a steady rate and never shrinks: entries are added and not removed. Remove them \
                where their use ends, or cap the collection (LRU, TTL)."
            .into();
    }
    if evidence.grows_while_idle {
        return "It grows also while the program is otherwise idle: a background task accumulates. Prune what it keeps, \
                or end it with its owner."
            .into();
    }
    if evidence.second_half_ratio > ACCELERATING_RATIO && evidence.births_ratio > ACCELERATING_RATIO {
        return "Its growth accelerates: look for work that queues itself again, such as endless retries, and limit \
                the attempts."
            .into();
    }
    if evidence.freed_share > 1.0 - EXCEPTION_SHARE {
        // The share stands in the site's figures: sites of one cause are to read the same here.
        return "Most of what this chain allocates is freed; the rest is kept for ever. Look for the path that keeps it: \
                an error or early return, a map entry that is never removed, a clone held by a long-lived owner."
            .into();
    }
    if around.in_lockstep && !around.a_table_grows && evidence.freed_share < 0.01 {
        return "It is born together with another leaking site, none of either is ever freed, and no table grows: this \
                is what an `Arc` or `Rc` cycle looks like. Make the reference back a `Weak`."
            .into();
    }
    if around.a_table_grows {
        return "Almost nothing of what this chain allocates is freed, and a table grows with it: a collection without a \
                limit. Keep less in each entry, remove entries, or cap it (LRU, TTL)."
            .into();
    }
    "Almost nothing of what this chain allocates is ever freed. Find who owns it: a collection without a limit, a pool \
     that does not reuse, or a forgotten `Box::leak`, `mem::forget` or `into_raw`."
        .into()
}
