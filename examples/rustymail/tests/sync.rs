//! Both services do the same work; the fixed one keeps nothing of it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use rustymail::cache::{CacheService, Totals};
use rustymail::email::{Email, View};
use rustymail::store::{MailStore, StoreConfig};
use rustymail::sync::{MAX_EMAILS_PER_SYNC, Mode, SyncService};

const CONFIG: StoreConfig = StoreConfig { emails: 470, folders: 4, seed: 11, attachment_kib: 2 };

struct Outcome {
    totals: Totals,
    last_reported: u64,
    emails_kept: usize,
    /// After the last handle to it was dropped.
    service: Weak<SyncService>,
}

async fn synced(mode: Mode) -> Outcome {
    let service = SyncService::new(Arc::new(MailStore::new(CONFIG)), mode);
    let reported = Arc::new(AtomicU64::new(0));
    let last = Arc::clone(&reported);
    service.attach_metrics(move |totals| last.store(totals.emails, Ordering::Relaxed));
    service.start_background_sync().await.unwrap().unwrap();
    Outcome {
        totals: service.totals(),
        last_reported: reported.load(Ordering::Relaxed),
        emails_kept: service.emails_kept(),
        service: Arc::downgrade(&service),
    }
}

/// Without any IMAP.
fn expected() -> Totals {
    let (store, cache) = (MailStore::new(CONFIG), CacheService::default());
    for folder in store.folders() {
        for sequence in 1..=folder.messages {
            let mut email = Email { body: store.message(folder, sequence).raw, ..Email::default() };
            email.parse_mime_content(&[View::Attachments]);
            cache.cache_email(&email);
        }
    }
    cache.totals()
}

#[tokio::test]
async fn both_services_do_the_same_work_and_the_fixed_one_keeps_nothing() {
    let (leaking, fixed, expected) = (synced(Mode::Leaking).await, synced(Mode::Fixed).await, expected());
    assert_eq!(expected.emails, u64::from(CONFIG.emails));
    assert!(expected.attachments > 100 && expected.attachment_bytes > 100_000, "{expected}");
    assert_eq!(leaking.totals, expected);
    assert_eq!(fixed.totals, expected);
    assert_eq!((leaking.last_reported, fixed.last_reported), (470, 470));

    assert_eq!(leaking.emails_kept, 470);
    assert!(leaking.service.upgrade().is_some(), "the circle of Arcs is the leak");
    assert_eq!(fixed.emails_kept, 0);
    assert!(fixed.service.upgrade().is_none(), "something still owns the fixed service");
}

#[tokio::test]
async fn a_round_takes_no_more_than_its_limit_from_a_folder() {
    let store = Arc::new(MailStore::new(CONFIG));
    let sizes: Vec<usize> = store.folders().iter().map(|folder| folder.messages as usize).collect();
    let service = SyncService::new(store, Mode::Fixed);
    let mut rest = sizes;
    while rest.iter().any(|&size| size > 0) {
        let expected: usize = rest.iter().map(|&size| size.min(MAX_EMAILS_PER_SYNC)).sum();
        assert_eq!(service.sync_all_folders().await.unwrap(), expected);
        rest.iter_mut().for_each(|size| *size -= (*size).min(MAX_EMAILS_PER_SYNC));
    }
    assert_eq!(service.sync_all_folders().await.unwrap(), 0);
}
