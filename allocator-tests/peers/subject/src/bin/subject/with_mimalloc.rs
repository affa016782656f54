//! mimalloc, of the crate mimalloc-pprof: without its profiler (then it is plain mimalloc) or with it.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

#[global_allocator]
static ALLOC: mimalloc_pprof::MiMalloc = mimalloc_pprof::MiMalloc;

/// Where the profile goes, if one is made.
pub struct Running(Option<PathBuf>);

pub fn start(mode: &str, _frames: usize, directory: &Path) -> Result<Running, String> {
    match mode {
        "off" => Ok(Running(None)),
        "sampled" if mimalloc_pprof::prof::start(super::INTERVAL_BYTES) => {
            Ok(Running(Some(directory.join("mimalloc.prof"))))
        }
        "sampled" => Err("mimalloc's profiler does not start".to_owned()),
        other => Err(format!("no mode '{other}' of mimalloc")),
    }
}

pub fn facts(_running: &Running) -> Value {
    json!({})
}

pub fn stop(running: Running) -> Result<(), String> {
    let Some(path) = running.0 else { return Ok(()) };
    mimalloc_pprof::prof::dump_file(&path).map_err(|error| format!("mimalloc's dump: {error}"))
}
