//! Server processes: how they end.

use std::{os::unix::process::ExitStatusExt as _, time::Duration};

use karve_tests::process::Process;
use tempfile::TempDir;

const DEADLINE: Duration = Duration::from_secs(10);

/// Starts a shell script that says `ready` when its traps are set, and waits for that.
fn start(directory: &TempDir, script: &str) -> Process {
    let mut process = Process::start(&directory.path().join("log"), "/bin/sh", ["-c", script]);
    process.ready(DEADLINE, |log| log.contains("ready").then_some(()));
    process
}

#[test]
fn a_process_that_is_asked_to_end_tells_how_it_did() {
    let directory = TempDir::new().expect("there is room for a log");
    let script = "trap 'echo bye; exit 3' TERM; echo ready; while :; do sleep 0.01; done";
    let mut process = start(&directory, script);
    assert!(!process.has_ended());
    assert_eq!(process.terminate(DEADLINE).code(), Some(3));
    assert!(process.has_ended());
    assert_eq!(process.log(), "ready\nbye\n");
}

#[test]
fn a_process_without_a_trap_ends_by_the_signal() {
    let directory = TempDir::new().expect("there is room for a log");
    let mut process = start(&directory, "echo ready; exec sleep 1000");
    assert_eq!(process.terminate(DEADLINE).signal(), Some(15));
}

#[test]
fn a_killed_process_has_ended() {
    let directory = TempDir::new().expect("there is room for a log");
    let mut process = start(&directory, "echo ready; exec sleep 1000");
    process.kill();
    assert!(process.has_ended());
}
