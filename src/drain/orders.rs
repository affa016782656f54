//! What the drain thread can be told, and its replies.

use crossbeam_channel::{Receiver, Sender, bounded};

use super::memory::Answer;
use super::verdict::Evidence;
use crate::leak::memory::Memory;
use crate::store::picture::{ExactTotals, Picture};

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
    /// From here on growth is measured against now.
    Baseline(Sender<()>),
    /// Look for modules that were loaded.
    LookAtModules(Sender<()>),
    /// Sleep until the other side is dropped: the tests' stopped drain thread.
    Pause(Sender<()>, Receiver<()>),
    /// Attribute what is left, reply with the last picture and the judge's evidence, and end.
    Stop(Sender<Option<Box<Evidence>>>),
}

/// Sends an order that has no reply.
pub(crate) fn tell(orders: &Sender<Order>, order: Order) {
    // A thread that is gone needs no telling.
    let _ = orders.send(order);
}

/// Sends an order made by `make` and waits for its reply. `None`: the thread is gone.
pub(crate) fn ask<T>(orders: &Sender<Order>, make: impl FnOnce(Sender<T>) -> Order) -> Option<T> {
    let (reply, answer) = bounded(1);
    orders.send(make(reply)).ok()?;
    answer.recv().ok()
}
