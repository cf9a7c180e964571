//! Uploads: layers go to the destinations' repositories while later steps run; what a registry already has is not sent.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
};

use tokio::task::JoinSet;

use super::{
    error::SolveError,
    layers::{Layers, Origin, StageLayer},
};
use crate::{
    image::{digest::Digest, reference::Repository},
    registry::{Blob, ImageSource, Pushed, Registry},
};

/// Starts uploads and waits for them.
#[derive(Debug)]
pub struct Uploader {
    registry: Registry,
    layers: Arc<Layers>,
    repositories: Vec<Repository>,
    tasks: Mutex<Tasks>,
    bytes: Arc<AtomicI64>,
}

#[derive(Debug, Default)]
struct Tasks {
    started: BTreeSet<Digest>,
    running: JoinSet<Result<(), SolveError>>,
}

impl Uploader {
    /// Uploads to the given repositories; none when nothing is pushed.
    pub fn new(registry: Registry, layers: Arc<Layers>, repositories: Vec<Repository>) -> Self {
        Self { registry, layers, repositories, tasks: Mutex::default(), bytes: Arc::default() }
    }

    /// Begins to upload a layer; a layer that was added before is not sent again.
    pub fn add(&self, layer: &Arc<StageLayer>) {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        if self.repositories.is_empty() || !tasks.started.insert(layer.descriptor.digest.clone()) {
            return;
        }
        for repository in &self.repositories {
            let upload = Upload {
                registry: self.registry.clone(),
                layers: Arc::clone(&self.layers),
                layer: Arc::clone(layer),
                repository: repository.clone(),
                bytes: Arc::clone(&self.bytes),
            };
            tasks.running.spawn(upload.run());
        }
    }

    /// Waits until everything that was added is in the registry, and returns how many bytes were sent.
    pub async fn finish(&self) -> Result<i64, SolveError> {
        let mut running = std::mem::take(&mut self.tasks.lock().unwrap_or_else(PoisonError::into_inner).running);
        while let Some(result) = running.join_next().await {
            result.map_err(|_| SolveError::Internal("an upload panicked"))??;
        }
        Ok(self.bytes.load(Ordering::Relaxed))
    }
}

/// One layer to one repository.
struct Upload {
    registry: Registry,
    layers: Arc<Layers>,
    layer: Arc<StageLayer>,
    repository: Repository,
    bytes: Arc<AtomicI64>,
}

impl Upload {
    async fn run(self) -> Result<(), SolveError> {
        let descriptor = &self.layer.descriptor;
        if self.registry.blob_exists(&self.repository, &descriptor.digest).await? {
            return Ok(());
        }
        if let Origin::Base(ImageSource::Registry(source)) = &self.layer.origin
            && self.registry.mount_blob(source.repository(), &self.repository, &descriptor.digest).await?
        {
            return Ok(());
        }
        let path = self.layers.blob(&self.layer).await?;
        let blob = Blob { digest: &descriptor.digest, size: descriptor.size, path };
        if self.registry.push_blob(&self.repository, &blob, &[]).await? == Pushed::Uploaded {
            self.bytes.fetch_add(descriptor.size.try_into().unwrap_or(i64::MAX), Ordering::Relaxed);
        }
        Ok(())
    }
}
