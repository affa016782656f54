//! In place of `unwind` on targets that are not profiled: no module is listed and every stack is unknown.
//!
//! Promises: builds wherever std does. No profile starts here, so nothing of it runs; the types are what the rest is
//! built with.

use core::ops::Range;

use crate::sys::stack::Registers;
use crate::tree::{Spare, Tree};
use crate::units::{FrameKey, ModuleId, StackId};

#[cfg(feature = "_synthetic")]
pub(crate) mod alone;
mod scopes;

pub(crate) use scopes::Scopes;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LoadedModule {
    pub(crate) path: String,
    pub(crate) build_id: Vec<u8>,
    pub(crate) bias: u64,
    pub(crate) text: Range<u64>,
    pub(crate) vdso: bool,
}

pub(crate) trait ModuleSink {
    fn add(&mut self, module: &LoadedModule) -> ModuleId;
    fn unload(&mut self, id: ModuleId);
}

pub(crate) fn before_fork() {}

pub(crate) fn after_fork() {}

pub(crate) fn keep_free(_: usize) {}

pub(crate) fn start(_: usize, _: &mut dyn ModuleSink) -> &'static str {
    "none"
}

pub(crate) fn refresh(_: &mut dyn ModuleSink) {}

pub(crate) fn set_checking(_: bool) {}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counters {
    pub(crate) starved: u64,
    pub(crate) checked: u64,
    pub(crate) disagreements: u64,
    pub(crate) checked_frames: u64,
    pub(crate) kept_frames: u64,
    pub(crate) recalled: u64,
}

pub(crate) fn counters() -> Counters {
    Counters::default()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Captured {
    pub(crate) stack: StackId,
    pub(crate) truncated: bool,
    pub(crate) frames: u32,
}

#[derive(Debug)]
pub(crate) struct ThreadStacks {
    spare: Spare,
    scopes: scopes::Root,
}

impl ThreadStacks {
    pub(crate) const fn new() -> ThreadStacks {
        ThreadStacks { spare: Spare::new(), scopes: scopes::Root::new() }
    }

    pub(crate) fn forget(&mut self, _profile: u32) {
        self.spare = Spare::new();
        self.scopes.forget();
    }

    pub(crate) fn release(&mut self) {}

    pub(crate) fn scopes(&self) -> &Scopes {
        self.scopes.scopes()
    }

    pub(crate) fn change_scopes(&mut self, change: impl FnOnce(&mut Scopes)) {
        change(self.scopes.scopes_mut());
    }
}

pub(crate) fn recalled(_: Registers, _: &ThreadStacks) -> Option<Captured> {
    None
}

/// The truncation marker alone, as of a stack that can't be unwound.
pub(crate) fn capture(_: Registers, thread: &mut ThreadStacks, tree: &Tree<'_>) -> Captured {
    thread.scopes.find(tree, &mut thread.spare);
    let child = tree.child(thread.scopes.node(), FrameKey::TRUNCATED, &mut thread.spare);
    Captured { stack: child.id, truncated: true, frames: 0 }
}

pub(crate) fn capture_anew(registers: Registers, thread: &mut ThreadStacks, tree: &Tree<'_>) -> Captured {
    capture(registers, thread, tree)
}
