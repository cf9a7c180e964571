//! Files of web servers that are no registries: a URL goes in, a file with what it names comes out, its checksum proven. It goes
//! over the transport of registries, for the same proxies, certificates and rules about redirects, and is tried again by
//! the same policy.

use std::{io, path::Path};

use base64::{Engine, engine::general_purpose::STANDARD};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use reqwest::Url;
use tokio::{fs::File, io::AsyncWriteExt};

use super::{
    Registry,
    error::RegistryError,
    exchange::failure_of,
    retry::Failure,
    transport::{Attempt, Authorization, Request, next_chunk},
};
use crate::{
    image::checksum::{Checksum, Hasher},
    plan::remote::decode,
    secret::Secret,
};

pub use super::transport::host_of;

/// The largest file that is fetched: 64 GiB.
const DOWNLOAD_BYTES_MAX: u64 = 64 << 30;

/// What to fetch.
#[derive(Debug)]
pub struct Download<'a> {
    /// `https://` or `http://`.
    pub url: &'a Url,
    /// The value of the Authorization header, for the URL's own origin and no other.
    pub authorization: Option<Secret>,
    /// What the content must hash to.
    pub checksum: Option<&'a Checksum>,
}

/// What was fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Downloaded {
    /// Its size.
    pub bytes: u64,
    /// What the server says of its last change, in seconds since 1970.
    pub last_modified: Option<i64>,
    /// What the server calls exactly these bytes (RFC 9110, 8.8.3, a strong validator).
    pub etag: Option<String>,
}

/// Why there is no file. URLs are without user and password.
#[derive(Debug, thiserror::Error)]
pub enum DownloadError {
    /// The server refused, or has no such file.
    #[error("`{url}` answered {status}{}", status_hint(*.status, .host))]
    Status {
        /// What was asked for.
        url: String,
        /// The HTTP status.
        status: u16,
        /// The host without its port.
        host: String,
    },
    /// No answer, or a temporary refusal, until no attempt was left.
    #[error("cannot fetch `{url}`: {reason}, {attempts} times")]
    Unavailable {
        /// What was asked for.
        url: String,
        /// Why the last attempt failed.
        reason: String,
        /// How often it was tried.
        attempts: u32,
    },
    /// The connection cannot be used.
    #[error("cannot fetch `{url}`: {reason}")]
    Refused {
        /// What was asked for.
        url: String,
        /// Why.
        reason: String,
    },
    /// The content is not what was asked for.
    #[error("`{url}` has the checksum {actual}, not {expected}")]
    Checksum {
        /// What was asked for.
        url: String,
        /// What was demanded.
        expected: Checksum,
        /// What came.
        actual: Checksum,
    },
    /// The file is larger than is fetched.
    #[error("`{url}` is larger than {limit_bytes} bytes")]
    TooLarge {
        /// What was asked for.
        url: String,
        /// The limit.
        limit_bytes: u64,
    },
    /// The server compressed the file on its own account.
    #[error("`{url}` comes with the content encoding `{encoding}`, though the file as it is was asked for")]
    Encoded {
        /// What was asked for.
        url: String,
        /// The encoding.
        encoding: String,
    },
    /// The file cannot be written.
    #[error("cannot write what `{url}` sends")]
    File {
        /// What was asked for.
        url: String,
        /// Why.
        source: io::Error,
    },
}

/// An attempt that ended early; another one may not.
struct Broken {
    failure: Failure,
    reason: String,
}

/// How an attempt ends that no other follows.
type Ended<T> = Result<Result<T, Broken>, DownloadError>;

impl Registry {
    /// The certificates that are trusted for a host beside the system's, in PEM.
    pub fn certificates(&self, host: &str) -> Option<String> {
        self.shared.authenticator.transport().certificates(host)
    }

    /// Fetches a file into `path`, which is created or emptied.
    pub async fn download(&self, download: &Download<'_>, path: &Path) -> Result<Downloaded, DownloadError> {
        let _turn = self.transfer().await;
        let mut attempts = 0;
        loop {
            attempts += 1;
            let Broken { failure, reason } = match self.attempt(download, path).await? {
                Ok(downloaded) => return Ok(downloaded),
                Err(broken) => broken,
            };
            if !self.shared.retry.pause(attempts, failure).await {
                return Err(DownloadError::Unavailable { url: shown(download.url), reason, attempts });
            }
        }
    }

    /// Whether a server still has the bytes that it called by this name; `false` where it does not say.
    pub async fn is_current(&self, download: &Download<'_>, etag: &str) -> Result<bool, DownloadError> {
        let _turn = self.transfer().await;
        let response = match self.request(download, Method::HEAD).await? {
            Ok(response) => response,
            Err(Broken { failure: _, reason }) => {
                tracing::debug!(url = shown(download.url), reason, "the server was not asked again");
                return Ok(false);
            }
        };
        Ok(response.status() == StatusCode::OK && strong_etag(response.headers()).as_deref() == Some(etag))
    }

    async fn attempt(&self, download: &Download<'_>, path: &Path) -> Ended<Downloaded> {
        let response = match self.request(download, Method::GET).await? {
            Ok(response) => response,
            Err(broken) => return Ok(Err(broken)),
        };
        let (url, status) = (download.url, response.status());
        if !status.is_success() {
            let failure = failure_of(status, response.headers());
            if failure.is_transient() {
                return Ok(Err(Broken { failure, reason: format!("it answered {}", status.as_u16()) }));
            }
            let host = url.host_str().unwrap_or_default().to_owned();
            return Err(DownloadError::Status { url: shown(url), status: status.as_u16(), host });
        }
        receive(response, download, path).await
    }

    /// Sends a request and returns the beginning of the answer, whatever its status.
    async fn request(&self, download: &Download<'_>, method: Method) -> Ended<reqwest::Response> {
        let url = download.url;
        let refused = |reason: String| DownloadError::Refused { url: shown(url), reason };
        let mut plain = url.clone();
        // Credentials travel as a header of this origin, which redirects do not take elsewhere.
        if plain.set_username("").is_err() || plain.set_password(None).is_err() {
            return Err(refused("the URL has no host".into()));
        }
        let value = download.authorization.as_ref().map(|value| value.expose().clone()).or_else(|| basic(url));
        let authorization = match value.map(|value| HeaderValue::from_str(&value)) {
            None => None,
            Some(Ok(mut value)) => {
                value.set_sensitive(true);
                Some(Authorization { value, origin: plain.clone() })
            }
            Some(Err(_)) => return Err(refused("its credentials cannot be a header".into())),
        };
        let host = host_of(url);
        let request = Request::new(method, plain).header(header::ACCEPT_ENCODING, "identity");
        let transport = self.shared.authenticator.transport();
        match transport.send(&host, &request, authorization.as_ref()).await {
            Ok(response) => Ok(Ok(response)),
            Err(attempt) => broken(attempt, refused),
        }
    }
}

/// The name of exactly these bytes. A weak one names all bytes that are as good.
fn strong_etag(headers: &HeaderMap) -> Option<String> {
    text(headers, header::ETAG).filter(|etag| etag.starts_with('"'))
}

/// Writes the body of an answer into the file.
async fn receive(mut response: reqwest::Response, download: &Download<'_>, path: &Path) -> Ended<Downloaded> {
    let url = download.url;
    let unwritable = |source| DownloadError::File { url: shown(url), source };
    if let Some(encoding) = text(response.headers(), header::CONTENT_ENCODING)
        && !matches!(encoding.to_ascii_lowercase().as_str(), "" | "identity")
    {
        return Err(DownloadError::Encoded { url: shown(url), encoding });
    }
    let last_modified = text(response.headers(), header::LAST_MODIFIED).and_then(|date| seconds(&date));
    let etag = strong_etag(response.headers());
    let promised = response.content_length();
    let mut hasher = download.checksum.map(Hasher::of_kind);
    let mut file = File::create(path).await.map_err(unwritable)?;
    let mut bytes: u64 = 0;
    loop {
        let chunk = match next_chunk(&mut response).await {
            Ok(Some(chunk)) => chunk,
            Ok(None) => break,
            Err(attempt) => return broken(attempt, |reason| DownloadError::Refused { url: shown(url), reason }),
        };
        bytes += chunk.len() as u64;
        if bytes > DOWNLOAD_BYTES_MAX {
            return Err(DownloadError::TooLarge { url: shown(url), limit_bytes: DOWNLOAD_BYTES_MAX });
        }
        if let Some(hasher) = &mut hasher {
            hasher.update(&chunk);
        }
        file.write_all(&chunk).await.map_err(unwritable)?;
    }
    file.flush().await.map_err(unwritable)?;
    if promised.is_some_and(|promised| promised != bytes) {
        let reason = format!("it sent {bytes} of {} bytes", promised.unwrap_or_default());
        return Ok(Err(Broken { failure: Failure::Connection, reason }));
    }
    if let (Some(expected), Some(hasher)) = (download.checksum, hasher) {
        let actual = hasher.finish();
        if actual != *expected {
            return Err(DownloadError::Checksum { url: shown(url), expected: expected.clone(), actual });
        }
    }
    Ok(Ok(Downloaded { bytes, last_modified, etag }))
}

/// Returns a URL as messages have it: without user, password and fragment.
pub fn shown(url: &Url) -> String {
    let mut url = url.clone();
    url.set_fragment(None);
    let is_plain = url.set_username("").is_ok() && url.set_password(None).is_ok();
    if is_plain { url.to_string() } else { url.scheme().to_owned() }
}

/// The header for the user and the password that a URL has.
fn basic(url: &Url) -> Option<String> {
    if url.username().is_empty() && url.password().is_none() {
        return None;
    }
    let pair = format!("{}:{}", decode(url.username()), decode(url.password().unwrap_or_default()));
    Some(format!("Basic {}", STANDARD.encode(pair)))
}

/// Tells a connection that may come back from one that will not.
fn broken<T>(attempt: Attempt, refused: impl FnOnce(String) -> DownloadError) -> Ended<T> {
    match attempt {
        Attempt::Connection { reason, .. } => Ok(Err(Broken { failure: Failure::Connection, reason })),
        Attempt::Fatal(error) => Err(refused(match error {
            RegistryError::TlsRequired { registry } => format!("`{registry}` answered with plain http"),
            RegistryError::Certificate { registry, reason } => format!(
                "the certificate of `{registry}` is not trusted: {reason}; give its CA with --registry-certificate"
            ),
            RegistryError::Protocol { reason, .. } | RegistryError::Policy { reason, .. } => reason,
            other => other.to_string(),
        })),
    }
}

/// What to think of at a status.
fn status_hint(status: u16, host: &str) -> String {
    match StatusCode::from_u16(status) {
        Ok(StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => format!(
            ": pass a token for it with --secret id=HTTP_AUTH_TOKEN_{host},src=FILE, or a whole header as \
             HTTP_AUTH_HEADER_{host}"
        ),
        Ok(StatusCode::NOT_FOUND | StatusCode::GONE) => ": there is no such file".to_owned(),
        _ => String::new(),
    }
}

fn text(headers: &HeaderMap, name: header::HeaderName) -> Option<String> {
    headers.get(name)?.to_str().ok().map(str::to_owned)
}

/// Reads a date of HTTP: `Wed, 21 Oct 2015 07:28:00 GMT`.
fn seconds(date: &str) -> Option<i64> {
    let parser = jiff::fmt::rfc2822::DateTimeParser::new().relaxed_weekday(true);
    parser.parse_timestamp(date).ok().map(jiff::Timestamp::as_second)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn k15_dates_of_servers_are_read() {
        assert_eq!(seconds("Wed, 21 Oct 2015 07:28:00 GMT"), Some(1_445_412_480));
        assert_eq!(seconds("yesterday"), None);
    }

    #[test]
    fn k15_no_message_shows_a_password() {
        let url = Url::parse("https://ada:p%40ss@host:8443/a?b=c#d").unwrap();
        assert_eq!(shown(&url), "https://host:8443/a?b=c");
        assert_eq!(basic(&url).as_deref(), Some("Basic YWRhOnBAc3M="));
        assert_eq!(basic(&Url::parse("https://host/").unwrap()), None);
    }
}
