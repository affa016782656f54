//! The corpus of leak cases: small deterministic programs of known guilt, run under the real profiler and scored.
//!
//! For whoever changes the judge (`src/leak` of unfreed), to see what that does to programs that allocate rather than to
//! simulated streams. One command runs all of it, `cargo run --release -p corpus -- --write`, and writes
//! `docs/benchmarks/leak-corpus.md`; `allocator-tests/corpus/tests/short.rs` runs each case once.
//!
//! A case (`case`) is a program that is called once an epoch; `cases` lists all of them. Beside each runs the same
//! steady service (`background`), so that the culprit is never the only site. `observe` runs one case in this process,
//! under unfreed's public interface alone; `rivals` runs the same program with the same seed under three simpler rules,
//! which sample and unwind by themselves. `sweep` runs many, each in a process of its own, and `table` writes down what
//! they found.

pub mod arena;
pub mod background;
pub mod bounds;
pub mod case;
pub mod cases;
pub mod chain;
pub mod departures;
pub mod observe;
pub mod outcome;
pub mod random;
pub mod rivals;
pub mod sweep;
pub mod table;
