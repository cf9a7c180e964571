//! Registries: references and descriptors in, verified bytes and pushed images out (OCI distribution-spec 1.1).
//!
//! ```text
//! pull, push -> retry (what is worth another try) -> token (who we are) -> transport (the only sockets)
//! ```
//!
//! `credentials`, `challenge` and `retry::decide` are pure. Nothing is believed that its digest does not prove; a blob
//! appears under its name only when it is complete; credentials go to the registry that they are for and nowhere else.
//! `layout` speaks the same vocabulary for images in a directory.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use tokio::sync::Semaphore;

use crate::image::{
    config::ImageConfig,
    digest::Digest,
    manifest::{Descriptor, Manifest},
    reference::{Reference, Repository},
};

pub mod challenge;
pub mod credentials;
pub mod download;
pub mod error;
mod exchange;
mod helper;
pub mod layout;
mod pull;
mod push;
pub mod retry;
mod spool;
mod token;
mod transport;

use credentials::Credentials;
pub use error::{ErrorKind, RegistryError};
use layout::Layout;
pub use push::{Blob, Pushed};
use retry::RetryPolicy;
use token::Authenticator;
pub use transport::HostPolicy;
use transport::Transport;

/// Transfers of blobs at one time; more gain nothing on one link and meet the registries' rate limits.
const TRANSFERS_MAX: usize = 4;

/// Everything that decides how registries are spoken to.
#[derive(Debug, Default)]
pub struct RegistryOptions {
    /// What is special about a registry, by `host` or `host:port` as references name it. Every other one is spoken to with
    /// verified TLS.
    pub hosts: BTreeMap<String, HostPolicy>,
    /// Credentials for every repository.
    pub credentials: Credentials,
    /// Credentials that win for one repository and those below it: where the image goes.
    pub push_credentials: Option<(Repository, Credentials)>,
    /// What the program calls itself; empty is `karve`.
    pub user_agent: String,
    /// How often and when a failure is tried again.
    pub retry: RetryPolicy,
}

/// A client for every registry that a build touches. Clones share connections, tokens and limits.
#[derive(Clone, Debug)]
pub struct Registry {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    authenticator: Authenticator,
    retry: RetryPolicy,
    transfers: Semaphore,
}

impl Registry {
    /// Prepares the clients; opens no connection.
    ///
    /// # Errors
    /// [`RegistryError::Policy`] for a CA that cannot be read.
    pub fn new(options: RegistryOptions) -> Result<Self, RegistryError> {
        let transport = Transport::new(options.hosts, &options.user_agent)?;
        let authenticator =
            Authenticator::new(transport, options.retry.clone(), options.credentials, options.push_credentials);
        let transfers = Semaphore::new(TRANSFERS_MAX);
        Ok(Self { shared: Arc::new(Shared { authenticator, retry: options.retry, transfers }) })
    }
}

/// Where an image was found.
#[derive(Clone, Debug)]
pub enum ImageSource {
    /// In a registry, under this reference.
    Registry(Reference),
    /// In a directory.
    Layout(Layout),
}

/// An image to build on: its documents, verified by their digests.
#[derive(Clone, Debug)]
pub struct BaseImage {
    /// Where its blobs are.
    pub source: ImageSource,
    /// The digest of what the reference names: the index where there is one, else the manifest.
    pub named_digest: Digest,
    /// The digest of the manifest for the platform.
    pub digest: Digest,
    /// The manifest for the platform.
    pub manifest: Manifest,
    /// The configuration as it came.
    pub config_bytes: Vec<u8>,
    /// The configuration, read.
    pub config: ImageConfig,
    /// The layers, lowest first; as many as the configuration has diffIDs.
    pub layers: Vec<Descriptor>,
}

impl ImageSource {
    /// Brings a blob of the image into a file, verified, from wherever the image is.
    pub async fn fetch_blob(
        &self,
        registry: &Registry,
        descriptor: &Descriptor,
        path: &Path,
    ) -> Result<(), RegistryError> {
        match self {
            Self::Registry(reference) => registry.fetch_blob(reference.repository(), descriptor, path).await,
            Self::Layout(layout) => layout.fetch_blob(descriptor, path).await,
        }
    }

    /// Reads a small blob of the image into memory, verified.
    ///
    /// # Errors
    /// [`RegistryError::TooLarge`] beyond `bytes_max`.
    pub async fn blob_bytes(
        &self,
        registry: &Registry,
        descriptor: &Descriptor,
        bytes_max: u64,
    ) -> Result<Vec<u8>, RegistryError> {
        match self {
            Self::Registry(reference) => registry.blob_bytes(reference.repository(), descriptor, bytes_max).await,
            Self::Layout(layout) => layout.blob_bytes(&descriptor.digest, bytes_max),
        }
    }
}
