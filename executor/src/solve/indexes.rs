//! Layer indexes as they are kept in the cache: JSON, compressed with zstd. An index goes in and bytes come out, and back.
//!
//! What comes from a cache is checked.

use std::io::{self, Read};

use crate::{
    filesystem::{
        entry::{Action, Change, Kind},
        index::Index,
        path::TreePath,
    },
    image::digest::Digest,
};

/// The kind of artifact that holds the index of a layer of a base image.
pub(super) const INDEX_TYPE: &str = "application/vnd.karve.cache.index.v2";

/// The largest index that is read, compressed and not: that of a layer of some 300,000 files.
pub(super) const PACKED_BYTES_MAX: u64 = 64 << 20;
const BYTES_MAX: u64 = 256 << 20;

/// zstd's fastest that still halves it: an index is written once and read often, but small either way.
const LEVEL: i32 = 1;

/// Why bytes are no index.
#[derive(Debug, thiserror::Error)]
pub(super) enum InvalidIndex {
    /// They cannot be decompressed.
    #[error("it cannot be decompressed")]
    Compression(#[from] io::Error),
    /// It is larger than is read.
    #[error("it is larger than {BYTES_MAX} bytes")]
    TooLarge,
    /// They are not the JSON of an index.
    #[error("it is not an index")]
    Json(#[from] serde_json::Error),
    /// It has a path that no archive gives.
    #[error("it has the path {0}, which is not in its normal form")]
    Path(TreePath),
    /// It says nothing of what is in a file.
    #[error("it has no digest of {0}")]
    Digest(TreePath),
    /// It is of another layer.
    #[error("it is not the index of the layer {0}")]
    Foreign(Digest),
}

/// The tag of the index of a layer, by the digest of the layer's bytes.
pub(super) fn tag(layer: &Digest) -> String {
    format!("index-{}", layer.hex())
}

/// Compresses an index, given as JSON.
pub(super) fn pack(json: impl Read) -> io::Result<Vec<u8>> {
    let mut encoder = zstd::stream::read::Encoder::new(json, LEVEL)?;
    let mut bytes = Vec::new();
    encoder.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Reads an index that must be the one of the layer with this diffID. Returns it with its JSON.
pub(super) fn unpack(packed: &[u8], diff_id: &Digest) -> Result<(Index, Vec<u8>), InvalidIndex> {
    let mut json = Vec::new();
    zstd::stream::read::Decoder::new(packed)?.take(BYTES_MAX + 1).read_to_end(&mut json)?;
    if json.len() as u64 > BYTES_MAX {
        return Err(InvalidIndex::TooLarge);
    }
    let index: Index = serde_json::from_slice(&json)?;
    if index.diff_id != *diff_id {
        return Err(InvalidIndex::Foreign(diff_id.clone()));
    }
    if let Some(path) = foul_path(&index) {
        return Err(InvalidIndex::Path(path.clone()));
    }
    // Every file has a digest once its layer was read: keys and unpacking rely on it.
    let lacks_digest =
        |change: &&Change| matches!(&change.action, Action::Put(_, Kind::File(content)) if content.digest.is_none());
    if let Some(file) = index.changes.iter().find(lacks_digest) {
        return Err(InvalidIndex::Digest(file.path.clone()));
    }
    Ok((index, json))
}

/// Finds a path that is not as a reader of archives leaves it: every other part of Karve relies on that.
fn foul_path(index: &Index) -> Option<&TreePath> {
    let paths = index.changes.iter().flat_map(|Change { path, action }| {
        let target = if let Action::HardLink(target) = action { Some(target) } else { None };
        std::iter::once(path).chain(target)
    });
    paths.into_iter().find(|path| TreePath::clean(path.as_bytes()) != **path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filesystem::entry::{FileContent, Location, Metadata};

    fn packed(index: &Index) -> Vec<u8> {
        pack(&serde_json::to_vec(index).unwrap()[..]).unwrap()
    }

    fn index(digest: Option<Digest>) -> Index {
        let kind = Kind::File(FileContent { size: 1, digest, location: Location::unknown() });
        let change = Change { path: TreePath::clean(b"a"), action: Action::Put(Metadata::default(), kind) };
        Index::new(Digest::of(b"layer"), vec![change])
    }

    #[test]
    fn an_index_is_read_as_it_was_written() {
        let own = index(Some(Digest::of(b"a")));
        assert_eq!(unpack(&packed(&own), &own.diff_id).unwrap().0, own);
    }

    #[test]
    fn an_index_of_another_layer_or_without_a_digest_is_refused() {
        let own = index(Some(Digest::of(b"a")));
        let foreign = unpack(&packed(&own), &Digest::of(b"another"));
        assert!(matches!(foreign, Err(InvalidIndex::Foreign(_))), "{foreign:?}");
        let unread = unpack(&packed(&index(None)), &own.diff_id);
        assert!(matches!(unread, Err(InvalidIndex::Digest(_))), "{unread:?}");
    }

    #[test]
    fn paths_that_no_archive_gives_are_refused() {
        let path = |text: &str| serde_json::from_value::<TreePath>(text.into()).unwrap();
        let is_sound = |text: &str, action: Action| {
            let index = Index { diff_id: Digest::of(b"layer"), changes: vec![Change { path: path(text), action }] };
            unpack(&packed(&index), &index.diff_id).is_ok()
        };
        let directory = Action::Put(Metadata::directory(0), Kind::Directory);
        assert!(is_sound("a/b", directory.clone()) && is_sound("", directory.clone()));
        assert!(is_sound("a", Action::HardLink(path("b"))));
        for foul in ["..", "../a", "a/../..", "/a", "a//b", "a/", "."] {
            assert!(!is_sound(foul, directory.clone()), "{foul}");
            assert!(!is_sound("a", Action::HardLink(path(foul))), "{foul}");
        }
    }

    #[test]
    fn damage_is_an_error() {
        let bytes = packed(&index(None));
        assert!(unpack(&bytes[..bytes.len() - 3], &Digest::of(b"layer")).is_err());
        assert!(unpack(b"garbage", &Digest::of(b"layer")).is_err());
        let json = zstd::encode_all(&b"{}"[..], 1).unwrap();
        assert!(matches!(unpack(&json, &Digest::of(b"layer")), Err(InvalidIndex::Json(_))));
    }
}
