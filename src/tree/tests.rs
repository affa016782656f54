#![allow(clippy::cast_possible_truncation, reason = "small test numbers")]

use super::*;

fn nodes(n: usize) -> Vec<Node> {
    (0..n).map(|_| Node::new()).collect()
}

#[cfg(not(loom))]
mod plain {
    use super::*;
    use crate::units::ModuleId;
    use std::collections::HashMap;

    struct XorShift(u64);
    impl XorShift {
        fn next(&mut self) -> u64 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            self.0
        }
    }

    fn key(n: u64) -> FrameKey {
        FrameKey::new(ModuleId(3), n)
    }

    #[test]
    fn a_stack_has_one_number_and_gives_its_frames_back() {
        let nodes = nodes(16);
        let state = TreeState::new(16);
        let tree = Tree { nodes: &nodes, state: &state };
        let mut spare = Spare::new();
        let a = tree.child(StackId::ROOT, key(1), &mut spare).id;
        let b = tree.child(a, key(2), &mut spare).id;
        assert_eq!(tree.child(a, key(2), &mut spare), Child { id: b, folded: false });
        assert_ne!(tree.child(b, key(2), &mut spare).id, b);
        assert_eq!(tree.frames(b).collect::<Vec<_>>(), [key(2), key(1)]);
        assert_eq!(tree.frames(StackId::ROOT).count(), 0);
    }

    #[test]
    fn a_full_tree_folds_into_the_parent_and_says_so() {
        let nodes = nodes(8);
        let state = TreeState::new(3);
        let tree = Tree { nodes: &nodes, state: &state };
        let mut spare = Spare::new();
        let a = tree.child(StackId::ROOT, key(1), &mut spare).id;
        let b = tree.child(a, key(2), &mut spare).id;
        assert_eq!(tree.child(b, key(3), &mut spare), Child { id: b, folded: true });
        assert!(tree.is_folded(b) && !tree.is_folded(a));
        assert_eq!(state.folded.load(Ordering::Relaxed), 1);
        // What is there is still found, and more room is used when it comes.
        assert_eq!(tree.child(a, key(2), &mut spare).id, b);
        state.lay_out(8);
        assert!(!tree.child(b, key(3), &mut spare).folded);
    }

    #[test]
    fn a_zeroed_state_hands_out_nothing() {
        let nodes = nodes(8);
        let state = TreeState::new(8);
        state.next.store(0, Ordering::Relaxed);
        let tree = Tree { nodes: &nodes, state: &state };
        assert!(tree.child(StackId::ROOT, key(1), &mut Spare::new()).folded);
    }

    #[test]
    fn marks_and_sites_do_not_disturb_each_other() {
        let nodes = nodes(8);
        let state = TreeState::new(8);
        let tree = Tree { nodes: &nodes, state: &state };
        let a = tree.child(StackId::ROOT, key(1), &mut Spare::new()).id;
        assert_eq!(tree.site(a), None);
        tree.set_site(a, SiteId(0));
        assert_eq!(tree.site(a), Some(SiteId(0)));
        tree.taint(a);
        assert_eq!(tree.site(a), Some(SiteId(0)));
        tree.set_site(a, SiteId((1 << 30) - 2));
        assert_eq!(tree.site(a), Some(SiteId((1 << 30) - 2)));
        assert!(tree.is_tainted(a) && !tree.is_tainted(StackId::ROOT) && !tree.is_folded(a));
    }

    #[test]
    fn corrupt_parents_end() {
        let nodes = nodes(8);
        let state = TreeState::new(8);
        let tree = Tree { nodes: &nodes, state: &state };
        let mut spare = Spare::new();
        let a = tree.child(StackId::ROOT, key(1), &mut spare).id;
        let b = tree.child(a, key(2), &mut spare).id;
        nodes[a.0 as usize].parent.store(b.0, Ordering::Relaxed);
        assert_eq!(tree.frames(b).count(), MAX_DEPTH as usize);
        nodes[a.0 as usize].parent.store(7, Ordering::Relaxed);
        assert_eq!(tree.frames(b).count(), 2, "7 was never handed out");
        assert_eq!(tree.frames(StackId(u32::MAX)).count(), 0);
    }

    /// Against a map of (parent, frame): 60 random shapes.
    #[test]
    fn agrees_with_a_map() {
        let seed = 0x5eed_0001_u64;
        let mut random = XorShift(seed);
        for round in 0..60 {
            let size = 1 + random.next() % 3_000;
            let nodes = nodes(size as usize + 1);
            let laid_out = u32::try_from(size + 1).unwrap();
            let state = TreeState::new(laid_out);
            let tree = Tree { nodes: &nodes, state: &state };
            let mut spare = Spare::new();
            let mut oracle: HashMap<(u32, u64), u32> = HashMap::new();
            let mut made = vec![0_u32];
            let keys = 1 + random.next() % 40;
            for _ in 0..4 * size {
                let parent = made[(random.next() % made.len() as u64) as usize];
                let k = random.next() % keys * if round % 2 == 0 { 1 } else { 1 << 40 };
                let got = tree.child(StackId(parent), key(k), &mut spare);
                match oracle.get(&(parent, k)) {
                    Some(&id) => {
                        assert_eq!(got, Child { id: StackId(id), folded: false }, "seed {seed:#x} round {round}");
                    }
                    None if made.len() <= size as usize => {
                        assert!(!got.folded, "seed {seed:#x} round {round}: room was left");
                        assert!(!made.contains(&got.id.0), "seed {seed:#x} round {round}: numbers are not reused");
                        oracle.insert((parent, k), got.id.0);
                        made.push(got.id.0);
                    }
                    None => {
                        assert_eq!(got, Child { id: StackId(parent), folded: true }, "seed {seed:#x} round {round}");
                    }
                }
            }
        }
    }

    /// Eight threads insert overlapping sets; all must agree on every number, and no node may be lost but spares.
    #[test]
    fn threads_agree() {
        const THREADS: usize = 8;
        let nodes = nodes(40_000);
        let state = TreeState::new(40_000);
        let tree = Tree { nodes: &nodes, state: &state };
        let barrier = std::sync::Barrier::new(THREADS);
        let maps: Vec<HashMap<Vec<u64>, u32>> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..THREADS)
                .map(|thread| {
                    let barrier = &barrier;
                    scope.spawn(move || {
                        let mut random = XorShift(0x1234_5678 + (thread as u64 % 3));
                        let mut spare = Spare::new();
                        let mut seen = HashMap::new();
                        barrier.wait();
                        for _ in 0..4_000 {
                            let mut id = StackId::ROOT;
                            let mut path = Vec::new();
                            for _ in 0..1 + random.next() % 6 {
                                let k = random.next() % 5;
                                path.push(k);
                                let child = tree.child(id, key(k), &mut spare);
                                assert!(!child.folded);
                                id = child.id;
                            }
                            assert!(*seen.entry(path.clone()).or_insert(id.0) == id.0);
                            let mut back: Vec<_> = tree.frames(id).map(FrameKey::offset).collect();
                            back.reverse();
                            assert_eq!(back, path);
                        }
                        seen
                    })
                })
                .collect();
            threads.into_iter().map(|t| t.join().unwrap()).collect()
        });
        let mut all: HashMap<Vec<u64>, u32> = HashMap::new();
        for (path, id) in maps.into_iter().flatten() {
            assert_eq!(*all.entry(path).or_insert(id), id);
        }
        let mut prefixes: std::collections::HashSet<&[u64]> = std::collections::HashSet::new();
        for path in all.keys() {
            for n in 1..=path.len() {
                prefixes.insert(&path[..n]);
            }
        }
        let used = state.next.load(Ordering::Relaxed) as usize - 1;
        assert!(used >= prefixes.len() && used <= prefixes.len() + THREADS, "{used} of {}", prefixes.len());
    }
}

/// `RUSTFLAGS="--cfg loom" cargo test --lib tree --release`
#[cfg(loom)]
mod models {
    use super::*;
    use loom::sync::Arc;
    use loom::thread;

    struct Whole {
        nodes: Vec<Node>,
        state: TreeState,
    }

    fn whole(n: u32) -> Arc<Whole> {
        Arc::new(Whole { nodes: nodes(n as usize), state: TreeState::new(n) })
    }

    /// Two threads insert the same two-frame stack: same numbers, complete frames, one spare at most lost a thread.
    #[test]
    fn same_stack() {
        loom::model(|| {
            let whole = whole(6);
            let other = Arc::clone(&whole);
            let insert = |whole: &Whole| {
                let tree = Tree { nodes: &whole.nodes, state: &whole.state };
                let mut spare = Spare::new();
                let a = tree.child(StackId::ROOT, FrameKey(1), &mut spare);
                let b = tree.child(a.id, FrameKey(2), &mut spare);
                assert!(!a.folded && !b.folded);
                assert_eq!(tree.frames(b.id).collect::<Vec<_>>(), [FrameKey(2), FrameKey(1)]);
                b.id
            };
            let thread = thread::spawn(move || insert(&other));
            let mine = insert(&whole);
            assert_eq!(mine, thread.join().unwrap());
        });
    }

    /// Two different stacks with room for one: each thread gets its own number or folds, and never the other's.
    #[test]
    fn last_node() {
        loom::model(|| {
            let whole = whole(2);
            let other = Arc::clone(&whole);
            let insert = |whole: &Whole, key: u64| {
                let tree = Tree { nodes: &whole.nodes, state: &whole.state };
                let child = tree.child(StackId::ROOT, FrameKey(key), &mut Spare::new());
                if !child.folded {
                    assert_eq!(tree.frames(child.id).collect::<Vec<_>>(), [FrameKey(key)]);
                }
                child
            };
            let thread = thread::spawn(move || insert(&other, 1));
            let mine = insert(&whole, 2);
            let theirs = thread.join().unwrap();
            assert!(mine.folded != theirs.folded, "one node: exactly one gets it");
        });
    }

    /// A stack's number handed to another thread through a Release store is readable there in full.
    #[test]
    fn handed_over() {
        use crate::sys::sync::AtomicU32;
        loom::model(|| {
            let whole = whole(4);
            let mail = Arc::new(AtomicU32::new(0));
            let (other, letter) = (Arc::clone(&whole), Arc::clone(&mail));
            let thread = thread::spawn(move || {
                let tree = Tree { nodes: &other.nodes, state: &other.state };
                let id = tree.child(StackId::ROOT, FrameKey(9), &mut Spare::new()).id;
                tree.taint(id);
                letter.store(id.0, Ordering::Release);
            });
            let id = mail.load(Ordering::Acquire);
            if id != 0 {
                let tree = Tree { nodes: &whole.nodes, state: &whole.state };
                tree.set_site(StackId(id), SiteId(5));
                assert_eq!(tree.frames(StackId(id)).collect::<Vec<_>>(), [FrameKey(9)]);
                assert!(tree.is_tainted(StackId(id)));
            }
            thread.join().unwrap();
        });
    }

    /// Room laid out by another thread while we look for it.
    #[test]
    fn laid_out_meanwhile() {
        loom::model(|| {
            let whole = whole(3);
            whole.state.lay_out(1);
            let other = Arc::clone(&whole);
            let thread = thread::spawn(move || other.state.lay_out(3));
            let tree = Tree { nodes: &whole.nodes, state: &whole.state };
            let mut spare = Spare::new();
            let first = tree.child(StackId::ROOT, FrameKey(1), &mut spare);
            thread.join().unwrap();
            let second = tree.child(StackId::ROOT, FrameKey(1), &mut spare);
            assert!(!second.folded);
            assert!(first.folded || first.id == second.id);
        });
    }
}
