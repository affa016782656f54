//! The sites of the report, judged by the dhat crate: the memory alive at the end, largest first, in the report's chains.

use std::sync::Arc;

use rustymail::store::{MailStore, StoreConfig};
use rustymail::sync::{Mode, SyncService};

#[global_allocator]
static ALLOC: dhat::Alloc = dhat::Alloc;

/// What the report calls the sites; a site is named by the first of its frames that says what it is.
const SITES: [(&str, &str); 5] = [
    ("decode_base64_mime", "base64 decoding"),
    ("decode_quoted_printable_mime", "quoted-printable decoding"),
    // `BytePool::alloc`, or `Block::realloc` of a block that is older than the profiler
    ("byte_pool::pool", "byte pool"),
    ("parse_mime_content", "MIME parsing"),
    ("email::Email as core::convert::From<async_imap::types::fetch::Fetch>>::from", "Email objects"),
];
const CHAIN: [&str; 4] = ["fetch_emails", "sync_folder_with_limit", "sync_all_folders", "start_background_sync"];

struct Site {
    name: &'static str,
    live_bytes: u64,
    frames: Vec<String>,
}

/// Runs a sync to its end under dhat; the sites at t-end, largest first.
fn profile(mode: Mode, emails: u32) -> Vec<Site> {
    let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{mode:?}.json"));
    let profiler = dhat::Profiler::builder().trim_backtraces(None).file_name(&path).build();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let store = MailStore::new(StoreConfig { emails, folders: 3, seed: 3, attachment_kib: 24 });
        let service = SyncService::new(Arc::new(store), mode);
        service.attach_metrics(|_| ());
        service.start_background_sync().await.unwrap().unwrap();
    });
    drop(runtime);
    drop(profiler);
    let file: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let table: Vec<&str> = file["ftbl"].as_array().unwrap().iter().map(|frame| frame.as_str().unwrap()).collect();
    let mut sites: Vec<Site> = file["pps"].as_array().unwrap().iter().map(|point| site(point, &table)).collect();
    sites.sort_by_key(|site| std::cmp::Reverse(site.live_bytes));
    sites
}

fn site(point: &serde_json::Value, table: &[&str]) -> Site {
    let indices = point["fs"].as_array().unwrap().iter();
    let frames: Vec<String> =
        indices.map(|index| table[usize::try_from(index.as_u64().unwrap()).unwrap()].to_owned()).collect();
    let named = frames.iter().find_map(|frame| SITES.iter().find(|(part, _)| frame.contains(part)));
    Site { name: named.map_or("other", |(_, name)| name), live_bytes: point["eb"].as_u64().unwrap(), frames }
}

fn live_bytes(sites: &[Site], name: &str) -> u64 {
    sites.iter().filter(|site| site.name == name).map(|site| site.live_bytes).sum()
}

/// As the README writes them: 1,234,567.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let groups: Vec<&str> =
        digits.as_bytes().rchunks(3).rev().map(|group| std::str::from_utf8(group).unwrap()).collect();
    groups.join(",")
}

/// One test, since dhat profiles one thing at a time.
#[test]
fn the_largest_sites_are_the_report_s_and_the_fixed_service_leaves_the_byte_pool_alone() {
    let sites = profile(Mode::Leaking, 120);
    let names: Vec<&str> = sites.iter().take(4).map(|site| site.name).collect();
    assert_eq!(names, ["base64 decoding", "Email objects", "MIME parsing", "byte pool"]);
    for (_, name) in SITES {
        let largest = sites.iter().take(10).find(|site| site.name == name);
        let largest = largest.unwrap_or_else(|| panic!("{name} is not among the ten largest"));
        let position = |function: &str| largest.frames.iter().position(|frame| frame.contains(function));
        let positions: Option<Vec<usize>> = CHAIN.iter().map(|function| position(function)).collect();
        let positions = positions.unwrap_or_else(|| panic!("{name}: the chain has gaps: {:#?}", largest.frames));
        assert!(positions.is_sorted(), "{name}: the chain is out of order: {:#?}", largest.frames);
    }
    for (_, name) in SITES {
        let (bytes, base64) = (live_bytes(&sites, name), live_bytes(&sites, "base64 decoding"));
        assert!(bytes <= base64, "{name} holds {bytes} bytes in all, base64 decoding {base64}");
    }
    let [base64, objects, parsing] =
        ["base64 decoding", "Email objects", "MIME parsing"].map(|name| grouped(live_bytes(&sites, name)));
    let figures =
        format!("{base64} bytes of base64 decoding, {objects} of Email objects and {parsing} of MIME parsing");
    assert!(include_str!("../README.md").contains(&figures), "README.md has not: {figures}");
    let total: u64 = sites.iter().map(|site| site.live_bytes).sum();
    assert!(live_bytes(&sites, "other") * 20 < total, "more than a twentieth of the memory has no name in the report");

    let fixed = profile(Mode::Fixed, 120);
    let (total, pool) = (fixed.iter().map(|site| site.live_bytes).sum::<u64>(), live_bytes(&fixed, "byte pool"));
    assert!(pool > 1_000_000, "the byte pool kept only {pool} bytes: the library was fixed?");
    assert!(total - pool < 64 * 1024, "{} bytes are alive beside the byte pool", total - pool);
}
