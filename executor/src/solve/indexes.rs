//! Layer indexes as a cache keeps them: where they are, and how large they may be.

use crate::image::digest::Digest;

/// The kind of artifact that holds the index of a layer of a base image.
pub(super) const INDEX_TYPE: &str = "application/vnd.karve.cache.index.v2";

/// The largest index that is fetched, as it is kept: that of a layer of more than a million files.
pub(super) const PACKED_BYTES_MAX: u64 = 64 << 20;

/// The tag of the index of a layer, by the digest of the layer's bytes.
pub(super) fn tag(layer: &Digest) -> String {
    format!("index-{}", layer.hex())
}
