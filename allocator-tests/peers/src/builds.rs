//! One program a profiler, each by its own `cargo build` into one target directory, so that what they share is built once.
//!
//! All are built with frame pointers: five peers refuse to start or see nothing without, and the work is to be the same
//! instructions everywhere. unfreed needs none. A build that fails is a word in the table, not the end.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use crate::say;

/// The programs that could be built, and why the others could not.
#[derive(Debug, Default)]
pub struct Programs {
    paths: BTreeMap<String, PathBuf>,
    failures: BTreeMap<String, String>,
}

impl Programs {
    /// One program for each of these builds.
    #[cfg(test)]
    pub fn at(builds: &[&str], path: &Path) -> Programs {
        let paths = builds.iter().map(|build| ((*build).to_owned(), path.to_owned())).collect();
        Programs { paths, ..Programs::default() }
    }

    pub fn of(&self, build: &str) -> Result<&Path, &str> {
        self.paths
            .get(build)
            .map(PathBuf::as_path)
            .ok_or_else(|| self.failures.get(build).map_or("not built", String::as_str))
    }
}

/// Takes the programs that an earlier call built.
pub fn found(package: &Path, features: &[&str]) -> (Programs, PathBuf) {
    let kept = target(package).join("peers");
    let mut programs = Programs::default();
    for feature in features {
        let path = kept.join(if feature.is_empty() { "none" } else { feature });
        if path.is_file() {
            programs.paths.insert((*feature).to_owned(), path);
        }
    }
    (programs, kept.join("load"))
}

fn target(package: &Path) -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| package.join("target"), PathBuf::from)
}

/// Builds the driver of the server's load and `subject` with each of these features (empty: none).
pub fn build(package: &Path, features: &[&str]) -> Result<(Programs, PathBuf), String> {
    let target = target(package);
    let kept = target.join("peers");
    fs::create_dir_all(&kept).map_err(|error| format!("{}: {error}", kept.display()))?;
    let mut programs = Programs::default();
    for (n, feature) in features.iter().enumerate() {
        let name = if feature.is_empty() { "none" } else { feature };
        say(&format!("building {name} ({} of {})", n + 1, features.len()));
        let begin = Instant::now();
        let path = kept.join(name);
        // what an earlier run left must not stand in for a build that fails
        let _ = fs::remove_file(&path);
        let built = cargo(package, &target, &["--package", "subject", "--bin", "subject", "--features", feature]);
        match built.and_then(|()| copy(&target.join("release/subject"), &path)) {
            Ok(()) => _ = programs.paths.insert((*feature).to_owned(), path),
            Err(error) => {
                say(&format!("building {name} failed after {} s: {error}", begin.elapsed().as_secs()));
                programs.failures.insert((*feature).to_owned(), "does not build".to_owned());
            }
        }
    }
    cargo(package, &target, &["--package", "subject", "--bin", "load"])?;
    let load = kept.join("load");
    copy(&target.join("release/load"), &load)?;
    Ok((programs, load))
}

fn copy(from: &Path, to: &Path) -> Result<(), String> {
    fs::copy(from, to).map(|_| ()).map_err(|error| format!("{} to {}: {error}", from.display(), to.display()))
}

fn cargo(package: &Path, target: &Path, what: &[&str]) -> Result<(), String> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.arg("build").args(["--release", "--locked", "--quiet", "--ignore-rust-version", "--manifest-path"]);
    cargo.arg(package.join("Cargo.toml")).arg("--target-dir").arg(target).args(what);
    cargo.env("RUSTFLAGS", "-Cforce-frame-pointers=yes").env_remove("CARGO_ENCODED_RUSTFLAGS");
    let output = cargo.output().map_err(|error| format!("cargo does not run: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let errors: Vec<&str> = text.lines().filter(|line| line.starts_with("error")).take(3).collect();
    Err(if errors.is_empty() { text.trim().to_owned() } else { errors.join("; ") })
}
