//! `docs/system-calls.md` is complete: what programs with a profiler ask of the kernel is in its table, or is what every
//! program asks at its start. Needs strace; without it there is nothing to compare, which is said.

use std::collections::BTreeSet;
use std::process::Command;

use allocator_tests::runner::{directory, run};

/// Of every Rust program's start and end, and of these programs' own work: blocks that grow, a limit on their time.
const PROGRAMS_OWN: [&str; 17] = [
    "access",
    "alarm",
    "arch_prctl",
    "brk",
    "execve",
    "faccessat",
    "mremap",
    "poll",
    "ppoll",
    "readlinkat",
    "setitimer",
    "set_tid_address",
    "uname",
    "wait4",
    "clone",
    "exit",
    "exit_group",
];

/// The names in the first column of the page's table.
fn documented() -> BTreeSet<String> {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/system-calls.md");
    let page = std::fs::read_to_string(page).expect("the page");
    let rows = page.lines().filter_map(|line| line.strip_prefix("| ")?.split(" | ").next());
    let names = rows.flat_map(|cell| cell.split('`').skip(1).step_by(2));
    names.filter(|name| !name.contains('/')).map(str::to_owned).collect()
}

/// The system calls that a run of the program made, in all its threads and children.
fn made(program: &str, arguments: &[&str], environment: (&str, &str)) -> BTreeSet<String> {
    let place = directory(env!("CARGO_TARGET_TMPDIR"), &format!("system_calls_{}", arguments.join("_")));
    let list = place.join("calls");
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-c", "-U", "name,calls", "-o"]).arg(&list).arg(program).args(arguments);
    let outcome = run(command.env(environment.0, environment.1).current_dir(&place), 100);
    assert!(outcome.status.success() && !outcome.hung, "{outcome}");
    let list = std::fs::read_to_string(list).expect("strace's list");
    let names = list.lines().filter_map(|line| line.split_whitespace().next());
    let is_name =
        |name: &&str| name.starts_with(|c: char| c.is_ascii_lowercase()) && !["syscall", "total"].contains(name);
    names.filter(is_name).map(str::to_owned).collect()
}

#[test]
fn every_call_is_documented() {
    if Command::new("strace").arg("-V").output().is_err() {
        eprintln!("no strace: nothing to compare");
        return;
    }
    let documented = documented();
    assert!(documented.len() > 30 && documented.contains("membarrier"), "{documented:?}");
    let limits = env!("CARGO_BIN_EXE_safety_limits");
    let threads = env!("CARGO_BIN_EXE_safety_threads");
    let (default, on_disk) = (("UNFREED_SLOTS", "on"), ("UNFREED_DIR", env!("CARGO_TARGET_TMPDIR")));
    let mut seen = BTreeSet::new();
    for (program, arguments, environment) in [
        (limits, ["fine", "places"], default),
        (limits, ["exact", "places"], on_disk),
        (limits, ["fine", "places"], ("UNFREED_SLOTS", "off")),
        (threads, ["governed", "destructors"], default),
        (threads, ["exact", "drop-order"], default),
    ] {
        seen.extend(made(program, &arguments, environment));
    }
    let unknown: Vec<_> =
        seen.iter().filter(|&name| !documented.contains(name) && !PROGRAMS_OWN.contains(&name.as_str())).collect();
    assert!(unknown.is_empty(), "not in docs/system-calls.md: {unknown:?}");
    // And the page is of this program.
    for name in ["membarrier", "fallocate", "rt_sigaction", "statfs", "futex", "sched_getaffinity", "rename"] {
        assert!(seen.contains(name), "{name} is documented, and was not made");
    }
}
