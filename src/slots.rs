//! The address range that sampled small blocks, and our own memory, live in.
//!
//! | file | what it holds |
//! |---|---|
//! | `range` | the reservation, taking and giving back |
//! | `range/span` | one class's part of it: its memory, and which slots are free |
//! | `entry` | what is known of a tracked block |
//! | `list` | the lock-free list of free slots |
//! | `range/class` | how large slots are, and which one a block is given |
//! | `range/kept` | the free slots that a thread keeps to itself |

#![allow(unsafe_code, reason = "hands out raw memory")]

pub(crate) mod entry;
pub(crate) mod list;
#[cfg(not(loom))]
mod range;

#[cfg(not(loom))]
pub(crate) use range::{Half, Kept, RANGE, Range, SLOT_MAX_BYTES, Slot, SmallClass};
