//! A private copy of the used parts of a store: the same tables as the file has, packed.
//!
//! Promises: what the source's header says is checked before any of it is believed; the copy takes no more memory than
//! the source has bytes and one row for each unread record, all of it allocated before anything is copied.

use crate::ring::record::RECORD_WORDS;
use crate::store::error::StoreError;
use crate::store::layout::{
    BYTE_ORDER, HEADER_BYTES, Header, Layout, MAGIC, MAX_RINGS, MAX_STORE_BYTES, PAGE_BYTES, Place, REGION_COUNT,
    REGIONS, Region, SCOPES, SIZE_CLASSES, VERSION, row_bytes,
};
use crate::store::source::Source;
use crate::store::tables::{self, Tables};
use crate::store::words::{get, set};
use crate::store::writer::{FINISHED, RUNNING};
use crate::sys::sync::{AtomicU64, Ordering};

/// The header's words: one page.
#[expect(clippy::cast_possible_truncation, reason = "4096")]
pub(super) const HEADER_WORDS: usize = HEADER_BYTES as usize / 8;

/// What a header says, checked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Extent {
    pub(super) layout: Layout,
    pub(super) laid_out: [u64; REGION_COUNT],
    pub(super) used: [u64; REGION_COUNT],
}

fn corrupt<T>(field: &'static str, found: u64, allowed: u64) -> Result<T, StoreError> {
    Err(StoreError::Corrupt { field, found, allowed })
}

fn at_most(field: &'static str, found: u64, allowed: u64) -> Result<u64, StoreError> {
    if found > allowed { corrupt(field, found, allowed) } else { Ok(found) }
}

fn exactly(field: &'static str, found: u64, allowed: u64) -> Result<u64, StoreError> {
    if found != allowed { corrupt(field, found, allowed) } else { Ok(found) }
}

/// Reads one page of header.
pub(super) fn read_header<S: Source + ?Sized>(source: &S) -> Result<Vec<AtomicU64>, StoreError> {
    if source.bytes() < HEADER_BYTES {
        let mut magic = [0; 8];
        let known = source.read(0, &mut magic).is_ok() && u64::from_le_bytes(magic) == MAGIC;
        return Err(if known {
            StoreError::Truncated { bytes: source.bytes(), expected: HEADER_BYTES }
        } else {
            StoreError::NotAStore
        });
    }
    let words: Vec<AtomicU64> = (0..HEADER_WORDS).map(|_| AtomicU64::new(0)).collect();
    read_words(source, 0, &words)?;
    Ok(words)
}

/// Fills `cells` from `offset`.
pub(super) fn read_words<S: Source + ?Sized>(source: &S, offset: u64, cells: &[AtomicU64]) -> Result<(), StoreError> {
    const STEP_WORDS: usize = 4096;
    let mut bytes = vec![0u8; cells.len().min(STEP_WORDS) * 8];
    let mut offset = offset;
    for cells in cells.chunks(STEP_WORDS) {
        let bytes = bytes.get_mut(..cells.len() * 8).unwrap_or_default();
        source.read(offset, bytes)?;
        for (cell, word) in cells.iter().zip(bytes.as_chunks().0) {
            set(cell, u64::from_le_bytes(*word));
        }
        offset += bytes.len() as u64;
    }
    Ok(())
}

/// Checks everything in the header that says where something lies or what it means.
pub(super) fn check(header: &Header, source_bytes: u64) -> Result<Extent, StoreError> {
    let format = &header.format;
    if get(&format.magic) != MAGIC {
        return Err(StoreError::NotAStore);
    }
    exactly("byte order", get(&format.byte_order), BYTE_ORDER)?;
    if get(&format.version) != VERSION {
        return Err(StoreError::Version { found: get(&format.version) });
    }
    let file_bytes = at_most("file size", get(&format.file_bytes), MAX_STORE_BYTES)?;
    if file_bytes > source_bytes {
        return Err(StoreError::Truncated { bytes: source_bytes, expected: file_bytes });
    }
    let ring_records = at_most("records a ring", get(&format.ring_records), 1 << 16)?;
    if !ring_records.is_power_of_two() {
        return corrupt("records a ring (a power of two)", ring_records, 1 << 16);
    }
    at_most("mode", get(&format.exact_mode), 1)?;
    at_most("fixed interval", get(&format.fixed_interval_bytes), 1 << 53)?;
    at_most("interval code", get(&header.state.interval), 62)?;
    let life = get(&header.state.life);
    if life != RUNNING && life != FINISHED {
        return corrupt("life", life, FINISHED);
    }
    let ns_per_tick = f64::from_bits(get(&header.state.ns_per_tick));
    if !(ns_per_tick > 0.0 && ns_per_tick <= 1e9) {
        return corrupt("nanoseconds a tick (as f64 bits)", ns_per_tick.to_bits(), 1e9f64.to_bits());
    }
    at_most("pid", get(&header.process.pid), u64::from(u32::MAX))?;
    at_most("length of the command line", get(&header.process.command_bytes), size_of_val(&header.command) as u64)?;
    let executable = size_of_val(&header.executable) as u64;
    at_most("length of the executable's path", get(&header.process.executable_bytes), executable)?;
    at_most(
        "length of the unwinder's name",
        get(&header.process.unwinder_bytes),
        size_of_val(&header.unwinder) as u64,
    )?;

    let mut extent = Extent {
        layout: Layout { file_bytes, ring_records, places: [Place::default(); REGION_COUNT] },
        laid_out: [0; REGION_COUNT],
        used: [0; REGION_COUNT],
    };
    for (region, cells) in REGIONS.into_iter().zip(&header.regions) {
        let place =
            Place { offset: get(&cells.offset), row_bytes: get(&cells.row_bytes), capacity: get(&cells.capacity) };
        exactly(region.name(), place.row_bytes, row_bytes(region, ring_records))?;
        let end = place.end().unwrap_or(u64::MAX);
        at_most(region.name(), end, file_bytes)?;
        if place.offset < HEADER_BYTES || !place.offset.is_multiple_of(PAGE_BYTES) {
            return corrupt(region.name(), place.offset, file_bytes);
        }
        let laid_out = at_most(region.name(), get(&cells.laid_out), place.capacity)?;
        extent.layout.places[region as usize] = place;
        extent.laid_out[region as usize] = laid_out;
        // Nodes count in the tree's own words.
        let used = if region == Region::Nodes { 0 } else { get(&cells.used) };
        extent.used[region as usize] = at_most(region.name(), used, laid_out)?;
    }
    let mut spans: Vec<_> = extent.layout.places.iter().map(|place| (place.offset, place.end().unwrap_or(0))).collect();
    spans.sort_unstable();
    for pair in spans.windows(2) {
        if let [before, after] = pair {
            at_most("end of a region", before.1, after.0)?;
        }
    }
    at_most("rings", extent.layout.place(Region::Rings).capacity, MAX_RINGS)?;
    exactly(
        "ring registry",
        extent.layout.place(Region::Registry).capacity,
        extent.layout.place(Region::Rings).capacity,
    )?;
    exactly("size classes", extent.used[Region::SizeClasses as usize], SIZE_CLASSES)?;
    exactly("scopes", extent.used[Region::Scopes as usize], SCOPES)?;
    exactly("tree state", extent.used[Region::TreeState as usize], 1)?;
    Ok(extent)
}

/// The copy.
#[derive(Debug)]
pub(super) struct Image {
    words: Vec<AtomicU64>,
    layout: Layout,
}

impl Image {
    /// Memory for `rows` rows of each region.
    pub(super) fn new(ring_records: u64, rows: [u64; REGION_COUNT]) -> Image {
        let mut layout = Layout { file_bytes: 0, ring_records, places: [Place::default(); REGION_COUNT] };
        let mut offset = HEADER_BYTES;
        for region in REGIONS {
            // One row at least, so that the tree's state and the root have a place.
            let place =
                Place { offset, row_bytes: row_bytes(region, ring_records), capacity: rows[region as usize].max(1) };
            offset += place.row_bytes * place.capacity;
            layout.places[region as usize] = place;
        }
        layout.file_bytes = offset;
        let words = (0..offset / 8).map(|_| AtomicU64::new(0)).collect();
        Image { words, layout }
    }

    /// The tables; `None` never, since the layout is our own.
    pub(super) fn tables(&self) -> Option<Tables<'_>> {
        Tables::over(&self.words, &self.layout)
    }

    /// The words of the header.
    pub(super) fn header_words(&self) -> &[AtomicU64] {
        self.words.get(..HEADER_WORDS).unwrap_or_default()
    }

    /// The words of the first `rows` rows of `region`.
    pub(super) fn rows(&self, region: Region, rows: u64) -> &[AtomicU64] {
        let place = self.layout.place(region);
        let first = (place.offset / 8) as usize;
        let words = (rows.min(place.capacity) * place.row_bytes / 8) as usize;
        self.words.get(first..).and_then(|rest| rest.get(..words)).unwrap_or_default()
    }

    /// How many rows of `region` fit.
    pub(super) fn capacity(&self, region: Region) -> u64 {
        self.layout.place(region).capacity
    }

    /// Copies `rows` rows of `region` from where `extent` says they lie.
    pub(super) fn load<S: Source + ?Sized>(
        &self,
        source: &S,
        extent: &Extent,
        region: Region,
        rows: u64,
    ) -> Result<(), StoreError> {
        read_words(source, extent.layout.place(region).offset, self.rows(region, rows))
    }

    /// Makes the copied header describe the copy: `used` rows in use, of nodes as of the rest.
    pub(super) fn describe(&self, used: [u64; REGION_COUNT]) {
        let Some(tables) = self.tables() else { return };
        for (region, cells) in REGIONS.into_iter().zip(&tables.header.regions) {
            let place = self.layout.place(region);
            set(&cells.offset, place.offset);
            set(&cells.capacity, place.capacity);
            set(&cells.laid_out, place.capacity);
            set(&cells.used, used[region as usize]);
        }
        let nodes = u32::try_from(used[Region::Nodes as usize]).unwrap_or(u32::MAX);
        // Relaxed: the copy is ours alone.
        tables.tree_state.next.store(nodes, Ordering::Relaxed);
        let laid_out = u32::try_from(self.capacity(Region::Nodes)).unwrap_or(u32::MAX);
        tables.tree_state.laid_out.store(laid_out, Ordering::Relaxed);
    }
}

/// The header in its words; `None` if they are too few.
pub(super) fn header_of(words: &[AtomicU64]) -> Option<&Header> {
    tables::header_of(words)
}

/// Copies as many words as both have.
pub(super) fn copy_words(from: &[AtomicU64], to: &[AtomicU64]) {
    for (from, to) in from.iter().zip(to) {
        set(to, get(from));
    }
}

/// The most unread records that rings of `ring_records` records hold.
pub(super) fn most_records(rings: u64, ring_records: u64) -> u64 {
    rings.saturating_mul(ring_records)
}

const _: () = assert!(RECORD_WORDS == 4, "docs/store-format.md says 32 bytes a record");
