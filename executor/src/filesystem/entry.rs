//! What a layer holds: the vocabulary that the layer reader and writer, the view and the copy rules share.

use std::{collections::BTreeMap, fmt, path::PathBuf, sync::Arc};

use super::path::TreePath;
use crate::image::digest::Digest;

/// The attributes that every entry has.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Metadata {
    /// Permission bits with set-user-id, set-group-id and sticky: 0 to 0o7777.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Modification time in whole seconds since 1970.
    pub mtime: i64,
    /// Extended attributes by name.
    pub xattrs: Vec<Xattr>,
}

/// One extended attribute; a list of them is sorted by name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Xattr {
    /// The name with its namespace, such as `security.capability`.
    pub name: Vec<u8>,
    /// The value; any bytes.
    pub value: Vec<u8>,
}

/// One thing that a layer does to the file system below it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Where.
    pub path: TreePath,
    /// What.
    pub action: Action,
}

/// What a change does at its path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Creates or replaces the entry. A directory over a directory keeps the children.
    Put(Metadata, Kind),
    /// Makes the path another name of a file that exists in this layer or below.
    HardLink(TreePath),
    /// Removes the path and everything below it (`.wh.NAME`).
    Whiteout,
    /// Removes everything that lower layers have below this directory (`.wh..wh..opq`).
    Opaque,
}

/// The type of an entry with what only this type has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Directory,
    /// A regular file.
    File(FileContent),
    /// A symbolic link; the target is kept byte for byte.
    Symlink(Vec<u8>),
    /// A character device.
    CharacterDevice(Device),
    /// A block device.
    BlockDevice(Device),
    /// A named pipe.
    Fifo,
}

/// A device number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Device {
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
}

/// The content of a regular file: how much, which, and where its bytes are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileContent {
    /// Bytes.
    pub size: u64,
    /// The digest of the bytes; `None` until somebody read them (a context file that was only listed).
    pub digest: Option<Digest>,
    /// Where the bytes are.
    pub location: Location,
}

/// Where the bytes of a regular file are.
#[derive(Clone, PartialEq, Eq)]
pub enum Location {
    /// Here. Used for small files that rules need (`/etc/passwd`, `/etc/group`) and for heredocs.
    Inline(Arc<[u8]>),
    /// In the layer with this diffID, at this path. Must be extracted before it can be read.
    Layer(Digest, TreePath),
    /// In the build context (main or named by number), at this path.
    Context(usize, TreePath),
    /// In a file of the work directory that the executor wrote itself.
    Spool(PathBuf),
}

impl Location {
    /// In a layer that is not known yet: [`super::index::Index::new`] corrects it.
    pub const fn unknown() -> Self {
        Self::Layer(Digest::from_hash([0; 32]), TreePath::ROOT)
    }
}

impl fmt::Debug for Location {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inline(bytes) => write!(formatter, "Inline({} bytes)", bytes.len()),
            Self::Layer(diff_id, path) => write!(formatter, "Layer({diff_id}, {path})"),
            Self::Context(number, path) => write!(formatter, "Context({number}, {path})"),
            Self::Spool(path) => write!(formatter, "Spool({})", path.display()),
        }
    }
}

impl Metadata {
    /// Root's directory of mode 0755 at a given time: what COPY and WORKDIR create on their way.
    pub fn directory(mtime: i64) -> Self {
        Self { mode: 0o755, mtime, ..Self::default() }
    }

    /// The extended attributes as a map.
    pub fn xattr_map(&self) -> BTreeMap<&[u8], &[u8]> {
        self.xattrs.iter().map(|xattr| (&xattr.name[..], &xattr.value[..])).collect()
    }
}
