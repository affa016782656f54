//! The cold side's engine: the aggregator, which whoever holds its lock may run, and the thread that runs it by habit.
//!
//! Promises: under the aggregator's lock there is no allocation, no user code, no loader's lock, no file I/O and no
//! growth; nobody waits for the lock longer than 100 ms inside an allocation, and its owner never waits for itself.
//! The thread blocks all signals, is called `unfreed`, allocates from memory of our own, and sleeps a tick at a time:
//! a producer's wake-up would cost it a system call. In exact mode it comes as often as rings fill (`drain/pace.rs`).

pub(crate) mod aggregator;
mod epochs;
pub(crate) mod memory;
pub(crate) mod orders;
mod pace;
pub(crate) mod verdict;
pub(crate) mod watch;
pub(crate) mod worker;
