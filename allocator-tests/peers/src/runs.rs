//! One run of one program: started, waited for within a limit of time, and its line of JSON read.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::plan::{Variant, Work, warm_up};

/// A run that takes longer has failed. The longest are some seconds.
const PATIENCE: Duration = Duration::from_secs(90);
/// Connections of the server's load.
const CONNECTIONS: u64 = 8;

/// What one run measured.
#[derive(Clone, Debug)]
pub struct Sample {
    pub wall_ns: f64,
    pub cpu_ns: f64,
    pub dump_ns: f64,
    pub peak_rss_kib: f64,
    /// The server's latencies.
    pub p50_ns: Option<f64>,
    pub p99_ns: Option<f64>,
    pub checksum: String,
    /// What the profiler says of itself.
    pub facts: Value,
}

/// Where programs put what they write.
pub struct Bench {
    pub scratch: PathBuf,
    pub load: PathBuf,
}

impl Bench {
    /// Runs a workload in a heap laid out by this number. The error is a word or two for the table; the program's own words are left in the scratch directory
    /// and printed.
    pub fn run(
        &self,
        program: &Path,
        variant: &Variant,
        work: &Work,
        operations: u64,
        layout: usize,
    ) -> Result<Sample, String> {
        let out = self.scratch.join("out");
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
        command.args([variant.mode, work.name, &work.threads.to_string()]);
        command.args([warm_up(operations).to_string(), operations.to_string(), variant.frames.to_string()]).arg(&out);
        command.current_dir(&out).env("PEERS_LAYOUT", layout.to_string());
        let (own, driven) = if work.name == "server" {
            let (own, driven) = self.drive(command, operations)?;
            (own, Some(driven))
        } else {
            (self.finish(&Running::start(command, &self.scratch)?)?, None)
        };
        let profiled = variant.mode != "off" || variant.under.is_some();
        if profiled && !holds_something(&out) {
            return Err("no profile".to_owned());
        }
        let measured = driven.as_ref().unwrap_or(&own);
        let number = |value: &Value, name: &str| value[name].as_f64().ok_or_else(|| format!("no {name}"));
        Ok(Sample {
            wall_ns: number(measured, "wall_ns")?,
            cpu_ns: number(measured, "cpu_ns")?,
            dump_ns: number(&own, "dump_ns")?,
            peak_rss_kib: number(&own, "peak_rss_kib")?,
            p50_ns: measured["p50_ns"].as_f64(),
            p99_ns: measured["p99_ns"].as_f64(),
            checksum: measured["checksum"].as_str().unwrap_or_default().to_owned(),
            facts: own["facts"].clone(),
        })
    }

    /// Runs the server and its load.
    fn drive(&self, command: Command, requests: u64) -> Result<(Value, Value), String> {
        let server = Running::start(command, &self.scratch)?;
        let first = server.line(&self.scratch)?;
        let port = first["port"].as_u64().ok_or("no port")?;
        let mut load = Command::new(&self.load);
        load.args([port, CONNECTIONS, warm_up(requests), requests].map(|number| number.to_string()));
        let driven = Running::start(load, &self.scratch).and_then(|load| self.finish(&load));
        if driven.is_err() {
            server.kill();
        }
        let own = self.finish(&server);
        // a server that crashed is why its load failed
        Ok((own?, driven?))
    }

    /// Waits for the end of a program, and reads its last line.
    fn finish(&self, running: &Running) -> Result<Value, String> {
        let mut last = Err("no result".to_owned());
        loop {
            match running.events.recv_timeout(PATIENCE) {
                Ok(Event::Line(line)) => {
                    if line.starts_with('{') {
                        last = serde_json::from_str(&line).map_err(|error| format!("its line: {error}"));
                    }
                }
                Ok(Event::Ended(Ok(()))) => return last,
                Ok(Event::Ended(Err(how))) => return Err(running.explain(&self.scratch, &how)),
                Err(_) => {
                    running.kill();
                    return Err(running.explain(&self.scratch, "timed out"));
                }
            }
        }
    }
}

/// Is there a file with anything in it?
fn holds_something(directory: &Path) -> bool {
    fs::read_dir(directory).is_ok_and(|entries| {
        entries.flatten().any(|entry| entry.metadata().is_ok_and(|meta| meta.is_file() && meta.len() > 0))
    })
}

enum Event {
    Line(String),
    Ended(Result<(), String>),
}

/// A program that was started, in a process group of its own.
struct Running {
    group: i32,
    events: Receiver<Event>,
}

impl Running {
    fn start(mut command: Command, scratch: &Path) -> Result<Running, String> {
        let errors = File::create(scratch.join("stderr")).map_err(|error| format!("scratch: {error}"))?;
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(errors).process_group(0);
        let child = command.spawn().map_err(|error| format!("does not start: {error}"))?;
        let group = i32::try_from(child.id()).map_err(|error| error.to_string())?;
        let (sender, events) = channel();
        thread::spawn(move || watch(child, &sender));
        Ok(Running { group, events })
    }

    /// The first line that is JSON.
    fn line(&self, scratch: &Path) -> Result<Value, String> {
        loop {
            match self.events.recv_timeout(PATIENCE) {
                Ok(Event::Line(line)) => {
                    if let Ok(value) = serde_json::from_str(&line) {
                        return Ok(value);
                    }
                }
                Ok(Event::Ended(how)) => {
                    return Err(self.explain(scratch, &how.err().unwrap_or_else(|| "ended early".to_owned())));
                }
                Err(_) => {
                    self.kill();
                    return Err(self.explain(scratch, "timed out"));
                }
            }
        }
    }

    /// Ends the program and whatever it started.
    fn kill(&self) {
        // SAFETY: a plain system call; the group is the child's own, and the child is not reaped before its end is told.
        unsafe { libc::kill(-self.group, libc::SIGKILL) };
    }

    fn explain(&self, scratch: &Path, how: &str) -> String {
        let words = fs::read_to_string(scratch.join("stderr")).unwrap_or_default();
        let words: Vec<&str> = words.lines().rev().filter(|line| !line.trim().is_empty()).take(3).collect();
        if !words.is_empty() {
            crate::say(&format!("{how}: {}", words.into_iter().rev().collect::<Vec<_>>().join(" | ")));
        }
        how.to_owned()
    }
}

fn watch(mut child: Child, events: &Sender<Event>) {
    if let Some(output) = child.stdout.take() {
        let mut reader = BufReader::new(output);
        let mut line = String::new();
        while reader.read_line(&mut line).is_ok_and(|read| read > 0) {
            // nobody listens any more: the program was given up
            let _ = events.send(Event::Line(line.trim().to_owned()));
            line.clear();
        }
        let _ = reader.read_to_end(&mut Vec::new());
    }
    let ended = match child.wait() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(match (status.signal(), status.code()) {
            (Some(signal), _) => format!("crashed (signal {signal})"),
            (None, code) => format!("failed (exit {})", code.unwrap_or(-1)),
        }),
        Err(error) => Err(format!("lost: {error}")),
    };
    let _ = events.send(Event::Ended(ended));
}
