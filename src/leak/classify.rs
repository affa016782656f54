//! From a history to one word. Asked when a report is made, not each epoch; changes nothing.

use super::case::Case;
use super::gates::{Moment, ROOT_ODDS, Reading, Survivors};
use super::history::{COHORTS, History, QUEUE_COHORTS, bytes};
use super::ladder::Rung;
use super::state::{State, Tier, Withdrawal};

/// Share of mature frees that must have hit the oldest live cohort for a queue.
const QUEUE_SHARE: f32 = 0.8;
/// A queue is backed up where its live bytes grew by this factor over the last half of its time, and in its last quarter.
const BACKLOG_HALF: f32 = 1.25;
/// Samples freed below which nothing is said about their order, and their share of what grew old.
const FEWEST_FREES: f32 = 8.0;
const FREED_SHARE: f32 = 0.25;
/// Mature live samples below this share of what is live are churn.
const CHURN_SHARE: f32 = 0.1;

/// With more live samples a leak is proved or refuted within the run.
const SAMPLES_TO_DECIDE: f32 = 40.0;
/// ln of a bet that a steady site wins once in fifty times: nine blocks grew old and none was freed.
const UNDECIDED_EVIDENCE: f32 = 4.0;

/// The site's state, and the rung that it was read from if one refutes balance.
pub(crate) fn classify(history: &History, at: Moment<'_>) -> (State, Option<Reading>) {
    if history.is_tainted() {
        return (State::Unknown, None);
    }
    let read = history.case.read(&|| Survivors::of(history), at);
    let reading = read.map(|(_, reading)| reading);
    let tier = history.case.tier();
    let backlog = is_backlog(history, at.now);
    let state = match (tier, reading) {
        (Tier::Leak | Tier::Suspected, _) if backlog => State::Backlog,
        (Tier::Leak, _) => State::Leak,
        (Tier::Suspected, _) => State::Suspected,
        (_, Some(reading)) => growing(history, reading, backlog, at),
        (_, None) => resting(history, backlog, at),
    };
    (state, reading)
}

/// Balance is refuted, but a gate is shut.
fn growing(history: &History, reading: Reading, backlog: bool, at: Moment<'_>) -> State {
    if backlog {
        return State::Backlog;
    }
    match reading.shut {
        None => State::Growing,
        Some(_) if history.case.cleanups >= 2 => State::Sawtooth,
        Some(Withdrawal::Slowed) if is_constant(history, at) => State::Constant,
        Some(Withdrawal::Slowed) if reading.recent + reading.recent_error < 0.2 => State::Plateau,
        Some(Withdrawal::Slowed) if may_be_steady(&reading, at) => State::Growing,
        Some(Withdrawal::Slowed) if is_sublinear(&reading, at) => State::Sublinear,
        Some(Withdrawal::Slowed) => State::Warming,
        Some(Withdrawal::Batches) => State::Growing,
        Some(_) if is_constant(history, at) => State::Constant,
        Some(_) => State::Plateau,
    }
}

/// Both ratios are between a warm-up's and a leak's, as far as chance lets one say. A warm-up passes through these too;
/// only what stays there for long is named by it.
fn is_sublinear(reading: &Reading, at: Moment<'_>) -> bool {
    let least = at.config.sublinear_ratio;
    reading.run_epochs >= at.config.suspect_after_epochs * 2
        && f64::from(reading.births_ratio + reading.births_error) >= least
        && f64::from(reading.ratio + 2.5 * reading.ratio_error) >= least
}

/// Growth that chance alone may have made look slower than a leak's: the births don't speak against it.
fn may_be_steady(reading: &Reading, at: Moment<'_>) -> bool {
    let steady = at.config.steady_ratio;
    reading.steady_odds >= -ROOT_ODDS && f64::from(reading.ratio + 2.0 * reading.ratio_error) >= steady
}

/// Balance is not refuted.
fn resting(history: &History, backlog: bool, at: Moment<'_>) -> State {
    let live = history.live_samples();
    let born = bytes(history.born_total);
    if backlog {
        return State::Backlog;
    }
    if history.spine.is_growing() {
        return State::Growing;
    }
    if live > 0.0 && is_constant(history, at) {
        return State::Constant;
    }
    if history.case.cleanups >= 2 {
        return State::Sawtooth;
    }
    if is_undecided(&history.case, live) {
        return State::Unknown;
    }
    let mature = mature_live(history, at.now);
    if mature < CHURN_SHARE * live.max(1.0) || bytes(history.live_total) < 0.02 * born {
        // Few births and none of them old yet: nothing can be said.
        let enough = history.born.iter().map(|&born| born as f32 / 256.0).sum::<f32>();
        return if enough >= at.config.minimum_samples as f32 { State::Churn } else { State::Unknown };
    }
    if history.matured < at.config.minimum_samples as f32 {
        return State::Unknown;
    }
    State::Plateau
}

/// So few samples that a leak would not have been proved yet, and what there is looks like one: nothing is claimed.
pub(super) fn is_undecided(case: &Case, live_samples: f32) -> bool {
    let strongest = case.rungs.iter().map(Rung::first_bet).fold(0.0, f32::max);
    live_samples < SAMPLES_TO_DECIDE && strongest >= UNDECIDED_EVIDENCE
}

/// All live weight is of the first two cohorts, or the site stopped allocating long ago.
fn is_constant(history: &History, at: Moment<'_>) -> bool {
    let age = at.now.saturating_sub(history.origin);
    if age < at.config.suspect_after_epochs / 2 {
        return false;
    }
    let silent = at.now.saturating_sub(history.last_birth);
    let early: f32 = history.live[..2].iter().map(|&live| live as f32 / 256.0).sum();
    let live = history.live_samples();
    live > 0.0 && (early >= 0.98 * live || silent > (age / 2).max(at.config.suspect_after_epochs / 2))
}

/// The oldest are freed first, of late, and more are born than freed.
pub(super) fn is_backlog(history: &History, now: u32) -> bool {
    if history.queue_frees < FEWEST_FREES.max(FREED_SHARE * history.queue_matured) {
        return false;
    }
    let first_out = history.oldest_frees >= QUEUE_SHARE * history.queue_frees;
    let length = now.saturating_sub(history.origin) + 1;
    let live = bytes(history.live_total);
    let at = |share: f32| history.trend.value(length as f32 * share, length, live);
    let oldest = history.live.iter().position(|&live| live > 0).unwrap_or(COHORTS);
    let waiting = ((length - 1) >> history.width_shift) as usize >= oldest + QUEUE_COHORTS;
    // Few samples waver by more than a slow consumer adds in a quarter.
    let waver = 1.0 / history.live_samples().max(1.0).sqrt();
    first_out && waiting && live > BACKLOG_HALF * at(0.5) && live > (1.0 - waver) * at(0.75)
}

/// Live samples of cohorts that reached the second rung.
fn mature_live(history: &History, now: u32) -> f32 {
    let relative = now.saturating_sub(history.origin);
    let mature = (relative.saturating_sub(5) >> history.width_shift) as usize;
    history.live[..mature.min(COHORTS)].iter().map(|&live| live as f32 / 256.0).sum()
}
