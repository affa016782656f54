//! The layout of a store file: the header, the regions behind it, and how a bound in bytes is divided among them.
//!
//! Promises: everything is little-endian words of 64 bits (tree nodes: 32 and 64), at fixed places, so that a reader
//! of another process, another build or another machine finds them; `docs/store-format.md` is this file in words, and
//! changes with it. Offsets never change while a file lives; what has been laid out (allocated on the file system,
//! zeroed, usable) only grows.

mod cells;

use crate::ring::words_for;
use crate::store::row::ROW_WORDS;
use crate::tree::Node;
pub(crate) use cells::*;

/// `UNFREED` and a zero byte, read as a little-endian word.
pub(crate) const MAGIC: u64 = u64::from_le_bytes(*b"UNFREED\0");
/// Grows with every change of the layout that an older reader would misread.
pub(crate) const VERSION: u64 = 2;
/// Reads differently on a machine of the other byte order.
pub(crate) const BYTE_ORDER: u64 = 0x0102_0304_0506_0708;
/// Regions begin at multiples of this, whatever the machine's page size is (aarch64 has up to 64 KiB).
pub(crate) const PAGE_BYTES: u64 = 4096;
/// The header's size: one page.
pub(crate) const HEADER_BYTES: u64 = PAGE_BYTES;
/// No store is larger: the address range reserved for it, and what a reader believes.
pub(crate) const MAX_STORE_BYTES: u64 = 2 << 30;
/// Smaller bounds hold no useful number of sites.
pub(crate) const MIN_STORE_BYTES: u64 = 128 << 10;
/// Size classes: blocks of 2^k to 2^(k+1) - 1 bytes, sizes being below 2^48.
pub(crate) const SIZE_CLASSES: u64 = 48;
/// Scopes that have a name and a bound; numbers above are scopes without either.
pub(crate) const SCOPES: u64 = 64;
/// Bytes of a scope's name; longer ones are cut.
pub(crate) const SCOPE_NAME_BYTES: usize = 112;
/// As many rings as the drain can merge.
pub(crate) const MAX_RINGS: u64 = 4096;
/// The most frames a stack may have; deeper chains in a file are corrupt.
pub(crate) const MAX_DEPTH: u32 = crate::tree::MAX_DEPTH;
/// Bytes of a path in a module's row, of a command line and of an executable's path in the header.
pub(crate) const PATH_BYTES: usize = 896;
/// Bytes of a build id in a module's row; GNU ids have 20.
pub(crate) const BUILD_ID_BYTES: usize = 64;
/// Bytes of a text in the header.
pub(crate) const TEXT_BYTES: usize = 1024;

/// What a region holds; its index in the header's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub(crate) enum Region {
    Modules = 0,
    TreeState = 1,
    Nodes = 2,
    Sites = 3,
    SizeClasses = 4,
    History = 5,
    /// One word a ring: who has it.
    Registry = 6,
    Rings = 7,
    /// Names and bounds of scopes, by their numbers.
    Scopes = 8,
}

/// How many regions there are.
pub(crate) const REGION_COUNT: usize = 9;

/// All regions, in the order of the header's table.
pub(crate) const REGIONS: [Region; REGION_COUNT] = [
    Region::Modules,
    Region::TreeState,
    Region::Nodes,
    Region::Sites,
    Region::SizeClasses,
    Region::History,
    Region::Registry,
    Region::Rings,
    Region::Scopes,
];

impl Region {
    /// The field's name in error messages.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Region::Modules => "modules",
            Region::TreeState => "tree state",
            Region::Nodes => "tree nodes",
            Region::Sites => "sites",
            Region::SizeClasses => "size classes",
            Region::History => "history",
            Region::Registry => "ring registry",
            Region::Rings => "rings",
            Region::Scopes => "scopes",
        }
    }
}

/// Where one region lies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) offset: u64,
    pub(crate) row_bytes: u64,
    pub(crate) capacity: u64,
}

impl Place {
    /// One past the region's last byte; `None` where that is no number.
    pub(crate) fn end(&self) -> Option<u64> {
        self.offset.checked_add(self.row_bytes.checked_mul(self.capacity)?)
    }
}

/// Where everything lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) file_bytes: u64,
    pub(crate) ring_records: u64,
    pub(crate) places: [Place; REGION_COUNT],
}

/// The size of a row of each region; rings of `ring_records` records.
pub(crate) fn row_bytes(region: Region, ring_records: u64) -> u64 {
    #[expect(clippy::cast_possible_truncation, reason = "callers bound it by the file's size")]
    let ring_words = words_for(ring_records as usize);
    match region {
        Region::Modules => size_of::<ModuleRow>() as u64,
        Region::TreeState => PAGE_BYTES,
        Region::Nodes => size_of::<Node>() as u64,
        Region::Sites | Region::SizeClasses => ROW_WORDS as u64 * 8,
        Region::History => size_of::<HistoryRow>() as u64,
        Region::Registry => 8,
        Region::Rings => ring_words as u64 * 8,
        Region::Scopes => size_of::<ScopeRow>() as u64,
    }
}

impl Layout {
    /// Divides `bound_bytes` (brought into `MIN_STORE_BYTES..=MAX_STORE_BYTES`): fixed tables first, then 9/32 for
    /// rings (2,048 of 128 records in 32 MiB), and of the rest 5/9 for sites and 4/9 for nodes: a site costs one row
    /// of 512 bytes, and the dozen nodes of 32 bytes that its stack does not share.
    pub(crate) fn plan(bound_bytes: u64, ring_records: u64) -> Layout {
        let bound = bound_bytes.clamp(MIN_STORE_BYTES, MAX_STORE_BYTES) / PAGE_BYTES * PAGE_BYTES;
        let ring_records = ring_records.clamp(2, 1 << 16).next_power_of_two();
        let mut layout = Layout { file_bytes: bound, ring_records, places: [Place::default(); REGION_COUNT] };
        let mut offset = HEADER_BYTES;
        let mut put = |region: Region, capacity: u64| {
            let row_bytes = row_bytes(region, ring_records);
            layout.places[region as usize] = Place { offset, row_bytes, capacity };
            offset = (offset + row_bytes * capacity).next_multiple_of(PAGE_BYTES);
            offset
        };
        let ring_bytes = row_bytes(Region::Rings, ring_records);
        let rings = (bound / 32 * 9 / ring_bytes).clamp(1, MAX_RINGS);
        put(Region::Modules, (bound >> 15).clamp(16, 4096));
        put(Region::TreeState, 1);
        put(Region::SizeClasses, SIZE_CLASSES);
        put(Region::History, (bound >> 13).clamp(16, 4096));
        put(Region::Scopes, SCOPES);
        put(Region::Registry, rings);
        let used = put(Region::Rings, rings);
        // One page of slack for rounding each of the two regions up.
        let rest = bound.saturating_sub(used + 2 * PAGE_BYTES);
        put(Region::Sites, (rest / 9 * 5 / row_bytes(Region::Sites, 0)).max(1));
        let end = put(Region::Nodes, (rest / 9 * 4 / row_bytes(Region::Nodes, 0)).max(1));
        layout.file_bytes = end;
        layout
    }

    /// The place of `region`.
    pub(crate) fn place(&self, region: Region) -> Place {
        self.places[region as usize]
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn every_plan_keeps_its_bound_and_its_regions_apart() {
        for bound in [0, MIN_STORE_BYTES, 1 << 20, 32 << 20, 1 << 30, u64::MAX] {
            for records in [0, 2, 16, 128, 8192] {
                let layout = Layout::plan(bound, records);
                let limit = bound.clamp(MIN_STORE_BYTES, MAX_STORE_BYTES);
                assert!(layout.file_bytes <= limit.max(records * 32 + (1 << 18)), "{bound} {records} {layout:?}");
                let mut spans: Vec<_> =
                    layout.places.iter().map(|place| (place.offset, place.end().expect("no overflow"))).collect();
                spans.sort_unstable();
                assert!(spans[0].0 >= HEADER_BYTES);
                for pair in spans.windows(2) {
                    assert!(pair[0].1 <= pair[1].0 && pair[0].1 > pair[0].0, "{spans:?}");
                }
                assert!(spans[REGION_COUNT - 1].1 <= layout.file_bytes);
                for place in layout.places {
                    assert!(place.offset.is_multiple_of(PAGE_BYTES) && place.capacity > 0);
                }
            }
        }
        let default = Layout::plan(32 << 20, 128);
        assert!(default.place(Region::Rings).capacity >= 2048);
        assert!(default.place(Region::Sites).capacity > 20_000);
        assert!(default.place(Region::Nodes).capacity > 250_000);
    }
}
