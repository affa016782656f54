//! The instructions that unfreed adds to a pair of allocation and free, counted by callgrind.
//!
//! Each figure is a difference of two programs that are alike but for their `#[global_allocator]` line, and each
//! program's of two runs with different numbers of rounds, so that neither start nor end is in it. Counted is what the
//! allocating thread executes inside the loop, captures and instalments of the budget included; what the drain thread
//! does beside it is not. Blocks have 64 bytes, a size that the compiler can't see.
//!
//! Fails above 16 instructions a pair, over each, where nothing is recorded yet and where a sample is; the other states are printed
//! for information. `RECORD=1` writes the table to `docs/benchmarks/instructions.md`. Needs Valgrind; it is missing
//! loudly.
//!
//! The figures are of x86-64; on other processors they are printed and bind nobody.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const SIZE_BYTES: &str = "64";

/// The wrapped allocators, and the bound of a pair while nothing or a sample is recorded: 3 and 8 instructions of our own, 2 and
/// 2 to find the thread's words, at most one for all the visits to the cold path.
const ALLOCATORS: [(&str, f64); 3] = [("system", 16.0), ("jemalloc", 16.0), ("mimalloc", 16.0)];

/// One row of the table: what runs, and over how many rounds it is averaged.
struct Case {
    state: &'static str,
    name: &'static str,
    rounds: u64,
    bounded: bool,
}

/// Sampled: at 512 KiB a sample each 8,192 rounds, so 244 in these, ± 16; at some 14,000 instructions that is ± 0.11, an
/// eighth of what is left to the bound.
const CASES: [Case; 4] = [
    Case { state: "off", name: "not started", rounds: 100_000, bounded: true },
    Case { state: "sampled", name: "sampled, 512 KiB", rounds: 2_000_000, bounded: true },
    Case { state: "governed", name: "sampled, governed", rounds: 400_000, bounded: false },
    Case { state: "exact", name: "exact", rounds: 20_000, bounded: false },
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("allocator-tests lies in the workspace")
}

/// Builds the programs as users build theirs, whatever profile this test has; where they lie.
fn build() -> PathBuf {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.current_dir(root()).args(["build", "--release", "--quiet", "--package", "allocator-tests"]);
    for (allocator, _) in ALLOCATORS {
        for kind in ["plain", "unfreed"] {
            cargo.args(["--bin", &format!("cost_{allocator}_{kind}")]);
        }
    }
    let status = cargo.status().expect("cargo runs");
    assert!(status.success(), "the programs don't build: {status}");
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("tmp lies in the target directory");
    target.join("release")
}

/// Instructions of the allocating thread inside `what`'s loop.
fn instructions(program: &Path, state: &str, what: &str, rounds: u64) -> u64 {
    let name = program.file_name().expect("a program").to_string_lossy();
    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("callgrind.{name}.{state}.{what}"));
    let mut valgrind = Command::new("valgrind");
    valgrind.args(["--tool=callgrind", "--separate-threads=yes", "--dump-instr=no"]);
    valgrind.arg(format!("--toggle-collect=cost_of_{what}")).arg(format!("--callgrind-out-file={}", out.display()));
    valgrind.arg(program).args([state, what, SIZE_BYTES, &rounds.to_string()]);
    let output = valgrind.output().expect("valgrind is missing (Debian: 'apt-get install valgrind')");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name} {state} {what}: {}\n{text}", output.status);
    let threads = format!("{}-01", out.display());
    let counts = fs::read_to_string(&threads).unwrap_or_else(|error| panic!("{threads}: {error}\n{text}"));
    let total = counts.lines().find_map(|line| line.strip_prefix("totals: "));
    total.and_then(|total| total.trim().parse().ok()).unwrap_or_else(|| panic!("no total in {threads}"))
}

/// Instructions a round.
fn per_round(program: &Path, state: &str, what: &str, rounds: u64) -> f64 {
    let few = instructions(program, state, what, rounds / 10);
    let many = instructions(program, state, what, rounds / 10 + rounds);
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    let (difference, rounds) = ((many - few) as f64, rounds as f64);
    difference / rounds
}

/// Bytes of the range of slots that a profile reserves, by what runs it.
fn range_bytes(command: &mut Command, program: &Path) -> u64 {
    let output = command.args([program.as_os_str(), "sampled".as_ref(), "pairs".as_ref()]).args([SIZE_BYTES, "1"]);
    let text = String::from_utf8(output.output().expect("it runs").stdout).expect("UTF-8");
    let bytes = text.lines().find_map(|line| line.strip_prefix("range ")).and_then(|bytes| bytes.parse().ok());
    bytes.unwrap_or_else(|| panic!("no range in '{text}'"))
}

/// One allocator's rows, and what exceeded its bound.
fn measure(programs: &Path, (allocator, bound): (&str, f64)) -> (String, Vec<String>) {
    let plain = programs.join(format!("cost_{allocator}_plain"));
    let ours = programs.join(format!("cost_{allocator}_unfreed"));
    let plain_pair = per_round(&plain, "off", "pairs", 100_000);
    let plain_realloc = per_round(&plain, "off", "reallocs", 100_000) / 2.0;
    let (mut rows, mut faults) = (String::new(), Vec::new());
    for case in &CASES {
        let pair = per_round(&ours, case.state, "pairs", case.rounds) - plain_pair;
        let realloc = per_round(&ours, case.state, "reallocs", case.rounds.min(100_000)) / 2.0 - plain_realloc;
        let _ = writeln!(
            rows,
            "| {allocator} | {} | {plain_pair:.1} | **{pair:.1}** | {plain_realloc:.1} | {realloc:.1} |",
            case.name
        );
        // A program that does less than its partner was not the same program.
        if pair < 1.0 {
            faults.push(format!("{allocator}, {}: {pair:.1} instructions a pair can't be", case.name));
        }
        if case.bounded && pair > bound {
            faults.push(format!("{allocator}, {}: {pair:.1} instructions a pair, over {bound}", case.name));
        }
    }
    (rows, faults)
}

#[test]
fn a_pair_costs_at_most_its_bound() {
    let programs = build();
    let measured: Vec<(String, Vec<String>)> = std::thread::scope(|scope| {
        let running: Vec<_> = ALLOCATORS
            .map(|allocator| {
                scope.spawn({
                    let programs = &programs;
                    move || measure(programs, allocator)
                })
            })
            .into();
        running.into_iter().map(|one| one.join().expect("it measures")).collect()
    });
    let ours = programs.join("cost_system_unfreed");
    let mut under = Command::new("valgrind");
    under.args(["--tool=none", "--quiet"]);
    let ranges = (range_bytes(&mut Command::new("env"), &ours), range_bytes(&mut under, &ours));

    let mut table = String::from(
        "| allocator | state | its own pair | added to a pair | its own realloc | added to a realloc |\n|---|---|--:|--:|--:|--:|\n",
    );
    for (rows, _) in &measured {
        table.push_str(rows);
    }
    let _ = writeln!(
        table,
        "\nThe range of slots: {} MiB, under valgrind {} MiB; the hot path is the same.",
        ranges.0 >> 20,
        ranges.1 >> 20
    );
    println!("{table}");
    if std::env::var_os("RECORD").is_some() {
        record(&table);
    }
    let faults: Vec<&String> = measured.iter().flat_map(|(_, faults)| faults).collect();
    if cfg!(target_arch = "x86_64") {
        assert!(faults.is_empty(), "{faults:#?}");
    }
}

/// Keeps the table, with its date and its machine.
fn record(table: &str) {
    let run = |program: &str, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).output().expect("it runs");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    };
    let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let cpu = cpus
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .map_or("unknown", |name| name.trim_matches([' ', '\t', ':']));
    let text = format!(
        "# Instructions added\n\nBy `RECORD=1 cargo test -p allocator-tests --test cost`; blocks of {SIZE_BYTES} bytes, by callgrind's count.\n\n\
         {}, {}, {}, {}, commit {}.\n\n{table}",
        run("date", &["-u", "+%Y-%m-%d"]),
        cpu,
        run("rustc", &["--version"]),
        run("valgrind", &["--version"]),
        run("git", &["-C", &root().to_string_lossy(), "rev-parse", "--short=12", "HEAD"]),
    );
    let directory = root().join("docs/benchmarks");
    fs::create_dir_all(&directory).expect("a directory");
    fs::write(directory.join("instructions.md"), text).expect("a written table");
}
