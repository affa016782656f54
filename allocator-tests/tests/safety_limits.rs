//! What the system refuses costs profile, never the program.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use allocator_tests::runner::{Outcome, directory, run};

fn place(name: &str) -> PathBuf {
    directory(env!("CARGO_TARGET_TMPDIR"), &format!("safety_limits_{name}"))
}

fn program(mode: &str, arguments: &[&str], place: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_safety_limits"));
    command.arg(mode).args(arguments).current_dir(place);
    command
}

#[track_caller]
fn limited(mode: &str, arguments: &[&str]) -> Outcome {
    let outcome = run(&mut program(mode, arguments, &place(&arguments.join("_"))), 60);
    assert!(outcome.status.success() && !outcome.hung, "{mode} {arguments:?}: {outcome}");
    outcome
}

const MODES: [&str; 2] = ["exact", "fine"];

#[test]
fn address_space() {
    for mode in MODES {
        for mebibytes in ["20", "60", "120", "200", "400", "800", "1500", "3000", "6000", "20000"] {
            let outcome = limited(mode, &["address-space", mebibytes]);
            let enough = mebibytes.parse::<u32>().expect("a number") >= 200;
            assert!(!enough || outcome.stdout.contains("started"), "{mode} {mebibytes}: {outcome}");
            assert!(outcome.stdout.contains("started") || outcome.stdout.contains("refused: no "), "{outcome}");
        }
    }
}

#[test]
fn address_space_later() {
    for mode in MODES {
        for mebibytes in ["64", "200"] {
            limited(mode, &["address-space-later", mebibytes]);
        }
    }
}

/// Small requests that the system's allocator refuses are not counted, started or not.
#[test]
fn refused_small_requests() {
    for mode in ["off", "exact", "fine"] {
        limited(mode, &["refused-small", "set"]);
        let place = place(&format!("refused_small_{mode}"));
        let mut shell = Command::new("sh");
        shell.args(["-c", "ulimit -v 400000 && exec \"$@\"", "sh", env!("CARGO_BIN_EXE_safety_limits")]);
        run(shell.args([mode, "refused-small", "found"]).current_dir(&place), 60).expect_success();
    }
}

/// A start that fails leaves no store.
#[test]
fn data() {
    for mode in MODES {
        let stores = place(&format!("data_stores_{mode}"));
        let mut refused = 0;
        for kibibytes in (500..=12_500).step_by(500) {
            let mut program = program(mode, &["data", &kibibytes.to_string()], &place("data"));
            let outcome = run(program.env("UNFREED_DIR", &stores), 60).expect_success();
            refused += usize::from(
                outcome.stdout.contains("refused: no memory")
                    || outcome.stdout.contains("refused: the profiler's thread"),
            );
            let left: Vec<_> = std::fs::read_dir(&stores).expect("made").flatten().map(|file| file.path()).collect();
            assert!(left.is_empty(), "{mode} {kibibytes} KiB: {left:?} {outcome}");
        }
        assert!(refused > 0, "{mode}: no start was refused after its store");
    }
}

#[test]
fn data_later() {
    for mode in MODES {
        limited(mode, &["data-later"]);
    }
}

#[test]
fn file_size() {
    for mode in MODES {
        for bytes in ["0", "1000", "100000", "4000000"] {
            let outcome = limited(mode, &["file-size", bytes]);
            assert!(outcome.stdout.contains("started"), "in memory, then: {outcome}");
            let outcome = limited(mode, &["file-size-later", bytes]);
            if bytes == "0" {
                assert!(outcome.stderr.contains("out.json"), "says what was not written: {outcome}");
            }
        }
    }
}

#[test]
fn no_thread_can_be_made() {
    for mode in MODES {
        let outcome = limited(mode, &["no-threads"]);
        assert!(outcome.stdout.contains("refused: the profiler's thread"), "{outcome}");
    }
}

#[test]
fn refused_system_calls() {
    let calls = [
        "membarrier",
        "memfd",
        "madvise",
        "fallocate",
        "statfs",
        "ftruncate",
        "sigaction",
        "readlink",
        "getdents",
        "prctl",
        "process_vm",
        "affinity",
        "prlimit",
        "clock",
        "unlink",
        "open",
        "many",
    ];
    for mode in MODES {
        for call in calls {
            for errno in ["EPERM", "ENOSYS"] {
                let outcome = limited(mode, &["refused", call, errno]);
                assert!(outcome.stdout.contains("started"), "{mode} {call} {errno}: {outcome}");
            }
        }
    }
}

/// The store's descriptor is the program's to close, and its number the program's to use.
#[test]
fn all_descriptors_closed() {
    for mode in MODES {
        for fallocate in ["granted", "refused"] {
            let place = place(&format!("descriptors_{mode}_{fallocate}"));
            let stores = place.join("stores");
            std::fs::create_dir(&stores).expect("made");
            let mut program = program(mode, &["descriptors", fallocate], &place);
            let outcome = run(program.env("UNFREED_DIR", &stores), 60).expect_success();
            let is_bounded =
                outcome.stdout.contains("folded_stacks: 0,") && outcome.stdout.contains("folded_sites: 0,");
            assert!(!is_bounded || mode != "exact", "it could not grow: {outcome}");
            let left: Vec<_> = std::fs::read_dir(&stores).expect("made").flatten().map(|file| file.path()).collect();
            assert!(left.is_empty(), "removed without its descriptor: {left:?} {outcome}");
        }
    }
}

#[test]
fn no_stdout() {
    for mode in MODES {
        limited(mode, &["no-stdout"]);
    }
}

#[test]
fn without_slots() {
    for mode in MODES {
        let mut program = program(mode, &["places"], &place("slots_off"));
        let outcome = run(program.env("UNFREED_SLOTS", "off"), 60).expect_success();
        assert!(outcome.stdout.contains("started"), "{outcome}");
    }
}

/// Root may write anywhere, so 'unwritable' is a directory that is none, and one on a read-only mount.
#[test]
fn unwritable_places() {
    for mode in MODES {
        let place = place(&format!("unwritable_{mode}"));
        let file = place.join("a-file");
        std::fs::write(&file, "").expect("written");
        let closed = place.join("closed");
        std::fs::create_dir(&closed).expect("made");
        std::fs::set_permissions(&closed, std::fs::Permissions::from_mode(0o500)).expect("ours");
        for directory in
            ["/nonexistent", "/proc", "/sys", file.to_str().expect("UTF-8"), closed.to_str().expect("UTF-8")]
        {
            let mut program = program(mode, &["places"], &place);
            let outcome = run(program.env("UNFREED_DIR", directory), 60).expect_success();
            assert!(outcome.stdout.contains("started"), "{outcome}");
            let fell_back = outcome.stderr.contains("in memory only");
            assert!(fell_back || directory == closed.to_str().expect("UTF-8"), "said once: {outcome}");
        }
        // The output's own place.
        std::fs::create_dir(place.join("x")).expect("made");
        std::fs::create_dir(place.join("x/out.json")).expect("made");
        let outcome = run(&mut program_in(mode, &place.join("x")), 60).expect_success();
        assert!(outcome.stderr.contains("out.json"), "says what was not written: {outcome}");
    }
}

fn program_in(mode: &str, place: &Path) -> Command {
    program(mode, &["places"], place)
}

/// A tmpfs of 1 MB for the store, in a mount namespace of its own.
#[test]
fn a_full_directory() {
    for mode in MODES {
        let place = place(&format!("full_{mode}"));
        let mount = place.join("small");
        std::fs::create_dir(&mount).expect("made");
        let script = "mount -t tmpfs -o size=1m tmpfs \"$1\" || exit 77; shift; exec \"$@\"";
        for (case, size) in [("full", 0), ("places", 0), ("places", 1_000_000)] {
            let mut command = Command::new("unshare");
            command.args(["-m", "sh", "-c", script, "sh"]).arg(&mount);
            if size > 0 {
                // Full before it begins.
                command.args(["sh", "-c", "head -c 1040000 /dev/zero > \"$UNFREED_DIR/filler\"; exec \"$@\"", "sh"]);
            }
            command.arg(env!("CARGO_BIN_EXE_safety_limits")).args([mode, case]);
            command.current_dir(&place).env("UNFREED_DIR", &mount);
            let outcome = run(&mut command, 60);
            if outcome.status.code() == Some(77) || outcome.stderr.contains("Operation not permitted") {
                eprintln!("not root: no tmpfs of 1 MB to try");
                return;
            }
            let outcome = outcome.expect_success();
            if case == "full" && !outcome.stderr.contains("in memory only") {
                assert!(
                    !outcome.stdout.contains("folded_stacks: 0,") || !outcome.stdout.contains("folded_sites: 0,"),
                    "{outcome}"
                );
                assert!(!outcome.stdout.contains("unknown: 0"), "{outcome}");
            }
        }
    }
}

#[test]
fn memcheck() {
    let place = place("memcheck");
    for mode in MODES {
        let mut command = Command::new("valgrind");
        command.args(["-q", "--error-exitcode=9"]).arg(env!("CARGO_BIN_EXE_safety_limits")).args([mode, "places"]);
        let outcome = run(command.current_dir(&place), 100).expect_success();
        assert!(outcome.stdout.contains("started"), "{outcome}");
    }
}
