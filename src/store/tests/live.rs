//! Reading while the writer hammers: every picture is exactly one closed epoch.

use super::*;
use crate::store::attribution::Attribution;
use crate::store::epoch::end_epoch;
use crate::store::picture::{ExactTotals, HistoryPoint, Life};
use crate::store::reader;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

/// What the writer knows of an epoch that it closed: live and total bytes and live blocks of each stack, and the peak.
type Closed = HashMap<u64, (Vec<[u64; 3]>, u64)>;

#[test]
fn a_live_reader_sees_one_closed_epoch() {
    const STACKS: u64 = 300;
    let path = temporary("live");
    // Sampled: in exact mode what the header was told of totals is not asked.
    let store =
        Store::create(&StoreOptions { exact_mode: false, ..options(Place::Path(path.clone())) }).expect("a store");
    let tables = store.tables();
    let stacks = add_stacks(&tables, STACKS);
    let closed: Mutex<Closed> = Mutex::new(HashMap::from([(0, (vec![[0; 3]; STACKS as usize], 0))]));
    let stop = AtomicBool::new(false);
    let (mut pictures, mut hasty) = (0, 0);
    let mut epochs = std::collections::HashSet::new();
    std::thread::scope(|scope| {
        scope.spawn(|| hammer(&store, &stacks, &closed, &stop));
        let end = Instant::now() + Duration::from_secs(2);
        while Instant::now() < end || epochs.len() < 20 {
            let picture = match reader::read(&path) {
                Ok(picture) => picture,
                Err(error) => {
                    stop.store(true, Ordering::Relaxed);
                    panic!("{error}");
                }
            };
            if picture.loss.rows_in_doubt > 0 {
                // Sixteen epochs in a row ended while we read: on a busy machine, these short ones can.
                hasty += 1;
                continue;
            }
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| check(&picture, &stacks, &closed)));
            if let Err(panic) = result {
                stop.store(true, Ordering::Relaxed);
                std::panic::resume_unwind(panic);
            }
            pictures += 1;
            epochs.insert(picture.epoch);
        }
        stop.store(true, Ordering::Relaxed);
    });
    println!("{pictures} pictures of {} epochs, {hasty} of several", epochs.len());
    assert!(pictures > 50);
}

fn check(picture: &Picture, stacks: &[StackId], closed: &Mutex<Closed>) {
    assert_eq!(picture.life, Life::Running);
    let closed = closed.lock().expect("no panic");
    let (expected, peak) = &closed[&picture.epoch];
    let mut found = vec![[0; 3]; stacks.len()];
    for site in &picture.sites {
        let figures = &site.figures;
        assert!(figures.live.bytes <= figures.total.bytes && figures.gmax_bytes <= figures.max_bytes);
        assert!(!site.frames.is_empty());
        let index = stacks.iter().position(|stack| *stack == site.stack).expect("a known stack");
        found[index] = [figures.live.whole_bytes(), figures.total.whole_bytes(), figures.live.whole_blocks()];
    }
    assert_eq!(&found, expected, "epoch {}", picture.epoch);
    assert_eq!(picture.gmax_bytes >> 8, *peak);
    let at_peak: u64 = picture.sites.iter().map(|site| site.figures.gmax_bytes).sum();
    assert_eq!(at_peak, picture.gmax_bytes, "the sites' shares of the peak are the peak");
    let classes: u64 = picture.size_classes.iter().map(|class| class.live.whole_bytes()).sum();
    assert_eq!(classes, expected.iter().map(|figures| figures[0]).sum::<u64>());
    let exact = &picture.exact;
    assert_eq!((exact.total_blocks, exact.freed_bytes), (exact.total_bytes * 2, exact.total_bytes * 3), "whole");
    assert!(picture.history.windows(2).all(|pair| pair[0].at_ns < pair[1].at_ns));
    for point in &picture.history {
        assert_eq!((point.live_bytes, point.resident_bytes), (point.at_ns + 1, point.at_ns + 2), "whole");
    }
}

/// Epochs of some milliseconds, random events, totals copied all the time; new stacks appear as it goes.
fn hammer(store: &Store, stacks: &[StackId], closed: &Mutex<Closed>, stop: &AtomicBool) {
    let tables = store.tables();
    let mut attribution = Attribution::new(BASE, 0);
    let mut random = Random(0xabcd_ef01_2345_6789);
    let mut figures = vec![[0u64; 3]; stacks.len()];
    let mut blocks: Vec<(usize, u64, u64)> = Vec::new();
    let (mut now, mut live, mut peak) = (BASE.0, 0, 0);
    for epoch in 1u64.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        for event in 0..60_000u64 {
            now += 1;
            let known = stacks.len().min(5 + epoch as usize);
            let alloc = blocks.len() < 2 || random.below(1000) < 520 && blocks.len() < 3_000;
            let (site, size, birth) = if alloc {
                (random.below(known as u64) as usize, 1 + random.below(500), now)
            } else {
                let index = random.below(blocks.len() as u64) as usize;
                blocks.swap_remove(index)
            };
            let record = Record {
                at: Ticks(now),
                kind: if alloc { Kind::Alloc } else { Kind::Free },
                stack: stacks[site],
                interval: IntervalCode::EXACT,
                size,
                old_size: 0,
                old_interval: IntervalCode::EXACT,
                birth: Ticks(if alloc { 0 } else { birth }),
                carried: 0.0,
            };
            attribution.apply(&tables, &record, None, &mut ());
            if alloc {
                blocks.push((site, size, now));
                live += size;
                peak = peak.max(live);
                figures[site] = [figures[site][0] + size, figures[site][1] + size, figures[site][2] + 1];
            } else {
                live -= size;
                figures[site] = [figures[site][0] - size, figures[site][1], figures[site][2] - 1];
            }
            if event % 64 == 0 {
                let totals = ExactTotals {
                    total_bytes: now,
                    total_blocks: now * 2,
                    freed_bytes: now * 3,
                    ..ExactTotals::default()
                };
                store.set_exact_totals(&totals, Ticks(now));
            }
        }
        closed.lock().expect("no panic").insert(epoch, (figures.clone(), peak));
        end_epoch(&tables, Ticks(now));
        store.lay_out_ahead();
        let point =
            HistoryPoint { at_ns: now, live_bytes: now + 1, resident_bytes: now + 2, ..HistoryPoint::default() };
        store.push_history(&point);
    }
}

/// Who waits for the lock sees that its holder copies, however long that takes: every megabyte.
#[test]
fn a_copy_says_that_it_goes_on() {
    let store = Store::create(&StoreOptions { bound_bytes: 256 << 20, ..options(Place::Memory) }).expect("a store");
    let tables = store.tables();
    for _ in 0..100 {
        store.lay_out_ahead();
        add_stacks(&tables, 2_000);
    }
    let megabytes = (tables.used(crate::store::layout::Region::Nodes) * 32) >> 20;
    let mut copy = PictureCopy::begin(&store);
    let said = std::cell::Cell::new(0);
    assert!(copy.copy(&store, || said.set(said.get() + 1)));
    assert!(megabytes >= 5 && said.get() >= megabytes, "{} times for {megabytes} MB", said.get());
}
