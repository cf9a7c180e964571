//! Writing to registries: blobs first, then the manifest that names them.
//!
//! ```text
//! POST ?mount= (is it next door?) -> HEAD (is it there?) -> PUT the file, or PATCH what is missing after a failure
//! ```
//!
//! This is the way of a blob that was made just now; of one that is elsewhere already, whoever has it asks HEAD first. A blob
//! is never sent where it is already, unless it is so small that asking costs more, and an upload that broke goes on from
//! what the registry says it has. A manifest is reported only after the registry has shown that it holds it.

use std::path::Path;

use http::{Method, StatusCode, header};
use reqwest::Url;
use tokio::fs;

use super::{
    Registry,
    error::{ErrorKind, RegistryError},
    exchange::{Answer, failure_of, read},
    pull::{Broken, blob_name, broken, digest_header},
    retry::Failure,
    spool::beside,
    token::Access,
    transport::{Body, Request, protocol},
};
use crate::image::{
    digest::Digest,
    manifest::Descriptor,
    reference::{Reference, Repository},
};

/// The largest answer to a request that writes.
const ANSWER_BYTES_MAX: u64 = 64 << 10;
/// What is not larger is sent without the question whether it is there: where round trips take long, three of them take
/// longer than two and the bytes.
const UNASKED_BYTES_MAX: u64 = 32 << 10;
/// How often one upload is continued or begun anew, however much each attempt brought.
const RESUMES_MAX: u32 = 50;

/// A blob that lies in a file.
#[derive(Clone, Copy, Debug)]
pub struct Blob<'a> {
    /// The digest of the file's bytes.
    pub digest: &'a Digest,
    /// Bytes of the file.
    pub size: u64,
    /// The file.
    pub path: &'a Path,
}

/// How a blob came to be where it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pushed {
    /// It was there.
    Existed,
    /// The registry took it from another of its repositories.
    Mounted,
    /// It was sent.
    Uploaded,
}

/// The bytes of an upload.
#[derive(Clone, Copy, Debug)]
enum Payload<'a> {
    File(&'a Path),
    Bytes(&'a [u8]),
}

impl Payload<'_> {
    fn from(self, offset: u64, size: u64) -> Body {
        match self {
            Self::File(path) => Body::File { path: path.to_owned(), offset, length: size - offset },
            Self::Bytes(bytes) => {
                let start = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
                Body::Bytes(bytes[start..].to_vec())
            }
        }
    }
}

/// One blob on its way to one repository.
#[derive(Clone, Copy, Debug)]
struct Upload<'a> {
    access: Access<'a>,
    digest: &'a Digest,
    size: u64,
    payload: Payload<'a>,
}

/// What a request to begin an upload led to.
enum Opened {
    Mounted,
    Session(Url),
}

impl Registry {
    /// Brings a blob into a repository: from one of `sources` in the same registry if it is in one, not at all if it is
    /// there and not small, else from the file.
    pub async fn push_blob(
        &self,
        to: &Repository,
        blob: &Blob<'_>,
        sources: &[Repository],
    ) -> Result<Pushed, RegistryError> {
        for source in sources {
            if self.mount_blob(source, to, blob.digest).await? {
                return Ok(Pushed::Mounted);
            }
        }
        if blob.size > UNASKED_BYTES_MAX && self.blob_exists(to, blob.digest).await? {
            return Ok(Pushed::Existed);
        }
        self.send_blob(to, blob).await?;
        Ok(Pushed::Uploaded)
    }

    /// Sends a blob from a file, whether it is there or not. At most four transfers run at a time.
    pub async fn send_blob(&self, to: &Repository, blob: &Blob<'_>) -> Result<(), RegistryError> {
        let _turn = self.transfer().await;
        let payload = Payload::File(blob.path);
        self.upload(&Upload { access: Access::push(to), digest: blob.digest, size: blob.size, payload }).await
    }

    /// Brings a small blob from memory into a repository, if it is not there, and returns its digest.
    pub async fn push_bytes(&self, to: &Repository, bytes: &[u8]) -> Result<Digest, RegistryError> {
        let digest = Digest::of(bytes);
        if self.blob_exists(to, &digest).await? { Ok(digest) } else { self.send_bytes(to, bytes).await }
    }

    /// Sends a small blob from memory, whether it is there or not, and returns its digest.
    pub async fn send_bytes(&self, to: &Repository, bytes: &[u8]) -> Result<Digest, RegistryError> {
        let (digest, size, payload) = (Digest::of(bytes), bytes.len() as u64, Payload::Bytes(bytes));
        self.upload(&Upload { access: Access::push(to), digest: &digest, size, payload }).await?;
        Ok(digest)
    }

    /// Asks a registry to take a blob from another of its repositories; `false` if it does not, for whatever reason.
    pub async fn mount_blob(&self, from: &Repository, to: &Repository, digest: &Digest) -> Result<bool, RegistryError> {
        if from.registry() != to.registry() || from == to {
            return Ok(false);
        }
        match self.open(&Access { source: Some(from), ..Access::push(to) }, Some((from, digest))).await {
            Ok(Opened::Mounted) => Ok(true),
            Ok(Opened::Session(session)) => {
                self.cancel(&Access::push(to), session).await;
                Ok(false)
            }
            // The credentials may not reach the source, or the registry may not mount at all: the upload will tell.
            Err(error) if matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Tls) => Err(error),
            Err(error) => {
                tracing::debug!(%from, %to, %digest, %error, "the blob was not mounted");
                Ok(false)
            }
        }
    }

    /// Brings a blob from one repository into another: not at all, by mounting, or through a file in `spool_directory`.
    pub async fn copy_blob(
        &self,
        from: &Repository,
        to: &Repository,
        descriptor: &Descriptor,
        spool_directory: &Path,
    ) -> Result<Pushed, RegistryError> {
        if self.blob_exists(to, &descriptor.digest).await? {
            return Ok(Pushed::Existed);
        }
        if self.mount_blob(from, to, &descriptor.digest).await? {
            return Ok(Pushed::Mounted);
        }
        let spool = beside(&spool_directory.join(descriptor.digest.hex()));
        self.fetch_blob(from, descriptor, &spool).await?;
        let blob = Blob { digest: &descriptor.digest, size: descriptor.size, path: &spool };
        let sent = self.send_blob(to, &blob).await;
        fs::remove_file(&spool).await.map_err(RegistryError::file("remove", &spool))?;
        sent.map(|()| Pushed::Uploaded)
    }

    /// Writes a manifest under a tag, or under its digest, and returns the digest once the registry shows that it holds it.
    pub async fn push_manifest(
        &self,
        reference: &Reference,
        bytes: &[u8],
        media_type: &str,
    ) -> Result<Digest, RegistryError> {
        let digest = self.put_manifest(reference, bytes, media_type).await?;
        self.confirm(&reference.pinned(digest.clone())).await?;
        Ok(digest)
    }

    /// Writes a manifest as [`Registry::push_manifest`] does, and takes the registry's word for it.
    pub async fn put_manifest(
        &self,
        reference: &Reference,
        bytes: &[u8],
        media_type: &str,
    ) -> Result<Digest, RegistryError> {
        let actual = Digest::of(bytes);
        if let Some(expected) = reference.digest().filter(|digest| **digest != actual) {
            let (what, expected) = (reference.to_string(), expected.clone());
            return Err(RegistryError::DigestMismatch { what, expected, actual });
        }
        let selector = reference.tag().map_or_else(|| actual.to_string(), str::to_owned);
        let url = self.url(reference.repository(), &format!("manifests/{selector}"))?;
        let request =
            Request::new(Method::PUT, url).header(header::CONTENT_TYPE, media_type).body(Body::Bytes(bytes.to_vec()));
        let accepted = [StatusCode::CREATED, StatusCode::OK, StatusCode::ACCEPTED];
        let access = Access::push(reference.repository());
        let answer = self.exchange(&access, &request, &reference.to_string(), ANSWER_BYTES_MAX, &accepted).await?;
        if let Some(stored) = digest_header(&answer).filter(|stored| *stored != actual) {
            return Err(RegistryError::DigestMismatch {
                what: reference.to_string(),
                expected: actual,
                actual: stored,
            });
        }
        Ok(actual)
    }

    /// Waits until a registry shows a manifest that it has accepted; some show it a moment later.
    async fn confirm(&self, pinned: &Reference) -> Result<(), RegistryError> {
        let mut attempts = 1;
        while self.head_manifest(pinned).await?.is_none() {
            if !self.shared.retry.pause(attempts, Failure::Connection).await {
                let detail = " although the registry accepted it".to_owned();
                return Err(RegistryError::NotFound { what: pinned.to_string(), detail });
            }
            attempts += 1;
        }
        Ok(())
    }

    async fn upload(&self, upload: &Upload<'_>) -> Result<(), RegistryError> {
        let (to, registry) = (upload.access.repository, upload.access.repository.registry());
        let (mut session, mut received) = (self.begin(&upload.access).await?, 0);
        let (mut attempts, mut resumes) = (0, 0);
        while let Some(broken) = self.send(upload, &session, received).await? {
            (attempts, resumes) = (attempts + 1, resumes + 1);
            if resumes > RESUMES_MAX || !self.shared.retry.pause(attempts, broken.failure).await {
                return Err(broken.error(registry, resumes));
            }
            // The answer may have been lost, and not the blob.
            if self.blob_exists(to, upload.digest).await? {
                return Ok(());
            }
            if let Some((location, count)) = self.progress(upload, &session).await? {
                attempts = if count > received { 0 } else { attempts };
                (session, received) = (location, count);
            } else {
                (session, received) = (self.begin(&upload.access).await?, 0);
            }
        }
        Ok(())
    }

    async fn begin(&self, access: &Access<'_>) -> Result<Url, RegistryError> {
        match self.open(access, None).await? {
            Opened::Session(session) => Ok(session),
            Opened::Mounted => Err(RegistryError::Protocol {
                registry: access.repository.registry().to_owned(),
                what: "an upload".into(),
                reason: "it created what was not sent".into(),
            }),
        }
    }

    /// Opens an upload, or mounts. Doing it twice costs the registry a session that it forgets, so it may be repeated.
    async fn open(&self, access: &Access<'_>, mount: Option<(&Repository, &Digest)>) -> Result<Opened, RegistryError> {
        let mut url = self.url(access.repository, "blobs/uploads/")?;
        if let Some((from, digest)) = mount {
            url.query_pairs_mut().append_pair("mount", &digest.to_string()).append_pair("from", from.name());
        }
        let request = Request::new(Method::POST, url).header(header::CONTENT_LENGTH, "0");
        let accepted = [StatusCode::ACCEPTED, StatusCode::CREATED];
        let what = access.repository.to_string();
        let answer = self.exchange(access, &request, &what, ANSWER_BYTES_MAX, &accepted).await?;
        if answer.status == StatusCode::CREATED {
            return Ok(Opened::Mounted);
        }
        location(access, &answer).map(Opened::Session)
    }

    /// Sends what is missing and closes the upload: `None` when the registry has the blob.
    async fn send(&self, upload: &Upload<'_>, session: &Url, received: u64) -> Result<Option<Broken>, RegistryError> {
        let mut session = session.clone();
        let Upload { access, size, payload, .. } = upload;
        if received > 0 && received < *size {
            let request = Request::new(Method::PATCH, session)
                .header(header::CONTENT_TYPE, "application/octet-stream")
                .header(header::CONTENT_RANGE, &format!("{received}-{}", size - 1))
                .body(payload.from(received, *size));
            match self.step(upload, &request, StatusCode::ACCEPTED, true).await? {
                Ok(answer) => session = location(access, &answer)?,
                Err(broken) => return Ok(Some(broken)),
            }
        }
        let whole = received == 0;
        session.query_pairs_mut().append_pair("digest", &upload.digest.to_string());
        let body = if whole { payload.from(0, *size) } else { Body::Bytes(Vec::new()) };
        let request =
            Request::new(Method::PUT, session).header(header::CONTENT_TYPE, "application/octet-stream").body(body);
        match self.step(upload, &request, StatusCode::CREATED, !whole).await? {
            Ok(_) => Ok(None),
            Err(broken) => Ok(Some(broken)),
        }
    }

    /// Sends one request of an upload, once. `Ok(Err(_))` is a failure after which the upload can go on; a session that
    /// is gone is one, and so is any complaint about a continued one.
    async fn step(
        &self,
        upload: &Upload<'_>,
        request: &Request,
        expected: StatusCode,
        continued: bool,
    ) -> Result<Result<Answer, Broken>, RegistryError> {
        let answer = match self.shared.authenticator.send(&upload.access, request).await {
            Ok(response) => read(response, ANSWER_BYTES_MAX).await,
            Err(attempt) => Err(attempt),
        };
        let answer = match answer {
            Ok(answer) => answer,
            Err(attempt) => return broken(attempt).map(Err),
        };
        if answer.status == expected {
            return Ok(Ok(answer));
        }
        let failure = failure_of(answer.status, &answer.headers);
        let lost = answer.status == StatusCode::NOT_FOUND
            || continued && matches!(answer.status, StatusCode::BAD_REQUEST | StatusCode::RANGE_NOT_SATISFIABLE);
        if failure.is_transient() || lost {
            let reason = format!("it answered {}{}", answer.status.as_u16(), super::exchange::said(&answer.body));
            let failure = if lost { Failure::Connection } else { failure };
            return Ok(Err(Broken { failure, reason }));
        }
        let what = blob_name(upload.access.repository, upload.digest);
        Err(self.refusal(&upload.access, &what, answer.status, &answer.body))
    }

    /// Asks how many bytes of an upload a registry has; `None` if the upload must begin anew.
    async fn progress(&self, upload: &Upload<'_>, session: &Url) -> Result<Option<(Url, u64)>, RegistryError> {
        let request = Request::new(Method::GET, session.clone());
        let access = &upload.access;
        let asked = self.exchange(access, &request, "an upload", ANSWER_BYTES_MAX, &[StatusCode::NO_CONTENT]).await;
        let answer = match asked {
            Ok(answer) => answer,
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Refused) => return Ok(None),
            Err(error) => return Err(error),
        };
        let range = answer.header(header::RANGE).map(|range| range.strip_prefix("bytes=").unwrap_or(range));
        let last = range.and_then(|range| range.strip_prefix("0-")?.parse::<u64>().ok());
        // `0-0` is what registries say for one byte and for none: beginning anew is right for both.
        let count = last.filter(|last| *last > 0).map(|last| last + 1).filter(|count| *count <= upload.size);
        let Some(count) = count else {
            self.cancel(access, session.clone()).await;
            return Ok(None);
        };
        let location =
            if answer.headers.contains_key(header::LOCATION) { location(access, &answer)? } else { session.clone() };
        Ok(Some((location, count)))
    }

    /// Tells a registry that an upload is not wanted any more; it would forget it by itself, later.
    async fn cancel(&self, access: &Access<'_>, session: Url) {
        let request = Request::new(Method::DELETE, session);
        if let Err(attempt) = self.shared.authenticator.send(access, &request).await {
            tracing::debug!(?attempt, "the upload was not cancelled");
        }
    }
}

/// Reads where an upload goes on. A registry behind a proxy that ends TLS may not know its own scheme.
fn location(access: &Access<'_>, answer: &Answer) -> Result<Url, RegistryError> {
    let registry = access.repository.registry();
    let wrong = |reason: &str| protocol(registry, &answer.url, reason.to_owned());
    let location = answer.header(header::LOCATION).ok_or_else(|| wrong("an upload without Location"))?;
    let mut url = answer.url.join(location).map_err(|_| wrong("a Location that is no URL"))?;
    if url.scheme() == "http" && answer.url.scheme() == "https" {
        let same = url.host_str() == answer.url.host_str();
        if !same || url.set_scheme("https").is_err() {
            return Err(wrong("a Location that drops TLS"));
        }
    }
    Ok(url)
}
