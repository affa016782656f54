//! The tree's memory: nodes and counters as they lie in the mapped store. Plain atomics, valid when zeroed.

#[cfg(any(test, feature = "_synthetic"))]
use crate::sys::sync::Ordering;
use crate::sys::sync::{AtomicU32, AtomicU64};

/// Bits of `Node::site` that hold the row + 1.
pub(crate) const SITE_MASK: u32 = (1 << 30) - 1;
/// Bit of `Node::site`: the tree was full, and stacks below this one were counted here.
pub(crate) const FOLDED: u32 = 1 << 30;
/// Bit of `Node::site`: records of this stack were lost.
pub(crate) const TAINTED: u32 = 1 << 31;

/// A node: one frame below one parent. 32 bytes, complete before one CAS links it, never changed but for its
/// children, its site number and its marks.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct Node {
    /// The frame (`FrameKey`).
    pub(crate) key: AtomicU64,
    /// The parent's `StackId`; its caller's side.
    pub(crate) parent: AtomicU32,
    /// Bits 0..=29: site row + 1 (0: none yet), written by the drain thread alone; bit 30: folded; bit 31: tainted.
    pub(crate) site: AtomicU32,
    /// The insert-only hash trie: what comes after this *trie* place, by two bits of the hash a level; 0 is empty.
    pub(crate) branch: [AtomicU32; 4],
}

#[cfg(not(loom))]
const _: () = assert!(size_of::<Node>() == 32, "a node is half a cache line; the store's layout depends on it");

/// The tree's counters. Zeroed is 'not started': nothing can be claimed until `begin`.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct TreeState {
    /// The next number to hand out, in 1..=laid_out once begun.
    pub(crate) next: AtomicU32,
    /// Nodes `[0, laid_out)` are zeroed and backed by memory. Grown by the drain thread alone.
    pub(crate) laid_out: AtomicU32,
    /// Frames that found no node.
    pub(crate) folded: AtomicU64,
}

#[cfg(not(loom))]
const _: () = assert!(size_of::<TreeState>() == 16, "part of the store's header");

/// For tests: the store makes nodes of zeroed memory.
#[cfg(any(test, feature = "_synthetic"))]
impl Node {
    /// An empty node: what zeroed memory is.
    pub(crate) fn new() -> Node {
        Node {
            key: AtomicU64::new(0),
            parent: AtomicU32::new(0),
            site: AtomicU32::new(0),
            branch: [AtomicU32::new(0), AtomicU32::new(0), AtomicU32::new(0), AtomicU32::new(0)],
        }
    }
}

/// For tests: the store sets both numbers itself.
#[cfg(any(test, feature = "_synthetic"))]
impl TreeState {
    /// The state of an empty tree whose first `laid_out` nodes (the root among them) are zeroed memory.
    pub(crate) fn new(laid_out: u32) -> TreeState {
        let state = TreeState { next: AtomicU32::new(0), laid_out: AtomicU32::new(0), folded: AtomicU64::new(0) };
        state.begin(laid_out);
        state
    }

    /// Begins, or begins again after all nodes were zeroed: no thread may be using the tree or keep a `Spare` of it.
    pub(crate) fn begin(&self, laid_out: u32) {
        self.folded.store(0, Ordering::Relaxed);
        self.next.store(1, Ordering::Relaxed);
        self.lay_out(laid_out);
    }

    /// Raises the number of usable nodes, which must be zeroed and backed by memory. The drain thread alone.
    pub(crate) fn lay_out(&self, laid_out: u32) {
        // Release: partner of the Acquire in `Tree::claim`.
        self.laid_out.store(laid_out, Ordering::Release);
    }
}
