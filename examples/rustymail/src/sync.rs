//! The background sync of the report, with its leak, and with the remedy.
//!
//! The leak is two mistakes that hide each other. Every synced [`Email`] goes into `recently_synced`, 'so that opening a new
//! mail needs no fetch', and nothing ever leaves it. And the metrics that watch the service own it, while the service
//! owns their observer: a circle of `Arc`s, so that dropping the service frees nothing.
//! [`Mode::Fixed`] parses when asked, keeps nothing and observes through a `Weak`; what still grows is `async-imap`'s byte pool.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::task::JoinHandle;

use crate::cache::{CacheService, Totals};
use crate::email::{Email, LazyEmail, View};
use crate::session::{ImapSession, SyncError};
use crate::store::MailStore;

/// Messages a FETCH asks for.
pub const FETCH_BATCH_SIZE: usize = 5;
/// Messages that a round takes from one folder, so that a large one does not starve the others.
pub const MAX_EMAILS_PER_SYNC: usize = 200;

/// Which service to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// As in the report.
    Leaking,
    /// Parses lazily, keeps nothing.
    Fixed,
}

/// Called after each batch.
type Observer = Box<dyn Fn() + Send + Sync>;

/// Syncs all folders of one account.
pub struct SyncService {
    store: Arc<MailStore>,
    mode: Mode,
    cache: CacheService,
    /// By folder and UID. Only ever grows: the leak.
    recently_synced: Mutex<HashMap<(String, u32), Arc<Email>>>,
    /// The next UID that each folder has not synced.
    next_uid: Mutex<HashMap<String, u32>>,
    observers: Mutex<Vec<Observer>>,
}

impl fmt::Debug for SyncService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SyncService").field("mode", &self.mode).field("totals", &self.totals()).finish_non_exhaustive()
    }
}

/// A panic elsewhere leaves these maps whole: each change is one insertion.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl SyncService {
    /// A service that has synced nothing yet.
    pub fn new(store: Arc<MailStore>, mode: Mode) -> Arc<SyncService> {
        Arc::new(SyncService {
            store,
            mode,
            cache: CacheService::default(),
            recently_synced: Mutex::default(),
            next_uid: Mutex::default(),
            observers: Mutex::default(),
        })
    }

    /// Calls `report` with the totals after each batch.
    pub fn attach_metrics(self: &Arc<Self>, report: impl Fn(Totals) + Send + Sync + 'static) {
        let observer: Observer = match self.mode {
            Mode::Leaking => {
                // the service owns its observer, and the observer the service: neither is ever dropped
                let service = Arc::clone(self);
                Box::new(move || report(service.totals()))
            }
            Mode::Fixed => {
                let service: Weak<SyncService> = Arc::downgrade(self);
                Box::new(move || {
                    if let Some(service) = service.upgrade() {
                        report(service.totals());
                    }
                })
            }
        };
        lock(&self.observers).push(observer);
    }

    /// The work done so far.
    pub fn totals(&self) -> Totals {
        self.cache.totals()
    }

    /// Emails that the service holds.
    pub fn emails_kept(&self) -> usize {
        lock(&self.recently_synced).len()
    }

    /// Syncs in a task of its own, round after round until a round finds nothing new.
    pub fn start_background_sync(self: &Arc<Self>) -> JoinHandle<Result<(), SyncError>> {
        let service = Arc::clone(self);
        tokio::spawn(async move {
            // a real service would sleep here and go on; this one has its answer once it caught up
            while service.sync_all_folders().await? > 0 {}
            Ok(())
        })
    }

    /// One round; the number of new emails.
    pub async fn sync_all_folders(&self) -> Result<usize, SyncError> {
        let mut session = ImapSession::connect(&self.store).await?;
        let mut synced = 0;
        for folder in session.list_folders().await? {
            synced += self.sync_folder_with_limit(&mut session, &folder, MAX_EMAILS_PER_SYNC).await?;
        }
        session.logout().await?;
        Ok(synced)
    }

    /// Syncs at most `limit` new emails of `folder`, oldest first.
    pub async fn sync_folder_with_limit(
        &self,
        session: &mut ImapSession,
        folder: &str,
        limit: usize,
    ) -> Result<usize, SyncError> {
        let first = lock(&self.next_uid).get(folder).copied().unwrap_or(1);
        let mut uids = session.select_new(folder, first).await?;
        uids.truncate(limit);
        for chunk in uids.chunks(FETCH_BATCH_SIZE) {
            match self.mode {
                Mode::Leaking => {
                    for email in session.fetch_emails::<Email>(chunk).await? {
                        self.cache.cache_email(&email);
                        lock(&self.recently_synced).insert((folder.to_owned(), email.uid), Arc::new(email));
                    }
                }
                Mode::Fixed => {
                    for email in session.fetch_emails::<LazyEmail>(chunk).await? {
                        self.cache.cache_email(&email.open(&[View::Attachments]));
                    }
                }
            }
            if let Some(last) = chunk.last() {
                lock(&self.next_uid).insert(folder.to_owned(), last + 1);
            }
            for observer in lock(&self.observers).iter() {
                observer();
            }
        }
        Ok(uids.len())
    }
}
