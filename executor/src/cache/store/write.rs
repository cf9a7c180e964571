//! What goes into a cache: artifacts and their blobs come in, and manifests under tags come out in the one place that is
//! written to.
//!
//! A blob is brought once for all artifacts that have it, and not sent where a registry or a directory has it already.

use std::sync::{Arc, PoisonError, atomic::Ordering};

use futures::future::{join_all, try_join_all};

use super::{Artifact, Cache, Content, EMPTY, OpenPlace, Part, Place, Verb};
use crate::{
    image::{
        digest::Digest,
        manifest::{Descriptor, InvalidManifest, Manifest, OCI_MANIFEST},
        reference::{Reference, Repository},
    },
    registry::{Blob, ErrorKind, ImageSource, RegistryError, layout::Layout},
};

/// How often a manifest is written that the registry refuses.
const PUT_TRIES_MAX: u32 = 3;

impl Cache {
    /// Whether what was found at `source` is not in the place that artifacts are written to, if they are: that one was asked
    /// first.
    pub fn lacks(&self, source: &ImageSource) -> bool {
        match (self.destination(), source) {
            (None, _) => false,
            (Some(Place::Repository(own)), ImageSource::Registry(reference)) => reference.repository() != own,
            (Some(Place::Directory(own)), ImageSource::Layout(layout)) => layout.root() != own,
            (Some(_), _) => true,
        }
    }

    /// Whether the place that is written to has a blob, or takes it from one of `lenders`, repositories that have it, in the same
    /// registry.
    pub async fn reaches(&self, blob: &Descriptor, lenders: &[Repository]) -> bool {
        let Some(open) = self.written_place() else { return false };
        let reached = async {
            let own = match &open.place {
                Place::Repository(own) => own,
                Place::Directory(path) => return Ok(Layout::create(path)?.blob_exists(blob)),
            };
            if self.registry.blob_exists(own, &blob.digest).await? {
                return Ok(true);
            }
            for from in lenders {
                if self.registry.mount_blob(from, own, &blob.digest).await? {
                    return Ok(true);
                }
            }
            Ok(false)
        };
        match reached.await {
            Ok(reached) => reached,
            Err(error) => {
                self.give_up(open, Verb::Write, &error);
                false
            }
        }
    }

    fn written_place(&self) -> Option<&OpenPlace> {
        self.places.first().filter(|_| self.destination().is_some())
    }

    /// Brings those blobs of an artifact that are here before the others. What goes wrong is met again when it is saved.
    pub async fn bring_ahead(&self, parts: &[Part]) {
        let Some(open) = self.written_place() else { return };
        let empty = Part::empty();
        let brought = join_all(parts.iter().chain([&empty]).map(|part| self.bring(&open.place, part))).await;
        for error in brought.into_iter().filter_map(Result::err) {
            tracing::debug!(%error, "a blob is not in the cache yet");
        }
    }

    /// Keeps an artifact under tags: its blobs, then the manifest. What goes wrong is said, and the place left alone.
    pub async fn save(&self, tags: &[String], artifact: &Artifact) {
        let Some(open) = self.written_place() else { return };
        if let Err(error) = self.write(open, tags, artifact).await {
            self.give_up(open, Verb::Write, &error);
        }
    }

    async fn write(&self, open: &OpenPlace, tags: &[String], artifact: &Artifact) -> Result<(), RegistryError> {
        let place = &open.place;
        let empty = Part::empty();
        let parts = std::iter::once(&empty).chain(&artifact.parts);
        try_join_all(parts.map(|part| self.bring(place, part))).await?;
        let manifest = Manifest {
            schema_version: 2,
            media_type: Some(OCI_MANIFEST.to_owned()),
            artifact_type: Some(artifact.artifact_type.to_owned()),
            config: empty.descriptor.clone(),
            layers: artifact.parts.iter().map(|part| part.descriptor.clone()).collect(),
            subject: None,
            annotations: artifact.annotations.clone(),
        };
        let bytes = serde_json::to_vec(&manifest).map_err(|error| RegistryError::InvalidManifest {
            what: place.to_string(),
            source: InvalidManifest::Json(error),
        })?;
        match place {
            Place::Repository(repository) => {
                for tag in tags {
                    self.put_manifest(&Reference::by_tag(repository, tag)?, &bytes).await?;
                }
            }
            Place::Directory(path) => {
                let layout = Layout::create(path)?;
                if open.is_unreadable.load(Ordering::Relaxed) {
                    layout.mend()?;
                }
                layout.push_manifest(tags.iter().map(String::as_str), &bytes, OCI_MANIFEST).await?;
            }
        }
        Ok(())
    }

    /// Writes a manifest under a tag. Where others write the same bytes at the same time, some registries refuse one of them
    /// (seen with distribution 2.8 on a file system, as a wrong digest): then it is there, or can be written again.
    async fn put_manifest(&self, reference: &Reference, bytes: &[u8]) -> Result<(), RegistryError> {
        let mut tries = 1;
        loop {
            match self.registry.put_manifest(reference, bytes, OCI_MANIFEST).await {
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Refused && tries < PUT_TRIES_MAX => {
                    tries += 1;
                    let there = self.registry.head_manifest(reference).await?;
                    if there.is_some_and(|there| there.digest == Digest::of(bytes)) {
                        return Ok(());
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Brings a blob into the place, once however many artifacts have it.
    async fn bring(&self, place: &Place, part: &Part) -> Result<(), RegistryError> {
        let cell = {
            let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(written.entry(part.descriptor.digest.clone()).or_default())
        };
        let brought = cell.get_or_try_init(|| async {
            match place {
                Place::Repository(repository) => self.bring_to_repository(repository, part).await,
                Place::Directory(path) => self.bring_to_layout(&Layout::create(path)?, part).await,
            }
        });
        brought.await.copied()
    }

    async fn bring_to_repository(&self, repository: &Repository, part: &Part) -> Result<(), RegistryError> {
        let descriptor = &part.descriptor;
        match &part.content {
            // Every artifact has this one.
            Content::Bytes(bytes) if descriptor.media_type == EMPTY => {
                self.registry.push_bytes(repository, bytes).await.map(drop)
            }
            Content::Bytes(bytes) => self.registry.send_bytes(repository, bytes).await.map(drop),
            Content::File(path, sources) => {
                let blob = Blob { digest: &descriptor.digest, size: descriptor.size, path };
                self.registry.push_blob(repository, &blob, sources).await.map(drop)
            }
            Content::Elsewhere(ImageSource::Registry(reference)) if reference.repository() == repository => Ok(()),
            Content::Elsewhere(ImageSource::Registry(reference)) => {
                let from = reference.repository();
                self.registry.copy_blob(from, repository, descriptor, &self.spool).await.map(drop)
            }
            Content::Elsewhere(ImageSource::Layout(layout)) => {
                let path = layout.blob_file(&descriptor.digest);
                let blob = Blob { digest: &descriptor.digest, size: descriptor.size, path: &path };
                self.registry.push_blob(repository, &blob, &[]).await.map(drop)
            }
        }
    }

    async fn bring_to_layout(&self, layout: &Layout, part: &Part) -> Result<(), RegistryError> {
        let descriptor = &part.descriptor;
        match &part.content {
            Content::Bytes(bytes) => layout.push_bytes(bytes).map(drop),
            // Whoever makes again what is there may do so because it is damaged.
            Content::File(path, _) => layout.mend_blob(descriptor, path).await,
            Content::Elsewhere(ImageSource::Layout(other)) if other.root() == layout.root() => {
                let path = layout.blob_file(&descriptor.digest);
                let lost = || RegistryError::file("find", &path)(std::io::ErrorKind::NotFound.into());
                if layout.blob_exists(descriptor) { Ok(()) } else { Err(lost()) }
            }
            Content::Elsewhere(ImageSource::Layout(other)) => {
                layout.push_blob(descriptor, &other.blob_file(&descriptor.digest)).await
            }
            Content::Elsewhere(ImageSource::Registry(_)) if layout.blob_exists(descriptor) => Ok(()),
            Content::Elsewhere(ImageSource::Registry(reference)) => {
                let file = layout.blob_file(&descriptor.digest);
                self.registry.fetch_blob(reference.repository(), descriptor, &file).await
            }
        }
    }
}
