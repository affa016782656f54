//! From registers to a stack's number, inside an allocation.
//!
//! Promises: `capture` never allocates, locks, waits, or unwinds, leaves `errno` alone, needs under 1.5 kB of the
//! caller's stack (what needs more runs on a pooled private one where the stack is short or unknown), and answers what
//! full unwinding would. `start` and `refresh` allocate, take the loader's lock, and belong to the profiler's start
//! and to the drain thread's tick.
//!
//! How: framehop steps by `.eh_frame`; above it each thread remembers its last stack with every word that the steps
//! read (`frame`), so that a repeated stack is proved by comparing memory and a new one steps only where it differs
//! (`walk`). Remembered frames carry their stack's number, so that only new frames are looked up in the tree.
//!
//! | file | part |
//! |---|---|
//! | `frame` | a remembered frame; the comparison that proves a stack |
//! | `thread` | a thread's last stack |
//! | `memo` | exact mode: stacks that a thread captured before the last one |
//! | `scopes` | the scopes that a thread is in: the first nodes of its stacks |
//! | `walk`, `step` | the walk; one step by framehop, row or frame pointer |
//! | `row`, `code` | what tables, and without them the code, say of an address: by which means its frame is left |
//! | `signal` | what the kernel pushed for a signal handler |
//! | `rules` | what rows say of addresses, learned |
//! | `workspace`, `region` | pooled memory: one workspace a thread that unwinds now, one region a thread |
//! | `set` | the published modules, under hazard pointers |
//! | `registry` | start and refresh: which modules are there, whose tables are copied, the self-test |
//!
//! In a forked child the pools and the set work as they are (they change by single atomic operations): what other
//! threads held at the fork is lost to the child, and counts against the pools' limits.
#![allow(unsafe_code, reason = "the pooled memory and the walk on another stack")]

#[cfg(feature = "_synthetic")]
pub(crate) mod alone;
mod code;
mod frame;
mod memo;
mod region;
mod registry;
mod row;
mod rules;
mod scopes;
mod selftest;
mod set;
mod signal;
mod step;
#[cfg(all(test, not(loom)))]
mod tests;
mod thread;
mod walk;
mod workspace;

pub(crate) use registry::{LoadedModule, ModuleSink, after_fork, before_fork, keep_free, refresh, start};
pub(crate) use scopes::Scopes;
pub(crate) use thread::{Captured, ThreadStacks};

use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};

use crate::sys::stack::{self, Registers};
use crate::tree::{Spare, Tree};
use crate::units::{FrameKey, StackId};
use frame::{FIRST, Frame, KEYED};
use rules::Rules;
use set::Set;
use step::Method;
use thread::Outcome;
use walk::Walk;
use workspace::Taken;

/// framehop takes 15 kB of stack (unoptimized: 40 kB, measured by a test); the rest is for what the caller does next.
/// With less left the walk runs on a private stack.
const STACK_NEEDED: u64 = if cfg!(debug_assertions) { 72 * 1024 } else { 24 * 1024 };

/// Frames of a stack that are kept, and one: the capturing function's own.
static CAPACITY: AtomicUsize = AtomicUsize::new(129);
/// The `Method` in force.
static METHOD: AtomicU8 = AtomicU8::new(Method::Framehop as u8);
/// Captures whose replayed and full stacks differed.
static DISAGREEMENTS: AtomicU64 = AtomicU64::new(0);
/// Captures that were compared.
static CHECKED: AtomicU64 = AtomicU64::new(0);
/// Their frames, and how many of those the replay kept.
static CHECKED_FRAMES: AtomicU64 = AtomicU64::new(0);
static KEPT_FRAMES: AtomicU64 = AtomicU64::new(0);
/// Captures that the memo knew the answer of, and was asked for it all the same.
static RECALLED: AtomicU64 = AtomicU64::new(0);

/// What happened since the process began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counters {
    /// Captures that found no workspace: their stacks are the marker alone.
    pub(crate) starved: u64,
    /// Debug mode: captures that were unwound in full as well.
    pub(crate) checked: u64,
    /// Debug mode: those that differed. A bug if not 0.
    pub(crate) disagreements: u64,
    /// Debug mode: frames of those captures, and how many of them were taken from memory with their numbers.
    pub(crate) checked_frames: u64,
    pub(crate) kept_frames: u64,
    /// Debug mode: captures that the memo gave an answer for, which was compared as well.
    pub(crate) recalled: u64,
}

/// Reads the counters.
pub(crate) fn counters() -> Counters {
    // Relaxed: counters.
    Counters {
        starved: workspace::starved(),
        checked: CHECKED.load(Ordering::Relaxed),
        disagreements: DISAGREEMENTS.load(Ordering::Relaxed),
        checked_frames: CHECKED_FRAMES.load(Ordering::Relaxed),
        kept_frames: KEPT_FRAMES.load(Ordering::Relaxed),
        recalled: RECALLED.load(Ordering::Relaxed),
    }
}

/// Debug mode: every capture is also unwound in full, and differences are counted.
pub(crate) fn set_checking(on: bool) {
    set::set_checking(on);
}

/// The stack that `registers` (of the caller, by `Registers::here`) stand on, as a number of `tree`. The function
/// that took the registers is no part of it: its caller is the leaf.
///
/// A repeated stack costs 1 to 1.5 ns a frame; a changed one a workspace (two atomic operations), a step and a tree
/// lookup for each frame that changed.
#[inline]
pub(crate) fn capture(registers: Registers, thread: &mut ThreadStacks, tree: &Tree<'_>) -> Captured {
    match repeated(&registers, thread) {
        Some(captured) => captured,
        None => capture_changed(registers, thread, tree),
    }
}

/// The same, where the thread's last stack is this one; else `None`: see [`capture_changed`].
#[inline(always)]
fn repeated(registers: &Registers, thread: &ThreadStacks) -> Option<Captured> {
    thread.repeat(registers).filter(|_| !set::is_checking())
}

/// As [`repeated`], for any of the stacks that [`capture_anew`] remembered: exact mode's, where every block asks.
#[inline(always)]
pub(crate) fn recalled(registers: Registers, thread: &ThreadStacks) -> Option<Captured> {
    thread.recall(registers, set::recallable())
}

/// As [`capture_changed`], where [`recalled`] did not know the stack: which is remembered beside others.
#[inline]
pub(crate) fn capture_anew(registers: Registers, thread: &mut ThreadStacks, tree: &Tree<'_>) -> Captured {
    if thread.is_new() {
        // What was remembered by the thread that had this stack before.
        thread.prepare(registers.sp, CAPACITY.load(Ordering::Relaxed));
        if let Some(captured) = recalled(registers, thread) {
            return captured;
        }
    }
    let recalled = thread.recall(registers, set::generation());
    let captured = match repeated(&registers, thread) {
        Some(captured) => captured,
        None => capture_changed(registers, thread, tree),
    };
    match recalled {
        None => thread.memorize(),
        // The debug mode: what would have been the answer. Without a workspace there are no frames to compare with.
        Some(recalled) if captured.frames != 0 => {
            // Relaxed: counters.
            RECALLED.fetch_add(1, Ordering::Relaxed);
            DISAGREEMENTS.fetch_add(u64::from(recalled != captured), Ordering::Relaxed);
        }
        Some(_) => {}
    }
    captured
}

/// The same, where [`repeated`] found that it is not.
#[cold]
#[inline(never)]
fn capture_changed(registers: Registers, thread: &mut ThreadStacks, tree: &Tree<'_>) -> Captured {
    let capacity = CAPACITY.load(Ordering::Relaxed);
    thread.prepare(registers.sp, capacity);
    thread.take_root(tree);
    let Some(mut taken) = Taken::take(thread.hint, capacity) else { return nothing(thread, tree) };
    thread.hint = taken.index();
    let captured = match set::protect(taken.hazard()) {
        Some(set) if taken.workspace().cache_fits(set.rules_generation) => {
            with_set(set, &mut taken, capacity, registers, thread, tree)
        }
        _ => {
            workspace::count_starved();
            nothing(thread, tree)
        }
    };
    taken.give_back();
    captured
}

/// No frame at all: the truncation marker.
#[cold]
fn nothing(thread: &mut ThreadStacks, tree: &Tree<'_>) -> Captured {
    let child = tree.child(thread.root(), FrameKey::TRUNCATED, &mut thread.spare);
    Captured { stack: child.id, truncated: true, frames: 0 }
}

fn with_set(
    set: &Set,
    taken: &mut Taken,
    capacity: usize,
    registers: Registers,
    thread: &mut ThreadStacks,
    tree: &Tree<'_>,
) -> Captured {
    let workspace = taken.workspace();
    if thread.generation != set.generation {
        thread.forget_frames();
        thread.generation = set.generation;
    }
    let method = method();
    let known = thread.bounds.contain(registers.sp);
    let remembers = known && method != Method::Backtrace && thread.can_remember(capacity);
    let private = !known || registers.sp - thread.bounds.low < STACK_NEEDED;
    let stack_top = private.then_some(workspace.stack_top);
    let root = thread.root();
    let mut spare = core::mem::take(&mut thread.spare);
    let mut walk = Walk {
        registers,
        set,
        method,
        cache: &mut workspace.cache,
        // SAFETY: of our workspace, zeroed when it was made, used by nobody else.
        rules: (method == Method::Framehop).then(|| Rules::new(unsafe { &mut *workspace.rules }, set)),
        bounds: thread.bounds,
        known,
        remembered: if remembers { thread.frames() } else { &[] },
        remembered_lr: thread.lr,
        remembered_outcome: thread.outcome,
        numbered: thread.numbered,
        // SAFETY: `capacity` frames of our workspace (`take` compared), all bit patterns valid, used by nobody else.
        scratch: unsafe { core::slice::from_raw_parts_mut(workspace.scratch, capacity) },
        made: 0,
        kept: 0,
        outcome: Outcome::Broken,
    };
    run(&mut walk, stack_top);
    let Walk { remembered, kept, outcome, made, .. } = walk;
    let made = &mut core::mem::take(&mut walk.scratch)[..made];
    let parent = match kept.checked_sub(1) {
        Some(deepest) => StackId(remembered[deepest].id),
        None if outcome == Outcome::End => root,
        None => tree.child(root, FrameKey::TRUNCATED, &mut spare).id,
    };
    let numbered = number(made, parent, set, &mut spare, tree);
    let captured = Captured {
        stack: made.first().map_or(parent, |leaf| StackId(leaf.id)),
        truncated: outcome != Outcome::End,
        frames: u32::try_from((made.len() + kept).saturating_sub(1)).unwrap_or(u32::MAX),
    };
    if set::is_checking() {
        (walk.remembered, walk.rules) = (&[], None);
        // SAFETY: as above; the workspace's other buffer.
        walk.scratch = unsafe { core::slice::from_raw_parts_mut(workspace.check, capacity) };
        check(&mut walk, stack_top, (made, &remembered[..kept]), (captured, numbered), root, &mut spare, tree);
    }
    if remembers {
        thread.remember(kept, made);
        thread.outcome = outcome;
        thread.numbered = numbered;
        thread.lr = registers.lr;
    }
    thread.spare = spare;
    captured
}

/// Walks here, or on the private stack whose top is given.
fn run(walk: &mut Walk<'_, '_>, stack_top: Option<u64>) {
    match stack_top {
        None if walk.method == Method::Backtrace => walk.run_backtrace(),
        None => walk.run(),
        // SAFETY: the top of our workspace's stack, which nobody else uses; `walk::run` gets its walk.
        Some(top) => unsafe { stack::call_on_stack(top, walk::run, core::ptr::from_mut(walk).cast()) },
    }
}

/// Gives each new frame its number, from the deepest up. False if the tree was full: the frames above the last that
/// found a node carry its number.
fn number(made: &mut [Frame], parent: StackId, set: &Set, spare: &mut Spare, tree: &Tree<'_>) -> bool {
    let (mut id, mut folded, mut hint) = (parent, false, 0);
    for frame in made.iter_mut().rev() {
        if frame.flags & FIRST == 0 && !folded {
            if frame.flags & KEYED == 0 {
                frame.key = set.key(frame.state.address, &mut hint);
                frame.flags |= KEYED;
            }
            let child = tree.child(id, frame.key, spare);
            (id, folded) = (child.id, child.folded);
        }
        frame.id = id.0;
    }
    !folded
}

/// The debug mode: unwinds in full, and compares every frame, the outcome and the number.
#[cold]
fn check(
    full: &mut Walk<'_, '_>,
    stack_top: Option<u64>,
    (made, kept): (&[Frame], &[Frame]),
    (captured, numbered): (Captured, bool),
    root: StackId,
    spare: &mut Spare,
    tree: &Tree<'_>,
) {
    let outcome = full.outcome;
    run(full, stack_top);
    let found = &mut full.scratch[..full.made];
    let same_frames = made.iter().chain(kept.iter().rev()).map(|f| f.state).eq(found.iter().map(|f| f.state));
    let same_number = !numbered || {
        let parent = match full.outcome {
            Outcome::End => root,
            _ => tree.child(root, FrameKey::TRUNCATED, spare).id,
        };
        number(found, parent, full.set, spare, tree);
        found.first().map_or(parent.0, |leaf| leaf.id) == captured.stack.0
    };
    // Relaxed: counters.
    CHECKED.fetch_add(1, Ordering::Relaxed);
    CHECKED_FRAMES.fetch_add(full.made as u64, Ordering::Relaxed);
    KEPT_FRAMES.fetch_add(kept.len() as u64, Ordering::Relaxed);
    if !(same_frames && same_number && full.outcome == outcome) {
        DISAGREEMENTS.fetch_add(1, Ordering::Relaxed);
    }
}

fn method() -> Method {
    match METHOD.load(Ordering::Relaxed) {
        0 => Method::Framehop,
        1 => Method::FramePointers,
        _ => Method::Backtrace,
    }
}
