//! unfreed over the system's allocator, jemalloc or mimalloc: not started, sampled, governed or exact. `sampled=BYTES` samples at
//! another interval: what a sample really costs is the slope of time over samples at several of them.

use std::path::Path;

use serde_json::{Value, json};
use unfreed::{Alloc, Profiler};

#[cfg(feature = "unfreed")]
#[global_allocator]
static ALLOC: Alloc = Alloc::system();

#[cfg(feature = "unfreed-jemalloc")]
#[global_allocator]
static ALLOC: Alloc<tikv_jemallocator::Jemalloc> = Alloc::new(tikv_jemallocator::Jemalloc);

#[cfg(feature = "unfreed-mimalloc")]
#[global_allocator]
static ALLOC: Alloc<mimalloc_pprof::MiMalloc> = Alloc::new(mimalloc_pprof::MiMalloc);

pub fn start(mode: &str, frames: usize, directory: &Path) -> Result<Option<Profiler>, String> {
    // The defaults otherwise: the store in shared memory, epochs by the clock, a judge.
    let builder = Profiler::builder().output(directory.join("unfreed.json")).quiet();
    // a process that ends at once would leave its store
    let builder = if super::is_counted() { builder.store_in_memory() } else { builder };
    let builder = if frames == 0 { builder } else { builder.max_frames(frames) };
    let builder = match mode {
        "off" => return Ok(None),
        "sampled" => builder.sample_interval(super::INTERVAL_BYTES as u64),
        "governed" => builder,
        "exact" => builder.exact(),
        other => match other.strip_prefix("sampled=").and_then(|bytes| bytes.parse().ok()) {
            Some(bytes) => builder.sample_interval(bytes),
            None => return Err(format!("no mode '{other}' of unfreed")),
        },
    };
    builder.start().map(Some).map_err(|error| format!("unfreed does not start: {error}"))
}

pub fn facts(running: &Option<Profiler>) -> Value {
    let Some(profiler) = running else { return json!({}) };
    let snapshot = profiler.snapshot();
    let totals = snapshot.totals();
    let losses = snapshot.losses();
    let (charged_ns, ..) = unfreed::internals::sampling_costs();
    json!({
        "charged_ns": charged_ns,
        "total_blocks": totals.total_blocks,
        "total_bytes": totals.total_bytes,
        "interval_bytes": snapshot.sample_interval_bytes(),
        "sites": snapshot.sites().len(),
        "unwinder": snapshot.unwinder(),
        "losses": if losses.is_none() { Value::Null } else { json!(losses) },
    })
}

pub fn stop(running: Option<Profiler>) -> Result<(), String> {
    drop(running);
    Ok(())
}
