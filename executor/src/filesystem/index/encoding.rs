//! Changes -> bytes, and back: one after another in the encoding of postcard, which borrows from what it reads.
//!
//! Where files lie is not in it but for bytes that are here: who reads it knows of which layer it is.

use std::io;

use serde::{Deserialize, Serialize};

use crate::{
    filesystem::{
        entry::{Action, Change, Device, FileContent, Kind, Location, Metadata, Xattr},
        path::TreePath,
    },
    image::digest::Digest,
};

#[derive(Serialize, Deserialize)]
struct Written<'a> {
    path: &'a [u8],
    #[serde(borrow)]
    action: WrittenAction<'a>,
}

#[derive(Serialize, Deserialize)]
enum WrittenAction<'a> {
    Put(#[serde(borrow)] WrittenMetadata<'a>, #[serde(borrow)] WrittenKind<'a>),
    HardLink(&'a [u8]),
    Whiteout,
    Opaque,
}

#[derive(Serialize, Deserialize)]
struct WrittenMetadata<'a> {
    mode: u32,
    uid: u32,
    gid: u32,
    mtime: i64,
    #[serde(borrow)]
    xattrs: Vec<(&'a [u8], &'a [u8])>,
}

#[derive(Serialize, Deserialize)]
enum WrittenKind<'a> {
    Directory,
    File {
        size: u64,
        digest: Option<[u8; 32]>,
        #[serde(borrow)]
        bytes: Option<&'a [u8]>,
    },
    Symlink(&'a [u8]),
    CharacterDevice(u32, u32),
    BlockDevice(u32, u32),
    Fifo,
}

/// Appends changes to bytes. Fails where a file is neither here nor in a layer.
pub(super) fn write(changes: &[Change], mut bytes: Vec<u8>) -> io::Result<Vec<u8>> {
    for change in changes {
        bytes = postcard::to_extend(&written(change)?, bytes).map_err(io::Error::other)?;
    }
    Ok(bytes)
}

/// Reads changes to the end of the bytes. Files that are not here have an unknown location.
pub(super) fn read(mut bytes: &[u8]) -> Result<Vec<Change>, postcard::Error> {
    let mut changes = Vec::new();
    while !bytes.is_empty() {
        let (change, rest) = postcard::take_from_bytes(bytes)?;
        changes.push(read_change(&change));
        bytes = rest;
    }
    Ok(changes)
}

fn written(Change { path, action }: &Change) -> io::Result<Written<'_>> {
    let action = match action {
        Action::Put(Metadata { mode, uid, gid, mtime, xattrs }, kind) => {
            let xattrs = xattrs.iter().map(|xattr| (&xattr.name[..], &xattr.value[..])).collect();
            let metadata = WrittenMetadata { mode: *mode, uid: *uid, gid: *gid, mtime: *mtime, xattrs };
            WrittenAction::Put(metadata, written_kind(kind)?)
        }
        Action::HardLink(target) => WrittenAction::HardLink(target.as_bytes()),
        Action::Whiteout => WrittenAction::Whiteout,
        Action::Opaque => WrittenAction::Opaque,
    };
    Ok(Written { path: path.as_bytes(), action })
}

fn written_kind(kind: &Kind) -> io::Result<WrittenKind<'_>> {
    Ok(match kind {
        Kind::Directory => WrittenKind::Directory,
        Kind::File(FileContent { size, digest, location }) => {
            let bytes = match location {
                Location::Inline(bytes) => Some(&bytes[..]),
                Location::Layer(..) => None,
                Location::Context(..) | Location::Spool(_) => {
                    return Err(io::Error::other(format!("a file is elsewhere: {location:?}")));
                }
            };
            WrittenKind::File { size: *size, digest: digest.as_ref().map(|digest| *digest.as_bytes()), bytes }
        }
        Kind::Symlink(target) => WrittenKind::Symlink(target),
        Kind::CharacterDevice(device) => WrittenKind::CharacterDevice(device.major, device.minor),
        Kind::BlockDevice(device) => WrittenKind::BlockDevice(device.major, device.minor),
        Kind::Fifo => WrittenKind::Fifo,
    })
}

fn read_change(Written { path, action }: &Written<'_>) -> Change {
    let action = match action {
        WrittenAction::Put(WrittenMetadata { mode, uid, gid, mtime, xattrs }, kind) => {
            let xattrs =
                xattrs.iter().map(|(name, value)| Xattr { name: name.to_vec(), value: value.to_vec() }).collect();
            Action::Put(Metadata { mode: *mode, uid: *uid, gid: *gid, mtime: *mtime, xattrs }, read_kind(kind))
        }
        WrittenAction::HardLink(target) => Action::HardLink(TreePath::new(target)),
        WrittenAction::Whiteout => Action::Whiteout,
        WrittenAction::Opaque => Action::Opaque,
    };
    Change { path: TreePath::new(path), action }
}

fn read_kind(kind: &WrittenKind<'_>) -> Kind {
    match *kind {
        WrittenKind::Directory => Kind::Directory,
        WrittenKind::File { size, digest, bytes } => Kind::File(FileContent {
            size,
            digest: digest.map(Digest::from_hash),
            location: bytes.map_or_else(Location::unknown, |bytes| Location::Inline(bytes.into())),
        }),
        WrittenKind::Symlink(target) => Kind::Symlink(target.to_vec()),
        WrittenKind::CharacterDevice(major, minor) => Kind::CharacterDevice(Device { major, minor }),
        WrittenKind::BlockDevice(major, minor) => Kind::BlockDevice(Device { major, minor }),
        WrittenKind::Fifo => Kind::Fifo,
    }
}
