//! The image's documents from the target stage: the configuration and the manifest. Pure.

use std::{collections::BTreeMap, sync::Arc};

use jiff::Timestamp;

use super::layers::StageLayer;
use crate::image::{
    config::{History, ImageConfig},
    digest::Digest,
    manifest::{self, Descriptor, OCI_CONFIG},
};

/// A finished image: its documents and the descriptors of its layers.
#[derive(Clone, Debug)]
pub struct Image {
    /// The configuration, as it is pushed.
    pub config: Vec<u8>,
    /// The configuration's digest and size.
    pub config_descriptor: Descriptor,
    /// The manifest, as it is pushed.
    pub manifest: Vec<u8>,
    /// The manifest's digest: the image's.
    pub digest: Digest,
    /// Lowest first.
    pub layers: Vec<Descriptor>,
}

/// Puts the image together. `epoch` is its `created`, in seconds since 1970.
pub fn image(
    config: &ImageConfig,
    layers: &[Arc<StageLayer>],
    history: &[History],
    annotations: &BTreeMap<String, String>,
    epoch: i64,
) -> Result<Image, serde_json::Error> {
    let mut config = config.clone();
    config.created = Timestamp::from_second(epoch).ok().map(|time| time.to_string());
    config.rootfs.diff_ids = layers.iter().map(|layer| layer.diff_id.clone()).collect();
    history.clone_into(&mut config.history);
    let config = serde_json::to_vec(&config)?;
    let config_descriptor = Descriptor::of(OCI_CONFIG, &config);
    let layers: Vec<Descriptor> = layers.iter().map(|layer| layer.descriptor.clone()).collect();
    let manifest = manifest::manifest(&config_descriptor, &layers, annotations)?;
    let digest = Digest::of(&manifest);
    Ok(Image { config, config_descriptor, manifest, digest, layers })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{image::manifest::layer_media_type, layer::Compression, solve::layers::Origin};

    fn layer(content: &[u8], compression: Compression) -> Arc<StageLayer> {
        let descriptor = Descriptor::of(layer_media_type(compression), content);
        Arc::new(StageLayer::new(
            Digest::of(&[content, b" unpacked"].concat()),
            descriptor,
            compression,
            Origin::Written,
        ))
    }

    fn record(created_by: &str, empty_layer: bool) -> History {
        History { created_by: Some(created_by.into()), empty_layer, ..History::default() }
    }

    fn assemble() -> Image {
        let mut config = ImageConfig { architecture: "amd64".into(), os: "linux".into(), ..ImageConfig::default() };
        config.config.env = vec!["PATH=/bin".into()];
        let layers = vec![layer(b"base", Compression::Zstd), layer(b"own", Compression::Gzip)];
        let history = vec![record("ADD base", false), record("ENV PATH=/bin", true), record("COPY own /", false)];
        let annotations = [("b".to_owned(), "2".to_owned()), ("a".to_owned(), "1".to_owned())].into();
        image(&config, &layers, &history, &annotations, 86_400).unwrap()
    }

    #[test]
    fn the_configuration_is_these_bytes() {
        insta::assert_snapshot!(String::from_utf8(assemble().config).unwrap(), @r#"{"created":"1970-01-02T00:00:00Z","architecture":"amd64","os":"linux","config":{"Env":["PATH=/bin"]},"rootfs":{"type":"layers","diff_ids":["sha256:c10fd5147b8a642aad0baf895705f0dff93fc82e921f024a72b77c9fd421906f","sha256:6f3ddcf8503bc086753586b43dac1e4014eb7fc9d4e677af8c5083a61cc5b4cf"]},"history":[{"created_by":"ADD base"},{"created_by":"ENV PATH=/bin","empty_layer":true},{"created_by":"COPY own /"}]}"#);
    }

    #[test]
    fn the_manifest_is_these_bytes() {
        insta::assert_snapshot!(String::from_utf8(assemble().manifest).unwrap(), @r#"
        {
          "schemaVersion": 2,
          "mediaType": "application/vnd.oci.image.manifest.v1+json",
          "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": "sha256:25ce7791e2ed7312471b1a404ecc94b954b7393958690c8e73a59aea80ebf854",
            "size": 405
          },
          "layers": [
            {
              "mediaType": "application/vnd.oci.image.layer.v1.tar+zstd",
              "digest": "sha256:cae662172fd450bb0cd710a769079c05bfc5d8e35efa6576edc7d0377afdd4a2",
              "size": 4
            },
            {
              "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
              "digest": "sha256:5b3975651c3cab92d044c096dc30a1c2d9525497457472de48c51ecb363d1f4a",
              "size": 3
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
    fn digests_are_those_of_the_documents() {
        let image = assemble();
        assert_eq!(image.digest, Digest::of(&image.manifest));
        assert_eq!(image.config_descriptor, Descriptor::of(OCI_CONFIG, &image.config));
        assert_eq!(image.layers.len(), 2);
    }
}
