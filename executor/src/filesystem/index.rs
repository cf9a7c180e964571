//! The index of a layer: everything that the layer's tar stream says, without the files' bytes.
//!
//! In files and caches it is the diffID and the changes (`encoding`), compressed with zstd. That files lie in the layer, under
//! their own path, goes without saying there: an index cannot point elsewhere, whoever wrote it.

mod encoding;

use std::io::{self, Read};

use super::{
    entry::{Action, Change, FileContent, Kind, Location},
    path::TreePath,
};
use crate::image::digest::Digest;

/// The largest index from elsewhere, without its compression: that of a layer of some million files.
const FOREIGN_BYTES_MAX: u64 = 256 << 20;

/// zstd's fastest that still shrinks it: most of it are digests.
const LEVEL: i32 = 1;

/// Why bytes are no index.
#[derive(Debug, thiserror::Error)]
pub enum InvalidIndex {
    /// They cannot be decompressed.
    #[error("it cannot be decompressed")]
    Compression(#[from] io::Error),
    /// It is larger than what is read from elsewhere.
    #[error("it is larger than {FOREIGN_BYTES_MAX} bytes")]
    TooLarge,
    /// They are something else.
    #[error("it is not an index")]
    Malformed(#[from] postcard::Error),
    /// It has a path that no archive gives.
    #[error("it has the path {0}, which is not in its normal form")]
    Path(TreePath),
    /// It says nothing of what is in a file.
    #[error("it has no digest of {0}")]
    Digest(TreePath),
    /// It has bytes of a file that indexes do not carry, or others than the layer.
    #[error("it has bytes of {0} that are not those of the layer")]
    Bytes(TreePath),
    /// It is of another layer.
    #[error("it is not the index of the layer {0}")]
    Foreign(Digest),
}

/// What one layer does, in the order of its tar stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Index {
    /// The digest of the uncompressed layer.
    pub diff_id: Digest,
    /// The changes. Files carry their content's digest and a location in this layer, or their bytes where rules need them.
    pub changes: Vec<Change>,
}

impl Index {
    /// Makes the index of the layer with this diffID. Files that lie in a layer lie in this one.
    pub fn new(diff_id: Digest, mut changes: Vec<Change>) -> Self {
        for Change { path, action } in &mut changes {
            if let Action::Put(_, Kind::File(content)) = action
                && let Location::Layer(layer, place) = &mut content.location
            {
                (*layer, *place) = (diff_id.clone(), path.clone());
            }
        }
        Self { diff_id, changes }
    }

    /// Returns the index as it is kept.
    ///
    /// # Errors
    /// Fails where a file lies neither here nor in the layer.
    pub fn pack(&self) -> io::Result<Vec<u8>> {
        let bytes = encoding::write(&self.changes, self.diff_id.as_bytes().to_vec())?;
        zstd::stream::encode_all(&bytes[..], LEVEL)
    }

    /// Reads an index that this build has written; how large it is was bounded then.
    ///
    /// # Errors
    /// Fails where the bytes are no index.
    pub fn unpack(packed: &[u8]) -> Result<Self, InvalidIndex> {
        Self::read(packed, u64::MAX)
    }

    /// Reads an index from elsewhere, which must be the one of the layer with this diffID.
    ///
    /// # Errors
    /// Fails where the bytes are no index, or one of more than 256 MiB, and where it says what reading the layer never gives.
    pub fn unpack_foreign(packed: &[u8], diff_id: &Digest) -> Result<Self, InvalidIndex> {
        let index = Self::read(packed, FOREIGN_BYTES_MAX)?;
        index.check(diff_id)?;
        Ok(index)
    }

    fn read(packed: &[u8], bytes_max: u64) -> Result<Self, InvalidIndex> {
        let mut bytes = Vec::new();
        zstd::stream::read::Decoder::new(packed)?.take(bytes_max.saturating_add(1)).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > bytes_max {
            return Err(InvalidIndex::TooLarge);
        }
        let (diff_id, changes) = bytes.split_first_chunk().ok_or(postcard::Error::DeserializeUnexpectedEnd)?;
        Ok(Self::new(Digest::from_hash(*diff_id), encoding::read(changes)?))
    }

    fn check(&self, diff_id: &Digest) -> Result<(), InvalidIndex> {
        if self.diff_id != *diff_id {
            return Err(InvalidIndex::Foreign(diff_id.clone()));
        }
        for Change { path, action } in &self.changes {
            let target = if let Action::HardLink(target) = action { Some(target) } else { None };
            // Every other part of Karve relies on that.
            let mut paths = [path].into_iter().chain(target);
            if let Some(path) = paths.find(|path| !path.is_normal()) {
                return Err(InvalidIndex::Path(path.clone()));
            }
            let Action::Put(_, Kind::File(FileContent { size, digest, location })) = action else { continue };
            // Every file has a digest once its layer was read: keys and unpacking rely on it.
            let Some(digest) = digest else { return Err(InvalidIndex::Digest(path.clone())) };
            if let Location::Inline(bytes) = location
                && !(is_inline(path, *size) && bytes.len() as u64 == *size && Digest::of(bytes) == *digest)
            {
                return Err(InvalidIndex::Bytes(path.clone()));
            }
        }
        Ok(())
    }
}

/// Writes a part of a view as bytes, for a helper process.
///
/// # Errors
/// Fails where a file lies neither here nor in a layer.
pub(crate) fn write_changes(changes: &[Change]) -> io::Result<Vec<u8>> {
    encoding::write(changes, Vec::new())
}

/// Reads what [`write_changes`] wrote.
///
/// # Errors
/// Fails where the bytes are something else.
pub(crate) fn read_changes(bytes: &[u8]) -> Result<Vec<Change>, InvalidIndex> {
    Ok(encoding::read(bytes)?)
}

/// Files whose bytes an index carries (up to [`INLINE_BYTES_MAX`]), so that names in `--chown` and `USER` resolve without
/// unpacking.
pub const INLINE_PATHS: [&str; 2] = ["etc/passwd", "etc/group"];

/// The largest file that an index carries whole: 1 MiB.
pub const INLINE_BYTES_MAX: u64 = 1 << 20;

/// Whether an index carries the bytes of this file.
pub(crate) fn is_inline(path: &TreePath, size: u64) -> bool {
    size <= INLINE_BYTES_MAX && INLINE_PATHS.iter().any(|inline| inline.as_bytes() == path.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filesystem::entry::Metadata;

    fn path(text: &str) -> TreePath {
        TreePath::new(text.as_bytes())
    }

    fn file(text: &str, digest: Option<Digest>, location: Location) -> Change {
        let size = if let Location::Inline(bytes) = &location { bytes.len() as u64 } else { 1 };
        let content = FileContent { size, digest, location };
        Change { path: path(text), action: Action::Put(Metadata::default(), Kind::File(content)) }
    }

    fn index(changes: Vec<Change>) -> Index {
        Index::new(Digest::of(b"layer"), changes)
    }

    #[test]
    fn it_says_nothing_of_where_a_layer_has_its_files() {
        let inline = file("etc/passwd", Some(Digest::of(b"root\xff")), Location::Inline(b"root\xff".as_slice().into()));
        let index = index(vec![file("a/b", Some(Digest::of(b"x")), Location::unknown()), inline]);
        let bytes = zstd::decode_all(&index.pack().unwrap()[..]).unwrap();
        let count = |wanted: &[u8]| bytes.windows(wanted.len()).filter(|found| *found == wanted).count();
        assert_eq!((count(b"a/b"), count(index.diff_id.as_bytes())), (1, 1));
        let read = Index::unpack(&index.pack().unwrap()).unwrap();
        assert_eq!(read, index);
        assert!(read.check(&index.diff_id).is_ok());
        let Action::Put(_, Kind::File(content)) = &read.changes[0].action else { panic!("{read:?}") };
        assert_eq!(content.location, Location::Layer(index.diff_id, path("a/b")));
    }

    #[test]
    fn a_file_that_is_elsewhere_cannot_be_written_down() {
        let elsewhere = file("a", Some(Digest::of(b"x")), Location::Spool("/etc/shadow".into()));
        assert!(index(vec![elsewhere]).pack().is_err());
    }

    #[test]
    fn an_index_of_another_layer_or_without_a_digest_is_refused() {
        let own = index(vec![file("a", Some(Digest::of(b"x")), Location::unknown())]);
        assert!(own.check(&own.diff_id).is_ok());
        assert!(matches!(own.check(&Digest::of(b"another")), Err(InvalidIndex::Foreign(_))));
        let unread = index(vec![file("a", None, Location::unknown())]);
        assert!(matches!(unread.check(&unread.diff_id), Err(InvalidIndex::Digest(_))));
    }

    #[test]
    fn bytes_that_are_not_those_of_the_layer_are_refused() {
        for (path, bytes) in [("bin/sh", "x"), ("etc/passwd", "y")] {
            let index = index(vec![file(path, Some(Digest::of(b"x")), Location::Inline(bytes.as_bytes().into()))]);
            assert!(matches!(index.check(&index.diff_id), Err(InvalidIndex::Bytes(_))), "{path} {bytes}");
        }
    }

    #[test]
    fn what_is_too_large_is_refused() {
        let packed = index(vec![file("a", Some(Digest::of(b"x")), Location::unknown())]).pack().unwrap();
        let bytes = zstd::decode_all(&packed[..]).unwrap().len() as u64;
        assert!(Index::read(&packed, bytes).is_ok());
        assert!(matches!(Index::read(&packed, bytes - 1), Err(InvalidIndex::TooLarge)));
    }

    #[test]
    fn paths_that_no_archive_gives_are_refused() {
        let is_sound = |text: &str, action: Action| {
            let index = index(vec![Change { path: path(text), action }]);
            index.check(&index.diff_id).is_ok()
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
        let bytes = index(vec![file("a", None, Location::unknown())]).pack().unwrap();
        assert!(Index::unpack(&bytes[..bytes.len() - 3]).is_err());
        assert!(Index::unpack(b"garbage").is_err());
        for bytes in [&b"short"[..], &[0xff; 100]] {
            let packed = zstd::encode_all(bytes, 1).unwrap();
            assert!(matches!(Index::unpack(&packed), Err(InvalidIndex::Malformed(_))));
        }
    }
}
