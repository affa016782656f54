//! Captures apart from the hook, into a tree of their own: for what counts their instructions and their allocations.
//!
//! A profile must have run, since it is `start` that lists the modules.

use super::{ThreadStacks, capture};
use crate::sys::stack::Registers;
use crate::tree::{Node, Tree, TreeState};

/// One thread's captures, and their tree.
#[derive(Debug)]
pub struct Captures {
    stacks: ThreadStacks,
    nodes: Box<[Node]>,
    state: TreeState,
}

impl Captures {
    /// With room for so many nodes.
    #[must_use]
    pub fn new(nodes: u32) -> Captures {
        Captures {
            stacks: ThreadStacks::new(),
            nodes: (0..nodes).map(|_| Node::new()).collect(),
            state: TreeState::new(nodes),
        }
    }

    /// The caller's stack: its number, and how many frames were found.
    #[inline(never)]
    pub fn capture(&mut self) -> (u32, u32) {
        let registers = Registers::here();
        let captured = capture(registers, &mut self.stacks, &Tree { nodes: &self.nodes, state: &self.state });
        (captured.stack.0, captured.frames)
    }

    /// Forgets the last stack, so that all frames of the next are new; the code that they are in stays known.
    pub fn forget(&mut self) {
        self.stacks.forget(0);
    }
}

impl Drop for Captures {
    fn drop(&mut self) {
        self.stacks.release();
    }
}
