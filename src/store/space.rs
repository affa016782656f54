//! The store's growth: space is allocated on the file system, in steps, before anyone touches it.
//!
//! Promises: what `laid_out` says exists can be touched without a bus error; where the file system, a quota or a limit
//! gives no more, the stock stays what it is, which is counted, and rows fold (`attribution`). So it is where the program has
//! closed our descriptor (`held`). Makes system calls, so
//! it is never called under the aggregator's lock.

use crate::ring::RingId;
use crate::store::layout::{PAGE_BYTES, REGIONS, Region};
use crate::store::words::get;
use crate::store::writer::Store;
use crate::sys::sync::Ordering;

impl Store {
    /// Keeps a stock of nodes, rows and rings laid out. Called outside the lock by whoever is about to drain: the
    /// drain thread, and a thread whose ring is full or half full. A few loads where nothing is to be done. Where space cannot be had, the
    /// stock stays what it is, which is counted.
    pub(crate) fn lay_out_ahead(&self) {
        for region in [Region::Nodes, Region::Sites, Region::Rings, Region::Modules, Region::History] {
            if self.grow(region, self.ahead_bytes).is_err() {
                // Relaxed: a counter.
                self.tables.header.state.refused_growth.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// How many rows of sites the records that are still in the rings can need: each its own, but never more than
    /// there are stacks without a row.
    fn sites_to_come(&self) -> u64 {
        let without = self.tables.used(Region::Nodes).saturating_sub(self.tables.used(Region::Sites));
        let mut unread = 0;
        #[expect(clippy::cast_possible_truncation, reason = "at most 4096")]
        for ring in 0..self.tables.used(Region::Rings) as u32 {
            if unread >= without {
                return without;
            }
            unread += self.tables.ring(RingId(ring)).map_or(0, |ring| ring.consumer().unread().min(ring.capacity()));
        }
        unread.min(without)
    }

    /// Nodes or rows have come to their end: at the bound, or where the file system gave no more.
    pub(crate) fn bound_reached(&self) -> bool {
        [Region::Nodes, Region::Sites].into_iter().any(|region| {
            let used = self.tables.used(region);
            let all = self.tables.laid_out(region);
            // Relaxed: a counter.
            let refused = self.tables.header.state.refused_growth.load(Ordering::Relaxed) > 0;
            used >= self.layout.place(region).capacity || (refused && used >= all)
        })
    }

    /// The memory that it takes at most: what is laid out.
    pub(crate) fn memory_bytes(&self) -> u64 {
        REGIONS.into_iter().map(|region| self.tables.laid_out(region) * self.layout.place(region).row_bytes).sum()
    }

    pub(super) fn grow(&self, region: Region, ahead_bytes: u64) -> std::io::Result<()> {
        let place = self.layout.place(region);
        let bytes = match region {
            Region::Modules => 32 << 10,
            Region::History => 4 << 10,
            // A ring of an exact profile is a quarter of a megabyte; threads come slower than stacks.
            Region::Rings => ahead_bytes.min(2 << 20),
            _ => ahead_bytes,
        };
        let used = self.tables.used(region);
        let to_come = if region == Region::Sites { self.sites_to_come() } else { 0 };
        // A quarter of what is used, so that a program that grows fast finds more.
        let ahead = (bytes / place.row_bytes).max(4).max(used / 4).max(to_come);
        let enough = |laid_out| laid_out >= place.capacity || laid_out >= used.saturating_add(ahead);
        if enough(self.tables.laid_out(region)) {
            return Ok(());
        }
        let _one = self.growth.lock();
        if enough(self.tables.laid_out(region)) {
            return Ok(());
        }
        self.lay_out(region, used.saturating_add(2 * ahead).min(place.capacity))
    }

    /// Allocates the space of `region`'s rows up to `rows` and then says that they exist.
    pub(super) fn lay_out(&self, region: Region, rows: u64) -> std::io::Result<()> {
        let place = self.layout.place(region);
        let cells = &self.tables.header.regions[region as usize];
        let from = place.offset + place.row_bytes * get(&cells.laid_out);
        let to = place.offset + place.row_bytes * rows;
        let (from, to) = (from.next_multiple_of(PAGE_BYTES), to.next_multiple_of(PAGE_BYTES));
        if let Some(file) = &self.file
            && to > from
        {
            // The page below `from` was allocated with the rows before; regions begin on pages of their own.
            file.allocate(from, to - from)?;
        }
        // Release pairs with `Tables::laid_out` and the tree: memory before its use.
        cells.laid_out.store(rows, Ordering::Release);
        if region == Region::Nodes {
            #[expect(clippy::cast_possible_truncation, reason = "at most 2^26 nodes fit")]
            self.tables.tree_state.laid_out.store(rows as u32, Ordering::Release);
        }
        Ok(())
    }
}
