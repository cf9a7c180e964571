//! Uploads: layers go to the destinations' repositories while later steps run; what a registry already has is not sent, unless
//! it is very small.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
};

use futures::future::try_join_all;
use tokio::{sync::OnceCell, task::JoinSet};

use super::{
    error::SolveError,
    layers::{Layers, StageLayer},
};
use crate::{
    image::{digest::Digest, reference::Repository},
    registry::{Blob, ImageSource, Pushed, Registry},
};

/// Starts uploads and waits for them.
#[derive(Debug)]
pub struct Uploader {
    uploads: Arc<Uploads>,
    tasks: Mutex<JoinSet<Result<(), SolveError>>>,
}

/// The layers that are in a repository, or on their way there.
type Done = HashMap<(Repository, Digest), Arc<OnceCell<()>>>;

/// Brings layers into repositories, each once.
#[derive(Debug)]
pub(super) struct Uploads {
    registry: Registry,
    layers: Arc<Layers>,
    repositories: Vec<Repository>,
    done: Mutex<Done>,
    bytes: AtomicI64,
}

impl Uploader {
    /// Takes the repositories that every layer goes to; there are none when nothing is pushed.
    pub fn new(registry: Registry, layers: Arc<Layers>, repositories: Vec<Repository>) -> Self {
        let uploads = Uploads { registry, layers, repositories, done: Mutex::default(), bytes: 0.into() };
        Self { uploads: Arc::new(uploads), tasks: Mutex::default() }
    }

    /// Begins to upload a layer; a layer that was added before is not sent again.
    pub fn add(&self, layer: &Arc<StageLayer>) {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        for repository in &self.uploads.repositories {
            let (uploads, layer, repository) = (Arc::clone(&self.uploads), Arc::clone(layer), repository.clone());
            tasks.spawn(async move { uploads.bring(&layer, &repository).await });
        }
    }

    /// Brings a small document into every repository; whether it is there already is only asked where that is likely.
    pub(super) async fn document(&self, bytes: &[u8], is_new: bool) -> Result<(), SolveError> {
        let Uploads { registry, repositories, .. } = &*self.uploads;
        try_join_all(repositories.iter().map(|repository| async move {
            if is_new {
                registry.send_bytes(repository, bytes).await
            } else {
                registry.push_bytes(repository, bytes).await
            }
        }))
        .await?;
        Ok(())
    }

    /// Waits until everything that was added is in the registry, and returns how many bytes were sent.
    pub async fn finish(&self) -> Result<i64, SolveError> {
        let mut tasks = std::mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        while let Some(result) = tasks.join_next().await {
            result.map_err(|_| SolveError::Internal("an upload panicked"))??;
        }
        Ok(self.uploads.bytes.load(Ordering::Relaxed))
    }

    /// Gives up what is under way.
    pub(super) fn abandon(&self) {
        drop(std::mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner)));
    }

    /// What brings layers into repositories, for whoever sends the same layers elsewhere.
    pub(super) fn uploads(&self) -> &Arc<Uploads> {
        &self.uploads
    }
}

impl Uploads {
    /// Returns the destinations that have a layer of the image, once they have it; empty when the upload failed.
    pub(super) async fn homes(&self, layer: &Arc<StageLayer>) -> Vec<Repository> {
        let mut homes = Vec::new();
        for repository in &self.repositories {
            match self.bring(layer, repository).await {
                Ok(()) => homes.push(repository.clone()),
                Err(error) => tracing::debug!(%error, "the upload reports this itself"),
            }
        }
        homes
    }

    async fn bring(&self, layer: &Arc<StageLayer>, repository: &Repository) -> Result<(), SolveError> {
        let cell = {
            let mut done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(done.entry((repository.clone(), layer.descriptor.digest.clone())).or_default())
        };
        cell.get_or_try_init(|| self.upload(layer, repository)).await.copied()
    }

    async fn upload(&self, layer: &Arc<StageLayer>, repository: &Repository) -> Result<(), SolveError> {
        let descriptor = &layer.descriptor;
        let is_elsewhere = layer.origin.source().is_some();
        if is_elsewhere && self.registry.blob_exists(repository, &descriptor.digest).await? {
            return Ok(());
        }
        if let Some(ImageSource::Registry(source)) = layer.origin.source()
            && self.registry.mount_blob(source.repository(), repository, &descriptor.digest).await?
        {
            return Ok(());
        }
        let path = self.layers.blob(layer).await?;
        let blob = Blob { digest: &descriptor.digest, size: descriptor.size, path };
        let pushed = if is_elsewhere {
            self.registry.send_blob(repository, &blob).await.map(|()| Pushed::Uploaded)?
        } else {
            self.registry.push_blob(repository, &blob, &[]).await?
        };
        if pushed == Pushed::Uploaded {
            self.bytes.fetch_add(descriptor.size.try_into().unwrap_or(i64::MAX), Ordering::Relaxed);
        }
        Ok(())
    }
}
