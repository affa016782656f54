//! An allocator that notes sampled blocks and their stacks for the rival rules, and passes everything on.
//!
//! Promises: until `begin` it costs one load and one branch. What the notes themselves allocate is not noted. One watch a
//! process.

use std::alloc::{GlobalAlloc, Layout};
use std::cell::Cell;
use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use super::rules::SiteRules;
use crate::random::Random;

/// Frames of a stack that tell sites apart.
const FRAMES: usize = 48;

static WATCHING: AtomicBool = AtomicBool::new(false);
static WATCH: Mutex<Option<Watch>> = Mutex::new(None);

thread_local! {
    /// This thread is noting something: what it allocates meanwhile is ours.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// Notes what `A` serves.
#[derive(Debug)]
pub struct Watched<A>(pub A);

// SAFETY: every call goes to `A` unchanged, and what it returns is returned.
unsafe impl<A: GlobalAlloc> GlobalAlloc for Watched<A> {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's duties are those of `A`.
        let block = unsafe { self.0.alloc(layout) };
        noted(|watch| watch.born(block.addr(), layout.size()));
        block
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's duties are those of `A`.
        let block = unsafe { self.0.alloc_zeroed(layout) };
        noted(|watch| watch.born(block.addr(), layout.size()));
        block
    }

    #[inline]
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        noted(|watch| watch.freed(block.addr()));
        // SAFETY: the caller's duties are those of `A`.
        unsafe { self.0.dealloc(block, layout) }
    }

    #[inline]
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let before = block.addr();
        // Taken out before the address can be another block's.
        let mut identity = None;
        noted(|watch| identity = watch.taken_out(before));
        // SAFETY: the caller's duties are those of `A`.
        let block = unsafe { self.0.realloc(block, layout, size) };
        noted(|watch| watch.grew(block.addr(), identity, layout.size(), size));
        block
    }
}

#[inline]
fn noted(note: impl FnOnce(&mut Watch)) {
    // Relaxed: set and read by the thread that begins the watch, and by threads that it starts afterwards.
    if WATCHING.load(Ordering::Relaxed) {
        note_outside(note);
    }
}

#[cold]
fn note_outside(note: impl FnOnce(&mut Watch)) {
    // A thread that is ending has no words any more; its last blocks are not noted.
    let _ = INSIDE.try_with(|inside| {
        if inside.replace(true) {
            return;
        }
        if let Ok(mut watch) = WATCH.lock()
            && let Some(watch) = watch.as_mut()
        {
            note(watch);
        }
        inside.set(false);
    });
}

/// Begins to note. `interval_bytes` 0: every block.
pub(super) fn begin(interval_bytes: u64, seed: u64) {
    let watch = Watch { interval_bytes, random: Random::new(seed ^ 0x5ca1_e4e0), ..Watch::default() };
    *WATCH.lock().expect("not poisoned") = Some(watch);
    WATCHING.store(true, Ordering::Relaxed);
}

/// Closes an epoch.
pub(super) fn end_epoch(epoch: u32) {
    noted(|watch| {
        watch.sites.iter_mut().for_each(|(_, rules)| rules.end_epoch(epoch));
        watch.epoch = epoch + 1;
    });
}

/// Ends it: all sites with their stacks.
pub(super) fn end() -> Vec<(Vec<usize>, SiteRules)> {
    WATCHING.store(false, Ordering::Relaxed);
    WATCH.lock().expect("not poisoned").take().map(|watch| watch.sites).unwrap_or_default()
}

#[derive(Clone, Copy)]
struct Block {
    site: usize,
    birth: u32,
    bytes: f64,
}

#[derive(Default)]
struct Watch {
    interval_bytes: u64,
    random: Random,
    epoch: u32,
    sites: Vec<(Vec<usize>, SiteRules)>,
    numbers: HashMap<Vec<usize>, usize>,
    blocks: HashMap<usize, Block>,
    footprint: f64,
    peak: f64,
    /// The block that made the last peak.
    at_peak: Option<usize>,
}

impl Watch {
    /// The chance that a block of this size is sampled.
    #[expect(clippy::cast_precision_loss, reason = "sizes")]
    fn chance(&self, size: usize) -> f64 {
        if self.interval_bytes == 0 { 1.0 } else { -(-(size as f64) / self.interval_bytes as f64).exp_m1() }
    }

    fn draw(&mut self, chance: f64) -> bool {
        self.random.chance(chance)
    }

    #[expect(clippy::cast_precision_loss, reason = "sizes")]
    fn born(&mut self, address: usize, size: usize) {
        if address == 0 || size == 0 {
            return;
        }
        let chance = self.chance(size);
        if self.draw(chance) {
            let site = self.site();
            self.enter(address, Block { site, birth: self.epoch, bytes: size as f64 / chance });
        }
    }

    fn enter(&mut self, address: usize, block: Block) {
        self.blocks.insert(address, block);
        self.footprint += block.bytes;
        self.sites[block.site].1.born(block.birth, block.bytes);
        if self.footprint > self.peak {
            self.peak = self.footprint;
            self.at_peak = Some(address);
            self.sites[block.site].1.peaks_watched += 1;
        }
    }

    fn taken_out(&mut self, address: usize) -> Option<Block> {
        let block = self.blocks.remove(&address)?;
        self.footprint -= block.bytes;
        self.sites[block.site].1.freed(block.birth, block.bytes);
        Some(block)
    }

    fn freed(&mut self, address: usize) {
        if let Some(block) = self.taken_out(address)
            && self.at_peak == Some(address)
        {
            self.sites[block.site].1.peaks_freed += 1;
            self.at_peak = None;
        }
    }

    /// A block goes on at another size, perhaps elsewhere.
    #[expect(clippy::cast_precision_loss, reason = "sizes")]
    fn grew(&mut self, address: usize, identity: Option<Block>, old: usize, new: usize) {
        match identity {
            // A shrunk block stays in the sample as often as one of its new size is drawn.
            Some(_) if new < old && !self.draw(self.chance(new) / self.chance(old)) => (),
            Some(block) => self.enter(address, Block { bytes: new as f64 / self.chance(new), ..block }),
            None if new > old && self.draw(self.chance(new - old)) => {
                let site = self.site();
                self.enter(address, Block { site, birth: self.epoch, bytes: new as f64 / self.chance(new) });
            }
            None => (),
        }
    }

    /// The number of the stack that allocates now.
    fn site(&mut self) -> usize {
        let mut stack = Vec::with_capacity(FRAMES);
        backtrace::trace(|frame| {
            stack.push(frame.ip().addr());
            stack.len() < FRAMES
        });
        if let Some(&number) = self.numbers.get(&stack) {
            return number;
        }
        self.numbers.insert(stack.clone(), self.sites.len());
        self.sites.push((stack, SiteRules::default()));
        self.sites.len() - 1
    }
}
