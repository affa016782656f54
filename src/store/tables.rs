//! Typed views of a store's words, over the mapped file or over a private copy of its used parts alike, so that one
//! attribution code serves the writer and the reader of a dead process's file.
//!
//! Promises: every view lies inside the words it was made from, whatever the numbers say; nothing here reads or writes.

#![allow(unsafe_code, reason = "casts between words and structs of atomics")]

use crate::ring::{Ring, RingId};
use crate::sampler::weight::{BLOCKS_FRACTION_BITS, BYTES_FRACTION_BITS};
use crate::store::figures::FigureCells;
use crate::store::layout::{Header, HistoryRow, Layout, ModuleRow, Region, SIZE_CLASSES, ScopeRow};
use crate::store::picture::round_fixed;
use crate::store::row::Row;
use crate::store::words::get;
use crate::sys::sync::{AtomicU64, Ordering};
use crate::tree::{Node, Tree, TreeState};

/// A struct that words can be seen as.
///
/// # Safety
/// The type is `repr(C)`, made of `AtomicU32`s and `AtomicU64`s alone, without padding, with an alignment of at most 8;
/// every bit pattern is a value of it.
unsafe trait Shared {}

// SAFETY: as the trait asks; the size assertions in `layout`, `row` and `tree` leave no room for padding.
unsafe impl Shared for Header {}
// SAFETY: as above.
unsafe impl Shared for ModuleRow {}
// SAFETY: as above.
unsafe impl Shared for HistoryRow {}
// SAFETY: as above.
unsafe impl Shared for ScopeRow {}
// SAFETY: as above.
unsafe impl Shared for Row {}
// SAFETY: as above.
unsafe impl Shared for FigureCells {}
// SAFETY: as above.
unsafe impl Shared for Node {}
// SAFETY: as above.
unsafe impl Shared for TreeState {}
// SAFETY: as above.
unsafe impl Shared for AtomicU64 {}

/// `count` values of `T` from `offset` bytes into `words`; `None` unless they lie inside and begin at a word.
fn view<T: Shared>(words: &[AtomicU64], offset: u64, count: u64) -> Option<&[T]> {
    let first = usize::try_from(offset / 8).ok()?;
    let count = usize::try_from(count).ok()?;
    let inside = words.get(first..)?;
    if !offset.is_multiple_of(8) || count.checked_mul(size_of::<T>())? > size_of_val(inside) {
        return None;
    }
    // SAFETY: `inside` is at least `count * size_of::<T>()` bytes of atomics, aligned to 8; `T: Shared` may be any of
    // those bits and needs no more alignment; all access is atomic, so shared references are enough.
    Some(unsafe { std::slice::from_raw_parts(inside.as_ptr().cast::<T>(), count) })
}

/// The figures as words, to copy them.
pub(crate) fn words_of(figures: &FigureCells) -> &[AtomicU64] {
    let words = size_of::<FigureCells>() / size_of::<AtomicU64>();
    // SAFETY: `FigureCells` is `repr(C)` and nothing but `AtomicU64`s (see `Shared`), `words` of them.
    unsafe { std::slice::from_raw_parts(std::ptr::from_ref(figures).cast::<AtomicU64>(), words) }
}

#[expect(clippy::cast_possible_truncation, reason = "48")]
const CLASSES: usize = SIZE_CLASSES as usize;

/// A store's tables. Slices cover what is reserved; what may be touched is what is laid out.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tables<'a> {
    pub(crate) header: &'a Header,
    pub(crate) modules: &'a [ModuleRow],
    pub(crate) tree_state: &'a TreeState,
    pub(crate) nodes: &'a [Node],
    /// Row 0 is the root's: what is attributed to no stack, or found no row.
    pub(crate) sites: &'a [Row],
    pub(crate) size_classes: &'a [Row; CLASSES],
    pub(crate) history: &'a [HistoryRow],
    /// By the number of the scope; 0 is none.
    pub(crate) scopes: &'a [ScopeRow],
    pub(crate) registry: &'a [AtomicU64],
    rings: &'a [AtomicU64],
    ring_words: usize,
}

impl<'a> Tables<'a> {
    /// The tables that `layout` places in `words`; `None` if one of them would lie outside.
    pub(crate) fn over(words: &'a [AtomicU64], layout: &Layout) -> Option<Tables<'a>> {
        fn table<'a, T: Shared>(words: &'a [AtomicU64], layout: &Layout, region: Region) -> Option<&'a [T]> {
            let place = layout.place(region);
            view(words, place.offset, place.capacity)
        }
        let rings = layout.place(Region::Rings);
        Some(Tables {
            header: view(words, 0, 1)?.first()?,
            modules: table(words, layout, Region::Modules)?,
            tree_state: table(words, layout, Region::TreeState)?.first()?,
            nodes: table(words, layout, Region::Nodes)?,
            sites: table(words, layout, Region::Sites)?,
            size_classes: table(words, layout, Region::SizeClasses)?.first_chunk()?,
            history: table(words, layout, Region::History)?,
            scopes: table(words, layout, Region::Scopes)?,
            registry: table(words, layout, Region::Registry)?,
            rings: view(words, rings.offset, rings.capacity.checked_mul(rings.row_bytes / 8)?)?,
            ring_words: usize::try_from(rings.row_bytes / 8).ok()?,
        })
    }

    /// The words of ring `id`; `None` beyond the table.
    #[inline]
    pub(crate) fn ring(&self, id: RingId) -> Option<Ring<'a>> {
        let first = (id.0 as usize).checked_mul(self.ring_words)?;
        Ring::over(self.rings.get(first..first.checked_add(self.ring_words)?)?)
    }

    /// Rows of `region` that exist.
    #[inline]
    pub(crate) fn laid_out(&self, region: Region) -> u64 {
        // Acquire pairs with the Release of whoever laid them out.
        self.header.regions[region as usize].laid_out.load(Ordering::Acquire)
    }

    /// The same with the nodes that are laid out now, and no others.
    pub(crate) fn ready(&self) -> Tables<'a> {
        let nodes = usize::try_from(self.laid_out(Region::Nodes)).ok().and_then(|count| self.nodes.get(..count));
        Tables { nodes: nodes.unwrap_or(self.nodes), ..*self }
    }

    /// Rows of `region` that are in use.
    pub(crate) fn used(&self, region: Region) -> u64 {
        if region == Region::Nodes {
            // Relaxed: nodes above are reached from no row that the caller has seen.
            return u64::from(self.tree_state.next.load(Ordering::Relaxed)).min(self.laid_out(region));
        }
        // Acquire pairs with the Release of whoever took the row.
        self.header.regions[region as usize].used.load(Ordering::Acquire)
    }

    /// The time of the latest record that was attributed: moves while somebody drains.
    pub(crate) fn last_attributed(&self) -> u64 {
        get(&self.header.global.last_at)
    }

    /// The calling-context tree over these nodes.
    pub(crate) fn tree(&self) -> Tree<'a> {
        Tree { nodes: self.nodes, state: self.tree_state }
    }

    /// The highest that attributed live bytes have been, and the blocks at that moment, in whole numbers.
    pub(crate) fn peak_whole(&self) -> (u64, u64) {
        let global = &self.header.global;
        (
            round_fixed(get(&global.max_bytes), BYTES_FRACTION_BITS),
            round_fixed(get(&global.max_blocks), BLOCKS_FRACTION_BITS),
        )
    }

    /// How many peaks the process has had, and whether it is at its peak: what a row's figures need.
    pub(crate) fn peak(&self) -> (u64, bool) {
        let global = &self.header.global;
        (get(&global.peak_generation), get(&global.live_bytes) == get(&global.max_bytes))
    }
}

/// The header in the first words of a store; `None` if they are too few.
pub(crate) fn header_of(words: &[AtomicU64]) -> Option<&Header> {
    view(words, 0, 1)?.first()
}
