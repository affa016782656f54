//! For your tests: does this code leave more behind each time it runs?
//!
//! [`assert_no_leaks!`](crate::assert_no_leaks) runs a closure for some rounds, every allocation recorded, and fails with the
//! call chain that keeps memory in each of the later rounds. [`find_leaks`] is the same without the panic.
//!
//! ```
//! #[global_allocator]
//! static ALLOC: unfreed::Alloc = unfreed::Alloc::system();
//!
//! # fn main() {
//! // #[test]
//! // fn parsing_keeps_nothing() {
//! unfreed::assert_no_leaks!(|| "1,2,3".split(',').map(String::from).collect::<Vec<_>>());
//! // }
//! # }
//! ```
//!
//! **How it decides.** The first quarter of the rounds is for warming up: lazy statics, thread-locals, caches that fill.
//! In each of the k rounds after it (6 of the default 8) a leaking chain's live bytes grow. A chain whose bytes went up or down
//! by chance would do that once in 2ᵏ times. What is allocated in one round and freed in a later one (a cache whose entry is
//! replaced) nets to nothing, and does not fail. Where no single chain grows each time but all of the closure's allocations together
//! do (a leak by one of several ways each round), the chains that grew are reported. A chain in a scope of
//! [`bounded`](crate::bounded) does not fail while the scope's share in this test is within its bound.
//!
//! **What is covered**: allocations of the calling thread while the closure runs and its result is dropped; and those of
//! other threads that entered its scope: `let scope = unfreed::ScopeHandle::current();` in the closure, `let _entered = scope.enter();`
//! in the thread. Growth by `realloc` counts where the block was born.
//!
//! **What is not**: threads that did not enter the scope (those of a pool or a runtime), C's `malloc`, `mmap`. A buffer that doubles
//! (a `Vec` of numbers that gets one more each round) grows in few rounds alone, and is seen only if it grows in each: push more each
//! round, or blocks of their own. A cache that is not full when the warm-up is over fails: more rounds, or a bound.
//!
//! **In parallel.** Tests of one binary run in parallel, each sees its own allocations alone. The first to begin starts an exact
//! profile, in memory and without output, later ones join it, and the last to end stops it. If the program runs an exact profile of its
//! own, that one is used; a sampled one is in the way ([`TestError::SampledProfile`]).
//!
//! **Cost**: a stack for each allocation of the whole process meanwhile, and for each round a copy of what the profile has so far:
//! a millisecond and less where that is little.

mod growth;
mod session;

use std::fmt;
use std::hint::black_box;

use crate::error::Error;
use crate::profiler::OwnScope;
use crate::report::{Frame, Snapshot, short_chain};
use crate::store::picture::Picture;
use growth::{Course, Verdict};
use session::Session;

/// The rounds of [`assert_no_leaks!`](crate::assert_no_leaks) where none are given.
pub const DEFAULT_ROUNDS: usize = 8;
/// With fewer rounds chance would be blamed too often.
const FEWEST_ROUNDS: usize = 5;
/// With more a test would take for ever.
const MOST_ROUNDS: usize = 100_000;

/// Runs a closure for some rounds and panics if some call chain keeps memory in each of the later ones.
///
/// `assert_no_leaks!(|| …)` runs 8 rounds, `assert_no_leaks!(rounds = 50, || …)` as many as you say (5 and more); behind the
/// closure there may be a message as in `assert!`. What the closure returns is dropped within the round.
///
/// ```
/// # #[global_allocator]
/// # static ALLOC: unfreed::Alloc = unfreed::Alloc::system();
/// # fn handle(request: &str) -> Vec<u8> { request.bytes().rev().collect() }
/// # fn main() {
/// let mut handled = 0;
/// unfreed::assert_no_leaks!(rounds = 12, || {
///     handled += 1;
///     handle("GET /")
/// }, "the handler, {} bytes", 5);
/// assert_eq!(handled, 12);
/// # }
/// ```
///
/// How it decides, what is covered, and what running in parallel means: [`unfreed::testing`](crate::testing).
///
/// # Panics
/// If there is a leak, with its call chain and what it grew by; and if it cannot tell: the test binary has no
/// [`Alloc`](crate::Alloc), the rounds are too few, a sampled profile runs, records were lost.
#[macro_export]
macro_rules! assert_no_leaks {
    (rounds = $rounds:expr, $round:expr $(,)?) => {
        $crate::testing::__assert($rounds, $round, ::core::option::Option::None)
    };
    (rounds = $rounds:expr, $round:expr, $($message:tt)+) => {
        $crate::testing::__assert($rounds, $round, ::core::option::Option::Some(::core::format_args!($($message)+)))
    };
    ($round:expr $(,)?) => {
        $crate::testing::__assert($crate::testing::DEFAULT_ROUNDS, $round, ::core::option::Option::None)
    };
    ($round:expr, $($message:tt)+) => {
        $crate::testing::__assert(
            $crate::testing::DEFAULT_ROUNDS,
            $round,
            ::core::option::Option::Some(::core::format_args!($($message)+)),
        )
    };
}

/// Of `assert_no_leaks!`.
#[doc(hidden)]
#[track_caller]
pub fn __assert<T>(rounds: usize, round: impl FnMut() -> T, message: Option<fmt::Arguments<'_>>) {
    let said = match find_leaks(rounds, round) {
        Ok(leaks) if leaks.is_empty() => return,
        Ok(leaks) => {
            let chains: String = leaks.iter().map(|leak| format!("\n{leak}")).collect();
            format!("{} call chain{} kept memory{chains}", leaks.len(), if leaks.len() == 1 { "" } else { "s" })
        }
        Err(error) => error.to_string(),
    };
    match message {
        Some(message) => panic!("assert_no_leaks!: {message}: {said}"),
        None => panic!("assert_no_leaks!: {said}"),
    }
}

/// Runs `round` for `rounds` rounds and returns the call chains that keep memory, the largest first: none is as it should be.
/// What `round` returns is dropped within the round. See the [module](self) for how it decides.
///
/// ```
/// # #[global_allocator]
/// # static ALLOC: unfreed::Alloc = unfreed::Alloc::system();
/// # fn main() -> Result<(), unfreed::testing::TestError> {
/// let mut kept = Vec::with_capacity(100);
/// let leaks = unfreed::testing::find_leaks(10, || kept.push(Box::new([0u8; 1000])))?;
/// assert_eq!(leaks.len(), 1);
/// assert_eq!((leaks[0].bytes_per_round(), leaks[0].grown_blocks()), (1000.0, 10));
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// Where it cannot tell: see [`TestError`].
pub fn find_leaks<T>(rounds: usize, round: impl FnMut() -> T) -> Result<Vec<LeakingChain>, TestError> {
    if !(FEWEST_ROUNDS..=MOST_ROUNDS).contains(&rounds) {
        return Err(TestError::Rounds { rounds });
    }
    let session = Session::join()?;
    let scope = OwnScope::new();
    let mut test = Test { round, scope, session, rounds, course: Course::new(rounds), latest: None };
    // The loop has one place that calls, and that place nothing that differs from round to round: unrolled, equal chains would
    // have different return addresses.
    while black_box(test.run_one()?) {}
    let inside = crate::hook::inside();
    let found = test.result();
    drop(inside);
    found
}

/// A test under way.
struct Test<F> {
    round: F,
    scope: OwnScope,
    session: Session,
    rounds: usize,
    course: Course,
    latest: Option<Box<Picture>>,
}

impl<T, F: FnMut() -> T> Test<F> {
    /// One round and what it left; false after the last.
    #[inline(never)]
    fn run_one(&mut self) -> Result<bool, TestError> {
        {
            let entered = self.scope.enter().ok_or(TestError::NestedTooDeeply)?;
            let result = (self.round)();
            drop(result);
            drop(entered);
        }
        let _inside = crate::hook::inside();
        let picture = self.session.picture().ok_or(TestError::Ended)?;
        self.course.note(&picture, self.scope.number);
        self.latest = Some(picture);
        Ok(self.course.noted() < self.rounds)
    }
}

impl<F> Test<F> {
    fn result(self) -> Result<Vec<LeakingChain>, TestError> {
        let verdict = self.course.verdict();
        let Some(picture) = self.latest else { return Err(TestError::Ended) };
        let was_full = picture.loss.folded_stacks > 0 || picture.loss.folded_sites > 0;
        let grown = match verdict {
            Verdict::Unknown => return Err(TestError::RecordsLost),
            Verdict::Clean if was_full => return Err(TestError::RecordsLost),
            Verdict::Clean => return Ok(Vec::new()),
            Verdict::Leaks(grown) => grown,
        };
        let snapshot = Snapshot::from_picture(*picture);
        let sites = snapshot.sites_by_stack();
        let chain = |grown: growth::Grown| {
            let frames = sites.get(&grown.stack).map(|&index| snapshot.frames_of(index)).unwrap_or_default();
            // What called the closure is ours and the test harness's.
            let ours = frames.iter().position(is_ours).unwrap_or(frames.len());
            let frames = frames.get(..ours).unwrap_or_default().to_vec();
            LeakingChain { frames, grown, rounds: self.rounds }
        };
        Ok(grown.into_iter().map(chain).collect())
    }
}

fn is_ours(frame: &Frame) -> bool {
    frame.name().is_some_and(|name| name.trim_start_matches('<').starts_with("unfreed::testing::"))
}

/// A call chain that keeps memory in each round.
#[derive(Clone, Debug)]
pub struct LeakingChain {
    frames: Vec<Frame>,
    grown: growth::Grown,
    rounds: usize,
}

impl LeakingChain {
    /// The call chain, the allocating function first, up to the closure.
    pub fn frames(&self) -> &[Frame] {
        &self.frames
    }

    /// What it grew by, in bytes, from before the first round to after the last.
    pub fn grown_bytes(&self) -> u64 {
        self.grown.bytes
    }

    /// What it grew by, in blocks; less than one a round where blocks of its own grew.
    pub fn grown_blocks(&self) -> u64 {
        self.grown.blocks
    }

    /// The mean growth a round after the warm-up, in bytes.
    #[expect(clippy::cast_precision_loss, reason = "a mean")]
    pub fn bytes_per_round(&self) -> f64 {
        self.grown.late_bytes as f64 / self.judged_rounds() as f64
    }

    /// The mean growth a round after the warm-up, in blocks.
    #[expect(clippy::cast_precision_loss, reason = "a mean")]
    pub fn blocks_per_round(&self) -> f64 {
        self.grown.late_blocks as f64 / self.judged_rounds() as f64
    }

    /// The rounds after the warm-up: in each of them it grew.
    pub fn judged_rounds(&self) -> usize {
        self.rounds - growth::warm_up(self.rounds)
    }
}

/// What it grew by, and the chain: the program's own functions, and one line for what lies between them.
impl fmt::Display for LeakingChain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (first, last) = (self.rounds - self.judged_rounds() + 1, self.rounds);
        let each = if self.grown.in_each { "in each of" } else { "in all, with others in each of" };
        write!(
            f,
            "  {:.0} bytes in {:.1} blocks a round, {each} the rounds {first} to {last}; {} bytes in {} blocks since the first",
            self.bytes_per_round(),
            self.blocks_per_round(),
            self.grown.bytes,
            self.grown.blocks,
        )?;
        for line in short_chain(&self.frames) {
            write!(f, "\n    {line}")?;
        }
        Ok(())
    }
}

/// Why a test for leaks could not tell.
#[derive(Debug)]
#[non_exhaustive]
pub enum TestError {
    /// The test binary's global allocator is not [`Alloc`](crate::Alloc).
    NotInstalled,
    /// Too few rounds, or more than 100,000.
    Rounds {
        /// As many were asked for.
        rounds: usize,
    },
    /// The program runs a sampled profile, in which most allocations are not seen.
    SampledProfile,
    /// The exact profile could not be started.
    Start(Error),
    /// The program's own profile, which was used, ended meanwhile.
    Ended,
    /// Records were lost, or the profile's store is full: a free may be missing.
    RecordsLost,
    /// More than 8 scopes within each other.
    NestedTooDeeply,
}

impl fmt::Display for TestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TestError::NotInstalled => f.write_str(
                "unfreed::Alloc is not this test binary's global allocator; each file under tests/ is a binary of its own: add \
                 to it (for unit tests, to lib.rs or main.rs, behind #[cfg(test)]): \
                 #[global_allocator] static ALLOC: unfreed::Alloc = unfreed::Alloc::system();",
            ),
            TestError::Rounds { rounds } => write!(
                f,
                "rounds = {rounds}: allowed is {FEWEST_ROUNDS} to {MOST_ROUNDS}; with fewer chance would be blamed, since \
                 the first quarter is for warming up"
            ),
            TestError::SampledProfile => f.write_str(
                "a sampled profile runs in this process, in which most allocations are not seen: drop it before, or start it \
                 with Profiler::builder().exact()",
            ),
            TestError::Start(error) => write!(f, "the exact profile could not be started: {error}"),
            TestError::Ended => {
                f.write_str("the profile ended during the test: keep the program's own profiler until the test is over")
            }
            TestError::RecordsLost => f.write_str(
                "records were lost, or the profile's store is full, so that what is live is not known: allocate less a \
                 round, or use fewer rounds",
            ),
            TestError::NestedTooDeeply => f.write_str("at most 8 scopes may lie within each other, the test's among them"),
        }
    }
}

impl std::error::Error for TestError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            TestError::Start(error) => Some(error),
            _ => None,
        }
    }
}
