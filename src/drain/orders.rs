//! What the drain thread can be told, and its replies.

use crossbeam_channel::{Receiver, Sender, bounded};

use super::verdict::Evidence;
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
    /// From here on growth is measured against now.
    Baseline(Sender<()>),
    /// Look for modules that were loaded.
    LookAtModules(Sender<()>),
    /// Sleep until the other side is dropped: the tests' stopped drain thread.
    Pause(Sender<()>, Receiver<()>),
    /// Attribute what is left, reply with the last picture and the judge's evidence, and end.
    Stop(Sender<Option<Box<Evidence>>>),
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
    answer.recv().ok()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crossbeam_channel::{RecvTimeoutError, unbounded};

    use super::*;

    #[test]
    fn who_waits_holds_no_sender() {
        let (orders, inbox) = unbounded();
        let asker = std::thread::spawn(move || ask(orders, Order::Flush));
        let order = inbox.recv().expect("an order");
        // The asker waits for its reply, or is about to: soon there is no Sender.
        let next = inbox.recv_timeout(Duration::from_secs(60));
        assert!(matches!(next, Err(RecvTimeoutError::Disconnected)), "{next:?}");
        drop(order);
        assert_eq!(asker.join().expect("it ends"), None);
    }
}
