//! Reading from registries: a reference becomes a verified image, a descriptor a verified file.

use std::path::Path;

use http::{Method, StatusCode, header};
use reqwest::{Response, Url};

use super::{
    BaseImage, ImageSource, Registry,
    error::RegistryError,
    exchange::{Answer, failure_of, read},
    retry::Failure,
    spool::Spool,
    token::Access,
    transport::{Attempt, Request, next_chunk, protocol},
};
use crate::image::{
    config::ImageConfig,
    digest::Digest,
    manifest::{
        ACCEPTED, CONFIG_BYTES_MAX, Descriptor, Document, ImageIndex, InvalidManifest, MANIFEST_BYTES_MAX, Manifest,
        OCI_MANIFEST,
    },
    platform::Platform,
    reference::{Reference, Repository},
};

/// Indexes within indexes that are followed.
const INDEX_DEPTH_MAX: usize = 3;
/// How often one blob is continued after its connection broke, however much each attempt brought.
const RESUMES_MAX: u32 = 100;
/// The header in which registries name the digest of a manifest.
pub(super) const CONTENT_DIGEST: &str = "docker-content-digest";

impl Registry {
    /// Finds the image that a reference names for a platform, and reads its documents.
    ///
    /// # Errors
    /// [`RegistryError::BaseImageNotFound`] if there are images but none for the platform; [`RegistryError::NotFound`] if
    /// there is nothing.
    pub async fn resolve(&self, reference: &Reference, platform: &Platform) -> Result<BaseImage, RegistryError> {
        let repository = reference.repository();
        let (named_digest, mut document) = self.document(reference).await?;
        let mut digest = named_digest.clone();
        for _ in 0..INDEX_DEPTH_MAX {
            let index = match document {
                Document::Index(index) => index,
                Document::Manifest(manifest) => {
                    let config_bytes = self.config(repository, &manifest.config).await?;
                    let source = ImageSource::Registry(reference.clone());
                    let what = reference.to_string();
                    return assemble(source, &what, named_digest, digest, *manifest, config_bytes, platform);
                }
            };
            let chosen = choose(reference, &index, platform)?;
            (digest, document) = self.document(&reference.pinned(chosen.digest.clone())).await?;
        }
        Err(RegistryError::InvalidManifest {
            what: reference.to_string(),
            source: InvalidManifest::MediaType("an index of indexes of indexes".into()),
        })
    }

    /// Returns what a reference names without fetching it, or `None` if there is nothing.
    pub async fn head_manifest(&self, reference: &Reference) -> Result<Option<Descriptor>, RegistryError> {
        let access = Access::pull(reference.repository());
        let request = self.manifest_request(Method::HEAD, reference)?;
        let accepted = [StatusCode::OK, StatusCode::NOT_FOUND];
        let answer = self.exchange(&access, &request, &reference.to_string(), 0, &accepted).await?;
        if answer.status == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        let (size, digest) = (answer.header(header::CONTENT_LENGTH), answer.header(CONTENT_DIGEST));
        let size = size.and_then(|size| size.parse().ok());
        let digest = digest.and_then(|digest| digest.parse().ok()).or_else(|| reference.digest().cloned());
        if let (Some(size), Some(digest)) = (size, digest) {
            let media_type = answer.header(header::CONTENT_TYPE).unwrap_or(OCI_MANIFEST);
            return Ok(Some(Descriptor::new(media_type, digest, size)));
        }
        // Both headers are optional for registries: the document itself has the answer.
        let (digest, bytes, media_type) = self.manifest_bytes(reference).await?;
        Ok(Some(Descriptor::new(&media_type, digest, bytes.len() as u64)))
    }

    /// Reads a manifest or index as it is: its digest, its bytes and its media type. At most 4 MiB.
    pub async fn manifest_bytes(&self, reference: &Reference) -> Result<(Digest, Vec<u8>, String), RegistryError> {
        let access = Access::pull(reference.repository());
        let request = self.manifest_request(Method::GET, reference)?;
        let answer =
            self.exchange(&access, &request, &reference.to_string(), MANIFEST_BYTES_MAX, &[StatusCode::OK]).await?;
        let actual = Digest::of(&answer.body);
        let promised = answer.header(CONTENT_DIGEST).and_then(|digest| digest.parse().ok());
        for expected in [reference.digest().cloned(), promised].into_iter().flatten() {
            if expected != actual {
                return Err(RegistryError::DigestMismatch { what: reference.to_string(), expected, actual });
            }
        }
        let media_type = answer.header(header::CONTENT_TYPE).unwrap_or(OCI_MANIFEST).to_owned();
        Ok((actual, answer.body, media_type))
    }

    /// Reads a small blob into memory, verified.
    ///
    /// # Errors
    /// [`RegistryError::TooLarge`] beyond `bytes_max`.
    pub async fn blob_bytes(
        &self,
        repository: &Repository,
        descriptor: &Descriptor,
        bytes_max: u64,
    ) -> Result<Vec<u8>, RegistryError> {
        let what = blob_name(repository, &descriptor.digest);
        if descriptor.size > bytes_max {
            return Err(RegistryError::TooLarge { what, limit_bytes: bytes_max });
        }
        let request = Request::new(Method::GET, self.blob_url(repository, &descriptor.digest)?);
        let access = Access::pull(repository);
        let answer = self.exchange(&access, &request, &what, descriptor.size, &[StatusCode::OK]).await?;
        let (expected, actual) = (descriptor.digest.clone(), Digest::of(&answer.body));
        if expected != actual {
            return Err(RegistryError::DigestMismatch { what, expected, actual });
        }
        Ok(answer.body)
    }

    /// Whether a repository has a blob.
    pub async fn blob_exists(&self, repository: &Repository, digest: &Digest) -> Result<bool, RegistryError> {
        let request = Request::new(Method::HEAD, self.blob_url(repository, digest)?);
        let accepted = [StatusCode::OK, StatusCode::NOT_FOUND];
        let what = blob_name(repository, digest);
        let answer = self.exchange(&Access::pull(repository), &request, &what, 0, &accepted).await?;
        Ok(answer.status == StatusCode::OK)
    }

    /// Streams a blob to a file, which exists under its name only when size and digest are right. A broken connection is
    /// continued where it broke. At most four transfers run at a time.
    pub async fn fetch_blob(
        &self,
        repository: &Repository,
        descriptor: &Descriptor,
        path: &Path,
    ) -> Result<(), RegistryError> {
        let _turn = self.transfer().await;
        let (access, what) = (Access::pull(repository), blob_name(repository, &descriptor.digest));
        let url = self.blob_url(repository, &descriptor.digest)?;
        let mut spool = Spool::create(what.clone(), descriptor, path).await?;
        let (mut attempts, mut resumes) = (0, 0);
        loop {
            let before = spool.written();
            let Some(broken) = self.receive(&access, &url, &mut spool, &what, descriptor.size).await? else {
                return spool.finish().await;
            };
            // Progress earns new attempts, up to a bound: a large layer over a poor link shall arrive.
            attempts = if spool.written() > before { 1 } else { attempts + 1 };
            resumes += 1;
            if resumes > RESUMES_MAX || !self.shared.retry.pause(attempts, broken.failure).await {
                return Err(broken.error(access.repository.registry(), resumes));
            }
        }
    }

    /// Receives a blob as far as one connection goes: `None` when it is complete.
    async fn receive(
        &self,
        access: &Access<'_>,
        url: &Url,
        spool: &mut Spool<'_>,
        what: &str,
        size: u64,
    ) -> Result<Option<Broken>, RegistryError> {
        if spool.written() == size && size > 0 {
            return Ok(None);
        }
        let mut request = Request::new(Method::GET, url.clone());
        if spool.written() > 0 {
            request = request.header(header::RANGE, &format!("bytes={}-", spool.written()));
        }
        let mut response = match self.shared.authenticator.send(access, &request).await {
            Ok(response) => response,
            Err(attempt) => return broken(attempt).map(Some),
        };
        match response.status() {
            StatusCode::OK if spool.written() > 0 => spool.restart().await?,
            StatusCode::OK => {}
            StatusCode::PARTIAL_CONTENT if continues_at(&response, spool.written()) => {}
            StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE => {
                spool.restart().await?;
                let reason = "it does not continue where it was asked to".to_owned();
                return broken(Attempt::Connection { host: access.repository.registry().into(), reason }).map(Some);
            }
            status => return self.refused(access, what, status, response).await.map(Some),
        }
        loop {
            match next_chunk(&mut response).await {
                Ok(Some(chunk)) => spool.append(&chunk).await?,
                Ok(None) if spool.written() < size => {
                    let reason = format!("it sent {} of {size} bytes", spool.written());
                    return broken(Attempt::Connection { host: access.repository.registry().into(), reason }).map(Some);
                }
                Ok(None) => return Ok(None),
                Err(attempt) => return broken(attempt).map(Some),
            }
        }
    }

    /// Reads an answer that is no blob: a transient one is `Ok`.
    async fn refused(
        &self,
        access: &Access<'_>,
        what: &str,
        status: StatusCode,
        response: Response,
    ) -> Result<Broken, RegistryError> {
        let answer = match read(response, 0).await {
            Ok(answer) => answer,
            Err(attempt) => return broken(attempt),
        };
        let failure = failure_of(status, &answer.headers);
        if failure.is_transient() {
            return Ok(Broken { failure, reason: super::exchange::said(&answer.body) });
        }
        Err(self.refusal(access, what, status, &answer.body))
    }

    async fn document(&self, reference: &Reference) -> Result<(Digest, Document), RegistryError> {
        let (digest, bytes, media_type) = self.manifest_bytes(reference).await?;
        let invalid = |source| RegistryError::InvalidManifest { what: reference.to_string(), source };
        Ok((digest, Document::parse(&bytes, Some(&media_type)).map_err(invalid)?))
    }

    async fn config(&self, repository: &Repository, descriptor: &Descriptor) -> Result<Vec<u8>, RegistryError> {
        self.blob_bytes(repository, descriptor, CONFIG_BYTES_MAX).await
    }

    fn manifest_request(&self, method: Method, reference: &Reference) -> Result<Request, RegistryError> {
        let url = self.url(reference.repository(), &format!("manifests/{}", reference.selector()))?;
        Ok(Request::new(method, url).header(header::ACCEPT, &ACCEPTED.join(", ")))
    }

    pub(super) fn blob_url(&self, repository: &Repository, digest: &Digest) -> Result<Url, RegistryError> {
        self.url(repository, &format!("blobs/{digest}"))
    }

    pub(super) fn url(&self, repository: &Repository, rest: &str) -> Result<Url, RegistryError> {
        let endpoint = self.shared.authenticator.transport().endpoint(repository.registry())?;
        let joined = endpoint.join(&format!("/v2/{}/{rest}", repository.name()));
        joined.map_err(|error| protocol(repository.registry(), &endpoint, error.to_string()))
    }

    /// Waits for a turn to transfer a blob.
    pub(super) async fn transfer(&self) -> Option<tokio::sync::SemaphorePermit<'_>> {
        // The semaphore is never closed.
        self.shared.transfers.acquire().await.ok()
    }
}

/// A transfer that ended early and may be continued.
#[derive(Debug)]
pub(super) struct Broken {
    pub(super) failure: Failure,
    pub(super) reason: String,
}

impl Broken {
    /// Says that no attempt is left.
    pub(super) fn error(self, registry: &str, attempts: u32) -> RegistryError {
        let registry = registry.to_owned();
        match self.failure {
            Failure::Connection => RegistryError::Unreachable { registry, reason: self.reason, attempts },
            Failure::Status { status, .. } => {
                RegistryError::Unavailable { registry, status, detail: self.reason, attempts }
            }
        }
    }
}

/// Tells a connection that broke from an error that stays.
pub(super) fn broken(attempt: Attempt) -> Result<Broken, RegistryError> {
    match attempt {
        Attempt::Connection { reason, .. } => Ok(Broken { failure: Failure::Connection, reason }),
        Attempt::Fatal(error) => Err(error),
    }
}

/// Names a blob in errors.
pub(super) fn blob_name(repository: &Repository, digest: &Digest) -> String {
    format!("{repository}@{digest}")
}

/// Whether a partial answer begins at an offset (RFC 9110, 14.4).
fn continues_at(response: &Response, offset: u64) -> bool {
    let range = response.headers().get(header::CONTENT_RANGE).and_then(|range| range.to_str().ok());
    let start = range.and_then(|range| range.strip_prefix("bytes ")?.split('-').next()?.trim().parse::<u64>().ok());
    start == Some(offset)
}

/// Chooses the image of an index, or says which platforms there are.
pub(super) fn choose<'a>(
    reference: impl std::fmt::Display,
    index: &'a ImageIndex,
    platform: &Platform,
) -> Result<&'a Descriptor, RegistryError> {
    index.choose(platform).ok_or_else(|| RegistryError::BaseImageNotFound {
        reference: reference.to_string(),
        platform: platform.to_string(),
        platforms: index.platforms(),
    })
}

/// Puts the documents of an image together and checks that they belong to each other.
pub(super) fn assemble(
    source: ImageSource,
    what: &str,
    named_digest: Digest,
    digest: Digest,
    manifest: Manifest,
    config_bytes: Vec<u8>,
    platform: &Platform,
) -> Result<BaseImage, RegistryError> {
    let invalid = |reason: String| RegistryError::InvalidConfig { what: what.to_owned(), reason };
    let config: ImageConfig = serde_json::from_slice(&config_bytes).map_err(|error| invalid(error.to_string()))?;
    let (layers, diff_ids) = (manifest.layers.len(), config.rootfs.diff_ids.len());
    if layers != diff_ids {
        return Err(invalid(format!("it has {diff_ids} diffIDs for {layers} layers")));
    }
    let variant = config.variant.clone();
    let own = Platform { os: config.os.clone(), architecture: config.architecture.clone(), variant };
    if platform.rate(&own).is_none() {
        // As docker does it: an image that is offered for one platform only is taken at the user's word.
        tracing::warn!(image = what, platform = %own, wanted = %platform, "the image is for another platform");
    }
    let layers = manifest.layers.clone();
    Ok(BaseImage { source, named_digest, digest, manifest, config_bytes, config, layers })
}

/// Reads a header of an answer as a digest.
pub(super) fn digest_header(answer: &Answer) -> Option<Digest> {
    answer.header(CONTENT_DIGEST)?.parse().ok()
}
