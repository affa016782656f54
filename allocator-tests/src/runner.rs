//! Runs a program to its end, or kills it when its time is up.
//!
//! Promises: a program that hangs is killed with all its children and reported as such, with what it had printed. A store
//! in shared memory that the program left, because it was killed or refused its removal, is removed; one of a child of
//! its own is not, so who forks and profiles has a directory for that (`SharedMemory`).

use std::fmt;
use std::io::Read;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How a program ended.
#[derive(Debug)]
pub struct Outcome {
    /// Its status; a hung one's is that of the SIGKILL that ended it.
    pub status: ExitStatus,
    /// What it printed.
    pub stdout: String,
    /// What it complained of.
    pub stderr: String,
    /// It was killed when its time was up.
    pub hung: bool,
    /// How long it ran.
    pub took: Duration,
}

impl Outcome {
    /// Panics, with everything that is known, unless the program ended with status 0.
    #[track_caller]
    pub fn expect_success(self) -> Outcome {
        assert!(self.status.success() && !self.hung, "{self}");
        self
    }

    /// Panics unless this signal ended the program.
    #[track_caller]
    pub fn expect_signal(self, signal: i32) -> Outcome {
        assert!(self.status.signal() == Some(signal) && !self.hung, "expected signal {signal}: {self}");
        self
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let how = if self.hung { "hung and was killed" } else { "ended" };
        write!(
            f,
            "the program {how} after {:?}: {}\n--- stdout\n{}\n--- stderr\n{}",
            self.took, self.status, self.stdout, self.stderr
        )
    }
}

/// A running program, killed when dropped.
#[derive(Debug)]
pub struct Running {
    child: Child,
    stdout: Option<JoinHandle<String>>,
    stderr: Option<JoinHandle<String>>,
    began: Instant,
    group: i32,
}

/// Starts `command` in a process group of its own, with its output captured and the usual effects of signals that end a process.
///
/// # Panics
/// If it can't be started.
#[track_caller]
#[must_use]
pub fn start(command: &mut Command) -> Running {
    // A report that resolves symbols takes longer than what it reports.
    command.env("RUST_BACKTRACE", "0");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    // As it is where nobody ignores them: a shell does for what it starts by `&`, and so does `nohup`.
    // SAFETY: `signal` is async-signal-safe, and all that is called between fork and exec.
    unsafe {
        command.pre_exec(|| {
            for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM] {
                libc::signal(signal, libc::SIG_DFL);
            }
            Ok(())
        });
    }
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let group = i32::try_from(child.id()).expect("a pid");
    let (stdout, stderr) = (child.stdout.take().map(read), child.stderr.take().map(read));
    Running { child, stdout, stderr, began: Instant::now(), group }
}

/// Runs `command` for at most `seconds`.
#[track_caller]
pub fn run(command: &mut Command, seconds: u64) -> Outcome {
    start(command).wait(seconds)
}

fn read(mut pipe: impl Read + Send + 'static) -> JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = pipe.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

impl Running {
    /// The process's id.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.group
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: i32) {
        // SAFETY: a child that was not waited for yet: its number is still its own.
        unsafe { libc::kill(self.group, signal) };
    }

    /// Waits until `path` exists; false when the program ended or the time was up before.
    pub fn wait_for_file(&mut self, path: &Path, seconds: u64) -> bool {
        let deadline = Instant::now() + Duration::from_secs(seconds);
        while Instant::now() < deadline && matches!(self.child.try_wait(), Ok(None)) {
            if path.exists() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        path.exists()
    }

    /// Waits for its end for at most `seconds`, then kills it and its children.
    pub fn wait(mut self, seconds: u64) -> Outcome {
        let deadline = self.began + Duration::from_secs(seconds);
        let mut hung = false;
        let status = loop {
            match self.child.try_wait() {
                Ok(Some(status)) => break status,
                _ if Instant::now() >= deadline && !hung => {
                    hung = true;
                    // SAFETY: the group of a child that was not waited for yet.
                    unsafe { libc::kill(-self.group, libc::SIGKILL) };
                }
                _ => std::thread::sleep(Duration::from_millis(2)),
            }
        };
        let took = self.began.elapsed();
        // Orphans may hold the pipes open.
        // SAFETY: nobody else uses this group, whose number is not reused while one of its processes lives.
        unsafe { libc::kill(-self.group, libc::SIGKILL) };
        clear_stores(self.group);
        let join = |thread: Option<JoinHandle<String>>| thread.and_then(|t| t.join().ok()).unwrap_or_default();
        Outcome { status, stdout: join(self.stdout.take()), stderr: join(self.stderr.take()), hung, took }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            // SAFETY: the group of a child that was not waited for yet.
            unsafe { libc::kill(-self.group, libc::SIGKILL) };
            let _ = self.child.wait();
            clear_stores(self.group);
        }
    }
}

/// Removes what an ended process left where stores lie by default; their names end in its number and a random one.
fn clear_stores(pid: i32) {
    let part = format!("-{pid}-");
    for file in std::fs::read_dir(SHARED_MEMORY).into_iter().flatten().flatten() {
        let name = file.file_name();
        if name
            .to_str()
            .is_some_and(|name| name.starts_with("unfreed-") && name.ends_with(".unfreed") && name.contains(&part))
        {
            let _ = std::fs::remove_file(file.path());
        }
    }
}

const SHARED_MEMORY: &str = "/dev/shm";

/// An empty directory in shared memory, gone with all that is in it when dropped.
#[derive(Debug)]
pub struct SharedMemory(PathBuf);

impl SharedMemory {
    /// One of this name for this process.
    ///
    /// # Panics
    /// If it can't be made.
    #[must_use]
    pub fn new(name: &str) -> SharedMemory {
        SharedMemory(directory(SHARED_MEMORY, &format!("unfreed-tests-{}-{name}", std::process::id())))
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for SharedMemory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// An empty directory of this name under the build's directory for tests.
///
/// # Panics
/// If it can't be made.
#[must_use]
pub fn directory(under: &str, name: &str) -> PathBuf {
    let path = Path::new(under).join(name);
    let _ = std::fs::remove_dir_all(&path);
    std::fs::create_dir_all(&path).expect("a directory for the test");
    path
}

/// Kills this process when it has not ended after so many seconds.
pub fn end_within(seconds: u32) {
    // SAFETY: sets a timer.
    unsafe { libc::alarm(seconds) };
}
