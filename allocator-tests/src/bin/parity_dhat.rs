//! Runs one of the programs of the comparison under the dhat crate: `parity_dhat PROGRAM SEED FILE`.

#[path = "../parity/programs.rs"]
mod programs;

#[global_allocator]
static ALLOC: dhat::Alloc = dhat::Alloc;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let seed = arguments[2].parse().expect("a number");
    let builder = dhat::Profiler::builder().trim_backtraces(None).file_name(&arguments[3]);
    let profiler = builder.build();
    let kept = programs::run(&arguments[1], seed);
    drop(profiler);
    drop(kept);
}
