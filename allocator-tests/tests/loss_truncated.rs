//! Exact mode counts every stack that was cut, exactly, whichever way it was captured and wherever its thread is by now:
//! remembered stacks are counted by their threads, which the profiler asks only when it makes figures.

use std::hint::black_box;
use std::sync::{Arc, Barrier};

use unfreed::{Profiler, Snapshot};

#[global_allocator]
static ALLOC: unfreed::Alloc = unfreed::Alloc::system();

const BLOCKS: u64 = 20_000;

/// Blocks, each at a stack of more than the frames that are kept.
#[inline(never)]
fn deep(frames: u32, blocks: u64) {
    if frames > 0 {
        deep(frames - 1, blocks);
        black_box(());
        return;
    }
    for n in 0..blocks {
        // Two places in turn, so that stacks are told apart, and not only repeated.
        if n % 2 == 0 {
            black_box(Box::new(n));
        } else {
            black_box(Box::new([n; 3]));
        }
    }
}

fn begin() -> Profiler {
    Profiler::builder().exact().max_frames(4).no_output().quiet().store_in_memory().start().expect("starts")
}

/// Those cut in this profile; nothing else was lost.
fn cut(snapshot: &Snapshot) -> u64 {
    let losses = snapshot.losses();
    assert_eq!((losses.dropped_records, losses.untracked_blocks, losses.folded_stacks), (0, 0, 0));
    losses.truncated_stacks
}

#[test]
fn cut_stacks_are_counted_exactly() {
    // Twice: the second profile begins at nothing, with threads that counted in the first.
    let (in_step, stays) = (Arc::new(Barrier::new(2)), Arc::new(Barrier::new(2)));
    let other = {
        let (in_step, stays) = (in_step.clone(), stays.clone());
        std::thread::spawn(move || {
            for _ in 0..2 {
                in_step.wait();
                deep(10, BLOCKS);
                in_step.wait();
                stays.wait();
            }
        })
    };
    for _ in 0..2 {
        let profiler = begin();
        let at_first = profiler.snapshot();
        let (cut_at_first, blocks_at_first) = (cut(&at_first), at_first.totals().total_blocks);
        drop(at_first);
        deep(10, BLOCKS);
        in_step.wait();
        in_step.wait();
        // One that lives on, and one that has ended.
        std::thread::spawn(|| deep(10, BLOCKS)).join().expect("a thread of ours");
        let last = profiler.snapshot();
        let (cut, blocks) = (cut(&last) - cut_at_first, last.totals().total_blocks - blocks_at_first);
        // Nothing grows meanwhile (a block in the totals, and no stack: so nothing is printed), and every stack of this program has more than 4 frames, those of a thread's beginning too.
        assert!(blocks >= 3 * BLOCKS, "{blocks}");
        assert_eq!(cut, blocks);
        // Asked again, the same: nothing is counted twice.
        let again = profiler.snapshot();
        assert_eq!(self::cut(&again) - cut_at_first, again.totals().total_blocks - blocks_at_first);
        drop(profiler);
        stays.wait();
    }
    other.join().expect("a thread of ours");
}
