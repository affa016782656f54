//! What the hook needs of the cold side, said as a trait so that neither knows the other.

use crate::ring::record::Record;
use crate::ring::{Producer, RingId};
use crate::tree::Tree;
use crate::units::StackId;

/// The receiving end of records. Every method may be called inside an allocation: none allocates through the global
/// allocator, panics, or waits longer than it says.
pub(crate) trait Sink: Sync {
    /// The tree that stacks are numbered in; `None` while no profile runs.
    fn tree(&self) -> Option<Tree<'static>>;

    /// A ring for the calling thread; `None` where none is left.
    fn claim_ring(&self, thread: u32) -> Option<(RingId, Producer<'static>)>;

    /// The calling thread found no ring, for the first time: counts it.
    fn ringless(&self);

    /// Gives the ring back at the thread's end. What it still holds will be read.
    fn release_ring(&self, ring: RingId);

    /// The caller's ring, `own`, is full: empties all rings, waiting for whoever does so already; gives up after 100 ms, in exact
    /// mode once nothing was attributed for so long. False: gave up.
    fn help(&self, own: RingId) -> bool;

    /// The caller's ring, `own`, is half full or fuller: empties all rings if that is for the program's threads to do at present, and
    /// nobody does it already, for whom it does not wait.
    fn due(&self, own: RingId);

    /// Attributes one record of a thread that has no ring, waiting as `help` does. False: gave up, the record is lost.
    fn apply(&self, record: &Record) -> bool;

    /// A record of `stack` is lost: counts it, and makes its site 'unknown'.
    fn dropped(&self, stack: StackId);

    /// A sampled block of `stack` could not be tracked: counts it, and makes its site 'unknown'.
    fn untracked(&self, stack: StackId);

    /// So many stacks were cut, or could not be unwound to their end.
    fn truncated(&self, stacks: u64);
}
