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

fn forks_unstarted(case: &str) {
    let place = directory(env!("CARGO_TARGET_TMPDIR"), &format!("safety_fork_unstarted_{case}"));
    let stores = SharedMemory::new(&format!("fork-unstarted-{case}"));
    let mut command = Command::new(env!("CARGO_BIN_EXE_safety_fork_unstarted"));
    command.arg(case).env("UNFREED_DIR", stores.path()).current_dir(place);
    run(&mut command, 260).expect_success();
}

#[test]
fn threads_of_an_unprofiled_parent_are_none_of_the_child() {
    forks_unstarted("threads");
}

#[test]
fn no_lock_of_an_unprofiled_parent_is_held_in_the_child() {
    forks_unstarted("churn");
}

#[test]
fn a_child_holds_what_its_parent_held() {
    forks_unstarted("totals");
    forks_unstarted("totals-started");
}
