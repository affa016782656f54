//! Files of processes that are gone: nothing that was recorded is lost, and what is in doubt is said.

use super::*;
use crate::store::attribution::{Attribution, known_site_row, mark_record, mark_ring};
use crate::store::epoch::end_epoch;
use crate::store::picture::Life;
use crate::store::reader;
use crate::units::SiteId;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const STACKS: u64 = 40;
const SEED: u64 = 0xdead_0000_cafe_0001;
const EVENTS: usize = 200_000;

/// The stream of events that child and parent agree on.
fn oracle() -> Oracle {
    Oracle::new(SEED, &[0, 12], &[16, 24, 100, 5000])
}

fn children_options(path: &Path) -> StoreOptions {
    options(Place::Path(path.to_owned()))
}

#[test]
fn unread_rings_equal_drained_ones() {
    let path = temporary("unread");
    let store = Store::create(&children_options(&path)).expect("a store");
    let tables = store.tables();
    let stacks = add_stacks(&tables, STACKS);
    let mut oracle = oracle();
    let mut attribution = Attribution::new(BASE, 3_000);
    let mut producers: Vec<_> =
        (0..4).map(|tid| store.ring(store.claim_ring(tid).expect("a ring")).expect("its words").producer()).collect();
    for round in 0..50 {
        for event in 0..200 {
            producers[event % 4].push(&oracle.step(&stacks)).expect("room for 64 each");
        }
        let bytes = std::fs::read(&path).expect("the file");
        let dead = reader::read_from(&bytes[..], |_| true).expect("a sound store");
        assert_eq!((dead.life, dead.loss.rows_in_doubt), (Life::Killed, 0));
        oracle.check(&dead, &stacks);
        let running = reader::read_from(&bytes[..], |_| false).expect("a sound store");
        assert_eq!((running.life, running.epoch), (Life::Running, round));
        attribution.drain(&tables, Ticks(oracle.now), &mut ());
        end_epoch(&tables, Ticks(oracle.now));
        let own = own_picture(&store, Ticks(oracle.now));
        for (a, b) in own.sites.iter().zip(&dead.sites) {
            assert_eq!((a.stack, a.figures), (b.stack, b.figures));
        }
        let bytes = std::fs::read(&path).expect("the file");
        let running = reader::read_from(&bytes[..], |_| false).expect("a sound store");
        oracle.check(&running, &stacks);
    }
}

/// The moments within one record at which a writer can die, made by hand.
#[test]
fn a_record_is_applied_once_wherever_the_writer_died() {
    let path = temporary("moments");
    let store = Store::create(&children_options(&path)).expect("a store");
    let tables = store.tables();
    let stacks = add_stacks(&tables, STACKS);
    let mut oracle = oracle();
    let mut attribution = Attribution::new(BASE, 3_000);
    let id = store.claim_ring(1).expect("a ring");
    let ring = store.ring(id).expect("its words");
    let mut producer = ring.producer();
    let dead = || reader::read_from(&std::fs::read(&path).expect("the file")[..], |_| true).expect("a sound store");
    for _ in 0..500 {
        let record = oracle.step(&stacks);
        producer.push(&record).expect("room");
        let mut consumer = ring.consumer();
        // Before: unread. Then: applied, but not taken from the ring. Then: taken.
        oracle.check(&dead(), &stacks);
        attribution.apply(&tables, &record, Some((id, consumer.index())), &mut ());
        let picture = dead();
        assert_eq!(picture.loss.rows_in_doubt, 0);
        oracle.check(&picture, &stacks);
        consumer.advance();
        oracle.check(&dead(), &stacks);
    }
    // Within: the marks of one row disagree.
    let record = oracle.step(&stacks);
    producer.push(&record).expect("room");
    attribution.apply(&tables, &record, Some((id, ring.consumer().index())), &mut ());
    let row = &tables.sites[tables.header.pending.row.load(Ordering::Relaxed) as usize];
    row.end.fetch_sub(1, Ordering::Relaxed);
    let picture = dead();
    assert_eq!(picture.loss.rows_in_doubt, 1);
    oracle.check(&picture, &stacks);
}

/// A writer dies between two words of a mark: of a ring, after another ring's, and of its next record.
#[test]
fn a_mark_that_is_half_written_names_no_record() {
    let path = temporary("half-marks");
    let store = Store::create(&children_options(&path)).expect("a store");
    let tables = store.tables();
    let stacks = add_stacks(&tables, STACKS);
    // Exact records alone, as the marks by ring are made for.
    let mut oracle = Oracle::new(SEED, &[0], &[16, 24, 100, 5000]);
    let mut attribution = Attribution::new(BASE, 3_000);
    let ids = [1, 2].map(|thread| store.claim_ring(thread).expect("a ring"));
    let rings = ids.map(|id| store.ring(id).expect("its words"));
    let mut producers = rings.map(|ring| ring.producer());
    let pending = &tables.header.pending;
    // In the order in which `mark_ring` and then `mark_record` write them.
    let words = [&pending.ring, &pending.index, &pending.ring, &pending.row, &pending.version, &pending.index];
    let (mut looked_at, mut choices) = (0, Random(SEED));
    for _ in 0..40 {
        // The rings are read about as far, so that the index of one might be the next of the other.
        for _ in 0..30 {
            producers[choices.below(2) as usize].push(&oracle.step(&stacks)).expect("room for 64 each");
        }
        let drained = Ticks(oracle.now);
        for event in 0..12 {
            producers[event % 2].push(&oracle.step(&stacks)).expect("room");
        }
        attribution.drain(&tables, drained, &mut ());
        for (id, ring) in ids.iter().zip(&rings) {
            let mut consumer = ring.consumer();
            let Some(next) = consumer.peek().and_then(Record::decode) else { continue };
            let (site, row) = known_site_row(&tables, next.stack).unwrap_or((SiteId(0), &tables.sites[0]));
            let before = words.map(|word| word.load(Ordering::Relaxed));
            mark_ring(&tables, *id, consumer.index());
            let [_, read, marked, ..] = words.map(|word| word.load(Ordering::Relaxed));
            mark_record(&tables, consumer.index(), u64::from(site.0), row);
            let [.., row, version, index] = words.map(|word| word.load(Ordering::Relaxed));
            for (word, value) in words.iter().zip(before) {
                word.store(value, Ordering::Relaxed);
            }
            for (word, value) in words.iter().zip([0, read, marked, row, version, index]) {
                word.store(value, Ordering::Relaxed);
                let dead = reader::read_from(&std::fs::read(&path).expect("the file")[..], |_| true).expect("sound");
                assert_eq!((dead.life, dead.loss.rows_in_doubt), (Life::Killed, 0));
                oracle.check(&dead, &stacks);
                looked_at += 1;
            }
            // Another ring's mark follows one of a record that was read.
            attribution.drain(&tables, next.at, &mut ());
            consumer = ring.consumer();
            assert!(consumer.peek().is_none_or(|words| words[0] > next.at.0), "read");
        }
        attribution.drain(&tables, Ticks(oracle.now), &mut ());
    }
    assert!(looked_at > 200, "{looked_at} moments");
}

/// What the killed process does: it announces itself and runs through the events, in one thread.
#[test]
#[ignore = "the child of `a_killed_process_loses_nothing`"]
fn killed_child() {
    let Ok(path) = std::env::var("UNFREED_TEST_STORE") else { return };
    let store = Store::create(&children_options(Path::new(&path))).expect("a store");
    let tables = store.tables();
    let stacks = add_stacks(&tables, STACKS);
    let mut oracle = oracle();
    let records: Vec<_> = (0..EVENTS).map(|_| oracle.step(&stacks)).collect();
    let mut attribution = Attribution::new(BASE, 3_000);
    let mut producers: Vec<_> =
        (0..4).map(|tid| store.ring(store.claim_ring(tid).expect("a ring")).expect("its words").producer()).collect();
    println!("\nready");
    for (number, record) in records.iter().enumerate() {
        let producer = &mut producers[(record.at.0 % 4) as usize];
        if producer.push(record).is_err() {
            attribution.drain(&tables, Ticks(u64::MAX), &mut ());
            producer.push(record).expect("drained");
        }
        if number % 1000 == 0 {
            end_epoch(&tables, record.at);
        }
    }
    std::mem::forget(store);
    loop {
        std::thread::park();
    }
}

#[test]
fn a_killed_process_loses_nothing() {
    let rounds = 60;
    let mut in_doubt = 0;
    let mut midway = 0;
    let mut random = Random(0x7777_1234_5678_9abc);
    let this = std::env::current_exe().expect("the test program");
    for round in 0..rounds {
        let path = temporary(&format!("killed-{round}"));
        let mut child = Command::new(&this)
            .args(["--ignored", "--exact", "--nocapture", "--test-threads=1", "store::tests::dead::killed_child"])
            .env("UNFREED_TEST_STORE", path.as_os_str())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the child");
        let mut output = BufReader::new(child.stdout.take().expect("piped"));
        let mut line = String::new();
        while line != "ready\n" {
            line.clear();
            assert!(output.read_line(&mut line).expect("its output") > 0, "the child ended early");
        }
        // Not a synchronisation: any moment will do.
        let moment = Instant::now() + Duration::from_micros(random.below(12_000));
        while Instant::now() < moment {
            std::hint::spin_loop();
        }
        child.kill().expect("SIGKILL");
        child.wait().expect("it is gone");
        let _ = output.read_to_end(&mut Vec::new());

        let picture = reader::read(&path).expect("a sound store");
        assert_eq!(picture.life, Life::Killed);
        let pushed = pushed_records(&path);
        midway += u32::from(pushed > 0 && pushed < EVENTS);
        let stacks: Vec<_> = (1..=STACKS).map(|id| StackId(id as u32)).collect();
        let mut oracle = oracle();
        for _ in 0..pushed {
            oracle.step(&stacks);
        }
        assert!(picture.loss.rows_in_doubt <= 1);
        if picture.loss.rows_in_doubt == 0 {
            oracle.check(&picture, &stacks);
        } else {
            in_doubt += 1;
            let wrong = picture
                .sites
                .iter()
                .filter(|site| {
                    let expected = oracle.sites[&site.stack];
                    (site.figures.live.bytes, site.figures.total.bytes) != (expected.live.bytes, expected.total.bytes)
                })
                .count();
            assert!(wrong <= 1, "{wrong} rows differ");
        }
        std::fs::remove_file(path).expect("left by the child");
    }
    println!("{midway} of {rounds} were killed midway, {in_doubt} of them within a row");
    assert!(midway >= 10, "the kills came too late or too early to show anything: {midway}");
}

/// The sum of the heads of all rings, straight from the file.
fn pushed_records(path: &Path) -> usize {
    let bytes = std::fs::read(path).expect("the file");
    let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes")) as usize;
    // The region table begins at word 128; rings are region 7; offset, row size, capacity, laid out, used.
    let region = (128 + 7 * 8) * 8;
    let (offset, row_bytes, used) = (word(region), word(region + 8), word(region + 32));
    (0..used).map(|ring| word(offset + ring * row_bytes)).sum()
}
