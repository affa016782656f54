//! Program points: sites that look the same once their frames are trimmed, merged.
//!
//! Two stacks that differ in hidden frames alone (two ways through `Vec::push` from one line) are one point for a
//! reader, and dh_view refuses a file with both. Frames are numbered by their printed text, so that no two points
//! can have equal lists. Live, total and peak-of-process figures add up; the sum of the sites' own peaks is an upper
//! bound of the merged peak (they need not have been at one moment).

use std::cmp::Reverse;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use super::estimate::Estimate;
use super::frame::{Frame, Symbol, write_frame};
use super::site::{lifetimes_ns, resembling};
use super::snapshot::{Snapshot, add};
use crate::leak::LeakReport;
use crate::store::picture::{Amount, Figures, Picture};
use crate::units::FrameKey;

/// One point: a trimmed call chain with the summed figures of its sites.
#[derive(Debug)]
pub(crate) struct Point {
    /// Numbers of frames, leaf first.
    pub(crate) frames: Box<[u32]>,
    pub(crate) figures: Figures,
    /// One of its sites is unknown.
    pub(crate) unknown: bool,
}

/// All points of a snapshot, the largest live bytes first, and the table of frames that they refer to.
#[derive(Debug)]
pub(crate) struct Points<'a> {
    pub(crate) points: Vec<Point>,
    /// The frame of each number.
    pub(crate) frames: Vec<&'a Frame>,
    /// Its text, different for each number.
    pub(crate) texts: Vec<String>,
    /// The verdicts, with numbers of frames.
    pub(crate) leaks: Option<LeakReport<u32>>,
}

/// A frame without a number.
const NO_NUMBER: u32 = u32::MAX;

impl<'a> Points<'a> {
    /// Trims and merges a snapshot's sites.
    pub(crate) fn of(snapshot: &'a Snapshot) -> Points<'a> {
        let symbols = snapshot.symbols();
        let (all, starts) = symbols.all();
        let sites = &snapshot.picture.sites;
        let mut table = Table { numbers: vec![NO_NUMBER; all.len()], ..Table::default() };
        let mut index = Index::with_room_for(sites.len());
        let mut points: Vec<Point> = Vec::with_capacity(sites.len());
        let (mut expanded, mut roles, mut numbers) = (Vec::new(), Vec::new(), Vec::new());
        let mut ranges = Ranges::new(|key: FrameKey| {
            let i = symbols.index(key).unwrap_or(usize::MAX);
            let start = starts.get(i).copied().unwrap_or(0);
            start..starts.get(i.wrapping_add(1)).copied().unwrap_or(start)
        });
        for site in sites {
            expanded.clear();
            roles.clear();
            numbers.clear();
            for (&key, number) in site.frames.iter().zip(0u64..) {
                for i in ranges.of(key) {
                    if let Some(frame) = all.get(i) {
                        expanded.push(i);
                        roles.push((frame.symbol.role, number));
                    }
                }
            }
            let shown = expanded.get(snapshot.trim.shown(&roles)).unwrap_or_default();
            numbers.extend(shown.iter().map(|&i| table.number(all, i)));
            // The scopes come last, as if they had called the stack's root.
            let scopes = site.scopes.iter().filter_map(|&scope| snapshot.scope_frames.get(scope as usize)?.as_ref());
            numbers.extend(scopes.map(|scope| table.number_of(scope)));
            let unknown = site.tainted || site.folded;
            match index.find_or_add(&numbers, &points) {
                Some(known) => {
                    if let Some(point) = points.get_mut(known) {
                        add_figures(&mut point.figures, &site.figures);
                        point.unknown |= unknown;
                    }
                }
                None => points.push(Point { frames: numbers.as_slice().into(), figures: site.figures, unknown }),
            }
        }
        let leaks = snapshot.leaks.as_ref().map(|leaks| leaks.with_frames(|frame| table.number_of(frame)));
        largest_first(&mut points);
        Points { points, frames: table.frames, texts: table.texts, leaks }
    }
}

/// Sorts by live bytes, then by total, then by frames, which differ. What is sorted are numbers, and each point is moved once: a
/// point has 300 bytes.
fn largest_first(points: &mut [Point]) {
    let mut order: Vec<_> = points
        .iter()
        .zip(0..)
        .map(|(point, at)| (Reverse((point.figures.live.bytes, point.figures.total.bytes)), &*point.frames, at))
        .collect();
    order.sort_unstable();
    // Which point belongs at each place; where it is the place's own number, it is there.
    let mut order: Vec<usize> = order.into_iter().map(|(.., at)| at).collect();
    for start in 0..order.len() {
        let mut at = start;
        while let Some(from) = order.get_mut(at).map(|from| std::mem::replace(from, at))
            && from != start
            && from != at
        {
            points.swap(at, from);
            at = from;
        }
    }
}

/// Which point has these frames: a table of points' numbers, open to the next place, at most half full.
struct Index {
    places: Box<[u32]>,
}

impl Index {
    fn with_room_for(points: usize) -> Index {
        Index { places: vec![NO_NUMBER; (2 * points + 1).next_power_of_two()].into() }
    }

    /// The point that has these frames; or `None`, and the next point that is pushed will be found by them.
    fn find_or_add(&mut self, frames: &[u32], points: &[Point]) -> Option<usize> {
        let fold =
            |hash: u64, &number: &u32| (hash.rotate_left(5) ^ u64::from(number)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let hash = frames.iter().fold(frames.len() as u64, fold);
        let mask = self.places.len() - 1;
        #[expect(clippy::cast_possible_truncation, reason = "masked to a place")]
        let mut at = (hash ^ (hash >> 32)) as usize & mask;
        loop {
            let place = self.places.get_mut(at)?;
            if *place == NO_NUMBER {
                *place = u32::try_from(points.len()).unwrap_or(NO_NUMBER - 1);
                return None;
            }
            let known = *place as usize;
            if points.get(known).is_some_and(|point| *point.frames == *frames) {
                return Some(known);
            }
            at = (at + 1) & mask;
        }
    }
}

/// The symbol table's frames of the keys that came last: stacks share most of theirs, and the table is searched.
struct Ranges<F> {
    search: F,
    last: Box<[Option<Known>]>,
}

type Known = (FrameKey, Range<usize>);

impl<F: Fn(FrameKey) -> Range<usize>> Ranges<F> {
    fn new(search: F) -> Ranges<F> {
        Ranges { search, last: vec![None; 4096].into() }
    }

    fn of(&mut self, key: FrameKey) -> Range<usize> {
        #[expect(clippy::cast_possible_truncation, reason = "taken modulo the number of places")]
        let at = (key.0 ^ (key.0 >> 12)) as usize % self.last.len();
        match self.last.get_mut(at) {
            Some(Some((known, range))) if *known == key => range.clone(),
            Some(place) => place.insert((key, (self.search)(key))).1.clone(),
            None => (self.search)(key),
        }
    }
}

/// Frames by number.
#[derive(Default)]
struct Table<'a> {
    /// By index of the symbol table's frames.
    numbers: Vec<u32>,
    by_text: HashMap<String, u32>,
    /// By address and symbol, for copies of frames.
    by_symbol: HashMap<(u64, *const Symbol), u32>,
    frames: Vec<&'a Frame>,
    texts: Vec<String>,
}

impl<'a> Table<'a> {
    fn number(&mut self, all: &'a [Frame], index: usize) -> u32 {
        let (Some(number), Some(frame)) = (self.numbers.get_mut(index), all.get(index)) else { return 0 };
        if *number == NO_NUMBER {
            *number = number_of(&mut self.by_text, &mut self.frames, &mut self.texts, frame);
        }
        *number
    }

    /// The number of a frame that need not be the symbol table's own: a scope's, or a copy.
    fn number_of(&mut self, frame: &'a Frame) -> u32 {
        let known = self.by_symbol.entry((frame.address, Arc::as_ptr(&frame.symbol)));
        *known.or_insert_with(|| number_of(&mut self.by_text, &mut self.frames, &mut self.texts, frame))
    }
}

fn number_of<'a>(
    by_text: &mut HashMap<String, u32>,
    frames: &mut Vec<&'a Frame>,
    texts: &mut Vec<String>,
    frame: &'a Frame,
) -> u32 {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = write_frame(&mut text, frame.address, &frame.symbol);
    *by_text.entry(text).or_insert_with_key(|text| {
        frames.push(frame);
        texts.push(text.clone());
        u32::try_from(texts.len() - 1).unwrap_or(NO_NUMBER - 1)
    })
}

fn add_figures(sum: &mut Figures, figures: &Figures) {
    add(&mut sum.live, &figures.live);
    add(&mut sum.total, &figures.total);
    sum.max_bytes = sum.max_bytes.saturating_add(figures.max_bytes);
    sum.max_blocks = sum.max_blocks.saturating_add(figures.max_blocks);
    sum.gmax_bytes = sum.gmax_bytes.saturating_add(figures.gmax_bytes);
    sum.gmax_blocks = sum.gmax_blocks.saturating_add(figures.gmax_blocks);
    sum.ended_lifetimes = sum.ended_lifetimes.saturating_add(figures.ended_lifetimes);
    sum.live_births = sum.live_births.saturating_add(figures.live_births);
    sum.freed_blocks = sum.freed_blocks.saturating_add(figures.freed_blocks);
}

/// A figure that only its sums were kept of, as whole numbers.
pub(crate) fn whole(bytes: u64, blocks: u64) -> (u64, u64) {
    let amount = Amount { bytes, blocks, ..Amount::default() };
    (amount.whole_bytes(), amount.whole_blocks())
}

impl Point {
    /// The sum of its blocks' lifetimes, in nanoseconds.
    pub(crate) fn lifetimes_ns(&self, picture: &Picture) -> f64 {
        lifetimes_ns(&self.figures, picture)
    }

    /// Bytes in total, at the process's peak, and live, with their intervals.
    pub(crate) fn bytes(&self, snapshot: &Snapshot) -> [Estimate; 3] {
        let figures = &self.figures;
        let peak = resembling(figures, figures.gmax_bytes, figures.gmax_blocks);
        [snapshot.bytes(&figures.total), snapshot.bytes(&peak), snapshot.bytes(&figures.live)]
    }

    /// Live blocks, with their interval.
    pub(crate) fn live_blocks(&self, snapshot: &Snapshot) -> Estimate {
        Estimate::blocks(&self.figures.live, snapshot.unseen(&self.figures.total))
    }
}
