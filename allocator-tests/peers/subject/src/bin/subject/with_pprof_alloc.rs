//! pprof-alloc's wrapper over the system's allocator: a sample.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

#[global_allocator]
static ALLOC: pprof_alloc::PprofAlloc = pprof_alloc::PprofAlloc::new().with_pprof_sample_rate(super::INTERVAL_BYTES);

/// Where the profile goes.
pub struct Running(PathBuf);

pub fn start(mode: &str, _frames: usize, directory: &Path) -> Result<Running, String> {
    if mode != "sampled" {
        return Err(format!("no mode '{mode}' of pprof-alloc"));
    }
    Ok(Running(directory.join("pprof-alloc.pb.gz")))
}

pub fn facts(_running: &Running) -> Value {
    json!({})
}

pub fn stop(running: Running) -> Result<(), String> {
    let profile = pprof_alloc::generate_pprof().map_err(|error| format!("pprof-alloc's dump: {error}"))?;
    std::fs::write(&running.0, profile).map_err(|error| format!("pprof-alloc's file: {error}"))
}
