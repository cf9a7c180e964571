//! What can go wrong between a build and a registry, as facts: who was asked for what, and what to do next.
//!
//! No variant holds a secret, nor a URL's query (pre-signed URLs carry signatures in it).

use std::{io, path::PathBuf};

use crate::image::{digest::Digest, manifest::InvalidManifest, reference::InvalidReference};

/// The families of failure that a report tells apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The credentials are missing or not enough; trying again soon does not help.
    Unauthorized,
    /// The image or blob does not exist.
    NotFound,
    /// The registry or the network fails; another try may succeed.
    Unavailable,
    /// The connection is not set up for this registry: TLS, CA, plain http.
    Tls,
    /// What was received is not what its digest promises.
    Corrupt,
    /// The reference, or a document of the registry, is not valid.
    Invalid,
    /// The registry refuses the request for its own reasons.
    Refused,
    /// This machine's disk.
    Local,
}

/// A failure in talking to a registry or in reading an OCI layout.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// 401 or 403 after the credentials, if any, were sent.
    #[error("the registry `{registry}` denies `{action}` on `{repository}`: {credentials}{detail}")]
    Unauthorized {
        /// The registry.
        registry: String,
        /// The repository's name within it.
        repository: String,
        /// `pull` or `push`.
        action: &'static str,
        /// Which entry's credentials were refused, or that none were given.
        credentials: String,
        /// What the registry said, with a separator, or nothing.
        detail: String,
    },
    /// There is no such manifest or blob.
    #[error("`{what}` does not exist{detail}")]
    NotFound {
        /// The reference, or repository and digest.
        what: String,
        /// What the registry said, with a separator, or nothing.
        detail: String,
    },
    /// The index has no image for the platform.
    #[error("`{reference}` has no image for {platform}: it has {}", available(.platforms))]
    BaseImageNotFound {
        /// The image.
        reference: String,
        /// What was wanted.
        platform: String,
        /// What there is.
        platforms: Vec<String>,
    },
    /// 5xx or 429, until no attempt was left.
    #[error("the registry `{registry}` answered {status}{detail}, {attempts} times")]
    Unavailable {
        /// The registry.
        registry: String,
        /// The HTTP status.
        status: u16,
        /// What the registry said, with a separator, or nothing.
        detail: String,
        /// How often it was asked.
        attempts: u32,
    },
    /// No connection, or one that broke, until no attempt was left.
    #[error("cannot reach `{registry}`: {reason}, {attempts} times")]
    Unreachable {
        /// The host.
        registry: String,
        /// The deepest cause.
        reason: String,
        /// How often it was tried.
        attempts: u32,
    },
    /// TLS was spoken to a server that answers without.
    #[error(
        "the registry `{registry}` answered with plain http: name it in --insecure-registry or registries[].plainHTTP"
    )]
    TlsRequired {
        /// The registry.
        registry: String,
    },
    /// The server's certificate does not verify.
    #[error(
        "the certificate of `{registry}` is not trusted: {reason}; give its CA with --registry-certificate or registries[].caConfigMapRef"
    )]
    Certificate {
        /// The host.
        registry: String,
        /// Why.
        reason: String,
    },
    /// The clients cannot be built as asked.
    #[error("cannot speak to `{registry}`: {reason}")]
    Policy {
        /// The host.
        registry: String,
        /// Why.
        reason: String,
    },
    /// Another status that ends the request.
    #[error("the registry `{registry}` refused {what} with {status}{detail}")]
    Refused {
        /// The registry.
        registry: String,
        /// What was asked.
        what: String,
        /// The HTTP status.
        status: u16,
        /// What the registry said, with a separator, or nothing.
        detail: String,
    },
    /// The answer breaks the protocol.
    #[error("the registry `{registry}` answered {what} against the protocol: {reason}")]
    Protocol {
        /// The registry.
        registry: String,
        /// What was asked.
        what: String,
        /// What is wrong.
        reason: String,
    },
    /// The content is not what was asked for.
    #[error("`{what}` has the digest {actual}, not {expected}")]
    DigestMismatch {
        /// The reference, or where the blob came from.
        what: String,
        /// The digest that was asked for.
        expected: Digest,
        /// The digest of what came.
        actual: Digest,
    },
    /// The content is longer or shorter than its descriptor says.
    #[error("`{what}` has {actual} bytes, not {expected}")]
    SizeMismatch {
        /// The reference, or where the blob came from.
        what: String,
        /// Bytes that were promised.
        expected: u64,
        /// Bytes that came; one more than promised stands for any number.
        actual: u64,
    },
    /// A document is larger than is read.
    #[error("`{what}` is larger than {limit_bytes} bytes")]
    TooLarge {
        /// The document.
        what: String,
        /// The limit.
        limit_bytes: u64,
    },
    /// A document is not what it should be.
    #[error("`{what}` is not an image that can be used")]
    InvalidManifest {
        /// The reference.
        what: String,
        /// Why.
        #[source]
        source: InvalidManifest,
    },
    /// A configuration is not what it should be.
    #[error("the configuration of `{what}` is not valid: {reason}")]
    InvalidConfig {
        /// The reference.
        what: String,
        /// Why.
        reason: String,
    },
    /// A text names no image.
    #[error(transparent)]
    InvalidReference(#[from] InvalidReference),
    /// The docker configuration cannot be used.
    #[error(transparent)]
    Credentials(#[from] super::credentials::CredentialsError),
    /// A directory is no OCI image layout.
    #[error("`{}` is not an OCI image layout: {reason}", path.display())]
    InvalidLayout {
        /// The directory.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A file of this machine.
    #[error("cannot {action} `{}`", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

impl RegistryError {
    /// Returns the family of the failure.
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::Unauthorized { .. } | Self::Credentials(_) => ErrorKind::Unauthorized,
            Self::NotFound { .. } | Self::BaseImageNotFound { .. } => ErrorKind::NotFound,
            Self::Unavailable { .. } | Self::Unreachable { .. } => ErrorKind::Unavailable,
            Self::TlsRequired { .. } | Self::Certificate { .. } | Self::Policy { .. } => ErrorKind::Tls,
            Self::DigestMismatch { .. } | Self::SizeMismatch { .. } => ErrorKind::Corrupt,
            Self::TooLarge { .. }
            | Self::InvalidManifest { .. }
            | Self::InvalidConfig { .. }
            | Self::InvalidReference(_)
            | Self::InvalidLayout { .. } => ErrorKind::Invalid,
            Self::Refused { .. } | Self::Protocol { .. } => ErrorKind::Refused,
            Self::File { .. } => ErrorKind::Local,
        }
    }

    /// Wraps what the file system said about a path.
    pub(crate) fn file(action: &'static str, path: &std::path::Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File { action, path, source }
    }
}

fn available(platforms: &[String]) -> String {
    if platforms.is_empty() { "none".into() } else { platforms.join(", ") }
}
