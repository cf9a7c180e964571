//! Git contexts against a real git server over http and https on loopback.
#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod server;

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use axum::http::StatusCode;
use base64::{Engine, engine::general_purpose::STANDARD};
use karve::{
    context::{
        FetchRequest, Source,
        budget::{Budget, VolumeFull},
        fetch,
        git::checkout,
        git_source::{Checkout, GitCredentials, GitError, GitReference, GitSource},
    },
    secret::Secret,
};
use karve_api::Reason;
use server::{Behaviour, Server};
use tempfile::TempDir;

/// The time of the second commit, which `main` names.
const COMMIT_TIME: i64 = 1_700_000_000;

struct Fixture {
    temporary: TempDir,
    server: Server,
}

fn git(directory: &Path, arguments: &[&str]) -> String {
    let time = format!("{COMMIT_TIME} +0000");
    let output = Command::new("git")
        .args(["-c", "init.defaultBranch=main", "-c", "user.name=Ada", "-c", "user.email=ada@example.org"])
        .args(["-c", "protocol.file.allow=always"])
        .args(arguments)
        .current_dir(directory)
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_AUTHOR_DATE", &time)
        .env("GIT_COMMITTER_DATE", &time)
        .output()
        .unwrap();
    assert!(output.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn commit(repository: &Path, files: &[(&str, &str)]) -> String {
    for (path, content) in files {
        let path = repository.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    git(repository, &["add", "."]);
    git(repository, &["commit", "-q", "-m", "change"]);
    git(repository, &["rev-parse", "HEAD"])
}

fn create(root: &Path, name: &str) -> PathBuf {
    let repository = root.join(name);
    fs::create_dir(&repository).unwrap();
    git(&repository, &["init", "-q"]);
    repository
}

/// A server with the repository `shop`: two commits on `main`, a tag `v1` on the first, a branch `feature/x`.
fn fixture(behaviour: Behaviour) -> (Fixture, PathBuf) {
    let temporary = TempDir::new().unwrap();
    let root = temporary.path().join("repositories");
    fs::create_dir(&root).unwrap();
    let shop = create(&root, "shop");
    commit(&shop, &[("Dockerfile", "FROM scratch\n"), ("web/index.html", "one\n")]);
    git(&shop, &["tag", "-a", "v1", "-m", "one"]);
    git(&shop, &["branch", "feature/x"]);
    symlink("/etc/passwd", shop.join("out")).unwrap();
    commit(&shop, &[("web/index.html", "two\n")]);
    (Fixture { server: Server::start(root, behaviour), temporary }, shop)
}

impl Fixture {
    fn source(&self, reference: GitReference) -> GitSource {
        GitSource {
            url: format!("http://{}/shop", self.server.address),
            reference,
            credentials: None,
            ca_pem: None,
            keep_git_directory: false,
            submodules: true,
            checksum: None,
        }
    }

    fn destination(&self) -> PathBuf {
        self.temporary.path().join("out")
    }

    fn checkout(&self, source: &GitSource) -> Result<Checkout, GitError> {
        checkout(source, &self.destination(), &mut Budget::new(None))
    }
}

fn sorted_names(directory: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[track_caller]
fn check(behaviour: Behaviour, reference: impl Fn(&Path) -> GitReference, revision: &str, page: &str) {
    let (fixture, shop) = fixture(behaviour);
    let checkout = fixture.checkout(&fixture.source(reference(&shop))).unwrap();
    assert_eq!(checkout.revision, revision.replace("COMMIT", &checkout.commit));
    assert_eq!(checkout.commit_time, COMMIT_TIME);
    assert_eq!(fs::read_to_string(fixture.destination().join("web/index.html")).unwrap(), page);
    assert!(!fixture.destination().join(".git").exists());
}

#[test]
fn the_default_branch_is_checked_out() {
    check(Behaviour::default(), |_| GitReference::Default, "main@sha1:COMMIT", "two\n");
}

#[test]
fn a_branch_is_checked_out() {
    check(Behaviour::default(), |_| GitReference::Branch("feature/x".into()), "feature/x@sha1:COMMIT", "one\n");
}

#[test]
fn an_annotated_tag_is_checked_out_at_its_commit() {
    check(Behaviour::default(), |_| GitReference::Tag("v1".into()), "v1@sha1:COMMIT", "one\n");
}

#[test]
fn a_commit_is_checked_out() {
    check(Behaviour::default(), |shop| GitReference::Commit(git(shop, &["rev-parse", "main"])), "sha1:COMMIT", "two\n");
}

#[test]
fn a_commit_that_the_server_does_not_hand_out_alone_comes_with_its_branch() {
    let middle = |shop: &Path| {
        let middle = commit(shop, &[("web/index.html", "middle\n")]);
        commit(shop, &[("web/index.html", "last\n")]);
        GitReference::Commit(middle)
    };
    check(Behaviour { old_protocol: true, ..Behaviour::default() }, middle, "sha1:COMMIT", "middle\n");
}

#[test]
fn links_are_checked_out_as_links() {
    let (fixture, _shop) = fixture(Behaviour::default());
    fixture.checkout(&fixture.source(GitReference::Default)).unwrap();
    assert_eq!(fs::read_link(fixture.destination().join("out")).unwrap(), Path::new("/etc/passwd"));
}

#[test]
fn the_git_directory_stays_when_asked_for() {
    let (fixture, _shop) = fixture(Behaviour::default());
    let source = GitSource { keep_git_directory: true, ..fixture.source(GitReference::Default) };
    let checkout = fixture.checkout(&source).unwrap();
    let git = |arguments: &[&str]| git(&fixture.destination(), arguments);
    assert_eq!(git(&["rev-parse", "HEAD"]), checkout.commit);
    assert_eq!(git(&["rev-list", "--count", "HEAD"]), "1", "history was fetched");
    assert_eq!(git(&["status", "--porcelain"]), "");
}

fn signed_in(credentials: GitCredentials, authorization: &str) -> Result<Checkout, GitError> {
    let behaviour = Behaviour { authorization: Some(authorization.to_owned()), ..Behaviour::default() };
    let (fixture, _shop) = fixture(behaviour);
    let source = GitSource { credentials: Some(credentials), ..fixture.source(GitReference::Default) };
    fixture.checkout(&source)
}

fn basic(password: &str) -> GitCredentials {
    GitCredentials::Basic { username: "ada".to_owned(), password: Secret::new(password.to_owned()) }
}

#[test]
fn credentials_open_a_private_repository() {
    let authorization = format!("Basic {}", STANDARD.encode("ada:lovelace"));
    signed_in(basic("lovelace"), &authorization).unwrap();
    signed_in(GitCredentials::Bearer(Secret::new("token".to_owned())), "Bearer token").unwrap();
}

/// Makes a certificate authority (`ca.crt`) and a certificate for 127.0.0.1 with it.
fn certificates(directory: &Path) {
    fs::write(directory.join("extensions"), "subjectAltName=IP:127.0.0.1\n").unwrap();
    for arguments in [
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout ca.key -out ca.crt -days 2 -subj /CN=ca",
        "req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout leaf.key -out leaf.csr -subj /CN=leaf",
        "x509 -req -in leaf.csr -CA ca.crt -CAkey ca.key -CAcreateserial -out leaf.crt -days 2 -extfile extensions",
    ] {
        let arguments = arguments.split(' ');
        let output = Command::new("openssl").args(arguments).current_dir(directory).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn https_needs_a_certificate_that_is_trusted() {
    let directory = TempDir::new().unwrap();
    certificates(directory.path());
    let behaviour = Behaviour {
        authorization: Some(format!("Basic {}", STANDARD.encode("ada:lovelace"))),
        certificates: Some(directory.path().to_owned()),
        ..Behaviour::default()
    };
    let (fixture, _shop) = fixture(behaviour);
    let trusting = GitSource {
        url: format!("https://{}/shop", fixture.server.address),
        credentials: Some(basic("lovelace")),
        ca_pem: Some(fs::read_to_string(directory.path().join("ca.crt")).unwrap()),
        ..fixture.source(GitReference::Default)
    };
    let error = fixture.checkout(&GitSource { ca_pem: None, ..trusting.clone() }).unwrap_err();
    assert!(matches!(error, GitError::Untrusted { .. }), "{error:?}");
    let error = fixture.checkout(&GitSource { ca_pem: Some("none".into()), ..trusting.clone() }).unwrap_err();
    assert_eq!(error.to_string(), "`ca.crt` is not a PEM bundle of certificates");
    let error = fixture.checkout(&GitSource { credentials: Some(basic("other")), ..trusting.clone() }).unwrap_err();
    assert!(matches!(error, GitError::Unauthorized { signed_in: true, .. }), "{error:?}");
    assert_eq!(fixture.checkout(&trusting).unwrap().commit_time, COMMIT_TIME);
}

#[test]
fn wrong_credentials_are_refused_without_showing_them() {
    let error = signed_in(basic("wrong-secret"), "Basic other").unwrap_err();
    assert!(matches!(error, GitError::Unauthorized { signed_in: true, .. }), "{error:?}");
    assert!(error.to_string().contains("refused the credentials"), "{error}");
    assert!(!format!("{error:?} {error}").contains("wrong-secret"));
}

#[test]
fn credentials_in_the_url_are_used_and_not_shown() {
    let behaviour =
        Behaviour { authorization: Some(format!("Basic {}", STANDARD.encode("ada:lovelace"))), ..Behaviour::default() };
    let (fixture, _shop) = fixture(behaviour);
    let url = format!("http://ada:lovelace@{}/shop", fixture.server.address);
    fixture.checkout(&GitSource { url: url.clone(), ..fixture.source(GitReference::Default) }).unwrap();
    let missing = GitSource { url: format!("{url}/none"), ..fixture.source(GitReference::Default) };
    fs::remove_dir_all(fixture.destination()).unwrap();
    let error = fixture.checkout(&missing).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("there is no git repository at `http://{}/shop/none`", fixture.server.address)
    );
}

#[test]
fn a_private_repository_without_credentials_says_so() {
    let (fixture, _shop) = fixture(Behaviour { authorization: Some("Basic x".to_owned()), ..Behaviour::default() });
    let error = fixture.checkout(&fixture.source(GitReference::Default)).unwrap_err();
    assert!(matches!(error, GitError::Unauthorized { signed_in: false, .. }), "{error:?}");
}

#[test]
fn what_is_missing_is_named() {
    let (fixture, _shop) = fixture(Behaviour::default());
    let url = format!("http://{}/shop", fixture.server.address);
    let zeros = "0123456789".repeat(4);
    let cases = [
        (GitReference::Branch("none".into()), format!("`{url}` has no branch `none`")),
        (GitReference::Tag("v2".into()), format!("`{url}` has no tag `v2`")),
        (GitReference::Commit(zeros.clone()), format!("`{url}` has no commit `{zeros}`")),
        (GitReference::Commit("abc".into()), "`abc` is not a full commit: give all 40 hexadecimal digits".to_owned()),
        (GitReference::Branch("a b*".into()), "`refs/heads/a b*` is not a name that git allows".to_owned()),
    ];
    for (number, (reference, expected)) in cases.into_iter().enumerate() {
        let destination = fixture.temporary.path().join(number.to_string());
        let source = fixture.source(reference);
        let error = checkout(&source, &destination, &mut Budget::new(None)).unwrap_err();
        assert_eq!(error.to_string(), expected, "{error:?}");
        assert!(!error.is_retryable(), "{error:?}");
    }
}

#[test]
fn other_protocols_are_refused() {
    let (fixture, _shop) = fixture(Behaviour::default());
    for (url, shown) in [
        ("file:///etc", "file:///etc"),
        ("/etc", "/etc"),
        ("ssh://git:secret@host/shop", "ssh://host/shop"),
        ("git@host:shop", "git@host:shop"),
    ] {
        let source = GitSource { url: url.to_owned(), ..fixture.source(GitReference::Default) };
        let error = fixture.checkout(&source).unwrap_err();
        assert_eq!(error.to_string(), format!("`{shown}` is not a supported git URL: only https:// and http:// are"));
    }
}

#[test]
fn a_server_in_trouble_may_be_asked_again() {
    let behaviour = Behaviour { status: Some(StatusCode::SERVICE_UNAVAILABLE), ..Behaviour::default() };
    let (fixture, _shop) = fixture(behaviour);
    let error = fixture.checkout(&fixture.source(GitReference::Default)).unwrap_err();
    assert!(error.is_retryable(), "{error:?}");
    let nobody = GitSource { url: "http://127.0.0.1:1/shop".to_owned(), ..fixture.source(GitReference::Default) };
    let error = fixture.checkout(&nobody).unwrap_err();
    assert!(error.is_retryable(), "{error:?}");
    assert!(error.to_string().contains("refused"), "{error}");
}

#[test]
fn a_tree_larger_than_the_volume_is_refused_before_it_is_written() {
    let (fixture, shop) = fixture(Behaviour::default());
    // Compresses well: the pack fits, the tree does not.
    commit(&shop, &[("large", &"x".repeat(10_000_000))]);
    let source = fixture.source(GitReference::Default);
    let error = checkout(&source, &fixture.destination(), &mut Budget::new(Some(5_000_000))).unwrap_err();
    let full = VolumeFull { limit_bytes: 5_000_000 };
    assert_eq!(error.to_string(), full.to_string());
    assert!(!fixture.destination().join("large").exists());
}

#[test]
fn a_pack_larger_than_the_volume_is_refused() {
    let (fixture, shop) = fixture(Behaviour::default());
    // A linear congruential generator: nothing that compresses.
    let noise: String = (0..8_000_000_u64)
        .scan(1_u64, |state, _| {
            *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            Some(char::from(b' ' + u8::try_from((*state >> 33) % 94).unwrap()))
        })
        .collect();
    commit(&shop, &[("noise", &noise)]);
    let source = fixture.source(GitReference::Default);
    let error = checkout(&source, &fixture.destination(), &mut Budget::new(Some(1_000_000))).unwrap_err();
    assert!(matches!(error, GitError::VolumeFull(_)), "{error:?}");
}

#[test]
fn submodules_are_checked_out_with_relative_urls_resolved() {
    let (fixture, shop) = fixture(Behaviour::default());
    let library = create(shop.parent().unwrap(), "library");
    commit(&library, &[("code", "library\n")]);
    git(&shop, &["submodule", "add", "-q", "../library", "vendor/library"]);
    commit(&shop, &[]);
    let checkout = fixture.checkout(&fixture.source(GitReference::Default)).unwrap();
    assert_eq!(checkout.revision, format!("main@sha1:{}", checkout.commit));
    assert_eq!(sorted_names(&fixture.destination().join("vendor/library")), ["code"]);
}

#[test]
fn a_submodule_that_cannot_be_fetched_is_named() {
    let (fixture, shop) = fixture(Behaviour::default());
    let library = create(shop.parent().unwrap(), "library");
    commit(&library, &[("code", "library\n")]);
    git(&shop, &["submodule", "add", "-q", "../library", "library"]);
    fs::write(shop.join(".gitmodules"), "[submodule \"library\"]\n\tpath = library\n\turl = git@host:library\n")
        .unwrap();
    commit(&shop, &[]);
    let error = fixture.checkout(&fixture.source(GitReference::Default)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "submodule `library`: `git@host:library` is not a supported git URL: only https:// and http:// are"
    );
}

#[test]
fn a_file_in_git_lfs_is_refused() {
    let (fixture, shop) = fixture(Behaviour::default());
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12345\n";
    commit(&shop, &[(".gitattributes", "*.bin filter=lfs -text\n"), ("model.bin", pointer)]);
    let error = fixture.checkout(&fixture.source(GitReference::Default)).unwrap_err();
    assert!(matches!(&error, GitError::Unsupported { path, .. } if path == "model.bin"), "{error:?}");
}

#[test]
fn a_fetch_takes_the_sub_path_of_the_repository() {
    let (fixture, _shop) = fixture(Behaviour::default());
    let output = fixture.temporary.path().join("output");
    fs::create_dir(&output).unwrap();
    let mut request = FetchRequest {
        source: Source::Git(fixture.source(GitReference::Default)),
        sub_path: Some("web".to_owned()),
        output: output.clone(),
        limit_bytes: Some(10_000_000),
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let fetch = |request: &FetchRequest| runtime.block_on(fetch(request.clone()));
    let info = fetch(&request).unwrap();
    assert_eq!(
        (sorted_names(&output), info.commit_time),
        (vec!["source.json".into(), "tree".into()], Some(COMMIT_TIME))
    );
    assert_eq!(sorted_names(&output.join("tree")), ["index.html"]);
    let written: karve_api::SourceInfo =
        serde_json::from_str(&fs::read_to_string(output.join("source.json")).unwrap()).unwrap();
    assert_eq!(written, info);

    request.sub_path = Some("none".to_owned());
    assert_eq!(fetch(&request).unwrap_err().reason(), Reason::ContextNotFound);
    request.source = Source::Git(fixture.source(GitReference::Branch("none".to_owned())));
    assert_eq!(fetch(&request).unwrap_err().reason(), Reason::ContextNotFound);
}
