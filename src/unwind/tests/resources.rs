//! What captures take and share: workspaces, the tree, rules, the caller's stack and `errno`; starting again, and forks.

use std::hint::black_box;

use super::shapes::{recurse, twice};
use super::*;

#[test]
fn start_again_and_forget() {
    for round in 0..20 {
        let session = Session::start([128, 300, 8][round % 3]);
        let [(captured, system), (again, _)] = twice(&session.sink);
        assert_eq!(captured, again);
        if !captured.truncated {
            assert_is(&captured, &system);
        }
        STACKS.with(|stacks| {
            // SAFETY: this thread's own.
            unsafe { &mut *stacks.0.get() }.forget(0);
        });
        let [(captured, _), _] = twice(&session.sink);
        assert_eq!(captured.frames, again.frames);
        session.finish(4);
    }
}

/// One call site for all rounds.
#[inline(never)]
fn repeat(rounds: usize, each: &mut dyn FnMut(usize)) {
    let mut round = 0;
    while round < black_box(rounds) {
        each(round);
        round += 1;
    }
}

#[test]
fn a_full_tree_folds_and_recovers() {
    let session = Session::start(128);
    let nodes: Vec<Node> = (0..4096).map(|_| Node::new()).collect();
    let state = TreeState::new(6);
    let small = Tree { nodes: &nodes, state: &state };
    let mut stacks = ThreadStacks::new();
    #[inline(never)]
    fn at(stacks: &mut ThreadStacks, tree: &Tree<'_>) -> Captured {
        black_box(capture(Registers::here(), stacks, tree))
    }
    let mut all = Vec::new();
    repeat(2, &mut |_| all.push(at(&mut stacks, &small)));
    state.lay_out(4096);
    repeat(2, &mut |_| all.push(at(&mut stacks, &small)));
    assert_eq!(all[0], all[1]);
    assert!(small.is_folded(all[0].stack));
    assert_eq!(small.frames(all[0].stack).count(), 5);
    assert_eq!(state.folded.load(Ordering::Relaxed), 2);
    assert_eq!(small.frames(all[2].stack).count(), all[2].frames as usize);
    assert_eq!(all[2], all[3]);
    stacks.release();
    session.finish(4);
}

/// framehop's module generation wraps at 65,536: a rule cache that old must not be used, and is renewed.
#[test]
fn rules_do_not_survive_the_wrap() {
    let mut session = Session::start(128);
    let mut all = Vec::new();
    registry::age(60_000);
    repeat(2, &mut |_| all.push(sample()));
    assert!(all.iter().all(|captured| captured.truncated && captured.frames == 0), "no cache is young enough: {all:?}");
    assert_eq!(counters().starved - session.before.starved, 2);
    session.before.starved += 2;
    session.refresh();
    all.clear();
    repeat(2, &mut |_| all.push(sample()));
    assert!(!all[0].truncated && all[0].frames > 3 && all[0] == all[1]);
    session.finish(2);
}

/// Threads preempted in the middle of captures, as many as there are workspaces: none goes without.
#[test]
fn a_workspace_for_each_of_64_threads() {
    keep_free(64);
    let session = Session::start(128);
    let barrier = std::sync::Barrier::new(64);
    std::thread::scope(|scope| {
        for thread in 0..64 {
            let barrier = &barrier;
            std::thread::Builder::new()
                .stack_size(128 * 1024)
                .spawn_scoped(scope, move || {
                    barrier.wait();
                    for round in 0..200 {
                        recurse((thread + round) % 40, &mut |_| assert!(sample().frames > 3));
                    }
                })
                .unwrap();
        }
    });
    assert!(region::made() < 200, "regions are handed on: {}", region::made());
    session.finish(262_400);
}

/// One thread after the other on the stack that the first one had: what it remembered answers for the next, of the same profile, and of
/// no other.
#[test]
fn a_thread_inherits_the_stacks_of_the_one_before() {
    #[inline(never)]
    fn at(stacks: &mut ThreadStacks, tree: &Tree<'_>) -> Captured {
        black_box(capture_anew(Registers::here(), stacks, tree))
    }
    /// A thread of this profile, within so many scopes: what it captured first, and whether it knew that.
    fn thread(profile: u32, scopes: u32, tree: Tree<'static>) -> (Captured, bool) {
        let body = move || {
            let mut stacks = ThreadStacks::new();
            stacks.forget(profile);
            for scope in 1..=scopes {
                stacks.change_scopes(|all| assert!(all.enter(scope)));
            }
            let mut captures = Vec::new();
            repeat(4, &mut |_| captures.push((at(&mut stacks, &tree), stacks.frames().is_empty())));
            stacks.release();
            assert!(captures.iter().all(|(captured, _)| *captured == captures[0].0), "{captures:?}");
            captures[0]
        };
        std::thread::Builder::new().stack_size(192 * 1024).spawn(body).expect("spawns").join().expect("no panic")
    }
    let nodes: &'static [Node] = Box::leak((0..4096).map(|_| Node::new()).collect());
    let state: &'static TreeState = Box::leak(Box::new(TreeState::new(4096)));
    let other = Tree { nodes, state };
    // Otherwise the same calls have other numbers there by chance alone.
    other.child(StackId::ROOT, FrameKey(1), &mut Spare::new());
    let session = Session::start(128);
    set_checking(false);
    let (first, known) = thread(7, 0, tree());
    assert!(!known, "nobody was there before");
    let heirs = (0..20).map(|_| thread(7, 0, tree())).collect::<Vec<_>>();
    assert!(heirs.iter().all(|(captured, _)| *captured == first), "{first:?} {heirs:?}");
    assert!(heirs.iter().any(|(_, known)| *known), "{heirs:?}");
    // Whoever stands between the same calls, but in a scope, in the tree of another profile, or in nobody's.
    for round in 0..4 {
        let (in_scope, known) = thread(7, 1, tree());
        assert!(!known && in_scope.stack != first.stack, "{round}");
        assert_eq!(thread(7, 0, tree()).0, first);
        let (elsewhere, known) = thread(8, 0, other);
        assert!(!known || round > 0, "the tree is another");
        assert!(other.frames(elsewhere.stack).eq(tree().frames(first.stack)), "{round}");
        let (nobodys, known) = thread(0, 0, other);
        assert!(!known && nobodys == elsewhere, "{round}");
    }
    // And the debug mode compares what would have been inherited with the whole stack.
    set_checking(true);
    let before = counters();
    for _ in 0..20 {
        assert_eq!(thread(7, 0, tree()).0, first);
    }
    let now = counters();
    assert_eq!(now.disagreements, before.disagreements);
    assert!(now.recalled - before.recalled > 20 * 2, "{} and {}", now.recalled, before.recalled);
    session.finish(20 * 4);
}

/// Without a workspace nobody waits: the stack is the marker, that is counted, and the next tick makes more.
#[test]
fn without_a_workspace() {
    let mut session = Session::start(128);
    let mut all = Vec::new();
    while let Some(taken) = Taken::take(0, 1) {
        all.push(taken);
    }
    let before = counters().starved;
    let captured = sample();
    assert_eq!((captured.frames, captured.truncated), (0, true));
    assert_eq!(frames(&captured), [FrameKey::TRUNCATED]);
    assert_eq!(counters().starved, before + 1);
    session.refresh();
    assert!(sample().frames > 3);
    all.into_iter().for_each(Taken::give_back);
    session.before.starved = counters().starved;
    session.finish(1);
}

/// `errno` is the caller's own, also after probing and first captures.
#[test]
fn errno_is_left_alone() {
    let session = Session::start(128);
    std::thread::spawn(|| {
        // SAFETY: no preconditions.
        let place = unsafe { libc::__errno_location() };
        for value in [4321, 77] {
            // SAFETY: this thread's errno.
            unsafe { *place = value };
            sample();
            // SAFETY: this thread's errno.
            assert_eq!(unsafe { *place }, value);
        }
    })
    .join()
    .unwrap();
    session.finish(2);
}

/// In a forked child, at whatever moment of the parent's other threads, captures and a new start work.
#[test]
fn a_forked_child_captures_and_starts_again() {
    let mut session = Session::start(128);
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        // The registry is in use all the time.
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                super::super::refresh(&mut Sink::default());
            }
        });
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                recurse(30, &mut |_| {
                    black_box(sample());
                });
            }
        });
        for round in 0..30 {
            before_fork();
            // SAFETY: the child uses only what this module promises for it, and ends by `_exit`. (It allocates, which
            // glibc permits after a fork.)
            let child = unsafe { libc::fork() };
            after_fork();
            if child == 0 {
                let mut good = true;
                recurse(10, &mut |_| good &= sample().frames > 0);
                if round % 2 == 0 {
                    let mut sink = Sink::default();
                    good &= super::super::start(64, &mut sink) == "framehop + replay";
                    super::super::refresh(&mut sink);
                    recurse(10, &mut |_| good &= sample().frames > 0);
                }
                good &= counters().disagreements == session.before.disagreements;
                // SAFETY: ends the child at once.
                unsafe { libc::_exit(if good { 7 } else { 8 }) };
            }
            let mut status = 0;
            // SAFETY: our child and a place for its status.
            assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
            assert!(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 7, "round {round}: {status:#x}");
            session.refresh();
        }
        stop.store(true, Ordering::Relaxed);
    });
    session.before.starved = counters().starved;
    session.finish(100);
}

/// What a capture takes of the caller's stack: little, for a repeated stack and where the private stack is used.
#[test]
fn stack_use() {
    const PAINT: u64 = 0x5aa5_5aa5_dead_beef;
    const GAP: u64 = 1024;
    /// Bytes below its own frame that `work` wrote to.
    #[inline(never)]
    fn used(work: &mut dyn FnMut()) -> u64 {
        const WORDS: u64 = 16 * 1024;
        let here = Registers::here().sp & !15;
        // Below this frame and those of the loops here, and above the guard: a thread of 2 MiB.
        let low = here - GAP - WORDS * 8;
        let word = |i: u64| stack::pointer::<u64>(low + i * 8);
        // SAFETY: dead memory of this thread's stack.
        (0..WORDS).for_each(|i| unsafe { word(i).write_volatile(PAINT) });
        work();
        // SAFETY: as above.
        let untouched = (0..WORDS).take_while(|i| unsafe { word(*i).read_volatile() } == PAINT).count() as u64;
        GAP + (WORDS - untouched) * 8
    }
    let mut session = Session::start(128);
    set_checking(false);
    // New workspaces, whose rule caches are cold.
    registry::age(30_000);
    session.refresh();
    std::thread::spawn(|| {
        let mut stacks = ThreadStacks::new();
        let tree = tree();
        #[inline(never)]
        fn at(stacks: &mut ThreadStacks, tree: &Tree<'_>) -> Captured {
            black_box(capture(Registers::here(), stacks, tree))
        }
        let cold = used(&mut || {
            at(&mut stacks, &tree);
        });
        let mut figures = Vec::new();
        for private in [false, true, true] {
            if private {
                // As if the stack ended 16 KiB below.
                stacks.bounds.low = Registers::here().sp - 16 * 1024;
            }
            for forget in [true, false] {
                figures.push(used(&mut || {
                    if forget {
                        stacks.forget_frames();
                    }
                    at(&mut stacks, &tree);
                }));
            }
        }
        println!("stack use in bytes: cold {cold}; own stack, repeated; private, repeated; again: {figures:?}");
        let least = if cfg!(target_arch = "x86_64") { 8_000 } else { 4_000 };
        assert!(cold > least, "framehop's 14 kB are seen; on aarch64 what reads a row");
        assert!(cold < STACK_NEEDED - 8 * 1024, "and leave room for signal handlers");
        let most = if cfg!(debug_assertions) { 6_000 } else { 1_500 };
        assert!(figures[2] < most && figures[4] < most && figures[5] < most);
        stacks.release();
    })
    .join()
    .unwrap();
    session.finish(0);
}
