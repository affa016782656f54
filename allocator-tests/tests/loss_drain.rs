//! Nothing is lost silently, and no free becomes a leak, while nobody drains.

use std::process::Command;

use allocator_tests::runner::{directory, run};

fn loss(case: &str) {
    let place = directory(env!("CARGO_TARGET_TMPDIR"), &format!("loss_{case}"));
    for mode in ["exact", "fine"] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_loss_program"));
        let outcome = run(command.args([mode, case]).current_dir(&place), 60);
        assert!(outcome.status.success() && !outcome.hung, "{mode}: {outcome}");
        println!("{mode} {case}: {} ({:?})", outcome.stdout.trim(), outcome.took);
    }
}

#[test]
fn a_stopped_drain_thread() {
    loss("pause");
}

#[test]
fn a_held_lock() {
    loss("hold");
}

#[test]
fn both() {
    loss("both");
}
