//! How much memory this process may take, and how much counts against that.
//!
//! Promises: reads small files of /proc and /sys alone; what can't be read is left out. The limit is the smallest of
//! the cgroup ancestors' `memory.max` and `memory.high` (v2) or `memory.limit_in_bytes` (v1), RLIMIT_AS, and what the
//! machine has available beside what we use.

use std::path::{Path, PathBuf};

/// A limit and what counts against it now, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct MemoryLimit {
    pub(crate) limit_bytes: Option<u64>,
    pub(crate) used_bytes: u64,
}

/// The tightest limit that applies to this process.
pub(crate) fn memory_limit() -> MemoryLimit {
    let resident = super::process::resident_bytes();
    let mut tightest: Option<(u64, u64)> = None;
    let mut consider = |limit: u64, used: u64| {
        let left = limit.saturating_sub(used);
        if tightest.is_none_or(|(limit, used)| left < limit.saturating_sub(used)) {
            tightest = Some((limit, used));
        }
    };
    for (limit, used) in cgroup_limits() {
        consider(limit, used);
    }
    if let Some((limit, used)) = address_space() {
        consider(limit, used);
    }
    if let Some(available) = available_bytes() {
        consider(resident.saturating_add(available), resident);
    }
    match tightest {
        Some((limit, used)) => MemoryLimit { limit_bytes: Some(limit), used_bytes: used },
        None => MemoryLimit { limit_bytes: None, used_bytes: resident },
    }
}

/// Each ancestor's limit and usage, of either version.
fn cgroup_limits() -> Vec<(u64, u64)> {
    let Ok(groups) = std::fs::read_to_string("/proc/self/cgroup") else { return Vec::new() };
    let mut found = Vec::new();
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':');
        let (_, controllers, path) = (parts.next(), parts.next().unwrap_or(""), parts.next().unwrap_or("/"));
        let (root, limits, usage): (&str, &[&str], &str) = if controllers.is_empty() {
            ("/sys/fs/cgroup", &["memory.max", "memory.high"], "memory.current")
        } else if controllers.split(',').any(|name| name == "memory") {
            ("/sys/fs/cgroup/memory", &["memory.limit_in_bytes"], "memory.usage_in_bytes")
        } else {
            continue;
        };
        for directory in ancestors(Path::new(root), path) {
            let Some(used) = number(&directory.join(usage)) else { continue };
            for limit in limits.iter().filter_map(|name| number(&directory.join(name))) {
                // v1 writes 'no limit' as the largest page-aligned number.
                if limit < 1 << 62 {
                    found.push((limit, used));
                }
            }
        }
    }
    found
}

/// A cgroup and those above it, up to the mount's root. In a container the path names the host's tree, and the
/// container's own group is the root: so the root is always among them.
fn ancestors(root: &Path, path: &str) -> Vec<PathBuf> {
    let relative = Path::new(path.trim_start_matches('/'));
    relative.ancestors().take(64).map(|part| root.join(part)).collect()
}

/// A file that holds one number; `max` is none.
fn number(path: &Path) -> Option<u64> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn address_space() -> Option<(u64, u64)> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: a valid place for the answer.
    if unsafe { libc::getrlimit(libc::RLIMIT_AS, &raw mut limit) } != 0 || limit.rlim_cur == libc::RLIM_INFINITY {
        return None;
    }
    let text = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = text.split_ascii_whitespace().next()?.parse().ok()?;
    // SAFETY: asks for a constant.
    let page = u64::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096);
    Some((limit.rlim_cur, pages * page))
}

fn available_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("MemAvailable:"))?;
    let kib: u64 = line.split_ascii_whitespace().nth(1)?.parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cgroup_has_its_ancestors_up_to_the_root() {
        let all = ancestors(Path::new("/sys/fs/cgroup"), "/a/b.slice/c");
        let names: Vec<_> = all.iter().map(|path| path.to_string_lossy().trim_end_matches('/').to_owned()).collect();
        assert_eq!(
            names,
            ["/sys/fs/cgroup/a/b.slice/c", "/sys/fs/cgroup/a/b.slice", "/sys/fs/cgroup/a", "/sys/fs/cgroup"]
        );
    }

    #[test]
    fn this_process_uses_less_than_it_may() {
        let limit = memory_limit();
        assert!(limit.used_bytes > 0);
        assert!(limit.limit_bytes.is_none_or(|bytes| bytes >= limit.used_bytes), "{limit:?}");
    }
}
