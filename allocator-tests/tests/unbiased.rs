//! Estimates are unbiased and their intervals honest, through the real hook: see `src/bin/unbiased_rounds.rs` for what is
//! checked and how often it may fail by chance (at these seeds: never).
//!
//! `UNFREED_TEST_LONG=1 cargo test --test unbiased -- --nocapture` runs fifteen times as many rounds, at three seeds.

use std::process::Command;

fn run(scenario: &str, rounds: u32) {
    let long = std::env::var_os("UNFREED_TEST_LONG").is_some();
    let (rounds, seeds) = if long { (rounds * 5, 3) } else { (rounds, 1) };
    for seed in 1..=seeds {
        println!("{}", output(scenario, rounds, seed));
    }
}

fn output(scenario: &str, rounds: u32, seed: u32) -> String {
    let (table, faults) = try_output(scenario, rounds, seed);
    assert_eq!(faults, None, "{table}");
    table
}

/// The program's table, and what it complained of.
fn try_output(scenario: &str, rounds: u32, seed: u32) -> (String, Option<String>) {
    let mut program = Command::new(env!("CARGO_BIN_EXE_unbiased_rounds"));
    let output = program.args([scenario, &rounds.to_string(), &seed.to_string()]).output().expect("runs");
    let table = String::from_utf8_lossy(&output.stdout).into_owned();
    let faults = (!output.status.success()).then(|| String::from_utf8_lossy(&output.stderr).into_owned());
    (table, faults)
}

#[test]
fn small_blocks() {
    run("small", 100);
}

#[test]
fn large_blocks() {
    run("large", 100);
}

#[test]
fn reallocated_blocks() {
    run("realloc", 100);
}

#[test]
fn blocks_that_grow_where_nothing_else_is_allocated() {
    run("alone", 1000);
}

#[test]
fn intervals_that_change() {
    run("changing", 100);
}

/// What 'never by chance' rests on: a seed gives the same estimates to the last bit.
#[test]
fn a_seed_repeats_itself() {
    // Two rounds are too few to judge, and enough to compare.
    let table = |seed| try_output("realloc", 2, seed).0;
    let first = table(7);
    assert!(first.contains("checksum"));
    assert_eq!(first, table(7));
    assert_ne!(first.lines().skip(1).collect::<String>(), table(8).lines().skip(1).collect::<String>());
}
