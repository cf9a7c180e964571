//! Where cache artifacts are kept: tags go in, manifests come out; manifests with their blobs go in. A place is a repository
//! of a registry or an OCI image layout in a directory; both hold the same documents (OCI image-spec, manifest.md,
//! "Guidelines for Artifact Usage").
//!
//! A cache that does not work costs time, never a build: what goes wrong is said once for each place, which is then left
//! alone. Only the blobs of an artifact that was found can fail a build that relies on them, and the solver begins again
//! without it.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fmt,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::sync::OnceCell;

use crate::{
    image::{
        digest::Digest,
        manifest::{Descriptor, Document, InvalidManifest, MANIFEST_BYTES_MAX, Manifest, OCI_MANIFEST},
        reference::{Reference, Repository},
    },
    progress::{Progress, explain},
    registry::{Blob, ErrorKind, ImageSource, Registry, RegistryError, layout::Layout},
};

/// The media type of the empty document that stands for a configuration (image-spec, manifest.md).
const EMPTY: &str = "application/vnd.oci.empty.v1+json";

/// The empty document.
const EMPTY_BYTES: &[u8] = b"{}";

/// How often a manifest is written that the registry refuses.
const PUT_TRIES_MAX: u32 = 3;

/// A repository or an OCI image layout, as `--cache-repo` and `--cache-from` name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A repository of a registry.
    Repository(Repository),
    /// A directory, which is created when something is written.
    Directory(PathBuf),
}

/// The caches of a build: one that is read and written, and others that are only read.
#[derive(Debug)]
pub struct Cache {
    registry: Registry,
    progress: Arc<Progress>,
    /// Where blobs lie on their way from one registry to another.
    spool: PathBuf,
    places: Vec<OpenPlace>,
    /// Whether anything is written to the first place.
    writes: bool,
    /// The blobs that the first place has, or is getting.
    written: Mutex<HashMap<Digest, Arc<OnceCell<()>>>>,
    /// What was said: each thing is said once, however often a build begins again.
    said: Mutex<HashSet<String>>,
}

#[derive(Debug)]
struct OpenPlace {
    place: Place,
    is_unreadable: AtomicBool,
    is_unwritable: AtomicBool,
    /// The tags of a directory, read once: there may be thousands.
    tags: OnceCell<HashMap<String, Digest>>,
}

/// What is done with a place. Some registries let nobody read a repository before something was written to it.
#[derive(Clone, Copy, Debug)]
enum Verb {
    Read,
    Write,
}

/// An artifact that was found.
#[derive(Clone, Debug)]
pub struct Found {
    /// Its manifest.
    pub manifest: Manifest,
    /// Where its blobs are.
    pub source: ImageSource,
}

/// An artifact to be kept.
#[derive(Clone, Debug)]
pub struct Artifact {
    /// What kind of artifact it is.
    pub artifact_type: &'static str,
    /// Its blobs, in an order that its readers know.
    pub parts: Vec<Part>,
    /// Facts about it.
    pub annotations: BTreeMap<String, String>,
}

/// One blob of an artifact.
#[derive(Clone, Debug)]
pub struct Part {
    /// Type, digest and size; its annotations stand in the manifest.
    pub descriptor: Descriptor,
    /// Where the bytes are.
    pub content: Content,
}

/// Where the bytes of a part are.
#[derive(Clone, Debug)]
pub enum Content {
    /// Here.
    Bytes(Vec<u8>),
    /// In a file, and perhaps in a repository already, from which the registry may take them.
    File(PathBuf, Vec<Repository>),
    /// In another image or artifact.
    Elsewhere(ImageSource),
}

impl Part {
    /// Stands where an artifact has no blobs (image-spec, manifest.md, "Guidelines for Artifact Usage").
    pub fn empty() -> Self {
        Self::bytes(EMPTY, EMPTY_BYTES.to_vec())
    }

    /// Describes bytes.
    pub fn bytes(media_type: &str, bytes: Vec<u8>) -> Self {
        Self { descriptor: Descriptor::of(media_type, &bytes), content: Content::Bytes(bytes) }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Repository(repository) => repository.fmt(formatter),
            Self::Directory(path) => write!(formatter, "oci:{}", path.display()),
        }
    }
}

impl Cache {
    /// Takes the places in the order in which they are asked; with `writes`, the first is written to. Blobs pass through
    /// `spool`, a directory.
    pub fn new(registry: Registry, progress: Arc<Progress>, spool: &Path, places: Vec<Place>, writes: bool) -> Self {
        let open = |place| OpenPlace {
            place,
            is_unreadable: AtomicBool::new(false),
            is_unwritable: AtomicBool::new(false),
            tags: OnceCell::new(),
        };
        let places: Vec<OpenPlace> = places.into_iter().map(open).collect();
        let spool = spool.to_owned();
        Self { registry, progress, spool, places, writes, written: Mutex::default(), said: Mutex::default() }
    }

    /// The place that artifacts are written to, if they are.
    pub fn destination(&self) -> Option<&Place> {
        self.places
            .first()
            .filter(|place| self.writes && !place.is_unwritable.load(Ordering::Relaxed))
            .map(|place| &place.place)
    }

    /// Finds an artifact by its tag, in the first place that has one of this type.
    pub async fn find(&self, tag: &str, artifact_type: &str) -> Option<Found> {
        self.find_usable(tag, artifact_type, &mut Some).await
    }

    /// Finds an artifact by its tag, in the first place that has one of this type of which something can be made.
    pub async fn find_usable<T>(
        &self,
        tag: &str,
        artifact_type: &str,
        make: &mut (dyn FnMut(Found) -> Option<T> + Send),
    ) -> Option<T> {
        for open in self.places.iter().filter(|open| !open.is_unreadable.load(Ordering::Relaxed)) {
            match self.read(open, tag).await {
                Ok(None) => {}
                Ok(Some((manifest, source))) if manifest.artifact_type.as_deref() == Some(artifact_type) => {
                    if let Some(made) = make(Found { manifest, source }) {
                        return Some(made);
                    }
                }
                Ok(Some(_)) => self.warn(&format!("`{tag}` in the cache {} is something else: ignored", open.place)),
                Err(error) if matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Invalid) => {
                    self.warn(&format!(
                        "`{tag}` in the cache {} is damaged and ignored: {}",
                        open.place,
                        explain(&error)
                    ));
                }
                Err(error) => self.give_up(open, Verb::Read, &error),
            }
        }
        None
    }

    async fn read(&self, open: &OpenPlace, tag: &str) -> Result<Option<(Manifest, ImageSource)>, RegistryError> {
        let (bytes, what, source) = match &open.place {
            Place::Repository(repository) => {
                let reference = Reference::by_tag(repository, tag)?;
                match self.registry.manifest_bytes(&reference).await {
                    Ok((_, bytes, _)) => (bytes, reference.to_string(), ImageSource::Registry(reference)),
                    Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
                    Err(error) => return Err(error),
                }
            }
            Place::Directory(path) => {
                let tags = match open.tags.get_or_try_init(|| async { tags(path) }).await {
                    Ok(tags) => tags,
                    Err(error) => {
                        self.give_up(open, Verb::Read, &error);
                        return Ok(None);
                    }
                };
                let Some(digest) = tags.get(tag) else { return Ok(None) };
                let layout = Layout::open(path)?;
                let bytes = layout.blob_bytes(digest, MANIFEST_BYTES_MAX)?;
                (bytes, format!("{}:{tag}", open.place), ImageSource::Layout(layout))
            }
        };
        match Document::parse(&bytes, None) {
            Ok(Document::Manifest(manifest)) => Ok(Some((*manifest, source))),
            Ok(Document::Index(_)) => Ok(None),
            Err(source) => Err(RegistryError::InvalidManifest { what, source }),
        }
    }

    /// Keeps an artifact under tags: its blobs, then the manifest. What goes wrong is said, and the place left alone.
    pub async fn save(&self, tags: &[String], artifact: &Artifact) {
        let Some(open) = self.places.first().filter(|_| self.destination().is_some()) else { return };
        if let Err(error) = self.write(open, tags, artifact).await {
            self.give_up(open, Verb::Write, &error);
        }
    }

    async fn write(&self, open: &OpenPlace, tags: &[String], artifact: &Artifact) -> Result<(), RegistryError> {
        let place = &open.place;
        let empty = Part::empty();
        let parts = std::iter::once(&empty).chain(&artifact.parts);
        futures::future::try_join_all(parts.map(|part| self.bring(place, part))).await?;
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

    /// Reads nothing any more.
    pub fn stop_reading(&self) {
        for open in &self.places {
            open.is_unreadable.store(true, Ordering::Relaxed);
        }
    }

    /// Forgets what an attempt of a build has written: some of it may have been found damaged since, and is brought again;
    /// and an artifact that named such a blob may have been refused.
    pub fn begin_again(&self) {
        if let Some(own) = self.places.first() {
            own.is_unwritable.store(false, Ordering::Relaxed);
        }
        self.written.lock().unwrap_or_else(PoisonError::into_inner).clear();
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

    /// Says once what cannot be done with a place, and does not try it again.
    fn give_up(&self, open: &OpenPlace, verb: Verb, error: &RegistryError) {
        let (flag, verb) = match verb {
            Verb::Read => (&open.is_unreadable, "read"),
            Verb::Write => (&open.is_unwritable, "written"),
        };
        flag.store(true, Ordering::Relaxed);
        let what = format!("the cache {} cannot be {verb}", open.place);
        if self.is_new(&what) {
            self.progress.warning(&format!("{what}: {}", explain(error)));
        }
    }

    /// Says something that costs time only, once.
    pub fn warn(&self, text: &str) {
        if self.is_new(text) {
            self.progress.warning(text);
        }
    }

    fn is_new(&self, what: &str) -> bool {
        self.said.lock().unwrap_or_else(PoisonError::into_inner).insert(what.to_owned())
    }
}

/// Lists the tags of a layout; one that does not exist has none.
fn tags(path: &Path) -> Result<HashMap<String, Digest>, RegistryError> {
    if path.join("index.json").exists() { Layout::open(path)?.tags() } else { Ok(HashMap::new()) }
}
