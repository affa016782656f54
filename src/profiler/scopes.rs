//! Scopes that the program declares: `bounded`, and taking one's scopes along to another thread.
//!
//! Promises: entering a scope allocates nothing and takes no lock; names are numbered once a process and keep their numbers;
//! what finds no number or no room in a thread's nesting is counted in the profile's losses and said once. Which scopes a thread is in
//! is the hook's to know (`unwind::scopes`); what a scope is called and may hold is written into the store here.

use std::marker::PhantomData;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use once_cell::sync::OnceCell;

use super::link;
use crate::hook::{self, Scopes};
use crate::store::Store;
use crate::store::layout::SCOPES;
use crate::sys::{self, process};

/// A scope with a name.
struct Named {
    name: OnceCell<&'static str>,
    bound_bytes: AtomicU64,
}

#[expect(clippy::cast_possible_truncation, reason = "64")]
const NAMES: usize = SCOPES as usize;

/// By number; number 0 is no scope's, and never taken.
static NAMED: [Named; NAMES] = [const { Named { name: OnceCell::new(), bound_bytes: AtomicU64::new(0) } }; NAMES];

/// The next number of a scope without a name: they begin above those with one.
#[expect(clippy::cast_possible_truncation, reason = "64")]
static UNNAMED: AtomicU32 = AtomicU32::new(SCOPES as u32);

/// A scope holds a cache of at most `max_bytes`: while the guard lives, what this thread allocates belongs to it, and is
/// judged against that bound.
///
/// Until its first eviction a cache that fills cannot be told from a leak by any statistic. Where you know how large it
/// may become, say so: while all that is live of the scope's allocations, in all threads together, is within `max_bytes`,
/// none of its call chains is suspected or called a leak; once its live bytes certainly exceed the bound (in sampled
/// mode: by the lower end of the 95% interval), those that hold it are called leaks, and the evidence names the bound.
///
/// Hold the guard wherever the cache allocates: around insertions, not around the program. It costs about as much as two
/// small allocations.
///
/// ```
/// # use std::collections::HashMap;
/// struct Folders(HashMap<u64, Vec<u8>>);
///
/// impl Folders {
///     fn insert(&mut self, id: u64, page: &[u8]) {
///         let _cache = unfreed::bounded("folder_cache", 64 << 20);
///         self.0.insert(id, page.to_vec());
///         // … evict …
///     }
/// }
/// # Folders(HashMap::new()).insert(1, &[0; 100]);
/// ```
///
/// - A block belongs to the scope that it was born in, also when it is freed, or grows by `realloc`, elsewhere.
/// - Guards nest (8 deep): what is allocated within two belongs to both, and each is judged. They may be dropped in any order.
/// - A scope is its name. The same name with another bound: the latest bound holds, for all of it.
/// - It covers the thread that made it; [`ScopeHandle`] takes scopes along to others. A guard is not `Send`: one that
///   is held across an `.await` makes the future not `Send`. In a future that never leaves its thread it would tag whatever
///   else the thread runs meanwhile: do not hold it there either.
/// - A process has room for 63 names. Beyond them nothing is tagged, and sites are judged as without a scope; that is said
///   once on stderr and counted in [`Losses::unlisted_scopes`](crate::Losses::unlisted_scopes).
/// - Works with or without a running profile, and costs the allocations of threads in no scope nothing.
#[inline]
pub fn bounded(name: &'static str, max_bytes: u64) -> Bounded {
    Bounded { scope: number_of(name, max_bytes).filter(|&scope| enter(scope)), _thread: PhantomData }
}

/// The scope of [`bounded`] lasts as long as this.
#[derive(Debug)]
#[must_use = "the scope ends when this is dropped: bind it to a variable, `let _cache = …`"]
pub struct Bounded {
    /// `None`: there was no room.
    scope: Option<u32>,
    /// Not `Send`: it is about this thread.
    _thread: PhantomData<*const ()>,
}

impl Drop for Bounded {
    fn drop(&mut self) {
        if let Some(scope) = self.scope {
            leave(scope);
        }
    }
}

/// The scopes that a thread is in, to be taken along to another: what that thread allocates while it has entered belongs to
/// them too.
///
/// ```
/// let _cache = unfreed::bounded("thumbnails", 16 << 20);
/// let scopes = unfreed::ScopeHandle::current();
/// let thumbnail = std::thread::spawn(move || {
///     let _entered = scopes.enter();
///     vec![0u8; 4096]
/// });
/// # thumbnail.join().expect("no panic");
/// ```
///
/// In [`assert_no_leaks!`](crate::assert_no_leaks) it makes the threads that the closure spawns part of the test.
#[derive(Clone, Debug, Default)]
pub struct ScopeHandle(Scopes);

impl ScopeHandle {
    /// The calling thread's scopes.
    #[must_use]
    pub fn current() -> ScopeHandle {
        ScopeHandle(hook::scopes().unwrap_or_default())
    }

    /// Enters them in the calling thread, within those that it is in.
    pub fn enter(&self) -> EnteredScopes {
        let mut entered = Scopes::default();
        for &scope in self.0.as_slice() {
            if enter(scope) {
                // As many as fit the thread's own list fit this one.
                let _ = entered.enter(scope);
            }
        }
        EnteredScopes { scopes: entered, _thread: PhantomData }
    }
}

/// Scopes entered by [`ScopeHandle::enter`]; left when this is dropped.
#[derive(Debug)]
#[must_use = "the scopes are left when this is dropped: bind it to a variable"]
pub struct EnteredScopes {
    scopes: Scopes,
    /// Not `Send`: it is about this thread.
    _thread: PhantomData<*const ()>,
}

impl Drop for EnteredScopes {
    fn drop(&mut self) {
        for &scope in self.scopes.as_slice().iter().rev() {
            leave(scope);
        }
    }
}

/// A scope of its own, without a name or a bound: what the calling thread allocates while this lives can be told from all
/// else.
#[derive(Debug)]
pub(crate) struct OwnScope {
    pub(crate) number: u32,
}

impl OwnScope {
    /// A number that no scope has had, but for those 4 billion ago.
    pub(crate) fn new() -> OwnScope {
        #[expect(clippy::cast_possible_truncation, reason = "64")]
        let first = SCOPES as u32;
        // Relaxed: a number.
        OwnScope { number: UNNAMED.fetch_add(1, Ordering::Relaxed).max(first) }
    }

    /// Enters it; `None` where the thread has no room.
    pub(crate) fn enter(&self) -> Option<Bounded> {
        enter(self.number).then_some(Bounded { scope: Some(self.number), _thread: PhantomData })
    }
}

fn enter(scope: u32) -> bool {
    let entered = hook::change_scopes(|scopes| scopes.enter(scope)).unwrap_or(false);
    // Inside the profiler there are no scopes, which is no loss.
    if !entered && hook::is_outside() {
        lost();
    }
    entered
}

fn leave(scope: u32) {
    hook::change_scopes(|scopes| scopes.leave(scope));
}

/// The number of the scope `name`, whose bound is now `max_bytes`. `None`: there are too many.
fn number_of(name: &'static str, max_bytes: u64) -> Option<u32> {
    // A name in the file is what tells a scope from none.
    let name = if name.is_empty() { "unnamed" } else { name };
    for (number, named) in (0u32..).zip(&NAMED).skip(1) {
        let mut is_new = false;
        let known = named.name.get_or_init(|| {
            is_new = true;
            name
        });
        if *known != name {
            continue;
        }
        // Relaxed: a figure.
        if is_new || named.bound_bytes.load(Ordering::Relaxed) != max_bytes {
            // SeqCst: before the store is looked for; pairs with `describe_all`, which comes after the store is connected.
            named.bound_bytes.store(max_bytes, Ordering::SeqCst);
            link::with_store(|store| store.describe_scope(number, name, max_bytes));
        }
        return Some(number);
    }
    lost();
    None
}

/// Writes all scopes that are known into a store that was just connected.
pub(super) fn describe_all(store: &Store) {
    for (number, named) in (0u32..).zip(&NAMED) {
        if let Some(name) = named.name.get() {
            store.describe_scope(number, name, named.bound_bytes.load(Ordering::SeqCst));
        }
    }
}

/// A guard that tags nothing.
#[cold]
fn lost() {
    static SAID: AtomicBool = AtomicBool::new(false);
    if !sys::IS_SUPPORTED {
        // Nothing is judged there.
        return;
    }
    // Relaxed: a counter.
    link::with_store(|store| store.loss().unlisted_scopes.fetch_add(1, Ordering::Relaxed));
    // Relaxed: said by whoever is first.
    if !SAID.swap(true, Ordering::Relaxed) {
        process::say(
            "unfreed: more than 63 names of scopes, or more than 8 scopes within each other: some guards of bounded() tag \
             nothing, and their call chains are judged as without a bound\n",
        );
    }
}
