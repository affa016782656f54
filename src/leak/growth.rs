//! How fast a site grows, and how much more that is than it held.
//!
//! Pure. Of a site whose blocks grow old: net growth of its live bytes over the run, or over the window where none is under way,
//! and over the window for the percentage. Of a site that is one growing table, which adds nothing for long and then half of what it has: the pace at which it
//! fills (`Spine::filling`), which is the same just before a growth and just after. So no severity, and no place in the report,
//! depends on whether a growth fell into the window.

use super::gates::Reading;
use super::history::{History, bytes};
use super::report::Interval;
use super::spine::{Filling, PACE_KEPT};

/// A percentage of next to nothing is no more than this.
const MOST_PERCENT: f64 = 1e4;

/// A site's growth.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Growth {
    pub(super) per_minute: Interval,
    /// The time that it was measured over.
    pub(super) seconds: f64,
    /// Lower end over the window, in percent of what was live at its start.
    pub(super) low_percent: f64,
}

/// What growth is measured over.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scale {
    /// The epoch last closed.
    pub(super) now: u32,
    pub(super) window_epochs: u32,
    pub(super) epoch_seconds: f64,
}

/// What one site adds to the growth of its own, or of the group that it is in.
#[derive(Clone, Copy, Debug, Default)]
struct Part {
    per_minute: Interval,
    seconds: f64,
    /// Growth over the window in bytes, and what was live at its start.
    over_window: Interval,
    before_bytes: f64,
}

/// A site's growth; `reading`: the run that its blocks' ages tell of.
pub(super) fn growth_of(history: &History, reading: Option<Reading>, scale: Scale) -> Growth {
    whole(std::iter::once(part_of(history, reading, history.origin, scale)))
}

/// The growth of sites that are judged together: of all of them over the same time, also of those that came late. `reading`: their
/// common run.
pub(super) fn growth_of_all<'h>(
    histories: impl Iterator<Item = &'h History> + Clone,
    reading: Option<Reading>,
    scale: Scale,
) -> Growth {
    let origin = histories.clone().map(|history| history.origin).min().unwrap_or(scale.now);
    whole(histories.map(|history| part_of(history, reading, origin, scale)))
}

/// Independent parts: the squares of errors add.
fn whole(parts: impl Iterator<Item = Part>) -> Growth {
    let sum = parts.fold(Part::default(), |sum, part| Part {
        per_minute: sum.per_minute.plus(part.per_minute),
        seconds: sum.seconds.max(part.seconds),
        over_window: sum.over_window.plus(part.over_window),
        before_bytes: sum.before_bytes + part.before_bytes,
    });
    let low_percent = (100.0 * sum.over_window.low / sum.before_bytes.max(1.0)).min(MOST_PERCENT);
    Growth { per_minute: sum.per_minute, seconds: sum.seconds, low_percent }
}

/// `origin`: when the site began, or the first of its group.
fn part_of(history: &History, reading: Option<Reading>, origin: u32, scale: Scale) -> Part {
    match (reading, history.spine.filling(scale.now)) {
        (None, Some(filling)) if history.is_mostly_a_table() => of_table(history, filling, scale),
        (None, Some(filling)) => of_tables(history, filling, scale),
        _ => of_blocks(history, reading, origin, scale),
    }
}

/// A table's, while it is known at which pace it fills. The interval is what a pace may differ by that counts as kept.
fn of_table(history: &History, filling: Filling, scale: Scale) -> Part {
    let (pace, kept) = (f64::from(filling.bytes_per_epoch), f64::from(PACE_KEPT));
    let per_epoch = Interval { value: pace, low: pace * kept, high: pace / kept };
    steady(history, per_epoch, f64::from(filling.held_bytes), filling.epochs, scale)
}

/// Many tables', of which the largest gives the pace: their mean growth since that one's first. They may all have doubled just now,
/// and then half of it is still to be filled.
fn of_tables(history: &History, filling: Filling, scale: Scale) -> Part {
    let live = bytes(history.live_total);
    let length = scale.now.saturating_sub(history.origin) + 1;
    let epochs = filling.epochs.clamp(1, length);
    let start = history.trend.value((length - epochs) as f32, length, live);
    let mean = f64::from(live - start) / f64::from(epochs);
    let per_epoch = Interval { value: mean, low: mean.min(mean / 2.0), high: mean };
    steady(history, per_epoch, f64::from(live), epochs, scale)
}

/// Growth at one pace, of what holds so much by now.
fn steady(history: &History, per_epoch: Interval, held_bytes: f64, epochs: u32, scale: Scale) -> Part {
    let epochs_a_minute = 60.0 / scale.epoch_seconds.max(1e-9);
    let window = f64::from(scale.window_epochs.min(scale.now.saturating_sub(history.origin) + 1));
    let grown = |rate: f64| (rate * window).min(held_bytes);
    let over_window =
        Interval { value: grown(per_epoch.value), low: grown(per_epoch.low), high: grown(per_epoch.high) };
    Part {
        per_minute: Interval {
            value: per_epoch.value * epochs_a_minute,
            low: per_epoch.low * epochs_a_minute,
            high: per_epoch.high * epochs_a_minute,
        },
        seconds: f64::from(epochs.max(1)) * scale.epoch_seconds,
        over_window,
        before_bytes: held_bytes - over_window.low,
    }
}

/// Growth in bytes over the run, or the window where no run is under way; a site that came later began with nothing. The variance of
/// what grew is its share of the site's: samples add theirs independently.
fn of_blocks(history: &History, reading: Option<Reading>, origin: u32, scale: Scale) -> Part {
    let length = scale.now.saturating_sub(history.origin) + 1;
    let longest = scale.now.saturating_sub(origin) + 1;
    let live = bytes(history.live_total);
    let grown = |epochs: u32| {
        let start = history.trend.value(length.saturating_sub(epochs) as f32, length, live);
        let grown = f64::from(live - start);
        let error =
            1.96 * (f64::from(history.live_variance) * (grown.abs() / f64::from(live.max(1.0))).min(1.0)).sqrt();
        (Interval { value: grown, low: grown - error, high: grown + error }, f64::from(start))
    };
    let run = reading.map_or(scale.window_epochs, |reading| reading.run_epochs).clamp(1, longest);
    let (over_run, _) = grown(run);
    let minutes = (f64::from(run) * scale.epoch_seconds / 60.0).max(1e-9);
    let a_minute = |interval: Interval| Interval {
        value: interval.value / minutes,
        low: interval.low / minutes,
        high: interval.high / minutes,
    };
    let (over_window, before_bytes) = grown(scale.window_epochs.min(longest));
    Part { per_minute: a_minute(over_run), seconds: f64::from(run) * scale.epoch_seconds, over_window, before_bytes }
}
