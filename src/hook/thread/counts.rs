//! Counts that several threads touch: those of threads without a block, and where a profile's counts begin.
//!
//! Promises: no lock, no wait. A baseline is read whole or not at all, whatever its owner is doing meanwhile (a sequence
//! lock whose sequence is the profile's number; Boehm, MSPC 2012 for the fences).

use std::cell::Cell;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

use crate::hook::hot::Counters;

pub(super) const ZERO: Counters = Counters {
    alloc_bytes: 0,
    alloc_blocks: 0,
    kept_bytes: 0,
    reallocs: 0,
    free_bytes: 0,
    free_blocks: 0,
    older_bytes: 0,
    older_blocks: 0,
};

/// Eight counters in the order of `Counters`' fields.
#[derive(Debug)]
pub(in crate::hook) struct Shared {
    fields: [AtomicU64; 8],
}

impl Shared {
    pub(super) const fn new() -> Shared {
        Shared { fields: [const { AtomicU64::new(0) }; 8] }
    }

    /// By any thread.
    pub(in crate::hook) fn add(&self, c: Counters) {
        for (field, value) in self.fields.iter().zip(values(c)) {
            if value != 0 {
                // Release: pairs with the Acquire in `read`, as the hot counters do.
                field.fetch_add(value, Ordering::Release);
            }
        }
    }

    pub(super) fn read(&self) -> Counters {
        let [a, b, c, d, e, f, g, h] = &self.fields;
        // The frees first, as in `totals`.
        let get = |field: &AtomicU64| field.load(Ordering::Acquire);
        let (free_bytes, free_blocks, older_bytes, older_blocks) = (get(e), get(f), get(g), get(h));
        Counters {
            alloc_bytes: get(a),
            alloc_blocks: get(b),
            kept_bytes: get(c),
            reallocs: get(d),
            free_bytes,
            free_blocks,
            older_bytes,
            older_blocks,
        }
    }

    pub(super) fn zero(&self) {
        self.set(ZERO);
    }

    pub(super) fn set(&self, c: Counters) {
        for (field, value) in self.fields.iter().zip(values(c)) {
            // Relaxed: published by what comes after, a profile's number or the registry's lock.
            field.store(value, Ordering::Relaxed);
        }
    }
}

fn values(c: Counters) -> [u64; 8] {
    [
        c.alloc_bytes,
        c.alloc_blocks,
        c.kept_bytes,
        c.reallocs,
        c.free_bytes,
        c.free_blocks,
        c.older_bytes,
        c.older_blocks,
    ]
}

/// What a thread had counted when it adopted a profile, and which older blocks it has freed since. Its owner writes.
#[derive(Debug)]
pub(super) struct Baseline {
    /// The profile that the rest belongs to; 0 while it is being written, and before the first.
    profile: AtomicU32,
    base: Shared,
    older_bytes: AtomicU64,
    older_blocks: AtomicU64,
    /// Truncated stacks that the owner counted itself, in this profile.
    truncated: AtomicU64,
}

impl Baseline {
    pub(super) const fn new() -> Baseline {
        Baseline {
            profile: AtomicU32::new(0),
            base: Shared::new(),
            older_bytes: AtomicU64::new(0),
            older_blocks: AtomicU64::new(0),
            truncated: AtomicU64::new(0),
        }
    }

    /// By the owner: what it counts from here on is `profile`'s.
    pub(super) fn begin(&self, profile: u32, counted: Counters) {
        self.profile.store(0, Ordering::Relaxed);
        // Release: pairs with the Acquire fence in `of`: who saw a word of the new baseline sees that it had begun.
        fence(Ordering::Release);
        self.base.set(counted);
        self.older_bytes.store(0, Ordering::Relaxed);
        self.older_blocks.store(0, Ordering::Relaxed);
        self.truncated.store(0, Ordering::Relaxed);
        // Release: pairs with the Acquire in `of`: who sees the number sees the whole baseline.
        self.profile.store(profile, Ordering::Release);
    }

    /// By the owner: an older block of `bytes` left.
    pub(super) fn count_older(&self, bytes: u64) {
        self.older_bytes.store(self.older_bytes.load(Ordering::Relaxed).wrapping_add(bytes), Ordering::Release);
        self.older_blocks.store(self.older_blocks.load(Ordering::Relaxed).wrapping_add(1), Ordering::Release);
    }

    /// By the owner: a stack that it captured was truncated. 3 instructions.
    #[inline(always)]
    pub(super) fn count_truncated(&self) {
        self.truncated.store(self.truncated.load(Ordering::Relaxed).wrapping_add(1), Ordering::Release);
    }

    /// The truncated stacks that the owner counted in `profile`; 0 where `of` has no answer.
    pub(super) fn truncated(&self, profile: u32) -> u64 {
        self.read(profile, || self.truncated.load(Ordering::Acquire)).unwrap_or(0)
    }

    /// What to add to the thread's counters to get those of `profile`; `None` if it has not adopted that, or is at
    /// adopting another.
    pub(super) fn of(&self, profile: u32) -> Option<Counters> {
        self.read(profile, || {
            let older = Counters {
                older_bytes: self.older_bytes.load(Ordering::Acquire),
                older_blocks: self.older_blocks.load(Ordering::Acquire),
                ..ZERO
            };
            older.minus(self.base.read())
        })
    }

    /// What `words` says of `profile`, whole; else `None`.
    fn read<T>(&self, profile: u32, words: impl FnOnce() -> T) -> Option<T> {
        let belongs = |order| self.profile.load(order) == profile;
        // Acquire: as said in `begin`.
        if profile == 0 || !belongs(Ordering::Acquire) {
            return None;
        }
        let read = words();
        fence(Ordering::Acquire);
        belongs(Ordering::Relaxed).then_some(read)
    }
}

/// The truncated stacks of all threads of a profile, on their way to where losses are counted. Under the registry's lock.
pub(super) struct Truncated {
    /// Of ended threads.
    ended: Cell<u64>,
    told: Cell<u64>,
}

impl Truncated {
    pub(super) const fn new() -> Truncated {
        Truncated { ended: Cell::new(0), told: Cell::new(0) }
    }

    /// Another profile begins.
    pub(super) fn begin(&self) {
        self.ended.set(0);
        self.told.set(0);
    }

    /// A thread that counted so many has ended.
    pub(super) fn end(&self, counted: u64) {
        self.ended.set(self.ended.get().wrapping_add(counted));
    }

    /// The threads that live counted so many: those of all that are not told of yet.
    pub(super) fn untold(&self, counted: u64) -> u64 {
        let all = self.ended.get().wrapping_add(counted);
        all.saturating_sub(self.told.replace(all))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;

    fn all(value: u64) -> Counters {
        Counters {
            alloc_bytes: value,
            alloc_blocks: value,
            kept_bytes: value,
            reallocs: value,
            free_bytes: value,
            free_blocks: value,
            older_bytes: value,
            older_blocks: value,
        }
    }

    /// The owner adopts one profile after another, readers ask for each: they get that profile's baseline or nothing.
    #[test]
    fn a_baseline_is_read_whole_or_not_at_all() {
        const PROFILES: u32 = 200_000;
        let (baseline, done) = (Arc::new(Baseline::new()), Arc::new(AtomicBool::new(false)));
        let readers: Vec<_> = (0..2)
            .map(|_| {
                let (baseline, done) = (baseline.clone(), done.clone());
                std::thread::spawn(move || {
                    let mut whole = 0u64;
                    while !done.load(Ordering::Relaxed) {
                        // The one in force, whose end may come at any moment.
                        let profile = baseline.profile.load(Ordering::Relaxed);
                        if let Some(found) = baseline.of(profile) {
                            let negated = ZERO.minus(all(u64::from(profile)));
                            assert_eq!(values(found), values(negated), "of profile {profile}");
                            whole += 1;
                        }
                    }
                    whole
                })
            })
            .collect();
        // Goes on until both readers had their share of a running change, on one processor too.
        for profile in 1..=PROFILES {
            baseline.begin(profile, all(u64::from(profile)));
            if profile % 1000 == 0 {
                std::thread::yield_now();
            }
        }
        done.store(true, Ordering::Relaxed);
        for reader in readers {
            assert!(reader.join().is_ok_and(|whole| whole > 0), "half a baseline, or nothing at all, was read");
        }
        assert!(baseline.of(PROFILES - 1).is_none() && baseline.of(PROFILES).is_some());
    }

    #[test]
    fn truncated_stacks_begin_anew_with_each_profile() {
        let baseline = Baseline::new();
        baseline.begin(1, ZERO);
        baseline.count_truncated();
        baseline.count_truncated();
        assert_eq!((baseline.truncated(1), baseline.truncated(2)), (2, 0));
        let all = Truncated::new();
        assert_eq!((all.untold(2), all.untold(2), all.untold(5)), (2, 0, 3));
        // One of them ends, and another begins.
        all.end(4);
        assert_eq!((all.untold(1), all.untold(2)), (0, 1));
        baseline.begin(2, ZERO);
        all.begin();
        baseline.count_truncated();
        assert_eq!((baseline.truncated(1), all.untold(baseline.truncated(2))), (0, 1));
    }

    #[test]
    fn older_blocks_begin_anew_with_each_profile() {
        let baseline = Baseline::new();
        assert!(baseline.of(0).is_none() && baseline.of(1).is_none());
        baseline.begin(1, ZERO);
        baseline.count_older(100);
        baseline.count_older(28);
        let found = baseline.of(1).map(|c| (c.older_bytes, c.older_blocks));
        assert_eq!(found, Some((128, 2)));
        baseline.begin(2, ZERO);
        assert_eq!(baseline.of(2).map(|c| c.older_blocks), Some(0));
    }
}
