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
use crate::leak::{LeakReport, Memory};
use crate::report::points::{Point, Points, whole};
use crate::report::summary::grouped;
use crate::report::{Estimate, HistoryPoint, Losses, Mode, Module, ProcessState, Snapshot, Totals};
use crate::store::picture::Picture;

/// Nanoseconds in the file's unit of time.
const NS_PER_US: u64 = 1000;
/// Lifetimes up to this many µs are 'short' in dh_view, as in the dhat crate's files.
const SHORT_LIFETIME_US: u64 = 10;
/// Changes when a reader of the `unfreed` block has to.
const BLOCK_VERSION: u32 = 2;

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
    write_points(snapshot, &Points::of(snapshot), writer)
}

/// Writes a snapshot whose points are at hand to a file, as [`Snapshot::write_dhat_file`] does.
pub(crate) fn write_file(snapshot: &Snapshot, points: &Points<'_>, path: &Path) -> Result<(), FileError> {
    file::replace(path, |out| write_points(snapshot, points, out))
}

fn write_points(snapshot: &Snapshot, points: &Points<'_>, writer: impl Write) -> io::Result<()> {
    let _inside = crate::hook::inside();
    let mut out = io::BufWriter::with_capacity(64 * 1024, writer);
    let picture = &snapshot.picture;
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
    serde_json::to_writer(&mut out, &Block::of(snapshot, points))?;
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
struct ProgramPoint<'a> {
    tb: u64,
    tbk: u64,
    tl: u64,
    mb: u64,
    mbk: u64,
    gb: u64,
    gbk: u64,
    eb: u64,
    ebk: u64,
    #[serde(serialize_with = "numbers")]
    fs: &'a [u32],
}

impl ProgramPoint<'_> {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "rounded; such a cast saturates")]
    #[expect(clippy::cast_precision_loss, reason = "a constant of four digits")]
    fn of<'a>(point: &'a Point, picture: &Picture) -> ProgramPoint<'a> {
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
            fs: &point.frames,
        }
    }
}

/// Indices of frames in `ftbl`, where 0 is the root.
fn numbers<S: serde::Serializer>(frames: &&[u32], out: S) -> Result<S::Ok, S::Error> {
    out.collect_seq(frames.iter().map(|&number| u64::from(number) + 1))
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
    /// Where resident memory is.
    memory: Memory,
    /// What the sites' figures sum to.
    attributed: Attributed,
    /// The highest that the sites' live bytes summed to, and the blocks then.
    attributed_peak_bytes: u64,
    attributed_peak_blocks: u64,
    losses: Losses,
    unwinder: &'a str,
    modules: Vec<Module>,
    /// 95% intervals of the points' figures, in the order of `pps`; in exact mode there are none.
    #[serde(skip_serializing_if = "Option::is_none")]
    intervals: Option<Intervals<'a>>,
    /// Indices of points whose figures are not known, since records were lost.
    unknown: Vec<usize>,
    history: Vec<HistoryPoint>,
    /// Verdicts, at the end of a profile; frames are indices into `ftbl`. (Written out, they were four fifths of large files.)
    #[serde(skip_serializing_if = "Option::is_none")]
    leaks: Option<LeakReport<u32>>,
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
        let unseen = snapshot.unseen(&total);
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
            memory: snapshot.memory(),
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
            attributed_peak_bytes: snapshot.picture.peak_whole().0,
            attributed_peak_blocks: snapshot.picture.peak_whole().1,
            // 0 is the root.
            leaks: points.leaks.as_ref().map(|leaks| leaks.with_frames(|number| number + 1)),
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

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use serde_json::Value;

    use super::*;
    use crate::report::synthetic::{Builder, SHAPES, snapshot};
    use crate::report::trim::Trim;
    use crate::units::FrameKey;

    fn dump(snapshot: &Snapshot) -> Value {
        let mut bytes = Vec::new();
        snapshot.write_dhat(&mut bytes).expect("a Vec takes everything");
        serde_json::from_slice(&bytes).expect("JSON")
    }

    /// Every rule by which dh_view takes or refuses a file, and those that keep it from showing nonsense.
    fn fault(file: &Value) -> Option<String> {
        let top = file.as_object()?;
        for key in [
            "dhatFileVersion",
            "mode",
            "verb",
            "bklt",
            "bkacc",
            "tu",
            "Mtu",
            "cmd",
            "pid",
            "te",
            "pps",
            "ftbl",
            "tg",
            "tuth",
        ] {
            if !top.contains_key(key) {
                return Some(format!("no {key}"));
            }
        }
        if top.contains_key("bu") && !(top.contains_key("bsu") && top.contains_key("bksu")) {
            return Some("bu alone".into());
        }
        let fixed = file["dhatFileVersion"] == 2 && file["bklt"] == true && file["bkacc"] == false;
        if !fixed || file["tu"] != "µs" || file["Mtu"] != "s" {
            return Some("a fixed field differs".into());
        }
        if !["mode", "verb", "cmd"].iter().all(|key| file[key].is_string()) || !file["pid"].is_u64() {
            return Some("a header field is of the wrong type".into());
        }
        let (Some(te), Some(tg)) = (file["te"].as_u64(), file["tg"].as_u64()) else { return Some("te or tg".into()) };
        if te == 0 || tg > te || !file["tuth"].is_u64() {
            return Some(format!("te {te}, tg {tg}"));
        }
        let frames = file["ftbl"].as_array()?;
        if frames.first()? != "[root]" || !frames.iter().all(Value::is_string) {
            return Some("ftbl".into());
        }
        let mut seen = HashSet::new();
        for point in file["pps"].as_array()? {
            for key in ["tb", "tbk", "tl", "mb", "mbk", "gb", "gbk", "eb", "ebk"] {
                if !point[key].is_u64() {
                    return Some(format!("{key} of {point} is no whole number"));
                }
            }
            let at_most = |a: &str, b: &str| point[a].as_u64() <= point[b].as_u64();
            if !(at_most("mb", "tb") && at_most("eb", "mb") && at_most("gb", "mb") && at_most("ebk", "tbk")) {
                return Some(format!("{point} has more live than it had in total"));
            }
            let Some(list) = point["fs"].as_array() else { return Some("fs is no array".into()) };
            if !list.iter().all(|i| i.as_u64().is_some_and(|i| i > 0 && i < frames.len() as u64)) {
                return Some(format!("fs {list:?} of {} frames", frames.len()));
            }
            if !seen.insert(list.clone()) {
                return Some(format!("repeated location {list:?}"));
            }
        }
        None
    }

    #[test]
    fn every_shape_is_valid() {
        for shape in SHAPES {
            let snapshot = snapshot(shape).expect("a known shape");
            let file = dump(&snapshot);
            assert_eq!(fault(&file), None, "{shape}");
            let points = file["pps"].as_array().expect("pps");
            let sum = |key: &str| points.iter().map(|point| point[key].as_u64().unwrap_or(0)).sum::<u64>();
            let totals = snapshot.totals();
            assert_eq!(file["unfreed"]["totals"]["live_bytes"], totals.live_bytes);
            // The made-up exact totals are the estimates' sums, each rounded.
            assert!(sum("eb").abs_diff(totals.live_bytes) <= 2 * points.len() as u64, "{shape}");
            if snapshot.mode() == Mode::Exact {
                assert_eq!(
                    (sum("tb"), sum("tbk"), sum("ebk")),
                    (totals.total_bytes, totals.total_blocks, totals.live_blocks)
                );
            }
        }
    }

    #[test]
    fn the_validator_finds_each_fault() {
        let good = dump(&snapshot("exact").expect("known"));
        let spoil = |change: &dyn Fn(&mut Value)| {
            let mut file = good.clone();
            change(&mut file);
            fault(&file)
        };
        for key in ["te", "ftbl", "verb", "tg", "mode"] {
            assert!(spoil(&|file| drop(file.as_object_mut().unwrap().remove(key))).is_some(), "{key}");
        }
        assert!(spoil(&|file| file["te"] = 0.into()).is_some());
        assert!(spoil(&|file| file["bu"] = "unit".into()).is_some());
        assert!(spoil(&|file| file["pps"][0]["eb"] = 1.5.into()).is_some());
        assert!(spoil(&|file| file["pps"][0]["fs"] = file["pps"][1]["fs"].clone()).is_some());
        assert!(spoil(&|file| file["pps"][0]["fs"] = vec![9999].into()).is_some());
        assert!(spoil(&|file| file["ftbl"][0] = "root".into()).is_some());
    }

    #[test]
    fn a_sampled_file_says_so_and_has_intervals() {
        let file = dump(&snapshot("sampled").expect("known"));
        assert!(file["mode"].as_str().unwrap().contains("ESTIMATES"));
        assert_eq!(file["verb"], "Allocated (estimated)");
        assert_eq!(file["unfreed"]["sample_interval_bytes"], 65_536);
        let rows = file["unfreed"]["intervals"]["rows"].as_array().expect("rows");
        let points = file["pps"].as_array().expect("pps");
        assert_eq!(rows.len(), points.len());
        for (row, point) in rows.iter().zip(points) {
            for (i, key) in ["tb", "gb", "eb", "ebk"].into_iter().enumerate() {
                let (low, value, high) = (row[2 * i].as_u64(), point[key].as_u64(), row[2 * i + 1].as_u64());
                assert!(low <= value && value <= high && low < high, "{key}: {low:?} {value:?} {high:?}");
            }
        }
        let exact = dump(&snapshot("exact").expect("known"));
        assert_eq!((&exact["mode"], &exact["verb"]), (&"rust-heap".into(), &"Allocated".into()));
        assert!(exact["unfreed"]["intervals"].is_null());
    }

    #[test]
    fn losses_and_unknown_points_are_told() {
        let snapshot = snapshot("unknown").expect("known");
        let file = dump(&snapshot);
        assert!(file["mode"].as_str().unwrap().contains("INCOMPLETE: 7 records"));
        assert_eq!(file["unfreed"]["losses"]["dropped_records"], 7);
        let unknown = file["unfreed"]["unknown"].as_array().expect("unknown");
        assert_eq!(unknown.len(), snapshot.sites().filter(|site| site.is_unknown()).count());
        assert_eq!(unknown.len(), 7);
    }

    /// One name for many addresses, hidden and shown, so that most stacks become equal once trimmed.
    #[test]
    fn points_that_trimming_makes_equal_are_merged() {
        let mut builder = Builder::new(0);
        let module = builder.module("/opt/app", &[1; 20], 0x1000, 0x9000);
        for i in 0..300 {
            // Leaf: one of 100 library addresses; then one of 3 of the program's; then main and the runtime.
            let frames = [0x2000 + i % 100, 0x30 + i % 3, 0x20, 0x3000].map(|offset| FrameKey::new(module, offset));
            builder.site(&frames, 10, 2, 1);
        }
        let name =
            |offset| Some(if offset >= 0x2000 { "alloc::vec::grow".into() } else { format!("app::f{offset:x}") });
        let picture = builder.picture.clone();
        let trimmed = Snapshot::from_picture(builder.picture);
        trimmed.name_frames(name);
        let file = dump(&trimmed);
        assert_eq!(fault(&file), None);
        assert_eq!(file["pps"].as_array().map(Vec::len), Some(3));
        for point in file["pps"].as_array().expect("pps") {
            assert_eq!((&point["eb"], &point["tbk"]), (&2000.into(), &300.into()));
        }
        let whole = Snapshot::trimmed(picture, Trim::from_dhat(None));
        whole.name_frames(name);
        let file = dump(&whole);
        assert_eq!(fault(&file), None);
        assert_eq!(file["pps"].as_array().map(Vec::len), Some(300));
    }

    #[test]
    fn lifetimes_are_sums_in_microseconds() {
        let mut builder = Builder::new(0);
        let module = builder.module("/opt/app", &[1; 20], 0, 0x9000);
        // 4 blocks freed after 1 ms each; 3 alive, born at 1 s of 12.345678901 s.
        builder.site(&[FrameKey::new(module, 1)], 100, 3, 4);
        let snapshot = Snapshot::from_picture(builder.picture);
        let file = dump(&snapshot);
        assert_eq!(file["pps"][0]["tl"], 4_000 + 34_037_037);
        let mean = snapshot.site(0).mean_lifetime().expect("blocks").as_nanos();
        assert!(mean.abs_diff((4_000_000 + 3 * 11_345_678_901) / 7) < 10, "{mean}");
    }

    /// The whole of a small file, as a person may meet it.
    #[test]
    fn one_point_byte_for_byte() {
        let mut bytes = Vec::new();
        snapshot("one").expect("known").write_dhat(&mut bytes).expect("a Vec takes everything");
        let text = String::from_utf8(bytes).expect("UTF-8");
        let expected = r#"{"dhatFileVersion":2,"mode":"rust-heap","verb":"Allocated","bklt":true,"bkacc":false,"tu":"µs","Mtu":"s","tuth":10,"cmd":"program --with 'arguments'","pid":4242,"tg":6000000,"te":12345678,
"pps":[
{"tb":700,"tbk":7,"tl":34041037,"mb":700,"mbk":7,"gb":300,"gbk":3,"eb":300,"ebk":3,"fs":[1,2]}
],
"ftbl":[
"[root]",
"0x555500000010: app::outer_10 (app/src/lib.rs:16:5)",
"0x555500000020: app::outer_20 (app/src/lib.rs:32:5)"
],
"unfreed":{"version":2,"mode":"exact","sample_interval_bytes":0,"sample_interval_fixed":false,"process":"running","#;
        assert!(text.starts_with(expected), "{text}");
        assert!(text.ends_with("}\n"));
    }

    #[test]
    fn a_writer_that_fails_is_reported() {
        struct Full;
        impl Write for Full {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::StorageFull.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let error = snapshot("exact").expect("known").write_dhat(Full).expect_err("full");
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    }

    #[test]
    #[ignore = "a measurement"]
    fn measure_100_000_sites() {
        let mut builder =
            Builder::new(std::env::var("UNFREED_BENCH_INTERVAL").map_or(0, |n| n.parse().expect("bytes")));
        let module = builder.module("/opt/app", &[1; 20], 0, 1 << 40);
        for i in 0..100_000u64 {
            let frames: Vec<_> = (0..20u64)
                .map(|depth| FrameKey::new(module, 1 + depth * 100_000 + i / 3u64.pow(u32::try_from(depth).unwrap())))
                .collect();
            builder.site(&frames, 16 + i % 3000, i % 7, 1);
        }
        let snapshot = Snapshot::from_picture(builder.picture);
        snapshot.name_frames(|offset| Some(format!("some_crate::module::function_number_{offset}")));
        let start = std::time::Instant::now();
        let mut counter = Counter(0);
        snapshot.write_dhat(&mut counter).expect("counted");
        println!("100,000 sites of 20 frames: {} bytes in {:?}", counter.0, start.elapsed());
        let start = std::time::Instant::now();
        let text = crate::report::summary::Summary { snapshot: &snapshot, points: &Points::of(&snapshot), saved: None }
            .to_string();
        println!("summary of {} bytes in {:?}", text.len(), start.elapsed());
    }

    struct Counter(usize);
    impl Write for Counter {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
}
