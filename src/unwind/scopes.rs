//! The scopes that a thread is in, and the node of the tree that its stacks begin at because of them.
//!
//! Promises: without a scope stacks begin at the root, and a capture pays nothing for this file but one comparison where its
//! stack changed. Within scopes they begin at the scopes' own pseudo-frames, the outermost first, so that the same
//! calls within and without a scope are different sites, and a site says which scopes it is of. No allocation; the
//! nesting has a limit.

use crate::tree::{Spare, Tree};
use crate::units::{FrameKey, StackId};

/// Scopes within scopes. Far more than anybody nests by hand; `tree::MAX_DEPTH` counts them.
pub(crate) const MOST_NESTED: usize = 8;

/// Numbers of scopes, the outermost first. A scope is listed once for each time that it was entered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Scopes {
    numbers: [u32; MOST_NESTED],
    /// In 0..=MOST_NESTED.
    len: usize,
}

impl Scopes {
    const NONE: Scopes = Scopes { numbers: [0; MOST_NESTED], len: 0 };

    /// The outermost first.
    pub(crate) fn as_slice(&self) -> &[u32] {
        self.numbers.get(..self.len).unwrap_or_default()
    }

    /// Enters `scope`; false where the nesting is at its limit.
    #[must_use]
    pub(crate) fn enter(&mut self, scope: u32) -> bool {
        let Some(place) = self.numbers.get_mut(self.len) else { return false };
        *place = scope;
        self.len += 1;
        true
    }

    /// Leaves `scope`, the innermost of that number, whatever was entered since: guards may be dropped in any order.
    pub(crate) fn leave(&mut self, scope: u32) {
        let Some(at) = self.as_slice().iter().rposition(|&entered| entered == scope) else { return };
        self.numbers.copy_within(at + 1..self.len, at);
        self.len -= 1;
    }
}

/// The scopes with their node in the tree that the thread last captured in.
#[derive(Debug)]
pub(super) struct Root {
    scopes: Scopes,
    node: StackId,
    /// `node` is that of `scopes` in this tree.
    found: bool,
}

impl Root {
    /// In no scope.
    pub(super) const fn new() -> Root {
        Root { scopes: Scopes::NONE, node: StackId::ROOT, found: true }
    }

    pub(super) fn scopes(&self) -> &Scopes {
        &self.scopes
    }

    pub(super) fn scopes_mut(&mut self) -> &mut Scopes {
        self.found = false;
        &mut self.scopes
    }

    /// The tree was emptied.
    pub(super) fn forget(&mut self) {
        self.node = StackId::ROOT;
        self.found = self.scopes.len == 0;
    }

    pub(super) fn node(&self) -> StackId {
        self.node
    }

    #[inline]
    pub(super) fn find(&mut self, tree: &Tree<'_>, spare: &mut Spare) {
        if !self.found {
            self.find_anew(tree, spare);
        }
    }

    #[cold]
    fn find_anew(&mut self, tree: &Tree<'_>, spare: &mut Spare) {
        self.node = StackId::ROOT;
        for &scope in self.scopes.as_slice() {
            // Where no node is left the stack begins further out; the tree counts and marks that.
            self.node = tree.child(self.node, FrameKey::of_scope(scope), spare).id;
        }
        self.found = true;
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn guards_may_be_dropped_in_any_order() {
        let mut scopes = Scopes::NONE;
        for scope in [7, 8, 7, 9] {
            assert!(scopes.enter(scope));
        }
        scopes.leave(8);
        assert_eq!(scopes.as_slice(), [7, 7, 9]);
        scopes.leave(7);
        assert_eq!(scopes.as_slice(), [7, 9], "the inner of the two");
        scopes.leave(1);
        scopes.leave(7);
        scopes.leave(9);
        assert_eq!(scopes, Scopes { numbers: scopes.numbers, len: 0 });
    }

    #[test]
    fn the_nesting_has_a_limit() {
        let mut scopes = Scopes::NONE;
        for scope in 1..=8 {
            assert!(scopes.enter(scope));
        }
        assert!(!scopes.enter(9));
        assert_eq!(scopes.as_slice(), [1, 2, 3, 4, 5, 6, 7, 8]);
    }
}
