//! The store of this process: its file, its mapping, its rings, and what is written into its header.
//!
//! Promises: space is allocated on the file system before it is touched, so a full disk is a bound that was reached
//! and never a bus error; the file never grows past its bound; the mapping's addresses are never unmapped, since
//! threads hold pointers into it (what lay there is replaced by fresh memory when the store is finished, and by the
//! next store after that). A forked child that inherits a `Store` neither removes nor finishes its parent's file.
//! Only `create`, `lay_out_ahead`, `add_module` and `finish` make system calls; the rest is loads and stores.
//!
//! Who may call what: `claim_ring`, `release_ring`, `loss` any thread; attribution, `end_epoch`, `push_history`,
//! `set_exact_totals` the holder of the aggregator's lock; `describe_scope` any thread; the others the drain thread, without that lock.

#![allow(unsafe_code, reason = "words over a mapping")]

use crate::ring::registry::Registry;
use crate::ring::{Ring, RingId};
use crate::sampler::weight::IntervalCode;
use crate::store::error::StoreError;
use crate::store::held::HeldFile;
use crate::store::identity::{self, Identity};
use crate::store::layout::{
    BYTE_ORDER, Header, Layout, MAGIC, MAX_STORE_BYTES, PAGE_BYTES, REGIONS, Region, SIZE_CLASSES, TEXT_BYTES, VERSION,
};
use crate::store::place::{self, Name, Place, failed};
use crate::store::tables::Tables;
use crate::store::text;
use crate::store::words::set;
use crate::sys::file::{self, Reserved};
use crate::sys::map;
use crate::sys::sync::{AtomicU64, Ordering};
use crate::units::Ticks;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// Header values: how a profile stands.
pub(crate) const RUNNING: u64 = 1;
/// As above.
pub(crate) const FINISHED: u64 = 2;

/// The bound of a sampled profile's store: half of what Docker gives `/dev/shm`.
pub(crate) const SAMPLED_BOUND_BYTES: u64 = 32 << 20;
/// The bound of an exact profile's store; the file is sparse.
pub(crate) const EXACT_BOUND_BYTES: u64 = 1 << 30;
/// Records a ring of a sampled profile: seconds of samples.
pub(crate) const SAMPLED_RING_RECORDS: u64 = 128;
/// Records a ring of an exact profile: a millisecond of allocations.
pub(crate) const EXACT_RING_RECORDS: u64 = 8192;

/// What a store is created with.
#[derive(Clone, Debug)]
pub(crate) struct StoreOptions {
    pub(crate) place: Place,
    /// The most bytes the file may take.
    pub(crate) bound_bytes: u64,
    /// Records a ring; rounded up to a power of two.
    pub(crate) ring_records: u64,
    pub(crate) exact_mode: bool,
    /// What `IntervalCode::FIXED` means; 0 where governed or exact.
    pub(crate) fixed_interval_bytes: u64,
    /// The interval in force at the start.
    pub(crate) interval: IntervalCode,
    /// The event clock at the start.
    pub(crate) base: Ticks,
    pub(crate) ns_per_tick: f64,
    /// The wall clock at the start, nanoseconds since 1970.
    pub(crate) started_unix_ns: u64,
}

impl StoreOptions {
    /// The usual bounds of either mode.
    pub(crate) fn new(exact_mode: bool) -> StoreOptions {
        StoreOptions {
            place: Place::Default,
            bound_bytes: if exact_mode { EXACT_BOUND_BYTES } else { SAMPLED_BOUND_BYTES },
            ring_records: if exact_mode { EXACT_RING_RECORDS } else { SAMPLED_RING_RECORDS },
            exact_mode,
            fixed_interval_bytes: 0,
            interval: IntervalCode::EXACT,
            base: Ticks(0),
            ns_per_tick: 1.0,
            started_unix_ns: 0,
        }
    }
}

/// Address ranges that no store uses now; ranges are never given back.
static RANGES: Mutex<Vec<Reserved>> = Mutex::new(Vec::new());

/// This process's store.
#[derive(Debug)]
pub(crate) struct Store {
    pub(super) tables: Tables<'static>,
    words: &'static [AtomicU64],
    pub(super) layout: Layout,
    range: Reserved,
    /// `None`: anonymous memory.
    pub(super) file: Option<HeldFile>,
    path: Option<PathBuf>,
    pid: u32,
    /// Bytes that a region keeps laid out ahead of its use.
    pub(super) ahead_bytes: u64,
    /// One grower at a time.
    pub(super) growth: Mutex<()>,
    /// The top of the free rings' list.
    free_rings: AtomicU64,
    finished: bool,
}

impl Store {
    /// Makes a store. In memory only if the place says so, or if `Place::Default` finds no tmpfs; see `path`.
    pub(crate) fn create(options: &StoreOptions) -> Result<Store, StoreError> {
        let executable = identity::executable();
        let (mut file, name) = match place::create(&options.place, &executable)? {
            Some((file, name)) => (Some(file), Some(name)),
            None => (file::memory_file(c"unfreed").and_then(HeldFile::new).ok(), None),
        };
        let made = Store::create_in(options, &mut file, name.as_ref().map(Name::path), &executable);
        let Some(name) = name else { return made };
        // Named when it is whole: whoever finds a store by its name can read it.
        let named = made.and_then(|store| name.settle(&executable).map(|()| store));
        named.inspect_err(|_| name.remove())
    }

    fn create_in(
        options: &StoreOptions,
        file: &mut Option<HeldFile>,
        path: Option<&Path>,
        executable: &str,
    ) -> Result<Store, StoreError> {
        let shown = path.unwrap_or(Path::new("memory"));
        let range = take_range(options.bound_bytes)?;
        let mut bound = options.bound_bytes.min(range.bytes() as u64);
        if file.is_some() && file::size_limit() < bound {
            match path {
                Some(_) => bound = file::size_limit(),
                None => *file = None,
            }
        }
        let layout = Layout::plan(bound, options.ring_records);
        if let Some(opened) = &*file {
            if layout.file_bytes > file::size_limit() {
                let source = std::io::ErrorKind::FileTooLarge.into();
                give_back_range(range);
                return Err(StoreError::NoSpace { path: shown.to_owned(), source });
            }
            let sized = opened.file().and_then(|file| file.set_len(layout.file_bytes));
            match sized.and_then(|()| opened.allocate(0, PAGE_BYTES)) {
                Ok(()) => {}
                // In memory only, then in memory without a file.
                Err(_) if path.is_none() => *file = None,
                Err(error) => {
                    give_back_range(range);
                    return Err(failed("making room for the store", shown, error));
                }
            }
        }
        #[expect(clippy::cast_possible_truncation, reason = "at most 2 GiB")]
        let bytes = layout.file_bytes as usize;
        let opened = file.as_ref().map(HeldFile::file).transpose();
        // SAFETY: a range that no store uses; threads that still hold references from an earlier one use atomics.
        let mapped = opened.and_then(|opened| unsafe { range.lay_over(bytes, opened) });
        if let Err(error) = mapped {
            give_back_range(range);
            return Err(failed("mapping the store", shown, error));
        }
        // SAFETY: `bytes` are mapped readable and writable at a page boundary, and that address range is never
        // unmapped; access is atomic alone, and only to pages whose space is allocated.
        let words: &'static [AtomicU64] =
            unsafe { std::slice::from_raw_parts(range.base().as_ptr().cast::<AtomicU64>(), bytes / 8) };
        let Some(tables) = Tables::over(words, &layout) else {
            give_back_range(range);
            return Err(StoreError::Truncated { bytes: layout.file_bytes, expected: layout.file_bytes });
        };
        let store = Store {
            tables,
            words,
            layout,
            range,
            file: file.take(),
            path: path.map(Path::to_owned),
            pid: std::process::id(),
            ahead_bytes: if options.exact_mode { 8 << 20 } else { 256 << 10 },
            growth: Mutex::new(()),
            free_rings: AtomicU64::new(0),
            finished: false,
        };
        store.write_header(options, executable).map_err(|error| failed("making room for the store", shown, error))?;
        Ok(store)
    }

    fn write_header(&self, options: &StoreOptions, executable: &str) -> std::io::Result<()> {
        let Header { format, process, state, regions, .. } = self.tables.header;
        for (region, cells) in REGIONS.iter().zip(regions) {
            let place = self.layout.place(*region);
            set(&cells.offset, place.offset);
            set(&cells.row_bytes, place.row_bytes);
            set(&cells.capacity, place.capacity);
        }
        for region in [Region::TreeState, Region::SizeClasses, Region::Registry, Region::Scopes] {
            self.lay_out(region, self.layout.place(region).capacity)?;
            set(&regions[region as usize].used, self.layout.place(region).capacity);
        }
        for region in [Region::Modules, Region::Nodes, Region::Sites, Region::History, Region::Rings] {
            // Where the whole stock is not to be had, a small one does to begin with.
            self.grow(region, self.ahead_bytes)
                .or_else(|_| self.grow(region, self.ahead_bytes / 8))
                .or_else(|_| self.grow(region, self.ahead_bytes / 64))?;
        }
        for (class, row) in (0..SIZE_CLASSES).zip(self.tables.size_classes) {
            set(&row.key, class);
        }
        // The root: node 0, with row 0; and module 0, which is none.
        if let Some(root) = self.tables.nodes.first() {
            // Relaxed: published by the magic below.
            root.site.store(1, Ordering::Relaxed);
        }
        set(&regions[Region::Sites as usize].used, 1);
        set(&regions[Region::Modules as usize].used, 1);
        // Relaxed: as above.
        self.tables.tree_state.next.store(1, Ordering::Relaxed);

        let identity = Identity::own();
        set(&format.version, VERSION);
        set(&format.byte_order, BYTE_ORDER);
        set(&format.file_bytes, self.layout.file_bytes);
        set(&format.ring_records, self.layout.ring_records);
        set(&format.exact_mode, u64::from(options.exact_mode));
        set(&format.fixed_interval_bytes, options.fixed_interval_bytes);
        set(&process.pid, u64::from(identity.pid));
        set(&process.start_time, identity.start_time);
        set(&process.stack_start, identity.stack_start);
        set(&process.pid_namespace, identity.pid_namespace);
        set(&process.uid, u64::from(file::user()));
        text::store(&identity.boot_id, &process.boot_id);
        set(&process.started_unix_ns, options.started_unix_ns);
        set(&process.base_ticks, options.base.0);
        set(&process.command_bytes, text::store(&identity::command(), &self.tables.header.command));
        set(&process.executable_bytes, text::store(executable, &self.tables.header.executable));
        set(&state.life, RUNNING);
        set(&state.interval, u64::from(options.interval.0));
        set(&state.epoch, 1);
        set(&state.ns_per_tick, options.ns_per_tick.to_bits());
        set(&self.tables.header.global.last_at, options.base.0);
        set(&self.tables.header.global.max_at, options.base.0);
        // Version 0 of both, before any was written.
        set(&self.tables.header.exact[0].at, options.base.0);
        set(&self.tables.header.closed[0].at, options.base.0);
        // Release: a file that begins with the magic has a whole header.
        format.magic.store(MAGIC, Ordering::Release);
        Ok(())
    }

    /// The tables, for attribution and for the tree.
    pub(crate) fn tables(&self) -> Tables<'static> {
        self.tables
    }

    /// Where the file lies; `None`: in memory only.
    pub(crate) fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// The words of the mapping that belong to this store.
    pub(super) fn words(&self) -> &'static [AtomicU64] {
        self.words
    }

    /// How the words are divided.
    pub(super) fn layout(&self) -> &Layout {
        &self.layout
    }

    // ---- rings --------------------------------------------------------------------------------------------------

    fn registry(&self) -> Registry<'_> {
        let rings = &self.tables.header.regions[Region::Rings as usize];
        Registry { top: &self.free_rings, used: &rings.used, laid_out: &rings.laid_out, rings: self.tables.registry }
    }

    /// A ring for the calling thread alone; `None` when all are taken. Lock-free.
    pub(crate) fn claim_ring(&self, tid: u32) -> Option<RingId> {
        self.registry().claim(tid)
    }

    /// Gives a thread's ring back. What it holds is drained as if it were still the thread's; the next owner appends.
    pub(crate) fn release_ring(&self, id: RingId) {
        self.registry().release(id);
    }

    /// The ring's words, for the thread that claimed it.
    pub(crate) fn ring(&self, id: RingId) -> Option<Ring<'static>> {
        self.tables.ring(id)
    }

    // ---- scopes -------------------------------------------------------------------------------------------------

    /// Writes what is known of scope `number`; nothing where its number has no row. Any thread; of two at once with the
    /// same name either's bound stays.
    pub(crate) fn describe_scope(&self, number: u32, name: &str, bound_bytes: u64) {
        let row = usize::try_from(number).ok().and_then(|number| self.tables.scopes.get(number));
        let Some(row) = row else { return };
        set(&row.bound_bytes, bound_bytes);
        let length = text::store(name, &row.name);
        // Release: a row with a length has its name.
        row.name_bytes.store(length, Ordering::Release);
    }

    /// Was any scope described?
    pub(crate) fn has_scopes(&self) -> bool {
        // Acquire: pairs with the Release in `describe_scope`.
        self.tables.scopes.iter().any(|row| row.name_bytes.load(Ordering::Acquire) > 0)
    }

    // ---- the end ------------------------------------------------------------------------------------------------

    /// Ends the store in order: marked finished and kept, or removed. Rings should have been drained; what they still
    /// hold is applied by readers. From here on threads that still write into the mapping reach nobody.
    pub(crate) fn finish(mut self, keep: bool) {
        self.end(keep);
    }

    /// The same where a thread may still be at work in it: the file is marked and kept, or removed, but the memory is neither
    /// given back nor used again.
    pub(crate) fn abandon(&self, keep: bool) {
        if self.pid == std::process::id() {
            self.end_file(keep);
        }
    }

    fn end_file(&self, keep: bool) {
        // Release: everything comes before the mark.
        self.tables.header.state.life.store(FINISHED, Ordering::Release);
        if !keep {
            self.remove_file();
        }
    }

    /// Removes the file, if what has its name now is this store still. Before its mapping ends, which keeps its number its own.
    pub(crate) fn remove_file(&self) {
        if let (Some(path), Some(file)) = (&self.path, &self.file)
            && file.is_named(path)
        {
            let _ = std::fs::remove_file(path);
        }
    }

    fn end(&mut self, keep: bool) {
        if self.finished || self.pid != std::process::id() {
            return;
        }
        self.finished = true;
        self.end_file(keep);
        // SAFETY: who still holds references uses atomics and takes any value for what it is: nothing.
        if unsafe { self.range.lay_over(size_of_val(self.words), None) }.is_ok() {
            give_back_range(self.range);
        }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.end(false);
    }
}

/// A range for a store of up to `bytes`: one that an earlier store left, or a new one of the largest size that the
/// address space limit allows, which may be smaller than asked for.
fn take_range(bytes: u64) -> Result<Reserved, StoreError> {
    // Not waited for: in a forked child its holder may not exist. A new range costs addresses alone.
    if let Some(range) = RANGES.try_lock().ok().and_then(|mut ranges| ranges.pop()) {
        return Ok(range);
    }
    let mut size = MAX_STORE_BYTES;
    let most = map::reservable_bytes() as u64;
    if most < FEWEST_ADDRESSES {
        return Err(StoreError::NoAddresses { source: std::io::ErrorKind::OutOfMemory.into() });
    }
    size = size.min(most & !(PAGE_BYTES - 1));
    let fewest = bytes.next_multiple_of(PAGE_BYTES).min(FEWEST_ADDRESSES);
    loop {
        #[expect(clippy::cast_possible_truncation, reason = "at most 2 GiB")]
        match Reserved::new(size as usize) {
            Ok(range) => return Ok(range),
            Err(source) if size <= fewest => return Err(StoreError::NoAddresses { source }),
            Err(_) => size = ((size / 2) & !(PAGE_BYTES - 1)).max(fewest),
        }
    }
}

/// The smallest range that is taken: a program under a `ulimit -v` of less than 128 MiB would be starved by what a profile
/// needs beside its store (a thread, workspaces, copies for reports).
const FEWEST_ADDRESSES: u64 = 16 << 20;

fn give_back_range(range: Reserved) {
    if let Ok(mut ranges) = RANGES.try_lock() {
        ranges.push(range);
    }
}

const _: () = assert!(TEXT_BYTES >= 256, "a command line must say something");
