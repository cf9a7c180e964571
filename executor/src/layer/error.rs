//! What can go wrong with a layer: facts about the archive, about one entry of it, or about this machine.
//!
//! Paths are escaped: an archive cannot put control characters into a log.

use std::{io, path::PathBuf};

use crate::{
    filesystem::{path::TreePath, view::ViewError},
    image::digest::Digest,
};

/// Says why a layer could not be read, written or unpacked.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// The stream that the layer comes from broke, or its compression is damaged.
    #[error("cannot read the layer: {0}")]
    Read(#[source] io::Error),
    /// A file of the work directory cannot be written.
    #[error("cannot write `{}`: {source}", path.display())]
    Write {
        /// The file on this machine.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The compressor could not be started or broke.
    #[error("cannot compress the layer: {0}")]
    Compress(#[source] io::Error),
    /// The stream ends before the archive does.
    #[error("the archive is cut off after `{after}`")]
    Truncated {
        /// The last entry that was read.
        after: TreePath,
    },
    /// The archive is not what POSIX pax or GNU tar write.
    #[error("the archive is malformed after `{after}`: {source}")]
    Malformed {
        /// The last entry that was read.
        after: TreePath,
        /// What the parser found.
        source: tar_core::parse::ParseError,
    },
    /// The archive exceeds a limit.
    #[error("the archive has more than {limit} {unit}")]
    Limit {
        /// The limit.
        limit: u64,
        /// What is counted.
        unit: &'static str,
    },
    /// One entry cannot be taken or written.
    #[error("`{path}` {problem}")]
    Entry {
        /// The entry.
        path: TreePath,
        /// What is wrong with it.
        problem: Problem,
    },
    /// An operation on one entry failed.
    #[error("cannot {operation} `{path}`: {source}")]
    Operation {
        /// What was tried, such as `create`.
        operation: &'static str,
        /// The entry.
        path: TreePath,
        /// The cause.
        source: io::Error,
    },
    /// A layer's blob is not the layer that its index describes.
    #[error("the layer {found} was unpacked where {expected} belongs")]
    WrongLayer {
        /// The diffID of the index.
        expected: Digest,
        /// The diffID of the blob.
        found: Digest,
    },
    /// The layers do not fit on each other.
    #[error(transparent)]
    View(#[from] ViewError),
}

/// What is wrong with one entry. Reads as the end of a sentence that begins with the path.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// GNU or PAX sparse format.
    #[error("is a sparse file: unpack and pack it without --sparse")]
    Sparse,
    /// An entry type that has no meaning in a layer.
    #[error("has the unknown entry type {0:#04x}")]
    UnknownType(u8),
    /// A name that the layer format keeps for deletions.
    #[error("uses a name beginning with `.wh.`, which layers keep for deletions")]
    ReservedName,
    /// The root of the file system is something else than a directory.
    #[error("is the root and not a directory")]
    RootNotDirectory,
    /// A hard link without a target, or to itself.
    #[error("is a hard link to `{0}`, which is itself or nothing")]
    LinkToItself(TreePath),
    /// A hard link to something that a writer has not written before it.
    #[error("is a hard link to `{0}`, which is no file that comes before it in the layer")]
    LinkToMissing(TreePath),
    /// A path, name or link target over the limit of Linux.
    #[error("has a path, name or link target of {length} bytes; the limit is {limit}")]
    TooLong {
        /// Bytes.
        length: usize,
        /// Bytes.
        limit: usize,
    },
    /// A NUL byte in a path or link target.
    #[error("has a NUL byte in its path or link target")]
    NulByte,
    /// A number that has no place in the format or in Linux.
    #[error("has {field} {value}, which is out of range")]
    OutOfRange {
        /// `uid`, `gid`, `size` …
        field: &'static str,
        /// The value.
        value: u64,
    },
    /// An extended attribute whose name a tar header cannot hold.
    #[error("has the extended attribute `{0}`, whose name cannot be stored in a tar header")]
    AttributeName(String),
    /// Attributes over the limit that readers of tar accept.
    #[error("has {size} bytes of extended attributes and paths; the limit is {limit}")]
    TooMuchMetadata {
        /// Bytes.
        size: usize,
        /// Bytes.
        limit: usize,
    },
    /// The entries of a layer are sorted, parents first, and each path comes once.
    #[error("comes after `{0}`: entries must be sorted, each path once")]
    Unsorted(TreePath),
    /// A file that changed while it was read.
    #[error("was {expected} bytes when it was listed and {found} when it was read: it changed during the build")]
    SizeChanged {
        /// Bytes when listed.
        expected: u64,
        /// Bytes read; at least, when the file grew.
        found: u64,
    },
    /// A file that changed while it was read, with its size kept.
    #[error("was {expected} when it was listed and {found} when it was read: it changed during the build")]
    ContentChanged {
        /// Digest when listed.
        expected: Digest,
        /// Digest when read.
        found: Digest,
    },
    /// A file whose bytes are in none of the layers that are at hand.
    #[error("is in none of the layers that are being unpacked")]
    NotInLayer,
    /// An overlay upper directory that was mounted with features which a layer cannot express.
    #[error("carries `{0}`: the overlay must be mounted with metacopy=off and redirect_dir=off")]
    OverlayFeature(String),
}

impl Problem {
    /// Says it of an entry.
    pub(super) fn of(self, path: &TreePath) -> LayerError {
        LayerError::Entry { path: path.clone(), problem: self }
    }
}
