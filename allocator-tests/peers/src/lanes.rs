//! One variant's process in a round: it warms up beside the others', does a slice whenever it is its turn, and ends. From it comes a
//! [`Sample`]: what each slice took, what the end took, and what the profiler says of itself.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::plan::{Slicing, Variant, Work};
use crate::process::Running;

/// Connections of the server's load.
pub const CONNECTIONS: u64 = 8;
/// After a slice of the server by all connections, one of them makes this share of its requests once more, alone.
const ALONE: u64 = 2;

/// What one slice took.
#[derive(Clone, Debug)]
pub struct Slice {
    pub wall_ns: f64,
    pub cpu_ns: f64,
    /// The server's latencies, asked by one connection alone.
    pub p50_ns: Option<f64>,
    pub p99_ns: Option<f64>,
    /// The same of all connections at once.
    pub crowd_p99_ns: Option<f64>,
    /// Of the work so far.
    pub checksum: String,
}

impl Slice {
    fn read(told: &Value) -> Result<Slice, String> {
        let number = |name: &str| told[name].as_f64().ok_or_else(|| format!("no {name}"));
        Ok(Slice {
            wall_ns: number("wall_ns")?,
            cpu_ns: number("cpu_ns")?,
            p50_ns: told["p50_ns"].as_f64(),
            p99_ns: told["p99_ns"].as_f64(),
            crowd_p99_ns: told["crowd_p99_ns"].as_f64(),
            checksum: told["checksum"].as_str().ok_or("no checksum")?.to_owned(),
        })
    }
}

/// What one variant measured in one round.
#[derive(Clone, Debug)]
pub struct Sample {
    pub slices: Vec<Slice>,
    pub dump_ns: f64,
    pub peak_rss_kib: f64,
    /// What the profiler says of itself.
    pub facts: Value,
}

impl Sample {
    /// Whether both did the same work, as far as both went.
    pub fn did_the_same(&self, other: &Sample) -> bool {
        self.slices.iter().zip(&other.slices).all(|(a, b)| a.checksum == b.checksum)
    }
}

/// Where programs put what they write.
#[derive(Debug)]
pub struct Bench {
    pub scratch: PathBuf,
    pub load: PathBuf,
}

/// A process, stopped between its turns.
#[derive(Debug)]
pub struct Lane {
    running: Running,
    /// The load on the server, which measures in its place.
    load: Option<Running>,
    out: PathBuf,
    wants_profile: bool,
    slices: Vec<Slice>,
    wanted: usize,
}

impl Lane {
    /// Starts a workload in a heap laid out by this number, and returns when it is warm and has stopped. The error is a word or two for the
    /// table; the program's own words are printed.
    pub fn start(
        bench: &Bench,
        program: &Path,
        variant: &Variant,
        work: &Work,
        slicing: Slicing,
        layout: usize,
    ) -> Result<Lane, String> {
        let name: String = variant.name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
        let out = bench.scratch.join(&name);
        let _ = fs::remove_dir_all(&out);
        fs::create_dir_all(&out).map_err(|error| format!("{}: {error}", out.display()))?;
        let mut command = match variant.under {
            None => Command::new(program),
            Some(tool) => {
                let mut command = Command::new(tool);
                command.arg("-o").arg(out.join(tool)).arg(program);
                command
            }
        };
        let Slicing { warm_up, slice, slices, .. } = slicing;
        let wanted = slicing.of(variant);
        command.args([variant.mode, work.name, &work.threads.to_string()]);
        command.args([warm_up.to_string(), slice.to_string(), variant.frames.to_string()]).arg(&out);
        command.args([wanted.to_string(), slices.to_string()]);
        command.current_dir(&out).env("PEERS_LAYOUT", layout.to_string());
        let mut running = Running::start(command, &bench.scratch.join(format!("{name}.stderr")))?;
        let first = running.line()?;
        let load = if work.name == "server" {
            let port = first["port"].as_u64().ok_or("no port")?;
            let mut load = Command::new(&bench.load);
            load.args([port, CONNECTIONS, warm_up, slice, slice / ALONE].map(|number| number.to_string()));
            let mut load = Running::start(load, &bench.scratch.join(format!("{name}.load.stderr")))?;
            load.line()?;
            running.stop()?;
            Some(load)
        } else {
            running.stopped()?;
            None
        };
        let wants_profile = variant.mode != "off" || variant.under.is_some();
        Ok(Lane { running, load, out, wants_profile, slices: Vec::new(), wanted })
    }

    /// Whether there is a slice left to do.
    pub fn wants_more(&self) -> bool {
        self.slices.len() < self.wanted
    }

    /// Its turn: wakes it, and returns when it has done a slice and has stopped.
    pub fn slice(&mut self) -> Result<(), String> {
        let told = match &mut self.load {
            // it stops itself, at once after its line
            None => {
                self.running.ask("slice")?;
                self.running.wake();
                let told = self.running.line()?;
                self.running.stopped()?;
                told
            }
            Some(load) => {
                self.running.wake();
                let told = load.ask("slice").and_then(|()| load.line());
                // a server that crashed is why its load failed
                self.running.stop()?;
                told?
            }
        };
        self.slices.push(Slice::read(&told)?);
        Ok(())
    }

    /// Lets it end, the last turn.
    pub fn end(mut self) -> Result<Sample, String> {
        // a server reads nothing
        self.running.ask("end")?;
        self.running.wake();
        if let Some(load) = &mut self.load {
            load.close_input();
            load.last_line()?;
        }
        let told = self.running.last_line()?.ok_or("no result")?;
        if self.wants_profile && !holds_something(&self.out) {
            return Err("no profile".to_owned());
        }
        let number = |name: &str| told[name].as_f64().ok_or_else(|| format!("no {name}"));
        Ok(Sample {
            dump_ns: number("dump_ns")?,
            peak_rss_kib: number("peak_rss_kib")?,
            facts: told["facts"].clone(),
            slices: self.slices,
        })
    }
}

/// Is there a file with anything in it?
fn holds_something(directory: &Path) -> bool {
    fs::read_dir(directory).is_ok_and(|entries| {
        entries.flatten().any(|entry| entry.metadata().is_ok_and(|meta| meta.is_file() && meta.len() > 0))
    })
}
