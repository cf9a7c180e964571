//! Layers as streams: changes -> deterministic tar -> diffID -> compressed -> digest, and back.
//!
//! Constant memory at any size; the bytes depend neither on the number of threads nor on the clock.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::image::digest::Digest;

pub mod changes;
pub mod compress;
pub mod error;
mod files;
pub mod pack;
mod place;
pub mod read;
mod tar;
#[cfg(test)]
mod tests;
pub mod trim;
pub mod unpack;
pub mod write;

/// How a layer's tar stream is compressed (OCI image-spec, layer.md, media types).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// `application/vnd.oci.image.layer.v1.tar`
    None,
    /// `application/vnd.oci.image.layer.v1.tar+gzip`
    Gzip,
    /// `application/vnd.oci.image.layer.v1.tar+zstd`
    Zstd,
}

/// A layer whose compressed bytes lie in a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layer {
    /// Digest of the tar stream.
    pub diff_id: Digest,
    /// Digest of the compressed bytes.
    pub digest: Digest,
    /// Bytes of the compressed form.
    pub size: u64,
    /// How the bytes are compressed.
    pub compression: Compression,
    /// The file that holds the compressed bytes.
    pub blob: PathBuf,
}
