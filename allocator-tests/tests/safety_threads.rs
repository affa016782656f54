//! Whatever threads do, nothing crashes, hangs or loses a count.

use std::process::Command;

use allocator_tests::runner::{directory, run};

fn case(name: &str) {
    case_in(name, &["exact", "fine", "governed"]);
}

fn case_in(name: &str, modes: &[&str]) {
    let place = directory(env!("CARGO_TARGET_TMPDIR"), &format!("safety_threads_{name}"));
    for mode in modes {
        for slots in ["on", "off"] {
            let mut command = Command::new(env!("CARGO_BIN_EXE_safety_threads"));
            let outcome = run(command.args([mode, name]).env("UNFREED_SLOTS", slots).current_dir(&place), 90);
            assert!(outcome.status.success() && !outcome.hung, "{mode}, slots {slots}: {outcome}");
        }
    }
}

#[test]
fn destructors() {
    case("destructors");
}

#[test]
fn two_thousand() {
    case_in("two-thousand", &["exact", "fine"]);
}

#[test]
fn ten_thousand() {
    case_in("ten-thousand", &["exact", "fine"]);
}

#[test]
fn only_frees() {
    case("only-frees");
}

#[test]
fn panics() {
    case_in("panics", &["exact", "fine"]);
}

#[test]
fn start_stop() {
    case_in("start-stop", &["all"]);
}

#[test]
fn drop_order() {
    case("drop-order");
}

#[test]
fn own_starts() {
    case_in("own-starts", &["exact", "governed"]);
}

#[test]
fn stuck() {
    case_in("stuck", &["exact", "fine"]);
}
