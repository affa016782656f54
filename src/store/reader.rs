//! Reading a store: somebody's file, running, finished or left by a dead process; or our own.
//!
//! Promises: reads by position into memory bounded by the file's size, never maps; every number is checked before it
//! is used, so any bytes at all give a picture or an error; never waits for a writer and takes no lock of it.
//!
//! - **Running**: the last closed epoch. A row that was changed since shows what it kept then, others show themselves;
//!   each row is read three times in a row (marks, figures, marks), because one read may see words in any order.
//! - **Finished**: the current figures.
//! - **Killed**: the current figures; then the records that its rings still hold are applied to the copy by the same
//!   code that the writer runs. The header's mark says whether the first of them had been applied; a row found between
//!   its marks is in doubt, by one record, and counted.

use crate::ring::RingId;
use crate::store::attribution::Attribution;
use crate::store::decode::{self, Moment};
use crate::store::epoch::copy_global;
use crate::store::error::StoreError;
use crate::store::figures::FIGURE_WORDS;
use crate::store::identity::Identity;
use crate::store::image::{self, Extent, Image, copy_words, header_of, read_header, read_words};
use crate::store::layout::{Header, REGION_COUNT, REGIONS, Region, SIZE_CLASSES};
use crate::store::picture::{Life, Picture};
use crate::store::row::{CLOSED_WORD, CURRENT_WORD, EPOCH_BEGIN_WORD, EPOCH_END_WORD, ROW_WORDS};
use crate::store::source::{FileSource, Source};
use crate::store::streak::MOST_RECORDS;
use crate::store::tables::Tables;
use crate::store::text;
use crate::store::totals;
use crate::store::version::{Versioned, newest};
use crate::store::words::{get, set};
use crate::store::writer::FINISHED;
use crate::sys::file;
use crate::sys::sync::{AtomicU64, Ordering, fence};
use crate::units::Ticks;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// How often a header that changes under us is read again; one of two versions is whole at every moment, so the next
/// time nearly always does.
const HEADER_TRIES: u32 = 1000;
/// How often all is read again because an epoch ended meanwhile.
const EPOCH_TRIES: u32 = 16;
/// How often a chunk of rows is read again; the second time always does while the epoch lasts.
const ROW_TRIES: u32 = 8;
/// Rows read at once: 64 KiB.
const CHUNK_ROWS: u64 = 128;

/// The picture of the store at `path`.
pub(crate) fn read(path: &Path) -> Result<Picture, StoreError> {
    let source = open(path)?;
    read_from(&source, |identity| identity.is_gone())
}

/// Whose store it is.
#[derive(Clone, Debug)]
pub(crate) struct Summary {
    pub(crate) executable: String,
    pub(crate) identity: Identity,
    pub(crate) started_unix_ns: u64,
    pub(crate) is_finished: bool,
}

/// Whose store `path` is; reads its header alone.
pub(crate) fn summary(path: &Path) -> Result<Summary, StoreError> {
    let source = open(path)?;
    let words = read_header(&source)?;
    let header = header_of(&words).ok_or(StoreError::NotAStore)?;
    image::check(header, source.bytes())?;
    Ok(Summary {
        executable: text::load(&header.executable, get(&header.process.executable_bytes)).unwrap_or_default(),
        identity: identity(header),
        started_unix_ns: get(&header.process.started_unix_ns),
        is_finished: get(&header.state.life) == FINISHED,
    })
}

fn open(path: &Path) -> Result<FileSource, StoreError> {
    let failed = |source| StoreError::Io { doing: "opening the store", path: path.to_owned(), source };
    let file = file::open_to_read(path).map_err(failed)?;
    let found = file.metadata().map_err(failed)?;
    if !found.is_file() {
        return Err(StoreError::NotAStore);
    }
    Ok(FileSource { file, path: path.to_owned(), bytes: found.len() })
}

fn identity(header: &Header) -> Identity {
    let process = &header.process;
    let boot_id = text::load(&process.boot_id, size_of_val(&process.boot_id) as u64).unwrap_or_default();
    Identity {
        pid: u32::try_from(get(&process.pid)).unwrap_or(0),
        start_time: get(&process.start_time),
        stack_start: get(&process.stack_start),
        pid_namespace: get(&process.pid_namespace),
        boot_id: boot_id.trim_end_matches('\0').to_owned(),
    }
}

/// The picture of the store in `source`, given how to find out whether its process is gone.
pub(crate) fn read_from<S: Source + ?Sized>(
    source: &S,
    is_gone: impl Fn(&Identity) -> bool,
) -> Result<Picture, StoreError> {
    let words = sound_header(source)?.0;
    let header = header_of(&words).ok_or(StoreError::NotAStore)?;
    let identity = identity(header);
    if get(&header.state.life) != FINISHED && !is_gone(&identity) {
        match read_while_it_runs(source) {
            // It may have died between two marks, which then stay as they are.
            Err(StoreError::Busy) if is_gone(&identity) => {}
            result => return result,
        }
    }
    read_still(source)
}

fn read_while_it_runs<S: Source + ?Sized>(source: &S) -> Result<Picture, StoreError> {
    for attempt in 1..=EPOCH_TRIES {
        let (words, extent) = settled_header(source)?;
        if let Some(picture) = read_running(source, &words, &extent, attempt == EPOCH_TRIES)? {
            return Ok(picture);
        }
    }
    Err(StoreError::Busy)
}

/// A header that passes its checks. Several tries, since its words may be read while they change.
fn sound_header<S: Source + ?Sized>(source: &S) -> Result<(Vec<AtomicU64>, Extent), StoreError> {
    let mut tries = 3;
    loop {
        let words = read_header(source)?;
        let header = header_of(&words).ok_or(StoreError::NotAStore)?;
        tries -= 1;
        match image::check(header, source.bytes()) {
            Err(_) if tries > 0 => {}
            Err(error) => return Err(error),
            Ok(extent) => return Ok((words, extent)),
        }
    }
}

/// A header of which one version of the closed epoch and of the exact totals was read whole; the other is made void.
fn settled_header<S: Source + ?Sized>(source: &S) -> Result<(Vec<AtomicU64>, Extent), StoreError> {
    for _ in 0..HEADER_TRIES {
        let before = read_header(source)?;
        // Acquire, here and below, pairs with the writer's Release: later reads are later.
        fence(Ordering::Acquire);
        let (words, extent) = sound_header(source)?;
        fence(Ordering::Acquire);
        let after = read_header(source)?;
        let (Some(before), Some(header), Some(after)) = (header_of(&before), header_of(&words), header_of(&after))
        else {
            return Err(StoreError::NotAStore);
        };
        let closed = keep_whole(&before.closed, &header.closed, &after.closed);
        if keep_whole(&before.exact, &header.exact, &after.exact) && closed {
            return Ok((words, extent));
        }
    }
    Err(StoreError::Busy)
}

/// Voids those of `both` that were not read whole; false if none was.
fn keep_whole<T: Versioned>(before: &[T; 2], both: &[T; 2], after: &[T; 2]) -> bool {
    let mut any = false;
    for ((before, block), after) in before.iter().zip(both).zip(after) {
        let version = get(before.marks().1);
        if version == get(after.marks().0) {
            any = true;
        } else {
            set(block.marks().0, 1);
            set(block.marks().1, 0);
        }
    }
    any
}

/// How many nodes are in use: the tree's own words say.
fn nodes_used<S: Source + ?Sized>(source: &S, extent: &Extent) -> Result<u64, StoreError> {
    let mut rows = [1; REGION_COUNT];
    rows[Region::SizeClasses as usize] = SIZE_CLASSES;
    let probe = Image::new(2, rows);
    probe.load(source, extent, Region::TreeState, 1)?;
    let next = probe.tables().map_or(0, |tables| u64::from(tables.tree_state.next.load(Ordering::Relaxed)));
    // Threads take ids past the end when the tree is full; those are no nodes.
    Ok(next.min(extent.laid_out[Region::Nodes as usize]))
}

/// A store that nobody writes.
fn read_still<S: Source + ?Sized>(source: &S) -> Result<Picture, StoreError> {
    let (words, mut extent) = sound_header(source)?;
    let finished = header_of(&words).is_some_and(|header| get(&header.state.life) == FINISHED);
    let life = if finished { Life::Finished } else { Life::Killed };
    extent.used[Region::Nodes as usize] = nodes_used(source, &extent)?;
    let unread = image::most_records(extent.used[Region::Rings as usize], extent.layout.ring_records);
    let mut rows = extent.used;
    // Each record that is still in a ring may be the first of its site.
    let spare_rows = extent.laid_out[Region::Sites as usize] - extent.used[Region::Sites as usize];
    rows[Region::Sites as usize] += unread.min(spare_rows);
    let image = Image::new(extent.layout.ring_records, rows);
    copy_words(&words, image.header_words());
    for region in REGIONS {
        image.load(source, &extent, region, extent.used[region as usize])?;
    }
    image.describe(extent.used);
    let tables = image.tables().ok_or(StoreError::NotAStore)?;
    let rows_in_doubt = resolve_pending(&tables);
    let process = &tables.header.process;
    let base = Ticks(get(&process.base_ticks));
    Attribution::new(base, get(&tables.header.format.fixed_interval_bytes)).drain(&tables, Ticks(u64::MAX), &mut ());
    let header = tables.header;
    let now = [&header.global.last_at, &newest(&header.exact).at, &newest(&header.closed).at]
        .map(get)
        .into_iter()
        .max()
        .unwrap_or(0);
    let copied = if totals::are_attributed(&tables) { now } else { get(&newest(&header.exact).at) };
    let stale = decode::nanoseconds(&tables, now).saturating_sub(decode::nanoseconds(&tables, copied));
    decode::decode(&tables, &Moment { life, now: Ticks(now), totals_stale_ns: stale, rows_in_doubt })
}

/// Steps over the record that the writer was applying when it died, if it had begun; gives the number of rows that it
/// left half written.
fn resolve_pending(tables: &Tables<'_>) -> u64 {
    let pending = &tables.header.pending;
    let row = usize::try_from(get(&pending.row)).ok().and_then(|row| tables.sites.get(row));
    let Some(row) = row else { return 0 };
    let torn = get(&row.begin) != get(&row.end);
    let begun = get(&row.begin) != get(&pending.version);
    let ring = get(&pending.ring).checked_sub(1).and_then(|ring| u32::try_from(ring).ok());
    if let Some(ring) = ring.and_then(|ring| tables.ring(RingId(ring)))
        && begun
    {
        let mut consumer = ring.consumer();
        // The pending record is the last of its streak, and the tail moves behind it at once.
        let before = get(&pending.index).wrapping_sub(consumer.index());
        if before < MOST_RECORDS.min(consumer.unread()) && consumer.unread() <= ring.capacity() {
            consumer.advance_by(before + 1);
        }
    }
    u64::from(torn)
}

/// A store that its process is writing: the last closed epoch. `None` if that epoch was left behind meanwhile, unless
/// this is the `last` attempt: then rows of later epochs are counted as being in doubt.
fn read_running<S: Source + ?Sized>(
    source: &S,
    words: &[AtomicU64],
    extent: &Extent,
    last: bool,
) -> Result<Option<Picture>, StoreError> {
    let header = header_of(words).ok_or(StoreError::NotAStore)?;
    // Rows first counted, then nodes and modules: what a row names was there before it.
    let mut extent = *extent;
    extent.used[Region::Nodes as usize] = nodes_used(source, &extent)?;
    let (_, later) = settled_header(source)?;
    extent.used[Region::Modules as usize] = later.used[Region::Modules as usize];
    let mut rows = extent.used;
    rows[Region::Rings as usize] = 0;
    rows[Region::Registry as usize] = 0;
    let image = Image::new(extent.layout.ring_records, rows);
    copy_words(words, image.header_words());
    let open_epoch = get(&newest(&header.closed).epoch).wrapping_add(1);
    let mut rows_in_doubt = 0;
    for region in [Region::Sites, Region::SizeClasses] {
        match closed_rows(source, &extent, &image, region, open_epoch)? {
            0 => {}
            _ if !last => return Ok(None),
            late => rows_in_doubt += late,
        }
    }
    for region in [Region::Modules, Region::TreeState, Region::Nodes, Region::History, Region::Scopes] {
        image.load(source, &extent, region, extent.used[region as usize])?;
    }
    rows[Region::Nodes as usize] = extent.used[Region::Nodes as usize];
    image.describe(rows);
    let tables = image.tables().ok_or(StoreError::NotAStore)?;
    copy_global(&newest(&tables.header.closed).global, &tables.header.global);
    set(&tables.header.state.epoch, open_epoch);
    let since_start = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_nanos());
    let since_start =
        u64::try_from(since_start).unwrap_or(u64::MAX).saturating_sub(get(&header.process.started_unix_ns));
    let stale = since_start.saturating_sub(decode::nanoseconds(&tables, get(&newest(&header.exact).at)));
    let now = Ticks(get(&newest(&header.closed).at));
    decode::decode(&tables, &Moment { life: Life::Running, now, totals_stale_ns: stale, rows_in_doubt }).map(Some)
}

/// Fills the copy's rows of `region` with their figures at the end of the epoch before `open_epoch`; gives the number
/// of rows for which a later epoch has begun.
fn closed_rows<S: Source + ?Sized>(
    source: &S,
    extent: &Extent,
    image: &Image,
    region: Region,
    open_epoch: u64,
) -> Result<u64, StoreError> {
    let place = extent.layout.place(region);
    let target = image.rows(region, extent.used[region as usize]);
    let chunk_words = usize::try_from(CHUNK_ROWS).unwrap_or(1) * ROW_WORDS;
    let fresh = || -> Vec<AtomicU64> { (0..chunk_words.min(target.len())).map(|_| AtomicU64::new(0)).collect() };
    let (before, figures, after) = (fresh(), fresh(), fresh());
    let mut late = 0;
    for (number, target) in target.chunks(chunk_words).enumerate() {
        let offset = place.offset + (number * chunk_words * 8) as u64;
        let mut unsettled = 0;
        for _ in 0..ROW_TRIES {
            for buffer in [&before, &figures, &after] {
                read_words(source, offset, buffer.get(..target.len()).unwrap_or_default())?;
                fence(Ordering::Acquire);
            }
            unsettled = 0;
            late = 0;
            let rows = target.chunks_exact(ROW_WORDS).zip(before.chunks_exact(ROW_WORDS));
            let rows = rows.zip(figures.chunks_exact(ROW_WORDS)).zip(after.chunks_exact(ROW_WORDS));
            for (((target, before), figures), after) in rows {
                match closed_figures(before, figures, after, open_epoch) {
                    Chosen::Figures(words) => {
                        copy_words(figures, target);
                        copy_words(words, target.get(CURRENT_WORD..).unwrap_or_default());
                    }
                    Chosen::Again => unsettled += 1,
                    Chosen::Late(words) => {
                        copy_words(figures, target);
                        copy_words(words, target.get(CURRENT_WORD..).unwrap_or_default());
                        late += 1;
                    }
                }
            }
            if unsettled == 0 {
                break;
            }
        }
        if late + unsettled > 0 {
            return Ok(late + unsettled);
        }
    }
    Ok(late)
}

enum Chosen<'a> {
    /// These are the row's figures at the end of the epoch.
    Figures(&'a [AtomicU64]),
    /// The row was first changed while we looked: look again.
    Again,
    /// A later epoch has begun; the figures kept then.
    Late(&'a [AtomicU64]),
}

/// Which of a row's figures are those at the end of the epoch before `open_epoch`: see `store::row`.
fn closed_figures<'a>(
    before: &[AtomicU64],
    figures: &'a [AtomicU64],
    after: &[AtomicU64],
    open_epoch: u64,
) -> Chosen<'a> {
    let word = |words: &[AtomicU64], index: usize| words.get(index).map_or(0, get);
    let part = |first: usize| figures.get(first..first + FIGURE_WORDS).unwrap_or_default();
    let (end_before, end_after) = (word(before, EPOCH_END_WORD), word(after, EPOCH_END_WORD));
    let begin_after = word(after, EPOCH_BEGIN_WORD);
    if begin_after > open_epoch {
        Chosen::Late(part(CLOSED_WORD))
    } else if end_after < open_epoch {
        Chosen::Figures(part(CURRENT_WORD))
    } else if end_before == open_epoch {
        Chosen::Figures(part(CLOSED_WORD))
    } else {
        Chosen::Again
    }
}
