//! One program: started in a process group of its own, spoken to by lines, waited for within a limit of time, and stopped and
//! woken in turn with others, so that one of them works at a time.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use serde_json::Value;

/// A program that says nothing for so long has failed. The longest slices and warm-ups are some seconds.
const PATIENCE: Duration = Duration::from_secs(90);

enum Event {
    Line(String),
    Ended(Result<(), String>),
}

/// A program that was started; killed with all of its group when it is dropped before its end.
#[derive(Debug)]
pub struct Running {
    group: i32,
    events: Receiver<Event>,
    input: Option<ChildStdin>,
    errors: PathBuf,
    has_ended: bool,
}

impl Running {
    /// Starts it; what it writes to its standard error goes to this file, and is shown where it fails.
    pub fn start(mut command: Command, errors: &Path) -> Result<Running, String> {
        let file = File::create(errors).map_err(|error| format!("scratch: {error}"))?;
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(file).process_group(0);
        // SAFETY: between fork and exec a plain system call alone. A runner that is killed leaves no stopped programs behind.
        unsafe {
            command.pre_exec(|| {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                Ok(())
            });
        }
        let mut child = command.spawn().map_err(|error| format!("does not start: {error}"))?;
        let group = i32::try_from(child.id()).map_err(|error| error.to_string())?;
        let input = child.stdin.take();
        let (sender, events) = channel();
        thread::spawn(move || watch(child, &sender));
        Ok(Running { group, events, input, errors: errors.to_owned(), has_ended: false })
    }

    /// The next line that is JSON.
    pub fn line(&mut self) -> Result<Value, String> {
        match self.next_line()? {
            Some(value) => Ok(value),
            None => Err(self.explain("ended early")),
        }
    }

    /// Waits for the end of the program, and returns the last line that is JSON, if there is one.
    pub fn last_line(&mut self) -> Result<Option<Value>, String> {
        let mut last = None;
        while let Some(value) = self.next_line()? {
            last = Some(value);
        }
        Ok(last)
    }

    /// `None` where the program ended well.
    fn next_line(&mut self) -> Result<Option<Value>, String> {
        loop {
            match self.events.recv_timeout(PATIENCE) {
                Ok(Event::Line(line)) => {
                    if line.starts_with('{') {
                        return serde_json::from_str(&line).map(Some).map_err(|error| format!("its line: {error}"));
                    }
                }
                Ok(Event::Ended(how)) => {
                    self.has_ended = true;
                    return how.map(|()| None).map_err(|how| self.explain(&how));
                }
                Err(_) => {
                    self.kill();
                    return Err(self.explain("timed out"));
                }
            }
        }
    }

    /// Writes a line to its standard input.
    pub fn ask(&mut self, line: &str) -> Result<(), String> {
        let input = self.input.as_mut().ok_or("its input is closed")?;
        writeln!(input, "{line}").map_err(|error| format!("its input: {error}"))
    }

    /// It reads the end of its standard input.
    pub fn close_input(&mut self) {
        self.input = None;
    }

    /// Stops all of its group, and returns when it has stopped.
    pub fn stop(&self) -> Result<(), String> {
        self.signal(libc::SIGSTOP);
        self.stopped()
    }

    /// Wakes all of its group.
    pub fn wake(&self) {
        self.signal(libc::SIGCONT);
    }

    /// Returns when all threads of the group's first process have stopped, for which it or the runner has sent the signal.
    pub fn stopped(&self) -> Result<(), String> {
        // its end is left to the thread that waits for it
        match wait(self.group, libc::WSTOPPED | libc::WEXITED | libc::WNOWAIT) {
            Some(libc::CLD_STOPPED) => {
                // told once
                wait(self.group, libc::WSTOPPED | libc::WNOHANG);
                Ok(())
            }
            _ => Err("ended early".to_owned()),
        }
    }

    /// Ends the program and whatever it started.
    fn kill(&self) {
        self.signal(libc::SIGKILL);
    }

    fn signal(&self, signal: i32) {
        if !self.has_ended {
            // SAFETY: a plain system call; the group is the child's own, and its number is not used again before its end is told.
            unsafe { libc::kill(-self.group, signal) };
        }
    }

    /// Shows the program's last words.
    fn explain(&self, how: &str) -> String {
        let words = fs::read_to_string(&self.errors).unwrap_or_default();
        let words: Vec<&str> = words.lines().rev().filter(|line| !line.trim().is_empty()).take(3).collect();
        if !words.is_empty() {
            crate::say(&format!("{how}: {}", words.into_iter().rev().collect::<Vec<_>>().join(" | ")));
        }
        how.to_owned()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

/// What became of a child (`CLD_…`), or `None` where it is no child any more.
fn wait(child: i32, options: i32) -> Option<i32> {
    let id = libc::id_t::try_from(child).ok()?;
    loop {
        // SAFETY: `siginfo_t` is plain integers, for which zeros are valid.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        // SAFETY: the pointer is to a live `siginfo_t`.
        if unsafe { libc::waitid(libc::P_PID, id, &raw mut info, options) } == 0 {
            return Some(info.si_code);
        }
        if std::io::Error::last_os_error().kind() != std::io::ErrorKind::Interrupted {
            return None;
        }
    }
}

fn watch(mut child: Child, events: &Sender<Event>) {
    if let Some(output) = child.stdout.take() {
        let mut reader = BufReader::new(output);
        let mut line = String::new();
        while reader.read_line(&mut line).is_ok_and(|read| read > 0) {
            // nobody listens any more: the program was given up
            let _ = events.send(Event::Line(line.trim().to_owned()));
            line.clear();
        }
        let _ = reader.read_to_end(&mut Vec::new());
    }
    let ended = match child.wait() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(match (status.signal(), status.code()) {
            (Some(signal), _) => format!("crashed (signal {signal})"),
            (None, code) => format!("failed (exit {})", code.unwrap_or(-1)),
        }),
        Err(error) => Err(format!("lost: {error}")),
    };
    let _ = events.send(Event::Ended(ended));
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;
    use std::process::Command;

    use super::Running;

    /// A program of two processes: the second counts, without end, what it did; the first says where it stands.
    const COUNTS: &str = r#"
        (while true; do echo >> "$1"; done) &
        echo '{"ready":true}'
        wait
    "#;

    struct Scratch(PathBuf);

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn scratch(name: &str) -> Scratch {
        let path = std::env::temp_dir().join(format!("unfreed-peers-test-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).expect("a directory");
        Scratch(path)
    }

    fn shell(scratch: &Scratch, script: &str) -> Running {
        let mut command = Command::new("sh");
        command.args(["-c", script, "sh"]).arg(scratch.0.join("count"));
        Running::start(command, &scratch.0.join("stderr")).expect("a shell")
    }

    #[test]
    fn who_is_stopped_does_nothing_until_woken_its_children_included() {
        let scratch = scratch("stops");
        let length = || fs::metadata(scratch.0.join("count")).map_or(0, |count| count.len());
        let mut running = shell(&scratch, COUNTS);
        running.line().expect("ready");
        for _ in 0..3 {
            running.stop().expect("stops");
            // the other process of the group has the signal by now; it acts on it within a turn of the scheduler
            let asked = std::time::Instant::now();
            while process_states(running.group).iter().any(|state| *state != 'T') {
                assert!(asked.elapsed().as_secs() < 10, "a process of the group goes on");
                std::thread::yield_now();
            }
            let before = length();
            let begin = std::time::Instant::now();
            while begin.elapsed().as_millis() < 20 {
                std::hint::spin_loop();
            }
            assert_eq!(length(), before, "it worked while it was stopped");
            running.wake();
            while length() == before {
                std::thread::yield_now();
            }
        }
    }

    /// States (`T`: stopped) of the processes of a group.
    fn process_states(group: i32) -> Vec<char> {
        let entries = fs::read_dir("/proc").expect("processes");
        let stats = entries.flatten().filter_map(|entry| fs::read_to_string(entry.path().join("stat")).ok());
        stats
            .filter_map(|stat| {
                let (_, rest) = stat.rsplit_once(") ")?;
                let fields: Vec<&str> = rest.split(' ').collect();
                (fields.get(2)?.parse::<i32>().ok()? == group).then(|| fields[0].chars().next())?
            })
            .collect()
    }

    #[test]
    fn who_stops_itself_is_waited_for_and_goes_on_when_woken() {
        let scratch = scratch("turns");
        let mut running = shell(
            &scratch,
            r#"for n in 1 2 3; do echo "{\"n\":$n}"; kill -STOP 0; read line; done; echo '{"last":true}'"#,
        );
        for n in 1..=3 {
            assert_eq!(running.line().expect("a line")["n"], n);
            running.stopped().expect("it stops");
            running.ask("go on").expect("it listens");
            running.wake();
        }
        assert_eq!(running.last_line().expect("it ends").expect("a line")["last"], true);
        running.stopped().expect_err("it has ended");
    }

    #[test]
    fn an_end_is_told_as_what_it_is() {
        let scratch = scratch("ends");
        let crash = |script: &str| shell(&scratch, script).line().expect_err("it ends");
        assert_eq!(crash("kill -9 $$"), "crashed (signal 9)");
        assert_eq!(crash("exit 3"), "failed (exit 3)");
        assert_eq!(crash("true"), "ended early");
    }
}
