//! Damaged files: an error or a picture, never a panic, never memory out of proportion.

use super::*;
use crate::store::attribution::Attribution;
use crate::store::epoch::end_epoch;
use crate::store::error::StoreError;
use crate::store::picture::{HistoryPoint, ModulePicture};
use crate::store::reader;
use std::process::Command;

/// A store with something in every region, its process gone, records unread in its rings.
fn sample() -> Vec<u8> {
    let path = temporary("sample");
    let store =
        Store::create(&StoreOptions { bound_bytes: 128 << 10, ring_records: 16, ..options(Place::Path(path.clone())) })
            .expect("a store");
    let tables = store.tables();
    let stacks = add_stacks(&tables, 30);
    let mut attribution = Attribution::new(BASE, 3_000);
    let mut oracle = Oracle::new(0x5a5a_1111_2222_3333, &[0, 1, 12], &[16, 24, 100, 5000]);
    for tid in 0..3 {
        let mut producer = store.ring(store.claim_ring(tid).expect("a ring")).expect("its words").producer();
        for _ in 0..300 {
            let record = oracle.step(&stacks);
            if producer.push(&record).is_err() {
                attribution.drain(&tables, Ticks(u64::MAX), &mut ());
                end_epoch(&tables, record.at);
                store.push_history(&HistoryPoint::default());
                producer.push(&record).expect("drained");
            }
        }
    }
    store.set_unwinder("framehop");
    store.add_module(&ModulePicture { path: "/bin/example".into(), build_id: vec![7; 20], ..ModulePicture::default() });
    let bytes = std::fs::read(&path).expect("the file");
    let picture = reader::read_from(&bytes[..], |_| true).expect("a sound store");
    assert!(picture.sites.len() > 20 && picture.history.len() > 5 && picture.modules.len() == 2);
    bytes
}

/// The most resident memory that this process has had, in KiB.
fn high_water() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("proc");
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("a field of Linux");
    line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).expect("a number")
}

/// A value that is likely to be on the wrong side of some check.
fn bad_word(random: &mut Random, old: u64) -> u64 {
    match random.below(8) {
        0 => random.next(),
        1 => u64::MAX - random.below(3),
        2 => 1 << random.below(64),
        3 => old.wrapping_add(1 + random.below(3)),
        4 => old.wrapping_sub(1 + random.below(3)),
        5 => old ^ (1 << random.below(64)),
        6 => random.below(200),
        _ => 0,
    }
}

#[test]
#[ignore = "the child of `a_hundred_thousand_corruptions`"]
fn corrupt_many() {
    if std::env::var_os("UNFREED_TEST_ALONE").is_none() {
        return;
    }
    let sound = sample();
    // The layout's words, where damage tells most: the header without its texts.
    let header_words = 192;
    let seed = 0xc0ff_ee00_0000_0001;
    println!("seed {seed:#x}");
    let mut random = Random(seed);
    let mut bytes = sound.clone();
    let before = high_water();
    let (mut pictures, mut errors) = (0, HashMap::<String, u64>::new());
    for round in 0..100_000 {
        let mut touched = Vec::new();
        for _ in 0..1 + random.below(6) {
            let words = bytes.len() as u64 / 8;
            let word = if random.below(2) == 0 { random.below(header_words) } else { random.below(words) } as usize;
            let place = word * 8..word * 8 + 8;
            let old = u64::from_le_bytes(bytes[place.clone()].try_into().expect("eight bytes"));
            bytes[place.clone()].copy_from_slice(&bad_word(&mut random, old).to_le_bytes());
            touched.push(place);
        }
        let length = if random.below(20) == 0 { random.below(bytes.len() as u64) as usize } else { bytes.len() };
        match reader::read_from(&bytes[..length], |_| round % 2 == 0) {
            Ok(picture) => {
                pictures += 1;
                assert!(picture.sites.len() <= 1000 && picture.modules.len() <= 1000);
            }
            Err(error) => {
                assert!(error.to_string().len() > 10);
                let kind = format!("{error:?}");
                *errors.entry(kind.chars().take_while(|letter| letter.is_alphabetic()).collect()).or_default() += 1;
            }
        }
        for place in touched {
            bytes[place.clone()].copy_from_slice(&sound[place]);
        }
    }
    let grown = high_water() - before;
    println!("{pictures} pictures, {errors:?}, {grown} KiB more at most");
    assert!(pictures > 5_000 && errors.len() >= 4, "the damage is of all kinds");
    assert!(grown < 8 << 10, "{grown} KiB for a file of {} KiB", sound.len() >> 10);
}

/// In a process of its own, so that its memory can be watched.
#[test]
fn a_hundred_thousand_corruptions() {
    let output = Command::new(std::env::current_exe().expect("the test program"))
        .args(["--ignored", "--exact", "--nocapture", "--test-threads=1", "store::tests::corruption::corrupt_many"])
        .env("UNFREED_TEST_ALONE", "1")
        .output()
        .expect("the child");
    let text = String::from_utf8_lossy(&output.stdout);
    println!("{text}");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("1 passed") && text.contains(" pictures, "), "the child ran");
}

#[test]
fn errors_say_what_is_wrong() {
    let sound = sample();
    let with = |word: usize, value: u64| {
        let mut bytes = sound.clone();
        bytes[word * 8..word * 8 + 8].copy_from_slice(&value.to_le_bytes());
        reader::read_from(&bytes[..], |_| true).map(|_| ()).expect_err("damaged")
    };
    assert!(matches!(with(0, 1), StoreError::NotAStore));
    assert!(matches!(with(1, 1), StoreError::Version { found: 1 }));
    assert!(matches!(with(2, 0x0807_0605_0403_0201), StoreError::Corrupt { field: "byte order", .. }));
    assert!(matches!(with(24, 3), StoreError::Corrupt { field: "life", found: 3, .. }));
    let message = with(128 + 3 * 8, 1).to_string();
    assert!(message.contains("sites"), "{message}");
    for length in [0, 7, 8, 100, 4095, 4096, sound.len() - 1] {
        let error = reader::read_from(&sound[..length], |_| true).map(|_| ()).expect_err("cut off");
        assert!(matches!(error, StoreError::Truncated { .. } | StoreError::NotAStore), "{length}: {error:?}");
    }
    let error = reader::read(std::path::Path::new("/dev/null")).map(|_| ()).expect_err("no file");
    assert!(matches!(error, StoreError::NotAStore));
    let error = reader::read(std::path::Path::new("/nonexistent")).map(|_| ()).expect_err("no file");
    assert!(error.to_string().contains("/nonexistent"));
}
