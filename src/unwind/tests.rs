//! Replayed stacks are fully unwound stacks, over programs of every shape that we could think of.
//!
//! `UNFREED_CAPTURES` sets how many captures the big test makes (20,000 without it).
#![allow(clippy::cast_possible_truncation, reason = "small test numbers")]

mod loading;
mod programs;
mod resources;
mod shapes;
mod speed;
mod unproved;

use std::cell::UnsafeCell;
use std::sync::{Mutex, MutexGuard, OnceLock};

use super::*;
use crate::tree::{Node, TreeState};
use crate::units::ModuleId;

/// The modules as a store would list them.
#[derive(Default)]
struct Sink {
    rows: Vec<(LoadedModule, bool)>,
}

impl ModuleSink for Sink {
    fn add(&mut self, module: &LoadedModule) -> ModuleId {
        self.rows.push((module.clone(), true));
        ModuleId(self.rows.len() as u16)
    }

    fn unload(&mut self, id: ModuleId) {
        self.rows[usize::from(id.0) - 1].1 = false;
    }
}

impl Sink {
    /// The oracle's own way from address to key: a linear search.
    fn key(&self, return_address: u64) -> FrameKey {
        let call = return_address - 1;
        let row = self.rows.iter().position(|(module, loaded)| *loaded && module.text.contains(&call));
        row.map_or(FrameKey::new(ModuleId(0), return_address), |row| {
            FrameKey::new(ModuleId(row as u16 + 1), return_address - self.rows[row].0.bias)
        })
    }
}

/// The process-wide state that all these tests share, hence one at a time.
struct Session {
    sink: Sink,
    method: &'static str,
    before: Counters,
    _one_at_a_time: MutexGuard<'static, ()>,
}

impl Session {
    fn start(max_frames: usize) -> Session {
        static ONE: Mutex<()> = Mutex::new(());
        let one = ONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        empty_tree_if_full();
        let mut sink = Sink::default();
        let method = super::start(max_frames, &mut sink);
        set_checking(true);
        Session { sink, method, before: counters(), _one_at_a_time: one }
    }

    fn refresh(&mut self) {
        super::refresh(&mut self.sink);
    }

    /// Ends the test: no disagreement, nothing starved, and at least `captures` were compared.
    fn finish(self, captures: u64) {
        let now = counters();
        set_checking(false);
        assert_eq!(now.disagreements - self.before.disagreements, 0);
        assert_eq!(now.starved, self.before.starved);
        assert!(now.checked - self.before.checked >= captures, "{}", now.checked - self.before.checked);
    }
}

fn tree() -> Tree<'static> {
    static TREE: OnceLock<(Vec<Node>, TreeState)> = OnceLock::new();
    let (nodes, state) = TREE.get_or_init(|| {
        let size = 1 << 20;
        ((0..size).map(|_| Node::new()).collect(), TreeState::new(size))
    });
    Tree { nodes, state }
}

/// Empties the tree at half its size, so that numbers are compared and not folds. No other thread is capturing.
fn empty_tree_if_full() {
    let Tree { nodes, state } = tree();
    if state.next.load(Ordering::Relaxed) as usize > nodes.len() / 2 {
        for node in nodes {
            node.key.store(0, Ordering::Relaxed);
            node.parent.store(0, Ordering::Relaxed);
            node.site.store(0, Ordering::Relaxed);
            node.branch.iter().for_each(|branch| branch.store(0, Ordering::Relaxed));
        }
        state.begin(nodes.len() as u32);
    }
    STACKS.with(|stacks| {
        // SAFETY: this thread's own.
        unsafe { &mut *stacks.0.get() }.forget(0);
    });
}

/// A thread's state as the hook has it, but that it retires.
struct Retiring(UnsafeCell<ThreadStacks>);
impl Drop for Retiring {
    fn drop(&mut self) {
        self.0.get_mut().release();
    }
}
thread_local! {
    static STACKS: Retiring = const { Retiring(UnsafeCell::new(ThreadStacks::new())) };
}

/// A capture as the hook makes it in exact mode: by the memo, by replay, and (the debug mode) in full.
#[inline(always)]
fn capture_here() -> Captured {
    let registers = Registers::here();
    STACKS.with(|stacks| {
        // SAFETY: this thread's own, and `capture` does not come back here.
        let stacks = unsafe { &mut *stacks.0.get() };
        capture_anew(registers, stacks, &tree())
    })
}

/// One capture; its caller is the leaf.
#[inline(never)]
fn sample() -> Captured {
    capture_here()
}

/// One capture and what the system's unwinder finds from the same function, as keys, leaf first.
#[inline(never)]
fn sample_and_trace(sink: &Sink) -> (Captured, Vec<FrameKey>) {
    let sp = Registers::here().sp;
    let captured = capture_here();
    let mut system = Vec::new();
    // SAFETY: no symbolization goes on.
    unsafe {
        backtrace::trace_unsynchronized(|frame| {
            // The outermost frame may be reported with no address.
            if frame.sp().addr() as u64 > sp && !frame.ip().is_null() {
                system.push(sink.key(frame.ip().addr() as u64));
            }
            true
        });
    }
    (captured, system)
}

/// The stack's frames, leaf first.
fn frames(captured: &Captured) -> Vec<FrameKey> {
    tree().frames(captured.stack).collect()
}

/// `captured` is what the system's unwinder found, but perhaps for how the two treat the outermost frame.
#[track_caller]
fn assert_is(captured: &Captured, system: &[FrameKey]) {
    let found = frames(captured);
    assert!(!captured.truncated, "{found:x?}");
    assert_eq!(found.len(), captured.frames as usize);
    let common = found.len().min(system.len());
    assert_eq!(found[..common], system[..common]);
    assert!(found.len().max(system.len()) - common <= 1, "{} and {}", found.len(), system.len());
}

struct XorShift(u64);

impl XorShift {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}
