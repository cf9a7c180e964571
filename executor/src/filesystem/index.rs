//! The index of a layer: everything that the layer's tar stream says, without the files' bytes.

use serde::{Deserialize, Serialize};

use super::entry::Change;
use crate::image::digest::Digest;

/// What one layer does, in the order of its tar stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Index {
    /// The digest of the uncompressed layer.
    pub diff_id: Digest,
    /// The changes. Files carry their content's digest and a location in this layer, or their bytes where rules need them.
    pub changes: Vec<Change>,
}

/// Files whose bytes an index carries (up to [`INLINE_BYTES_MAX`]), so that names in `--chown` and `USER` resolve without unpacking.
pub const INLINE_PATHS: [&str; 2] = ["etc/passwd", "etc/group"];

/// The largest file that an index carries whole: 1 MiB.
pub const INLINE_BYTES_MAX: u64 = 1 << 20;
