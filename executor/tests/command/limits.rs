//! Builds that need more disk than they may have end by themselves, name the field to raise, and leave nothing.

use std::process::Command;

use karve_api::{Outcome, Reason};

use super::fixture::{Fixture, end};

/// How a build is told that the chart's value is too small.
const FIELD: &str = "`executor.volumeSizeGiB`";

#[track_caller]
fn check(fixture: &Fixture, mut command: Command, message: &str) {
    let (code, log) = end(&command.output().unwrap());
    assert_eq!(code, Some(1), "{log}");
    let report = fixture.report();
    assert_eq!((report.result, report.reason), (Outcome::Failed, Some(Reason::VolumeFull)), "{log}");
    let found = report.message.unwrap();
    assert!(found.contains(message) && found.contains(FIELD), "{found}");
    assert!(fixture.is_clean(), "{log}");
}

#[test]
fn a_step_that_writes_more_than_the_limit_is_killed() {
    let Some(fixture) = Fixture::new("RUN dd if=/dev/zero of=/large bs=1M count=64 && sleep 3600") else { return };
    let command = fixture.command(&["--work-limit-bytes=33554432"]);
    check(&fixture, command, "needs more than 33554432 bytes in its work directory");
}

#[test]
fn a_copy_that_is_larger_than_the_limit_ends_the_build() {
    let Some(fixture) = Fixture::new("COPY noise /\nRUN sleep 3600") else { return };
    fixture.add_noise("noise", 8 << 20);
    let command = fixture.command(&["--work-limit-bytes=4194304"]);
    check(&fixture, command, "needs more than 4194304 bytes in its work directory");
}

#[test]
fn a_copy_that_fills_the_disk_names_its_line() {
    let Some(fixture) = Fixture::new("COPY noise /") else { return };
    fixture.add_noise("noise", 8 << 20);
    let command = fixture.command_on_small_disk("4m");
    check(&fixture, command, "Dockerfile:3: COPY noise /");
}

#[test]
fn a_step_that_fills_the_disk_is_no_mistake_of_the_step() {
    let Some(fixture) = Fixture::new("RUN dd if=/dev/urandom of=/large bs=1M count=64") else { return };
    let command = fixture.command_on_small_disk("16m");
    check(&fixture, command, "Dockerfile:3: RUN dd");
}

#[test]
fn a_layer_that_does_not_fit_beside_its_files_fills_the_disk() {
    let Some(fixture) = Fixture::new("RUN dd if=/dev/urandom of=/large bs=1M count=9") else { return };
    let command = fixture.command_on_small_disk("16m");
    check(&fixture, command, "Dockerfile:3: RUN dd");
}
