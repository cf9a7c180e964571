//! What a build leaves in the cache: finished steps come in, entries go out while later steps run. Nothing here can fail a
//! build.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use futures::future::{join, try_join_all};
use tokio::task::JoinSet;

use super::{
    caching::Caching,
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
    image::{digest::Digest, manifest::Descriptor},
    progress::explain,
    registry::ImageSource,
};

/// Saves entries, and waits for what is under way.
#[derive(Debug)]
pub(super) struct Saves {
    shared: Arc<Shared>,
    tasks: Mutex<JoinSet<()>>,
    /// What the build has used of other places.
    found: Mutex<Vec<FoundStage>>,
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

/// What a build has used of a stage, and found elsewhere than where it saves.
#[derive(Debug)]
pub(super) struct FoundStage {
    /// The entry of each step, lowest first, with where its blobs are. The layers of each are the lowest of the last one's.
    pub(super) entries: Vec<(Entry, ImageSource)>,
    /// Whether the layers are the image's too.
    pub(super) in_image: bool,
}

impl Saves {
    pub(super) fn new(cache: Arc<Cache>, layers: Arc<Layers>, uploads: Arc<Uploads>) -> Self {
        let shared = Arc::new(Shared { cache, layers, uploads });
        Self { shared, tasks: Mutex::default(), found: Mutex::default() }
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

    /// Copies what was found in another place, when all is done: what has been fetched until then need not be fetched.
    pub(super) fn found(&self, stage: FoundStage) {
        self.found.lock().unwrap_or_else(PoisonError::into_inner).push(stage);
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
        for stage in std::mem::take(&mut *self.found.lock().unwrap_or_else(PoisonError::into_inner)) {
            let shared = Arc::clone(&self.shared);
            self.spawn(async move {
                if let Err(error) = shared.copy(&stage).await {
                    shared.cache.warn(&format!("steps are not copied from cache to cache: {}", explain(&error)));
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
        let indexes = try_join_all(step.stack.iter().map(|(_, layer)| self.layers.index_part(layer))).await?;
        // Layers of the image go to its destination first, which takes a while.
        let contents = try_join_all(step.stack.iter().map(|(_, layer)| self.content(layer, step.in_image)));
        let (contents, ()) = join(contents, self.cache.bring_ahead(&indexes)).await;
        let mut layers = Vec::with_capacity(step.stack.len());
        let mut parts = Vec::with_capacity(2 * step.stack.len());
        for (((made, layer), index), content) in step.stack.iter().zip(indexes).zip(contents?) {
            let step_key = made.key.clone().ok_or(SolveError::Internal("a step without a key is kept"))?;
            let entry_layer = EntryLayer {
                step: step_key,
                created: made.created,
                diff_id: layer.diff_id.clone(),
                layer: layer.descriptor.clone(),
                index: index.descriptor.clone(),
            };
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
        self.save_entry(&entry, parts).await
    }

    async fn save_entry(&self, entry: &Entry, parts: Vec<Part>) -> Result<(), SolveError> {
        let annotations = entry.annotations().map_err(|_| SolveError::Internal("an entry cannot be written"))?;
        self.cache.save(&entry.tags(), &Artifact { artifact_type: STEP_TYPE, parts, annotations }).await;
        Ok(())
    }

    /// Copies the entries of a stage up to the first layer that a registry would have to send for that alone.
    async fn copy(&self, stage: &FoundStage) -> Result<(), SolveError> {
        let Some((deepest, source)) = stage.entries.last() else { return Ok(()) };
        let mut parts = Vec::with_capacity(2 * deepest.layers.len());
        for layer in &deepest.layers {
            let Some(known) = Caching::layer(&self.layers, layer, source) else { break };
            let mut lenders = if stage.in_image { self.uploads.homes(&known).await } else { Vec::new() };
            if let ImageSource::Registry(reference) = source {
                lenders.push(reference.repository().clone());
            }
            // What comes out of a directory is verified on the way: its damage is not the fault of the cache that is written.
            let content = match (known.file(), source) {
                (Some(path), _) => Content::File(path.clone(), lenders),
                (None, ImageSource::Layout(_)) => Content::File(self.layers.blob(&known).await?.clone(), lenders),
                (None, ImageSource::Registry(_)) if self.cache.reaches(&layer.layer, &lenders).await => {
                    Content::Elsewhere(source.clone())
                }
                (None, ImageSource::Registry(_)) => break,
            };
            let index = self.foreign_index(&layer.index, source).await?;
            parts.extend([Part { descriptor: layer.descriptor(), content }, index]);
        }
        for (entry, _) in stage.entries.iter().filter(|(entry, _)| 2 * entry.layers.len() <= parts.len()) {
            self.save_entry(entry, parts[..2 * entry.layers.len()].to_vec()).await?;
        }
        Ok(())
    }

    /// An index of another cache, mounted or verified.
    async fn foreign_index(&self, descriptor: &Descriptor, source: &ImageSource) -> Result<Part, SolveError> {
        let content = match source {
            ImageSource::Registry(reference)
                if self.cache.reaches(descriptor, std::slice::from_ref(reference.repository())).await =>
            {
                Content::Elsewhere(source.clone())
            }
            _ => Content::Bytes(self.layers.index_bytes(source, descriptor).await?),
        };
        Ok(Part { descriptor: descriptor.clone(), content })
    }

    /// Where the bytes of a layer are. Those of the image are sent to their destination first, and mounted from there.
    async fn content(&self, layer: &Arc<StageLayer>, in_image: bool) -> Result<Content, SolveError> {
        if let Some(source) = layer.origin.source() {
            return Ok(match (source, layer.file()) {
                // What is here is not fetched once more.
                (ImageSource::Registry(reference), Some(path)) if self.cache.lacks(source) => {
                    Content::File(path.clone(), vec![reference.repository().clone()])
                }
                _ => Content::Elsewhere(source.clone()),
            });
        }
        let homes = if in_image { self.uploads.homes(layer).await } else { Vec::new() };
        Ok(Content::File(self.layers.blob(layer).await?.clone(), homes))
    }

    async fn save_index(&self, layer: &Arc<StageLayer>) -> Result<(), SolveError> {
        debug_assert!(matches!(layer.origin, Origin::Base(_)), "other indexes are parts of entries");
        let parts = vec![self.layers.index_part(layer).await?];
        let artifact = Artifact { artifact_type: indexes::INDEX_TYPE, parts, annotations: BTreeMap::new() };
        self.cache.save(&[indexes::tag(&layer.descriptor.digest)], &artifact).await;
        Ok(())
    }
}
