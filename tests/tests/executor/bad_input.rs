//! What is wrong with the input is said with place and reason, and nothing is written.

use karve_api::Reason;

use crate::build::{Build, Ended};

#[track_caller]
fn check(dockerfile: &str, flags: &[&str], reason: Reason, words: &[&str]) -> Ended {
    let build = Build::new(&[("Dockerfile", &format!("ARG BASE\n{dockerfile}")), ("file", "")]);
    let ended = flags.iter().fold(build, |build, flag| build.flag(flag)).run().failed(reason, words);
    assert!(!ended.layout().join("index.json").exists(), "a failed build left an image");
    ended
}

#[test]
fn a_syntax_error_has_line_and_column() {
    check("FROM scratch\nCOPPY file /\n", &[], Reason::DockerfileInvalid, &["Dockerfile:3:1", "COPPY"]);
    check("FROM scratch\nCOPY --chwon=1 file /\n", &[], Reason::DockerfileInvalid, &["Dockerfile:3:6", "--chwon"]);
    check("FROM scratch\nENV \"A=1\n", &[], Reason::DockerfileInvalid, &["Dockerfile:3:"]);
    check("RUN true\n", &[], Reason::DockerfileInvalid, &["Dockerfile:2:1", "FROM"]);
}

#[test]
fn what_is_not_supported_is_an_error_with_its_place() {
    check("FROM scratch\nADD ftp://x.example/f /\n", &[], Reason::Unsupported, &["Dockerfile:3:"]);
    check("FROM ${BASE}\nRUN --device=gpu true\n", &[], Reason::Unsupported, &["Dockerfile:3:"]);
}

#[test]
fn a_failing_run_step_has_its_exit_code_and_its_last_lines() {
    let dockerfile = "FROM ${BASE} AS test\nRUN for i in 1 2 3; do echo line $i; done; echo broken >&2; exit 7\n";
    let ended = check(dockerfile, &[], Reason::RunFailed, &["Dockerfile:3", "exit code: 7"]);
    assert_eq!(ended.report.stage.as_deref(), Some("test"));
    let tail = ended.report.log_tail.unwrap_or_default();
    assert!(["line 1", "line 3", "broken"].iter().all(|line| tail.contains(line)), "{tail}");
    assert!(ended.stderr.contains("broken"));
}

#[test]
fn a_command_that_is_not_there_is_named() {
    check("FROM ${BASE}\nRUN [\"/no/such/tool\"]\n", &[], Reason::RunFailed, &["Dockerfile:3", "/no/such/tool"]);
}

#[test]
fn an_unknown_stage_is_named() {
    check("FROM scratch AS one\n", &["--target=two"], Reason::StageNotFound, &["two"]);
    check("FROM scratch\nCOPY --from=7 /a /b\n", &[], Reason::StageNotFound, &["Dockerfile:3:", "7"]);
}

#[test]
fn a_missing_source_is_named() {
    check("FROM scratch\nCOPY file missing /\n", &[], Reason::FileNotFound, &["Dockerfile:3", "missing"]);
    let from = "FROM scratch AS a\nCOPY file /\nFROM scratch\nCOPY --from=a /missing /\n";
    check(from, &[], Reason::FileNotFound, &["Dockerfile:5", "missing"]);
    check("FROM scratch\n", &["--dockerfile=Missing"], Reason::FileNotFound, &["Missing"]);
}

#[test]
fn a_missing_secret_is_named_before_its_step_runs() {
    let dockerfile = "FROM ${BASE}\nRUN --mount=type=secret,id=npmrc,required=true echo ran\n";
    let ended = check(dockerfile, &[], Reason::SecretNotFound, &["Dockerfile:3", "npmrc"]);
    assert!(!ended.stderr.contains("| ran"), "{}", ended.stderr);
}

#[test]
fn an_unknown_user_is_named() {
    check(
        "FROM ${BASE}\nUSER nobody-here\nRUN true\n",
        &[],
        Reason::DockerfileInvalid,
        &["Dockerfile:4", "nobody-here"],
    );
}

#[test]
fn a_step_that_never_ends_is_ended() {
    check("FROM ${BASE}\nRUN sleep 1000\n", &["--timeout=2s"], Reason::Timeout, &["2s"]);
}

#[test]
fn a_wrong_flag_is_a_mistake_of_usage() {
    let ended = Build::new(&[("Dockerfile", "FROM scratch\n")]).flag("--no-such-flag").run();
    assert_eq!(ended.status.code(), Some(2));
    assert!(ended.stderr.contains("--no-such-flag"), "{}", ended.stderr);
}
