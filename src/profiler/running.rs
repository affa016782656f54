//! The one profile that runs in this process: where it is kept, its ticket, and what it is asked.
//!
//! Promises: at most one runs; a ticket names one for ever, so that the handle of an earlier one asks and stops nothing. The lock is
//! held to come, to go, and to copy the way to the drain thread, never while an answer is waited for. In a forked child nothing
//! runs until the child starts its own.

#![allow(unsafe_code, reason = "one cell behind a lock that is not std's")]

use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;

use super::news::Listening;
use crate::config::Config;
use crate::drain::orders::{self, Order, ask};
use crate::error::Error;
use crate::hook::{self, Inside};
use crate::store::Store;
use crate::sys::thread::OwnThread;
use crate::sys::{fork, heap, lock};

/// A profile that runs.
pub(super) struct Running {
    pub(super) config: Config,
    pub(super) store: &'static Store,
    pub(super) orders: Sender<Order>,
    pub(super) thread: OwnThread,
    pub(super) listening: Option<Listening>,
}

/// The one of this process.
struct Slot {
    lock: lock::Lock,
    running: UnsafeCell<Option<Running>>,
}

// SAFETY: the cell is touched only while the lock is held.
unsafe impl Sync for Slot {}

static RUNNING: Slot = Slot { lock: lock::Lock::new(), running: UnsafeCell::new(None) };

/// The number of the profile that runs, so that a handle of an earlier one does not stop it; 0: none.
static TICKET: AtomicU32 = AtomicU32::new(0);
static TICKETS: AtomicU32 = AtomicU32::new(1);

fn with_running<T>(f: impl FnOnce(&mut Option<Running>) -> T) -> Option<T> {
    let held = RUNNING.lock.take()?;
    // SAFETY: the lock is held.
    let result = f(unsafe { &mut *RUNNING.running.get() });
    drop(held);
    Some(result)
}

/// Keeps what `begin` begins, unless one runs. Returns its ticket.
pub(super) fn keep(begin: impl FnOnce() -> Result<Running, Error>) -> Result<u32, Error> {
    let kept = with_running(|running| {
        if running.is_some() {
            return Err(Error::AlreadyRunning);
        }
        *running = Some(begin()?);
        let ticket = TICKETS.fetch_add(1, Ordering::Relaxed).max(1);
        TICKET.store(ticket, Ordering::SeqCst);
        Ok(ticket)
    });
    kept.unwrap_or(Err(Error::AlreadyRunning))
}

/// Takes the profile of this ticket out, for whoever ends it: one caller gets it. `None` in a forked child too.
pub(super) fn take(ticket: u32) -> Option<Running> {
    if fork::in_child() || TICKET.compare_exchange(ticket, 0, Ordering::SeqCst, Ordering::SeqCst).is_err() {
        return None;
    }
    with_running(Option::take).flatten()
}

/// In a forked child: the parent's is forgotten, not ended.
pub(super) fn forget_in_child() {
    RUNNING.lock.reset_in_child();
    let parents = with_running(Option::take).flatten();
    // Its channel and thread are the parent's: not dropped, not joined.
    std::mem::forget(parents);
    TICKET.store(0, Ordering::SeqCst);
}

/// The ticket of the running profile, for the dhat surface; 0: none.
pub(crate) fn current_ticket() -> u32 {
    TICKET.load(Ordering::SeqCst)
}

/// The way to the drain thread.
fn orders() -> Option<Sender<Order>> {
    with_running(|running| running.as_ref().map(|running| running.orders.clone())).flatten()
}

/// Asks the drain thread something. `None`: no profile of this ticket runs in this process.
pub(super) fn order<T>(ticket: u32, make: impl FnOnce(Sender<T>) -> Order) -> Option<T> {
    if fork::in_child() || current_ticket() != ticket {
        return None;
    }
    let _inside: Inside = hook::inside();
    ask(orders()?, make)
}

/// Asks the allocator what it holds, on this thread of the program, and tells the drain thread, which must not ask: the
/// allocator's locks may be held by a thread that a signal interrupted and that waits for the drain thread. Nothing that
/// the drain thread needs to serve signals is held meanwhile, so if this waits for such a thread, it ends all the same.
pub(super) fn ask_allocator(ticket: u32) {
    if fork::in_child() || current_ticket() != ticket {
        return;
    }
    let answer = heap::ask();
    let _inside: Inside = hook::inside();
    if let Some(orders) = orders() {
        orders::tell(&orders, Order::Answered(answer));
    }
}

/// Waits until whoever listens was told of everything, or for so long. False: it was not, or this is the thread that tells.
pub(super) fn wait_until_told(ticket: u32, limit: Duration) -> bool {
    let deadline = Instant::now().checked_add(limit).unwrap_or_else(|| Instant::now() + LONGEST_WAIT);
    let telling = {
        let _inside: Inside = hook::inside();
        with_running(|running| running.as_ref().and_then(|running| Some(running.listening.as_ref()?.telling())))
            .flatten()
    };
    let Some(telling) = telling else { return true };
    if telling.is_here() {
        return false;
    }
    loop {
        let Some(is_handed_over) = order(ticket, Order::Tell) else { return true };
        let is_told = telling.wait_until(deadline);
        if is_handed_over || !is_told {
            return is_told;
        }
    }
}

/// A century is not a time that a clock can add.
const LONGEST_WAIT: Duration = Duration::from_secs(86_400);
