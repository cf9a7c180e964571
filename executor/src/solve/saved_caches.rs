//! Cache mounts from build to build: an identity goes in, and a directory comes out with what the cache repository has of
//! it; at the end of the build directories that have changed go back.
//!
//! Nothing here can fail a build: what cannot be brought back is a warning and begins empty, what cannot be kept is a
//! warning. What comes from a cache repository is as untrusted as an image.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::task::spawn_blocking;

use super::{
    Solver,
    caches::{CacheMounts, Kept},
    caching::Caching,
    indexes,
    remove::remove_all,
    work::WorkDirectory,
};
use crate::{
    cache::{
        entry::{INDEX_MEDIA_TYPE, InvalidEntry},
        mount::{COMPRESSION, MOUNT_TYPE, SavedMount},
        store::{Artifact, Cache, Content, Found, Part},
    },
    filesystem::index::{Index, InvalidIndex},
    image::manifest::{Descriptor, layer_media_type},
    layer::{pack::ENTRY_BYTES_MAX, trim::content_bytes},
    progress::{Progress, explain},
    registry::{Registry, RegistryError},
    sandbox::{
        client::Sandbox,
        error::SandboxError,
        request::{Archive, Pack, PackResult, Unpack},
    },
};

/// Each of zstd's threads takes 20 MB at this level, and two are as fast as what is read can be hashed.
const THREADS_MAX: usize = 2;

/// What the cache mounts of a build are kept with.
#[derive(Debug)]
pub struct SavedCaches {
    cache: Arc<Cache>,
    registry: Registry,
    sandbox: Sandbox,
    /// Holds archives on their way.
    work: Arc<WorkDirectory>,
    /// Hears what was brought back and saved.
    progress: Arc<Progress>,
    /// The platform that is built for.
    pub(super) platform: String,
    /// Bytes of files that are kept of each.
    bytes_max: u64,
    /// How old one may be.
    ttl: Duration,
    /// Seconds since 1970.
    now: i64,
    threads: usize,
}

/// A cache that was brought back.
pub(super) struct Restored {
    /// The directory.
    pub(super) path: PathBuf,
    /// A file with the index of what is in it; `None` if it was found elsewhere than where it is saved, so that it is saved.
    pub(super) index: Option<PathBuf>,
}

/// Why a cache is not what it was.
#[derive(Debug, thiserror::Error)]
enum SavedCacheError {
    #[error("its manifest cannot be used: {0}")]
    Manifest(#[from] InvalidEntry),
    #[error("its index cannot be used")]
    Index(#[from] InvalidIndex),
    #[error("it has {found} bytes, more than {limit}")]
    TooLarge { found: u64, limit: u64 },
    #[error(transparent)]
    Registry(#[from] RegistryError),
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    #[error("cannot use the work directory")]
    Work(#[from] io::Error),
}

impl SavedCaches {
    /// Takes what is needed of a build for this platform; `None` where it keeps no cache mounts.
    pub fn of(solver: &Solver, platform: &str) -> Option<Self> {
        let Caching { cache, options, now, .. } = solver.caching.as_ref()?;
        options.mounts.then(|| Self {
            cache: Arc::clone(cache),
            registry: solver.registry.clone(),
            sandbox: solver.sandbox.clone(),
            work: Arc::clone(&solver.work),
            progress: Arc::clone(&solver.progress),
            platform: platform.to_owned(),
            bytes_max: options.mount_bytes_max,
            ttl: options.ttl,
            now: *now,
            threads: solver.threads,
        })
    }

    /// Brings a cache back, if there is one that can be used. `name` is what people call it.
    pub(super) async fn restore(&self, tag: &str, name: &str) -> Option<Restored> {
        let found = self.cache.find(tag, MOUNT_TYPE).await?;
        let restored = async {
            let mount = SavedMount::parse(&found.manifest, tag)?;
            if let Some(refusal) = mount.refusal(self.now, self.ttl, self.bytes_max) {
                return Ok(Err(refusal));
            }
            self.bring(&found, &mount).await.map(|restored| Ok((restored, mount.content)))
        };
        match restored.await {
            Ok(Ok((restored, content))) => {
                self.progress.note(&format!("cache mount {name}: restored {}", size(content)));
                Some(restored)
            }
            Ok(Err(refusal)) => {
                self.progress.note(&format!("cache mount {name}: begins empty, for what is kept of it is {refusal}"));
                None
            }
            Err(error) => {
                self.warn(name, "begins empty", &error);
                None
            }
        }
    }

    async fn bring(&self, found: &Found, mount: &SavedMount) -> Result<Restored, SavedCacheError> {
        let packed = found.source.blob_bytes(&self.registry, &mount.index, indexes::PACKED_BYTES_MAX).await?;
        let (index, diff_id) = (self.work.unused("index"), mount.diff_id.clone());
        let target = index.clone();
        let (content, entries) = blocking(move || {
            let index = Index::unpack_foreign(&packed, &diff_id)?;
            fs::write(target, packed)?;
            Ok((content_bytes(&index.changes), index.changes.len() as u64))
        })
        .await?;
        let limit = self.bytes_max;
        let archive_limit =
            limit.saturating_add(entries.saturating_mul(ENTRY_BYTES_MAX)).saturating_add(ENTRY_BYTES_MAX);
        for (found, limit) in [(content, limit), (mount.archive.size, archive_limit)] {
            if found > limit {
                return Err(SavedCacheError::TooLarge { found, limit });
            }
        }
        let blob = self.work.unused("cache-archive");
        let path = self.work.directory("cache")?;
        let archive = Archive { blob, compression: COMPRESSION, index };
        let request = Unpack::into_root(path.clone(), vec![archive.clone()], self.threads);
        let fetched = found.source.fetch_blob(&self.registry, &mount.archive, &archive.blob);
        let unpacked = self.sandbox.unpack(request, fetched).await;
        let unpacked = unpacked.map_err(SavedCacheError::from).and_then(|unpacked| Ok(unpacked?));
        self.discard(archive.blob).await;
        match unpacked {
            Ok(warnings) => {
                for warning in &warnings {
                    self.progress.warning(warning);
                }
                let index = (!self.cache.lacks(&found.source)).then_some(archive.index);
                Ok(Restored { path, index })
            }
            Err(error) => {
                // Nobody has seen the directory: the cache gets another one.
                let removed = spawn_blocking(move || remove_all(&path)).await;
                if let Err(error) = removed.map_err(io::Error::other).flatten() {
                    tracing::debug!(%error, "what was unpacked of a cache cannot be removed yet");
                }
                Err(error)
            }
        }
    }

    /// Keeps what steps have left in their caches, one after another: each is as large as a layer. No step may be running.
    pub(super) async fn save(&self, caches: &CacheMounts) {
        let mut tags = BTreeSet::new();
        for (path, kept) in caches.kept() {
            // Two that begin with the same files from different stages are one from build to build: the first is kept.
            if self.cache.destination().is_some()
                && tags.insert(kept.tag.clone())
                && let Err(error) = self.save_one(&path, &kept).await
            {
                self.warn(&kept.name, "is not saved", &error);
            }
        }
    }

    async fn save_one(&self, path: &Path, Kept { tag, name, before }: &Kept) -> Result<(), SavedCacheError> {
        let (blob, index) = (self.work.unused("cache-archive"), self.work.unused("index"));
        let request = Pack {
            directory: path.to_owned(),
            before: before.clone(),
            content_max: self.bytes_max,
            archive: Archive { blob: blob.clone(), compression: COMPRESSION, index: index.clone() },
            threads: self.threads.min(THREADS_MAX),
        };
        let Some(PackResult { layer, content, omitted }) = self.sandbox.pack(request).await? else {
            return Ok(());
        };
        if omitted.files > 0 {
            let (files, bytes) = (omitted.files, size(omitted.bytes));
            self.progress.note(&format!(
                "cache mount {name}: {bytes} in {files} files, not used for longest, are more than --cache-mount-max-size"
            ));
        }
        let packed = blocking(move || Ok(fs::read(index)?)).await?;
        let mount = SavedMount {
            archive: Descriptor::new(layer_media_type(COMPRESSION), layer.digest, layer.size),
            diff_id: layer.diff_id,
            index: Descriptor::of(INDEX_MEDIA_TYPE, &packed),
            content,
            created: self.now,
        };
        let archive = Part { descriptor: mount.descriptor(), content: Content::File(blob.clone(), Vec::new()) };
        let parts = vec![archive, Part::bytes(INDEX_MEDIA_TYPE, packed)];
        let artifact = Artifact { artifact_type: MOUNT_TYPE, parts, annotations: mount.annotations(tag) };
        self.cache.save(std::slice::from_ref(tag), &artifact).await;
        // What went wrong was said, and the place given up.
        if self.cache.destination().is_some() {
            self.progress.note(&format!("cache mount {name}: saved {}", size(content)));
        }
        self.discard(blob).await;
        Ok(())
    }

    /// Makes room; what stays goes with the work directory.
    async fn discard(&self, path: PathBuf) {
        if let Err(error) = tokio::fs::remove_file(&path).await {
            tracing::debug!(%error, path = %path.display(), "an archive cannot be removed yet");
        }
    }

    fn warn(&self, name: &str, what: &str, error: &SavedCacheError) {
        self.progress.warning(&format!("cache mount {name} {what}: {}", explain(error)));
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, SavedCacheError> + Send + 'static,
) -> Result<T, SavedCacheError> {
    spawn_blocking(work).await.map_err(io::Error::other)?
}

/// Tells a number of bytes in few words.
fn size(bytes: u64) -> String {
    match bytes {
        0..1_000 => format!("{bytes} bytes"),
        1_000..1_000_000 => format!("{} kB", bytes / 1_000),
        1_000_000..1_000_000_000 => format!("{} MB", bytes / 1_000_000),
        _ => format!("{}.{} GB", bytes / 1_000_000_000, bytes / 100_000_000 % 10),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_told_in_few_words() {
        for (bytes, text) in [
            (0, "0 bytes"),
            (999, "999 bytes"),
            (1_999, "1 kB"),
            (12_345_678, "12 MB"),
            (1_073_741_824, "1.0 GB"),
            (2_600_000_000, "2.6 GB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }
}
