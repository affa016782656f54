//! The cold path: registration, adoption of the mode, the sampling decision, tracking, and what only looks like it.
//!
//! Promises: never panics, never allocates from the program's heap, keeps errno, and returns what the inner allocator
//! would have returned. What can't be tracked is counted and served all the same. In a forked child it only counts.
//!
//! A tracked block lives in a slot or in the live table, and its path never changes under it: whoever frees it finds
//! it there, also after a stop. Costs: about 40 instructions where nothing is sampled; a capture where it is.

use std::alloc::{GlobalAlloc, Layout};
use std::ptr::null_mut;
use std::sync::atomic::Ordering;

use super::hot::{Counters, HOT, Hot, INSTALMENT_BYTES};
use super::own;
use super::session::{self, Mode, State};
use super::thread::{self, LATE, LATE_IN_PROFILE, Own, ThreadBlock};
use crate::live::{LIVE, LargeBlock};
use crate::ring::record::{Kind, Record};
use crate::sampler::random::Random;
use crate::sampler::regrow::regrown_interval;
use crate::sampler::weight::{IntervalCode, probability};
use crate::sampler::{governor, interval};
use crate::slots::entry::Identity;
use crate::slots::{Half, RANGE, Range, SLOT_MAX_BYTES, Slot};
use crate::sys::stack::Registers;
use crate::sys::{clock, fork, thread as os};
use crate::units::{StackId, Ticks};
use crate::unwind;

/// The distance to the next sample point where there is none.
const NEVER: i64 = i64::MAX / 4;

/// One stay in the cold path of one thread.
struct Cold<'a> {
    hot: &'a Hot,
    /// `None`: an ended thread, or one that could not register.
    block: Option<(&'a ThreadBlock, &'a mut Own)>,
    state: State,
    /// Bytes to the next sample point, the hot path's budget included.
    until: i64,
    child: bool,
    /// Entered while inside already (our own threads, a value of the program dropped by us): counts by the shared
    /// counters, touches neither the budget nor the thread's block.
    nested: bool,
    errno: i32,
}

/// Where a tracked block is found again.
enum Place {
    Slot(Slot),
    Table,
}

impl<'a> Cold<'a> {
    /// Enters: from here to `leave` every allocation of this thread is ours.
    fn enter(hot: &'a Hot) -> Cold<'a> {
        let errno = os::errno();
        if hot.depth.get() != 0 {
            let (state, child) = (session::state(), fork::in_child());
            return Cold { hot, block: None, state, until: NEVER, child, nested: true, errno };
        }
        hot.depth.set(1);
        let budget = hot.take_budget();
        let child = fork::in_child();
        let block = thread::block(hot).map(|block| {
            // SAFETY: this thread's own block; it is given back only by this thread, at its end.
            let block = unsafe { &*block };
            block.set_busy(true);
            // SAFETY: by the owner, and `depth` keeps a second stay from beginning.
            let own = unsafe { block.own() };
            (block, own)
        });
        let mut cold = Cold { hot, block, state: session::state(), until: budget.max(0), child, nested: false, errno };
        match &cold.block {
            Some((block, own)) => {
                cold.until = cold.until.saturating_add(own.reserve);
                // A call that came after its cause was adopted left cold words behind.
                let stale = hot.frees_are_cold() && cold.state.mode() != Mode::Exact;
                if block.seen() != cold.state || child || stale {
                    cold.adopt();
                }
            }
            None if child => cold.until = NEVER,
            None => {}
        }
        cold
    }

    /// Takes on the mode in force: the proper hot words, a baseline where a profile began, a new distance.
    #[cold]
    fn adopt(&mut self) {
        let Some((block, own)) = self.block.as_mut() else { return };
        if self.child {
            // Only what tells our blocks from others; nothing is recorded here.
            self.hot.set_words(Some((RANGE.bounds(), SLOT_MAX_BYTES)));
            own.reserve = NEVER;
            self.until = NEVER;
            return;
        }
        let before = block.seen();
        self.hot.set_words(match self.state.mode() {
            Mode::Exact => None,
            _ if every_free_looks() => Some((RANGE.bounds(), 0)),
            _ => Some((RANGE.bounds(), SLOT_MAX_BYTES)),
        });
        block.set_seen(self.state);
        if before.profile() != self.state.profile() || before == State::NONE {
            let counted = self.hot.counters();
            block.begin_profile(self.state.profile(), counted);
            own.ring = None;
            own.stacks.forget();
        }
        self.draw();
    }

    /// A new distance to the next sample point. The process has no memory, so this is allowed at any time.
    fn draw(&mut self) {
        let Some((_, own)) = self.block.as_mut() else {
            self.until = NEVER;
            return;
        };
        if self.state.mode() == Mode::Sampled {
            let (code, fixed) = interval::get();
            own.interval = code;
            self.until = own.random.distance(code.interval_bytes(fixed));
        } else {
            self.until = NEVER;
        }
    }

    /// Is a new block (or growth) of `bytes` to be tracked, and under which interval?
    fn decide(&mut self, bytes: usize) -> Option<IntervalCode> {
        if self.child {
            return None;
        }
        match self.state.mode() {
            Mode::Off => None,
            Mode::Exact => Some(IntervalCode::EXACT),
            Mode::Sampled => {
                self.until = self.until.saturating_sub(i64::try_from(bytes).unwrap_or(i64::MAX));
                if self.until >= 0 {
                    return None;
                }
                let interval = self.block.as_ref().map(|(_, own)| own.interval);
                self.draw();
                interval
            }
        }
    }

    /// Leaves, having counted what `counted` says: bytes to the hot words' budget, or all of it to the shared counters.
    fn leave(self, counted: Counters) {
        if let Some((block, own)) = self.block {
            let budget = self.until.clamp(0, INSTALMENT_BYTES);
            own.reserve = self.until.saturating_sub(budget);
            let exact = self.state.mode() == Mode::Exact && !self.child;
            self.hot.grant_budget((!exact).then_some(budget), counted.alloc_bytes);
            block.set_busy(false);
        } else {
            LATE.add(counted);
            if self.state.mode() != Mode::Off {
                LATE_IN_PROFILE.add(counted);
            }
        }
        if !self.nested {
            self.hot.depth.set(0);
        }
        os::set_errno(self.errno);
    }

    fn count_alloc(&self, size: usize, ok: bool) -> Counters {
        if !ok {
            return Counters::default();
        }
        if self.block.is_some() {
            self.hot.count_alloc();
        }
        Counters { alloc_bytes: size as u64, alloc_blocks: 1, ..Counters::default() }
    }

    fn count_free(&self, size: usize) -> Counters {
        if self.block.is_some() {
            self.hot.count_free(size);
        }
        Counters { free_bytes: size as u64, free_blocks: 1, ..Counters::default() }
    }

    fn count_realloc(&self, old: usize, new: usize, ok: bool) -> Counters {
        if !ok {
            return Counters::default();
        }
        if self.block.is_some() {
            self.hot.count_realloc(old, new);
        }
        Counters {
            alloc_bytes: new.saturating_sub(old) as u64,
            kept_bytes: old.min(new) as u64,
            reallocs: 1,
            free_bytes: old.saturating_sub(new) as u64,
            ..Counters::default()
        }
    }

    /// Exact mode: a block older than the profile left (or got a new life by realloc).
    fn count_older(&self, bytes: usize) {
        if self.state.mode() != Mode::Exact || self.child {
            return;
        }
        match &self.block {
            Some((block, _)) => block.count_older(bytes),
            None => LATE_IN_PROFILE.add(Counters { older_bytes: bytes as u64, older_blocks: 1, ..Counters::default() }),
        }
    }

    /// The identity of a block that is born now, at the stack that `registers` begin.
    fn identify(&mut self, registers: &Registers, interval: IntervalCode) -> Option<Identity> {
        let sink = session::sink()?;
        let tree = sink.tree()?;
        let stack = match self.block.as_mut() {
            Some((_, own)) => {
                let captured = unwind::capture(*registers, &mut own.stacks, &tree);
                if captured.truncated {
                    sink.truncated();
                }
                captured.stack
            }
            None => StackId::ROOT,
        };
        // The birth is stamped once there is a block.
        Some(Identity { birth: Ticks(0), stack, interval, carried: 0.0, session: self.state.profile() })
    }

    /// Sends one record; helps to drain where the ring is full.
    fn send(&mut self, record: &Record) {
        let Some(sink) = session::sink() else { return };
        let Some((block, own)) = self.block.as_mut() else {
            if !sink.apply(record) {
                sink.dropped(record.stack);
            }
            return;
        };
        if own.ring.is_none() {
            own.ring = sink.claim_ring(block.id);
        }
        let Some((_, ring)) = own.ring.as_mut() else {
            if !sink.apply(record) {
                sink.dropped(record.stack);
            }
            return;
        };
        for _ in 0..HELPS {
            if ring.push(record).is_ok() {
                return;
            }
            if !sink.help() {
                break;
            }
        }
        if ring.push(record).is_err() {
            sink.dropped(record.stack);
        }
    }

    fn birth(&mut self, identity: &Identity, size: usize) {
        self.send(&Record {
            at: identity.birth,
            kind: Kind::Alloc,
            stack: identity.stack,
            interval: identity.interval,
            size: size as u64,
            old_size: 0,
            old_interval: IntervalCode::EXACT,
            birth: Ticks(0),
            carried: 0.0,
        });
    }

    fn death(&mut self, kind: Kind, identity: &Identity, size: usize, at: Ticks) {
        if identity.session != self.state.profile() || self.state.mode() == Mode::Off || self.child {
            return;
        }
        self.send(&Record {
            at,
            kind,
            stack: identity.stack,
            interval: identity.interval,
            size: size as u64,
            old_size: 0,
            old_interval: IntervalCode::EXACT,
            birth: identity.birth,
            carried: 0.0,
        });
    }

    /// Is this identity one of the profile that runs?
    fn current(&self, identity: &Identity) -> bool {
        identity.session == self.state.profile() && self.state.mode() != Mode::Off && !self.child
    }
}

/// Rounds of helping before a record is given up. Each may wait 100 ms; the second finds the ring empty but for a
/// consumer that died, so two suffice.
const HELPS: u32 = 2;

/// Must every free look whether its block is tracked or ours? Where there is no range, and where small blocks went into
/// the table because no slot could be had.
fn every_free_looks() -> bool {
    (RANGE.bounds().1 == 0 && PREPARED.load(Ordering::Relaxed)) || SMALL_IN_TABLE.load(Ordering::Relaxed)
}

/// Set before the first block that is not the program's: until then there is nothing to look for.
static PREPARED: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(false);

/// From here on there may be blocks of ours. Before the call to all threads that tells them.
pub(super) fn prepare() {
    PREPARED.store(true, Ordering::SeqCst);
}

/// Set once a block of at most `SLOT_MAX_BYTES` is in the live table.
static SMALL_IN_TABLE: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(false);

/// From now on: a small block of ours was put into the live table, where there is a range.
pub(super) fn look_at_every_free() {
    if !SMALL_IN_TABLE.swap(true, Ordering::SeqCst) {
        session::touch();
        thread::call_all_soon();
    }
}

/// Seeds the calling thread's generator and draws anew: for the tests.
pub(super) fn seed(seed: u64) {
    HOT.with(|hot| {
        let mut cold = Cold::enter(hot);
        if let Some((_, own)) = cold.block.as_mut() {
            own.random = Random::new(seed);
        }
        cold.draw();
        cold.leave(Counters::default());
    });
}

/// Is this a block of the profiler's own? For the tests, which count the program's.
pub(super) fn is_own(ptr: *mut u8) -> bool {
    matches!(find(ptr), Found::Own(_))
}

/// An allocation that the hot path did not admit.
///
/// # Safety
/// As for [`GlobalAlloc::alloc`].
#[cold]
#[inline(never)]
pub(super) unsafe fn alloc(size: usize, align: usize, inner: &dyn GlobalAlloc, zeroed: bool) -> *mut u8 {
    let registers = Registers::here();
    // SAFETY: they were a layout; apart, they stay in the registers that they came in.
    let layout = unsafe { Layout::from_size_align_unchecked(size, align) };
    HOT.with(|hot| {
        hot.undo(size);
        if hot.depth.get() != 0 {
            // SAFETY: the caller's layout.
            return unsafe { own::alloc(inner, layout, zeroed) };
        }
        let mut cold = Cold::enter(hot);
        let ptr = match cold.decide(layout.size()) {
            // SAFETY: the caller's layout.
            None => unsafe { plain(inner, layout, zeroed) },
            // SAFETY: the caller's layout.
            Some(interval) => unsafe { tracked(&mut cold, inner, layout, zeroed, interval, &registers) },
        };
        let counted = cold.count_alloc(layout.size(), !ptr.is_null());
        cold.leave(counted);
        ptr
    })
}

/// # Safety
/// As for [`GlobalAlloc::alloc`].
pub(super) unsafe fn plain(inner: &dyn GlobalAlloc, layout: Layout, zeroed: bool) -> *mut u8 {
    if zeroed {
        // SAFETY: the caller's layout.
        unsafe { inner.alloc_zeroed(layout) }
    } else {
        // SAFETY: the caller's layout.
        unsafe { inner.alloc(layout) }
    }
}

/// A new block that is to be tracked.
///
/// # Safety
/// As for [`GlobalAlloc::alloc`].
unsafe fn tracked(
    cold: &mut Cold<'_>,
    inner: &dyn GlobalAlloc,
    layout: Layout,
    zeroed: bool,
    interval: IntervalCode,
    registers: &Registers,
) -> *mut u8 {
    // What a capture costs is the governor's to know; exact mode has none.
    let governed = cold.state.mode() == Mode::Sampled;
    let started = if governed { clock::now() } else { Ticks(0) };
    let Some(mut identity) = cold.identify(registers, interval) else {
        // SAFETY: the caller's layout.
        return unsafe { plain(inner, layout, zeroed) };
    };
    let spent = if governed { clock::now().0.saturating_sub(started.0) } else { 0 };
    // SAFETY: the caller's layout.
    let Some((ptr, place)) = (unsafe { place(inner, layout, zeroed) }) else { return null_mut() };
    // After the inner allocator returned, so that a free of the block that had this address is older.
    identity.birth = clock::now();
    if !settle(ptr, &place, &identity, layout.size(), cold.state.mode()) {
        if let Some(sink) = session::sink() {
            sink.untracked();
        }
        return ptr;
    }
    cold.birth(&identity, layout.size());
    if governed && let Some((_, own)) = cold.block.as_mut() {
        governor::sampled(&mut own.unreported_samples, &mut own.unreported_ticks, spent);
    }
    ptr
}

/// Memory for a tracked block: a slot where it fits one, else the inner allocator's.
///
/// # Safety
/// As for [`GlobalAlloc::alloc`].
unsafe fn place(inner: &dyn GlobalAlloc, layout: Layout, zeroed: bool) -> Option<(*mut u8, Place)> {
    if let Some((at, slot)) = RANGE.take(Half::Sampled, layout) {
        if zeroed {
            // SAFETY: the slot has at least `layout.size()` bytes.
            unsafe { at.as_ptr().write_bytes(0, layout.size()) };
        }
        return Some((at.as_ptr(), Place::Slot(slot)));
    }
    // SAFETY: the caller's layout.
    let ptr = unsafe { plain(inner, layout, zeroed) };
    (!ptr.is_null()).then_some((ptr, Place::Table))
}

/// Writes a block's identity where its free will look. False: it can't be tracked.
fn settle(ptr: *mut u8, place: &Place, identity: &Identity, size: usize, mode: Mode) -> bool {
    match place {
        Place::Slot(slot) => match RANGE.entry(*slot) {
            Some(entry) => {
                if entry.get().is_none() && mode == Mode::Sampled {
                    governor::sample_memory(slot_memory(*slot));
                }
                entry.set(identity);
                true
            }
            None => false,
        },
        Place::Table => {
            if size <= SLOT_MAX_BYTES {
                if mode != Mode::Exact && !every_free_looks() {
                    // Its free would not look for it.
                    return false;
                }
                // Threads learn of it when they adopt the next mode; in this one all their frees look.
                SMALL_IN_TABLE.store(true, Ordering::Relaxed);
            }
            LIVE.insert(LargeBlock { address: ptr.expose_provenance(), identity: *identity })
        }
    }
}

/// What a sample in this slot costs: the slot, for it is no memory that the inner allocator would not have given but
/// for its rounding, counted whole all the same, and its entry.
fn slot_memory(slot: Slot) -> i64 {
    i64::try_from(Range::slot_bytes(slot) + size_of::<crate::slots::entry::Entry>()).unwrap_or(0)
}

/// A free that the hot path did not admit.
///
/// # Safety
/// As for [`GlobalAlloc::dealloc`].
#[cold]
#[inline(never)]
pub(super) unsafe fn dealloc(ptr: *mut u8, size: usize, align: usize, inner: &dyn GlobalAlloc) {
    // SAFETY: they were a layout; apart, they stay in the registers that they came in.
    let layout = unsafe { Layout::from_size_align_unchecked(size, align) };
    HOT.with(|hot| {
        let found = find(ptr);
        if let Found::Own(slot) = found {
            if !fork::in_child() {
                // SAFETY: the caller gives the block up.
                unsafe { give_own(inner, ptr, layout, slot) };
            }
            return;
        }
        let mut cold = Cold::enter(hot);
        match found {
            Found::Slot(slot, identity) => {
                match identity {
                    Some(identity) => cold.end_tracked(&identity, layout.size()),
                    None => cold.count_older(layout.size()),
                }
                // SAFETY: the caller gives the block up.
                unsafe { cold.give_slot(slot) };
            }
            _ => {
                // Out of the table before the inner allocator can hand the address out again.
                let listed = if cold.child { None } else { LIVE.remove(ptr.expose_provenance()) };
                match listed {
                    Some(block) => cold.end_tracked(&block.identity, layout.size()),
                    None => cold.count_older(layout.size()),
                }
                // SAFETY: the caller's block, which the inner allocator made.
                unsafe { inner.dealloc(ptr, layout) };
            }
        }
        let counted = cold.count_free(layout.size());
        cold.leave(counted);
    });
}

/// What a pointer turned out to be. Blocks in the table are looked for later, in their order with the inner allocator.
enum Found {
    /// One of ours: in a slot, or (no range) listed.
    Own(Option<Slot>),
    Slot(Slot, Option<Identity>),
    Elsewhere,
}

fn find(ptr: *mut u8) -> Found {
    match RANGE.locate(ptr) {
        Some((Half::Own, slot)) => Found::Own(Some(slot)),
        Some((Half::Sampled, slot)) => Found::Slot(slot, RANGE.entry(slot).and_then(|entry| entry.get())),
        None if own::is_listed(ptr) => Found::Own(None),
        None => Found::Elsewhere,
    }
}

/// # Safety
/// As for [`GlobalAlloc::dealloc`]; the block is ours.
unsafe fn give_own(inner: &dyn GlobalAlloc, ptr: *mut u8, layout: Layout, slot: Option<Slot>) {
    match slot {
        // SAFETY: the caller gives the block up.
        Some(slot) => unsafe { RANGE.give(slot) },
        None => {
            own::unlist(ptr);
            // SAFETY: the inner allocator made it.
            unsafe { inner.dealloc(ptr, layout) };
        }
    }
}

impl Cold<'_> {
    /// A tracked block is freed: a record where it is of this profile, else one of the older.
    fn end_tracked(&mut self, identity: &Identity, size: usize) {
        if self.current(identity) {
            self.death(Kind::Free, identity, size, clock::now());
        } else {
            self.count_older(size);
        }
    }

    /// # Safety
    /// The block of this slot is given up by its owner.
    unsafe fn give_slot(&mut self, slot: Slot) {
        if self.child {
            return;
        }
        if let Some(entry) = RANGE.entry(slot) {
            if entry.get().is_some() && self.state.mode() == Mode::Sampled {
                governor::sample_memory(-slot_memory(slot));
            }
            entry.clear();
        }
        // SAFETY: the caller gives the block up.
        unsafe { RANGE.give(slot) };
    }

    /// What a tracked block is after it changed size: its identity, or `None` where a shrink thinned it out.
    /// `now` is the interval that the growth's sample points were drawn with.
    fn resized(&mut self, identity: &Identity, old: usize, new: usize, now: IntervalCode) -> Option<Identity> {
        let mut after = *identity;
        let (_, fixed) = interval::get();
        let (old, new) = (old as u64, new as u64);
        let r = identity.interval.interval_bytes(fixed);
        if identity.interval == IntervalCode::EXACT {
            return Some(after);
        }
        #[expect(clippy::cast_possible_truncation, reason = "a sum for a variance; 24 bits suffice")]
        #[expect(clippy::cast_precision_loss, reason = "block sizes are below 2^48")]
        {
            after.carried += (old as f64 / probability(old, r)) as f32;
        }
        let (_, own) = self.block.as_mut()?;
        if new < old {
            let keep = probability(new, r) / probability(old, r);
            return (own.random.unit() <= keep).then_some(after);
        }
        after.interval = regrown_interval(identity.interval, old, new, now, fixed, &mut own.random);
        Some(after)
    }

    fn resize(&mut self, before: &Identity, after: &Identity, old: usize, new: usize) {
        self.send(&Record {
            at: clock::now(),
            kind: Kind::Resize,
            stack: after.stack,
            interval: after.interval,
            size: new as u64,
            old_size: old as u64,
            old_interval: before.interval,
            birth: Ticks(0),
            carried: after.carried,
        });
    }
}

/// A realloc that the hot path did not admit.
///
/// # Safety
/// As for [`GlobalAlloc::realloc`].
#[cold]
#[inline(never)]
pub(super) unsafe fn realloc(
    ptr: *mut u8,
    layout: Layout,
    new_size: usize,
    inner: &dyn GlobalAlloc,
    spent: bool,
) -> *mut u8 {
    let registers = Registers::here();
    HOT.with(|hot| {
        if spent {
            hot.undo(new_size.saturating_sub(layout.size()));
        }
        let found = find(ptr);
        if let Found::Own(slot) = found {
            if slot.is_some() && !fork::in_child() {
                // SAFETY: the caller's block and sizes.
                return unsafe { own::realloc(inner, ptr, layout, new_size) };
            }
            // SAFETY: the caller's block and sizes.
            return unsafe { move_own(inner, ptr, layout, new_size, slot) };
        }
        let mut cold = Cold::enter(hot);
        // SAFETY: the caller's block and sizes.
        let moved = unsafe { move_block(&mut cold, inner, ptr, layout, new_size, found, &registers) };
        let counted = cold.count_realloc(layout.size(), new_size, !moved.is_null());
        cold.leave(counted);
        moved
    })
}

/// Without a range, or in a child: a block of ours moves by hand.
///
/// # Safety
/// As for [`GlobalAlloc::realloc`]; the block is ours.
unsafe fn move_own(
    inner: &dyn GlobalAlloc,
    ptr: *mut u8,
    layout: Layout,
    new_size: usize,
    slot: Option<Slot>,
) -> *mut u8 {
    let Ok(new_layout) = Layout::from_size_align(new_size, layout.align()) else { return null_mut() };
    if fork::in_child() {
        // SAFETY: a valid layout.
        let fresh = unsafe { inner.alloc(new_layout) };
        if !fresh.is_null() {
            // SAFETY: two distinct blocks, each of at least the smaller size.
            unsafe { ptr.copy_to_nonoverlapping(fresh, layout.size().min(new_size)) };
        }
        return fresh;
    }
    // SAFETY: a valid layout.
    let fresh = unsafe { own::alloc(inner, new_layout, false) };
    if !fresh.is_null() {
        // SAFETY: two distinct blocks, each of at least the smaller size.
        unsafe { ptr.copy_to_nonoverlapping(fresh, layout.size().min(new_size)) };
        // SAFETY: moved away from.
        unsafe { give_own(inner, ptr, layout, slot) };
    }
    fresh
}

/// Moves or resizes a block of the program, tracked or not.
///
/// # Safety
/// As for [`GlobalAlloc::realloc`].
unsafe fn move_block(
    cold: &mut Cold<'_>,
    inner: &dyn GlobalAlloc,
    ptr: *mut u8,
    layout: Layout,
    new_size: usize,
    found: Found,
    registers: &Registers,
) -> *mut u8 {
    let Ok(new_layout) = Layout::from_size_align(new_size, layout.align()) else { return null_mut() };
    let (before, slot) = match found {
        Found::Slot(slot, identity) => (identity, Some(slot)),
        _ if cold.child => (None, None),
        // Out of the table before the inner allocator moves it; back in after it returned.
        _ => (LIVE.remove(ptr.expose_provenance()).map(|block| block.identity), None),
    };
    let before_current = before.filter(|identity| cold.current(identity));
    // What it is to be afterwards.
    let after = match (&before_current, cold.state.mode()) {
        (Some(identity), _) => {
            let now = cold.block.as_ref().map_or(identity.interval, |(_, own)| own.interval);
            // The growth is consumed, whatever it hits: the block is in the sample already.
            cold.decide(new_size.saturating_sub(layout.size()));
            cold.resized(identity, layout.size(), new_size, now)
        }
        // Exact mode: an older block begins a new life here, as in dhat.
        (None, Mode::Exact) if !cold.child => cold.identify(registers, IntervalCode::EXACT),
        (None, _) => match cold.decide(new_size.saturating_sub(layout.size())) {
            Some(interval) => cold.identify(registers, interval),
            None => None,
        },
    };
    // SAFETY: the caller's block and sizes.
    let moved = unsafe { carry(cold, inner, ptr, layout, new_layout, slot, after.is_some()) };
    let Some((moved, place)) = moved else {
        // Refused: the old block stays as it was.
        if slot.is_none()
            && let Some(identity) = before
        {
            LIVE.insert(LargeBlock { address: ptr.expose_provenance(), identity });
        }
        return null_mut();
    };
    cold.resettle(moved, place, layout.size(), new_size, before, before_current, after);
    moved
}

impl Cold<'_> {
    /// Writes down and reports what a block is after it moved.
    #[expect(clippy::too_many_arguments, reason = "one step of `move_block`, cut out for length")]
    fn resettle(
        &mut self,
        moved: *mut u8,
        place: Option<Place>,
        old: usize,
        new: usize,
        before: Option<Identity>,
        before_current: Option<Identity>,
        after: Option<Identity>,
    ) {
        let mut after = after;
        let mode = self.state.mode();
        // A block of an earlier profile that stays in a slot keeps its slot, and no identity of this one.
        if let Some(place) = &place {
            let kept = match after.as_mut() {
                Some(identity) => {
                    if before_current.is_none() {
                        identity.birth = clock::now();
                    }
                    settle(moved, place, identity, new, mode)
                }
                None => {
                    if let Place::Slot(slot) = place
                        && let Some(entry) = RANGE.entry(*slot)
                    {
                        entry.clear();
                    }
                    true
                }
            };
            if !kept {
                after = None;
                if let Some(sink) = session::sink() {
                    sink.untracked();
                }
            }
        }
        match (before_current, after) {
            (Some(before), Some(after)) => self.resize(&before, &after, old, new),
            (Some(before), None) => self.death(Kind::Forget, &before, old, clock::now()),
            (None, Some(after)) => {
                self.count_older(old);
                self.birth(&after, new);
            }
            (None, None) => {
                if before.is_some() || mode == Mode::Exact {
                    self.count_older(old);
                }
            }
        }
    }
}

/// Moves the contents: within its slot, between slots, out of them, into them, or by the inner allocator.
/// The place is `None` for a block that is nowhere tracked.
///
/// # Safety
/// As for [`GlobalAlloc::realloc`].
unsafe fn carry(
    cold: &mut Cold<'_>,
    inner: &dyn GlobalAlloc,
    ptr: *mut u8,
    layout: Layout,
    new_layout: Layout,
    slot: Option<Slot>,
    track: bool,
) -> Option<(*mut u8, Option<Place>)> {
    let fits = slot.is_some_and(|slot| Range::same_class(slot, new_layout));
    if let Some(slot) = slot
        && fits
        && !cold.child
    {
        return Some((ptr, Some(Place::Slot(slot))));
    }
    let into_slot = track && !cold.child && new_layout.size().max(new_layout.align()) <= SLOT_MAX_BYTES;
    if slot.is_none() && !into_slot {
        // SAFETY: the caller's block, which the inner allocator made.
        let moved = unsafe { inner.realloc(ptr, layout, new_layout.size()) };
        return (!moved.is_null()).then_some((moved, track.then_some(Place::Table)));
    }
    let (fresh, place) = if into_slot {
        // SAFETY: a valid layout.
        unsafe { place(inner, new_layout, false) }?
    } else {
        // SAFETY: a valid layout.
        let fresh = unsafe { inner.alloc(new_layout) };
        if fresh.is_null() {
            return None;
        }
        (fresh, Place::Table)
    };
    // SAFETY: two distinct blocks, each of at least the smaller size.
    unsafe { ptr.copy_to_nonoverlapping(fresh, layout.size().min(new_layout.size())) };
    match slot {
        // SAFETY: moved away from.
        Some(slot) => unsafe { cold.give_slot(slot) },
        // SAFETY: moved away from; the inner allocator made it.
        None => unsafe { inner.dealloc(ptr, layout) },
    }
    let tracked = track || matches!(place, Place::Slot(_));
    Some((fresh, tracked.then_some(place)))
}
