//! An overlay's upper directory -> the changes that a step made, for the next layer.
//!
//! The overlay was mounted with `userxattr`, `metacopy=off`, `redirect_dir=off` and `index=off`, and nothing runs in it any
//! more. What equals the lower view is dropped, however often it was copied up; deletions name only what the lower view has.
//! Sockets are skipped: they mean nothing without their process.

use std::{
    collections::{BTreeMap, HashMap, btree_map},
    fs::File,
    io::{self, Read},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
};

use rustix::{
    fs::{
        AtFlags, FileType, Mode, OFlags, RawDir, Statx, StatxFlags, fgetxattr, flistxattr, openat, openat2, readlinkat,
        statx,
    },
    io::Errno,
};

use super::{
    error::{LayerError, Problem},
    place::{BENEATH, OVERLAY_ESCAPED_PREFIX, OVERLAY_PREFIX, failed},
    tar::WHITEOUT_PREFIX,
};
use crate::{
    filesystem::{
        entry::{Action, Change, Device, FileContent, Kind, Location, Metadata, Xattr},
        path::TreePath,
        view::{Directory, Node, View},
    },
    hash::hash,
};

/// The largest value and the longest list of extended attributes in Linux.
const XATTR_BYTES_MAX: usize = 1 << 16;
const LISTING_BYTES: usize = 32 << 10;
const ENTRIES_MAX: u64 = 5_000_000;
/// Each level holds a descriptor; the usual limit of descriptors is 1024.
const DEPTH_MAX: usize = 500;

/// The overlay's mark on a directory that hides what is below it, and its value.
const OPAQUE: (&[u8], &[u8]) = (b"user.overlay.opaque", b"y");
/// Marks of overlay features that must be off: their files are not what they seem.
const FEATURES: [&[u8]; 3] = [b"user.overlay.metacopy", b"user.overlay.redirect", b"user.overlay.whiteout"];
const CAPABILITY: &[u8] = b"security.capability";

/// Lists what the upper directory changes of the view below it: sorted, parents first. The bytes of files are at
/// [`Location::Context`] number 0 with the path in the upper directory: see [`open`].
///
/// Entries at `ignored` paths that the view lacks are stubs that a mount needed: they are left out while they are empty.
///
/// # Errors
/// Fails where the directory cannot be read, where it shows an overlay feature that must be off, and at names beginning with
/// `.wh.`, which a layer cannot hold.
pub fn changes<'a>(upper: BorrowedFd<'a>, lower: &'a View, ignored: &'a [TreePath]) -> Result<Vec<Change>, LayerError> {
    let mut walk =
        Walk { upper, ignored, changes: Vec::new(), names: HashMap::new(), entries: 0, directories: Vec::new() };
    let status = status(upper, b".", &TreePath::ROOT)?;
    walk.enter(TreePath::ROOT, &status, lower.get(&TreePath::ROOT))?;
    while walk.step()? {}
    Ok(walk.changes)
}

/// Lists the directories of the upper directory, itself included: what [`changes`] needs of the view below is what it has in
/// these ([`View::part`]).
///
/// # Errors
/// Fails where the directory cannot be read.
pub fn directories(upper: BorrowedFd<'_>) -> Result<Vec<TreePath>, LayerError> {
    let mut found = vec![TreePath::ROOT];
    let (mut next, mut entries) = (0, 0);
    while let Some(path) = found.get(next).cloned() {
        next += 1;
        let directory = open_directory(upper, &path)?;
        list(&path, &directory, &mut entries, &mut |name, file_type| {
            let is_directory = match file_type {
                // Not every file system tells.
                FileType::Unknown => {
                    let status = status(directory.as_fd(), name, &path)?;
                    FileType::from_raw_mode(status.stx_mode.into()) == FileType::Directory
                }
                known => known == FileType::Directory,
            };
            found.extend(is_directory.then(|| path.child(name)));
            Ok(())
        })?;
    }
    Ok(found)
}

/// Opens a file that [`changes`] listed.
///
/// # Errors
/// Fails for locations that are not in the upper directory, and where the file cannot be read.
pub fn open(upper: BorrowedFd<'_>, location: &Location) -> io::Result<Box<dyn Read>> {
    let Location::Context(0, path) = location else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{location:?} is not in the upper directory")));
    };
    Ok(Box::new(open_file(upper, path)?))
}

/// Opens what lies at a path below a directory for reading; follows no symlink, and waits for no pipe.
///
/// # Errors
/// Fails where nothing is there, or a symlink is on the way.
pub fn open_file(root: BorrowedFd<'_>, path: &TreePath) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    Ok(openat2(root, path.as_bytes(), flags, Mode::empty(), BENEATH)?.into())
}

struct Walk<'a> {
    upper: BorrowedFd<'a>,
    ignored: &'a [TreePath],
    changes: Vec<Change>,
    /// The first names of files that have several.
    names: HashMap<u64, TreePath>,
    entries: u64,
    /// The directories from the root down to the current one.
    directories: Vec<OpenDirectory<'a>>,
}

struct OpenDirectory<'a> {
    path: TreePath,
    directory: Arc<OwnedFd>,
    lower: Option<&'a Directory>,
    opaque: bool,
    /// What is still to be looked at; false for names that only the lower view has.
    names: btree_map::IntoIter<Vec<u8>, bool>,
    /// Where the directory's own entry is among the changes.
    place: usize,
    changed: bool,
}

/// What overlayfs and others noted on a directory or file.
struct Attributes {
    opaque: bool,
    kept: Vec<Xattr>,
}

impl<'a> Walk<'a> {
    /// Looks at one more name; false at the end.
    fn step(&mut self) -> Result<bool, LayerError> {
        let Some(current) = self.directories.last_mut() else { return Ok(false) };
        let Some((name, in_upper)) = current.names.next() else {
            self.leave();
            return Ok(true);
        };
        let path = current.path.child(&name);
        if in_upper {
            let lower = current.lower.and_then(|lower| lower.get(&name));
            let parent = Arc::clone(&current.directory);
            self.entry(path, &parent, lower)?;
        } else {
            self.changes.push(Change { path, action: Action::Whiteout });
        }
        Ok(true)
    }

    /// Adds a directory and prepares to look at what is in it.
    fn enter(&mut self, path: TreePath, status: &Statx, lower: Option<&'a Node>) -> Result<(), LayerError> {
        if self.directories.len() == DEPTH_MAX {
            return Err(LayerError::Limit { limit: DEPTH_MAX as u64, unit: "nested directories" });
        }
        let directory = open_directory(self.upper, &path)?;
        let attributes = attributes(directory.as_fd(), &path)?;
        let metadata = metadata(status, attributes.kept);
        let lower = lower.and_then(Node::as_directory);
        let changed = match lower {
            Some(lower) => !is_owned_alike(&metadata, &lower.metadata),
            None => !self.ignored.contains(&path),
        };
        // Names below an opaque directory that are not in it are deleted, as if one by one. So is what its directories
        // lack: they merge with nothing, and have no mark of their own.
        let opaque = attributes.opaque || self.directories.last().is_some_and(|parent| parent.opaque);
        let mut names: BTreeMap<Vec<u8>, bool> = BTreeMap::new();
        if opaque {
            names.extend(lower.into_iter().flat_map(Directory::children).map(|(name, _)| (name.to_vec(), false)));
        }
        list(&path, &directory, &mut self.entries, &mut |name, _| {
            names.insert(name.to_vec(), true);
            Ok(())
        })?;
        let place = self.changes.len();
        self.changes.push(Change { path: path.clone(), action: Action::Put(metadata, Kind::Directory) });
        let (directory, names) = (Arc::new(directory), names.into_iter());
        self.directories.push(OpenDirectory { path, directory, lower, opaque, names, place, changed });
        Ok(())
    }

    /// Takes the entry of the finished directory back unless it changed or something below it did. The root needs no entry
    /// for what is below it.
    fn leave(&mut self) {
        if let Some(OpenDirectory { path, place, changed: false, .. }) = self.directories.pop()
            && (self.changes.len() == place + 1 || path.is_root())
        {
            self.changes.remove(place);
        }
    }

    fn entry(&mut self, path: TreePath, parent: &OwnedFd, lower: Option<&'a Node>) -> Result<(), LayerError> {
        let status = status(parent.as_fd(), path.name(), &path)?;
        let device = Device { major: status.stx_rdev_major, minor: status.stx_rdev_minor };
        let file_type = FileType::from_raw_mode(status.stx_mode.into());
        if file_type == FileType::CharacterDevice && (device.major, device.minor) == (0, 0) {
            self.changes.extend(lower.map(|_| Change { path, action: Action::Whiteout }));
            return Ok(());
        }
        if path.name().starts_with(WHITEOUT_PREFIX) {
            return Err(Problem::ReservedName.of(&path));
        }
        let kind = match file_type {
            FileType::Directory => return self.enter(path, &status, lower),
            FileType::RegularFile => return self.file(&path, parent, &status, lower),
            FileType::Symlink => {
                let target = readlinkat(parent, path.name(), Vec::new()).map_err(failed("read", &path))?;
                Kind::Symlink(target.into_bytes())
            }
            FileType::CharacterDevice => Kind::CharacterDevice(device),
            FileType::BlockDevice => Kind::BlockDevice(device),
            FileType::Fifo => Kind::Fifo,
            FileType::Socket | FileType::Unknown => return Ok(()),
        };
        let metadata = metadata(&status, Vec::new());
        if !lower.is_some_and(|lower| is_alike(&metadata, &kind, lower)) {
            self.put(&path, &status, metadata, kind);
        }
        Ok(())
    }

    fn file(
        &mut self,
        path: &TreePath,
        parent: &OwnedFd,
        status: &Statx,
        lower: Option<&Node>,
    ) -> Result<(), LayerError> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = openat(parent, path.name(), flags, Mode::empty()).map_err(failed("open", path))?;
        let metadata = metadata(status, attributes(file.as_fd(), path)?.kept);
        if lower.is_none() && status.stx_size == 0 && self.ignored.contains(path) {
            return Ok(());
        }
        let mut digest = None;
        if let Some(lower) = lower
            && let Some(content) = lower.content()
            && content.size == status.stx_size
            && content.digest.is_some()
            && is_owned_alike(&metadata, lower.metadata())
            && metadata.mtime == lower.metadata().mtime
        {
            digest = Some(hash(File::from(file)).map_err(|source| operation("read", path, source))?);
            // A file with several names was linked by this step: its entry is needed for the others.
            if digest == content.digest && status.stx_nlink == 1 {
                return Ok(());
            }
        }
        let location = Location::Context(0, path.clone());
        self.put(path, status, metadata, Kind::File(FileContent { size: status.stx_size, digest, location }));
        Ok(())
    }

    /// Adds an entry, or a hard link if the file came before under another name.
    fn put(&mut self, path: &TreePath, status: &Statx, metadata: Metadata, kind: Kind) {
        let action = match self.names.get(&status.stx_ino) {
            Some(first) if status.stx_nlink > 1 => Action::HardLink(first.clone()),
            _ => Action::Put(metadata, kind),
        };
        if status.stx_nlink > 1 {
            self.names.entry(status.stx_ino).or_insert_with(|| path.clone());
        }
        self.changes.push(Change { path: path.clone(), action });
    }
}

fn open_directory(upper: BorrowedFd<'_>, path: &TreePath) -> Result<OwnedFd, LayerError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let name = if path.is_root() { &b"."[..] } else { path.as_bytes() };
    openat2(upper, name, flags, Mode::empty(), BENEATH).map_err(failed("open", path))
}

/// Takes the name and the type of an entry.
type Take<'a> = &'a mut dyn FnMut(&[u8], FileType) -> Result<(), LayerError>;

/// Hands every name of a directory over, and counts them.
fn list(path: &TreePath, directory: &OwnedFd, entries: &mut u64, take: Take<'_>) -> Result<(), LayerError> {
    let mut buffer = vec![MaybeUninit::uninit(); LISTING_BYTES];
    let mut listing = RawDir::new(directory, &mut buffer);
    while let Some(entry) = listing.next() {
        let entry = entry.map_err(failed("list", path))?;
        let name = entry.file_name().to_bytes();
        if matches!(name, b"." | b"..") {
            continue;
        }
        *entries += 1;
        if *entries > ENTRIES_MAX {
            return Err(LayerError::Limit { limit: ENTRIES_MAX, unit: "entries" });
        }
        take(name, entry.file_type())?;
    }
    Ok(())
}

fn status(directory: BorrowedFd<'_>, name: &[u8], path: &TreePath) -> Result<Statx, LayerError> {
    let mask = StatxFlags::BASIC_STATS;
    statx(directory, name, AtFlags::SYMLINK_NOFOLLOW, mask).map_err(failed("look at", path))
}

fn metadata(status: &Statx, xattrs: Vec<Xattr>) -> Metadata {
    Metadata {
        mode: u32::from(status.stx_mode) & 0o7777,
        uid: status.stx_uid,
        gid: status.stx_gid,
        mtime: status.stx_mtime.tv_sec,
        xattrs,
    }
}

/// Reads the extended attributes that an image carries: `user.` and capabilities. Labels of this machine's security
/// modules are none of them.
fn attributes(file: BorrowedFd<'_>, path: &TreePath) -> Result<Attributes, LayerError> {
    let mut attributes = Attributes { opaque: false, kept: Vec::new() };
    let mut list = vec![0; XATTR_BYTES_MAX];
    let length = match flistxattr(file, &mut list[..]) {
        Err(Errno::OPNOTSUPP) => 0,
        result => result.map_err(failed("list the extended attributes of", path))?,
    };
    let mut value = if length > 0 { vec![0; XATTR_BYTES_MAX] } else { Vec::new() };
    for name in list[..length].split(|byte| *byte == 0).filter(|name| is_kept(name)) {
        let length = fgetxattr(file, name, &mut value[..]).map_err(failed("read an extended attribute of", path))?;
        let value = &value[..length];
        let kept_name = match (name.strip_prefix(OVERLAY_ESCAPED_PREFIX), name.strip_prefix(OVERLAY_PREFIX)) {
            (Some(rest), _) => [OVERLAY_PREFIX, rest].concat(),
            (None, Some(_)) if (name, value) == OPAQUE => {
                attributes.opaque = true;
                continue;
            }
            // `x` marks a directory whose deletions are attributes.
            (None, Some(_)) if name == OPAQUE.0 || FEATURES.contains(&name) => {
                return Err(Problem::OverlayFeature(name.escape_ascii().to_string()).of(path));
            }
            (None, Some(_)) => continue,
            (None, None) => name.to_vec(),
        };
        attributes.kept.push(Xattr { name: kept_name, value: value.to_vec() });
    }
    attributes.kept.sort();
    Ok(attributes)
}

fn is_kept(name: &[u8]) -> bool {
    name.starts_with(b"user.") || name == CAPABILITY
}

/// Whether mode, owner and the attributes that can be seen here are the same.
fn is_owned_alike(upper: &Metadata, lower: &Metadata) -> bool {
    (upper.mode, upper.uid, upper.gid) == (lower.mode, lower.uid, lower.gid)
        && upper.xattrs.iter().eq(lower.xattrs.iter().filter(|xattr| is_kept(&xattr.name)))
}

/// Compares what is neither a directory nor a regular file. No symlink has a mode that counts, nor attributes.
fn is_alike(metadata: &Metadata, kind: &Kind, lower: &Node) -> bool {
    let lower_metadata = lower.metadata();
    let owner = |metadata: &Metadata| (metadata.uid, metadata.gid, metadata.mtime);
    kind == lower.kind()
        && owner(metadata) == owner(lower_metadata)
        && (matches!(kind, Kind::Symlink(_)) || metadata.mode == lower_metadata.mode)
}

fn operation(operation: &'static str, path: &TreePath, source: io::Error) -> LayerError {
    LayerError::Operation { operation, path: path.clone(), source }
}
