//! The published unwinder: framehop's modules, and the table that turns addresses into (module, offset).
//!
//! Promises: a set never changes; a new one takes its place by one pointer swap; who holds a `Slot`'s hazard on a set
//! can use it until the hazard is cleared, since `retire` frees only sets that no hazard names.
//!
//! Source: hazard pointers (Michael 2004), one word a workspace.
#![allow(unsafe_code, reason = "a pointer to the published set, freed by hazard")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering};

use framehop::{MustNotAllocateDuringUnwind, UnwinderNative};

use super::workspace;
use crate::units::{FrameKey, ModuleId};

/// framehop over tables that live as long as their set.
pub(super) type Unwinder = UnwinderNative<&'static [u8], MustNotAllocateDuringUnwind>;

/// Unwind tables of a module that may be unloaded: our own copy.
pub(super) struct Tables {
    pub(super) eh_frame_hdr: Box<[u8]>,
    pub(super) eh_frame: Box<[u8]>,
}

/// One module's executable addresses.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    pub(super) start: u64,
    pub(super) end: u64,
    pub(super) bias: u64,
    pub(super) module: ModuleId,
}

/// Unwind tables, where they are read from and where they say they are.
#[derive(Clone, Copy)]
pub(super) struct Sections {
    pub(super) eh_frame_hdr: &'static [u8],
    pub(super) eh_frame_hdr_address: u64,
    pub(super) eh_frame: &'static [u8],
    pub(super) eh_frame_address: u64,
}

/// A module's code and its tables.
pub(super) struct Loaded {
    pub(super) start: u64,
    pub(super) end: u64,
    pub(super) bias: u64,
    pub(super) sections: Sections,
}

/// All that a walk needs to know about the loaded modules.
pub(super) struct Set {
    pub(super) unwinder: Unwinder,
    /// Sorted by start, disjoint.
    pub(super) spans: Box<[Span]>,
    /// The same with their tables, and all that the store had no room for.
    pub(super) modules: Box<[Loaded]>,
    /// Counts publications; remembered frames of another generation are worthless.
    pub(super) generation: u64,
    /// framehop's (wrapping 16-bit) module generation, as we count it; see `workspace`.
    pub(super) rules_generation: u64,
    /// Address bits of a return address; the others may be a signature (aarch64).
    #[cfg_attr(target_arch = "x86_64", expect(dead_code, reason = "no signatures there"))]
    pub(super) address_mask: u64,
    /// What the unwinder's slices point into.
    #[expect(dead_code, reason = "keeps them")]
    pub(super) tables: Vec<Arc<Tables>>,
}

impl Set {
    /// The module whose code lies at `address`.
    pub(super) fn module(&self, address: u64) -> Option<&Loaded> {
        let after = self.modules.partition_point(|module| module.start <= address);
        self.modules.get(after.checked_sub(1)?).filter(|module| address < module.end)
    }

    /// The tree's key of a return address. Binary search; consecutive frames mostly lie in one module, so `hint`
    /// (an index into the spans) is tried first.
    pub(super) fn key(&self, return_address: u64, hint: &mut usize) -> FrameKey {
        // The call itself: a call that never returns may be the last instruction of its module.
        let call = return_address.wrapping_sub(1);
        let inside = |span: &&Span| span.start <= call && call < span.end;
        let span = self.spans.get(*hint).filter(inside).or_else(|| {
            *hint = self.spans.partition_point(|span| span.start <= call).checked_sub(1)?;
            self.spans.get(*hint).filter(inside)
        });
        match span {
            Some(span) => FrameKey::new(span.module, return_address.wrapping_sub(span.bias)),
            None => FrameKey::new(ModuleId(0), return_address),
        }
    }
}

/// The set in force; null before the first start.
static PUBLISHED: AtomicPtr<Set> = AtomicPtr::new(core::ptr::null_mut());
/// Its generation, so that a repeated stack need not touch the set; 0 before the first start.
static GENERATION: AtomicU64 = AtomicU64::new(0);

/// The debug mode: unwind in full as well.
static CHECKING: AtomicBool = AtomicBool::new(false);
/// What `recallable` answers.
static RECALLABLE: AtomicU64 = AtomicU64::new(0);

/// Is every capture to be unwound in full as well?
#[inline]
pub(super) fn is_checking() -> bool {
    // Relaxed: a mode of the tests.
    CHECKING.load(Ordering::Relaxed)
}

pub(super) fn set_checking(on: bool) {
    CHECKING.store(on, Ordering::SeqCst);
    settle_recallable();
}

/// The generation in force; 0, which is no memo's, in the debug mode: so that exact mode asks once for both.
#[inline(always)]
pub(super) fn recallable() -> u64 {
    // Acquire: as in `generation`.
    RECALLABLE.load(Ordering::Acquire)
}

/// After a change of either. Whoever stores last has seen both.
fn settle_recallable() {
    let now = || if CHECKING.load(Ordering::SeqCst) { 0 } else { GENERATION.load(Ordering::SeqCst) };
    loop {
        let generation = now();
        // SeqCst: before the look whether it is still so.
        RECALLABLE.store(generation, Ordering::SeqCst);
        if now() == generation {
            return;
        }
    }
}

/// The generation in force.
#[inline]
pub(super) fn generation() -> u64 {
    // Acquire: partner of `publish`; who sees a generation sees (at least) its set.
    GENERATION.load(Ordering::Acquire)
}

/// Puts `set` in force. Returns the one before, to be retired.
pub(super) fn publish(set: Box<Set>) -> *mut Set {
    let generation = set.generation;
    // SeqCst: one order with the hazards (see `protect`).
    let old = PUBLISHED.swap(Box::into_raw(set), Ordering::SeqCst);
    GENERATION.store(generation, Ordering::SeqCst);
    settle_recallable();
    old
}

/// Names the published set in `hazard` and returns it; `None` before the first start. Sets change once a tick at
/// most, so the second round is rare and the limit never met.
#[inline]
pub(super) fn protect(hazard: &AtomicPtr<Set>) -> Option<&Set> {
    for _ in 0..16 {
        let set = PUBLISHED.load(Ordering::Acquire);
        // SeqCst, both: either `reap` sees our hazard, or we see that another set was published before it looked.
        hazard.store(set, Ordering::SeqCst);
        if PUBLISHED.load(Ordering::SeqCst) == set {
            // SAFETY: null, or made by `publish` and not freed while our hazard names it.
            return unsafe { set.as_ref() };
        }
    }
    None
}

/// Frees those of the retired sets that no hazard names; the others stay for the next tick. Their number is bounded
/// by that of the workspaces.
pub(super) fn reap(retired: &mut Vec<*mut Set>) {
    retired.retain(|&set| {
        let used = workspace::hazards().any(|hazard| hazard.load(Ordering::SeqCst) == set);
        if !used {
            // SAFETY: made by `publish`, not in force any more, named by no hazard, and in this list once.
            drop(unsafe { Box::from_raw(set) });
        }
        used
    });
}
