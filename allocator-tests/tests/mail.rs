//! The main job: the mail example runs as a user runs it, and its profile shows the report's leak.
//!
//! The five largest groups of sites at the end are the report's, in chains from the function that allocated up to
//! `start_background_sync`; once in the JSON, and once as a person sees them, in dh_view in real Chromium.
//!
//! Twice: exactly, where the ranking is the truth, and sampled, as it is by default. The messages' seed is fixed; the
//! samples' is not, so the sampled run is asked only for the four groups of 72 to 91 MB, each more than 60 samples at
//! the widest interval to be expected (1 MiB): fewer than a quarter of them would have to come for it to fail, under
//! one in a million.
//!
//! `UNFREED_SCREENSHOT=1` puts the picture of dh_view where the README shows it.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The report's groups, by the first of a site's frames that names one. Innermost frames come first.
const GROUPS: [(&str, &str); 5] = [
    ("decode_base64_mime", "base64 decoding"),
    ("decode_quoted_printable_mime", "quoted-printable decoding"),
    ("byte_pool::pool", "byte pool"),
    ("parse_mime_content", "MIME parsing"),
    ("email::Email as core::convert::From<async_imap::types::fetch::Fetch>>::from", "Email objects"),
];

/// From here on every chain is the same: the service's own functions, innermost first.
const SERVICE: [&str; 4] = ["fetch_emails", "sync_folder_with_limit", "sync_all_folders", "start_background_sync"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("allocator-tests lies in the workspace")
}

fn run(command: &mut Command, what: &str) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{what} is missing or cannot run: {error}"));
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{what}: {}\n{text}", output.status);
    text
}

/// Builds the example as its README says and runs it in `directory`; the profile, and what it printed.
fn profile(directory: &Path, options: &[&str]) -> (PathBuf, String) {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.current_dir(root()).args(["build", "--release", "--quiet", "-p", "rustymail", "--features", "heap-profile"]);
    run(&mut cargo, "cargo build");
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("tmp lies in the target directory");
    let file = directory.join("rustymail.json");
    let _ = fs::remove_file(&file);
    // Named as the README's reader would see it, so that the screenshot shows no path of this machine.
    let mut example = Command::new(target.join("release/rustymail"));
    let printed = run(
        example
            .arg0("target/release/rustymail")
            .current_dir(directory)
            .args(["--output", "rustymail.json"])
            .args(options),
        "rustymail",
    );
    (file, printed)
}

fn directory(name: &str) -> PathBuf {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("mail").join(name);
    fs::create_dir_all(&directory).expect("a directory for the profile");
    directory
}

/// One test, so that one run and one browser work at a time.
#[test]
fn the_largest_groups_are_the_reports() {
    let report = ["base64 decoding", "Email objects", "MIME parsing", "byte pool", "quoted-printable decoding"];

    let exact = directory("exact");
    let (file, _) = profile(&exact, &["--exact"]);
    every_byte_of_an_exact_run_has_a_site(&file);
    let ranked = in_the_file(&file);
    let names: Vec<&str> = ranked.iter().take(5).map(|(name, _)| *name).collect();
    assert_eq!(names[0], report[0], "{ranked:?}");
    assert_eq!(names[4], report[4], "{ranked:?}");
    // Those between hold 72, 74 and 79 MB.
    assert!(report.iter().all(|group| names.contains(group)), "{ranked:?}");
    in_the_browser(&file, &CHAINS, &exact.join("dh_view.png"));

    let sampled = directory("sampled");
    let (file, printed) = profile(&sampled, &[]);
    assert!(printed.contains("dh_view.html"), "no line says how to open the file:\n{printed}");
    let ranked = in_the_file(&file);
    let names: Vec<&str> = ranked.iter().take(4).map(|(name, _)| *name).collect();
    assert!(report[..4].iter().all(|group| names.contains(group)), "{ranked:?}");
    let picture = if std::env::var_os("UNFREED_SCREENSHOT").is_some() {
        root().join("docs/images/dh_view.png")
    } else {
        sampled.join("dh_view.png")
    };
    in_the_browser(&file, &CHAINS[..4], &picture);
}

/// The counters of the hot path and the sites of the records are two ways to the same sums.
fn every_byte_of_an_exact_run_has_a_site(file: &Path) {
    let profile: serde_json::Value = serde_json::from_slice(&fs::read(file).expect("a profile")).expect("JSON");
    let points = profile["pps"].as_array().expect("points");
    let sum = |key: &str| points.iter().filter_map(|point| point[key].as_u64()).sum::<u64>();
    let totals = &profile["unfreed"]["totals"];
    for (key, name) in [("eb", "live_bytes"), ("ebk", "live_blocks"), ("tb", "total_bytes"), ("tbk", "total_blocks")] {
        assert_eq!(Some(sum(key)), totals[name].as_u64(), "{name}");
    }
    assert!(totals["total_blocks"].as_u64() > Some(300_000), "{totals}");
}

/// Checks every group's largest chain; the groups with their bytes at t-end, largest first.
fn in_the_file(file: &Path) -> Vec<(&'static str, u64)> {
    let profile: serde_json::Value = serde_json::from_slice(&fs::read(file).expect("a profile")).expect("JSON");
    let table: Vec<&str> =
        profile["ftbl"].as_array().expect("frames").iter().filter_map(|frame| frame.as_str()).collect();
    let mut groups: BTreeMap<&'static str, u64> = BTreeMap::new();
    let mut largest: BTreeMap<&'static str, (u64, Vec<&str>)> = BTreeMap::new();
    let mut total = 0;
    for point in profile["pps"].as_array().expect("points") {
        let bytes = point["eb"].as_u64().expect("bytes at t-end");
        let indices = point["fs"].as_array().expect("a stack").iter().filter_map(serde_json::Value::as_u64);
        let frames: Vec<&str> = indices.map(|index| table[usize::try_from(index).expect("an index")]).collect();
        let named = frames.iter().find_map(|frame| GROUPS.iter().find(|(part, _)| frame.contains(part)));
        let name = named.map_or("other", |(_, name)| name);
        total += bytes;
        *groups.entry(name).or_default() += bytes;
        let best = largest.entry(name).or_default();
        if bytes > best.0 {
            *best = (bytes, frames);
        }
    }
    let mut ranked: Vec<(&str, u64)> = groups.iter().map(|(name, bytes)| (*name, *bytes)).collect();
    ranked.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
    println!("{ranked:?}");
    assert!(
        groups.get("other").copied().unwrap_or(0) * 20 < total,
        "over a twentieth has no name in the report: {ranked:?}"
    );

    for (name, (bytes, frames)) in largest.iter().filter(|(name, _)| **name != "other") {
        let positions = SERVICE.map(|function| frames.iter().position(|frame| frame.contains(function)));
        assert!(positions.iter().all(Option::is_some), "{name}, {bytes} bytes: the chain has gaps: {frames:#?}");
        assert!(positions.is_sorted(), "{name}, {bytes} bytes: the chain is out of order: {frames:#?}");
        let readable = |frame: &&str| frame.contains(".rs:") && !frame.contains("???");
        assert!(
            frames[..positions[3].expect("found")].iter().all(readable),
            "{name}: frames without source: {frames:#?}"
        );
    }
    ranked
}

/// One chain a group, as dh_view has to show it from the function that allocated down to the service's own, which every
/// chain ends with: enough of the way that no other group has it.
const CHAINS: [&str; 5] = [
    "decode_base64_mime,parse_,Email::parse_mime_content,email::Email as core::convert::From",
    "email::part_tree,Email::parse_mime_content,email::Email as core::convert::From",
    "email::Email as core::convert::From",
    "byte_pool::pool,async_imap::imap_stream::Buffer",
    "decode_quoted_printable_mime,parse_,Email::parse_mime_content,email::Email as core::convert::From",
];

fn in_the_browser(file: &Path, chains: &[&str], picture: &Path) {
    let browser = Path::new(env!("CARGO_MANIFEST_DIR")).join("browser");
    if !browser.join("node_modules/playwright-core/package.json").exists() {
        run(Command::new("npm").args(["ci", "--no-audit", "--no-fund"]).current_dir(&browser), "npm (Debian: npm)");
    }
    let mut node = Command::new("node");
    node.arg(browser.join("check.mjs")).arg(file).args(["--metric", "end", "--screenshot"]).arg(picture);
    for chain in chains {
        node.arg("--chain").arg(format!("{chain},{}", SERVICE.join(",")));
    }
    let report = run(&mut node, "node (Debian: nodejs)");
    assert_eq!(report.matches("loaded").count(), 1, "{report}");
    assert!(fs::metadata(picture).expect("a screenshot").len() > 10_000, "an empty screenshot");
}
