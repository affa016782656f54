//! mod-alloc: every block, eight frames.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

#[global_allocator]
static ALLOC: mod_alloc::ModAlloc = mod_alloc::ModAlloc::new();

/// Where the profile goes.
pub struct Running(PathBuf);

pub fn start(mode: &str, _frames: usize, directory: &Path) -> Result<Running, String> {
    if mode != "exact" {
        return Err(format!("no mode '{mode}' of mod-alloc"));
    }
    ALLOC.reset();
    Ok(Running(directory.join("mod-alloc.json")))
}

pub fn facts(_running: &Running) -> Value {
    let stats = ALLOC.snapshot();
    json!({ "total_blocks": stats.alloc_count, "total_bytes": stats.total_bytes })
}

pub fn stop(running: Running) -> Result<(), String> {
    ALLOC.write_dhat_json(&running.0).map_err(|error| format!("mod-alloc's dump: {error}"))
}
