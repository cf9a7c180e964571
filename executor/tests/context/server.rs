//! A git server on loopback: HTTP in front of `git http-backend`, with optional credentials.

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
};

use axum::{
    Router,
    body::{Body, to_bytes},
    extract::{Request, State},
    http::{Response, StatusCode, header},
    serve::Listener,
};
use rustls::{
    ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
    process::Command,
    runtime::Runtime,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

/// The largest request that a test sends.
const REQUEST_BYTES_MAX: usize = 1 << 20;

/// What the server does beside serving.
#[derive(Clone, Default)]
pub(crate) struct Behaviour {
    /// The Authorization header that every request must have.
    pub(crate) authorization: Option<String>,
    /// Hides that the client speaks protocol 2, so that git serves only the commits that a branch or tag names.
    pub(crate) old_protocol: bool,
    /// Answers everything with this status.
    pub(crate) status: Option<StatusCode>,
    /// Speaks TLS, with `leaf.crt` and `leaf.key` of this directory.
    pub(crate) certificates: Option<PathBuf>,
}

/// A running server; it ends when it is dropped.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    _runtime: Runtime,
}

#[derive(Clone)]
struct Backend {
    root: PathBuf,
    behaviour: Behaviour,
}

impl Server {
    /// Serves the repositories below a directory.
    pub(crate) fn start(root: PathBuf, behaviour: Behaviour) -> Self {
        let runtime = Runtime::new().unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let acceptor = behaviour.certificates.as_ref().map(|directory| acceptor(directory));
        let router = Router::new().fallback(serve).with_state(Backend { root, behaviour });
        match acceptor {
            Some(acceptor) => {
                runtime.spawn(async move { axum::serve(TlsListener { listener, acceptor }, router).await });
            }
            None => {
                runtime.spawn(async move { axum::serve(listener, router).await });
            }
        }
        Self { address, _runtime: runtime }
    }
}

fn acceptor(directory: &Path) -> TlsAcceptor {
    let certificates = CertificateDer::pem_file_iter(directory.join("leaf.crt")).unwrap();
    let key = PrivateKeyDer::from_pem_file(directory.join("leaf.key")).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(certificates.collect::<Result<_, _>>().unwrap(), key)
        .unwrap();
    TlsAcceptor::from(Arc::new(config))
}

struct TlsListener {
    listener: TcpListener,
    acceptor: TlsAcceptor,
}

impl Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let (stream, address) = Listener::accept(&mut self.listener).await;
            // A client that does not trust us hangs up; the next one may.
            if let Ok(stream) = self.acceptor.accept(stream).await {
                return (stream, address);
            }
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}

async fn serve(State(backend): State<Backend>, request: Request) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let header = |name: &str| parts.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if let Some(status) = backend.behaviour.status {
        return Response::builder().status(status).body(Body::empty()).unwrap();
    }
    if let Some(expected) = &backend.behaviour.authorization
        && header("authorization") != expected
    {
        let answer = Response::builder().status(StatusCode::UNAUTHORIZED);
        return answer.header(header::WWW_AUTHENTICATE, "Basic realm=\"git\"").body(Body::empty()).unwrap();
    }
    let body = to_bytes(body, REQUEST_BYTES_MAX).await.unwrap();
    let protocol = if backend.behaviour.old_protocol { "" } else { header("git-protocol") };
    let mut child = Command::new("git")
        .arg("http-backend")
        .env("GIT_PROJECT_ROOT", &backend.root)
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("REQUEST_METHOD", parts.method.as_str())
        .env("PATH_INFO", parts.uri.path())
        .env("QUERY_STRING", parts.uri.query().unwrap_or_default())
        .env("CONTENT_TYPE", header("content-type"))
        .env("CONTENT_LENGTH", body.len().to_string())
        .env("HTTP_CONTENT_ENCODING", header("content-encoding"))
        .env("GIT_PROTOCOL", protocol)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    let writer = tokio::spawn(async move { input.write_all(&body).await });
    let output = child.wait_with_output().await.unwrap().stdout;
    // A backend that refuses early does not read its input to the end.
    drop(writer.await.unwrap());
    answer(&output)
}

/// Turns the output of a CGI program into a response.
fn answer(output: &[u8]) -> Response<Body> {
    let end = output.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
    let mut response = Response::builder();
    for line in std::str::from_utf8(&output[..end]).unwrap().lines() {
        let (name, value) = line.split_once(": ").unwrap();
        response = match name {
            "Status" => response.status(value.split(' ').next().unwrap()),
            name => response.header(name, value),
        };
    }
    response.body(Body::from(output[end + 4..].to_vec())).unwrap()
}
