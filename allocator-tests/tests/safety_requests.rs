//! Requests that are refused, or made by threads that are to be cancelled, are what they are without a profiler.

use std::process::Command;

use allocator_tests::runner::{directory, run};

fn requests(arguments: &[&str]) -> Command {
    let place = directory(env!("CARGO_TARGET_TMPDIR"), &format!("safety_requests_{}", arguments.join("_")));
    let mut command = Command::new(env!("CARGO_BIN_EXE_safety_requests"));
    command.args(arguments).current_dir(place);
    command
}

/// Not for a moment: the largest that was ever alive is kept.
#[test]
fn what_was_refused_never_was_alive() {
    for mode in ["exact", "fine", "governed"] {
        for bytes in ["1000000000000000", "9223372036854775807"] {
            run(&mut requests(&[mode, "refused", bytes]), 110).expect_success();
        }
    }
}

/// The same at a limit of the program's own.
#[test]
fn what_was_refused_at_a_limit_never_was_alive() {
    for mode in ["exact", "governed"] {
        let arguments = [mode, "refused", "20000000000"];
        let program = requests(&arguments);
        let mut shell = Command::new("sh");
        shell.args(["-c", "ulimit -v 8000000 && exec \"$0\" \"$@\""]).arg(program.get_program());
        shell.args(program.get_args()).current_dir(program.get_current_dir().expect("it has one"));
        run(&mut shell, 110).expect_success();
    }
}

#[test]
fn an_allocation_is_no_cancellation_point() {
    for mode in ["exact", "fine", "governed"] {
        run(&mut requests(&[mode, "cancelled"]), 110).expect_success();
    }
}
