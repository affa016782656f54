//! A checked copy's tables, as a `Picture`.
//!
//! Promises: every id, count and length is checked before it is used; a picture takes memory in proportion to the copy
//! (at most `MAX_DEPTH` frames a site, and `MAX_FRAMES` in all). Nothing of the source is read here.

use crate::sampler::weight::IntervalCode;
use crate::store::error::StoreError;
use crate::store::layout::{MAX_DEPTH, Region};
use crate::store::picture::{
    ExactTotals, HistoryPoint, Life, Loss, ModulePicture, Picture, ScopePicture, SitePicture, SizeClassPicture,
};
use crate::store::tables::Tables;
use crate::store::text;
use crate::store::totals;
use crate::store::version::newest;
use crate::store::words::{get, not_negative};
use crate::sys::sync::Ordering;
use crate::tree::{FOLDED, TAINTED};
use crate::units::{FrameKey, StackId, Ticks};

/// Frames of all sites together: 512 MiB of memory, a million sites of 64.
const MAX_FRAMES: usize = 64 << 20;

/// What the tables alone don't say.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    pub(super) life: Life,
    /// The event clock at the picture.
    pub(super) now: Ticks,
    pub(super) totals_stale_ns: u64,
    /// Rows that were found half written.
    pub(super) rows_in_doubt: u64,
}

fn corrupt(field: &'static str, found: u64, allowed: u64) -> StoreError {
    StoreError::Corrupt { field, found, allowed }
}

/// Ticks since the profile's start, in nanoseconds.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "times to 53 bits; float-to-int casts saturate"
)]
pub(super) fn nanoseconds(tables: &Tables<'_>, at: u64) -> u64 {
    let since = at.saturating_sub(get(&tables.header.process.base_ticks));
    (since as f64 * f64::from_bits(get(&tables.header.state.ns_per_tick))) as u64
}

/// The picture of `tables`, of which the caller is the only user.
pub(super) fn decode(tables: &Tables<'_>, moment: &Moment) -> Result<Picture, StoreError> {
    let header = tables.header;
    let (process, state, format) = (&header.process, &header.state, &header.format);
    let modules = modules(tables)?;
    let text = |field, cells: &[_], length: u64| {
        text::load(cells, length).ok_or_else(|| corrupt(field, length, size_of_val(cells) as u64))
    };
    let interval = |code: u64| {
        u8::try_from(code)
            .ok()
            .filter(|&code| code <= 62)
            .map(IntervalCode)
            .ok_or_else(|| corrupt("interval code", code, 62))
    };
    Ok(Picture {
        life: moment.life,
        exact_mode: get(&format.exact_mode) == 1,
        fixed_interval_bytes: get(&format.fixed_interval_bytes),
        interval: interval(get(&state.interval))?,
        unwinder: text("length of the unwinder's name", &header.unwinder, get(&process.unwinder_bytes))?,
        pid: u32::try_from(get(&process.pid)).map_err(|_| corrupt("pid", get(&process.pid), u64::from(u32::MAX)))?,
        command: text("length of the command line", &header.command, get(&process.command_bytes))?,
        started_unix_ns: get(&process.started_unix_ns),
        elapsed_ns: nanoseconds(tables, moment.now.0),
        gmax_ns: nanoseconds(tables, get(&header.global.max_at)),
        now_ticks: moment.now.0.saturating_sub(get(&process.base_ticks)),
        ns_per_tick: f64::from_bits(get(&state.ns_per_tick)),
        totals_stale_ns: moment.totals_stale_ns,
        epoch: get(&state.epoch).saturating_sub(1),
        exact: totals::of_moment(tables, counted(tables)),
        gmax_bytes: not_negative(get(&header.global.max_bytes)),
        gmax_blocks: not_negative(get(&header.global.max_blocks)),
        loss: loss(tables, moment),
        sites: sites(tables, modules.len())?,
        modules,
        size_classes: size_classes(tables),
        scopes: scopes(tables)?,
        history: history(tables)?,
    })
}

/// The totals as they were last copied.
fn counted(tables: &Tables<'_>) -> ExactTotals {
    let [total_bytes, total_blocks, freed_bytes, freed_blocks, max_bytes, max_blocks, older_bytes, older_blocks] =
        newest(&tables.header.exact).totals.each_ref().map(get);
    ExactTotals {
        total_bytes,
        total_blocks,
        freed_bytes,
        freed_blocks,
        max_live_bytes: max_bytes,
        max_live_blocks: max_blocks,
        older_freed_bytes: older_bytes,
        older_freed_blocks: older_blocks,
    }
}

fn loss(tables: &Tables<'_>, moment: &Moment) -> Loss {
    let cells = &tables.header.loss;
    Loss {
        dropped_records: get(&cells.dropped_records),
        truncated_stacks: get(&cells.truncated_stacks),
        folded_stacks: get(&cells.folded_stacks),
        folded_sites: get(&cells.folded_sites),
        unlisted_modules: get(&cells.unlisted_modules),
        untracked_blocks: get(&cells.untracked_blocks),
        rows_in_doubt: get(&cells.rows_in_doubt).saturating_add(moment.rows_in_doubt),
        ringless_threads: get(&cells.ringless_threads),
        replay_disagreements: get(&cells.replay_disagreements),
        unlisted_scopes: get(&cells.unlisted_scopes),
    }
}

/// How many of `rows` are in use.
fn in_use<'a, T>(tables: &Tables<'_>, region: Region, rows: &'a [T]) -> &'a [T] {
    usize::try_from(tables.used(region)).ok().and_then(|used| rows.get(..used)).unwrap_or(rows)
}

fn modules(tables: &Tables<'_>) -> Result<Vec<ModulePicture>, StoreError> {
    let mut modules = Vec::new();
    for row in in_use(tables, Region::Modules, tables.modules) {
        let state = get(&row.state);
        if state > 2 {
            return Err(corrupt("a module's state", state, 2));
        }
        let (path, build_id) = (get(&row.path_bytes), get(&row.build_id_bytes));
        modules.push(ModulePicture {
            path: text::load(&row.path, path)
                .ok_or_else(|| corrupt("length of a module's path", path, size_of_val(&row.path) as u64))?,
            build_id: text::load_bytes(&row.build_id, build_id)
                .ok_or_else(|| corrupt("length of a build id", build_id, size_of_val(&row.build_id) as u64))?,
            bias: get(&row.bias),
            start: get(&row.start),
            end: get(&row.end),
            loaded: state == 1,
        });
    }
    Ok(modules)
}

fn sites(tables: &Tables<'_>, modules: usize) -> Result<Vec<SitePicture>, StoreError> {
    let (generation, at_peak) = tables.peak();
    let nodes = in_use(tables, Region::Nodes, tables.nodes);
    let rows = in_use(tables, Region::Sites, tables.sites);
    // A site is about as large here as its row in the image, which is in memory already.
    let mut sites = Vec::with_capacity(rows.len());
    let (mut frames, mut all_frames) = (Vec::new(), 0);
    for row in rows {
        let figures = row.figures(generation, at_peak);
        if figures.total.blocks == 0 && figures.live.blocks == 0 {
            continue;
        }
        let key = get(&row.key);
        let stack = u32::try_from(key).map_err(|_| corrupt("a site's stack", key, u64::from(u32::MAX)))?;
        let node = nodes.get(stack as usize).ok_or_else(|| corrupt("a site's stack", key, nodes.len() as u64))?;
        frames.clear();
        let (mut scopes, mut depth) = (Vec::new(), 0);
        let mut id = stack;
        while id != 0 {
            let limit = nodes.len() as u64;
            let node = nodes.get(id as usize).ok_or_else(|| corrupt("a node's parent", u64::from(id), limit))?;
            if frames.len() + depth >= MAX_DEPTH as usize {
                return Err(corrupt("depth of a stack", u64::from(MAX_DEPTH) + 1, u64::from(MAX_DEPTH)));
            }
            // Relaxed: the copy is ours alone.
            let frame = FrameKey(node.key.load(Ordering::Relaxed));
            if let Some(scope) = frame.scope() {
                let limit = u64::from(u32::MAX);
                scopes.push(u32::try_from(scope).map_err(|_| corrupt("a scope's number", scope, limit))?);
                depth += 1;
                // Relaxed: as below.
                id = node.parent.load(Ordering::Relaxed);
                continue;
            }
            if frame != FrameKey::TRUNCATED && usize::from(frame.module().0) >= modules {
                return Err(corrupt("a frame's module", u64::from(frame.module().0), modules as u64));
            }
            frames.push(frame);
            // Relaxed: as above.
            id = node.parent.load(Ordering::Relaxed);
        }
        all_frames += frames.len();
        if all_frames > MAX_FRAMES {
            return Err(corrupt("frames of all sites", all_frames as u64, MAX_FRAMES as u64));
        }
        // Relaxed: as above.
        let flags = node.site.load(Ordering::Relaxed);
        sites.push(SitePicture {
            stack: StackId(stack),
            frames: frames.clone(),
            figures,
            tainted: flags & TAINTED != 0,
            folded: flags & FOLDED != 0,
            scopes: scopes.into(),
        });
    }
    Ok(sites)
}

fn scopes(tables: &Tables<'_>) -> Result<Vec<ScopePicture>, StoreError> {
    let mut scopes = Vec::new();
    for row in in_use(tables, Region::Scopes, tables.scopes) {
        // Acquire pairs with the Release of `describe_scope`: with its length the name is there.
        let length = row.name_bytes.load(Ordering::Acquire);
        let name = text::load(&row.name, length)
            .ok_or_else(|| corrupt("length of a scope's name", length, size_of_val(&row.name) as u64))?;
        scopes.push(ScopePicture { name, bound_bytes: get(&row.bound_bytes) });
    }
    while scopes.last().is_some_and(|scope| scope.name.is_empty()) {
        scopes.pop();
    }
    Ok(scopes)
}

fn size_classes(tables: &Tables<'_>) -> Vec<SizeClassPicture> {
    let (generation, at_peak) = tables.peak();
    let figures = |row: &super::row::Row| row.figures(generation, at_peak);
    let rows = in_use(tables, Region::SizeClasses, tables.size_classes).iter().map(figures);
    rows.map(|figures| SizeClassPicture { live: figures.live, total: figures.total }).collect()
}

fn history(tables: &Tables<'_>) -> Result<Vec<HistoryPoint>, StoreError> {
    let rows = in_use(tables, Region::History, tables.history);
    let mut points = Vec::with_capacity(rows.len());
    for row in rows {
        let (begin, end) = (get(&row.begin), get(&row.end));
        // The one that was being replaced is no point.
        if begin == 0 || begin & (u64::MAX >> 8) != end >> 8 {
            continue;
        }
        let code = end & 0xff;
        if code > 62 {
            return Err(corrupt("interval code of a point of history", code, 62));
        }
        let interval = IntervalCode(code as u8);
        let point = HistoryPoint {
            at_ns: get(&row.at_ns),
            live_bytes: get(&row.live_bytes),
            live_blocks: get(&row.live_blocks),
            total_bytes: get(&row.total_bytes),
            total_blocks: get(&row.total_blocks),
            resident_bytes: get(&row.resident_bytes),
            interval,
        };
        points.push((begin, point));
    }
    points.sort_unstable_by_key(|(number, _)| *number);
    Ok(points.into_iter().map(|(_, point)| point).collect())
}
