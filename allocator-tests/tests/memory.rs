//! Where memory is that grows: a leak, what the allocator keeps, and what never came by it are told apart; and no report
//! waits for an allocator's lock that a thread holds which waits for the report.

use std::process::Command;
use std::time::Duration;

use allocator_tests::memory::GROWN_BYTES;
use allocator_tests::runner::{self, directory};
use serde_json::Value;

const SYSTEM: &str = env!("CARGO_BIN_EXE_memory_system");
const JEMALLOC: &str = env!("CARGO_BIN_EXE_memory_jemalloc");
const MIMALLOC: &str = env!("CARGO_BIN_EXE_memory_mimalloc");

struct Told {
    memory: Value,
    text: String,
}

#[track_caller]
fn told(program: &str, case: &str) -> Told {
    let outcome = runner::run(Command::new(program).arg(case), 60).expect_success();
    let (json, text) = outcome.stdout.split_once('\n').expect("a line of JSON");
    let report: Value = serde_json::from_str(json).unwrap_or_else(|error| panic!("{error}: {outcome}"));
    Told { memory: report["memory"].clone(), text: text.to_owned() }
}

impl Told {
    fn bytes(&self, name: &str) -> f64 {
        self.memory[name].as_f64().unwrap_or_else(|| panic!("no {name}: {}", self.memory))
    }

    #[track_caller]
    fn is(&self, cause: &str, words: &str) {
        let unexplained = &self.memory["unexplained"];
        assert_eq!(unexplained["cause"], cause, "{}\n{}", self.memory, self.text);
        let bytes = unexplained["bytes"].as_f64().expect("a number");
        let grown = GROWN_BYTES as f64;
        assert!((0.8 * grown..1.25 * grown).contains(&bytes), "{bytes}: {}", self.memory);
        // Lines are broken anywhere.
        let text: Vec<&str> = self.text.split_whitespace().filter(|word| *word != "unfreed:").collect();
        assert!(text.join(" ").contains(words), "no '{words}' in\n{}", self.text);
    }

    #[track_caller]
    fn is_no_mystery(&self) {
        assert!(self.memory["unexplained"].is_null(), "{}\n{}", self.memory, self.text);
        assert!(!self.text.contains("Rust allocator") && !self.text.contains("retention"), "{}", self.text);
    }
}

#[test]
fn fragmentation_is_retention_and_no_leak() {
    let told = told(SYSTEM, "fragmentation");
    told.is("allocator_retention", "allocator retention, not a leak");
    assert!(told.bytes("held_bytes") > told.bytes("usable_bytes") + 0.8 * GROWN_BYTES as f64, "{}", told.memory);
    assert!(told.text.contains("usable (glibc malloc)"), "{}", told.text);
}

#[test]
fn mappings_and_c_malloc_are_outside() {
    told(SYSTEM, "mapping").is("outside_allocator", "memory outside the Rust allocator (mappings");
    told(SYSTEM, "c-malloc").is("foreign_allocations", "memory outside the Rust allocator, by C libraries' malloc");
}

#[test]
fn a_leak_and_a_quiet_program_are_neither() {
    let leak = told(SYSTEM, "leak");
    leak.is_no_mystery();
    assert!(leak.bytes("requested_bytes") > GROWN_BYTES as f64);
    told(SYSTEM, "nothing").is_no_mystery();
}

#[test]
fn the_line_adds_up() {
    let told = told(SYSTEM, "leak");
    let [requested, usable, held, resident] =
        ["requested_bytes", "usable_bytes", "held_bytes", "resident_bytes"].map(|name| told.bytes(name));
    // Headers and rounding of 2,000 bytes: 0.8%; the profiler's own beside.
    assert!(requested <= usable && usable < 1.05 * requested, "{}", told.memory);
    assert!(usable <= held && held < 1.1 * usable, "{}", told.memory);
    assert!(resident > 0.95 * requested, "{}", told.memory);
    assert!(resident < held + told.bytes("profiler_bytes") + 30e6, "{}", told.memory);
    assert!(told.bytes("limit_bytes") > resident && told.memory["limit_name"].is_string(), "{}", told.memory);
    assert!(told.memory["not_asked"].is_null(), "{}", told.memory);
    assert!(told.bytes("answer_age_seconds") < 1.0, "{}", told.memory);
}

/// glibc is there and could be asked, but serves nobody: no figure of its is shown.
#[test]
fn an_allocator_that_was_not_recognised_is_not_asked() {
    let mut programs = vec![MIMALLOC];
    if !cfg!(feature = "jemalloc") {
        programs.push(JEMALLOC);
    }
    for program in programs {
        let fragmented = told(program, "mapping");
        assert!(fragmented.memory["usable_bytes"].is_null() && fragmented.memory["allocator"].is_null());
        fragmented.is("retention_or_outside", "either the allocator keeps freed memory");
        assert!(fragmented.text.contains("usable not asked (no allocator with statistics was recognised)"));
        told(program, "leak").is_no_mystery();
    }
}

#[test]
#[cfg(feature = "jemalloc")]
fn jemalloc_is_asked_where_it_serves() {
    let leak = told(JEMALLOC, "leak");
    leak.is_no_mystery();
    assert_eq!(leak.memory["allocator"], "jemalloc");
    // Classes of 2,048 bytes.
    let rounding = leak.bytes("usable_bytes") / leak.bytes("requested_bytes");
    assert!((1.02..1.06).contains(&rounding), "{rounding}: {}", leak.memory);
    told(JEMALLOC, "fragmentation").is("allocator_retention", "allocator retention, not a leak");
    told(JEMALLOC, "mapping").is("outside_allocator", "memory outside the Rust allocator");
    told(JEMALLOC, "c-malloc").is("outside_allocator", "memory outside the Rust allocator");
}

#[test]
fn a_signal_inside_malloc_waits_for_no_report_that_waits_for_malloc() {
    for end in ["reports", "drop"] {
        for _ in 0..4 {
            let place = directory(env!("CARGO_TARGET_TMPDIR"), &format!("memory_{end}"));
            let outcome =
                runner::run(Command::new(SYSTEM).arg(end).current_dir(&place), 50).expect_signal(libc::SIGTERM);
            // Not by the patience of the waiting thread, which is 20 s.
            assert!(outcome.took < Duration::from_secs(14), "{end}: {outcome}");
            assert!(outcome.stderr.contains("unfreed: Memory:"), "{end}: {outcome}");
            let text = std::fs::read_to_string(place.join("out.json")).unwrap_or_else(|e| panic!("{e}: {outcome}"));
            let file: Value = serde_json::from_str(&text).expect("JSON");
            assert!(file["unfreed"]["memory"]["requested_bytes"].as_u64().is_some_and(|bytes| bytes > 20_000_000));
        }
    }
}
