//! `karve check`: a Dockerfile goes in, what is wrong with it and an exit code come out; and what `karve build` says about
//! the same.

use std::{
    fs,
    io::Write,
    path::Path,
    process::{Command, Output, Stdio},
};

use karve_api::Reason;
use karve_tests::programs;
use serde_json::Value;
use tempfile::TempDir;

use crate::build::{Build, busybox};

/// Runs `karve check` in a directory, with the Dockerfile on standard input.
fn check_in(directory: &Path, dockerfile: &str, flags: &[&str]) -> Output {
    let mut command = Command::new(programs::karve());
    command.arg("check").args(flags).current_dir(directory).env_clear();
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("karve starts");
    let mut input = child.stdin.take().expect("standard input is a pipe");
    // A program that does not read ends before all is written.
    drop(input.write_all(dockerfile.as_bytes()));
    drop(input);
    child.wait_with_output().expect("karve ends")
}

fn check(dockerfile: &str, flags: &[&str]) -> (Option<i32>, String) {
    let directory = TempDir::new().expect("there is room for a directory");
    let flags: Vec<&str> = ["-f", "-"].iter().chain(flags).copied().collect();
    let output = check_in(directory.path(), dockerfile, &flags);
    (output.status.code(), String::from_utf8(output.stdout).expect("the output is text"))
}

#[test]
fn warnings_are_shown_with_their_lines_and_are_no_failure() {
    let (code, text) = check("FROM scratch AS Build\nENV name=1\nWORKDIR /$nam\n", &[]);
    let expected = "\
-:1:17: warning: StageNameCasing: Stage name 'Build' should be lowercase
 1 | FROM scratch AS Build
   |                 ^^^^^
-:3:10: warning: UndefinedVar: Usage of undefined variable '$nam' (did you mean $name?)
 3 | WORKDIR /$nam
   |          ^^^^
-: no errors, 2 warnings
";
    assert_eq!(text, expected);
    assert_eq!(code, Some(0));
}

#[test]
fn mistakes_fail_and_so_do_warnings_where_the_file_says_so() {
    let (code, text) = check("FROM scratch\nRUNN x\nCOPY --form=a b c\n", &[]);
    assert!(text.contains("-:2:1: error: unknown instruction: RUNN (did you mean RUN?)"), "{text}");
    assert!(text.contains("-:3:6: error: unknown flag: --form (did you mean from?)"), "{text}");
    assert_eq!(code, Some(1));
    let (code, text) = check("# check=error=true\nFROM scratch\nCMD x\n", &[]);
    assert!(text.contains("lint violation found for rules: JSONArgsRecommended"), "{text}");
    assert_eq!(code, Some(1));
    let (code, _) =
        check("# check=error=true\nFROM scratch\nCMD x\n", &["--build-arg=BUILDKIT_DOCKERFILE_CHECK=skip=all"]);
    assert_eq!(code, Some(0));
}

#[test]
fn a_wrong_command_line_has_its_own_exit_code() {
    for flags in [&["--format=xml"][..], &["--build-args=x"], &["--registry-certificate=x"]] {
        assert_eq!(check("FROM scratch\n", flags).0, Some(2), "{flags:?}");
    }
}

#[test]
fn variables_of_a_base_image_are_known_when_it_can_be_asked() {
    let (code, text) = check(&format!("FROM {}\nWORKDIR $PATH\nUSER $nobody\n", busybox()), &[]);
    assert!(text.contains("-:3:6: warning: UndefinedVar"), "{text}");
    assert!(!text.contains("$PATH'"), "{text}");
    assert_eq!(code, Some(0));
}

#[test]
fn what_cannot_be_asked_is_noted_and_not_guessed() {
    let dockerfile = "FROM 127.0.0.1:1/base:1 AS base\nWORKDIR /$home\nFROM scratch\nWORKDIR /$home\n";
    for flags in [&["--offline"][..], &["--insecure-registry=127.0.0.1:1"]] {
        let (code, text) = check(dockerfile, flags);
        assert!(text.contains("note: `127.0.0.1:1/base:1` is not known"), "{text}");
        assert!(text.contains("-:4:10: warning: UndefinedVar") && !text.contains("-:2:10"), "{text}");
        assert_eq!(code, Some(0));
    }
}

#[test]
fn a_dockerfile_of_the_context_is_found_with_its_ignore_file() {
    let directory = TempDir::new().expect("there is room for a directory");
    let context = directory.path().join("app");
    fs::create_dir(&context).expect("the directory is ours");
    fs::write(context.join("Dockerfile"), "FROM scratch\nCOPY notes /\n").expect("the directory is ours");
    fs::write(context.join(".dockerignore"), "notes\n").expect("the directory is ours");
    let output = check_in(directory.path(), "", &["app", "--format", "sarif"]);
    let document: Value = serde_json::from_slice(&output.stdout).expect("SARIF is JSON");
    let result = &document["runs"][0]["results"][0];
    assert_eq!(result["ruleId"], "CopyIgnoredFile");
    assert_eq!(result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"], "app/Dockerfile");
    let missing = check_in(directory.path(), "", &["."]);
    assert_eq!(missing.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&missing.stderr).contains("Dockerfile"));
}

#[test]
fn a_build_tells_each_warning_once_and_goes_on() {
    let ended =
        Build::new(&[("Dockerfile", "ARG BASE\nFROM scratch\nCOPY file /\nCMD x\n"), ("file", "")]).run().succeeded();
    assert_eq!(ended.stderr.matches("warning: Dockerfile:4:1: JSONArgsRecommended").count(), 1, "{}", ended.stderr);
}

#[test]
fn a_build_with_error_true_ends_before_anything_runs() {
    let dockerfile = "# check=error=true\nARG BASE\nFROM ${BASE}\nRUN echo it ran\nCMD x\n";
    let rules = "lint violation found for rules: InvalidDefaultArgInFrom, JSONArgsRecommended";
    let ended = Build::new(&[("Dockerfile", dockerfile)]).run().failed(Reason::DockerfileInvalid, &[rules]);
    assert!(!ended.stderr.contains("| it ran"), "{}", ended.stderr);
}
