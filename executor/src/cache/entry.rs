//! A cache entry as a manifest and back: what a step made, from what, and on top of which layers. Pure.
//!
//! The manifest has the layers of the stage from its base image up to the step's own, each followed by its index, so that
//! one request brings all that a hit needs and a registry keeps the blobs as long as the entry (OCI image-spec, manifest.md).

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::key::Key;
use crate::image::{
    digest::{Digest, FieldHasher},
    manifest::{Descriptor, Manifest, layer_compression},
};

/// What kind of artifact an entry is.
pub const STEP_TYPE: &str = "application/vnd.karve.cache.step.v1";

/// The media type of a layer's index.
pub const INDEX_MEDIA_TYPE: &str = "application/vnd.karve.layer.index.v2+zstd";

/// More layers than an image can have.
const LAYERS_MAX: usize = 1000;

/// The annotations of an entry and of its layers.
const DEFINITION: &str = "dev.karve.cache.definition";
const CONTENT: &str = "dev.karve.cache.content";
const STAGES: &str = "dev.karve.cache.stages";
pub(super) const CREATED: &str = "dev.karve.cache.created";
pub(super) const DIFF_ID: &str = "dev.karve.layer.diffid";
const STEP: &str = "dev.karve.layer.step";

/// What a step made, and from what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The key by the history of its inputs.
    pub definition: Key,
    /// The key by the content of its inputs.
    pub content: Option<Key>,
    /// The layers of its stage above the base image, lowest first; its own is the last.
    pub layers: Vec<EntryLayer>,
    /// The steps of other stages whose files went into any of the layers, and which of their results it was.
    pub stages: BTreeMap<Key, Digest>,
    /// When the oldest of what it stands for was made, in seconds since 1970.
    pub created: i64,
}

/// A layer of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntryLayer {
    /// The definition of the step that made it.
    pub step: Key,
    /// When it was made, in seconds since 1970.
    pub created: i64,
    /// The digest of its tar stream.
    pub diff_id: Digest,
    /// Its bytes.
    pub layer: Descriptor,
    /// Its index.
    pub index: Descriptor,
}

/// Says why a manifest is no entry.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidEntry(pub(super) String);

/// Names the result of each step of a stage: the layers of its base and those of the steps up to it, whatever their
/// compression.
pub fn stacks<'a>(base: impl Iterator<Item = &'a Digest>, steps: &[&Digest]) -> Vec<Digest> {
    let mut hasher = FieldHasher::default();
    base.for_each(|diff_id| hasher.field(diff_id.as_bytes()));
    let step = |diff_id: &&Digest| {
        hasher.field(diff_id.as_bytes());
        hasher.clone().finish()
    };
    steps.iter().map(step).collect()
}

impl Entry {
    /// Reads a manifest that was found by `key`.
    ///
    /// # Errors
    /// [`InvalidEntry`] where something is missing, malformed or made for another key.
    pub fn parse(manifest: &Manifest, key: &Key) -> Result<Self, InvalidEntry> {
        let annotations = &manifest.annotations;
        let definition = annotation(annotations, DEFINITION)?;
        let content = annotations.contains_key(CONTENT).then(|| annotation(annotations, CONTENT)).transpose()?;
        if definition != *key && content.as_ref() != Some(key) {
            return Err(InvalidEntry("it was made for another key".into()));
        }
        let created: Timestamp = annotation(annotations, CREATED)?;
        let stages = annotations.get(STAGES).map_or(Ok(BTreeMap::new()), |text| serde_json::from_str(text));
        let stages = stages.map_err(|error| InvalidEntry(format!("{STAGES}: {error}")))?;
        let (pairs, rest) = manifest.layers.as_chunks::<2>();
        if !rest.is_empty() || pairs.is_empty() || pairs.len() > LAYERS_MAX {
            return Err(InvalidEntry(format!("it has {} blobs", manifest.layers.len())));
        }
        let layers = pairs.iter().map(EntryLayer::parse).collect::<Result<_, _>>()?;
        Ok(Self { definition, content, layers, stages, created: created.as_second() })
    }

    /// The facts of the manifest.
    ///
    /// # Errors
    /// Only where serialisation fails, for which these types give no cause.
    pub fn annotations(&self) -> Result<BTreeMap<String, String>, serde_json::Error> {
        let created = Timestamp::from_second(self.created).unwrap_or_default();
        let mut annotations = BTreeMap::from([
            (DEFINITION.to_owned(), self.definition.to_string()),
            (CREATED.to_owned(), created.to_string()),
        ]);
        annotations.extend(self.content.iter().map(|key| (CONTENT.to_owned(), key.to_string())));
        if !self.stages.is_empty() {
            annotations.insert(STAGES.to_owned(), serde_json::to_string(&self.stages)?);
        }
        Ok(annotations)
    }

    /// The tags by which it is found.
    pub fn tags(&self) -> Vec<String> {
        let mut tags = vec![self.definition.tag()];
        tags.extend(self.content.iter().map(Key::tag));
        tags
    }
}

impl EntryLayer {
    fn parse([layer, index]: &[Descriptor; 2]) -> Result<Self, InvalidEntry> {
        if layer_compression(&layer.media_type).is_none() {
            return Err(InvalidEntry(format!("it has a layer of the type `{}`", layer.media_type)));
        }
        if index.media_type != INDEX_MEDIA_TYPE {
            return Err(InvalidEntry(format!("it has an index of the type `{}`", index.media_type)));
        }
        let (step, diff_id) = (annotation(&layer.annotations, STEP)?, annotation(&layer.annotations, DIFF_ID)?);
        let created: Timestamp = annotation(&layer.annotations, CREATED)?;
        let plain = |descriptor: &Descriptor| {
            Descriptor::new(&descriptor.media_type, descriptor.digest.clone(), descriptor.size)
        };
        Ok(Self { step, created: created.as_second(), diff_id, layer: plain(layer), index: plain(index) })
    }

    /// The layer's descriptor as it stands in the manifest.
    pub fn descriptor(&self) -> Descriptor {
        let created = Timestamp::from_second(self.created).unwrap_or_default();
        let annotations =
            [(STEP, self.step.to_string()), (DIFF_ID, self.diff_id.to_string()), (CREATED, created.to_string())];
        let annotations = annotations.map(|(name, value)| (name.to_owned(), value));
        Descriptor { annotations: annotations.into(), ..self.layer.clone() }
    }
}

pub(super) fn annotation<T: std::str::FromStr>(
    annotations: &BTreeMap<String, String>,
    name: &str,
) -> Result<T, InvalidEntry> {
    let text = annotations.get(name).ok_or_else(|| InvalidEntry(format!("it has no annotation {name}")))?;
    text.parse().map_err(|_| InvalidEntry(format!("its annotation {name} is malformed")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::manifest::layer_media_type;

    fn key(text: &str) -> Key {
        Digest::of(text.as_bytes()).to_string().parse().unwrap()
    }

    fn entry() -> Entry {
        let layer = |name: &str| EntryLayer {
            step: key(name),
            created: 1_700_000_000,
            diff_id: Digest::of(name.as_bytes()),
            layer: Descriptor::of(layer_media_type(crate::layer::Compression::Gzip), name.as_bytes()),
            index: Descriptor::of(INDEX_MEDIA_TYPE, name.as_bytes()),
        };
        Entry {
            definition: key("definition"),
            content: Some(key("content")),
            layers: vec![layer("one"), layer("two")],
            stages: [(key("stage"), Digest::of(b"result"))].into(),
            created: 1_700_000_000,
        }
    }

    fn manifest(entry: &Entry) -> Manifest {
        let layers = entry.layers.iter().flat_map(|layer| [layer.descriptor(), layer.index.clone()]).collect();
        Manifest {
            schema_version: 2,
            media_type: None,
            artifact_type: Some(STEP_TYPE.into()),
            config: Descriptor::of("application/vnd.oci.empty.v1+json", b"{}"),
            layers,
            subject: None,
            annotations: entry.annotations().unwrap(),
        }
    }

    #[test]
    fn an_entry_is_read_as_it_was_written() {
        let entry = entry();
        for found_by in ["definition", "content"] {
            assert_eq!(Entry::parse(&manifest(&entry), &key(found_by)), Ok(entry.clone()));
        }
        let alone = Entry { content: None, stages: BTreeMap::new(), ..entry };
        assert_eq!(Entry::parse(&manifest(&alone), &key("definition")), Ok(alone));
    }

    #[test]
    fn what_is_damaged_is_no_entry() {
        let damaged = |damage: &dyn Fn(&mut Manifest)| {
            let mut manifest = manifest(&entry());
            damage(&mut manifest);
            Entry::parse(&manifest, &key("definition")).unwrap_err().to_string()
        };
        let says = |text: &str, damage: &dyn Fn(&mut Manifest)| {
            let error = damaged(damage);
            assert!(error.contains(text), "{error}");
        };
        says("3 blobs", &|manifest| drop(manifest.layers.pop()));
        says("0 blobs", &|manifest| manifest.layers.clear());
        says("no annotation dev.karve.layer.step", &|manifest| manifest.layers[0].annotations.retain(|_, _| false));
        says("a layer of the type", &|manifest| manifest.layers.swap(0, 1));
        says("malformed", &|manifest| drop(manifest.annotations.insert(CREATED.into(), "yesterday".into())));
        says(STAGES, &|manifest| drop(manifest.annotations.insert(STAGES.into(), "{".into())));
        let error = Entry::parse(&manifest(&entry()), &key("another")).unwrap_err();
        assert_eq!(error.to_string(), "it was made for another key");
    }
}
