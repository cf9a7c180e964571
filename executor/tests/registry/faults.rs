//! Against a registry in this process that fails, lies and loses its memory as the test says.

use std::{
    collections::HashMap,
    fs,
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    body::{Body, Bytes, to_bytes},
    extract::{Request, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use futures::StreamExt;
use karve::{
    image::{manifest::OCI_MANIFEST, reference::Repository},
    registry::{Blob, ErrorKind, Pushed, Registry, RegistryError, RegistryOptions, credentials::Credentials},
    secret::Secret,
};
use tokio::{net::TcpListener, task::JoinHandle};

use crate::{holds, image, layer, noise, options, reference, repository};

/// What the server saw: method, path with query, headers, body.
#[derive(Clone, Debug)]
struct Seen {
    line: String,
    headers: HeaderMap,
    body: Bytes,
}

impl Seen {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

/// Answers one request; the number counts from 0 the requests of the same method and path.
type Answer = dyn Fn(&Seen, usize) -> Response + Send + Sync;

#[derive(Clone)]
struct Script {
    seen: Arc<Mutex<Vec<Seen>>>,
    answer: Arc<Answer>,
}

struct Server {
    host: String,
    seen: Arc<Mutex<Vec<Seen>>>,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    async fn start(answer: impl Fn(&Seen, usize) -> Response + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self::serve(listener, answer)
    }

    fn serve(listener: TcpListener, answer: impl Fn(&Seen, usize) -> Response + Send + Sync + 'static) -> Self {
        let host = listener.local_addr().unwrap().to_string();
        let seen = Arc::<Mutex<Vec<Seen>>>::default();
        let script = Script { seen: seen.clone(), answer: Arc::new(answer) };
        let router = Router::new().fallback(handle).with_state(script);
        let task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { host, seen, task }
    }

    fn lines(&self) -> Vec<String> {
        self.seen.lock().unwrap().iter().map(|seen| seen.line.clone()).collect()
    }

    fn client(&self) -> Registry {
        Registry::new(options(&self.host)).unwrap()
    }
}

async fn handle(State(script): State<Script>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path_and_query().unwrap().as_str();
    let line = format!("{} {path}", parts.method);
    let body = to_bytes(body, 64 << 20).await.unwrap_or_default();
    let seen = Seen { line, headers: parts.headers, body };
    let before = {
        let mut all = script.seen.lock().unwrap();
        let before = all.iter().filter(|known| known.line == seen.line).count();
        all.push(seen.clone());
        before
    };
    (script.answer)(&seen, before)
}

fn status(code: u16) -> Response {
    StatusCode::from_u16(code).unwrap().into_response()
}

fn with<const N: usize>(code: u16, headers: [(&'static str, String); N]) -> Response {
    let mut response = status(code);
    for (name, value) in headers {
        response.headers_mut().insert(name, value.parse().unwrap());
    }
    response
}

/// A body that promises its whole length and breaks off.
fn truncated(bytes: &[u8], from: usize, to: usize) -> Response {
    let piece = Bytes::copy_from_slice(&bytes[from..to]);
    // The server sends the piece when the body makes it wait.
    let broken = async {
        tokio::task::yield_now().await;
        Err(std::io::Error::other("broken off"))
    };
    let pieces = futures::stream::iter([Ok(piece)]).chain(futures::stream::once(broken));
    let mut response = Body::from_stream(pieces).into_response();
    response.headers_mut().insert(header::CONTENT_LENGTH, (bytes.len() - from).into());
    response
}

async fn fetch(registry: &Registry, from: &Repository, bytes: &[u8]) -> Result<(), RegistryError> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("blob");
    let result = registry.fetch_blob(from, &layer(bytes), &path).await;
    match &result {
        Ok(()) => {
            assert!(fs::read(&path).unwrap() == bytes);
            holds(directory.path(), &["blob"]);
        }
        Err(_) => holds(directory.path(), &[]),
    }
    result
}

#[tokio::test]
async fn a_busy_registry_is_asked_again() {
    let server = Server::start(|_, before| match before {
        0 => status(503),
        1 => with(429, [("retry-after", "0".into())]),
        _ => "blob".into_response(),
    })
    .await;
    fetch(&server.client(), &repository(&server.host, "a"), b"blob").await.unwrap();
    assert_eq!(server.lines().len(), 3);
}

#[tokio::test]
async fn a_registry_that_stays_busy_is_unavailable_after_five_attempts() {
    let server = Server::start(|_, _| {
        (StatusCode::SERVICE_UNAVAILABLE, r#"{"errors":[{"message":"maintenance"}]}"#).into_response()
    })
    .await;
    let target = reference(&format!("{}/a:b", server.host));
    let error = server.client().manifest_bytes(&target).await.unwrap_err();
    let expected = format!("the registry `{}` answered 503 (it says: maintenance), 5 times", server.host);
    assert_eq!((error.to_string(), error.kind()), (expected, ErrorKind::Unavailable));
    assert_eq!(server.lines().len(), 5);
    let error = fetch(&server.client(), target.repository(), b"blob").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
}

#[tokio::test]
async fn a_host_that_nobody_listens_on_is_unreachable() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = listener.local_addr().unwrap().to_string();
    drop(listener);
    let error =
        Registry::new(options(&host)).unwrap().head_manifest(&reference(&format!("{host}/a"))).await.unwrap_err();
    assert!(matches!(&error, RegistryError::Unreachable { attempts: 5, .. }), "{error}");
    assert!(error.to_string().contains("refused"), "{error}");
}

#[tokio::test]
async fn a_broken_download_goes_on_where_it_broke() {
    let bytes = noise(200_000, 1);
    let content = bytes.clone();
    let server = Server::start(move |seen, before| match (before, seen.header("range")) {
        (0, "") => truncated(&content, 0, 70_000),
        (_, range) => {
            let start: usize = range.strip_prefix("bytes=").unwrap().strip_suffix('-').unwrap().parse().unwrap();
            let mut response = if before < 3 {
                truncated(&content, start, start + 10_000)
            } else {
                content[start..].to_vec().into_response()
            };
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
            let range = format!("bytes {start}-{}/{}", content.len() - 1, content.len());
            response.headers_mut().insert(header::CONTENT_RANGE, range.parse().unwrap());
            response
        }
    })
    .await;
    fetch(&server.client(), &repository(&server.host, "a"), &bytes).await.unwrap();
    assert_eq!(server.lines().len(), 4);
    assert_ne!(server.seen.lock().unwrap()[3].header("range"), "");
}

#[tokio::test]
async fn a_server_without_ranges_is_read_from_the_start_again() {
    let bytes = noise(50_000, 2);
    let content = bytes.clone();
    let server =
        Server::start(
            move |_, before| {
                if before == 0 { truncated(&content, 0, 20_000) } else { content.clone().into_response() }
            },
        )
        .await;
    fetch(&server.client(), &repository(&server.host, "a"), &bytes).await.unwrap();
}

#[tokio::test]
async fn wrong_bytes_and_wrong_sizes_leave_nothing() {
    let server = Server::start(|seen, _| match seen.header("x-unused") {
        _ if seen.line.contains("/long/") => "blob and more".into_response(),
        _ => "blub".into_response(),
    })
    .await;
    let client = server.client();
    let error = fetch(&client, &repository(&server.host, "a"), b"blob").await.unwrap_err();
    assert!(matches!(error, RegistryError::DigestMismatch { .. }), "{error}");
    let error = fetch(&client, &repository(&server.host, "long"), b"blob").await.unwrap_err();
    assert!(matches!(error, RegistryError::SizeMismatch { expected: 4, actual: 5, .. }), "{error}");
    assert_eq!(error.kind(), ErrorKind::Corrupt);
}

#[tokio::test]
async fn a_manifest_must_be_what_its_digest_says_and_fit() {
    let server = Server::start(|seen, _| {
        if seen.line.contains("/huge/") { vec![b' '; 5 << 20].into_response() } else { "{}".into_response() }
    })
    .await;
    let client = server.client();
    let pinned = reference(&format!("{}/a", server.host)).pinned(crate::digest(b"other"));
    assert_eq!(client.manifest_bytes(&pinned).await.unwrap_err().kind(), ErrorKind::Corrupt);
    let huge = reference(&format!("{}/huge/a", server.host));
    let error = client.manifest_bytes(&huge).await.unwrap_err();
    assert!(matches!(error, RegistryError::TooLarge { limit_bytes: 4_194_304, .. }), "{error}");
}

/// A registry behind a token server: each token is good for two requests.
async fn token_server(password: &'static str) -> Server {
    let uses = Mutex::new(HashMap::<String, usize>::new());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = listener.local_addr().unwrap();
    Server::serve(listener, move |seen, before| {
        if seen.line.starts_with("GET /token?") {
            if !password.is_empty() && seen.header("authorization") != password {
                return (StatusCode::UNAUTHORIZED, r#"{"details":"bad password"}"#).into_response();
            }
            return format!(r#"{{"token":"t{before}-{}","expires_in":300}}"#, seen.line.len()).into_response();
        }
        let token = seen.header("authorization").to_owned();
        let mut uses = uses.lock().unwrap();
        let count = uses.entry(token.clone()).or_default();
        *count += 1;
        if token.is_empty() || *count > 2 {
            let challenge = format!(r#"Bearer realm="http://{host}/token",service="test""#);
            return with(401, [("www-authenticate", challenge)]);
        }
        "blob".into_response()
    })
}

#[tokio::test]
async fn tokens_are_fetched_once_reused_and_renewed_when_refused() {
    let server = token_server("Basic YWxpY2U6d29uZGVybGFuZA==").await;
    let password = Secret::new("wonderland".to_owned());
    let credentials = Credentials::default().with_basic(&server.host, "alice", password);
    let registry = Registry::new(RegistryOptions { credentials, ..options(&server.host) }).unwrap();
    for _ in 0..3 {
        fetch(&registry, &repository(&server.host, "a"), b"blob").await.unwrap();
    }
    let token = "GET /token?service=test&scope=repository%3Aa%3Apull".to_owned();
    let blob = format!("GET /v2/a/blobs/{}", crate::digest(b"blob"));
    let expected = [&blob, &token, &blob, &blob, &blob, &token, &blob].map(Clone::clone);
    assert_eq!(server.lines(), expected);
    let passwords =
        server.seen.lock().unwrap().iter().filter(|seen| seen.header("authorization").starts_with("Basic")).count();
    assert_eq!(passwords, 2, "the password goes to the realm only");
}

#[tokio::test]
async fn requests_at_the_same_time_share_one_exchange() {
    let server = Server::start(|seen, _| {
        let host = seen.header("host");
        match (seen.line.starts_with("GET /token"), seen.header("authorization")) {
            (true, _) => r#"{"access_token":"shared"}"#.into_response(),
            (false, "Bearer shared") => "blob".into_response(),
            _ => with(401, [("www-authenticate", format!(r#"Bearer realm="http://{host}/token""#))]),
        }
    })
    .await;
    let (registry, from) = (server.client(), repository(&server.host, "a"));
    let fetches = (0..8).map(|_| fetch(&registry, &from, b"blob"));
    assert!(futures::future::join_all(fetches).await.iter().all(Result::is_ok));
    assert_eq!(server.lines().iter().filter(|line| line.starts_with("GET /token")).count(), 1);
}

#[tokio::test]
async fn a_refused_password_names_its_entry_and_not_itself() {
    let server = token_server("Basic something-else").await;
    let credentials = Credentials::default().with_basic(&server.host, "alice", Secret::new("wonderland".to_owned()));
    let registry = Registry::new(RegistryOptions { credentials, ..options(&server.host) }).unwrap();
    let error = fetch(&registry, &repository(&server.host, "a"), b"blob").await.unwrap_err();
    let expected = format!(
        "the registry `{host}` denies `pull` on `a`: the credentials of `{host}` were refused (it says: bad password)",
        host = server.host
    );
    assert_eq!((error.to_string(), error.kind()), (expected, ErrorKind::Unauthorized));
}

#[tokio::test]
async fn credentials_do_not_follow_a_redirect_to_another_host() {
    let storage = Server::start(|_, _| "blob".into_response()).await;
    let elsewhere = storage.host.clone();
    let server = Server::start(move |seen, _| match seen.header("authorization") {
        "" => with(401, [("www-authenticate", r#"Basic realm="test""#.into())]),
        _ if seen.line.ends_with("/again") => {
            with(307, [("location", format!("http://{elsewhere}/stored?signature=x"))])
        }
        _ => with(307, [("location", format!("{}/again", seen.line.split(' ').nth(1).unwrap()))]),
    })
    .await;
    let credentials = Credentials::default().with_basic(&server.host, "alice", Secret::new("wonderland".to_owned()));
    let registry = Registry::new(RegistryOptions { credentials, ..options(&server.host) }).unwrap();
    fetch(&registry, &repository(&server.host, "a"), b"blob").await.unwrap();
    let seen = storage.seen.lock().unwrap().clone();
    assert_eq!(seen.iter().map(|seen| seen.line.as_str()).collect::<Vec<_>>(), ["GET /stored?signature=x"]);
    assert_eq!(seen[0].header("authorization"), "");
    assert!(server.seen.lock().unwrap()[2].header("authorization").starts_with("Basic "), "the same host may see them");
}

#[tokio::test]
async fn redirects_end() {
    let server =
        Server::start(|seen, _| with(302, [("location", seen.line.split(' ').nth(1).unwrap().to_owned())])).await;
    let error = fetch(&server.client(), &repository(&server.host, "a"), b"blob").await.unwrap_err();
    assert!(matches!(&error, RegistryError::Protocol { reason, .. } if reason == "more than 10 redirects"), "{error}");
    assert_eq!(server.lines().len(), 11);
}

async fn push(server: &Server, bytes: &[u8], sources: &[Repository]) -> Result<Pushed, RegistryError> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("blob");
    fs::write(&path, bytes).unwrap();
    let descriptor = layer(bytes);
    let blob = Blob { digest: &descriptor.digest, size: descriptor.size, path: &path };
    server.client().push_blob(&repository(&server.host, "a"), &blob, sources).await
}

#[tokio::test]
async fn a_broken_upload_goes_on_from_what_the_registry_has() {
    let bytes = noise(100_000, 5);
    let server = Server::start(|seen, _| match seen.line.split('?').next().unwrap() {
        line if line.starts_with("HEAD ") => status(404),
        "POST /v2/a/blobs/uploads/" => with(202, [("location", "/session/1?state=a".into())]),
        "PUT /session/1" => status(502),
        "GET /session/1" => with(204, [("range", "0-39999".into()), ("location", "/session/2?state=b".into())]),
        "PATCH /session/2" => with(202, [("location", "/session/3".into())]),
        "PUT /session/3" => status(201),
        line => panic!("{line}"),
    })
    .await;
    assert_eq!(push(&server, &bytes, &[]).await.unwrap(), Pushed::Uploaded);
    let seen = server.seen.lock().unwrap().clone();
    let patch = seen.iter().find(|seen| seen.line == "PATCH /session/2?state=b").unwrap();
    assert_eq!(patch.header("content-range"), "40000-99999");
    assert!(patch.body == bytes[40_000..]);
    let whole = seen.iter().find(|seen| seen.line.starts_with("PUT /session/1?state=a&digest=sha256%3A")).unwrap();
    assert_eq!((whole.header("content-length"), whole.body.len()), ("100000", 100_000));
    assert_eq!(seen.last().unwrap().body.len(), 0);
}

#[tokio::test]
async fn a_forgotten_upload_begins_anew_and_a_lost_answer_is_no_loss() {
    let server = Server::start(|seen, before| match seen.line.split('?').next().unwrap() {
        line if line.starts_with("HEAD ") => status(if before < 2 { 404 } else { 200 }),
        "POST /v2/a/blobs/uploads/" => with(202, [("location", format!("/session/{before}"))]),
        "PUT /session/0" | "PUT /session/1" => status(502),
        "GET /session/0" => status(404),
        line => panic!("{line}"),
    })
    .await;
    assert_eq!(push(&server, &noise(100_000, 6), &[]).await.unwrap(), Pushed::Uploaded);
}

#[tokio::test]
async fn a_mount_asks_for_both_repositories_and_its_refusal_is_an_upload() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = listener.local_addr().unwrap();
    let server = Server::serve(listener, move |seen, _| match seen.line.split('?').next().unwrap() {
        "GET /token" => r#"{"token":"t"}"#.into_response(),
        _ if seen.header("authorization").is_empty() => {
            with(401, [("www-authenticate", format!(r#"Bearer realm="http://{host}/token""#))])
        }
        line if line.starts_with("HEAD ") => status(404),
        "POST /v2/a/blobs/uploads/" if seen.line.contains("?mount=") => {
            with(202, [("location", "/session/unused".into())])
        }
        "POST /v2/a/blobs/uploads/" => with(202, [("location", "/session/1".into())]),
        "DELETE /session/unused" => status(204),
        "PUT /session/1" => status(201),
        line => panic!("{line}"),
    });
    let sources = [repository(&server.host, "b")];
    assert_eq!(push(&server, b"blob", &sources).await.unwrap(), Pushed::Uploaded);
    let scopes = "GET /token?scope=repository%3Aa%3Apull%2Cpush&scope=repository%3Ab%3Apull";
    assert!(server.lines().contains(&scopes.to_owned()), "{:#?}", server.lines());
    assert!(server.lines().contains(&"DELETE /session/unused".to_owned()));
}

#[tokio::test]
async fn a_manifest_counts_only_when_the_registry_shows_it() {
    let (_, manifest) = image("amd64", &[]);
    let length = manifest.len();
    let server = Server::start(move |seen, before| match seen.line.split(' ').next().unwrap() {
        "PUT" => status(201),
        "HEAD" if seen.line.contains("/a/") && before > 1 => with(200, [("content-length", length.to_string())]),
        "HEAD" => status(404),
        other => panic!("{other}"),
    })
    .await;
    let target = reference(&format!("{}/a:v1", server.host));
    server.client().push_manifest(&target, &manifest, OCI_MANIFEST).await.unwrap();
    assert_eq!(server.lines()[0], "PUT /v2/a/manifests/v1");
    assert_eq!(server.seen.lock().unwrap()[0].header("content-type"), OCI_MANIFEST);
    let lost = reference(&format!("{}/lost:v1", server.host));
    let error = server.client().push_manifest(&lost, &manifest, OCI_MANIFEST).await.unwrap_err();
    assert!(error.to_string().ends_with("does not exist although the registry accepted it"), "{error}");
}
