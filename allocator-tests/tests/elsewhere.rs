//! Where unfreed profiles nothing, a program that uses it builds, runs, and is told so.
//!
//! `--cfg unfreed_unsupported` makes this machine such a target, so that the program (`elsewhere/src/main.rs`) can run; and
//! the library is checked for those other targets whose standard library is installed.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

#[global_allocator]
static ALLOC: unfreed::Alloc = unfreed::Alloc::system();

/// Targets that are not profiled: another system, another with other paths and files, another word size. And one that is,
/// by another C library than this machine's.
const OTHERS: [&str; 4] =
    ["x86_64-apple-darwin", "x86_64-pc-windows-gnu", "i686-unknown-linux-gnu", "x86_64-unknown-linux-musl"];

/// A Cargo whose output has a directory of its own: other flags would make the common one build everything anew.
fn cargo(flags: &str) -> (Command, PathBuf) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("allocator-tests lies in the workspace");
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("elsewhere");
    let mut cargo = Command::new(env!("CARGO"));
    cargo
        .current_dir(root)
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env("RUSTFLAGS", flags)
        .env("CARGO_TARGET_DIR", &target);
    (cargo, target)
}

fn text(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr))
}

/// A store with what this process allocates, and its totals: blocks, bytes, sites.
fn store() -> (PathBuf, String) {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("elsewhere-{}.unfreed", std::process::id()));
    let profiler = unfreed::Profiler::builder().exact().store(&path).keep_store().no_output().quiet().start();
    let profiler = profiler.expect("this target is profiled");
    let kept: Vec<Vec<u8>> = (1..100).map(|size| vec![1; size]).collect();
    drop(profiler);
    drop(kept);
    let snapshot = unfreed::Store::open(&path).expect("a store").snapshot();
    let totals = snapshot.totals();
    assert!(totals.total_blocks >= 100 && snapshot.sites().len() > 0, "{totals:?}");
    let figures = format!(
        "store: {} blocks, {} bytes, {} sites",
        totals.total_blocks,
        totals.total_bytes,
        snapshot.sites().len()
    );
    (path, figures)
}

const UNSUPPORTED: &str =
    "unsupported here: unfreed profiles Linux on x86-64 and aarch64; memory is served on, nothing is recorded";

#[test]
fn a_program_is_served_and_told() {
    let (mut cargo, target) = cargo("--cfg unfreed_unsupported");
    let built = cargo.args(["build", "--quiet", "--locked", "--package", "elsewhere"]).output().expect("cargo runs");
    let (_, said) = text(&built);
    assert!(built.status.success(), "{said}");
    assert!(!said.contains("warning"), "{said}");

    let (path, figures) = store();
    for (asked, answer) in [(None, "nothing asked for"), (Some("sampled"), UNSUPPORTED)] {
        let mut program = Command::new(target.join("debug/elsewhere"));
        program.arg(&path).current_dir(env!("CARGO_TARGET_TMPDIR")).env_remove("UNFREED");
        program.envs(asked.map(|value| ("UNFREED", value)));
        let ran = program.output().expect("it runs");
        let (out, err) = text(&ran);
        assert!(ran.status.success(), "{}\n{out}{err}", ran.status);
        let expected = [
            format!("start: {UNSUPPORTED}"),
            format!("from_env: {answer}"),
            format!("assert_no_leaks!: the exact profile could not be started: {UNSUPPORTED}"),
            figures.clone(),
            "served".to_owned(),
        ];
        assert_eq!(out.lines().collect::<Vec<_>>(), expected);
        // The panic's own lines apart, dhat's names alone have something to say.
        let ours: Vec<_> = err.lines().filter(|line| line.starts_with("unfreed:")).collect();
        assert_eq!(ours, [format!("unfreed: no heap profile: {UNSUPPORTED}")], "{err}");
    }
    std::fs::remove_file(path).expect("ours");
}

#[test]
fn the_library_builds_for_other_targets() {
    let mut rustc = Command::new("rustc");
    let (root, _) = text(&rustc.args(["--print", "sysroot"]).output().expect("rustc runs"));
    let is_here = |target: &str| Path::new(root.trim()).join("lib/rustlib").join(target).join("lib").is_dir();
    let (here, missing): (Vec<&str>, Vec<&str>) = OTHERS.into_iter().partition(|target| is_here(target));
    for target in missing {
        println!("{target}: not checked, its standard library is not here ('rustup target add {target}')");
    }
    let check = |targets: &[&str]| {
        let (mut cargo, _) = cargo("-D warnings");
        cargo.args(["check", "--quiet", "--locked", "--package", "unfreed"]);
        let checked = cargo.args(targets.iter().flat_map(|target| ["--target", target])).output().expect("cargo runs");
        (checked.status.success(), text(&checked).1)
    };
    // All at once, which takes half the time; one by one where something is wrong, to say where.
    if here.is_empty() || check(&here).0 {
        return;
    }
    for target in here {
        let (checked, said) = check(&[target]);
        assert!(checked, "{target}:\n{said}");
    }
    panic!("each checks by itself, and not all at once");
}
