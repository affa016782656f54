//! A wrapped allocator that returns null: the program sees null, its blocks stay whole, the figures stay right.

use std::process::Command;

use allocator_tests::runner::{directory, run};

#[test]
fn refusals_are_passed_on_and_undone() {
    let place = directory(env!("CARGO_TARGET_TMPDIR"), "safety_null");
    for mode in ["exact", "fine"] {
        for slots in ["on", "off"] {
            let mut command = Command::new(env!("CARGO_BIN_EXE_safety_null"));
            let outcome = run(command.arg(mode).env("UNFREED_SLOTS", slots).current_dir(&place), 60);
            assert!(outcome.status.success() && !outcome.hung, "{mode}, slots {slots}: {outcome}");
        }
    }
}
