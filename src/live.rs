//! The table of live tracked blocks that no slot holds: large ones, or all of them where there is no range.
//!
//! Promises: an entry leaves before the inner allocator frees or reallocates its block and enters after it returned,
//! so that no address is ever listed twice. Memory is mapped, never from the heap; where it can't grow the block is
//! not tracked, and the caller counts that.
//!
//! Open addressing with linear probing and backward-shift deletion, in shards with a lock each: large blocks are few,
//! and only their frees look here. Costs about 30 ns a call.

#![allow(unsafe_code, reason = "keeps its cells in mappings of its own")]

use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::slots::entry::Identity;
use crate::sys::lock::Lock;
use crate::sys::map;

const SHARDS: usize = 64;
/// Cells of a shard at first: one step of memory.
const FIRST_CELLS: usize = map::STEP_BYTES / size_of::<Cell>();
/// Cells of a shard at most: 2^26 large blocks a shard can't exist in 47 bits of address space.
const MAX_CELLS: usize = 1 << 26;

/// A live block and what its free must say.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct LargeBlock {
    pub(crate) address: usize,
    pub(crate) identity: Identity,
}

#[derive(Clone, Copy)]
struct Cell {
    /// 0: empty.
    address: usize,
    identity: std::mem::MaybeUninit<Identity>,
}

struct Shard {
    lock: Lock,
    table: UnsafeCell<Table>,
}

struct Table {
    cells: *mut Cell,
    /// A power of two, or 0.
    capacity: usize,
    used: usize,
}

/// The table. `const`-constructible.
pub(crate) struct LiveTable {
    shards: [Shard; SHARDS],
    /// Entries in all shards: lets a free skip an empty table.
    count: AtomicUsize,
}

// SAFETY: each shard's table is touched only while its lock is held.
unsafe impl Sync for LiveTable {}

/// The process's table.
pub(crate) static LIVE: LiveTable = LiveTable::new();

impl LiveTable {
    const fn new() -> LiveTable {
        LiveTable {
            shards: [const {
                Shard {
                    lock: Lock::new(),
                    table: UnsafeCell::new(Table { cells: std::ptr::null_mut(), capacity: 0, used: 0 }),
                }
            }; SHARDS],
            count: AtomicUsize::new(0),
        }
    }

    /// Lists a block. False where it can't be: the caller counts it as untracked.
    pub(crate) fn insert(&self, block: LargeBlock) -> bool {
        let inserted = self.with_shard(block.address, |table| table.insert(block)).unwrap_or(false);
        if inserted {
            // Relaxed: a hint; whoever frees this block has got its pointer, which orders it after this.
            self.count.fetch_add(1, Ordering::Relaxed);
        }
        inserted
    }

    /// Takes a block's entry out, if it has one.
    pub(crate) fn remove(&self, address: usize) -> Option<LargeBlock> {
        if self.count.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let removed = self.with_shard(address, |table| table.remove(address)).flatten();
        if removed.is_some() {
            self.count.fetch_sub(1, Ordering::Relaxed);
        }
        removed
    }

    /// Entries now. For tests.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Is this block listed, under this number of a profile?
    pub(crate) fn is_listed_as(&self, address: usize, session: u32) -> bool {
        self.with_shard(address, |table| table.get(address).is_some_and(|block| block.identity.session == session))
            .unwrap_or(false)
    }

    /// In a forked child that starts a profile: forgets all but the blocks listed under `kept`. What the child freed
    /// before is still listed, and a shard that another thread was changing at the fork is in pieces.
    pub(crate) fn reset_in_child(&self, kept: u32) {
        let mut count = 0;
        for shard in &self.shards {
            let whole = shard.lock.try_take().is_some();
            shard.lock.reset_in_child();
            let Some(held) = shard.lock.take() else { continue };
            // SAFETY: the lock is held.
            let table = unsafe { &mut *shard.table.get() };
            // The old cells stay mapped: they are shared with the parent until somebody writes.
            let empty = Table { cells: std::ptr::null_mut(), capacity: 0, used: 0 };
            let mut old = std::mem::replace(table, empty);
            for cell in if whole { old.cells() } else { &mut [] } {
                if cell.address != 0 {
                    // SAFETY: a cell with an address has been written with its identity.
                    let identity = unsafe { cell.identity.assume_init() };
                    if identity.session == kept {
                        table.insert(LargeBlock { address: cell.address, identity });
                    }
                }
            }
            count += table.used;
            drop(held);
        }
        self.count.store(count, Ordering::Relaxed);
    }

    fn with_shard<T>(&self, address: usize, f: impl FnOnce(&mut Table) -> T) -> Option<T> {
        let shard = self.shards.get(hash(address) % SHARDS)?;
        let held = shard.lock.take()?;
        // SAFETY: the lock is held: no other reference to this table exists.
        let result = f(unsafe { &mut *shard.table.get() });
        drop(held);
        Some(result)
    }
}

/// Fibonacci hashing; blocks this large differ in their middle bits.
fn hash(address: usize) -> usize {
    ((address as u64 >> 4).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 16) as usize
}

impl Table {
    /// The cells, as a slice.
    fn cells(&mut self) -> &mut [Cell] {
        if self.capacity == 0 {
            return &mut [];
        }
        // SAFETY: `capacity` cells were mapped and zeroed (all empty), and `&mut self` makes this the only access.
        unsafe { std::slice::from_raw_parts_mut(self.cells, self.capacity) }
    }

    fn home(address: usize, capacity: usize) -> usize {
        (hash(address) / SHARDS) & (capacity - 1)
    }

    fn find(&mut self, address: usize) -> Option<usize> {
        let capacity = self.capacity;
        if capacity == 0 {
            return None;
        }
        let mut at = Self::home(address, capacity);
        for _ in 0..capacity {
            match self.cells().get(at)?.address {
                0 => return None,
                found if found == address => return Some(at),
                _ => at = (at + 1) & (capacity - 1),
            }
        }
        None
    }

    fn get(&mut self, address: usize) -> Option<LargeBlock> {
        let at = self.find(address)?;
        let cell = *self.cells().get(at)?;
        // SAFETY: a cell with an address has been written with its identity.
        Some(LargeBlock { address, identity: unsafe { cell.identity.assume_init() } })
    }

    fn insert(&mut self, block: LargeBlock) -> bool {
        // At most 3/4 full.
        if self.used * 4 >= self.capacity * 3 && !self.grow() {
            return false;
        }
        let capacity = self.capacity;
        let mut at = Self::home(block.address, capacity);
        for _ in 0..capacity {
            let Some(cell) = self.cells().get_mut(at) else { return false };
            if cell.address == 0 || cell.address == block.address {
                let fresh = cell.address == 0;
                *cell = Cell { address: block.address, identity: std::mem::MaybeUninit::new(block.identity) };
                self.used += usize::from(fresh);
                return fresh;
            }
            at = (at + 1) & (capacity - 1);
        }
        false
    }

    fn remove(&mut self, address: usize) -> Option<LargeBlock> {
        let mut hole = self.find(address)?;
        let capacity = self.capacity;
        let cells = self.cells();
        let cell = *cells.get(hole)?;
        let mut next = hole;
        for _ in 0..capacity {
            next = (next + 1) & (capacity - 1);
            let candidate = *cells.get(next)?;
            if candidate.address == 0 {
                break;
            }
            // Moves back what would no longer be found past the hole.
            let home = Self::home(candidate.address, capacity);
            if (next.wrapping_sub(home) & (capacity - 1)) >= (next.wrapping_sub(hole) & (capacity - 1)) {
                *cells.get_mut(hole)? = candidate;
                hole = next;
            }
        }
        cells.get_mut(hole)?.address = 0;
        self.used -= 1;
        // SAFETY: a cell with an address has been written with its identity.
        Some(LargeBlock { address, identity: unsafe { cell.identity.assume_init() } })
    }

    fn grow(&mut self) -> bool {
        let capacity = if self.capacity == 0 { FIRST_CELLS.next_power_of_two() / 2 } else { self.capacity * 2 };
        if capacity > MAX_CELLS {
            return false;
        }
        let bytes = (capacity * size_of::<Cell>()).next_multiple_of(map::STEP_BYTES);
        let Some(fresh) = map::anonymous(bytes) else { return self.used < self.capacity };
        let mut bigger = Table { cells: fresh.as_ptr().cast(), capacity, used: 0 };
        for cell in self.cells() {
            if cell.address != 0 {
                // SAFETY: a cell with an address has been written with its identity.
                let identity = unsafe { cell.identity.assume_init() };
                bigger.insert(LargeBlock { address: cell.address, identity });
            }
        }
        let old = std::mem::replace(self, bigger);
        if old.capacity != 0 {
            let bytes = (old.capacity * size_of::<Cell>()).next_multiple_of(map::STEP_BYTES);
            // SAFETY: exactly the mapping that the old table was, which nobody refers to any more.
            unsafe { map::unmap(old.cells.cast(), bytes) };
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sampler::weight::IntervalCode;
    use crate::units::{StackId, Ticks};
    use std::collections::HashMap;
    use std::collections::hash_map::Entry;

    fn block(address: usize, stack: u32) -> LargeBlock {
        LargeBlock {
            address,
            identity: Identity {
                birth: Ticks(address as u64),
                stack: StackId(stack),
                interval: IntervalCode(3),
                carried: 0.5,
                session: 1,
            },
        }
    }

    #[test]
    fn agrees_with_a_map() {
        let table = LiveTable::new();
        let mut oracle: HashMap<usize, LargeBlock> = HashMap::new();
        let seed = 0x5eed_u64;
        println!("seed {seed}");
        let mut random = seed;
        for step in 0..200_000u32 {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let address = (usize::try_from(random % 9001).expect("small") + 1) * 4096;
            if random >> 63 == 0 {
                if let Entry::Vacant(vacant) = oracle.entry(address) {
                    assert!(table.insert(block(address, step)));
                    vacant.insert(block(address, step));
                }
            } else {
                assert_eq!(table.remove(address), oracle.remove(&address));
            }
            assert_eq!(table.len(), oracle.len());
        }
        for address in oracle.keys() {
            assert!(table.is_listed_as(*address, 1));
        }
    }

    #[test]
    fn an_address_is_never_listed_twice() {
        let table = LiveTable::new();
        assert!(table.insert(block(4096, 1)));
        assert!(!table.insert(block(4096, 2)));
        assert_eq!(table.len(), 1);
        assert_eq!(table.remove(4096), Some(block(4096, 2)));
        assert_eq!(table.remove(4096), None);
    }
}
