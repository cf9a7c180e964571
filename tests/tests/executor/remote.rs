//! ADD of URLs and of git repositories: from servers of the test, over loopback.

use std::{
    fs,
    path::Path,
    process::Command,
    sync::{Arc, Condvar, Mutex},
    time::Duration,
};

use karve_api::Reason;
use karve_tests::{
    git_server::GitServer,
    http::basic_authorization,
    layout::hex,
    web_server::{Answer, WebServer},
};
use sha2::{Digest as _, Sha256, Sha512};
use tempfile::TempDir;

use crate::build::{Build, Ended};

const DATE: &str = "Wed, 21 Oct 2015 07:28:00 GMT";
const TOKEN: &str = "token-that-nobody-sees";

/// A server with one file at every path; its content is the path.
fn files() -> WebServer {
    WebServer::start(|request| Answer::file(request.target.as_bytes()).field("Last-Modified", DATE))
}

fn dockerfile(text: &str) -> Build {
    Build::new(&[("Dockerfile", &format!("FROM scratch\n{text}")), ("local", "here")])
}

/// Returns a gzipped tar with one file.
fn archive(name: &str, content: &str) -> Vec<u8> {
    let directory = TempDir::new().unwrap();
    fs::write(directory.path().join(name), content).unwrap();
    let mut tar = Command::new("tar");
    tar.arg("--create").arg("--gzip").arg("--directory").arg(directory.path()).arg(name);
    tar.output().unwrap().stdout
}

#[test]
fn k15_a_url_is_a_file_of_root_with_the_servers_time() {
    let server = files();
    let [plain, named] = ["/dir/tool.bin?v=1", "/x"].map(|path| server.url(path));
    let text = format!("WORKDIR /w\nADD {plain} into/\nADD --chmod=755 --chown=3:4 {named} /bin/renamed\n");
    let image = dockerfile(&text).flag("--timestamp=86400").run().succeeded().image();
    let file = image.entry("w/into/tool.bin");
    assert_eq!((file.mode.as_str(), file.owner.as_str()), ("-rw-------", "0/0"));
    assert_eq!(file.time, "2015-10-21 07:28:00");
    assert_eq!(image.text("w/into/tool.bin"), "/dir/tool.bin?v=1");
    let directory = image.entry("w/into");
    assert_eq!((directory.mode.as_str(), directory.time.as_str()), ("drwxr-xr-x", "1970-01-02 00:00:00"));
    let file = image.entry("bin/renamed");
    assert_eq!((file.mode.as_str(), file.owner.as_str()), ("-rwxr-xr-x", "3/4"));
    let history = image.config["history"].to_string();
    assert!(history.contains(&format!("ADD {plain} into/ # buildkit")), "{history}");
}

#[test]
fn k15_sources_mix_and_names_have_a_fallback() {
    let server = WebServer::start(|request| Answer::file(request.target.as_bytes()));
    let text = format!("ADD local {} {} /d/\n", server.url("/a%20b.txt"), server.url("/"));
    let image = dockerfile(&text).run().succeeded().image();
    assert_eq!(image.paths(0), ["d", "d/__unnamed__", "d/a b.txt", "d/local"]);
    // What a server does not date is from the beginning of time, as in BuildKit.
    assert_eq!(image.entry("d/a b.txt").time, "1970-01-01 00:00:00");
}

#[test]
fn k15_an_archive_from_a_url_is_unpacked_only_when_asked_for() {
    let server = WebServer::start(|_| Answer::file(archive("inside", "unpacked")));
    let url = server.url("/a.tar.gz");
    let text = format!("ADD {url} /as-is/\nADD --unpack=true {url} /unpacked/\nADD --unpack=false {url} /neither/\n");
    let image = dockerfile(&text).run().succeeded().image();
    assert_eq!(image.paths(0), ["as-is", "as-is/a.tar.gz"]);
    assert_eq!(image.paths(1), ["unpacked", "unpacked/inside"]);
    assert_eq!(image.paths(2), ["neither", "neither/a.tar.gz"]);
    assert_eq!(image.text("unpacked/inside"), "unpacked");
    assert_eq!(server.requests().len(), 1, "one file is fetched once");
}

#[test]
fn k15_a_checksum_is_verified_in_each_algorithm() {
    let server = files();
    let (sha256, sha512) = (hex(&Sha256::digest(b"/a")), hex(&Sha512::digest(b"/a")));
    let url = server.url("/a");
    let text = format!("ADD --checksum=sha256:{sha256} {url} /1\nADD --checksum=sha512:{sha512} {url} /2\n");
    assert_eq!(dockerfile(&text).run().succeeded().image().text("2"), "/a");
    let wrong = "0".repeat(64);
    let text = format!("\n\nADD --checksum=sha256:{wrong} {url} /1\n");
    let words = ["Dockerfile:4: ADD", &url, &sha256, &wrong];
    dockerfile(&text).run().failed(Reason::ContextInvalid, &words);
}

#[test]
fn k15_a_checksum_of_a_local_file_is_refused() {
    let text = format!("ADD --checksum=sha256:{} local /\n", "0".repeat(64));
    dockerfile(&text).run().failed(Reason::DockerfileInvalid, &["checksum requires HTTP(S) or Git sources"]);
}

#[test]
fn k15_a_file_that_is_not_there_is_named_without_the_password() {
    let server = WebServer::start(|_| Answer::status(404));
    let text = format!("ADD http://ada:open-sesame@{}/gone /\n", server.host());
    let url = format!("`{}` answered 404", server.url("/gone"));
    let ended = dockerfile(&text).run().failed(Reason::FileNotFound, &["Dockerfile:2: ADD", &url]);
    assert_eq!(server.requests().len(), 1, "an answer that stays is not asked for again");
    let authorization = basic_authorization(&("ada".into(), "open-sesame".into()));
    assert_eq!(server.requests()[0].field("authorization"), Some(authorization.as_str()));
    let message = ended.report.message.unwrap();
    assert!(!message.contains("open-sesame") && !ended.stderr.contains("open-sesame"), "{}", ended.stderr);
}

#[test]
fn k15_credentials_go_to_their_host_and_nowhere_else() {
    let elsewhere = files();
    // The same machine by another name: another host as far as credentials are concerned.
    let target = elsewhere.url("/moved").replace("127.0.0.1", "localhost");
    let server = WebServer::start(move |request| match request.field("authorization") {
        Some(value) if value == format!("Bearer {TOKEN}") && request.target == "/redirect" => {
            Answer::status(302).field("Location", &target)
        }
        Some(value) if value == format!("Bearer {TOKEN}") => Answer::file("private"),
        _ => Answer::status(401),
    });
    let secret = TempDir::new().unwrap();
    let file = secret.path().join("token");
    fs::write(&file, format!("{TOKEN}\n")).unwrap();
    let text = format!("ADD {} /a\nADD {} /b\n", server.url("/a"), server.url("/redirect"));
    let ended = dockerfile(&text)
        .flag(&format!("--secret=id=HTTP_AUTH_TOKEN_127.0.0.1,src={}", file.display()))
        .flag("--secret=id=HTTP_AUTH_HEADER_127.0.0.1,env=HEADER")
        .environment("HEADER", "the token wins")
        .run()
        .succeeded();
    let image = ended.image();
    assert_eq!((image.text("a").as_str(), image.text("b").as_str()), ("private", "/moved"));
    let seen: Vec<_> = elsewhere.requests().iter().map(|request| request.field("authorization").is_some()).collect();
    assert_eq!(seen, [false]);
    assert!(!image.contains(TOKEN) && !ended.stderr.contains(TOKEN) && !ended.stdout.contains(TOKEN));
    let denied = dockerfile(&format!("ADD {} /a\n", server.url("/a"))).run();
    denied.failed(Reason::Unauthorized, &["answered 401", "--secret id=HTTP_AUTH_TOKEN_127.0.0.1"]);
}

#[test]
fn k15_a_whole_header_may_be_given() {
    let server = WebServer::start(|request| match request.field("authorization") {
        Some("Custom abc") => Answer::file("private"),
        _ => Answer::status(403),
    });
    let build = dockerfile(&format!("ADD {} /a\n", server.url("/a")));
    let build = build.flag("--secret=id=HTTP_AUTH_HEADER_127.0.0.1,env=HEADER").environment("HEADER", "Custom abc");
    assert_eq!(build.run().succeeded().image().text("a"), "private");
}

#[test]
fn k15_a_server_that_stumbles_is_asked_again() {
    let stumbles = Mutex::new(vec![503, 429]);
    let server = WebServer::start(move |_| match stumbles.lock().unwrap().pop() {
        Some(status) => Answer::status(status).field("Retry-After", "0"),
        None => Answer::file("at last"),
    });
    let text = format!("ADD {} /a\n", server.url("/a"));
    assert_eq!(dockerfile(&text).run().succeeded().image().text("a"), "at last");
    assert_eq!(server.requests().len(), 3);
}

#[test]
fn k15_a_server_that_stays_down_is_the_networks_fault() {
    let server = WebServer::start(|_| Answer::status(503).field("Retry-After", "0"));
    let text = format!("ADD {} /a\n", server.url("/a"));
    let words = ["Dockerfile:2", "it answered 503, 5 times"];
    dockerfile(&text).run().failed(Reason::ContextFetchFailed, &words);
}

#[test]
fn k15_what_a_server_compresses_on_its_own_account_is_refused() {
    let server = WebServer::start(|_| Answer::file("x").field("Content-Encoding", "br"));
    let text = format!("ADD {} /a\n", server.url("/a"));
    dockerfile(&text).run().failed(Reason::Unsupported, &["Dockerfile:2", "content encoding `br`"]);
    assert_eq!(server.requests()[0].field("accept-encoding"), Some("identity"));
}

#[test]
fn k15_all_files_are_fetched_at_the_start_side_by_side() {
    // Each answer waits until both were asked for: one after the other they would never come.
    let both = Arc::new((Mutex::new(0), Condvar::new()));
    let server = WebServer::start(move |_| {
        let (count, changed) = &*both;
        let mut asked = count.lock().unwrap();
        *asked += 1;
        changed.notify_all();
        let waited = changed.wait_timeout_while(asked, Duration::from_secs(30), |asked| *asked < 2).unwrap();
        if waited.1.timed_out() { Answer::status(500) } else { Answer::file("met") }
    });
    let text = format!("ADD {} /a\nADD {} /b\n", server.url("/a"), server.url("/b"));
    assert_eq!(dockerfile(&text).run().succeeded().image().text("b"), "met");
}

/// A repository with two commits on `main`, a tag `v1` on the first and a branch `feature/x` from it.
fn shop(server: &GitServer) -> [String; 2] {
    let repository = server.create("shop");
    let tree = TempDir::new().unwrap();
    let write = |path: &str, content: &str| {
        let path = tree.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    };
    write("README", "one");
    write(".dockerignore", "README\n");
    write("web/index.html", "<html>");
    write("web/run.sh", "#!/bin/sh\n");
    let executable: fs::Permissions = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    fs::set_permissions(tree.path().join("web/run.sh"), executable).unwrap();
    std::os::unix::fs::symlink("index.html", tree.path().join("web/link")).unwrap();
    let first = repository.commit_tree(tree.path());
    repository.tag("v1");
    repository.branch("feature/x");
    write("README", "feature");
    repository.commit_tree(tree.path());
    repository.branch("main");
    write("README", "two");
    [first, repository.commit_tree(tree.path())]
}

#[test]
fn k15_a_repository_is_a_tree_without_its_git_directory() {
    let server = GitServer::start();
    shop(&server);
    let text = format!("ADD {} /src\nADD --chown=1:2 {}#main:web /web/\n", server.url("shop"), server.url("shop"));
    let image = dockerfile(&text).flag("--timestamp=86400").run().succeeded().image();
    let src = ["src", "src/.dockerignore", "src/README", "src/web"];
    let web = ["src/web/index.html", "src/web/link", "src/web/run.sh"];
    assert_eq!(image.paths(0), [&src[..], &web[..]].concat());
    assert_eq!(image.paths(1), ["web", "web/index.html", "web/link", "web/run.sh"]);
    assert_eq!(image.text("src/README"), "two");
    let entry = image.entry("src/web/index.html");
    assert_eq!((entry.mode.as_str(), entry.owner.as_str()), ("-rw-r--r--", "0/0"));
    assert_eq!(entry.time, "1970-01-02 00:00:00");
    assert_eq!(image.entry("src/web/run.sh").mode, "-rwxr-xr-x");
    assert_eq!(image.entry("src/web/link").target.as_deref(), Some("index.html"));
    assert_eq!(image.entry("web/index.html").owner, "1/2");
}

#[test]
fn k15_references_are_branches_tags_commits_and_full_names() {
    let server = GitServer::start();
    let [first, _] = shop(&server);
    let url = server.url("shop");
    for (suffix, expected) in [
        ("#v1", "one"),
        ("#feature/x", "feature"),
        ("?branch=feature/x", "feature"),
        ("?tag=v1", "one"),
        ("#refs/heads/main", "two"),
        (format!("#{first}").as_str(), "one"),
        (format!("#v1:?checksum={first}").split('?').next().unwrap(), "one"),
        (format!("?ref=v1&checksum={}", &first[..7]).as_str(), "one"),
        (format!("?checksum={first}&fetch-by-commit").as_str(), "one"),
    ] {
        let image = dockerfile(&format!("ADD {url}{suffix} /\n")).run().succeeded().image();
        assert_eq!(image.text("README"), expected, "{suffix}");
    }
    let missing = dockerfile(&format!("ADD {url}#nope /\n")).run();
    missing.failed(Reason::ContextNotFound, &["Dockerfile:2", "branch or tag `nope`"]);
    let missing = dockerfile(&format!("ADD {url}#main:no/where /\n")).run();
    missing.failed(Reason::FileNotFound, &["Dockerfile:2", "no directory `no/where`"]);
    let missing = dockerfile(&format!("ADD {url}#main:web/link /\n")).run();
    missing.failed(Reason::FileNotFound, &["no directory `web/link`"]);
}

#[test]
fn k15_a_commit_is_verified() {
    let server = GitServer::start();
    let [first, second] = shop(&server);
    let text = |commit: &str| format!("ADD --checksum={commit} {}#main /\n", server.url("shop"));
    dockerfile(&text(&second)).run().succeeded();
    dockerfile(&text(&second[..10])).run().succeeded();
    let ended = dockerfile(&text(&first)).run();
    ended.failed(Reason::ContextInvalid, &["Dockerfile:2", &second, &first]);
}

#[test]
fn k15_files_may_have_the_time_of_the_commit() {
    let server = GitServer::start();
    shop(&server);
    let image = dockerfile(&format!("ADD {}?mtime=commit /\n", server.url("shop"))).run().succeeded().image();
    assert_eq!(image.entry("README").time, "2026-01-01 00:00:00");
}

/// Unpacks the one layer of an image.
fn unpack(ended: &Ended, directory: &Path) {
    let digest = ended.image().manifest["layers"][0]["digest"].as_str().unwrap().replace(':', "/");
    let mut tar = Command::new("tar");
    tar.arg("--extract").arg("--gzip").arg("--directory").arg(directory);
    tar.arg("--file").arg(ended.layout().join("blobs").join(digest));
    assert!(tar.status().unwrap().success());
}

#[test]
fn k15_a_kept_git_directory_is_a_repository_and_the_same_each_time() {
    let server = GitServer::start();
    let [_, second] = shop(&server);
    let text = format!("ADD --keep-git-dir {} /\n", server.url("shop"));
    let ended = dockerfile(&text).run().succeeded();
    let directory = TempDir::new().unwrap();
    unpack(&ended, directory.path());
    let git = |arguments: &[&str]| {
        let mut git = Command::new("git");
        git.arg("-C").arg(directory.path()).args(["-c", "safe.directory=*"]).args(arguments);
        let output = git.env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_CONFIG_GLOBAL", "/dev/null").output().unwrap();
        assert!(output.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    assert_eq!(git(&["rev-parse", "HEAD"]), second);
    assert_eq!(git(&["rev-list", "--count", "HEAD"]), "1");
    assert_eq!(git(&["status", "--porcelain"]), "");
    assert_eq!(git(&["remote", "get-url", "origin"]), server.url("shop"));
    assert_eq!(dockerfile(&text).run().succeeded().digest(), ended.digest());
    // Below a directory there is none, as in BuildKit.
    let text = format!("ADD {}?keep-git-dir=1&subdir=web /\n", server.url("shop"));
    assert_eq!(dockerfile(&text).run().succeeded().image().paths(0), ["index.html", "link", "run.sh"]);
}

#[test]
fn k15_submodules_come_with_their_parent_unless_told_not_to() {
    let server = GitServer::start();
    let part = server.create("part");
    let commit = part.commit(&[("inside", "of the part")]);
    // What git calls a submodule: a commit in the tree, and where it is to be had.
    let tree = TempDir::new().unwrap();
    let url = server.url("part");
    fs::write(tree.path().join(".gitmodules"), format!("[submodule \"part\"]\npath = part\nurl = {url}\n")).unwrap();
    let clone = Command::new("git").args(["clone", "--quiet", &url]).arg(tree.path().join("part")).output().unwrap();
    assert!(clone.status.success(), "{clone:?}");
    let whole = server.create("whole");
    whole.commit_tree(tree.path());
    let image = dockerfile(&format!("ADD {} /\n", whole.url())).run().succeeded().image();
    assert_eq!(image.paths(0), [".gitmodules", "part", "part/inside"], "{commit}");
    let image = dockerfile(&format!("ADD {}?submodules=false /\n", whole.url())).run().succeeded().image();
    assert_eq!(image.paths(0), [".gitmodules", "part"]);
}

#[test]
fn k15_a_private_repository_opens_with_a_token_that_nobody_sees() {
    let credentials = ("x-access-token".to_owned(), TOKEN.to_owned());
    let server = GitServer::start_on([127, 0, 0, 1].into(), Some(&credentials));
    shop(&server);
    let text = format!("ADD {} /\n", server.url("shop"));
    let denied = dockerfile(&text).run();
    denied.failed(Reason::Unauthorized, &["Dockerfile:2", "--secret id=GIT_AUTH_TOKEN"]);
    let host = server.url("shop").split('/').nth(2).unwrap().to_owned();
    for (id, value) in [
        ("GIT_AUTH_TOKEN".to_owned(), TOKEN.to_owned()),
        (format!("GIT_AUTH_TOKEN.{host}"), TOKEN.to_owned()),
        ("GIT_AUTH_HEADER".to_owned(), basic_authorization(&credentials)),
    ] {
        let build = dockerfile(&text).flag(&format!("--secret=id={id},env=VALUE")).environment("VALUE", &value);
        let ended = build.run().succeeded();
        assert_eq!(ended.image().text("README"), "two", "{id}");
        assert!(!ended.stderr.contains(&value) && !ended.image().contains(&value), "{id}");
    }
}

#[test]
fn k15_other_transports_are_refused_with_a_way_out() {
    let words = ["Dockerfile:2:5", "ssh:// or git:// is not supported", "name it by https://"];
    dockerfile("ADD git@github.com:a/b.git /\n").run().failed(Reason::Unsupported, &words);
}

#[test]
fn f7_a_repository_is_a_named_context_without_its_ignore_file() {
    let server = GitServer::start();
    shop(&server);
    let build = dockerfile("COPY --from=all / /all/\nCOPY --from=web index.html /\n");
    let build = build.flag(&format!("--build-context=all={}#v1", server.url("shop")));
    let image = build.flag(&format!("--build-context=web={}#:web", server.url("shop"))).run().succeeded().image();
    // G5: .dockerignore excludes README, and holds for directories only.
    assert_eq!((image.text("all/README").as_str(), image.text("index.html").as_str()), ("one", "<html>"));
    assert_eq!(image.entry("all/README").time, "1970-01-01 00:00:00");
}

#[test]
fn f7_a_url_is_a_named_context_of_one_file() {
    let server = files();
    let build = dockerfile("COPY --from=file context /renamed\n");
    let image = build.flag(&format!("--build-context=file={}", server.url("/a"))).run().succeeded().image();
    assert_eq!(image.text("renamed"), "/a");
    let build = dockerfile("COPY --from=file context /\n");
    let gone = WebServer::start(|_| Answer::status(404));
    let build = build.flag(&format!("--build-context=file={}", gone.url("/a")));
    build.run().failed(Reason::FileNotFound, &["Dockerfile:2", "the named context `file`", "answered 404"]);
}
