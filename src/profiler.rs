//! The public handle; the only module that knows both the hot and the cold side.
//!
//! | file | what it holds |
//! |---|---|
//! | `builder` | what a profile is to be |
//! | `start`, `stop` | the order in which the parts come up and go down |
//! | `running` | the one profile that runs, and what it is asked |
//! | `store` | the store of that profile, created, lent and ended |
//! | `link`, `surroundings` | what the hot side is given of the cold one, and the drain thread of the hot one |
//! | `output` | the file and the summary that a profile leaves |
//! | `leaks`, `news` | verdicts reported, and told to whoever listens |
//! | `scopes`, `bounds` | scopes that the program declares, and which of them exceed their bounds |

mod bounds;
mod builder;
mod leaks;
mod link;
mod news;
mod output;
mod running;
mod scopes;
mod start;
mod stop;
mod store;
mod surroundings;

use std::fmt;

use crate::drain::orders::Order;
use crate::error::Error;
use crate::report::Snapshot;
use crate::store::picture::{ExactTotals, Picture};
pub use builder::Builder;
pub use leaks::{LeakReport, VerdictChange, VerdictKind};
pub(crate) use link::{given_up, with_store};
pub(crate) use running::current_ticket;
pub(crate) use scopes::OwnScope;
pub use scopes::{Bounded, EnteredScopes, ScopeHandle, bounded};

/// A running profile. Dropping it stops the profile and writes the results.
///
/// One profile runs in a process at a time; another may be started after this one is dropped. If the process ends by
/// `std::process::exit`, or by SIGINT or SIGTERM where the program has no handler for them, the results are written as
/// well. After `kill -9`, an abort or the kernel's out-of-memory killer the store file is left, and
/// [`Store::open`](crate::Store::open) reads it.
///
/// In a forked child the parent's profiler does nothing; the child may start its own.
///
/// ```no_run
/// #[global_allocator]
/// static ALLOC: unfreed::Alloc = unfreed::Alloc::system();
///
/// fn main() -> Result<(), unfreed::Error> {
///     let _profiler = unfreed::Profiler::start()?;
///     // … the program …
///     Ok(())
/// }
/// ```
#[must_use = "the profile ends when this is dropped: bind it to a variable that lives as long as it is to run"]
pub struct Profiler {
    ticket: u32,
}

/// Names one profile of this process.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ticket(u32);

impl Ticket {
    /// What `picture` takes.
    pub(crate) fn number(self) -> u32 {
        self.0
    }
}

impl Profiler {
    /// Starts a profile with the defaults: sampled and governed, `dhat-heap.json` and a summary on stderr at the end.
    /// Takes about a millisecond.
    ///
    /// # Errors
    /// [`Error::NotInstalled`], [`Error::AlreadyRunning`], [`Error::Unsupported`], or no memory or thread to be had.
    pub fn start() -> Result<Profiler, Error> {
        Builder::new().start()
    }

    /// Chooses what the profile is to be.
    pub fn builder() -> Builder {
        Builder::new()
    }

    /// Starts what the environment asks for: `None` where `UNFREED` is unset or `off`.
    ///
    /// `UNFREED=off|sampled|exact`, `UNFREED_SAMPLE_INTERVAL` (bytes; K, M, G), `UNFREED_OVERHEAD` (percent of CPU
    /// time), `UNFREED_OUTPUT` (a path, or `none`), `UNFREED_DIR` (where the store goes), `UNFREED_EPOCH` (seconds),
    /// `UNFREED_SLOTS` (`on` or `off`; also heeded by other starts). An interval, a share of CPU time and `exact` exclude
    /// each other.
    ///
    /// # Errors
    /// A bad value, by the variable's name, the value and what is allowed; and those of [`Profiler::start`].
    pub fn from_env() -> Result<Option<Profiler>, Error> {
        match Builder::from_env()? {
            Some(builder) => builder.start().map(Some),
            None => Ok(None),
        }
    }

    pub(crate) fn of_ticket(ticket: u32) -> Profiler {
        Profiler { ticket }
    }

    /// The number of this profile, for those that may not hold its handle.
    pub(crate) fn ticket(&self) -> Ticket {
        Ticket(self.ticket)
    }

    /// Makes everything recorded before this call part of the figures. Returns when that is done.
    pub fn flush(&self) {
        running::order(self.ticket, Order::Flush);
    }

    /// Ends the epoch: a round is over. The history of totals gets a point, and readers of the store see this state.
    pub fn advance_epoch(&self) {
        running::order(self.ticket, Order::EndEpoch);
    }

    /// The profile so far; includes everything recorded before this call. Costs a copy of the store's used part; symbols
    /// are looked up when they are first asked for.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        running::ask_allocator(self.ticket);
        let _inside = crate::hook::inside();
        let mut snapshot = Snapshot::from_picture(picture(self.ticket).map(|picture| *picture).unwrap_or_default());
        if let Some(memory) = running::order(self.ticket, Order::Memory) {
            snapshot.set_memory(memory);
        }
        snapshot
    }
}

impl Profiler {
    /// The verdicts on every judged site, worst first, as of the last closed epoch; includes everything recorded so
    /// far in the figures. Costs what a snapshot does, and the symbols of the judged sites. Asks the allocator for its
    /// statistics, which takes its locks for up to 0.5 ms.
    #[must_use]
    pub fn leaks(&self) -> LeakReport {
        running::ask_allocator(self.ticket);
        let _inside = crate::hook::inside();
        match running::order(self.ticket, Order::Evidence).flatten() {
            Some(evidence) => leaks::report(*evidence, crate::report::Trim::from_dhat(Some(usize::MAX))).1,
            None => LeakReport::default(),
        }
    }

    /// Waits until listeners ([`Builder::on_verdict`], a logger) were told of every verdict that has changed so far, for at
    /// most `limit`; true if they were. For programs that end epochs themselves and want to know at once. Returns false at
    /// once in a listener.
    pub fn wait_until_told(&self, limit: std::time::Duration) -> bool {
        running::wait_until_told(self.ticket, limit)
    }

    /// From here on the report's `baseline_bytes` is what is live now.
    pub fn set_leak_baseline(&self) {
        running::order(self.ticket, Order::Baseline);
    }
}

/// The picture of the running profile of this ticket.
pub(crate) fn picture(ticket: u32) -> Option<Box<Picture>> {
    running::order(ticket, Order::Picture).flatten()
}

/// Does the profile that runs record every block?
pub(crate) fn is_exact() -> bool {
    crate::hook::session::state().mode() == crate::hook::session::Mode::Exact
}

/// Sends an order for the tests: see `internals`.
pub(crate) fn order_for_tests<T>(make: impl FnOnce(crossbeam_channel::Sender<T>) -> Order) -> Option<T> {
    running::order(current_ticket(), make)
}

/// The exact totals of the running profile of this ticket, all that was recorded before included.
pub(crate) fn totals(ticket: Ticket) -> Option<ExactTotals> {
    running::order(ticket.0, Order::Totals)
}

/// Stops a profile as dropping its handle would, and returns what it found. Writes its results only where told to; for
/// the dhat surface, where that depends on how it ends. `None` where it was stopped already.
pub(crate) fn end(profiler: Profiler, write: bool) -> Option<Snapshot> {
    running::ask_allocator(profiler.ticket);
    let _inside = crate::hook::inside();
    output::end(profiler.ticket, write)
}

pub(crate) use output::write_snapshot as write;

/// Starts a profile of this configuration; for the dhat surface.
pub(crate) fn start_with(config: crate::config::Config) -> Result<Profiler, Error> {
    start::start(config, None).map(Profiler::of_ticket)
}

impl Drop for Profiler {
    fn drop(&mut self) {
        // While the drain thread still serves signals.
        running::ask_allocator(self.ticket);
        let _inside = crate::hook::inside();
        output::finish(self.ticket);
    }
}

impl fmt::Debug for Profiler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Profiler").field("running", &(current_ticket() == self.ticket)).finish()
    }
}
