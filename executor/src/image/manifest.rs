//! Manifests and indexes, OCI and Docker (OCI image-spec, manifest.md and image-index.md): bytes -> documents, and the
//! manifest of a new image -> bytes that depend on nothing but its parts.
//!
//! A document that came from elsewhere is never written again: its digest is the digest of the bytes that were read.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{digest::Digest, platform::Platform};
use crate::layer::Compression;

/// `application/vnd.oci.image.manifest.v1+json`
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// `application/vnd.oci.image.index.v1+json`
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// `application/vnd.oci.image.config.v1+json`
pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// `application/vnd.docker.distribution.manifest.v2+json`
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// `application/vnd.docker.distribution.manifest.list.v2+json`
pub const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// `application/vnd.docker.container.image.v1+json`
pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";

/// Every media type that [`Document::parse`] reads, for an `Accept` header.
pub const ACCEPTED: [&str; 4] = [OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_INDEX];

/// The largest manifest or index that is read: what registries accept (distribution-spec, "Pushing Manifests").
pub const MANIFEST_BYTES_MAX: u64 = 4 << 20;
/// The largest image configuration that is read.
pub const CONFIG_BYTES_MAX: u64 = 8 << 20;

/// The name of an image within an OCI layout.
pub const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// Points to content (OCI image-spec, descriptor.md).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What the content is.
    pub media_type: String,
    /// The hash of the content.
    pub digest: Digest,
    /// Bytes of the content.
    pub size: u64,
    /// What the content is an image for, in an index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// The kind of artifact that it points to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// Free-form facts.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_as_default")]
    pub annotations: BTreeMap<String, String>,
}

impl Descriptor {
    /// Describes content by its type, hash and size.
    pub fn new(media_type: &str, digest: Digest, size: u64) -> Self {
        let media_type = media_type.to_owned();
        Self { media_type, digest, size, platform: None, artifact_type: None, annotations: BTreeMap::new() }
    }

    /// Describes bytes that are in memory.
    pub fn of(media_type: &str, bytes: &[u8]) -> Self {
        Self::new(media_type, Digest::of(bytes), bytes.len() as u64)
    }
}

/// One image, or one artifact.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// Always 2.
    pub schema_version: u32,
    /// The type of this document; OCI allows its absence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// The kind of an artifact that is not an image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// The configuration.
    pub config: Descriptor,
    /// The layers, lowest first.
    #[serde(default, deserialize_with = "null_as_default")]
    pub layers: Vec<Descriptor>,
    /// The image that this artifact is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Descriptor>,
    /// Free-form facts.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_as_default")]
    pub annotations: BTreeMap<String, String>,
}

/// A list of images, one for each platform.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageIndex {
    /// Always 2.
    pub schema_version: u32,
    /// The type of this document; OCI allows its absence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// The images.
    #[serde(default, deserialize_with = "null_as_default")]
    pub manifests: Vec<Descriptor>,
    /// Free-form facts.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_as_default")]
    pub annotations: BTreeMap<String, String>,
}

impl Default for ImageIndex {
    fn default() -> Self {
        let media_type = Some(OCI_INDEX.to_owned());
        Self { schema_version: 2, media_type, manifests: Vec::new(), annotations: BTreeMap::new() }
    }
}

impl ImageIndex {
    /// Returns the image that runs best on a platform; of equals, the first. Attestations and other artifacts are no images.
    pub fn choose(&self, platform: &Platform) -> Option<&Descriptor> {
        let rated = self.manifests.iter().filter_map(|entry| Some((platform.rate(entry.platform.as_ref()?)?, entry)));
        rated.min_by_key(|(rate, _)| *rate).map(|(_, entry)| entry)
    }

    /// Lists the platforms that there are images for, in order, without attestations (`unknown/unknown`).
    pub fn platforms(&self) -> Vec<String> {
        let named = self.manifests.iter().filter_map(|entry| entry.platform.as_ref());
        named.filter(|platform| platform.os != "unknown").map(ToString::to_string).collect()
    }
}

/// What lies behind a tag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Document {
    /// One image.
    Manifest(Box<Manifest>),
    /// Images for several platforms.
    Index(ImageIndex),
}

/// Says why bytes are no manifest.
#[derive(Debug, thiserror::Error)]
pub enum InvalidManifest {
    /// The bytes are not the JSON that the media type promises.
    #[error("the document is not a manifest")]
    Json(#[source] serde_json::Error),
    /// The type is one that Karve does not read.
    #[error("the document has the type `{0}`, which is neither an image manifest nor an image index")]
    MediaType(String),
    /// Docker's first manifest format.
    #[error("the image is in Docker's schema 1 format: push it again with a current tool")]
    SchemaOne,
}

/// The fields that tell one document from another.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Shape {
    schema_version: Option<u32>,
    media_type: Option<String>,
    #[serde(default)]
    manifests: Option<serde::de::IgnoredAny>,
}

impl Document {
    /// Reads a manifest or an index. The document's own `mediaType` decides; without one, the type that the registry
    /// reported; without either, whether it has `manifests`.
    pub fn parse(bytes: &[u8], reported: Option<&str>) -> Result<Self, InvalidManifest> {
        let shape: Shape = serde_json::from_slice(bytes).map_err(InvalidManifest::Json)?;
        if shape.schema_version == Some(1) {
            return Err(InvalidManifest::SchemaOne);
        }
        let reported = reported.filter(|reported| ACCEPTED.contains(reported));
        let index = match shape.media_type.as_deref().or(reported) {
            Some(OCI_INDEX | DOCKER_INDEX) => true,
            Some(OCI_MANIFEST | DOCKER_MANIFEST) => false,
            Some(other) => return Err(InvalidManifest::MediaType(other.chars().take(100).collect())),
            None => shape.manifests.is_some(),
        };
        if index {
            return serde_json::from_slice(bytes).map(Self::Index).map_err(InvalidManifest::Json);
        }
        serde_json::from_slice(bytes).map(|manifest| Self::Manifest(Box::new(manifest))).map_err(InvalidManifest::Json)
    }

    /// Returns the media type under which the document is stored.
    pub fn media_type(&self) -> &str {
        match self {
            Self::Manifest(manifest) => manifest.media_type.as_deref().unwrap_or(OCI_MANIFEST),
            Self::Index(index) => index.media_type.as_deref().unwrap_or(OCI_INDEX),
        }
    }
}

/// Writes the OCI manifest of an image. Docker's media types become their OCI names, the bytes behind them being the same.
///
/// # Errors
/// Only if serialisation fails, which these types give no cause for.
pub fn manifest(
    config: &Descriptor,
    layers: &[Descriptor],
    annotations: &BTreeMap<String, String>,
) -> Result<Vec<u8>, serde_json::Error> {
    let plain = |descriptor: &Descriptor| {
        Descriptor::new(oci_media_type(&descriptor.media_type), descriptor.digest.clone(), descriptor.size)
    };
    serde_json::to_vec_pretty(&Manifest {
        schema_version: 2,
        media_type: Some(OCI_MANIFEST.into()),
        artifact_type: None,
        config: plain(config),
        layers: layers.iter().map(plain).collect(),
        subject: None,
        annotations: annotations.clone(),
    })
}

/// Returns the media type of a layer.
pub const fn layer_media_type(compression: Compression) -> &'static str {
    match compression {
        Compression::None => "application/vnd.oci.image.layer.v1.tar",
        Compression::Gzip => "application/vnd.oci.image.layer.v1.tar+gzip",
        Compression::Zstd => "application/vnd.oci.image.layer.v1.tar+zstd",
    }
}

/// Returns how the layer of a media type is compressed, or `None` for what is no layer.
pub fn layer_compression(media_type: &str) -> Option<Compression> {
    Some(match media_type {
        "application/vnd.oci.image.layer.v1.tar"
        | "application/vnd.oci.image.layer.nondistributable.v1.tar"
        | "application/vnd.docker.image.rootfs.diff.tar" => Compression::None,
        "application/vnd.oci.image.layer.v1.tar+gzip"
        | "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
        | "application/vnd.docker.image.rootfs.diff.tar.gzip"
        | "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip" => Compression::Gzip,
        "application/vnd.oci.image.layer.v1.tar+zstd"
        | "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd"
        | "application/vnd.docker.image.rootfs.diff.tar.zstd" => Compression::Zstd,
        _ => return None,
    })
}

/// Returns the OCI name of a Docker media type; every other name stays.
fn oci_media_type(media_type: &str) -> &str {
    match media_type {
        DOCKER_CONFIG => OCI_CONFIG,
        "application/vnd.docker.image.rootfs.diff.tar" => layer_media_type(Compression::None),
        "application/vnd.docker.image.rootfs.diff.tar.gzip" => layer_media_type(Compression::Gzip),
        "application/vnd.docker.image.rootfs.diff.tar.zstd" => layer_media_type(Compression::Zstd),
        other => other,
    }
}

/// Reads JSON `null` as the empty value: Go writes nil maps and slices so.
fn null_as_default<'de, D: serde::Deserializer<'de>, T: Default + Deserialize<'de>>(from: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(platform: &str, content: &[u8]) -> Descriptor {
        Descriptor { platform: Some(platform.parse().unwrap()), ..Descriptor::of(OCI_MANIFEST, content) }
    }

    #[track_caller]
    fn check(index: &ImageIndex, platform: &str, chosen: Option<&[u8]>) {
        let digest = index.choose(&platform.parse().unwrap()).map(|entry| entry.digest.clone());
        assert_eq!(digest, chosen.map(Digest::of), "{platform}");
    }

    #[test]
    fn the_best_image_of_an_index_is_chosen() {
        let mut index = ImageIndex::default();
        let platforms: [(&str, &[u8]); 5] = [
            ("unknown/unknown", b"0"),
            ("linux/arm/v5", b"1"),
            ("linux/arm/v7", b"2"),
            ("linux/amd64", b"3"),
            ("linux/amd64", b"4"),
        ];
        index.manifests = platforms.map(|(platform, content)| entry(platform, content)).to_vec();
        index.manifests.push(Descriptor::of(OCI_MANIFEST, b"5"));
        check(&index, "linux/amd64", Some(b"3"));
        check(&index, "linux/arm/v7", Some(b"2"));
        check(&index, "linux/arm/v6", Some(b"1"));
        check(&index, "linux/arm64", None);
        assert_eq!(index.platforms(), ["linux/arm/v5", "linux/arm/v7", "linux/amd64", "linux/amd64"]);
    }

    #[test]
    fn a_manifest_is_the_same_bytes_each_time_and_speaks_oci() {
        let config = Descriptor::of(DOCKER_CONFIG, b"{}");
        let mut layer = Descriptor::of("application/vnd.docker.image.rootfs.diff.tar.gzip", b"layer");
        layer.annotations.insert("dropped".into(), "yes".into());
        let annotations = BTreeMap::from([("b".into(), "2".into()), ("a".into(), "1".into())]);
        insta::assert_snapshot!(String::from_utf8(manifest(&config, &[layer], &annotations).unwrap()).unwrap(), @r#"
        {
          "schemaVersion": 2,
          "mediaType": "application/vnd.oci.image.manifest.v1+json",
          "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a",
            "size": 2
          },
          "layers": [
            {
              "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
              "digest": "sha256:dac1d7cfa95021764849fd102524e141488c5e3a90f861dbb5a12d9ac8584f85",
              "size": 5
            }
          ],
          "annotations": {
            "a": "1",
            "b": "2"
          }
        }
        "#);
    }

    #[test]
    fn documents_are_told_apart_by_their_own_word_then_the_registrys_then_their_shape() {
        let digest = Digest::of(b"");
        let config = format!(r#""config":{{"mediaType":"x","digest":"{digest}","size":0}}"#);
        let read = |text: &str, reported: Option<&str>| match Document::parse(text.as_bytes(), reported) {
            Ok(document) => document.media_type().to_owned(),
            Err(error) => error.to_string().chars().take(28).collect(),
        };
        let manifest = format!(r#"{{"schemaVersion":2,{config},"layers":null}}"#);
        assert_eq!(read(&manifest, None), OCI_MANIFEST);
        assert_eq!(read(&manifest, Some("application/octet-stream")), OCI_MANIFEST);
        assert_eq!(read(r#"{"schemaVersion":2,"manifests":[]}"#, None), OCI_INDEX);
        assert_eq!(read(r#"{"schemaVersion":2}"#, Some(DOCKER_INDEX)), OCI_INDEX);
        let docker = format!(r#"{{"schemaVersion":2,"mediaType":"{DOCKER_MANIFEST}",{config}}}"#);
        assert_eq!(read(&docker, Some(OCI_INDEX)), DOCKER_MANIFEST);
        assert_eq!(read(r#"{"schemaVersion":1}"#, None), "the image is in Docker's sch");
        assert_eq!(read(r#"{"schemaVersion":2,"mediaType":"text/html"}"#, None), "the document has the type `t");
        assert_eq!(read("<html>", None), "the document is not a manife");
    }

    #[test]
    fn layer_types_and_compressions_belong_together() {
        for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
            assert_eq!(layer_compression(layer_media_type(compression)), Some(compression));
        }
        assert_eq!(layer_compression(OCI_CONFIG), None);
    }
}
