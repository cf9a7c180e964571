//! Layers wherever they are: in a registry, in an OCI layout, or just written. A layer's bytes are fetched once, when
//! somebody needs them; its index is made once, when a rule asks what the layer holds, and lies in a file soon after.

use std::{
    collections::{HashMap, HashSet},
    error::Error,
    fs::File,
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
};

use tokio::sync::{Mutex as AsyncMutex, OnceCell, Semaphore};

use super::{error::SolveError, indexes, work::WorkDirectory};
use crate::{
    cache::{
        entry::{EntryLayer, INDEX_MEDIA_TYPE},
        store::{Cache, Content, Part},
    },
    filesystem::index::{Index, InvalidIndex},
    image::{
        digest::Digest,
        manifest::{Descriptor, layer_media_type},
    },
    layer::{Compression, Layer, read},
    progress::explain,
    registry::{ImageSource, Registry, RegistryError, layout::Layout},
};

/// A layer of a stage.
#[derive(Debug)]
pub struct StageLayer {
    /// Digest of the tar stream.
    pub diff_id: Digest,
    /// Digest, size and media type of the compressed bytes.
    pub descriptor: Descriptor,
    /// How the bytes are compressed.
    pub compression: Compression,
    /// Where they are until somebody asks for the file.
    pub origin: Origin,
    blob: OnceCell<PathBuf>,
    /// The index until it lies in a file: of a large layer it takes tens of MiB, and most are read once.
    index: AsyncMutex<Option<Arc<Index>>>,
    index_file: OnceCell<PathBuf>,
    index_part: OnceCell<Part>,
    /// Whether the index came from the cache, and not from the layer.
    is_index_kept: AtomicBool,
}

/// Where a layer's bytes come from.
#[derive(Clone, Debug)]
pub enum Origin {
    /// This build wrote them.
    Written,
    /// They are part of a base image, which is here.
    Base(ImageSource),
    /// An earlier build made them, and its cache entry is here, with the index.
    Cached(ImageSource, Descriptor),
}

/// What is known of a layer that was just written.
pub(super) enum Known {
    /// Its index.
    Index(Index),
    /// A file with its index.
    File(PathBuf),
}

impl Origin {
    /// Returns where the bytes can be fetched, if anywhere.
    pub const fn source(&self) -> Option<&ImageSource> {
        match self {
            Self::Written => None,
            Self::Base(source) | Self::Cached(source, _) => Some(source),
        }
    }
}

/// Fetches and reads layers.
#[derive(Debug)]
pub struct Layers {
    registry: Registry,
    work: Arc<WorkDirectory>,
    /// Where the indexes of base layers may be, and go.
    cache: Option<Arc<Cache>>,
    /// Keeps the layers of base images from one build to the next.
    store: Option<Layout>,
    /// The layers of base images whose index was made here, or found elsewhere than where it is saved.
    indexed: Mutex<Vec<Arc<StageLayer>>>,
    /// The layers whose index in the cache is wrong.
    distrusted: Mutex<HashSet<Digest>>,
    /// The layers of base images by diffID: two stages on one base share them.
    known: Mutex<HashMap<Digest, Arc<StageLayer>>>,
    /// Bounds how many layers are decompressed at once.
    readers: Semaphore,
    bytes_pulled: AtomicI64,
}

impl StageLayer {
    /// A layer of which neither the file nor the index is here yet.
    pub(super) fn new(diff_id: Digest, descriptor: Descriptor, compression: Compression, origin: Origin) -> Self {
        let (blob, index) = (OnceCell::new(), AsyncMutex::default());
        let (index_file, index_part, is_index_kept) = (OnceCell::new(), OnceCell::new(), AtomicBool::new(false));
        Self { diff_id, descriptor, compression, origin, blob, index, index_file, index_part, is_index_kept }
    }

    /// Whether what is known of the layer came from the cache.
    pub(super) fn is_of_cache(&self) -> bool {
        matches!(self.origin, Origin::Cached(..)) || self.is_index_kept.load(Ordering::Relaxed)
    }

    /// The file with its bytes, if it is here.
    pub(super) fn file(&self) -> Option<&PathBuf> {
        self.blob.get()
    }

    /// Says that the cache is to blame: the build has to do without what it has of the layer.
    pub(super) fn blame(&self, error: impl Into<Box<dyn Error + Send + Sync>>) -> SolveError {
        SolveError::Cached { layer: self.descriptor.digest.clone(), source: error.into() }
    }
}

impl Layers {
    /// `threads` bounds the layers that are read at once; `store` keeps layers of base images.
    pub fn new(
        registry: Registry,
        work: Arc<WorkDirectory>,
        cache: Option<Arc<Cache>>,
        store: Option<Layout>,
        threads: usize,
    ) -> Self {
        Self {
            registry,
            work,
            cache,
            store,
            indexed: Mutex::default(),
            distrusted: Mutex::default(),
            known: Mutex::default(),
            readers: Semaphore::new(threads.max(1)),
            bytes_pulled: 0.into(),
        }
    }

    /// How many bytes of layers came from registries so far.
    pub fn bytes_pulled(&self) -> i64 {
        self.bytes_pulled.load(Ordering::Relaxed)
    }

    /// Registers a layer of a base image.
    pub fn base(
        &self,
        diff_id: &Digest,
        descriptor: Descriptor,
        compression: Compression,
        source: ImageSource,
    ) -> Arc<StageLayer> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        // The diffID is what an image claims: it must not make another image's blob out of its own.
        if let Some(layer) = known.get(diff_id).filter(|layer| layer.descriptor.digest == descriptor.digest) {
            return Arc::clone(layer);
        }
        let layer = StageLayer::new(diff_id.clone(), descriptor, compression, Origin::Base(source));
        let layer = Arc::new(layer);
        known.insert(diff_id.clone(), Arc::clone(&layer));
        layer
    }

    /// Registers a layer that this build wrote.
    pub(super) fn written(&self, layer: Layer, index: Known) -> Arc<StageLayer> {
        let descriptor = Descriptor::new(layer_media_type(layer.compression), layer.digest, layer.size);
        let (index, index_file) = match index {
            Known::Index(index) => (Some(Arc::new(index)), None),
            Known::File(file) => (None, Some(file)),
        };
        let stage_layer = Arc::new(StageLayer {
            blob: OnceCell::new_with(Some(layer.blob)),
            index: AsyncMutex::new(index),
            index_file: OnceCell::new_with(index_file),
            ..StageLayer::new(layer.diff_id.clone(), descriptor, layer.compression, Origin::Written)
        });
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.insert(layer.diff_id, Arc::clone(&stage_layer));
        stage_layer
    }

    /// Registers a layer that an earlier build made.
    pub fn cached(&self, layer: &EntryLayer, compression: Compression, source: ImageSource) -> Arc<StageLayer> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = known.get(&layer.diff_id).filter(|known| known.descriptor.digest == layer.layer.digest) {
            return Arc::clone(known);
        }
        let origin = Origin::Cached(source, layer.index.clone());
        let cached = StageLayer::new(layer.diff_id.clone(), layer.layer.clone(), compression, origin);
        let cached = Arc::new(cached);
        known.insert(layer.diff_id.clone(), Arc::clone(&cached));
        cached
    }

    /// Forgets a layer for which the cache was to blame, so that it is made again, or its index.
    pub(super) fn forget(&self, layer: &Digest) {
        self.distrusted.lock().unwrap_or_else(PoisonError::into_inner).insert(layer.clone());
        // What is wrong here is not what another cache should have.
        let mut indexed = self.indexed.lock().unwrap_or_else(PoisonError::into_inner);
        indexed.retain(|known| known.descriptor.digest != *layer);
        drop(indexed);
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|_, known| known.descriptor.digest != *layer || matches!(known.origin, Origin::Written));
    }

    /// Finds a layer of this build by the digest of its tar stream.
    pub fn find(&self, diff_id: &Digest) -> Option<Arc<StageLayer>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).get(diff_id).cloned()
    }

    /// Returns the file with the layer's compressed bytes, fetching it when it is not here yet.
    pub async fn blob<'a>(&self, layer: &'a StageLayer) -> Result<&'a PathBuf, SolveError> {
        let blob = layer.blob.get_or_try_init(|| async {
            let path = self.blob_path(layer);
            match &layer.origin {
                Origin::Written => return Err(SolveError::Internal("a written layer has no file")),
                Origin::Base(source) => self.fetch_base(source, &layer.descriptor, &path).await?,
                Origin::Cached(source, _) => {
                    self.fetch(source, &layer.descriptor, &path).await.map_err(|error| layer.blame(error))?;
                }
            }
            Ok(path)
        });
        blob.await
    }

    /// Where the layer's compressed bytes are, or will be once somebody has asked for them.
    pub(super) fn blob_path(&self, layer: &StageLayer) -> PathBuf {
        layer.blob.get().cloned().unwrap_or_else(|| self.work.path().join(layer.descriptor.digest.hex()))
    }

    async fn fetch(&self, source: &ImageSource, descriptor: &Descriptor, path: &Path) -> Result<(), RegistryError> {
        source.fetch_blob(&self.registry, descriptor, path).await?;
        if matches!(source, ImageSource::Registry(_)) {
            self.bytes_pulled.fetch_add(descriptor.size.try_into().unwrap_or(i64::MAX), Ordering::Relaxed);
        }
        Ok(())
    }

    /// Takes a layer of a base image out of the store, which keeps it if it has to be fetched.
    async fn fetch_base(
        &self,
        source: &ImageSource,
        descriptor: &Descriptor,
        path: &Path,
    ) -> Result<(), RegistryError> {
        let Some(store) = self.store.as_ref().filter(|_| matches!(source, ImageSource::Registry(_))) else {
            return self.fetch(source, descriptor, path).await;
        };
        match store.fetch_blob(descriptor, path).await {
            Ok(()) => return Ok(()),
            Err(error) => tracing::debug!(%error, "the directory of layers has not this one"),
        }
        self.fetch(source, descriptor, path).await?;
        if let Err(error) = store.push_blob(descriptor, path).await {
            tracing::warn!(error = explain(&error), "a layer cannot be kept in --cache-dir");
        }
        Ok(())
    }

    /// Returns what the layer holds, reading it when nobody has yet, or when it lies in a file.
    pub async fn index(&self, layer: &Arc<StageLayer>) -> Result<Arc<Index>, SolveError> {
        let mut known = layer.index.lock().await;
        if let Some(index) = &*known {
            return Ok(Arc::clone(index));
        }
        if let Some(path) = layer.index_file.get().cloned() {
            return blocking(move || load(&path)).await;
        }
        if let Origin::Cached(source, descriptor) = &layer.origin {
            let index = self.known_index(layer, source, descriptor).await;
            return index.map_err(|error| layer.blame(error));
        }
        if let Some(index) = self.kept_index(layer).await {
            return Ok(index);
        }
        let index = self.read_index(layer).await?;
        if self.cache.is_some() {
            self.indexed.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(layer));
        }
        *known = Some(Arc::clone(&index));
        Ok(index)
    }

    /// Reads the layer itself.
    async fn read_index(&self, layer: &StageLayer) -> Result<Arc<Index>, SolveError> {
        let path = self.blob(layer).await?.clone();
        let permit = self.readers.acquire().await.map_err(|_| SolveError::Internal("the readers are gone"))?;
        let compression = layer.compression;
        let index = blocking(move || {
            let file = File::open(&path).map_err(|source| SolveError::file(&path, source))?;
            read::index(file, compression).map_err(SolveError::from)
        })
        .await?;
        drop(permit);
        if index.diff_id != layer.diff_id {
            return Err(SolveError::DiffId {
                layer: layer.descriptor.digest.clone(),
                expected: layer.diff_id.clone(),
                found: index.diff_id,
            });
        }
        Ok(Arc::new(index))
    }

    /// Looks in the cache for the index of a base layer; whatever is wrong with it, the layer itself can be read.
    async fn kept_index(&self, layer: &Arc<StageLayer>) -> Option<Arc<Index>> {
        let cache = self.cache.as_ref()?;
        if self.distrusted.lock().unwrap_or_else(PoisonError::into_inner).contains(&layer.descriptor.digest) {
            return None;
        }
        let tag = indexes::tag(&layer.descriptor.digest);
        let found = cache.find(&tag, indexes::INDEX_TYPE).await?;
        let descriptor = found.manifest.layers.first()?;
        match self.known_index(layer, &found.source, descriptor).await {
            Ok(index) => {
                layer.is_index_kept.store(true, Ordering::Relaxed);
                if cache.lacks(&found.source) {
                    self.indexed.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(layer));
                }
                Some(index)
            }
            Err(error) => {
                cache.warn(&format!("the index `{tag}` in the cache is not used: {}", explain(&*error)));
                None
            }
        }
    }

    /// Returns the bytes of an index as a cache has it, verified.
    pub(super) async fn index_bytes(
        &self,
        source: &ImageSource,
        descriptor: &Descriptor,
    ) -> Result<Vec<u8>, RegistryError> {
        source.blob_bytes(&self.registry, descriptor, indexes::PACKED_BYTES_MAX).await
    }

    /// Fetches an index. It becomes the file for helper processes.
    async fn known_index(
        &self,
        layer: &StageLayer,
        source: &ImageSource,
        descriptor: &Descriptor,
    ) -> Result<Arc<Index>, Box<dyn Error + Send + Sync>> {
        // Held to the end: an index is in memory several times while it is read.
        let _permit = self.readers.acquire().await?;
        let packed = self.index_bytes(source, descriptor).await?;
        let (diff_id, path) = (layer.diff_id.clone(), self.work.unused("index"));
        let file = path.clone();
        let unpacked = tokio::task::spawn_blocking(move || {
            let index = Index::unpack_foreign(&packed, &diff_id)?;
            std::fs::write(&file, packed)?;
            Ok::<_, InvalidIndex>(index)
        });
        let index = unpacked.await??;
        // Nobody else sets it: the index comes first.
        layer.index_file.get_or_init(|| async { path }).await;
        Ok(Arc::new(index))
    }

    /// Returns the layer's index as a part of what is kept in the cache.
    pub(super) async fn index_part(&self, layer: &Arc<StageLayer>) -> Result<Part, SolveError> {
        let packed = layer.index_part.get_or_try_init(|| async {
            if let Origin::Cached(source, descriptor) = &layer.origin {
                return Ok(Part { descriptor: descriptor.clone(), content: Content::Elsewhere(source.clone()) });
            }
            let path = self.index_file(layer).await?.clone();
            blocking(move || {
                let bytes = std::fs::read(&path).map_err(|source| SolveError::file(&path, source))?;
                let descriptor = Descriptor::of(INDEX_MEDIA_TYPE, &bytes);
                Ok(Part { descriptor, content: Content::File(path, Vec::new()) })
            })
            .await
        });
        packed.await.cloned()
    }

    /// The layers of base images whose index is to be saved, since this was asked last.
    pub(super) fn take_indexed(&self) -> Vec<Arc<StageLayer>> {
        std::mem::take(&mut *self.indexed.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Returns a file with the index, for the helper processes of the sandbox, among others. From then on the index is there
    /// only.
    pub async fn index_file<'a>(&self, layer: &'a Arc<StageLayer>) -> Result<&'a PathBuf, SolveError> {
        if let Some(file) = layer.index_file.get() {
            return Ok(file);
        }
        // An index from the cache comes as a file.
        let index = self.index(layer).await?;
        let file = layer.index_file.get_or_try_init(|| async {
            let path = self.work.unused("index");
            let target = path.clone();
            blocking(move || save(&index, &target)).await?;
            Ok::<_, SolveError>(path)
        });
        let file = file.await?;
        layer.index.lock().await.take();
        Ok(file)
    }
}

/// Writes an index into a new file, for a helper process.
pub(super) fn save(index: &Index, path: &Path) -> Result<(), SolveError> {
    let written = index.pack().and_then(|packed| File::create_new(path)?.write_all(&packed));
    written.map_err(|source| SolveError::file(path, source))
}

/// Reads an index that [`save`] or a helper process wrote.
fn load(path: &Path) -> Result<Arc<Index>, SolveError> {
    let packed = std::fs::read(path).map_err(|source| SolveError::file(path, source))?;
    Index::unpack(&packed).map(Arc::new).map_err(|error| SolveError::file(path, io::Error::other(error)))
}

/// Runs blocking work off the runtime's threads.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, SolveError> + Send + 'static,
) -> Result<T, SolveError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| SolveError::Internal("a worker thread panicked"))?
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::RegistryOptions;

    #[test]
    fn an_image_cannot_pass_its_blob_off_as_a_layer_of_another() {
        let parent = tempfile::tempdir().unwrap();
        let registry = Registry::new(RegistryOptions::default()).unwrap();
        let layers =
            Layers::new(registry, Arc::new(WorkDirectory::create(parent.path(), false).unwrap()), None, None, 1);
        let claimed = Digest::of(b"the layer");
        let layer = |blob: &[u8]| {
            let descriptor = Descriptor::of(layer_media_type(Compression::Gzip), blob);
            let source = ImageSource::Registry("registry.example/image".parse().unwrap());
            layers.base(&claimed, descriptor, Compression::Gzip, source)
        };
        let (hostile, honest, again) = (layer(b"hostile"), layer(b"honest"), layer(b"honest"));
        assert_ne!(hostile.descriptor.digest, honest.descriptor.digest);
        assert!(Arc::ptr_eq(&honest, &again));
    }
}
