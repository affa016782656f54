//! The mail example as it is, with its leak: an operation is an email. Its observer of metrics, which is called after each
//! batch of emails, is where slices end.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustymail::cache::Totals;
use rustymail::store::{MailStore, StoreConfig};
use rustymail::sync::{Mode, SyncService};

use crate::Workload;
use crate::turns::Turns;

pub(crate) struct Mail;

impl Workload for Mail {
    fn run(&mut self, turns: &Arc<Turns>) -> u64 {
        // up to where each part goes, in emails; a batch may go beyond
        let mut ends: Vec<u64> = turns.parts(0, 1).map(|part| part.operations.end).collect();
        let all = ends.last().copied().unwrap_or(0).max(7);
        // the last part ends with the run
        ends.pop();
        ends.reverse();
        let emails = u32::try_from(all).expect("not that many emails");
        let config = StoreConfig { emails, folders: 7, seed: 1, attachment_kib: 24 };
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        while ends.last() == Some(&0) {
            ends.pop();
            turns.pause(0);
        }
        let goes_on = Arc::new(AtomicBool::new(true));
        let totals = runtime.block_on(async {
            let service = SyncService::new(Arc::new(MailStore::new(config)), Mode::Leaking);
            let (pauses, goes_on, ends) = (Arc::clone(turns), Arc::clone(&goes_on), Mutex::new(ends));
            // an observer that owns the service is the report's leak
            service.attach_metrics(move |totals| {
                let mut ends = ends.lock().unwrap_or_else(PoisonError::into_inner);
                while ends.last().is_some_and(|end| totals.emails >= *end) {
                    ends.pop();
                    if !pauses.pause(checksum(&totals)) {
                        // no more is asked for: what is left is done without a pause
                        ends.clear();
                        goes_on.store(false, Ordering::Relaxed);
                    }
                }
            });
            service.start_background_sync().await.expect("the task ends").expect("every message comes");
            service.totals()
        });
        let sum = checksum(&totals);
        if goes_on.load(Ordering::Relaxed) {
            turns.pause(sum);
        }
        sum
    }
}

fn checksum(totals: &Totals) -> u64 {
    totals.emails + totals.raw_bytes + totals.attachments + totals.attachment_bytes
}
