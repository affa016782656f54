//! The calling-context tree: stacks as numbers.
//!
//! Promises: a (parent, frame) pair has one number for ever; a number names a whole stack; a node is complete before
//! the one CAS that links it, so whoever can see a number can read its frames; numbers are never reused. Nobody
//! waits: a thread that loses the race for a place keeps its unlinked node as a spare and goes on from the winner's.
//! When no node is left the parent's number is returned, the parent is marked as folded and the event is counted.
//!
//! Never allocates, locks, or panics; touches no node at or above `laid_out`.
//!
//! How: one insert-only hash trie over a slice of nodes, four ways a level. The search for (parent, frame) starts
//! **at the parent's own node**, not at the top: the places that it walks over hold any nodes (each is compared in
//! full), but most parents have few children, so a child is found in one or two steps where a search from the top
//! takes log4 of all nodes. No table beside the nodes is needed, and node 0, the empty stack, is the top.
//!
//! Source: the hash trie is Wellons's 'hash-trie' (2023), made concurrent; starting at the parent is our own.

mod node;
#[cfg(test)]
mod tests;

pub(crate) use node::{Node, TreeState};

use crate::sys::sync::Ordering;
#[cfg(test)]
use crate::units::SiteId;
use crate::units::{FrameKey, StackId};
pub(crate) use node::{FOLDED, SITE_MASK, TAINTED};

/// The longest stack that `frames` follows: `max_frames` is at most 1,024, one marker, and 8 scopes (`unwind::scopes`). A
/// limit, so that a corrupt file's cycle of parents ends.
pub(crate) const MAX_DEPTH: u32 = 1_034;

/// Steps after which a search gives up and folds: far beyond what any set of hashes reaches (about log4 of the
/// number of nodes), there so that no corruption can hold a thread.
const MAX_LEVELS: u32 = 256;

/// An unlinked node that this thread claimed and has not used. Belongs to one tree life: clear it when the tree is
/// emptied.
#[derive(Debug, Default)]
pub(crate) struct Spare(u32);

impl Spare {
    /// No spare.
    pub(crate) const fn new() -> Spare {
        Spare(0)
    }
}

/// What `Tree::child` found or made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Child {
    /// The stack's number; the parent's, if folded.
    pub(crate) id: StackId,
    /// No node was left: the frame is not represented.
    pub(crate) folded: bool,
}

/// A view of the tree: the nodes (in the mapped store, or a test's vector) and their state.
#[derive(Clone, Copy)]
pub(crate) struct Tree<'a> {
    /// Zeroed where not yet used. Only `[0, laid_out)` is touched.
    pub(crate) nodes: &'a [Node],
    /// Beside them, in the store's header.
    pub(crate) state: &'a TreeState,
}

/// Spreads parent and frame over 64 bits; the top two are used at each level.
#[inline]
fn spread(parent: StackId, key: FrameKey) -> u64 {
    // Return addresses differ in few low bits: one round for the key, which processors work out before the parent is known.
    let key = key.0.wrapping_mul(0xd6e8_feb8_6659_fd93);
    let key = key ^ (key >> 32);
    // One multiplication from the parent to the place to look at: of the next frame's search this is the whole delay.
    (key ^ u64::from(parent.0)).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

impl<'a> Tree<'a> {
    /// The stack `key` called from `parent`, made if it was not there. About 3 ns a trie level in cache.
    #[inline]
    pub(crate) fn child(&self, parent: StackId, key: FrameKey, spare: &mut Spare) -> Child {
        let mut hash = spread(parent, key);
        let mut place = parent.0;
        for level in 1..=MAX_LEVELS {
            let Some(node) = self.node(place) else { break };
            let slot = &node.branch[(hash >> 62) as usize];
            // Acquire: partner of the linking CAS below; what it linked is complete.
            let mut found = slot.load(Ordering::Acquire);
            if found == 0 {
                let Some((fresh, id)) = self.claim(spare) else { break };
                // Relaxed: nobody else can see this node before the CAS, which releases them.
                fresh.key.store(key.0, Ordering::Relaxed);
                fresh.parent.store(parent.0, Ordering::Relaxed);
                // AcqRel: releases the two stores above to every Acquire load of the slot; on failure acquires the winner's.
                match slot.compare_exchange(0, id, Ordering::AcqRel, Ordering::Acquire) {
                    Ok(_) => {
                        spare.0 = 0;
                        return Child { id: StackId(id), folded: false };
                    }
                    Err(winner) => found = winner,
                }
            }
            let Some(other) = self.node(found) else { break };
            // Relaxed: written before the link that we acquired, and never again.
            if other.key.load(Ordering::Relaxed) == key.0 && other.parent.load(Ordering::Relaxed) == parent.0 {
                return Child { id: StackId(found), folded: false };
            }
            place = found;
            // 32 levels use up the hash.
            hash = if level % 32 == 0 { spread(StackId(level), FrameKey(hash)) } else { hash.rotate_left(2) };
        }
        self.fold(parent)
    }

    /// This thread's spare, or a new node.
    fn claim(&self, spare: &mut Spare) -> Option<(&'a Node, u32)> {
        if spare.0 == 0 {
            // Acquire: partner of `lay_out`'s Release; nodes below the bound are zeroed and backed by memory.
            let laid_out = self.state.laid_out.load(Ordering::Acquire);
            // Relaxed: a number carries no data; the node behind it is untouched until its claimer writes it.
            let mut next = self.state.next.load(Ordering::Relaxed);
            loop {
                if next == 0 || next >= laid_out {
                    return None;
                }
                match self.state.next.compare_exchange_weak(next, next + 1, Ordering::Relaxed, Ordering::Relaxed) {
                    Ok(_) => break,
                    Err(now) => next = now,
                }
            }
            spare.0 = next;
        }
        Some((self.node(spare.0)?, spare.0))
    }

    #[cold]
    fn fold(&self, parent: StackId) -> Child {
        if let Some(node) = self.node(parent.0) {
            // Relaxed: a mark, read by the drain thread at its next look.
            node.site.fetch_or(FOLDED, Ordering::Relaxed);
        }
        // Relaxed: a counter.
        self.state.folded.fetch_add(1, Ordering::Relaxed);
        Child { id: parent, folded: true }
    }

    #[inline]
    fn node(&self, id: u32) -> Option<&'a Node> {
        self.nodes.get(id as usize)
    }

    /// Marks `id`: records of this stack were lost, so what is live there is not known.
    pub(crate) fn taint(&self, id: StackId) {
        if let Some(node) = self.node(id.0) {
            // Release: partner of `is_tainted`; who sees the mark sees the loss counted before it.
            node.site.fetch_or(TAINTED, Ordering::Release);
        }
    }

    /// `taint` was called for `id`.
    pub(crate) fn is_tainted(&self, id: StackId) -> bool {
        self.node(id.0).is_some_and(|node| node.site.load(Ordering::Acquire) & TAINTED != 0)
    }

    /// Other stacks were folded into `id` because the tree was full.
    pub(crate) fn is_folded(&self, id: StackId) -> bool {
        self.node(id.0).is_some_and(|node| node.site.load(Ordering::Relaxed) & FOLDED != 0)
    }

    /// Gives `id` its row in the table of sites, as attribution does. For tests.
    #[cfg(test)]
    pub(crate) fn set_site(&self, id: StackId, site: SiteId) {
        debug_assert!(site.0 < SITE_MASK, "30 bits of site rows");
        if let Some(node) = self.node(id.0) {
            let row = (site.0 + 1) & SITE_MASK;
            // Relaxed: read by the drain thread itself; other threads change the two marks at the same time, hence the loop.
            let _ = node.site.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |old| Some(old & !SITE_MASK | row));
        }
    }

    /// The row that `set_site` gave `id`. For tests.
    #[cfg(test)]
    pub(crate) fn site(&self, id: StackId) -> Option<SiteId> {
        let row = self.node(id.0)?.site.load(Ordering::Relaxed) & SITE_MASK;
        row.checked_sub(1).map(SiteId)
    }

    /// The stack's frames, leaf first. Ends at the root, at a number that was never handed out, and after `MAX_DEPTH`
    /// frames. The reader follows a copy of its own (`store::decode`). For tests.
    #[cfg(test)]
    pub(crate) fn frames(&self, id: StackId) -> Frames<'a> {
        // Acquire: pairs with nothing of ours (ids carry their own link); keeps the bound no older than the id.
        Frames { tree: *self, at: id.0, bound: self.state.next.load(Ordering::Acquire), left: MAX_DEPTH }
    }
}

/// Iterator of `Tree::frames`.
#[cfg(test)]
pub(crate) struct Frames<'a> {
    tree: Tree<'a>,
    at: u32,
    bound: u32,
    left: u32,
}

#[cfg(test)]
impl Iterator for Frames<'_> {
    type Item = FrameKey;

    fn next(&mut self) -> Option<FrameKey> {
        if self.at == 0 || self.at >= self.bound || self.left == 0 {
            return None;
        }
        let node = self.tree.node(self.at)?;
        self.left -= 1;
        // Relaxed: whoever got the id acquired the link behind it.
        self.at = node.parent.load(Ordering::Relaxed);
        Some(FrameKey(node.key.load(Ordering::Relaxed)))
    }
}
