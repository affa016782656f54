//! The picture of our own store, in three steps: memory is allocated before the aggregator's lock, filled under it, and
//! decoded after it.
//!
//! Promises: what is done under the lock is copying words, without allocation, check or wait; the picture shows the
//! current figures of all rows at one moment.

use crate::store::decode::{self, Moment};
use crate::store::error::StoreError;
use crate::store::image::{Image, copy_words};
use crate::store::layout::{REGIONS, Region};
use crate::store::picture::{Life, Picture};
use crate::store::version::newest;
use crate::store::words::get;
use crate::store::writer::Store;
use crate::units::Ticks;

const MEGABYTE_WORDS: usize = (1 << 20) / 8;

/// A copy of our own store, taken in three steps, so that the one under the aggregator's lock only copies memory.
#[derive(Debug)]
pub(crate) struct PictureCopy {
    image: Image,
}

impl PictureCopy {
    /// Allocates the memory for a copy of `store` as it is, and some growth. Before the lock.
    pub(crate) fn begin(store: &Store) -> PictureCopy {
        let tables = store.tables();
        let rows = REGIONS.map(|region| match region {
            Region::Rings | Region::Registry => 0,
            region => {
                let used = tables.used(region);
                (used + used / 8 + 64).min(store.layout().place(region).capacity)
            }
        });
        PictureCopy { image: Image::new(store.layout().ring_records, rows) }
    }

    /// Copies; false if the store has outgrown the memory: begin again. The caller holds the aggregator's lock, for 0.3 s of a full
    /// store: `goes_on` is called every megabyte, for those who wait for the lock and would give it up for dead.
    #[must_use]
    pub(crate) fn copy(&mut self, store: &Store, goes_on: impl Fn()) -> bool {
        let tables = store.tables();
        let mut used = REGIONS.map(|region| tables.used(region));
        used[Region::Rings as usize] = 0;
        used[Region::Registry as usize] = 0;
        if REGIONS.into_iter().any(|region| used[region as usize] > self.image.capacity(region)) {
            return false;
        }
        copy_words(store.words(), self.image.header_words());
        for region in REGIONS {
            let first = usize::try_from(store.layout().place(region).offset / 8).unwrap_or(usize::MAX);
            let from = store.words().get(first..).unwrap_or_default();
            let to = self.image.rows(region, used[region as usize]);
            for (from, to) in from.chunks(MEGABYTE_WORDS).zip(to.chunks(MEGABYTE_WORDS)) {
                copy_words(from, to);
                goes_on();
            }
        }
        self.image.describe(used);
        true
    }

    /// Decodes the copy, which was taken at `now`. After the lock.
    pub(crate) fn finish(self, now: Ticks) -> Result<Picture, StoreError> {
        let tables = self.image.tables().ok_or(StoreError::NotAStore)?;
        let exact_at = get(&newest(&tables.header.exact).at);
        let stale = decode::nanoseconds(&tables, now.0).saturating_sub(decode::nanoseconds(&tables, exact_at));
        decode::decode(&tables, &Moment { life: Life::Running, now, totals_stale_ns: stale, rows_in_doubt: 0 })
    }
}
