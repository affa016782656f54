//! Files of every mode and shape, opened in Valgrind's dh_view in real Chromium.
//!
//! Fails where node, Chromium or dh_view is not installed, naming what is missing: a check that passes by not
//! looking is none. `allocator-tests/browser/check.mjs` is the driver; it needs `playwright-core`, which `npm ci`
//! puts beside it when it is not there.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn browser_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("browser")
}

/// Runs a command to its end; its output where it failed.
fn run(command: &mut Command, what: &str) -> Result<String, String> {
    let output = command.output().map_err(|error| format!("{what} is missing or cannot run: {error}"))?;
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if output.status.success() { Ok(text) } else { Err(format!("{what}: {}\n{text}", output.status)) }
}

fn install_playwright() {
    if browser_dir().join("node_modules/playwright-core/package.json").exists() {
        return;
    }
    let mut npm = Command::new("npm");
    npm.args(["ci", "--no-audit", "--no-fund"]).current_dir(browser_dir());
    run(&mut npm, "npm (Debian: 'apt-get install npm')").expect("playwright-core installs");
}

/// Writes the named shapes to a directory of their own.
fn write_files(directory: &Path, shapes: &[&str]) -> Vec<PathBuf> {
    fs::create_dir_all(directory).expect("a directory for test files");
    let write = |shape: &&str| {
        let path = directory.join(format!("{shape}.json"));
        fs::write(&path, unfreed::synthetic::dhat_file(shape).expect("a known shape")).expect("a written file");
        path
    };
    shapes.iter().map(write).collect()
}

fn check(files: &[PathBuf], arguments: &[&str]) -> Result<String, String> {
    let mut node = Command::new("node");
    node.arg(browser_dir().join("check.mjs")).args(files).args(arguments);
    run(&mut node, "node (Debian: 'apt-get install nodejs')")
}

fn directory(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("dh_view").join(name)
}

/// One test, so that one browser runs at a time.
#[test]
fn dh_view_opens_every_shape() {
    install_playwright();

    let all = write_files(&directory("shapes"), unfreed::synthetic::shapes());
    for metric in ["end", "total", "gmax"] {
        let report = check(&all, &["--metric", metric]).expect("dh_view opens every file");
        assert_eq!(report.matches("loaded").count(), all.len(), "{report}");
    }

    let sampled = write_files(&directory("sampled"), &["sampled"]);
    let picture = directory("sampled").join("page.png");
    let _ = fs::remove_file(&picture);
    let chain = "app::allocate_100f,app::middle_100,app::outer_11,app::main";
    let shown = ["--contains", "all figures below are ESTIMATES", "--contains", "Allocated (estimated) at {"];
    let mut arguments = vec!["--metric", "end", "--chain", chain, "--screenshot", picture.to_str().expect("UTF-8")];
    arguments.extend(shown);
    check(&sampled, &arguments).expect("the chain is shown, marked as estimated");
    assert!(fs::metadata(&picture).expect("a screenshot").len() > 10_000, "an empty screenshot");

    let names = write_files(&directory("names"), &["names"]);
    let shown =
        ["--contains", "quoted \"name\" \\ back", "--contains", "<html>&amp;</script>", "--contains", "函数::🦀"];
    check(&names, &shown).expect("names are shown as they are");
}

/// The checker must be able to fail: on a missing chain, a wrong order, a refused file.
#[test]
fn the_checker_finds_faults() {
    install_playwright();
    let files = write_files(&directory("faults"), &["exact"]);
    let absent = check(&files, &["--chain", "app::allocate_100f,app::nowhere"]).expect_err("no such chain");
    assert!(absent.contains("no branch has"), "{absent}");
    let reversed = check(&files, &["--chain", "app::main,app::middle_100"]).expect_err("the wrong way round");
    assert!(reversed.contains("no branch has"), "{reversed}");

    let text = fs::read_to_string(&files[0]).expect("a written file");
    let point = text.lines().find(|line| line.starts_with("{\"tb\"")).expect("a point").trim_end_matches(',');
    let repeated = directory("faults").join("repeated.json");
    fs::write(&repeated, text.replacen("\"pps\":[", &format!("\"pps\":[{point},"), 1)).expect("a written file");
    let refused = check(&[repeated], &[]).expect_err("a repeated location");
    assert!(refused.contains("repeated location"), "{refused}");
}
