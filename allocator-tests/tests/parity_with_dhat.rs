//! Exact mode is equal to the dhat crate: the same programs, compiled with each, leave the same figures.
//!
//! Compared are totals, figures at t-gmax and at t-end, bytes and blocks, of the whole program and of each site. Sites
//! are matched by the lines of the program's own source in their stacks, since two builds share no addresses;
//! points with equal lines are summed. Nothing here depends on chance but the seeds of `random`, which are printed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

#[path = "../src/parity/programs.rs"]
#[expect(dead_code, reason = "its names alone")]
mod programs;

/// tb, tbk, gb, gbk, eb, ebk.
type Figures = [u64; 6];

const KEYS: [&str; 6] = ["tb", "tbk", "gb", "gbk", "eb", "ebk"];

/// Figures by the lines of the program, leaf first.
type Sites = BTreeMap<Vec<String>, Figures>;

fn run(binary: &str, program: &str, seed: u64) -> Value {
    let name = format!("{}-{program}-{seed}.json", Path::new(binary).file_name().expect("a name").display());
    let file = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    let output = Command::new(binary).args([program, &seed.to_string()]).arg(&file).output().expect("runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{binary} {program} {seed}: {}\n{said}", output.status);
    let text = std::fs::read(&file).unwrap_or_else(|error| panic!("{}: {error}\n{said}", file.display()));
    serde_json::from_slice(&text).expect("JSON")
}

/// `0xADDR: name (…/src/parity/programs.rs:12:5)` is line 12 of the programs.
fn line_of_program(frame: &str) -> Option<String> {
    let (_, place) = frame.rsplit_once("parity/programs.rs:")?;
    place.split(':').next().map(str::to_owned)
}

fn sites(file: &Value) -> (Figures, Sites) {
    let frames: Vec<Option<String>> = file["ftbl"]
        .as_array()
        .expect("ftbl")
        .iter()
        .map(|frame| line_of_program(frame.as_str().expect("a string")))
        .collect();
    let mut all = Figures::default();
    let mut sites = Sites::new();
    for point in file["pps"].as_array().expect("pps") {
        let lines = point["fs"].as_array().expect("fs").iter();
        let lines = lines.filter_map(|i| frames[i.as_u64().expect("an index") as usize].clone()).collect();
        let site = sites.entry(lines).or_default();
        for (i, key) in KEYS.iter().enumerate() {
            let value = point[key].as_u64().expect("a number");
            site[i] += value;
            all[i] += value;
        }
    }
    (all, sites)
}

/// Runs `program` with both and compares; the number of sites.
fn compare(program: &str, seed: u64) -> usize {
    let (dhat_all, dhat) = sites(&run(env!("CARGO_BIN_EXE_parity_dhat"), program, seed));
    let (our_all, ours) = sites(&run(env!("CARGO_BIN_EXE_parity_unfreed"), program, seed));
    let mut differences = String::new();
    for lines in dhat.keys().chain(ours.keys().filter(|lines| !dhat.contains_key(*lines))) {
        let (theirs, our) = (dhat.get(lines), ours.get(lines));
        if theirs != our {
            differences += &format!("at lines {lines:?}:\n  dhat    {theirs:?}\n  unfreed {our:?}\n");
        }
    }
    assert!(
        differences.is_empty() && dhat_all == our_all,
        "{program} {seed}, {KEYS:?}:\n{differences}in all:\n  dhat    {dhat_all:?}\n  unfreed {our_all:?}"
    );
    assert!(dhat_all.iter().all(|&figure| figure > 0), "{program}: nothing to compare: {dhat_all:?}");
    println!("{program} {seed}: {} sites, {} blocks", dhat.len(), dhat_all[1]);
    dhat.len()
}

#[test]
fn vec_growth() {
    assert!(compare("vec_growth", 0) >= 4);
}

#[test]
fn strings() {
    assert!(compare("strings", 0) >= 6);
}

#[test]
fn nested_maps() {
    assert!(compare("nested_maps", 0) >= 5);
}

#[test]
fn box_churn() {
    assert!(compare("box_churn", 0) >= 5);
}

#[test]
fn threads() {
    assert!(compare("threads", 0) >= 4);
}

#[test]
fn shrink_and_zeroed() {
    assert!(compare("shrink_and_zeroed", 0) >= 4);
}

/// `UNFREED_TEST_LONG=1` runs a hundred scripts instead of six.
#[test]
fn random_scripts() {
    let seeds = if std::env::var_os("UNFREED_TEST_LONG").is_some() { 100 } else { 6 };
    for seed in 1..=seeds {
        println!("seed {seed}");
        assert!(compare("random", seed) >= 10);
    }
}

/// The mean of lifetimes is what the program knows to have passed, in both profilers; the kept block's lasts to the
/// profile's end.
#[test]
fn lifetimes() {
    let held = u64::try_from(programs::HELD.as_micros()).expect("small");
    for binary in [env!("CARGO_BIN_EXE_parity_dhat"), env!("CARGO_BIN_EXE_parity_unfreed")] {
        let file = run(binary, "lifetimes", 0);
        let end = file["te"].as_u64().expect("te");
        let of = |bytes: u64| {
            let points = file["pps"].as_array().expect("pps");
            let point = points.iter().find(|point| point["tb"] == bytes).expect("the block's point");
            point["tl"].as_u64().expect("tl")
        };
        let (kept, freed) = (of(1000), of(2000));
        // Half a millisecond for the clocks' rates, known to one part in ten thousand.
        assert!(kept + 500 >= 2 * held && kept <= end + 500, "{binary}: {kept} of {end} µs");
        assert!(freed + 500 >= held && freed + held <= kept + 500, "{binary}: {freed} and {kept} µs");
    }
}
