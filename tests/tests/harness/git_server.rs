//! The git server, with git as the client.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, TcpStream},
    path::Path,
    process::Command,
};

use karve_tests::git_server::GitServer;
use tempfile::TempDir;

/// Runs git without this machine's configuration; an error is what git said.
fn git(directory: &Path, arguments: &[&str]) -> Result<(), String> {
    let mut command = Command::new("git");
    command.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_TERMINAL_PROMPT", "0").current_dir(directory);
    let output = command.args(arguments).output().expect("git is installed");
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
}

#[track_caller]
fn check_clone(arguments: &[&str], url: &str, path: &str, content: &str) {
    let directory = TempDir::new().expect("there is room for a clone");
    git(directory.path(), &[&["clone", "--quiet"], arguments, &[url, "clone"]].concat()).unwrap();
    let file = fs::read_to_string(directory.path().join("clone").join(path)).expect("the clone has the file");
    assert_eq!(file, content);
}

#[test]
fn branches_and_tags_can_be_cloned() {
    let server = GitServer::start();
    let repository = server.create("app");
    repository.commit(&[("Dockerfile", "FROM scratch\n"), ("src/version", "1")]);
    repository.tag("v1");
    repository.branch("next");
    repository.commit(&[("src/version", "2")]);
    repository.branch("main");
    check_clone(&[], repository.url(), "Dockerfile", "FROM scratch\n");
    check_clone(&["--branch=next"], repository.url(), "src/version", "2");
    check_clone(&["--branch=v1", "--depth=1"], repository.url(), "src/version", "1");
    check_clone(&["-c", "protocol.version=0"], repository.url(), "src/version", "1");
}

#[test]
fn a_commit_can_be_fetched_by_its_id() {
    let server = GitServer::start();
    let repository = server.create("app");
    let first = repository.commit(&[("version", "1")]);
    repository.commit(&[("version", "2")]);
    let directory = TempDir::new().expect("there is room for a clone");
    git(directory.path(), &["init", "--quiet"]).unwrap();
    git(directory.path(), &["fetch", "--quiet", "--depth=1", repository.url(), &first]).unwrap();
    git(directory.path(), &["cat-file", "-e", &first]).unwrap();
}

#[test]
fn commits_are_the_same_every_time() {
    let commit = || GitServer::start().create("app").commit(&[("Dockerfile", "FROM scratch\n")]);
    assert_eq!(commit(), commit());
}

#[test]
fn a_request_in_chunks_is_understood() {
    let server = GitServer::start();
    let repository = server.create("app");
    let commit = repository.commit(&[("version", "1")]);
    let (host, path) = repository.url().trim_start_matches("http://").split_once('/').expect("a URL has a path");
    let mut stream = TcpStream::connect(host).expect("the server listens");
    // The request `ls-refs` of protocol version 2 in two chunks, as clients send what they have not measured.
    let head = format!("POST /{path}/git-upload-pack HTTP/1.1\r\nHost: {host}\r\nGit-Protocol: version=2\r\n");
    let fields = "Content-Type: application/x-git-upload-pack-request\r\nTransfer-Encoding: chunked\r\n\r\n";
    let body = "c\r\n0014command=\r\nc\r\nls-refs\n0000\r\n0\r\n\r\n";
    stream.write_all([&head, fields, body].concat().as_bytes()).expect("the server reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("the server answers");
    assert!(answer.contains(&format!("{commit} refs/heads/main")), "{answer}");
}

#[test]
fn a_server_with_a_password_admits_who_knows_it() {
    let credentials = ("someone".to_owned(), "secret".to_owned());
    let server = GitServer::start_on(Ipv4Addr::LOCALHOST.into(), Some(&credentials));
    let repository = server.create("app");
    repository.commit(&[("version", "1")]);
    let directory = TempDir::new().expect("there is room for a clone");
    git(directory.path(), &["clone", "--quiet", repository.url(), "clone"]).unwrap_err();
    let url = repository.url().replace("http://", "http://someone:secret@");
    check_clone(&[], &url, "version", "1");
}
