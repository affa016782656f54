//! A symbol server's cache of debug files: each crash report asks for some modules that all share, and for one of its own.
//!
//! moka 0.12.0 looks for a waiter under another hash than it stored it with, so that most waiters of `get_with` are never
//! removed, with their keys and values.

mod rounds;

use std::sync::Arc;

use moka::future::Cache;
use rounds::{Case, Dice};

const CACHED_FILES: u64 = 300;
const SHARED_MODULES: u64 = 120;
const REPORTS_A_ROUND: u64 = 12;
const FRAMES_A_REPORT: u64 = 6;

struct SymbolServer {
    files: Cache<String, Arc<Vec<u8>>>,
    reports: u64,
    bytes: u64,
}

impl SymbolServer {
    #[inline(never)]
    async fn symbolicate(&mut self, dice: &mut Dice) {
        self.reports += 1;
        for _ in 1..FRAMES_A_REPORT {
            let module = dice.below(SHARED_MODULES);
            self.lookup(format!("libshared-{module:03}.so/{:032x}", module * 7919), dice).await;
        }
        self.lookup(format!("app-nightly.so/{:032x}", self.reports), dice).await;
    }

    #[inline(never)]
    async fn lookup(&mut self, key: String, dice: &mut Dice) {
        let file = self.files.get_with(key, async { Arc::new(download(dice)) }).await;
        self.bytes += file.len() as u64;
    }
}

#[inline(never)]
fn download(dice: &mut Dice) -> Vec<u8> {
    vec![0x7f; dice.size(500, 8_000)]
}

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let mut server = SymbolServer { files: Cache::new(CACHED_FILES), reports: 0, bytes: 0 };
    let case = Case { name: "moka", culprit: &["try_init_or_read"], lost_with_it: &["SymbolServer::symbolicate"] };
    rounds::run(case, |dice| {
        runtime.block_on(async {
            for _ in 0..REPORTS_A_ROUND {
                server.symbolicate(dice).await;
            }
            server.files.run_pending_tasks().await;
        });
    });
    assert!(server.bytes > 0);
}
