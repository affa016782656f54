//! How much memory this process may take, and how much counts against that.
//!
//! Promises: reads small files of /proc and /sys alone; what can't be read is left out. The limit is the tightest (least
//! is left of it) of the cgroup ancestors' `memory.max` and `memory.high` (v2) or `memory.limit_in_bytes` (v1), RLIMIT_AS,
//! and what the machine has available beside what we use. Against a cgroup's limit counts what the kernel can't take back
//! at once: usage without the page cache's inactive part.

use std::path::{Path, PathBuf};

/// A limit and what counts against it now, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct MemoryLimit {
    pub(crate) limit_bytes: Option<u64>,
    /// Which limit that is.
    pub(crate) name: Option<&'static str>,
    pub(crate) used_bytes: u64,
    /// All that the process's own cgroup is charged with, page cache included.
    pub(crate) cgroup_bytes: Option<u64>,
}

/// The tightest limit that applies to this process.
pub(crate) fn memory_limit() -> MemoryLimit {
    tightest(Path::new("/"), super::process::resident_bytes(), address_space())
}

/// The same of the system whose /proc and /sys lie under `root`.
fn tightest(root: &Path, resident: u64, address_space: Option<(u64, u64)>) -> MemoryLimit {
    let (mut limits, cgroup_bytes) = cgroup_limits(root);
    if let Some((limit, used)) = address_space {
        limits.push(("RLIMIT_AS", limit, used));
    }
    if let Some(available) = available_bytes(root) {
        limits.push(("MemAvailable", resident.saturating_add(available), resident));
    }
    // The first of equals: the process's own group before its ancestors, `memory.max` before `memory.high`.
    match limits.into_iter().min_by_key(|&(_, limit, used)| limit.saturating_sub(used)) {
        Some((name, limit, used)) => {
            MemoryLimit { limit_bytes: Some(limit), name: Some(name), used_bytes: used, cgroup_bytes }
        }
        None => MemoryLimit { limit_bytes: None, name: None, used_bytes: resident, cgroup_bytes },
    }
}

/// The files of one version of cgroups.
struct Files {
    mount: &'static str,
    limits: &'static [(&'static str, &'static str)],
    usage: &'static str,
    /// The line of `memory.stat` that says how much of the usage the kernel takes back first.
    inactive: &'static str,
}

const V2: Files = Files {
    mount: "sys/fs/cgroup",
    limits: &[("memory.max", "cgroup memory.max"), ("memory.high", "cgroup memory.high")],
    usage: "memory.current",
    inactive: "inactive_file",
};
const V1: Files = Files {
    mount: "sys/fs/cgroup/memory",
    limits: &[("memory.limit_in_bytes", "cgroup memory.limit_in_bytes")],
    usage: "memory.usage_in_bytes",
    inactive: "total_inactive_file",
};

/// Each ancestor's limit and what counts against it, of either version; and what the innermost is charged with.
fn cgroup_limits(root: &Path) -> (Vec<(&'static str, u64, u64)>, Option<u64>) {
    let (mut found, mut charged) = (Vec::new(), None);
    let Ok(groups) = std::fs::read_to_string(root.join("proc/self/cgroup")) else { return (found, charged) };
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':');
        let (_, controllers, path) = (parts.next(), parts.next().unwrap_or(""), parts.next().unwrap_or("/"));
        let files = if controllers.is_empty() {
            V2
        } else if controllers.split(',').any(|name| name == "memory") {
            V1
        } else {
            continue;
        };
        for directory in ancestors(&root.join(files.mount), path) {
            let Some(current) = number(&directory.join(files.usage)) else { continue };
            charged = charged.or(Some(current));
            let inactive = statistic(&directory.join("memory.stat"), files.inactive).unwrap_or(0);
            for &(file, name) in files.limits {
                // v1 writes 'no limit' as the largest page-aligned number.
                if let Some(limit) = number(&directory.join(file)).filter(|&limit| limit < 1 << 62) {
                    found.push((name, limit, current.saturating_sub(inactive)));
                }
            }
        }
    }
    (found, charged)
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

/// The number behind `name` in a file of such lines.
fn statistic(path: &Path, name: &str) -> Option<u64> {
    let text = std::fs::read_to_string(path).ok()?;
    let line = text.lines().find(|line| line.split_ascii_whitespace().next() == Some(name))?;
    line.split_ascii_whitespace().nth(1)?.parse().ok()
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

fn available_bytes(root: &Path) -> Option<u64> {
    statistic(&root.join("proc/meminfo"), "MemAvailable:").map(|kib| kib * 1024)
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

    /// A system of these files, and its tightest limit with 100 MB resident.
    fn limit_of(name: &str, files: &[(&str, &str)], address_space: Option<(u64, u64)>) -> MemoryLimit {
        let root = std::env::temp_dir().join(format!("unfreed-limits-{}-{name}", std::process::id()));
        for (path, text) in files {
            let path = root.join(path);
            std::fs::create_dir_all(path.parent().expect("a file in a directory")).expect("a directory");
            std::fs::write(path, text).expect("a file");
        }
        let limit = tightest(&root, 100_000_000, address_space);
        std::fs::remove_dir_all(&root).expect("removed");
        limit
    }

    const MEMINFO: (&str, &str) =
        ("proc/meminfo", "MemTotal:       16000000 kB\nMemFree:         1000000 kB\nMemAvailable:    8000000 kB\n");

    #[test]
    fn of_nested_v2_groups_the_one_with_the_least_left_counts() {
        let group = |at: &'static str| format!("sys/fs/cgroup/{at}");
        let (max, high) = (group("a/b/memory.max"), group("a/memory.high"));
        let (inner, outer) = (group("a/b/memory.current"), group("a/memory.current"));
        let (a_max, stat) = (group("a/memory.max"), group("a/memory.stat"));
        let mut files = vec![
            MEMINFO,
            ("proc/self/cgroup", "0::/a/b\n"),
            (max.as_str(), "900000000\n"),
            (inner.as_str(), "200000000\n"),
            (a_max.as_str(), "max\n"),
            (high.as_str(), "1000000000\n"),
            (outer.as_str(), "600000000\n"),
            // 50 MB of the outer group's charge is page cache that the kernel takes back first.
            (stat.as_str(), "anon 500000000\ninactive_anon 3\ninactive_file 50000000\n"),
        ];
        // 700 MB are left in the inner group, 450 MB in the outer one.
        let limit = limit_of("v2", &files, None);
        let expected = MemoryLimit {
            limit_bytes: Some(1_000_000_000),
            name: Some("cgroup memory.high"),
            used_bytes: 550_000_000,
            cgroup_bytes: Some(200_000_000),
        };
        assert_eq!(limit, expected);
        // An address space with less left than that.
        let limit = limit_of("v2-as", &files, Some((2_000_000_000, 1_800_000_000)));
        assert_eq!(
            (limit.name, limit.limit_bytes, limit.used_bytes),
            (Some("RLIMIT_AS"), Some(2_000_000_000), 1_800_000_000)
        );
        // No limit on the outer group: the inner one's.
        files.retain(|(path, _)| !path.ends_with("memory.high"));
        let limit = limit_of("v2-max", &files, None);
        assert_eq!(
            (limit.name, limit.limit_bytes, limit.used_bytes),
            (Some("cgroup memory.max"), Some(900_000_000), 200_000_000)
        );
    }

    #[test]
    fn v1_in_a_container_has_its_limit_at_the_mounts_root() {
        let files = [
            MEMINFO,
            // Hybrid: version 2 beside it, without a memory controller. The path is the host's.
            ("proc/self/cgroup", "9:cpuset:/x\n5:cpu,memory:/docker/0123\n0::/system.slice\n"),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "512000000\n"),
            ("sys/fs/cgroup/memory/memory.usage_in_bytes", "300000000\n"),
            ("sys/fs/cgroup/memory/memory.stat", "inactive_file 1\ntotal_inactive_file 100000000\n"),
        ];
        let expected = MemoryLimit {
            limit_bytes: Some(512_000_000),
            name: Some("cgroup memory.limit_in_bytes"),
            used_bytes: 200_000_000,
            cgroup_bytes: Some(300_000_000),
        };
        assert_eq!(limit_of("v1", &files, None), expected);
    }

    #[test]
    fn without_any_group_the_machines_available_memory_is_the_limit() {
        let unlimited = [
            MEMINFO,
            ("proc/self/cgroup", "3:memory:/\n"),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"),
            ("sys/fs/cgroup/memory/memory.usage_in_bytes", "7\n"),
        ];
        let limit = limit_of("meminfo", &unlimited, None);
        assert_eq!((limit.name, limit.limit_bytes), (Some("MemAvailable"), Some(100_000_000 + 8_192_000_000)));
        assert_eq!((limit.used_bytes, limit.cgroup_bytes), (100_000_000, Some(7)));
        let nothing = limit_of("nothing", &[("proc/self/cgroup", "garbage")], None);
        assert_eq!(nothing, MemoryLimit { used_bytes: 100_000_000, ..MemoryLimit::default() });
    }
}
