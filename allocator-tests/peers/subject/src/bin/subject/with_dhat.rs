//! dhat: every block, ten frames by default.

use std::path::Path;

use serde_json::{Value, json};

#[global_allocator]
static ALLOC: dhat::Alloc = dhat::Alloc;

pub fn start(mode: &str, frames: usize, directory: &Path) -> Result<dhat::Profiler, String> {
    if mode != "exact" {
        return Err(format!("no mode '{mode}' of dhat"));
    }
    let builder = dhat::Profiler::builder().file_name(directory.join("dhat.json"));
    Ok(if frames == 0 { builder.build() } else { builder.trim_backtraces(Some(frames)).build() })
}

pub fn facts(_running: &dhat::Profiler) -> Value {
    let stats = dhat::HeapStats::get();
    json!({ "total_blocks": stats.total_blocks, "total_bytes": stats.total_bytes })
}

pub fn stop(running: dhat::Profiler) -> Result<(), String> {
    drop(running);
    Ok(())
}
