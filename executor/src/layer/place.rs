//! One entry of a view -> one inode below a directory, through directory descriptors only.
//!
//! Nothing here follows a symlink or leaves the root, whatever the tree holds (openat2(2), `RESOLVE_BENEATH`). What this
//! process may not make is left out or replaced with a [`Warning`]; the index keeps the truth.
//!
//! Changing an owner or a mode is a transaction of the file system, reading them is next to nothing. So what was made is read
//! back, and only what differs is changed: no matter what the umask, the file system's options, and the group and the default
//! ACL of the top directory, which somebody else made, did to owner and mode.

use std::{
    fs::File,
    io::{self, Write},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
};

use rustix::{
    fs::{
        AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps, Uid, XattrFlags, chmodat,
        chownat, fchmod, fchown, fsetxattr, fstat, futimens, linkat, makedev, mkdirat, mknodat, openat, openat2,
        statat, symlinkat, utimensat,
    },
    io::{Errno, Result as SystemResult},
};

use super::{error::LayerError, unpack::Warning};
use crate::filesystem::{
    entry::{Device, Kind, Metadata},
    path::TreePath,
};

/// Who owns what cannot be owned here: the kernel's overflow id.
const NOBODY: u32 = 65534;

/// overlayfs's own attributes when it is mounted with `userxattr`, and its escape for what looks like them.
pub(super) const OVERLAY_PREFIX: &[u8] = b"user.overlay.";
/// The escaped form (Linux, Documentation/filesystems/overlayfs.rst, "Nesting overlayfs mounts").
pub(super) const OVERLAY_ESCAPED_PREFIX: &[u8] = b"user.overlay.overlay.";
/// overlayfs's own attributes when it is mounted without `userxattr`.
const OVERLAY_TRUSTED_PREFIX: &[u8] = b"trusted.overlay.";

/// How every path below an image's root is opened.
pub(super) const BENEATH: ResolveFlags =
    ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);

/// Creates entries below one directory. Each thread has its own.
pub(super) struct Place {
    root: Arc<OwnedFd>,
    parent: (TreePath, Arc<OwnedFd>),
    warnings: Vec<Warning>,
}

impl Place {
    pub(super) fn new(root: BorrowedFd<'_>) -> Result<Self, LayerError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = openat(root, c".", flags, Mode::empty()).map_err(failed("open", &TreePath::ROOT))?;
        let root = Arc::new(root);
        Ok(Self { parent: (TreePath::ROOT, Arc::clone(&root)), root, warnings: Vec::new() })
    }

    pub(super) fn into_warnings(self) -> Vec<Warning> {
        self.warnings
    }

    /// Makes a directory that only this process's user can enter, until [`Place::finish_directory`].
    pub(super) fn directory(&mut self, path: &TreePath) -> Result<(), LayerError> {
        if path.is_root() {
            return Ok(());
        }
        let parent = self.parent(path)?;
        mkdirat(&parent, path.name(), Mode::RWXU).map_err(failed("create", path))
    }

    /// Sets a directory's attributes. Comes after everything below it: its mtime and its mode would be in the way.
    pub(super) fn finish_directory(&mut self, path: &TreePath, metadata: &Metadata) -> Result<(), LayerError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let name = if path.is_root() { &b"."[..] } else { path.as_bytes() };
        let directory = openat2(&self.root, name, flags, Mode::empty(), BENEATH).map_err(failed("open", path))?;
        self.finish(directory.as_fd(), path, metadata)
    }

    /// Makes an empty regular file; [`Place::finish`] comes when its bytes are written.
    pub(super) fn file(&mut self, path: &TreePath, metadata: &Metadata) -> Result<File, LayerError> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let parent = self.parent(path)?;
        let file = openat(&parent, path.name(), flags, first_mode(metadata)).map_err(failed("create", path))?;
        Ok(file.into())
    }

    /// Makes a regular file of bytes that are at hand.
    pub(super) fn whole_file(&mut self, path: &TreePath, metadata: &Metadata, bytes: &[u8]) -> Result<(), LayerError> {
        let mut file = self.file(path, metadata)?;
        file.write_all(bytes).map_err(write_failed(path))?;
        self.finish(file.as_fd(), path, metadata)
    }

    /// Sets the attributes of a regular file or a directory: owner, then attributes, mode and time, since changing the
    /// owner clears set-user-id bits and capabilities, and an attribute may be an ACL, which changes the mode.
    pub(super) fn finish(
        &mut self,
        file: BorrowedFd<'_>,
        path: &TreePath,
        metadata: &Metadata,
    ) -> Result<(), LayerError> {
        let made = fstat(file).map_err(failed("read the attributes of", path))?;
        self.own(path, metadata, &made, &|user, group| fchown(file, user, group))?;
        for xattr in &metadata.xattrs {
            let result = match stored_name(&xattr.name) {
                Some(name) => fsetxattr(file, &name[..], &xattr.value, XattrFlags::empty()),
                None => Err(Errno::PERM),
            };
            self.attribute(path, &xattr.name, result)?;
        }
        if !has_mode(&made, metadata) || !metadata.xattrs.is_empty() {
            fchmod(file, Mode::from_raw_mode(metadata.mode)).map_err(failed("set the mode of", path))?;
        }
        futimens(file, &times(metadata)).map_err(failed("set the time of", path))
    }

    /// Makes what is neither a directory nor a regular file. Returns false where it must be left out.
    pub(super) fn special(&mut self, path: &TreePath, kind: &Kind, metadata: &Metadata) -> Result<bool, LayerError> {
        let parent = self.parent(path)?;
        let name = path.name();
        let node = |file_type, device: Device| {
            mknodat(&parent, name, file_type, first_mode(metadata), makedev(device.major, device.minor))
        };
        let result = match kind {
            Kind::Symlink(target) => symlinkat(&target[..], &parent, name),
            Kind::Fifo => node(FileType::Fifo, Device { major: 0, minor: 0 }),
            // An overlay would take this one for a deletion.
            Kind::CharacterDevice(Device { major: 0, minor: 0 }) => Err(Errno::PERM),
            Kind::CharacterDevice(device) => node(FileType::CharacterDevice, *device),
            Kind::BlockDevice(device) => node(FileType::BlockDevice, *device),
            Kind::Directory | Kind::File(_) => Err(Errno::INVAL),
        };
        match result {
            Err(Errno::PERM) if matches!(kind, Kind::CharacterDevice(_) | Kind::BlockDevice(_)) => {
                self.warnings.push(Warning::Device { path: path.clone() });
                return Ok(false);
            }
            result => result.map_err(failed("create", path))?,
        }
        let nofollow = AtFlags::SYMLINK_NOFOLLOW;
        let made = statat(&parent, name, nofollow).map_err(failed("read the attributes of", path))?;
        self.own(path, metadata, &made, &|user, group| chownat(&parent, name, user, group, nofollow))?;
        for xattr in &metadata.xattrs {
            // Linux has `user.` and capabilities on regular files and directories only.
            self.attribute(path, &xattr.name, Err(Errno::PERM))?;
        }
        if !matches!(kind, Kind::Symlink(_)) && !has_mode(&made, metadata) {
            // Made just now, so no symlink that could be followed.
            chmodat(&parent, name, Mode::from_raw_mode(metadata.mode), AtFlags::empty())
                .map_err(failed("set the mode of", path))?;
        }
        utimensat(&parent, name, &times(metadata), nofollow).map_err(failed("set the time of", path))?;
        Ok(true)
    }

    /// Gives a file another name.
    pub(super) fn link(&mut self, first: &TreePath, path: &TreePath) -> Result<(), LayerError> {
        let source = self.parent(first)?;
        let parent = self.parent(path)?;
        linkat(&source, first.name(), &parent, path.name(), AtFlags::empty()).map_err(failed("create", path))
    }

    /// Hides what a lower directory of an overlay has at this path.
    pub(super) fn whiteout(&mut self, path: &TreePath) -> Result<(), LayerError> {
        let parent = self.parent(path)?;
        mknodat(&parent, path.name(), FileType::CharacterDevice, Mode::empty(), makedev(0, 0))
            .map_err(failed("create", path))
    }

    /// Opens the directory above a path. Neighbours come one after another, so the last one is kept.
    fn parent(&mut self, path: &TreePath) -> Result<Arc<OwnedFd>, LayerError> {
        let parent = path.parent().unwrap_or_default();
        if parent.is_root() {
            return Ok(Arc::clone(&self.root));
        }
        if self.parent.0 != parent {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let directory = openat2(&self.root, parent.as_bytes(), flags, Mode::empty(), BENEATH)
                .map_err(failed("open", &parent))?;
            self.parent = (parent, Arc::new(directory));
        }
        Ok(Arc::clone(&self.parent.1))
    }

    /// Sets owner and group. Ids that this user namespace does not map become nobody's; where not even that is possible,
    /// they stay this process's.
    fn own(
        &mut self,
        path: &TreePath,
        metadata: &Metadata,
        made: &Stat,
        change: &dyn Fn(Option<Uid>, Option<Gid>) -> SystemResult<()>,
    ) -> Result<(), LayerError> {
        let (uid, gid) = (metadata.uid, metadata.gid);
        // Every id that is not mapped reads as nobody's, so that one may be another.
        if (made.st_uid, made.st_gid) == (uid, gid) && uid != NOBODY && gid != NOBODY {
            return Ok(());
        }
        let user = |id| change(Some(Uid::from_raw(id)), None);
        let group = |id| change(None, Some(Gid::from_raw(id)));
        match change(Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid))) {
            Err(Errno::INVAL | Errno::PERM) => {}
            result => return result.map_err(failed("set the owner of", path)),
        }
        self.warnings.push(Warning::Owner { path: path.clone(), uid, gid });
        for result in [user(uid).or_else(|_| user(NOBODY)), group(gid).or_else(|_| group(NOBODY))] {
            match result {
                Ok(()) | Err(Errno::INVAL | Errno::PERM) => {}
                Err(error) => return Err(failed("set the owner of", path)(error)),
            }
        }
        Ok(())
    }

    fn attribute(&mut self, path: &TreePath, name: &[u8], result: SystemResult<()>) -> Result<(), LayerError> {
        match result {
            Ok(()) => {}
            // Not permitted, not supported, not valid here, or no room for it in this file system's inodes.
            Err(Errno::PERM | Errno::ACCESS | Errno::OPNOTSUPP | Errno::INVAL | Errno::RANGE | Errno::TOOBIG) => {
                let name = name.escape_ascii().to_string();
                self.warnings.push(Warning::Attribute { path: path.clone(), name });
            }
            Err(error) => return Err(failed("set an extended attribute of", path)(error)),
        }
        Ok(())
    }
}

/// The name under which an attribute is stored; `None` for what must not be set. Overlay attributes of an image would
/// otherwise be orders to the overlay that it is mounted with.
fn stored_name(name: &[u8]) -> Option<Vec<u8>> {
    if name.starts_with(OVERLAY_TRUSTED_PREFIX) {
        return None;
    }
    match name.strip_prefix(OVERLAY_PREFIX) {
        Some(rest) => Some([OVERLAY_ESCAPED_PREFIX, rest].concat()),
        None => Some(name.to_vec()),
    }
}

/// The mode that an entry is made with: without the bits that writing and changing the owner would clear, and writable where
/// attributes follow, which not only root must be able to set.
fn first_mode(metadata: &Metadata) -> Mode {
    if metadata.xattrs.is_empty() {
        Mode::from_raw_mode(metadata.mode) & (Mode::RWXU | Mode::RWXG | Mode::RWXO)
    } else {
        Mode::RUSR | Mode::WUSR
    }
}

/// Whether what was made has the mode that is wanted. It keeps it when its owner changes: what that clears is in the mode of
/// directories at most, and they keep it.
fn has_mode(made: &Stat, metadata: &Metadata) -> bool {
    Mode::from_raw_mode(made.st_mode) == Mode::from_raw_mode(metadata.mode)
}

const fn times(metadata: &Metadata) -> Timestamps {
    let time = Timespec { tv_sec: metadata.mtime, tv_nsec: 0 };
    Timestamps { last_access: time, last_modification: time }
}

/// Says which file could not be written.
pub(super) fn write_failed(path: &TreePath) -> impl Fn(io::Error) -> LayerError + use<> {
    let path = path.clone();
    move |source| LayerError::Operation { operation: "write", path: path.clone(), source }
}

/// Says which operation on which entry an error of the system is about.
pub(super) fn failed(operation: &'static str, path: &TreePath) -> impl Fn(Errno) -> LayerError + use<> {
    let path = path.clone();
    move |error| LayerError::Operation { operation, path: path.clone(), source: io::Error::from(error) }
}
