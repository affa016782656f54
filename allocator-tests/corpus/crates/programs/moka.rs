//! A symbol server's cache of debug files: crash reports are worked on side by side, each asks for some modules that all
//! share and for some of its own.
//!
//! moka 0.12.0 keeps the waiters of `get_with` in a table under the hash of another table. Whenever that one is laid out
//! anew while lookups are under way, their waiters move to where they are never found again, with their keys and values.

mod rounds;

use std::sync::Arc;

use moka::future::Cache;
use rounds::{Case, Dice};
use tokio::task::JoinSet;

const CACHED_FILES: u64 = 300;
const SHARED_MODULES: u64 = 120;
/// Worked on at once. The table is laid out anew once a tenth of it are removed, so that the leak slows down to half as often as
/// it doubles: with four times as many it does within 400 rounds, and unfreed calls it 'sublinear', which it then is.
const REPORTS_A_ROUND: u64 = 96;
const LOOKUPS_A_REPORT: u64 = 4;

type Files = Cache<String, Arc<Vec<u8>>>;

/// A file to look up, and what its download will be like.
struct Module {
    key: String,
    bytes: usize,
    turns: u64,
}

/// The modules of a crash report: its own program's, and libraries that others have as well.
#[inline(never)]
fn modules(report: u64, dice: &mut Dice) -> Vec<Module> {
    let mut modules = Vec::new();
    for index in 0..LOOKUPS_A_REPORT {
        let shared = dice.below(SHARED_MODULES);
        let key = match index % 2 {
            0 => format!("libshared-{shared:03}.so/{:032x}", shared * 7919),
            _ => format!("app-nightly.so/{report:024x}{index:08x}"),
        };
        modules.push(Module { key, bytes: dice.size(1_000, 12_000), turns: 1 + dice.below(3) });
    }
    modules
}

#[inline(never)]
async fn symbolicate(files: Files, modules: Vec<Module>) -> usize {
    let mut bytes = 0;
    for module in modules {
        bytes += lookup(&files, module).await.len();
    }
    bytes
}

#[inline(never)]
async fn lookup(files: &Files, module: Module) -> Arc<Vec<u8>> {
    let Module { key, bytes, turns } = module;
    files.get_with(key, download(bytes, turns)).await
}

/// Takes a few turns, as a network would.
async fn download(bytes: usize, turns: u64) -> Arc<Vec<u8>> {
    for _ in 0..turns {
        tokio::task::yield_now().await;
    }
    Arc::new(vec![0x7f; bytes])
}

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let files: Files = Cache::new(CACHED_FILES);
    let (mut reports, mut bytes) = (0, 0);
    let case = Case { name: "moka", culprit: &["try_init_or_read"], lost_with_it: &["symbolicate", "::modules"] };
    rounds::run(case, |dice| {
        runtime.block_on(async {
            let mut work = JoinSet::new();
            for _ in 0..REPORTS_A_ROUND {
                reports += 1;
                work.spawn(symbolicate(files.clone(), modules(reports, dice)));
            }
            while let Some(symbolicated) = work.join_next().await {
                bytes += symbolicated.expect("no panic");
            }
            files.run_pending_tasks().await;
        });
    });
    assert!(bytes > 0);
}
