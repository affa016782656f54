//! The calling-context tree: stacks as numbers.

use crate::sys::sync::{AtomicU32, AtomicU64};

/// A node: one frame below one parent. 32 bytes, complete before one CAS links it, never changed but for its
/// children, its site number and its taint.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct Node {
    /// The frame (`FrameKey`).
    pub(crate) key: AtomicU64,
    /// The parent's `StackId`; its caller's side.
    pub(crate) parent: AtomicU32,
    /// Bits 0..=29: site row + 1 (0: none yet), written by the drain thread alone; bit 30: folded; bit 31: tainted.
    pub(crate) site: AtomicU32,
    /// The insert-only hash trie: children of this *trie* position, by two bits of the hash a level.
    pub(crate) branch: [AtomicU32; 4],
}

#[cfg(not(loom))]
const _: () = assert!(size_of::<Node>() == 32, "a node is half a cache line; the store's layout depends on it");

/// The tree's own words in the store.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct TreeState {
    /// The next id that nobody has.
    pub(crate) next: AtomicU32,
    /// Nodes whose memory exists; ids below are usable.
    pub(crate) laid_out: AtomicU32,
    /// Captures folded into a prefix.
    pub(crate) folded: AtomicU64,
}
