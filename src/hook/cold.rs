//! The cold path: registration, adoption of the mode, the sampling decision, tracking, and what only looks like it.
//!
//! Promises: never panics, never allocates from the program's heap, keeps errno, and returns what the inner allocator
//! would have returned. What can't be tracked is counted and served all the same. In a forked child it only counts.
//!
//! A tracked block lives in a slot or in the live table, and its path never changes under it: whoever frees it finds
//! it there, also after a stop. While the process may be refused memory (`sys::refusal`) every allocation comes here, so
//! that what is refused is not counted, of whatever size. Costs: about 40 instructions where nothing is sampled; a capture where it is.

mod alloc;
mod exact;
mod free;
mod realloc;
mod refusable;
mod scope;

use std::sync::atomic::Ordering;

use super::hot::{Counters, HOT, Hot, INSTALMENT_BYTES};
use super::session::{self, Mode, State};
use super::thread::{self, LATE, LATE_IN_PROFILE, Own, ThreadBlock};
use crate::ring::record::{Kind, Record};
use crate::sampler::interval;
use crate::sampler::random::Random;
use crate::sampler::weight::IntervalCode;
use crate::slots::entry::Identity;
use crate::slots::{RANGE, SLOT_MAX_BYTES};
use crate::sys::stack::Registers;
use crate::sys::{refusal, thread as os};
use crate::units::{StackId, Ticks};
use crate::unwind;
pub(super) use alloc::{alloc, plain};
pub(super) use free::dealloc;
use free::{Found, find};
pub(super) use realloc::realloc;
pub(super) use scope::{change_scopes, scopes};

/// The calling thread's words. Not by a closure around all that is done with them: `LocalKey::with` would not be
/// inlined around so much, and ask for the address by a pointer to a function.
#[inline(always)]
fn own_hot<'a>() -> &'a Hot {
    let hot = HOT.with(std::ptr::from_ref);
    // SAFETY: without `Drop` and `const`, the words exist until the thread's end, and so does whoever calls this.
    unsafe { &*hot }
}

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

impl<'a> Cold<'a> {
    /// Enters: from here to `leave` every allocation of this thread is ours.
    fn enter(hot: &'a Hot) -> Cold<'a> {
        let errno = os::errno();
        if hot.depth.get() != 0 {
            let (state, child) = (session::state(), thread::in_child());
            return Cold { hot, block: None, state, until: NEVER, child, nested: true, errno };
        }
        hot.depth.set(1);
        let budget = hot.take_budget();
        let child = thread::in_child();
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
        block.lean.set(State::NONE);
        if before.profile() != self.state.profile() || before == State::NONE {
            let counted = self.hot.counters();
            block.begin_profile(self.state.profile(), counted);
            own.ring = None;
            own.was_ringless = false;
            own.stacks.forget(self.state.profile());
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
            let exact = self.state.mode() == Mode::Exact && !self.child;
            let budget = (!exact && !refusal::is_possible()).then(|| self.until.clamp(0, INSTALMENT_BYTES));
            own.reserve = self.until.saturating_sub(budget.unwrap_or(0));
            self.hot.grant_budget(budget, counted.alloc_bytes);
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
                    sink.truncated(1);
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
            own.ring = sink.claim_ring(os::kernel_id());
        }
        let Some((id, ring)) = own.ring.as_mut() else {
            if !std::mem::replace(&mut own.was_ringless, true) {
                sink.ringless();
            }
            if !sink.apply(record) {
                sink.dropped(record.stack);
            }
            return;
        };
        if self.state.mode() == Mode::Exact && !self.child {
            block.lean.set(self.state);
        }
        let words = record.encode();
        for _ in 0..HELPS {
            if let Ok(is_due) = ring.put(&words) {
                if is_due {
                    sink.due(*id);
                }
                return;
            }
            if !sink.help(*id) {
                break;
            }
        }
        if ring.put(&words).is_err() {
            sink.dropped(record.stack);
        }
    }

    /// A block is in the sample from here on: born, or, where `grown_from` is not 0, grown.
    fn birth(&mut self, identity: &Identity, size: usize, grown_from: usize) {
        self.send(&Record {
            at: identity.birth,
            kind: Kind::Alloc,
            stack: identity.stack,
            interval: identity.interval,
            size: size as u64,
            old_size: grown_from as u64,
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

/// Rounds of helping before a record is given up: the second finds the ring empty but for a consumer that died, so two
/// suffice.
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
