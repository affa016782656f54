//! heapscope: every block or a sample, 64 frames at most.

use std::path::Path;

use heapscope::{Output, Profiler};
use serde_json::{Value, json};

#[global_allocator]
static ALLOC: heapscope::Alloc = heapscope::Alloc::system();

pub fn start(mode: &str, frames: usize, directory: &Path) -> Result<Profiler, String> {
    let builder = Profiler::builder().output(Output::dhat_v2(directory.join("heapscope.json")));
    let builder = match mode {
        "exact" => builder,
        "sampled" => builder.sampling(super::INTERVAL_BYTES as u64),
        other => return Err(format!("no mode '{other}' of heapscope")),
    };
    let builder = if frames == 0 { builder } else { builder.max_depth(frames) };
    builder.build().map_err(|error| format!("heapscope does not start: {error}"))
}

pub fn facts(running: &Profiler) -> Value {
    let stats = running.stats();
    json!({ "total_blocks": stats.total_blocks, "total_bytes": stats.total_bytes, "dropped": stats.dropped_blocks })
}

pub fn stop(running: Profiler) -> Result<(), String> {
    drop(running);
    Ok(())
}
