//! The cases, and their twelve packages: building them into one directory, running them.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::outcome::Outcome;

/// A crate that leaked.
pub struct Case {
    pub name: &'static str,
    pub leaking: &'static str,
    pub fixed: &'static str,
    pub trigger: &'static str,
}

const fn case(name: &'static str, leaking: &'static str, fixed: &'static str, trigger: &'static str) -> Case {
    Case { name, leaking, fixed, trigger }
}

/// The packages lie in directories of these names, with `-leaking` and `-fixed`.
pub const CASES: [Case; 6] = [
    case("async-imap", "0.9.0", "0.9.1", "a FETCH loop: byte-pool keeps each buffer (its PR 79)"),
    case("lru", "0.6.3", "0.6.4", "`pop` with String keys (its PR 104)"),
    case("moka", "0.12.0", "0.12.1", "`future::Cache::get_with` with unique keys (its #329)"),
    case("crossbeam-channel", "0.5.0", "0.5.15", "a Receiver dropped with items queued that hold Senders (its #669)"),
    case("unicycle", "0.10.1", "0.10.2", "a task that keeps its own waker, dropped with its set (its #30)"),
    case("tokio", "1.49.0", "1.50.0", "a descriptor closed before its `AsyncFd` is dropped (its #7563)"),
];

/// Which version of the crate.
#[derive(Clone, Copy, PartialEq)]
pub enum Kind {
    Leaking,
    Fixed,
}

impl Kind {
    fn package(self, name: &str) -> String {
        format!("{name}-{}", if self == Kind::Leaking { "leaking" } else { "fixed" })
    }
}

/// The built programs.
pub struct Programs {
    directory: PathBuf,
}

/// Where the packages lie.
fn packages() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

impl Programs {
    /// Builds the packages of these cases into the directory that `CARGO_TARGET_DIR` names: what they have in common is
    /// built once.
    pub fn build(cases: &[&str]) -> Result<Programs, String> {
        let target = std::env::var_os("CARGO_TARGET_DIR").ok_or("CARGO_TARGET_DIR is not set: start this by run.sh")?;
        for name in cases {
            for kind in [Kind::Leaking, Kind::Fixed] {
                let package = kind.package(name);
                eprintln!("building {package}");
                let manifest = packages().join(&package).join("Cargo.toml");
                let mut cargo = Command::new("cargo");
                cargo.args(["build", "--release", "--locked", "--quiet", "--manifest-path"]).arg(manifest);
                let status = cargo.status().map_err(|error| format!("cargo: {error}"))?;
                if !status.success() {
                    return Err(format!("{package} does not build"));
                }
            }
        }
        Ok(Programs { directory: PathBuf::from(target).join("release") })
    }

    /// Runs one program to its end.
    pub fn run(&self, name: &str, kind: Kind, mode: &str, seed: u64, rounds: u32) -> Result<Outcome, String> {
        let package = kind.package(name);
        let what = || format!("{package} {mode} {seed} {rounds}");
        let mut program = Command::new(self.directory.join(&package));
        program.args([mode, &seed.to_string(), &rounds.to_string()]).stderr(Stdio::inherit());
        let output = program.output().map_err(|error| format!("{}: {error}", what()))?;
        if !output.status.success() {
            return Err(format!("{}: ended with {}", what(), output.status));
        }
        Outcome::parse(&output.stdout).map_err(|error| format!("{}: {error}", what()))
    }

    /// Writes the page that the repository keeps.
    pub fn write_page(&self, page: &str) -> Result<(), String> {
        let path = packages().join("../../../docs/benchmarks/leak-crates.md");
        std::fs::write(&path, page).map_err(|error| format!("{}: {error}", path.display()))
    }
}
