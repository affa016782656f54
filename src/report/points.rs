//! Program points: sites that look the same once their frames are trimmed, merged.
//!
//! Two stacks that differ in hidden frames alone (two ways through `Vec::push` from one line) are one point for a
//! reader, and dh_view refuses a file with both. Frames are numbered by their printed text, so that no two points
//! can have equal lists. Live, total and peak-of-process figures add up; the sum of the sites' own peaks is an upper
//! bound of the merged peak (they need not have been at one moment).

use std::collections::HashMap;

use super::estimate::Estimate;
use super::frame::{Frame, write_frame};
use super::site::{lifetimes_ns, resembling};
use super::snapshot::{Snapshot, add};
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
}

/// A frame without a number.
const NO_NUMBER: u32 = u32::MAX;

impl<'a> Points<'a> {
    /// Trims and merges a snapshot's sites.
    pub(crate) fn of(snapshot: &'a Snapshot) -> Points<'a> {
        let symbols = snapshot.symbols();
        let (all, starts) = symbols.all();
        let mut table = Table { numbers: vec![NO_NUMBER; all.len()], ..Table::default() };
        let mut index: HashMap<Box<[u32]>, usize> = HashMap::with_capacity(snapshot.picture.sites.len());
        let mut points: Vec<Point> = Vec::new();
        let (mut expanded, mut roles) = (Vec::new(), Vec::new());
        let range = |key: FrameKey| {
            let i = symbols.index(key).unwrap_or(usize::MAX);
            let start = starts.get(i).copied().unwrap_or(0);
            start..starts.get(i.wrapping_add(1)).copied().unwrap_or(start)
        };
        for site in &snapshot.picture.sites {
            expanded.clear();
            roles.clear();
            for (&key, number) in site.frames.iter().zip(0u64..) {
                for i in range(key) {
                    if let Some(frame) = all.get(i) {
                        expanded.push(i);
                        roles.push((frame.symbol.role, number));
                    }
                }
            }
            let shown = expanded.get(snapshot.trim.shown(&roles)).unwrap_or_default();
            // The scopes come last, as if they had called the stack's root.
            let scopes = site.scopes.iter().filter_map(|&scope| snapshot.scope_frames.get(scope as usize)?.as_ref());
            let mut frames: Vec<u32> = shown.iter().map(|&i| table.number(all, i)).collect();
            frames.extend(scopes.map(|scope| table.scope(scope)));
            let frames: Box<[u32]> = frames.into();
            let unknown = site.tainted || site.folded;
            match index.get(&frames).and_then(|&known| points.get_mut(known)) {
                Some(point) => {
                    add_figures(&mut point.figures, &site.figures);
                    point.unknown |= unknown;
                }
                None => {
                    index.insert(frames.clone(), points.len());
                    points.push(Point { frames, figures: site.figures, unknown });
                }
            }
        }
        points.sort_by(|a, b| {
            let by_size = |point: &Point| (point.figures.live.bytes, point.figures.total.bytes);
            by_size(b).cmp(&by_size(a)).then_with(|| a.frames.cmp(&b.frames))
        });
        Points { points, frames: table.frames, texts: table.texts }
    }
}

/// Frames by number.
#[derive(Default)]
struct Table<'a> {
    /// By index of the symbol table's frames.
    numbers: Vec<u32>,
    by_text: HashMap<String, u32>,
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

    /// The number of a scope's pseudo-frame, which is none of the symbol table's.
    fn scope(&mut self, frame: &'a Frame) -> u32 {
        number_of(&mut self.by_text, &mut self.frames, &mut self.texts, frame)
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
