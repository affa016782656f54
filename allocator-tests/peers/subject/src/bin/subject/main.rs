//! The program that is measured: one workload under one profiler, which a cargo feature chose.
//!
//! `subject MODE WORKLOAD THREADS WARM_UP OPERATIONS FRAMES DIRECTORY [SLICES OF]` starts the profiler, warms up, measures the
//! workload alone, ends the profiler (timed apart; its files go to DIRECTORY) and prints one line of JSON. FRAMES is the
//! depth of stacks, 0 for the profiler's own default. With SLICES the first so many of OF slices of OPERATIONS each are done, and the
//! program stops after the warm-up and after each of them until it is woken ([`pacer`]).
//! With `PEERS_COUNTED` set it ends at once after the workload, without a dump: for callgrind, which counts all of a process.
//! `PEERS_LAYOUT` is the number of the heap's layout ([`workloads::heap`]), 0 where it is not set.
//! A second thread is there from the beginning and sleeps: glibc's malloc takes 2% fewer instructions in a process that never
//! had one, so that a profiler with a thread of its own would be charged with what every service pays anyway.
//! The workload `server` prints its port first and is driven by another process, which measures.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use serde_json::json;

// Each file has the `#[global_allocator]`, if any, and `start`, `facts` and `stop` of one profiler.
#[cfg_attr(feature = "dhat", path = "with_dhat.rs")]
#[cfg_attr(feature = "dial9", path = "with_dial9.rs")]
#[cfg_attr(feature = "heapscope", path = "with_heapscope.rs")]
#[cfg_attr(any(feature = "jemalloc", feature = "jemalloc-prof"), path = "with_jemalloc.rs")]
#[cfg_attr(any(feature = "mimalloc", feature = "mimalloc-pprof"), path = "with_mimalloc.rs")]
#[cfg_attr(feature = "mod-alloc", path = "with_mod_alloc.rs")]
#[cfg_attr(feature = "pprof-alloc", path = "with_pprof_alloc.rs")]
#[cfg_attr(
    any(feature = "unfreed", feature = "unfreed-jemalloc", feature = "unfreed-mimalloc"),
    path = "with_unfreed.rs"
)]
mod without;
use without as profiler;
mod pacer;
use pacer::{Pacer, Taken};

/// Bytes between sample points, where a profiler samples.
#[allow(dead_code, reason = "not all profilers sample")]
const INTERVAL_BYTES: usize = 512 * 1024;

/// Whether only the workload is to be counted.
fn is_counted() -> bool {
    std::env::var_os("PEERS_COUNTED").is_some()
}

struct Arguments {
    mode: String,
    workload: String,
    threads: usize,
    warm_up: u64,
    operations: u64,
    frames: usize,
    directory: PathBuf,
    /// How many are done, and how many there would be.
    slices: Option<(u64, u64)>,
}

fn arguments() -> Result<Arguments, String> {
    let given: Vec<String> = std::env::args().skip(1).collect();
    let [mode, workload, threads, warm_up, operations, frames, directory, slices @ ..] = given.as_slice() else {
        return Err("usage: subject MODE WORKLOAD THREADS WARM_UP OPERATIONS FRAMES DIRECTORY [SLICES OF]".to_owned());
    };
    let number = |what: &str, text: &str| text.parse::<u64>().map_err(|_| format!("{what} is '{text}', not a number"));
    Ok(Arguments {
        mode: mode.clone(),
        workload: workload.clone(),
        threads: number("THREADS", threads)? as usize,
        warm_up: number("WARM_UP", warm_up)?,
        operations: number("OPERATIONS", operations)?,
        frames: number("FRAMES", frames)? as usize,
        directory: PathBuf::from(directory),
        slices: match slices {
            [slices, of] => Some((number("SLICES", slices)?, number("OF", of)?)),
            _ => None,
        },
    })
}

fn main() {
    if let Err(error) = run() {
        eprintln!("subject: {error}");
        std::process::exit(1);
    }
}

fn run() -> Result<(), String> {
    let arguments = arguments()?;
    let mut workload = match arguments.workload.as_str() {
        "server" => None,
        name => Some(workloads::make(name, arguments.threads).ok_or_else(|| format!("no workload '{name}'"))?),
    };
    let running = profiler::start(&arguments.mode, arguments.frames, &arguments.directory)?;

    let _: std::thread::JoinHandle<()> = std::thread::spawn(|| {
        loop {
            std::thread::park();
        }
    });
    let layout = std::env::var("PEERS_LAYOUT").ok().and_then(|layout| layout.parse().ok()).unwrap_or(0);
    workloads::heap::lay_out(layout);

    let taken = Arc::new(Mutex::new(Taken::default()));
    if let Some(workload) = &mut workload {
        let (slices, of) = arguments.slices.map_or((None, 1), |(slices, of)| (Some(slices), of));
        let mut pacer = Pacer::new(slices, Arc::clone(&taken));
        let turns = workloads::Turns::new(arguments.warm_up, arguments.operations, of, move |sum| pacer.pause(sum));
        workload.run(&Arc::new(turns));
    } else {
        workloads::server::serve(|port| println!("{}", json!({ "port": port })))
            .map_err(|error| format!("the server: {error}"))?;
    }
    if is_counted() {
        // SAFETY: ends the process; nothing is to be written or freed.
        unsafe { libc::_exit(0) };
    }
    let peak_rss_kib = peak_rss_kib();

    let facts = profiler::facts(&running);
    let begin = Instant::now();
    profiler::stop(running)?;
    let dump_ns = begin.elapsed().as_nanos();
    let Taken { checksum, wall_ns, cpu_ns } = *taken.lock().unwrap_or_else(PoisonError::into_inner);
    println!(
        "{}",
        json!({
            "checksum": format!("{checksum:016x}"),
            "wall_ns": wall_ns,
            "cpu_ns": cpu_ns,
            "dump_ns": u64::try_from(dump_ns).unwrap_or(u64::MAX),
            "peak_rss_kib": peak_rss_kib,
            "facts": facts,
        })
    );
    Ok(())
}

fn peak_rss_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|rest| rest.split_whitespace().next()).and_then(|number| number.parse().ok()).unwrap_or(0)
}
