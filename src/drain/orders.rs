//! What the drain thread can be told, and its replies.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TryRecvError, bounded};

use super::memory::Answer;
use super::verdict::Evidence;
use crate::leak::memory::Memory;
use crate::store::picture::{ExactTotals, Picture};
use crate::sys::lock;

/// An order. Each carries the channel of its reply.
#[derive(Debug)]
pub(crate) enum Order {
    /// Attribute all that was recorded before this was sent.
    Flush(Sender<()>),
    /// The same, and the exact totals.
    Totals(Sender<ExactTotals>),
    /// The same, and a picture of the result.
    Picture(Sender<Option<Box<Picture>>>),
    /// End the epoch.
    EndEpoch(Sender<()>),
    /// What a report of leaks is made from.
    Evidence(Sender<Option<Box<Evidence>>>),
    /// What the allocator answered a thread of the program just now. Nobody waits for this.
    Answered(Answer),
    /// Where the process's memory is.
    Memory(Sender<Memory>),
    /// Hand over what changed, if whoever listens has room; reply whether nothing is left to be handed over.
    Tell(Sender<bool>),
    /// From here on growth is measured against now.
    Baseline(Sender<()>),
    /// Look for modules that were loaded.
    LookAtModules(Sender<()>),
    /// Sleep until the other side is dropped: the tests' stopped drain thread.
    Pause(Sender<()>, Receiver<()>),
    /// Attribute what is left, reply with the last picture and the judge's evidence, and end.
    Stop(Sender<Option<Box<Evidence>>>),
}

/// Counts orders sent; the drain thread sleeps on it. The channels' own waiting is not used, on either side: it spins and
/// yields the processor before and after each sleep, which costs an idle thread several times what its tick does; and it
/// makes a thread-local value whose destructor the C library registers by its own malloc, whose lock a thread may hold
/// that a signal interrupted and that waits for the results.
static BELL: AtomicU32 = AtomicU32::new(0);
/// Counts replies; who asked sleeps on it.
static REPLIES: AtomicU32 = AtomicU32::new(0);
/// An order that is dropped without a reply rings no bell.
const LONGEST_DEAF: Duration = Duration::from_millis(100);

/// Somebody found its ring full since the drain thread last looked.
static HURRY: AtomicBool = AtomicBool::new(false);

/// Wakes the drain thread before its time: a ring is full, so the program does its work, or a signal arrived. Once a drain; a system
/// call, under which errno may change. Async-signal-safe.
pub(crate) fn hurry() {
    // Relaxed, and looked at first: many threads may come at once, and one of them suffices. The bell orders what they wait for.
    if !HURRY.load(Ordering::Relaxed) && !HURRY.swap(true, Ordering::Relaxed) {
        ring();
    }
}

/// Was it asked to hurry since this was last asked?
pub(super) fn is_to_hurry() -> bool {
    HURRY.load(Ordering::Relaxed) && HURRY.swap(false, Ordering::Relaxed)
}

/// Sends an order that has no reply.
pub(crate) fn tell(orders: &Sender<Order>, order: Order) {
    // A thread that is gone needs no telling.
    if orders.send(order).is_ok() {
        ring();
    }
}

fn ring() {
    // Release: pairs with the Acquire in `next`; who hears the bell finds the order.
    BELL.fetch_add(1, Ordering::Release);
    lock::wake(&BELL, i32::MAX);
}

/// Sends an order made by `make` and waits for its reply. `None`: the thread is gone.
///
/// Takes the Sender, and lets it go before it waits: an order that nobody took up is dropped with the channel, and its
/// reply's channel with it. crossbeam-channel 0.5.0 keeps what is queued until the last Sender goes: who held one here
/// would wait for ever.
pub(crate) fn ask<T>(orders: Sender<Order>, make: impl FnOnce(Sender<T>) -> Order) -> Option<T> {
    let (reply, answer) = bounded(1);
    let sent = orders.send(make(reply));
    drop(orders);
    sent.ok()?;
    ring();
    loop {
        // Acquire: pairs with the Release in `answer`. Before the look, as in `next`.
        let heard = REPLIES.load(Ordering::Acquire);
        match answer.try_recv() {
            Ok(reply) => return Some(reply),
            Err(TryRecvError::Disconnected) => return None,
            Err(TryRecvError::Empty) => lock::wait(&REPLIES, heard, LONGEST_DEAF),
        }
    }
}

/// Replies to an order.
pub(super) fn answer<T>(reply: &Sender<T>, value: T) {
    // Who asked may be gone, with a panic.
    let _ = reply.send(value);
    // Release: pairs with the Acquire in `ask`.
    REPLIES.fetch_add(1, Ordering::Release);
    lock::wake(&REPLIES, i32::MAX);
}

/// The next order, or `Timeout` at the deadline or where somebody is in a hurry. That all senders are gone is noticed by then, not
/// at once.
pub(super) fn next(orders: &Receiver<Order>, deadline: Instant) -> Result<Order, RecvTimeoutError> {
    loop {
        // Before the look: an order that is sent after it changes the word, and the sleep does not begin.
        let rung = BELL.load(Ordering::Acquire);
        match orders.try_recv() {
            Ok(order) => return Ok(order),
            Err(TryRecvError::Disconnected) => return Err(RecvTimeoutError::Disconnected),
            Err(TryRecvError::Empty) => {}
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() || HURRY.load(Ordering::Relaxed) {
            return Err(RecvTimeoutError::Timeout);
        }
        lock::wait(&BELL, rung, left);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crossbeam_channel::unbounded;

    use super::*;

    #[test]
    fn orders_and_hurries_come_at_once_and_deadlines_pass() {
        let (orders, inbox) = unbounded();
        let soon = || Instant::now() + Duration::from_millis(20);
        assert_eq!(next(&inbox, soon()).err(), Some(RecvTimeoutError::Timeout));
        let far = Instant::now() + Duration::from_secs(3600);
        let answered = std::thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..1000 {
                    match next(&inbox, far) {
                        Ok(Order::Flush(reply)) => answer(&reply, ()),
                        other => panic!("{other:?}"),
                    }
                }
            });
            (0..1000).filter(|_| ask(orders.clone(), Order::Flush).is_some()).count()
        });
        assert_eq!(answered, 1000);
        // Who is in a hurry is heard, by one who sleeps already as by one who is about to; and once.
        let late = Instant::now() + Duration::from_secs(60);
        for _ in 0..100 {
            let woken = std::thread::scope(|scope| {
                let sleeper = scope.spawn(|| next(&inbox, late).err());
                hurry();
                sleeper.join().expect("no panic")
            });
            assert_eq!(woken, Some(RecvTimeoutError::Timeout));
            assert!(is_to_hurry() && !is_to_hurry());
        }
        assert!(Instant::now() < late);
        drop(orders);
        assert_eq!(next(&inbox, far).err(), Some(RecvTimeoutError::Disconnected));
    }

    #[test]
    fn who_waits_holds_no_sender() {
        let (orders, inbox) = unbounded();
        let asker = std::thread::spawn(move || ask(orders, Order::Flush));
        let order = inbox.recv().expect("an order");
        // The asker waits for its reply, or is about to: soon there is no Sender.
        let end = inbox.recv_timeout(Duration::from_secs(60));
        assert!(matches!(end, Err(RecvTimeoutError::Disconnected)), "{end:?}");
        drop(order);
        assert_eq!(asker.join().expect("it ends"), None);
    }
}
