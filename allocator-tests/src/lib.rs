//! Programs that each install an allocator of their own.

pub mod cost;
pub mod costs;
pub mod load;
pub mod memory;
pub mod panics;
pub mod runner;
