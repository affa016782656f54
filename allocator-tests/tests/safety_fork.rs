//! Forked children leave the parent's profile alone, whatever they do, however they were made.

use std::process::Command;

use allocator_tests::runner::{SharedMemory, directory, run};

fn forks(mode: &str, slots: &str) {
    let place = directory(env!("CARGO_TARGET_TMPDIR"), &format!("safety_fork_{mode}_{slots}"));
    // Children that are killed leave their stores.
    let stores = SharedMemory::new(&format!("fork-{mode}-{slots}"));
    let mut command = Command::new(env!("CARGO_BIN_EXE_safety_fork"));
    command.arg(mode).env("UNFREED_SLOTS", slots).env("UNFREED_DIR", stores.path()).current_dir(place);
    run(&mut command, 300).expect_success();
}

#[test]
fn exact() {
    forks("exact", "on");
}

#[test]
fn sampled() {
    forks("fine", "on");
}

#[test]
fn exact_without_slots() {
    forks("exact", "off");
}

#[test]
fn sampled_without_slots() {
    forks("fine", "off");
}
