//! Layers wherever they are: in a registry, in an OCI layout, or just written. A layer's bytes are fetched once, when
//! somebody needs them; its index is read once, when a rule asks what the layer holds.

use std::{
    collections::HashMap,
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
};

use tokio::sync::{OnceCell, Semaphore};

use super::{error::SolveError, work::WorkDirectory};
use crate::{
    filesystem::index::Index,
    image::{
        digest::Digest,
        manifest::{Descriptor, layer_media_type},
    },
    layer::{Compression, Layer, read},
    registry::{ImageSource, Registry},
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
    index: OnceCell<Arc<Index>>,
    index_file: OnceCell<PathBuf>,
}

/// Where a layer's bytes come from.
#[derive(Clone, Debug)]
pub enum Origin {
    /// This build wrote them.
    Written,
    /// They are part of a base image, which is here.
    Base(ImageSource),
}

/// Fetches and reads layers.
#[derive(Debug)]
pub struct Layers {
    registry: Registry,
    work: Arc<WorkDirectory>,
    /// The layers of base images by diffID: two stages on one base share them.
    known: Mutex<HashMap<Digest, Arc<StageLayer>>>,
    /// Bounds how many layers are decompressed at once.
    readers: Semaphore,
    bytes_pulled: AtomicI64,
}

impl StageLayer {
    /// A layer of which neither the file nor the index is here yet.
    pub(super) fn new(diff_id: Digest, descriptor: Descriptor, compression: Compression, origin: Origin) -> Self {
        let (blob, index, index_file) = (OnceCell::new(), OnceCell::new(), OnceCell::new());
        Self { diff_id, descriptor, compression, origin, blob, index, index_file }
    }
}

impl Layers {
    /// `threads` bounds the layers that are read at once.
    pub fn new(registry: Registry, work: Arc<WorkDirectory>, threads: usize) -> Self {
        Self {
            registry,
            work,
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
    pub fn written(&self, layer: Layer, index: Index) -> Arc<StageLayer> {
        let descriptor = Descriptor::new(layer_media_type(layer.compression), layer.digest, layer.size);
        let stage_layer = Arc::new(StageLayer {
            blob: OnceCell::new_with(Some(layer.blob)),
            index: OnceCell::new_with(Some(Arc::new(index))),
            ..StageLayer::new(layer.diff_id.clone(), descriptor, layer.compression, Origin::Written)
        });
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.insert(layer.diff_id, Arc::clone(&stage_layer));
        stage_layer
    }

    /// Finds a layer of this build by the digest of its tar stream.
    pub fn find(&self, diff_id: &Digest) -> Option<Arc<StageLayer>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).get(diff_id).cloned()
    }

    /// Returns the file with the layer's compressed bytes, fetching it when it is not here yet.
    pub async fn blob<'a>(&self, layer: &'a StageLayer) -> Result<&'a PathBuf, SolveError> {
        layer
            .blob
            .get_or_try_init(|| async {
                match &layer.origin {
                    Origin::Written => Err(SolveError::Internal("a written layer has no file")),
                    Origin::Base(source) => {
                        let path = self.work.path().join(layer.descriptor.digest.hex());
                        match source {
                            ImageSource::Registry(reference) => {
                                self.registry.fetch_blob(reference.repository(), &layer.descriptor, &path).await?;
                                let bytes = layer.descriptor.size.try_into().unwrap_or(i64::MAX);
                                self.bytes_pulled.fetch_add(bytes, Ordering::Relaxed);
                            }
                            ImageSource::Layout(layout) => layout.fetch_blob(&layer.descriptor, &path).await?,
                        }
                        Ok(path)
                    }
                }
            })
            .await
    }

    /// Returns what the layer holds, reading it when nobody has yet.
    pub async fn index(&self, layer: &StageLayer) -> Result<Arc<Index>, SolveError> {
        let index = layer.index.get_or_try_init(|| async {
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
        });
        index.await.cloned()
    }

    /// Returns a file with the index as JSON, for the helper processes of the sandbox.
    pub async fn index_file<'a>(&self, layer: &'a StageLayer) -> Result<&'a PathBuf, SolveError> {
        let file = layer.index_file.get_or_try_init(|| async {
            let index = self.index(layer).await?;
            let path = self.work.unused("index");
            let target = path.clone();
            blocking(move || save(&index, &target)).await?;
            Ok(path)
        });
        file.await
    }
}

/// Writes an index into a new file, for a helper process.
pub(super) fn save(index: &Index, path: &Path) -> Result<(), SolveError> {
    let file = File::create_new(path).map_err(|source| SolveError::file(path, source))?;
    let mut writer = io::BufWriter::new(file);
    serde_json::to_writer(&mut writer, index).map_err(|error| SolveError::file(path, error.into()))?;
    io::Write::flush(&mut writer).map_err(|source| SolveError::file(path, source))
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
        let layers = Layers::new(registry, Arc::new(WorkDirectory::create(parent.path()).unwrap()), 1);
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
