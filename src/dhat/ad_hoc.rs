//! Ad hoc profiles: events that the program reports itself, counted by call chain.
//!
//! Promises: needs no allocator; an event costs one backtrace and one lock, as in the dhat crate, and is meant for code
//! points, not for hot loops. The file is DHAT JSON of the mode `rust-ad-hoc`, with units and events in the place of
//! bytes and blocks, and without lifetimes.

use std::collections::HashMap;
use std::io::Write;
use std::path::PathBuf;
use std::time::Instant;

use serde::Serialize;

use super::{Kind, Phase, phase};
use crate::export::file;
use crate::report::Trim;
use crate::report::frame::{Symbol, write_frame};
use crate::report::summary::grouped;
use crate::report::trim::{Role, role};
use crate::sys::process;

/// Counts an event of this weight at the caller's call chain. Nothing where no ad hoc profiler runs.
pub fn ad_hoc_event(weight: usize) {
    let _inside = crate::hook::inside();
    if let Phase::Running(running) = &mut *phase()
        && let Kind::AdHoc(ad_hoc) = &mut running.kind
    {
        ad_hoc.count(weight as u64);
    }
}

/// An ad hoc profile that runs.
pub(super) struct AdHoc {
    file: PathBuf,
    trim: Trim,
    started: Instant,
    /// Events and units by return addresses, leaf first.
    points: HashMap<Box<[usize]>, (u64, u64)>,
    events: u64,
    units: u64,
}

/// The most frames of one chain.
const FRAMES_MAX: usize = 1024;

impl AdHoc {
    pub(super) fn begin(file: PathBuf, trim_backtraces: Option<usize>) -> AdHoc {
        AdHoc {
            file,
            trim: Trim::from_dhat(trim_backtraces),
            started: Instant::now(),
            points: HashMap::new(),
            events: 0,
            units: 0,
        }
    }

    /// Events and units so far.
    pub(super) fn totals(&self) -> (u64, u64) {
        (self.events, self.units)
    }

    fn count(&mut self, weight: u64) {
        let mut addresses = Vec::with_capacity(64);
        backtrace::trace(|frame| {
            let address = frame.ip().addr();
            // The end of a thread's chain is no frame.
            if address != 0 {
                addresses.push(address);
            }
            address != 0 && addresses.len() < FRAMES_MAX
        });
        let point = self.points.entry(addresses.into()).or_default();
        *point = (point.0 + 1, point.1.saturating_add(weight));
        self.events += 1;
        self.units = self.units.saturating_add(weight);
    }

    /// Resolves and merges what was counted.
    pub(super) fn finish(self) -> Finished {
        let te = u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX).max(1);
        let mut table = Table { texts: vec!["[root]".into()], numbers: HashMap::new() };
        let mut merged: HashMap<Vec<usize>, (u64, u64)> = HashMap::new();
        for (addresses, (events, units)) in &self.points {
            let point = merged.entry(table.frames(addresses, self.trim)).or_default();
            *point = (point.0 + events, point.1.saturating_add(*units));
        }
        let mut pps: Vec<Point> = merged.into_iter().map(|(fs, (tbk, tb))| Point { tb, tbk, fs }).collect();
        pps.sort_by(|a, b| b.tb.cmp(&a.tb).then_with(|| a.fs.cmp(&b.fs)));
        let json = Json {
            version: 2,
            mode: "rust-ad-hoc",
            verb: "Allocated",
            bklt: false,
            bkacc: false,
            bu: "unit",
            bsu: "units",
            bksu: "events",
            tu: "µs",
            mtu: "s",
            cmd: std::env::args_os().map(|arg| arg.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" "),
            pid: std::process::id(),
            te,
            pps,
            ftbl: table.texts,
        };
        Finished { file: self.file, events: self.events, units: self.units, json }
    }
}

/// Frames by number; 0 is the root.
struct Table {
    texts: Vec<String>,
    numbers: HashMap<String, usize>,
}

impl Table {
    /// The numbers of the frames to show, leaf first.
    fn frames(&mut self, addresses: &[usize], trim: Trim) -> Vec<usize> {
        let mut texts = Vec::new();
        let mut roles = Vec::new();
        let mut leaf = 0;
        for (&address, number) in addresses.iter().zip(0u64..) {
            let first = texts.len();
            backtrace::resolve(std::ptr::without_provenance_mut(address), |found| {
                let symbol = Symbol {
                    name: found.name().map(|name| format!("{name:#}").into()),
                    file: found.filename().map(|file| file.to_string_lossy().into()),
                    line: found.lineno().unwrap_or(0),
                    column: found.colno().unwrap_or(0),
                    ..Symbol::default()
                };
                if symbol.name.as_deref().is_some_and(|name| name.starts_with("unfreed::dhat::ad_hoc::")) {
                    // `ad_hoc_event` and what it called; the last of them is shown, as in the dhat crate.
                    leaf = texts.len();
                }
                roles.push((role(symbol.name.as_deref(), symbol.file.as_deref(), None), number));
                texts.push(text(address, &symbol));
            });
            if texts.len() == first {
                roles.push((Role::Code, number));
                texts.push(text(address, &Symbol::default()));
            }
        }
        let roles = roles.get(leaf..).unwrap_or_default();
        let shown = texts.get(leaf..).and_then(|texts| texts.get(trim.shown(roles))).unwrap_or_default();
        shown.iter().map(|text| self.number(text)).collect()
    }

    fn number(&mut self, text: &str) -> usize {
        if let Some(&number) = self.numbers.get(text) {
            return number;
        }
        self.texts.push(text.to_owned());
        self.numbers.insert(text.to_owned(), self.texts.len() - 1);
        self.texts.len() - 1
    }
}

fn text(address: usize, symbol: &Symbol) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = write_frame(&mut text, address as u64, symbol);
    text
}

/// An ad hoc profile that ended.
pub(super) struct Finished {
    file: PathBuf,
    events: u64,
    units: u64,
    json: Json,
}

impl Finished {
    /// Writes the file and says so; what can't be written is said, too.
    pub(super) fn write(&self) {
        let (units, events) = (grouped(self.units), grouped(self.events));
        let path = self.file.display();
        let saved = match file::replace(&self.file, |file| file.write_all(self.json_text().as_bytes())) {
            Ok(()) => format!("Saved to {path}: load it in dh_view.html"),
            Err(error) => error.to_string(),
        };
        process::say(&format!("unfreed: Total: {units} units in {events} events\nunfreed: {saved}\n"));
    }

    /// The file's text.
    pub(super) fn json_text(&self) -> String {
        serde_json::to_string_pretty(&self.json).unwrap_or_default()
    }
}

#[derive(Serialize)]
struct Json {
    #[serde(rename = "dhatFileVersion")]
    version: u32,
    mode: &'static str,
    verb: &'static str,
    bklt: bool,
    bkacc: bool,
    bu: &'static str,
    bsu: &'static str,
    bksu: &'static str,
    tu: &'static str,
    #[serde(rename = "Mtu")]
    mtu: &'static str,
    cmd: String,
    pid: u32,
    te: u64,
    pps: Vec<Point>,
    ftbl: Vec<String>,
}

#[derive(Serialize)]
struct Point {
    tb: u64,
    tbk: u64,
    fs: Vec<usize>,
}
