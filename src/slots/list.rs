//! A lock-free stack of free slot numbers, linked through the slots' entries.
//!
//! Treiber's stack with a tag against ABA: the head is (tag, index + 1) in one word, and the tag grows with every
//! change, so that a popper that slept through 2^32 changes would be needed to go wrong. Entries are never unmapped, so
//! reading the link of a slot that somebody else just took is harmless: the exchange then fails.

use crate::slots::entry::Entry;
use crate::sys::sync::{AtomicU64, Ordering};

/// What a free list is linked through.
pub(crate) trait Linked {
    /// Index + 1 of the next; of what is not in a list, anything.
    fn next(&self) -> u32;
    fn set_next(&self, next: u32);
}

impl Linked for Entry {
    fn next(&self) -> u32 {
        Entry::next(self)
    }

    fn set_next(&self, next: u32) {
        Entry::set_next(self, next);
    }
}

/// The list's head.
#[derive(Debug)]
pub(crate) struct FreeList {
    /// Tag in the upper half; index + 1 in the lower, 0: empty.
    head: AtomicU64,
}

impl FreeList {
    #[cfg(not(loom))]
    pub(crate) const fn new() -> FreeList {
        FreeList { head: AtomicU64::new(0) }
    }

    #[cfg(loom)]
    pub(crate) fn new() -> FreeList {
        FreeList { head: AtomicU64::new(0) }
    }

    /// Takes the number that was given back last.
    pub(crate) fn pop<L: Linked>(&self, links: &[L]) -> Option<u32> {
        // Acquire: pairs with the Release in `push`, so that the link read below is the pusher's.
        let mut head = self.head.load(Ordering::Acquire);
        loop {
            let index = low(head).checked_sub(1)?;
            let next = links.get(index as usize)?.next();
            let new = tagged(head, next);
            // Acquire on both ways: the next round reads through the head that it returns.
            match self.head.compare_exchange(head, new, Ordering::Acquire, Ordering::Acquire) {
                Ok(_) => return Some(index),
                Err(seen) => head = seen,
            }
        }
    }

    /// Takes up to `most` numbers at once: the first, and how many; they stay linked, and the last one's link is of no
    /// meaning. Links that change while they are followed change the tag too, and the exchange fails.
    pub(crate) fn pop_chain<L: Linked>(&self, links: &[L], most: u32) -> Option<(u32, u32)> {
        // Acquire: as in `pop`.
        let mut head = self.head.load(Ordering::Acquire);
        loop {
            let first = low(head).checked_sub(1)?;
            let mut next = links.get(first as usize)?.next();
            let mut count = 1;
            while count < most
                && let Some(index) = next.checked_sub(1)
                && let Some(link) = links.get(index as usize)
            {
                next = link.next();
                count += 1;
            }
            // Acquire on both ways: as in `pop`.
            match self.head.compare_exchange(head, tagged(head, next), Ordering::Acquire, Ordering::Acquire) {
                Ok(_) => return Some((first, count)),
                Err(seen) => head = seen,
            }
        }
    }

    /// Gives `index` back.
    pub(crate) fn push<L: Linked>(&self, links: &[L], index: u32) {
        self.push_chain(links, index, index);
    }

    /// Gives back all numbers from `first` to `last`, which the caller linked.
    pub(crate) fn push_chain<L: Linked>(&self, links: &[L], first: u32, last: u32) {
        let Some(link) = links.get(last as usize) else { return };
        // Relaxed: `head` is only compared; the exchange publishes.
        let mut head = self.head.load(Ordering::Relaxed);
        loop {
            link.set_next(low(head));
            // Release: pairs with the Acquire in `pop`.
            match self.head.compare_exchange(head, tagged(head, first + 1), Ordering::Release, Ordering::Relaxed) {
                Ok(_) => return,
                Err(seen) => head = seen,
            }
        }
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the lower half")]
fn low(head: u64) -> u32 {
    head as u32
}

fn tagged(old: u64, link: u32) -> u64 {
    ((old >> 32).wrapping_add(1) << 32) | u64::from(link)
}

#[cfg(all(test, loom))]
mod models {
    use super::*;
    use crate::sys::sync::AtomicU32;
    use loom::sync::Arc;
    use loom::thread;

    struct Link(AtomicU32);

    impl Linked for Link {
        fn next(&self) -> u32 {
            self.0.load(Ordering::Relaxed)
        }

        fn set_next(&self, next: u32) {
            self.0.store(next, Ordering::Relaxed);
        }
    }

    /// What is left when the threads are done, in order.
    fn left(list: &FreeList, links: &[Link]) -> Vec<u32> {
        let mut left: Vec<u32> = std::iter::from_fn(|| list.pop(links)).collect();
        left.sort_unstable();
        left
    }

    #[test]
    fn two_threads_never_hold_the_same_chain() {
        loom::model(|| {
            let links = Arc::new([Link(AtomicU32::new(0)), Link(AtomicU32::new(0)), Link(AtomicU32::new(0))]);
            let owners = Arc::new([AtomicU32::new(0), AtomicU32::new(0), AtomicU32::new(0)]);
            let list = Arc::new(FreeList::new());
            (0..3).for_each(|index| list.push(&links[..], index));
            let work = move |list: &FreeList, links: &[Link], owners: &[AtomicU32]| {
                let Some((first, count)) = list.pop_chain(links, 2) else { return };
                let mut last = first;
                for held in 0..count {
                    if held > 0 {
                        last = links[last as usize].0.load(Ordering::Relaxed) - 1;
                    }
                    assert_eq!(owners[last as usize].swap(1, Ordering::Relaxed), 0, "held twice");
                }
                let mut at = first;
                for held in 0..count {
                    if held > 0 {
                        at = links[at as usize].0.load(Ordering::Relaxed) - 1;
                    }
                    owners[at as usize].store(0, Ordering::Relaxed);
                }
                list.push_chain(links, first, last);
            };
            let other = {
                let (list, links, owners) = (list.clone(), links.clone(), owners.clone());
                thread::spawn(move || work(&list, &links[..], &owners[..]))
            };
            work(&list, &links[..], &owners[..]);
            other.join().unwrap();
            assert_eq!(left(&list, &links[..]), [0, 1, 2], "nothing lost");
        });
    }

    /// ABA: between a popper's look at the first link and its exchange, the first two are taken and the first comes back.
    #[test]
    fn a_first_that_went_and_came_back_is_another() {
        for chains in [false, true] {
            loom::model(move || {
                let links = Arc::new([Link(AtomicU32::new(0)), Link(AtomicU32::new(0)), Link(AtomicU32::new(0))]);
                let list = Arc::new(FreeList::new());
                (0..3).for_each(|index| list.push(&links[..], index));
                let other = {
                    let (list, links) = (list.clone(), links.clone());
                    thread::spawn(move || {
                        let first = list.pop(&links[..]).expect("one of three, of which the other takes at most one");
                        let second = list.pop(&links[..]).expect("the same");
                        list.push(&links[..], first);
                        second
                    })
                };
                let popped =
                    if chains { list.pop_chain(&links[..], 1).map(|(first, _)| first) } else { list.pop(&links[..]) };
                let mut held = vec![popped.expect("one of three, of which the other takes at most two")];
                held.push(other.join().unwrap());
                held.extend(left(&list, &links[..]));
                held.sort_unstable();
                assert_eq!(held, [0, 1, 2], "each is held by one, or in the list");
            });
        }
    }

    #[test]
    fn two_threads_never_hold_the_same_slot() {
        loom::model(|| {
            let links = Arc::new([Link(AtomicU32::new(0)), Link(AtomicU32::new(0))]);
            let owners = Arc::new([AtomicU32::new(0), AtomicU32::new(0)]);
            let list = Arc::new(FreeList::new());
            list.push(&links[..], 0);
            list.push(&links[..], 1);
            let work = move |list: &FreeList, links: &[Link], owners: &[AtomicU32]| {
                for _ in 0..2 {
                    if let Some(index) = list.pop(links) {
                        assert_eq!(owners[index as usize].swap(1, Ordering::Relaxed), 0, "held twice");
                        owners[index as usize].store(0, Ordering::Relaxed);
                        list.push(links, index);
                    }
                }
            };
            let other = {
                let (list, links, owners) = (list.clone(), links.clone(), owners.clone());
                thread::spawn(move || work(&list, &links[..], &owners[..]))
            };
            work(&list, &links[..], &owners[..]);
            other.join().unwrap();
            assert_eq!(left(&list, &links[..]), [0, 1], "nothing lost");
        });
    }
}
