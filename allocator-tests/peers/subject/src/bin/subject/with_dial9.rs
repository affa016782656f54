//! dial9's memory profiler, its live set on: a sample, written to one file by its flush thread.

use std::path::Path;

use dial9_core::buffer::{Disk, DiskBuffer, SegmentWriter};
use dial9_core::recording::Recorder;
use dial9_perf_self_profile::memory_profiling::{
    Dial9Allocator, MemoryProfiler, MemoryProfilerGuard, MemoryProfilingConfig,
};
use serde_json::{Value, json};

#[global_allocator]
static ALLOC: Dial9Allocator = Dial9Allocator::system();

pub struct Running {
    recorder: Recorder,
    _guard: MemoryProfilerGuard,
}

pub fn start(mode: &str, _frames: usize, directory: &Path) -> Result<Running, String> {
    if mode != "sampled" {
        return Err(format!("no mode '{mode}' of dial9"));
    }
    let writer: SegmentWriter<Disk> =
        DiskBuffer::single_file(directory.join("dial9.bin")).map_err(|error| format!("dial9's file: {error}"))?;
    let recorder = dial9_core::recorder::recorder(writer).build();
    let config =
        MemoryProfilingConfig::builder().sample_rate_bytes(super::INTERVAL_BYTES as u64).track_liveset(true).build();
    let guard = MemoryProfiler::from_config(config)
        .install(recorder.handle().clone())
        .map_err(|error| format!("dial9 does not start: {error}"))?;
    Ok(Running { recorder, _guard: guard })
}

pub fn facts(_running: &Running) -> Value {
    json!({})
}

pub fn stop(running: Running) -> Result<(), String> {
    drop(running.recorder);
    Ok(())
}
