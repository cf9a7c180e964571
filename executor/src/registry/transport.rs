//! One HTTP request in, one answer out: the only place that opens sockets to registries.
//!
//! Plain http is spoken only where the host's policy says so, loopback included. Redirects are followed here, so that
//! credentials never leave the origin that they are for and TLS is never dropped on the way. Nothing is repeated here.

use std::{
    collections::{BTreeMap, HashMap},
    error::Error,
    io,
    ops::Deref,
    path::PathBuf,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use reqwest::{Certificate, Client, Response, Url, redirect::Policy};
use tokio::{
    fs::File,
    io::{AsyncReadExt, AsyncSeekExt, SeekFrom},
    time::timeout,
};
use tokio_util::io::ReaderStream;

use super::error::RegistryError;

/// The longest time to reach a host; a firewall that drops packets is noticed by it.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// The longest silence of a server: registries on object storage may take long to commit a blob.
const STALL_TIMEOUT: Duration = Duration::from_secs(90);
/// The slowest upload that is waited for, beside [`STALL_TIMEOUT`].
const UPLOAD_BYTES_PER_SECOND_MIN: u64 = 64 << 10;
/// Redirects of one request; registries use one or two.
const REDIRECTS_MAX: usize = 10;
/// Bytes read from a file at a time.
const UPLOAD_BUFFER_BYTES: usize = 256 << 10;

/// What is special about one registry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostPolicy {
    /// Speak http without TLS.
    pub plain_http: bool,
    /// Accept any certificate.
    pub skip_tls_verify: bool,
    /// Certificates that are trusted beside the system's: PEM, one or more.
    pub ca_pem: Vec<u8>,
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum Attempt {
    /// The connection failed; another attempt may not.
    Connection {
        /// The host.
        host: String,
        /// The deepest cause.
        reason: String,
    },
    /// Another attempt would end the same.
    Fatal(RegistryError),
}

impl From<RegistryError> for Attempt {
    fn from(error: RegistryError) -> Self {
        Self::Fatal(error)
    }
}

/// What a request carries; a file is opened anew by each attempt.
#[derive(Clone, Debug, Default)]
pub(super) enum Body {
    /// Nothing.
    #[default]
    Empty,
    /// A small document.
    Bytes(Vec<u8>),
    /// A part of a file.
    File {
        /// The file.
        path: PathBuf,
        /// Where the part begins.
        offset: u64,
        /// Bytes of the part.
        length: u64,
    },
}

/// A request, without credentials.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) headers: HeaderMap,
    pub(super) body: Body,
}

impl Request {
    pub(super) fn new(method: Method, url: Url) -> Self {
        Self { method, url, headers: HeaderMap::new(), body: Body::Empty }
    }

    #[must_use]
    pub(super) fn header(mut self, name: header::HeaderName, value: &str) -> Self {
        // The values are media types, digests and ranges: what is no header value was no such thing either.
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.insert(name, value);
        }
        self
    }

    #[must_use]
    pub(super) fn body(mut self, body: Body) -> Self {
        self.body = body;
        self
    }
}

/// A header value and the only origin that may see it.
#[derive(Clone, Debug)]
pub(super) struct Authorization {
    /// `Basic …` or `Bearer …`, marked as sensitive.
    pub(super) value: HeaderValue,
    /// Any URL of the origin.
    pub(super) origin: Url,
}

/// The HTTP clients, one for each way of speaking.
#[derive(Debug)]
pub(super) struct Transport {
    hosts: BTreeMap<String, Host>,
    user_agent: String,
    clients: Mutex<HashMap<ClientKey, Client>>,
}

#[derive(Debug, Default)]
struct Host {
    policy: HostPolicy,
    certificates: Vec<Certificate>,
}

/// What clients differ in: the policy they obey, whether they speak TLS, whether they go past the proxy.
type ClientKey = (Option<String>, bool, bool);

impl Transport {
    pub(super) fn new(hosts: BTreeMap<String, HostPolicy>, user_agent: &str) -> Result<Self, RegistryError> {
        let mut parsed = BTreeMap::new();
        for (host, policy) in hosts {
            let invalid = |reason: String| RegistryError::Policy { registry: host.clone(), reason };
            let certificates = Certificate::from_pem_bundle(&policy.ca_pem)
                .map_err(|error| invalid(format!("its CA is not PEM: {}", deepest(&error))))?;
            if certificates.is_empty() && !policy.ca_pem.is_empty() {
                return Err(invalid("its CA holds no certificate".into()));
            }
            parsed.insert(host, Host { policy, certificates });
        }
        let user_agent = if user_agent.is_empty() { "karve" } else { user_agent }.to_owned();
        Ok(Self { hosts: parsed, user_agent, clients: Mutex::default() })
    }

    /// Returns the root of a registry's API.
    pub(super) fn endpoint(&self, registry: &str) -> Result<Url, RegistryError> {
        let scheme = if self.is_plain(registry) { "http" } else { "https" };
        let host = if registry == "docker.io" { "registry-1.docker.io" } else { registry };
        Url::parse(&format!("{scheme}://{host}/")).map_err(|error| RegistryError::Policy {
            registry: registry.to_owned(),
            reason: format!("it is not a host: {error}"),
        })
    }

    /// Whether a host's policy allows http without TLS.
    pub(super) fn is_plain(&self, host: &str) -> bool {
        self.hosts.get(host).is_some_and(|host| host.policy.plain_http)
    }

    /// Returns the certificates that are trusted for a host beside the system's.
    pub(super) fn certificates(&self, host: &str) -> Option<String> {
        let pem = &self.hosts.get(host)?.policy.ca_pem;
        String::from_utf8(pem.clone()).ok().filter(|pem| !pem.is_empty())
    }

    /// Sends a request on behalf of a registry and follows redirects; the answer may have any status.
    pub(super) async fn send(
        &self,
        registry: &str,
        request: &Request,
        authorization: Option<&Authorization>,
    ) -> Result<Response, Attempt> {
        let mut url = request.url.clone();
        for _ in 0..=REDIRECTS_MAX {
            let client = self.client(registry, &url)?;
            let mut builder = client.request(request.method.clone(), url.clone()).headers(request.headers.clone());
            if let Some(authorization) = authorization.filter(|known| known.origin.origin() == url.origin()) {
                builder = builder.header(header::AUTHORIZATION, authorization.value.clone());
            }
            let (body, limit) = self.body(&request.body).await?;
            if let Some((body, length)) = body {
                builder = builder.header(header::CONTENT_LENGTH, length).body(body);
            }
            let response = match timeout(limit, builder.send()).await {
                Ok(sent) => sent.map_err(|error| failure(host_of(&url), error))?,
                Err(_) => return Err(Attempt::Connection { host: host_of(&url), reason: "no answer in time".into() }),
            };
            match redirect(&request.method, &response) {
                Some(location) => url = self.follow(registry, &url, &location)?,
                None => return Ok(response),
            }
        }
        Err(protocol(registry, &request.url, format!("more than {REDIRECTS_MAX} redirects")).into())
    }

    fn follow(&self, registry: &str, from: &Url, location: &str) -> Result<Url, RegistryError> {
        let next =
            from.join(location).map_err(|error| protocol(registry, from, format!("a redirect to no URL: {error}")))?;
        match next.scheme() {
            "https" => Ok(next),
            "http" if from.scheme() == "http" || self.is_plain(&host_of(&next)) => Ok(next),
            _ => Err(protocol(registry, from, format!("a redirect that drops TLS, to `{}`", host_of(&next)))),
        }
    }

    async fn body(&self, body: &Body) -> Result<(Option<(reqwest::Body, u64)>, Duration), RegistryError> {
        Ok(match body {
            Body::Empty => (None, STALL_TIMEOUT),
            Body::Bytes(bytes) => (Some((bytes.clone().into(), bytes.len() as u64)), STALL_TIMEOUT),
            Body::File { path, offset, length } => {
                let mut file = File::open(path).await.map_err(RegistryError::file("open", path))?;
                file.seek(SeekFrom::Start(*offset)).await.map_err(RegistryError::file("read", path))?;
                let stream = ReaderStream::with_capacity(file.take(*length), UPLOAD_BUFFER_BYTES);
                let limit = STALL_TIMEOUT + Duration::from_secs(length / UPLOAD_BYTES_PER_SECOND_MIN);
                (Some((reqwest::Body::wrap_stream(stream), *length)), limit)
            }
        })
    }

    /// Returns the client for a URL: the host's own policy, else that of the registry which led to it.
    fn client(&self, registry: &str, url: &Url) -> Result<Client, RegistryError> {
        let host_name = host_of(url);
        let named = [host_name.as_str(), registry].into_iter().find(|name| self.hosts.contains_key(*name));
        let (tls, direct) = (url.scheme() == "https", is_loopback(url));
        let key = (named.map(str::to_owned), tls, direct);
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = clients.get(&key) {
            return Ok(client.clone());
        }
        let default = Host::default();
        let host = named.and_then(|name| self.hosts.get(name)).unwrap_or(&default);
        let client = self
            .build(host, tls, direct)
            .map_err(|error| RegistryError::Policy { registry: host_name, reason: deepest(&error) })?;
        clients.insert(key, client.clone());
        Ok(client)
    }

    fn build(&self, host: &Host, tls: bool, direct: bool) -> Result<Client, reqwest::Error> {
        let mut builder = Client::builder()
            .user_agent(&self.user_agent)
            .connect_timeout(CONNECT_TIMEOUT)
            .redirect(Policy::none())
            .retry(reqwest::retry::never())
            .referer(false);
        builder = match (tls, host.policy.skip_tls_verify) {
            // Without this, a client that never speaks TLS could not be built where there is no bundle of CAs.
            (false, _) => builder.tls_certs_only([]),
            (true, true) => builder.tls_danger_accept_invalid_certs(true),
            (true, false) => builder.tls_certs_merge(host.certificates.clone()),
        };
        // As programs written in Go do it: a proxy could not reach this machine's loopback.
        if direct { builder.no_proxy() } else { builder }.build()
    }
}

/// Reads the next piece of an answer's body; `None` is its end.
pub(super) async fn next_chunk(response: &mut Response) -> Result<Option<impl Deref<Target = [u8]> + use<>>, Attempt> {
    let Ok(read) = timeout(STALL_TIMEOUT, response.chunk()).await else {
        let reason = format!("nothing received for {} seconds", STALL_TIMEOUT.as_secs());
        return Err(Attempt::Connection { host: host_of(response.url()), reason });
    };
    read.map_err(|error| failure(host_of(response.url()), error))
}

/// Returns `host` or `host:port`, as references name registries.
pub fn host_of(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

pub(super) fn protocol(registry: &str, url: &Url, reason: String) -> RegistryError {
    RegistryError::Protocol { registry: registry.to_owned(), what: url.path().to_owned(), reason }
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || address.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Returns where an answer sends the request, if it does and the request may go there as it is.
fn redirect(method: &Method, response: &Response) -> Option<String> {
    let repeatable = [Method::GET, Method::HEAD].contains(method);
    let followed = match response.status() {
        StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT => true,
        StatusCode::MOVED_PERMANENTLY | StatusCode::FOUND | StatusCode::SEE_OTHER => repeatable,
        _ => false,
    };
    let location = response.headers().get(header::LOCATION).filter(|_| followed)?;
    location.to_str().ok().map(str::to_owned)
}

/// Tells a connection that may come back from a TLS set-up that will not.
fn failure(host: String, error: reqwest::Error) -> Attempt {
    let error = error.without_url();
    let mut cause: Option<&(dyn Error + 'static)> = Some(&error);
    while let Some(current) = cause {
        let tls = peel(current).downcast_ref::<rustls::Error>();
        match tls {
            Some(rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType)) => {
                return RegistryError::TlsRequired { registry: host }.into();
            }
            Some(rustls::Error::InvalidCertificate(reason)) => {
                return RegistryError::Certificate { registry: host, reason: reason.to_string() }.into();
            }
            _ => cause = current.source(),
        }
    }
    Attempt::Connection { host, reason: deepest(&error) }
}

/// Returns what is wrapped in I/O errors, which leave themselves out of the chain of sources.
fn peel<'a>(error: &'a (dyn Error + 'static)) -> &'a (dyn Error + 'static) {
    match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
        Some(inner) => peel(inner),
        None => error,
    }
}

/// Returns the message of the deepest cause: the outer ones repeat the URL, which may hold a signature.
fn deepest(error: &(dyn Error + 'static)) -> String {
    let mut deepest = error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    deepest.to_string()
}
