//! Where cache artifacts are kept: tags go in, manifests come out; manifests with their blobs go in. A place is a repository
//! of a registry or an OCI image layout in a directory; both hold the same documents (OCI image-spec, manifest.md,
//! "Guidelines for Artifact Usage").
//!
//! A cache that does not work costs time, never a build: what goes wrong is said once for each place, which is then left
//! alone. Only the blobs of an artifact that was found can fail a build that relies on them, and the solver begins again
//! without it.

mod write;

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
        manifest::{Descriptor, Document, MANIFEST_BYTES_MAX, Manifest},
        reference::{Reference, Repository},
    },
    progress::{Progress, explain},
    registry::{ErrorKind, ImageSource, Registry, RegistryError, layout::Layout},
};

/// The media type of the empty document that stands for a configuration (image-spec, manifest.md).
const EMPTY: &str = "application/vnd.oci.empty.v1+json";

/// The empty document.
const EMPTY_BYTES: &[u8] = b"{}";

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
