//! A server process that cannot outlive the tests: program and arguments in, a guard out, its output in a log file.
//!
//! Dropping the guard kills the process. Nobody drops the value of a `static`, and nothing is dropped when a test program
//! is killed: so the process hangs on a pipe too, whose other end only the test program holds.

use std::{
    ffi::OsStr,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal};

use crate::eventually::eventually;

/// Becomes the program, after leaving a process behind that kills it when standard input ends.
const GUARDED: &str = r#"exec 3<&0; (read -r _ <&3; kill -KILL $$) & exec "$@" 3<&- </dev/null"#;

/// How much of a log a panic message quotes, in lines.
const QUOTED_LINES: usize = 20;

/// A running server; it is killed when this value is dropped and when the test program ends.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    lifeline: Option<ChildStdin>,
    log: PathBuf,
}

impl Process {
    /// Starts `program`, found on the `PATH` unless it is a path, with both outputs in the file `log`.
    pub fn start(
        log: &Path,
        program: impl AsRef<OsStr>,
        arguments: impl IntoIterator<Item = impl AsRef<OsStr>>,
    ) -> Self {
        Self::start_with(log, program, arguments, |_| ())
    }

    /// Does the same as [`Process::start`], after `adjust` has set environment or working directory.
    pub fn start_with(
        log: &Path,
        program: impl AsRef<OsStr>,
        arguments: impl IntoIterator<Item = impl AsRef<OsStr>>,
        adjust: impl FnOnce(&mut Command),
    ) -> Self {
        let output = File::create(log).expect("a server's log is in a directory that exists");
        let mut command = Command::new("/bin/sh");
        command.args(["-c", GUARDED, "sh"]).arg(program.as_ref()).args(arguments);
        command.stdin(Stdio::piped()).stderr(output.try_clone().expect("a file has two handles")).stdout(output);
        adjust(&mut command);
        let mut child = command.spawn().expect("there is a shell in /bin/sh");
        let lifeline = child.stdin.take();
        let name = program.as_ref().to_string_lossy().into_owned();
        Self { name, child, lifeline, log: log.to_owned() }
    }

    /// Returns the first value that `look` finds; panics with the end of the log when the process ends before, or at the deadline.
    #[track_caller]
    pub fn ready<T>(&mut self, deadline: Duration, mut look: impl FnMut(&str) -> Option<T>) -> T {
        let what = format!("`{}` answers (log in {})", self.name, self.log.display());
        let found = eventually(deadline, &what, || {
            let ended = self.has_ended();
            look(&self.log()).map(Ok).or_else(|| ended.then_some(Err(())))
        });
        found.unwrap_or_else(|()| panic!("`{}` ended at once:\n{}", self.name, self.end_of_log()))
    }

    /// Tells whether the process has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("a child can be asked for its status").is_some()
    }

    /// Returns what the process has written so far.
    pub fn log(&self) -> String {
        fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// Asks the process to end by `SIGTERM`, and returns how it did; panics when it has not by the deadline.
    #[track_caller]
    pub fn terminate(&mut self, deadline: Duration) -> ExitStatus {
        let pid = Pid::from_child(&self.child);
        rustix::process::kill_process(pid, Signal::TERM).expect("a child can be signalled before it is waited for");
        let what = format!("`{}` ends when it is asked to (log in {})", self.name, self.log.display());
        eventually(deadline, &what, || self.child.try_wait().expect("a child can be asked for its status"))
    }

    /// Kills the process and waits for its end: a crash, as far as anybody can tell.
    pub fn kill(&mut self) {
        // An error says that it has ended and was waited for.
        drop(self.child.kill());
        drop(self.lifeline.take());
        self.child.wait().expect("a child can be waited for");
    }

    fn end_of_log(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(QUOTED_LINES)..].join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}
