//! From a history to one word. Asked when a report is made, not each epoch; changes nothing.

use super::case::Case;
use super::gates::{Moment, ROOT_ODDS, Reading, Survivors};
use super::history::{COHORTS, History, QUEUE_COHORTS, SAMPLE, bytes};
use super::ladder::{RUNG_EPOCHS, Rung};
use super::state::{State, Tier, Withdrawal};

/// Share of mature frees that must have hit the oldest live cohort for a queue.
const QUEUE_SHARE: f32 = 0.8;
/// A site has grown where its live bytes did by this factor over the last half of its time, and have not fallen in its last quarter.
const GROWN_HALF: f32 = 1.25;
/// A queue is backed up where so much less of it was live half its time ago than if blocks had waited as long then as they do now.
/// In one that is 1.1 to 1.5 times too slow it was half as much. Where all live for 20, 60 or 120 epochs, 8 to 50 samples of which
/// are alive, this and the next find a backlog at 400 epochs in 0 to 4% of cases, mostly 0; `GROWN_HALF` alone did in 13 to 32%.
/// Backlogs of 20 to 120 samples are found as often as without this.
const WAITED_SHARE: f32 = 0.75;
/// And where live samples are more than they were by so many standard errors. Two Poisson counts: √ of their sum.
const BACKLOG_ERRORS: f32 = 1.0;
/// What the age ladder calls balanced, and the order of frees does not explain, has grown for certain where it did by so many
/// standard errors: chance makes that of one steady site in 700 whenever it is asked.
const GROWN_ERRORS: f32 = 3.0;
/// Samples freed below which nothing is said about their order, and their share of what grew old.
const FEWEST_FREES: f32 = 8.0;
const FREED_SHARE: f32 = 0.25;
/// Mature live samples below this share of what is live are churn.
const CHURN_SHARE: f32 = 0.1;

/// With more live samples a leak is proved or refuted within the run.
pub(super) const SAMPLES_TO_DECIDE: f32 = 40.0;
/// ln of a bet that a steady site wins once in fifty times: nine blocks grew old and none was freed.
const UNDECIDED_EVIDENCE: f32 = 4.0;
/// So much of what grew old, if it is still alive, is no sign of balance.
const KEPT_SHARE: f32 = 0.8;
/// A block of so many mean intervals is missed once in 20 times.
pub(super) const SEEN_INTERVALS: f32 = 3.0;
/// And blocks of fewer bytes than that in the mean are none that each matters, however finely they are sampled.
const LARGE_BYTES: f32 = 65536.0;
/// A constant site's bytes may grow by this factor in each of its last two quarters, but for one step of its largest table.
const SWOLLEN_QUARTER: f32 = 1.1;

/// The site's state, and the rung that it was read from if one refutes balance.
pub(crate) fn classify(history: &History, at: Moment<'_>) -> (State, Option<Reading>) {
    if history.is_tainted() {
        return (State::Unknown, None);
    }
    let read = history.case.read(&|| Survivors::of(history), at);
    let reading = read.map(|(_, reading)| reading);
    let tier = history.case.tier();
    // What is cleaned up as a whole, again and again, waits for nobody.
    let backlog = is_backlog(history, at.now) && !history.is_cleaned_up(at.now);
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
        None if history.is_cleaned_up(at.now) && !outlasts_clean_ups(history, &reading, at) => State::Sawtooth,
        None => State::Growing,
        Some(_) if history.is_cleaned_up(at.now) => State::Sawtooth,
        Some(Withdrawal::Slowed) if is_constant(history, at) => constant(history, at),
        Some(Withdrawal::Slowed) if reading.recent + reading.recent_error < 0.2 => State::Plateau,
        Some(Withdrawal::Slowed) if may_be_steady(&reading, at) => State::Growing,
        Some(Withdrawal::Slowed) if is_sublinear(&reading, at) => State::Sublinear,
        Some(Withdrawal::Slowed) => State::Warming,
        Some(Withdrawal::Batches) => State::Growing,
        Some(_) if is_constant(history, at) => constant(history, at),
        Some(_) => State::Plateau,
    }
}

/// Has it grown for longer than before any clean-up, by as much as a verdict asks?
fn outlasts_clean_ups(history: &History, reading: &Reading, at: Moment<'_>) -> bool {
    let longest = history.case.rungs[reading.rung].longest_run(RUNG_EPOCHS[reading.rung]);
    f64::from(reading.run_epochs) > at.config.cleanup_factor * f64::from(longest)
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
        return constant(history, at);
    }
    if history.is_cleaned_up(at.now) {
        return State::Sawtooth;
    }
    if is_growing_in_few(&[history], at) {
        return State::Growing;
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
    if history.matured < at.config.minimum_samples as f32 || is_hardly_freed(live, mature, history.matured) {
        return State::Unknown;
    }
    // As where a clean-up now and then outweighs all evidence, and does not keep up.
    if has_grown(&[history], at.now) && rise_in_errors(history, at.now) >= GROWN_ERRORS {
        return State::Growing;
    }
    State::Plateau
}

/// So few samples that a leak would not have been proved yet, and what there is looks like one: nothing is claimed.
pub(super) fn is_undecided(case: &Case, live_samples: f32) -> bool {
    let strongest = case.rungs.iter().map(Rung::first_bet).fold(0.0, f32::max);
    live_samples < SAMPLES_TO_DECIDE && strongest >= UNDECIDED_EVIDENCE
}

/// So few samples, and nearly all that grew old still there: nothing is claimed either. As where the evidence was gathered anew.
pub(super) fn is_hardly_freed(live_samples: f32, mature_samples: f32, matured: f32) -> bool {
    live_samples < SAMPLES_TO_DECIDE && mature_samples >= KEPT_SHARE * matured
}

/// Too few blocks for the age ladder, but so large that hardly one can have been missed and each matters, and hardly one that grew
/// old was freed: more is live than was, and that is no estimate. (As an arena whose chunks come through many chains.) `members`: a site, or those that are judged together.
pub(super) fn is_growing_in_few(members: &[&History], at: Moment<'_>) -> bool {
    let sum = |of: &dyn Fn(&History) -> f32| members.iter().map(|history| of(history)).sum::<f32>();
    let live = sum(&History::live_samples);
    let matured = sum(&|history| history.matured);
    let interval = members.iter().map(|history| history.reference_interval()).fold(0.0, f32::max);
    let age = at.now.saturating_sub(first_epoch(members, at.now)) + 1;
    age >= at.config.suspect_after_epochs
        && matured >= at.config.minimum_samples as f32
        && sum(&|history| bytes(history.live_total)) >= LARGE_BYTES.max(SEEN_INTERVALS * interval) * live
        && is_hardly_freed(live, sum(&|history| mature_live(history, at.now)), matured)
        && has_grown(members, at.now)
}

/// What no birth is the cause of: either nothing changes, or old blocks grow where they are, in steps too small for a table's.
/// Chance has no part in it, since no sample is added.
fn constant(history: &History, at: Moment<'_>) -> State {
    let length = at.now.saturating_sub(history.origin) + 1;
    let live = bytes(history.live_total);
    let value = |share: f32| history.trend.value(length as f32 * share, length, live);
    let (half, three_quarters) = (value(0.5), value(0.75));
    // A table that doubled once lately, and may rest for ever now.
    let settled = live - history.spine.last_step(at.now.saturating_sub(length / 2));
    let swollen = settled > SWOLLEN_QUARTER * three_quarters && three_quarters > SWOLLEN_QUARTER * half;
    if swollen && settled > GROWN_HALF * half { State::Growing } else { State::Constant }
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

/// The oldest are freed first, of late, and more are born than freed: for certain.
fn is_backlog(history: &History, now: u32) -> bool {
    may_be_backlog(history, now) && waits_longer(history, now) && rise_in_errors(history, now) >= BACKLOG_ERRORS
}

/// The same as far as its few samples say; where others tell whether it grows.
pub(super) fn may_be_backlog(history: &History, now: u32) -> bool {
    if history.queue_frees < FEWEST_FREES.max(FREED_SHARE * history.queue_matured) {
        return false;
    }
    let first_out = history.oldest_frees >= QUEUE_SHARE * history.queue_frees;
    let length = now.saturating_sub(history.origin) + 1;
    let oldest = history.live.iter().position(|&live| live > 0).unwrap_or(COHORTS);
    let waiting = ((length - 1) >> history.width_shift) as usize >= oldest + QUEUE_COHORTS;
    first_out && waiting && has_grown(&[history], now)
}

/// More is live than half the time ago, and not less than three quarters through it.
fn has_grown(members: &[&History], now: u32) -> bool {
    let first = first_epoch(members, now);
    let length = now.saturating_sub(first) + 1;
    let at = |share: f32| -> f32 {
        let live = |history: &&History| {
            let later = history.origin.saturating_sub(first);
            let since = (length as f32 * share - later as f32).max(0.0);
            history.trend.value(since, length.saturating_sub(later), bytes(history.live_total))
        };
        members.iter().map(live).sum()
    };
    let live: f32 = members.iter().map(|history| bytes(history.live_total)).sum();
    let samples: f32 = members.iter().map(|history| history.live_samples()).sum();
    // Few samples waver by more than a slow consumer adds in a quarter.
    let waver = 1.0 / samples.max(1.0).sqrt();
    live > GROWN_HALF * at(0.5) && live > (1.0 - waver) * at(0.75)
}

/// When the first of them began.
fn first_epoch(members: &[&History], now: u32) -> u32 {
    members.iter().map(|history| history.origin).min().unwrap_or(now)
}

/// Live samples half the time ago, if these were of as many bytes each as now.
fn samples_at_half(history: &History, now: u32) -> f32 {
    let length = now.saturating_sub(history.origin) + 1;
    let live = bytes(history.live_total);
    history.live_samples() * history.trend.value(length as f32 / 2.0, length, live) / live.max(1.0)
}

/// By how many standard errors more samples live than did half the time ago, if they come and go by chance. Where some are still
/// the same the error is smaller.
fn rise_in_errors(history: &History, now: u32) -> f32 {
    let (live, before) = (history.live_samples(), samples_at_half(history, now));
    (live - before) / (live + before).max(1.0).sqrt()
}

/// Of what leaves in the order in which it came, the live ones are the last births: so the births of as long a time before half the
/// site's were those alive then, if a block waited as long. Both counts are of the same samples, so that chance hardly tells them apart.
fn waits_longer(history: &History, now: u32) -> bool {
    let length = now.saturating_sub(history.origin) + 1;
    let half = length as f32 / 2.0;
    let cohorts = || {
        history.born.iter().zip(0u32..).filter_map(|(&born, k)| {
            let from = k << history.width_shift;
            let to = ((k + 1) << history.width_shift).min(length);
            (from < to).then_some((born as f32 / SAMPLE as f32, from as f32, to as f32))
        })
    };
    // The births before it are those that are gone.
    let mut gone = (cohorts().map(|(born, ..)| born).sum::<f32>() - history.live_samples()).max(0.0);
    let mut since = 0.0;
    for (born, from, to) in cohorts() {
        if born > gone {
            since = from + (to - from) * gone / born;
            break;
        }
        gone -= born;
    }
    let wait = length as f32 - since;
    if wait > half {
        // Then all that was born was there.
        return true;
    }
    let within = |from: f32, to: f32| (to.min(half) - from.max(half - wait)).max(0.0) / (to - from);
    let expected: f32 = cohorts().map(|(born, from, to)| born * within(from, to)).sum();
    samples_at_half(history, now) < WAITED_SHARE * expected
}

/// Live samples of cohorts that reached the second rung.
pub(super) fn mature_live(history: &History, now: u32) -> f32 {
    let relative = now.saturating_sub(history.origin);
    let mature = (relative.saturating_sub(5) >> history.width_shift) as usize;
    history.live[..mature.min(COHORTS)].iter().map(|&live| live as f32 / 256.0).sum()
}
