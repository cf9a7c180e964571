//! OCI image layouts: directories that hold images (OCI image-spec, image-layout.md). Read by tag or digest, written
//! blob by blob and then by one rename of `index.json`, so that a reader never sees half an image.
//!
//! A layout may come with a build context: every path in it is opened below its root, and every byte is verified.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, Read, Write},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use rustix::fs::{FlockOperation, Mode, OFlags, flock};
use serde::de::IgnoredAny;
use tokio::task;

use super::{
    BaseImage, ImageSource,
    error::RegistryError,
    pull::{assemble, choose},
    spool::{beside, copy_verified},
};
use crate::{
    hash::hash,
    image::{
        digest::Digest,
        manifest::{CONFIG_BYTES_MAX, Descriptor, Document, ImageIndex, InvalidManifest, MANIFEST_BYTES_MAX, REF_NAME},
        platform::Platform,
    },
    in_root::open_in_root,
};

/// The file that makes a directory a layout.
const MARKER: &str = "oci-layout";
/// What is in it.
const MARKER_TEXT: &str = r#"{"imageLayoutVersion":"1.0.0"}"#;
/// The largest `index.json` that is read: a cache of some 200,000 tags. It is in memory as a whole.
const INDEX_BYTES_MAX: u64 = 64 << 20;
/// Indexes within indexes that are followed.
const INDEX_DEPTH_MAX: usize = 4;

/// Which image of a layout is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selector {
    /// The only one, or `latest`.
    Default,
    /// The one with this `org.opencontainers.image.ref.name`.
    Tag(String),
    /// The one with this digest.
    Digest(Digest),
}

/// A directory that holds images.
#[derive(Clone, Debug)]
pub struct Layout {
    root: PathBuf,
}

/// Opens one image of a layout for a platform: [`Layout::resolve`] on [`Layout::open`].
pub fn open(path: &Path, selector: &Selector, platform: &Platform) -> Result<BaseImage, RegistryError> {
    Layout::open(path)?.resolve(selector, platform)
}

/// Splits what follows `oci-layout:` into a path and a selector: `PATH`, `PATH:tag`, `PATH@digest`, `PATH:tag@digest`.
pub fn parse(text: &str) -> (PathBuf, Selector) {
    let (rest, digest) = match text.rsplit_once('@').map(|(rest, digest)| (rest, digest.parse())) {
        Some((rest, Ok(digest))) => (rest, Some(digest)),
        _ => (text, None),
    };
    let (path, tag) = match rest.rsplit_once(':') {
        Some((path, tag)) if !tag.is_empty() && !tag.contains('/') => (path, Some(tag.to_owned())),
        _ => (rest, None),
    };
    let selector = match (digest, tag) {
        (Some(digest), _) => Selector::Digest(digest),
        (None, Some(tag)) => Selector::Tag(tag),
        (None, None) => Selector::Default,
    };
    (path.into(), selector)
}

impl Layout {
    /// Opens a directory that is a layout.
    ///
    /// # Errors
    /// [`RegistryError::InvalidLayout`] without an `oci-layout` file of version 1.
    pub fn open(root: &Path) -> Result<Self, RegistryError> {
        let layout = Self { root: root.to_owned() };
        let marker = layout.read(MARKER, 4096)?;
        let version = serde_json::from_slice::<serde_json::Value>(&marker).ok();
        let version = version.as_ref().and_then(|marker| marker.get("imageLayoutVersion")?.as_str());
        if !version.is_some_and(|version| version.starts_with("1.")) {
            return Err(layout.invalid(format!("its {MARKER} file names no version 1")));
        }
        Ok(layout)
    }

    /// Opens a directory for writing; makes it a layout if it is none yet.
    pub fn create(root: &Path) -> Result<Self, RegistryError> {
        let blobs = root.join("blobs/sha256");
        std::fs::create_dir_all(&blobs).map_err(RegistryError::file("create", &blobs))?;
        let layout = Self { root: root.to_owned() };
        if root.join("index.json").exists() && root.join(MARKER).exists() {
            return Ok(layout);
        }
        // Whoever makes it at the same time must not have its list replaced by an empty one.
        let _lock = layout.lock()?;
        if !root.join("index.json").exists() {
            layout.replace("index.json", &to_json(&ImageIndex::default()))?;
        }
        if !root.join(MARKER).exists() {
            layout.replace(MARKER, MARKER_TEXT.as_bytes())?;
        }
        Ok(layout)
    }

    /// Makes anew what makes a directory a layout, where it is no JSON: files that were copied half. Its tags are lost, but for
    /// somebody who reads them in what was there: that lies beside it.
    pub fn mend(&self) -> Result<(), RegistryError> {
        let _lock = self.lock()?;
        let parts = [("index.json", to_json(&ImageIndex::default())), (MARKER, MARKER_TEXT.into())];
        for (name, new) in parts {
            let known = self.read(name, INDEX_BYTES_MAX)?;
            if serde_json::from_slice::<IgnoredAny>(&known).is_err() {
                self.replace(&format!("{name}.damaged"), &known)?;
                self.replace(name, &new)?;
            }
        }
        Ok(())
    }

    /// Returns the directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Finds an image and reads its documents, verified.
    pub fn resolve(&self, selector: &Selector, platform: &Platform) -> Result<BaseImage, RegistryError> {
        let what = self.name(selector);
        let named = match self.select(selector)? {
            Some(descriptor) => descriptor.digest,
            None => return Err(RegistryError::NotFound { what, detail: String::new() }),
        };
        let mut digest = named.clone();
        for _ in 0..INDEX_DEPTH_MAX {
            let bytes = self.blob_bytes(&digest, MANIFEST_BYTES_MAX)?;
            let parsed = Document::parse(&bytes, None);
            let manifest =
                match parsed.map_err(|source| RegistryError::InvalidManifest { what: what.clone(), source })? {
                    Document::Manifest(manifest) => *manifest,
                    Document::Index(index) => {
                        digest = choose(&what, &index, platform)?.digest.clone();
                        continue;
                    }
                };
            let config_bytes = self.blob_bytes(&manifest.config.digest, CONFIG_BYTES_MAX)?;
            return assemble(ImageSource::Layout(self.clone()), &what, named, digest, manifest, config_bytes, platform);
        }
        let source = InvalidManifest::MediaType("an index of indexes of indexes".into());
        Err(RegistryError::InvalidManifest { what, source })
    }

    /// Opens a blob for reading. Its bytes are not verified.
    pub fn open_blob(&self, digest: &Digest) -> Result<File, RegistryError> {
        self.open_file(&blob_path(digest))
    }

    /// Copies a blob into a file, which exists under its name only when size and digest are right.
    pub async fn fetch_blob(&self, descriptor: &Descriptor, path: &Path) -> Result<(), RegistryError> {
        let source = self.open_blob(&descriptor.digest)?;
        copy_verified(self.name(&Selector::Digest(descriptor.digest.clone())), source, descriptor, path).await
    }

    /// Whether the layout has a blob of this size. One that was cut short counts as missing, so that it is written again.
    pub fn blob_exists(&self, descriptor: &Descriptor) -> bool {
        let metadata = self.open_blob(&descriptor.digest).map(|file| file.metadata());
        matches!(metadata, Ok(Ok(metadata)) if metadata.len() == descriptor.size)
    }

    /// Returns the file of a blob, which may not exist.
    pub fn blob_file(&self, digest: &Digest) -> PathBuf {
        self.root.join(blob_path(digest))
    }

    /// Lists what the tags name.
    pub fn tags(&self) -> Result<HashMap<String, Digest>, RegistryError> {
        let named = |mut entry: Descriptor| Some((entry.annotations.remove(REF_NAME)?, entry.digest));
        Ok(self.index()?.manifests.into_iter().filter_map(named).collect())
    }

    /// Adds a blob from a file, verified on the way; one of this size that is there already stays.
    pub async fn push_blob(&self, descriptor: &Descriptor, source: &Path) -> Result<(), RegistryError> {
        if self.blob_exists(descriptor) { Ok(()) } else { self.replace_blob(descriptor, source).await }
    }

    /// Adds a blob from a file, verified on the way; what is there already stays if it is the blob, byte for byte.
    pub async fn mend_blob(&self, descriptor: &Descriptor, source: &Path) -> Result<(), RegistryError> {
        if self.blob_exists(descriptor) {
            let file = self.open_blob(&descriptor.digest)?;
            let found = task::spawn_blocking(move || hash(file)).await;
            match found.map_err(io::Error::other).flatten() {
                Ok(found) if found == descriptor.digest => return Ok(()),
                Ok(found) => tracing::debug!(%found, expected = %descriptor.digest, "a damaged blob is replaced"),
                Err(error) => tracing::debug!(%error, digest = %descriptor.digest, "an unreadable blob is replaced"),
            }
        }
        self.replace_blob(descriptor, source).await
    }

    async fn replace_blob(&self, descriptor: &Descriptor, source: &Path) -> Result<(), RegistryError> {
        let file = File::open(source).map_err(RegistryError::file("open", source))?;
        let destination = self.root.join(blob_path(&descriptor.digest));
        copy_verified(source.display().to_string(), file, descriptor, &destination).await
    }

    /// Adds a small blob from memory and returns its digest.
    pub fn push_bytes(&self, bytes: &[u8]) -> Result<Digest, RegistryError> {
        let digest = Digest::of(bytes);
        // What is there is as small, and may be damaged.
        if !matches!(self.blob_bytes(&digest, bytes.len() as u64), Ok(known) if known == bytes) {
            self.replace(&blob_path(&digest), bytes)?;
        }
        Ok(digest)
    }

    /// Adds a manifest or index and lists it in `index.json`, once for each tag, and without one if there is none; a tag
    /// that was taken moves.
    ///
    /// Writers of one layout wait for each other.
    pub async fn push_manifest<'a>(
        &self,
        tags: impl IntoIterator<Item = &'a str>,
        bytes: &[u8],
        media_type: &str,
    ) -> Result<Digest, RegistryError> {
        let entry = Descriptor::of(media_type, bytes);
        let tagged = |tag: &str| {
            let annotations = [(REF_NAME.to_owned(), tag.to_owned())].into();
            Descriptor { annotations, ..entry.clone() }
        };
        let mut entries: Vec<Descriptor> = tags.into_iter().map(tagged).collect();
        if entries.is_empty() {
            entries.push(entry);
        }
        let digest = self.push_bytes(bytes)?;
        let layout = self.clone();
        let listed = task::spawn_blocking(move || layout.list(entries)).await;
        let broken = |error: task::JoinError| RegistryError::File {
            action: "update",
            path: self.root.join("index.json"),
            source: io::Error::other(error),
        };
        listed.map_err(broken)??;
        Ok(digest)
    }

    fn list(&self, entries: Vec<Descriptor>) -> Result<(), RegistryError> {
        let _lock = self.lock()?;
        let mut index = self.index()?;
        for entry in entries {
            let tag = entry.annotations.get(REF_NAME);
            index.manifests.retain(|known| match tag {
                Some(_) => known.annotations.get(REF_NAME) != tag,
                None => known.digest != entry.digest || known.annotations.contains_key(REF_NAME),
            });
            index.manifests.push(entry);
        }
        self.replace("index.json", &to_json(&index))
    }

    /// Waits until no other writer has the layout; the lock ends with the value.
    fn lock(&self) -> Result<OwnedFd, RegistryError> {
        let root = self.directory()?;
        flock(&root, FlockOperation::LockExclusive)
            .map_err(io::Error::from)
            .map_err(RegistryError::file("lock", &self.root))?;
        Ok(root)
    }

    fn select(&self, selector: &Selector) -> Result<Option<Descriptor>, RegistryError> {
        let mut manifests = self.index()?.manifests;
        let tagged = |manifests: &[Descriptor], tag: &str| {
            // Containerd writes the whole reference where the specification has only a name.
            let names = |entry: &&Descriptor| {
                let name = entry.annotations.get(REF_NAME).map(String::as_str).unwrap_or_default();
                name == tag || name.rsplit_once(':').is_some_and(|(_, last)| last == tag)
            };
            manifests.iter().find(names).cloned()
        };
        Ok(match selector {
            Selector::Default if manifests.len() == 1 => manifests.pop(),
            Selector::Default => tagged(&manifests, "latest"),
            Selector::Tag(tag) => tagged(&manifests, tag),
            Selector::Digest(digest) => {
                let listed = manifests.into_iter().find(|entry| entry.digest == *digest);
                // An image of an index is not listed itself.
                listed.or_else(|| {
                    self.open_blob(digest)
                        .is_ok()
                        .then(|| Descriptor::new(crate::image::manifest::OCI_MANIFEST, digest.clone(), 0))
                })
            }
        })
    }

    fn index(&self) -> Result<ImageIndex, RegistryError> {
        let bytes = self.read("index.json", INDEX_BYTES_MAX)?;
        serde_json::from_slice(&bytes).map_err(|error| self.invalid(format!("its index.json is not one: {error}")))
    }

    /// Reads a small blob into memory, verified.
    pub fn blob_bytes(&self, digest: &Digest, bytes_max: u64) -> Result<Vec<u8>, RegistryError> {
        let bytes = self.read(&blob_path(digest), bytes_max)?;
        let (what, actual) = (self.name(&Selector::Digest(digest.clone())), Digest::of(&bytes));
        if actual != *digest {
            return Err(RegistryError::DigestMismatch { what, expected: digest.clone(), actual });
        }
        Ok(bytes)
    }

    fn read(&self, name: &str, bytes_max: u64) -> Result<Vec<u8>, RegistryError> {
        let mut bytes = Vec::new();
        let path = self.root.join(name);
        let file = self.open_file(name)?;
        file.take(bytes_max + 1).read_to_end(&mut bytes).map_err(RegistryError::file("read", &path))?;
        if bytes.len() as u64 > bytes_max {
            return Err(RegistryError::TooLarge { what: path.display().to_string(), limit_bytes: bytes_max });
        }
        Ok(bytes)
    }

    /// Opens a regular file below the root, wherever its links point.
    fn open_file(&self, name: &str) -> Result<File, RegistryError> {
        let root = self.directory()?;
        // Without NONBLOCK, a fifo in the place of a blob would hold the build up.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let path = self.root.join(name);
        let opened = match open_in_root(&root, name, flags) {
            Ok(opened) => File::from(opened),
            Err(rustix::io::Errno::NOENT) => return Err(self.invalid(format!("it has no `{name}`"))),
            Err(error) => return Err(RegistryError::file("open", &path)(error.into())),
        };
        let metadata = opened.metadata().map_err(RegistryError::file("read", &path))?;
        if metadata.is_file() { Ok(opened) } else { Err(self.invalid(format!("its `{name}` is not a file"))) }
    }

    fn directory(&self) -> Result<OwnedFd, RegistryError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = rustix::fs::open(&self.root, flags, Mode::empty());
        opened.map_err(io::Error::from).map_err(RegistryError::file("open", &self.root))
    }

    /// Writes a file beside its name and renames it, so that it is there whole or not at all, even after a crash.
    fn replace(&self, name: &str, bytes: &[u8]) -> Result<(), RegistryError> {
        let destination = self.root.join(name);
        let unfinished = beside(&destination);
        let written = File::create_new(&unfinished).and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_all()?;
            std::fs::rename(&unfinished, &destination)
        });
        if written.is_err()
            && let Err(error) = std::fs::remove_file(&unfinished)
        {
            tracing::debug!(path = %unfinished.display(), %error, "cannot remove an unfinished file");
        }
        written.map_err(RegistryError::file("write", &destination))
    }

    fn name(&self, selector: &Selector) -> String {
        let root = self.root.display();
        match selector {
            Selector::Default => format!("oci-layout:{root}"),
            Selector::Tag(tag) => format!("oci-layout:{root}:{tag}"),
            Selector::Digest(digest) => format!("oci-layout:{root}@{digest}"),
        }
    }

    fn invalid(&self, reason: String) -> RegistryError {
        RegistryError::InvalidLayout { path: self.root.clone(), reason }
    }
}

fn blob_path(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// Serialises an index; its fields are text and numbers, so nothing can fail.
fn to_json(index: &ImageIndex) -> Vec<u8> {
    serde_json::to_vec_pretty(index).unwrap_or_default()
}
