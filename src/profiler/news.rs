//! Telling the program of verdicts: its listener and its log, on a thread of their own, `unfreed-news`.
//!
//! Promises: the drain thread never waits for the program's code. It hands over evidence only when all that it gave
//! before was told; meanwhile it keeps what changed (`drain::verdict`, bounded and counted). The thread is there only
//! where somebody may listen. Symbols are looked up here, of the changed sites and what their advice speaks of alone.
//!
//! The callback is the program's code: what it allocates is counted as the program's, its panic ends nothing, and it
//! may ask the profile, or end it. At the end of a profile what is left is told, within [`LONGEST_TELLING`]; then the
//! thread is left to itself, which is said. In a child that the callback forks the thread ends with the callback.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TryRecvError, bounded};

use super::bounds::{BoundChange, Bounds};
use super::leaks::{self, OnVerdict};
use crate::drain::verdict::Evidence;
use crate::drain::worker::News;
use crate::hook;
use crate::leak::judge::Subject;
use crate::leak::state::Change;
use crate::store::picture::Picture;
use crate::sys::thread::OwnThread;
use crate::sys::{fork, lock, process, thread};

/// How long the end of a profile, and of a process that a signal ends, waits for listeners.
const LONGEST_TELLING: Duration = Duration::from_secs(5);

/// What is being told, and what was given meanwhile: what a profile that ends has left.
const MOST_BATCHES: usize = 2;

/// What changed, with what a report is made from.
struct Batch {
    evidence: Box<Evidence>,
    changes: Vec<(Subject, Change)>,
    bounds: Vec<BoundChange>,
}

/// What both threads know.
#[derive(Debug, Default)]
struct Shared {
    /// Counts what the listening thread is to look at; it sleeps on this.
    bell: AtomicU32,
    /// Batches that were given and not yet told; who waits for it to be 0 sleeps on this.
    untold: AtomicU32,
    /// Changes of the batch under way that were not yet told.
    untold_changes: AtomicU32,
    /// Nobody waits any more: the rest is not told.
    is_given_up: AtomicBool,
    /// The kernel's number of the listening thread; 0: it has not begun.
    thread: AtomicU32,
}

impl Shared {
    fn ring(&self) {
        // Release: pairs with the Acquire in `listen`; who hears the bell finds the batch, or the channel's end.
        self.bell.fetch_add(1, Ordering::Release);
        lock::wake(&self.bell, i32::MAX);
    }
}

/// Where the listening thread has got.
#[derive(Clone, Debug)]
pub(super) struct Telling(Arc<Shared>);

impl Telling {
    /// Waits until everything that was handed over is told, or until the deadline. False: it is not.
    pub(super) fn wait_until(&self, deadline: Instant) -> bool {
        loop {
            // Acquire: pairs with the Release in `Told::drop`.
            let untold = self.0.untold.load(Ordering::Acquire);
            if untold == 0 {
                return true;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            lock::wait(&self.0.untold, untold, left);
        }
    }

    /// Is this the thread that tells?
    pub(super) fn is_here(&self) -> bool {
        // Relaxed: only that thread itself finds its own number.
        self.0.thread.load(Ordering::Relaxed) == thread::id()
    }

    /// At the end: waits until everything is told, for so long as is bearable. False: it is not, which is said.
    pub(super) fn wait(&self) -> bool {
        if self.wait_until(Instant::now() + LONGEST_TELLING) {
            return true;
        }
        // Release: pairs with the Acquire in `tell`.
        self.0.is_given_up.store(true, Ordering::Release);
        // Relaxed: a figure.
        let untold = self.0.untold_changes.load(Ordering::Relaxed);
        process::say(&format!(
            "unfreed: a listener (on_verdict, or a logger) had not returned after {} s: {untold} or more changes of verdicts \
             were not told\n",
            LONGEST_TELLING.as_secs()
        ));
        false
    }
}

/// The listening thread of a profile.
#[derive(Debug)]
pub(super) struct Listening {
    telling: Telling,
    thread: OwnThread,
}

impl Listening {
    pub(super) fn telling(&self) -> Telling {
        self.telling.clone()
    }

    /// Ends it, after the drain thread and its desk have ended.
    pub(super) fn end(self) {
        let Listening { telling, thread } = self;
        // A callback that ends the profile would wait for itself: the rest is told when it has returned.
        let is_done = !telling.is_here() && telling.wait();
        telling.0.ring();
        if is_done { thread.join() } else { thread.detach() }
    }
}

/// The drain thread's side.
pub(super) struct Desk {
    has_listener: bool,
    batches: Sender<Batch>,
    shared: Arc<Shared>,
    bounds: Bounds,
    /// Changes of scopes' bounds that were seen and not yet handed over.
    seen: Vec<BoundChange>,
}

impl Desk {
    pub(super) fn telling(&self) -> Telling {
        Telling(Arc::clone(&self.shared))
    }
}

/// Makes both sides, and the thread if somebody may listen.
pub(super) fn begin(listener: Option<OnVerdict>) -> std::io::Result<(Desk, Option<Listening>)> {
    let shared = Arc::new(Shared::default());
    let (batches, inbox) = bounded(MOST_BATCHES);
    let has_listener = listener.is_some();
    let telling = Telling(Arc::clone(&shared));
    // Whether the application's log takes our lines may change at any time.
    let listening = if has_listener || cfg!(any(feature = "log", feature = "tracing")) {
        let shared = Arc::clone(&shared);
        let thread = thread::spawn(c"unfreed-news", Box::new(move || listen(&inbox, &shared, listener.as_ref())))?;
        Some(Listening { telling, thread })
    } else {
        None
    };
    Ok((Desk { has_listener, batches, shared, bounds: Bounds::default(), seen: Vec::new() }, listening))
}

impl News for Desk {
    fn is_heard(&self) -> bool {
        self.has_listener || leaks::is_logged()
    }

    fn look(&mut self, picture: Box<Picture>) {
        self.seen.extend(self.bounds.look(picture));
    }

    fn has_seen(&self) -> bool {
        !self.seen.is_empty()
    }

    fn has_room(&self) -> bool {
        // Acquire: pairs with the Release in `Told::drop`.
        self.shared.untold.load(Ordering::Acquire) == 0
    }

    fn tell(&mut self, evidence: Box<Evidence>, changes: Vec<(Subject, Change)>) {
        let batch = Batch { evidence, changes, bounds: std::mem::take(&mut self.seen) };
        // Relaxed: the channel orders it.
        self.shared.untold.fetch_add(1, Ordering::Relaxed);
        // Sent without waiting, and received so too: the channel's own waiting is not for this thread (`drain::orders`).
        // There is room for the last batch beside one; that a full channel, or one whose thread is gone, tells nobody
        // is counted with the rest of what was not told.
        if self.batches.try_send(batch).is_ok() {
            self.shared.ring();
        } else {
            self.shared.untold.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// The listening thread.
fn listen(inbox: &Receiver<Batch>, shared: &Shared, listener: Option<&OnVerdict>) {
    let _inside = hook::inside();
    // Relaxed: see `Telling::is_here`.
    shared.thread.store(thread::id(), Ordering::Relaxed);
    loop {
        // Before the look: a batch that is sent after it changes the word, and the sleep does not begin.
        let rung = shared.bell.load(Ordering::Acquire);
        match inbox.try_recv() {
            Ok(batch) => {
                let _told = Told(shared);
                // Symbols are read from files of any kind; what goes wrong there ends one batch.
                let goes_on = catch_unwind(AssertUnwindSafe(|| tell(batch, shared, listener))).unwrap_or(true);
                if !goes_on {
                    return;
                }
            }
            Err(TryRecvError::Disconnected) => return,
            Err(TryRecvError::Empty) => lock::wait(&shared.bell, rung, Duration::from_secs(3600)),
        }
    }
}

/// However a batch ends, it is no longer untold.
struct Told<'a>(&'a Shared);

impl Drop for Told<'_> {
    fn drop(&mut self) {
        // Release: pairs with the Acquire in `wait` and `has_room`.
        self.0.untold.fetch_sub(1, Ordering::Release);
        lock::wake(&self.0.untold, i32::MAX);
    }
}

/// Tells one batch. False: the thread is to end.
fn tell(batch: Batch, shared: &Shared, listener: Option<&OnVerdict>) -> bool {
    let Batch { evidence, changes, bounds } = batch;
    let count = |length: usize| u32::try_from(length).unwrap_or(u32::MAX);
    // Relaxed: a figure.
    shared.untold_changes.store(count(changes.len() + bounds.len()), Ordering::Relaxed);
    let changes = leaks::changes(*evidence, &changes, &bounds);
    let mut left = count(changes.len());
    for change in &changes {
        // Relaxed: a figure.
        shared.untold_changes.store(left, Ordering::Relaxed);
        // Acquire: pairs with the Release in `Telling::wait`.
        if shared.is_given_up.load(Ordering::Acquire) {
            return false;
        }
        #[cfg(any(feature = "log", feature = "tracing"))]
        as_the_program(|| leaks::log(change));
        if let Some(listener) = listener {
            as_the_program(|| (listener.0)(change));
        }
        if fork::in_child() {
            return false;
        }
        left -= 1;
    }
    // Relaxed: a figure.
    shared.untold_changes.store(0, Ordering::Relaxed);
    true
}

/// Runs code of the program's: what it allocates is the program's, and its panic ends neither thread nor profile.
fn as_the_program(f: impl FnOnce()) {
    hook::outside(|| {
        let _ = catch_unwind(AssertUnwindSafe(f));
    });
}
