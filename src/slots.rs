//! The address range that sampled small blocks, and our own memory, live in.
//!
//! | file | what it holds |
//! |---|---|
//! | `range` | the reservation, its classes, taking and giving back |
//! | `entry` | what is known of a tracked block |
//! | `list` | the lock-free list of free slots |
//! | `range/class` | which slot a block is given |
//! | `range/kept` | the free slots that a thread keeps to itself |

#![allow(unsafe_code, reason = "hands out raw memory")]

pub(crate) mod entry;
pub(crate) mod list;
#[cfg(not(loom))]
mod range;

#[cfg(not(loom))]
pub(crate) use range::{Half, Kept, RANGE, Range, SLOT_MAX_BYTES, Slot, SmallClass};
