//! Which process a store belongs to, and whether that process still exists and runs the same program.
//!
//! Promises: a process is called gone only on proof: another boot, no such pid in our own pid namespace, a pid that
//! belongs to a process started at another time, or one whose first stack lies elsewhere, since it called `exec`. Where it
//! cannot be seen from here, it counts as alive; so does one after an `exec` where addresses are not randomized.
//! Source: proc(5); a pid alone is reused, (boot, pid, start time) is not.

use std::fs;

use crate::sys::file;

/// What tells one process from all others on one machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) pid: u32,
    /// Clock ticks from boot to the process's start; 0 where unknown.
    pub(crate) start_time: u64,
    /// The address of its first stack's begin; 0 where unknown, or not to be seen from here.
    pub(crate) stack_start: u64,
    /// The inode of its pid namespace; 0 where unknown.
    pub(crate) pid_namespace: u64,
    /// The machine's boot; empty where unknown.
    pub(crate) boot_id: String,
}

impl Identity {
    /// This process's.
    pub(crate) fn own() -> Identity {
        let pid = std::process::id();
        let Beginning { start_time, stack_start } = beginning(pid).unwrap_or_default();
        Identity { pid, start_time, stack_start, pid_namespace: pid_namespace(), boot_id: boot_id() }
    }

    /// Is the process proved to be gone?
    pub(crate) fn is_gone(&self) -> bool {
        let here = (boot_id(), pid_namespace());
        if here.0.is_empty() || self.boot_id.is_empty() {
            return false;
        }
        if here.0 != self.boot_id {
            return true;
        }
        if here.1 == 0 || here.1 != self.pid_namespace {
            return false;
        }
        match beginning(self.pid) {
            Some(found) => {
                let is_moved = |before: u64, now: u64| before != 0 && now != 0 && now != before;
                self.start_time != 0 && found.start_time != self.start_time
                    || is_moved(self.stack_start, found.stack_start)
            }
            None => is_free(self.pid),
        }
    }
}

/// Is there no process of this number, as far as can be seen from here?
pub(super) fn is_free(pid: u32) -> bool {
    fs::metadata("/proc/self").is_ok() && !fs::exists(format!("/proc/{pid}")).unwrap_or(true)
}

fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

fn pid_namespace() -> u64 {
    fs::metadata("/proc/self/ns/pid").map_or(0, |found| file::inode(&found))
}

/// When a process began, and where.
#[derive(Default)]
struct Beginning {
    start_time: u64,
    stack_start: u64,
}

/// Fields 22 and 28 of `/proc/PID/stat`; `None` where there is no such process, zeros where only its zombie is left.
fn beginning(pid: u32) -> Option<Beginning> {
    let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the program's name in parentheses, which may hold spaces and parentheses itself.
    let after = stat.iter().rposition(|&byte| byte == b')')? + 1;
    let fields = std::str::from_utf8(stat.get(after..)?).ok()?;
    let mut fields = fields.split_ascii_whitespace();
    match fields.next()? {
        // A main thread that has ended alone is a zombie as well, while the other threads run.
        "Z" | "X" if fs::read_dir(format!("/proc/{pid}/task")).is_ok_and(|tasks| tasks.count() <= 1) => {
            Some(Beginning::default())
        }
        _ => {
            let start_time = fields.nth(18)?.parse().ok()?;
            let stack_start = fields.nth(5).and_then(|field| field.parse().ok()).unwrap_or(0);
            Some(Beginning { start_time, stack_start })
        }
    }
}

/// The command line, its words joined by spaces.
pub(crate) fn command() -> String {
    let bytes = fs::read("/proc/self/cmdline").unwrap_or_default();
    let words: Vec<_> = bytes.split(|&byte| byte == 0).filter(|word| !word.is_empty()).collect();
    words.into_iter().map(String::from_utf8_lossy).collect::<Vec<_>>().join(" ")
}

/// The path of the program.
pub(crate) fn executable() -> String {
    fs::read_link("/proc/self/exe").map(|path| path.to_string_lossy().into_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn we_exist_and_an_ended_child_does_not() {
        let own = Identity::own();
        assert!(own.start_time > 0 && own.pid_namespace > 0 && own.boot_id.len() == 36, "{own:?}");
        assert!(own.stack_start > 0, "{own:?}");
        assert!(!own.is_gone());
        assert!(Identity { start_time: own.start_time + 1, ..own.clone() }.is_gone(), "a reused pid");
        assert!(Identity { stack_start: own.stack_start - 16, ..own.clone() }.is_gone(), "after an exec");
        assert!(!Identity { stack_start: 0, ..own.clone() }.is_gone(), "not known");
        assert!(Identity { boot_id: "another".into(), ..own.clone() }.is_gone(), "another boot");
        assert!(!Identity { pid_namespace: 1, pid: u32::MAX, ..own.clone() }.is_gone(), "cannot be seen from here");
        let mut child = std::process::Command::new("true").spawn().expect("true(1)");
        let identity = Identity { pid: child.id(), start_time: 1, ..own };
        child.wait().expect("it ends");
        assert!(identity.is_gone());
    }
}
