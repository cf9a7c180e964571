//! What a build leaves in the cache: finished steps come in, entries go out while later steps run. Nothing here can fail a
//! build.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::task::JoinSet;

use super::{
    error::SolveError,
    indexes,
    layers::{Layers, Origin, StageLayer},
    stage::MadeStep,
    upload::Uploads,
};
use crate::{
    cache::{
        entry::{Entry, EntryLayer, STEP_TYPE},
        key::Key,
        store::{Artifact, Cache, Content, Part},
    },
    image::digest::Digest,
    progress::explain,
};

/// Saves entries, and waits for what is under way.
#[derive(Debug)]
pub(super) struct Saves {
    shared: Arc<Shared>,
    tasks: Mutex<JoinSet<()>>,
}

#[derive(Debug)]
struct Shared {
    cache: Arc<Cache>,
    layers: Arc<Layers>,
    uploads: Arc<Uploads>,
}

/// A finished step.
#[derive(Debug)]
pub(super) struct Finished {
    pub(super) definition: Key,
    pub(super) content: Option<Key>,
    /// The steps and layers of its stage above the base image; its own are the last.
    pub(super) stack: Vec<(MadeStep, Arc<StageLayer>)>,
    pub(super) stages: BTreeMap<Key, Digest>,
    pub(super) created: i64,
    /// Whether the layers are the image's too, and so on their way to the destinations.
    pub(super) in_image: bool,
}

impl Saves {
    pub(super) fn new(cache: Arc<Cache>, layers: Arc<Layers>, uploads: Arc<Uploads>) -> Self {
        Self { shared: Arc::new(Shared { cache, layers, uploads }), tasks: Mutex::default() }
    }

    /// Begins to save a step.
    pub(super) fn add(&self, step: Finished) {
        let shared = Arc::clone(&self.shared);
        self.spawn(async move {
            if let Err(error) = shared.save(&step).await {
                shared.cache.warn(&format!("a step is not kept in the cache: {}", explain(&error)));
            }
        });
    }

    /// Begins to save an artifact that is ready.
    pub(super) fn artifact(&self, tag: String, artifact: Artifact) {
        let shared = Arc::clone(&self.shared);
        self.spawn(async move { shared.cache.save(&[tag], &artifact).await });
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        if self.shared.cache.destination().is_some() {
            self.tasks.lock().unwrap_or_else(PoisonError::into_inner).spawn(task);
        }
    }

    /// Gives up what is under way: it may stand on what cannot be had.
    pub(super) fn abandon(&self) {
        drop(std::mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner)));
    }

    /// Waits until everything is saved, the indexes of base layers included.
    pub(super) async fn finish(&self) {
        for layer in self.shared.layers.take_indexed() {
            let shared = Arc::clone(&self.shared);
            self.spawn(async move {
                if let Err(error) = shared.save_index(&layer).await {
                    shared.cache.warn(&format!("the index of a layer is not kept in the cache: {}", explain(&error)));
                }
            });
        }
        let mut tasks = std::mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        while let Some(result) = tasks.join_next().await {
            if let Err(error) = result {
                self.shared.cache.warn(&format!("what should be kept in the cache is not: {error}"));
            }
        }
    }
}

impl Shared {
    async fn save(&self, step: &Finished) -> Result<(), SolveError> {
        let mut layers = Vec::with_capacity(step.stack.len());
        let mut parts = Vec::with_capacity(2 * step.stack.len());
        for (made, layer) in &step.stack {
            let step_key = made.key.clone().ok_or(SolveError::Internal("a step without a key is kept"))?;
            let index = self.layers.packed_index(layer).await?;
            let entry_layer = EntryLayer {
                step: step_key,
                created: made.created,
                diff_id: layer.diff_id.clone(),
                layer: layer.descriptor.clone(),
                index: index.descriptor.clone(),
            };
            let content = self.content(layer, step.in_image).await?;
            parts.extend([Part { descriptor: entry_layer.descriptor(), content }, index]);
            layers.push(entry_layer);
        }
        let entry = Entry {
            definition: step.definition.clone(),
            content: step.content.clone(),
            layers,
            stages: step.stages.clone(),
            created: step.created,
        };
        let annotations = entry.annotations().map_err(|_| SolveError::Internal("an entry cannot be written"))?;
        self.cache.save(&entry.tags(), &Artifact { artifact_type: STEP_TYPE, parts, annotations }).await;
        Ok(())
    }

    /// Where the bytes of a layer are. Those of the image are sent to their destination first, and mounted from there.
    async fn content(&self, layer: &Arc<StageLayer>, in_image: bool) -> Result<Content, SolveError> {
        if let Some(source) = layer.origin.source() {
            return Ok(Content::Elsewhere(source.clone()));
        }
        let homes = if in_image { self.uploads.homes(layer).await } else { Vec::new() };
        Ok(Content::File(self.layers.blob(layer).await?.clone(), homes))
    }

    async fn save_index(&self, layer: &Arc<StageLayer>) -> Result<(), SolveError> {
        debug_assert!(matches!(layer.origin, Origin::Base(_)), "other indexes are parts of entries");
        let parts = vec![self.layers.packed_index(layer).await?];
        let artifact = Artifact { artifact_type: indexes::INDEX_TYPE, parts, annotations: BTreeMap::new() };
        self.cache.save(&[indexes::tag(&layer.descriptor.digest)], &artifact).await;
        Ok(())
    }
}
