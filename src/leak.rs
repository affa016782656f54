//! The judge: which sites leak, how sure, how bad, and what to do. Pure functions over site histories: no clock, no I/O,
//! no threads, no allocation while events are fed or an epoch is closed.
//!
//! **Feeding it.** The drain owns one `History` per site (under 1 KiB, plain data, made ahead as a slice; zeroed bytes are an
//! unused one) and calls, for each record of a sampled block, in the order of time:
//!
//! | record | call | cost |
//! |---|---|---|
//! | first of a site | `history.begin(now)` | 1 KiB written |
//! | `Alloc` | `history.born(now, &block)` | O(1) |
//! | `Free` | `history.freed(birth, now, &block)` | O(1), amortised |
//! | `Forget` | `history.forgotten(birth, now, &block)` | O(1), amortised |
//! | `Resize` | `history.resized(birth, now, &old, &new)` | O(1) |
//! | records were dropped | `history.taint()` | O(1) |
//!
//! `now` and `birth` are numbers of epochs, 0 being the profile's first; the drain maps a record's ticks to them. They go on
//! counting while the program is idle. A `Resize` record carries no birth: pass `None`, which costs the growth its place
//! among the cohorts but nothing of what verdicts rest on. `block.thread` is the number of the ring that the record
//! came from: hash tables are recognised by a birth and a death on one thread.
//!
//! Then, when epoch `now` is over and all of its records are in:
//! - `judge.end_epoch(now, allocations, &mut histories, &mut on_change)`: once for every epoch, without gaps, since it is
//!   there that blocks grow old. `allocations` is the exact number of blocks that the process allocated in the epoch.
//!   About 0.2 µs a site. Neither allocates nor calls anything but `on_change`.
//! - now and then (every 12 epochs, say), where allocation is allowed: `regroup(&mut judge, &mut histories, &frames_of)`.
//!
//! A report is asked for at any time: `assemble::report(&judge, &histories, &process, &source)`. It changes nothing.
//!
//! **How it judges.** Births and deaths fill cohorts (`history`); on each rung of the age ladder maturations are weighed
//! against frees of old blocks (`ladder`); where balance is refuted the gates ask whether growth has lasted, is steady and
//! goes on (`gates`); tables that grow while their predecessors are freed are judged by their rate (`spine`); a case keeps
//! how far its verdict has got, and withdraws it when its grounds go (`case`). Thin sites are pooled (`pool`). A
//! state is a word for all that (`classify`), a severity for the burden (`severity`), of which its pace is one (`growth`), advice for the evidence
//! (`advice`), which rests on what sites do epoch by epoch (`habits`, `activity`), have to do with each other (`relations`)
//! and are called (`clues`). Where resident memory is that is not live, `memory` tells. `simulation` scores it on programs of known guilt; `docs/leak-detection.md` tells users what it means.

pub(crate) mod activity;
mod advice;
pub(crate) mod assemble;
mod case;
mod classify;
pub(crate) mod clues;
mod config;
mod gates;
mod growth;
pub(crate) mod habits;
pub(crate) mod history;
pub(crate) mod judge;
mod ladder;
mod marks;
pub(crate) mod memory;
pub(crate) mod pool;
pub(crate) mod recommend;
pub(crate) mod relations;
mod report;
mod severity;
#[cfg(test)]
mod simulation;
mod spine;
pub(crate) mod state;
mod surroundings;
pub(crate) mod tally;

pub use config::{LeakConfig, LeakConfigError};
pub use memory::{Memory, MemoryCause, Unexplained};
pub(crate) use report::LeakReport;
pub use report::{Evidence, Leak, Unjudged, Withdrawn};
pub use severity::Severity;
pub use state::State;
