//! The DHAT JSON format, version 2, as Valgrind's dh_view and the Firefox Profiler read it.
//!
//! Promises: every key that dh_view demands, no two points with equal frames, integer figures, `te` above 0; written
//! point by point, one a line, so that memory does not grow with the text. In sampled mode figures are rounded
//! estimates, and both the header's mode and every node's verb say so. What the format has no place for is in
//! the `unfreed` block, which dh_view passes over: exact totals, intervals, losses, modules, history.
//! Format: the comment in Valgrind's `dhat/dh_main.c`, and `dh_view.js`.

use std::io::{self, Write};
use std::path::Path;

use serde::Serialize;

use super::file::{self, FileError};
use crate::report::points::{Point, Points, whole};
use crate::report::summary::grouped;
use crate::report::{Estimate, HistoryPoint, Losses, Mode, Module, ProcessState, Snapshot, Totals};
use crate::store::picture::Picture;

/// Nanoseconds in the file's unit of time.
const NS_PER_US: u64 = 1000;
/// Lifetimes up to this many µs are 'short' in dh_view, as in the dhat crate's files.
const SHORT_LIFETIME_US: u64 = 10;
/// Changes when a reader of the `unfreed` block has to.
const BLOCK_VERSION: u32 = 1;

impl Snapshot {
    /// Writes the profile as DHAT JSON, for dh_view or the Firefox Profiler. Buffers by itself.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn write_dhat<W: Write>(&self, writer: W) -> io::Result<()> {
        write(self, writer)
    }

    /// Writes the profile as DHAT JSON to a file, which is replaced as a whole once everything is written.
    ///
    /// # Errors
    /// Says which path could not be written, and why.
    pub fn write_dhat_file(&self, path: impl AsRef<Path>) -> Result<(), FileError> {
        file::replace(path.as_ref(), |out| self.write_dhat(out))
    }
}

fn write(snapshot: &Snapshot, writer: impl Write) -> io::Result<()> {
    let _inside = crate::hook::inside();
    let mut out = io::BufWriter::with_capacity(64 * 1024, writer);
    let picture = &snapshot.picture;
    let points = Points::of(snapshot);
    let end_us = (picture.elapsed_ns / NS_PER_US).max(1);
    let header = Header {
        version: 2,
        mode: mode_line(snapshot),
        verb: if picture.exact_mode { "Allocated" } else { "Allocated (estimated)" },
        bklt: true,
        bkacc: false,
        tu: "µs",
        mtu: "s",
        tuth: SHORT_LIFETIME_US,
        cmd: &picture.command,
        pid: picture.pid,
        tg: (picture.gmax_ns / NS_PER_US).min(end_us),
        te: end_us,
    };
    // The header's closing brace makes room for the rest.
    let mut text = serde_json::to_vec(&header)?;
    text.pop();
    out.write_all(&text)?;
    out.write_all(b",\n\"pps\":[")?;
    for (i, point) in points.points.iter().enumerate() {
        out.write_all(if i == 0 { b"\n" } else { b",\n" })?;
        serde_json::to_writer(&mut out, &ProgramPoint::of(point, picture))?;
    }
    out.write_all(b"\n],\n\"ftbl\":[\n\"[root]\"")?;
    for text in &points.texts {
        out.write_all(b",\n")?;
        serde_json::to_writer(&mut out, text)?;
    }
    out.write_all(b"\n],\n\"unfreed\":")?;
    serde_json::to_writer(&mut out, &Block::of(snapshot, &points))?;
    out.write_all(b"}\n")?;
    out.flush()
}

/// What dh_view shows as 'Mode', in lines of its own behind that word.
fn mode_line(snapshot: &Snapshot) -> String {
    let mut lines = vec![String::from("rust-heap")];
    if snapshot.mode() == Mode::Sampled {
        let totals = snapshot.totals();
        lines[0] += ", sampled: all figures below are ESTIMATES";
        lines.push(format!(
            "mean sample interval: {} bytes, {}",
            grouped(snapshot.sample_interval_bytes()),
            if snapshot.is_interval_fixed() { "fixed" } else { "governed" },
        ));
        let amount = |bytes, blocks| format!("{} bytes in {} blocks", grouped(bytes), grouped(blocks));
        lines.push(format!("exact total: {}", amount(totals.total_bytes, totals.total_blocks)));
        lines.push(format!("exact at t-end: {}", amount(totals.live_bytes, totals.live_blocks)));
    }
    if snapshot.process_state() == ProcessState::Killed {
        lines.push("from the store of a process that was killed".into());
    }
    let losses = snapshot.losses();
    if losses.dropped_records > 0 {
        lines.push(format!("INCOMPLETE: {} records were dropped", grouped(losses.dropped_records)));
    }
    lines.join("\n           ")
}

#[derive(Serialize)]
struct Header<'a> {
    #[serde(rename = "dhatFileVersion")]
    version: u32,
    mode: String,
    verb: &'a str,
    bklt: bool,
    bkacc: bool,
    tu: &'a str,
    #[serde(rename = "Mtu")]
    mtu: &'a str,
    tuth: u64,
    cmd: &'a str,
    pid: u32,
    tg: u64,
    te: u64,
}

/// Total, lifetimes, own maximum, at the process's maximum, at the end; bytes and blocks.
#[derive(Serialize)]
struct ProgramPoint {
    tb: u64,
    tbk: u64,
    tl: u64,
    mb: u64,
    mbk: u64,
    gb: u64,
    gbk: u64,
    eb: u64,
    ebk: u64,
    fs: Vec<u64>,
}

impl ProgramPoint {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "rounded; such a cast saturates")]
    #[expect(clippy::cast_precision_loss, reason = "a constant of four digits")]
    fn of(point: &Point, picture: &Picture) -> ProgramPoint {
        let figures = &point.figures;
        let (mb, mbk) = whole(figures.max_bytes, figures.max_blocks);
        let (gb, gbk) = whole(figures.gmax_bytes, figures.gmax_blocks);
        ProgramPoint {
            tb: figures.total.whole_bytes(),
            tbk: figures.total.whole_blocks(),
            tl: (point.lifetimes_ns(picture) / NS_PER_US as f64).round() as u64,
            mb,
            mbk,
            gb,
            gbk,
            eb: figures.live.whole_bytes(),
            ebk: figures.live.whole_blocks(),
            // 0 is the root.
            fs: point.frames.iter().map(|&number| u64::from(number) + 1).collect(),
        }
    }
}

#[derive(Serialize)]
struct Block<'a> {
    version: u32,
    mode: Mode,
    sample_interval_bytes: u64,
    sample_interval_fixed: bool,
    process: ProcessState,
    started_unix_ns: u64,
    elapsed_ns: u64,
    totals: Totals,
    totals_age_ns: u64,
    /// What the sites' figures sum to.
    attributed: Attributed,
    losses: Losses,
    unwinder: &'a str,
    modules: Vec<Module>,
    /// 95% intervals of the points' figures, in the order of `pps`; in exact mode there are none.
    #[serde(skip_serializing_if = "Option::is_none")]
    intervals: Option<Intervals<'a>>,
    /// Indices of points whose figures are not known, since records were lost.
    unknown: Vec<usize>,
    history: Vec<HistoryPoint>,
}

#[derive(Serialize)]
struct Attributed {
    live_bytes: Estimate,
    live_blocks: Estimate,
    total_bytes: Estimate,
    total_blocks: Estimate,
}

#[derive(Serialize)]
struct Intervals<'a> {
    columns: [&'static str; 8],
    #[serde(serialize_with = "rows")]
    rows: (&'a Snapshot, &'a [Point]),
}

impl<'a> Block<'a> {
    fn of(snapshot: &'a Snapshot, points: &'a Points<'a>) -> Block<'a> {
        let (live, total) = snapshot.attributed();
        let unseen = snapshot.unseen_block_weight(&total);
        let intervals = Intervals {
            columns: ["tb_low", "tb_high", "gb_low", "gb_high", "eb_low", "eb_high", "ebk_low", "ebk_high"],
            rows: (snapshot, &points.points),
        };
        Block {
            version: BLOCK_VERSION,
            mode: snapshot.mode(),
            sample_interval_bytes: snapshot.sample_interval_bytes(),
            sample_interval_fixed: snapshot.is_interval_fixed(),
            process: snapshot.process_state(),
            started_unix_ns: snapshot.picture.started_unix_ns,
            elapsed_ns: snapshot.picture.elapsed_ns,
            totals: snapshot.totals(),
            totals_age_ns: snapshot.picture.totals_stale_ns,
            attributed: Attributed {
                live_bytes: snapshot.bytes(&live),
                live_blocks: Estimate::blocks(&live, unseen),
                total_bytes: snapshot.bytes(&total),
                total_blocks: Estimate::blocks(&total, unseen),
            },
            losses: snapshot.losses(),
            unwinder: snapshot.unwinder(),
            modules: snapshot.modules().collect(),
            intervals: (snapshot.mode() == Mode::Sampled).then_some(intervals),
            unknown: points.points.iter().enumerate().filter(|(_, point)| point.unknown).map(|(i, _)| i).collect(),
            history: snapshot.history().collect(),
        }
    }
}

/// Streams a row of whole numbers a point, rounded outwards.
fn rows<S: serde::Serializer>(&(snapshot, points): &(&Snapshot, &[Point]), out: S) -> Result<S::Ok, S::Error> {
    out.collect_seq(points.iter().map(|point| {
        let [total, peak, live] = point.bytes(snapshot);
        let blocks = point.live_blocks(snapshot);
        let mut row = [0; 8];
        for (ends, estimate) in row.chunks_exact_mut(2).zip([total, peak, live, blocks]) {
            ends.copy_from_slice(&outwards(estimate));
        }
        row
    }))
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "non-negative; such a cast saturates")]
fn outwards(estimate: Estimate) -> [u64; 2] {
    [estimate.low.floor() as u64, estimate.high.ceil() as u64]
}
