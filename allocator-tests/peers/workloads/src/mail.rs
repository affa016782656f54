//! The mail example as it is, with its leak: an operation is an email.

use std::sync::Arc;

use rustymail::store::{MailStore, StoreConfig};
use rustymail::sync::{Mode, SyncService};

use crate::Workload;

pub(crate) struct Mail;

impl Workload for Mail {
    fn run(&mut self, operations: u64) -> u64 {
        let emails = u32::try_from(operations.max(7)).expect("not that many emails");
        let config = StoreConfig { emails, folders: 7, seed: 1, attachment_kib: 24 };
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let totals = runtime.block_on(async {
            let service = SyncService::new(Arc::new(MailStore::new(config)), Mode::Leaking);
            // an observer that owns the service is the report's leak
            service.attach_metrics(|_| ());
            service.start_background_sync().await.expect("the task ends").expect("every message comes");
            service.totals()
        });
        totals.emails + totals.raw_bytes + totals.attachments + totals.attachment_bytes
    }
}
