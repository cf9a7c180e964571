//! A build that is told to end does so at once: its steps die, its files go, and it reports nothing.

use std::{
    fs,
    io::{BufRead, BufReader},
    process::Stdio,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use super::fixture::Fixture;

/// How long the processes of a step may take to be gone.
const GONE_WITHIN: Duration = Duration::from_secs(10);

#[track_caller]
fn check(signal: Signal, code: i32) {
    // A duration that no other test sleeps for.
    let marker = format!("{}.{code}", std::process::id());
    let Some(fixture) = Fixture::new(&format!("RUN echo ready; sleep {marker}")) else { return };
    let mut child = fixture.command(&[]).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    assert!(log.any(|line| line.ends_with("| ready")));
    kill_process(Pid::from_child(&child), signal).unwrap();
    let rest: Vec<String> = log.collect();
    assert_eq!(child.wait().unwrap().code(), Some(code), "{rest:?}");
    assert!(fixture.is_clean() && !fixture.path("report").exists());
    let deadline = Instant::now() + GONE_WITHIN;
    while is_running(&marker) {
        assert!(Instant::now() < deadline, "the step outlived its build");
    }
}

/// Whether a process has this argument.
fn is_running(argument: &str) -> bool {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let mut command_lines = processes.filter_map(|process| fs::read(process.path().join("cmdline")).ok());
    command_lines.any(|line| line.split(|byte| *byte == 0).any(|part| part == argument.as_bytes()))
}

#[test]
fn a_build_ends_at_sigterm() {
    check(Signal::TERM, 143);
}

#[test]
fn a_build_ends_at_ctrl_c() {
    check(Signal::INT, 130);
}
