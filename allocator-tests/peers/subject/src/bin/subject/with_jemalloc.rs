//! jemalloc, without a profiler (built without it) or with its own.

use std::path::Path;
#[cfg(feature = "jemalloc-prof")]
use std::path::PathBuf;

use serde_json::{Value, json};

#[global_allocator]
static ALLOC: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Read by jemalloc when it starts: 2^19 bytes between sample points.
#[cfg(feature = "jemalloc-prof")]
#[unsafe(export_name = "_rjem_malloc_conf")]
pub static CONFIGURATION: &[u8; 45] = b"prof:true,prof_active:true,lg_prof_sample:19\0";

#[cfg(feature = "jemalloc-prof")]
pub struct Running(PathBuf);

#[cfg(feature = "jemalloc-prof")]
pub fn start(mode: &str, _frames: usize, directory: &Path) -> Result<Running, String> {
    if mode != "sampled" {
        return Err(format!("no mode '{mode}' of jemalloc's profiler"));
    }
    // SAFETY: the name ends in a zero, and the value's type is the option's.
    let active: bool = unsafe { tikv_jemalloc_ctl::raw::read(b"prof.active\0") }
        .map_err(|error| format!("jemalloc's profiler is not there: {error}"))?;
    // SAFETY: as above.
    let sample: usize = unsafe { tikv_jemalloc_ctl::raw::read(b"prof.lg_sample\0") }
        .map_err(|error| format!("jemalloc's profiler is not there: {error}"))?;
    if !active || 1 << sample != super::INTERVAL_BYTES {
        return Err(format!("jemalloc's profiler: active {active}, every 2^{sample} bytes"));
    }
    Ok(Running(directory.join("jemalloc.heap")))
}

#[cfg(feature = "jemalloc-prof")]
pub fn facts(_running: &Running) -> Value {
    json!({})
}

#[cfg(feature = "jemalloc-prof")]
pub fn stop(running: Running) -> Result<(), String> {
    let path = std::ffi::CString::new(running.0.into_os_string().into_encoded_bytes()).map_err(|e| e.to_string())?;
    // SAFETY: the name ends in a zero; the value is a pointer to a C string that lives until the call has returned.
    unsafe { tikv_jemalloc_ctl::raw::write(b"prof.dump\0", path.as_ptr()) }
        .map_err(|error| format!("jemalloc's dump: {error}"))
}

#[cfg(not(feature = "jemalloc-prof"))]
pub fn start(mode: &str, _frames: usize, _directory: &Path) -> Result<(), String> {
    if mode == "off" { Ok(()) } else { Err(format!("no mode '{mode}' without a profiler")) }
}

#[cfg(not(feature = "jemalloc-prof"))]
pub fn facts((): &()) -> Value {
    json!({})
}

#[cfg(not(feature = "jemalloc-prof"))]
pub fn stop((): ()) -> Result<(), String> {
    Ok(())
}
