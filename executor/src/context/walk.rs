//! Lists a directory tree through descriptors: a root descriptor and ignore patterns go in, a view comes out.
//!
//! Each directory is opened by its full path with `openat2(BENEATH | NO_SYMLINKS)`, so that the number of open descriptors
//! does not grow with the depth and no link is followed, whoever swaps one in.

use std::{
    collections::{BTreeMap, HashMap},
    ffi::CString,
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    sync::Arc,
};

use karve_dockerfile::ignore::Patterns;
use rustix::{
    fs::{
        AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat, lgetxattr, llistxattr, openat2, readlinkat, statat,
    },
    io::Errno,
};

use super::directory::DirectoryError;
use crate::filesystem::{
    entry::{Device, FileContent, Kind, Location, Metadata, Xattr},
    path::TreePath,
    view::{Node, View},
};

/// The most entries that a listing may have.
const ENTRIES_MAX: usize = 5_000_000;

/// The longest path, in bytes: the kernel's `PATH_MAX` without the final NUL.
pub(super) const PATH_BYTES_MAX: usize = 4095;

/// The largest list of names, and the largest value, that Linux allows for extended attributes.
const XATTR_BYTES_MAX: usize = 64 * 1024;

/// Lists the tree below `root`; the contract is that of `Directory::scan`.
pub(super) fn list(root: BorrowedFd<'_>, number: usize, ignore: &Patterns) -> Result<View, DirectoryError> {
    let mut walk = Walk {
        root,
        number,
        ignore,
        view: View::empty(),
        entries: 0,
        first_names: HashMap::new(),
        excluded: BTreeMap::new(),
        pending: vec![TreePath::ROOT],
        buffer: vec![0; XATTR_BYTES_MAX],
    };
    let directory = open_directory(root, &TreePath::ROOT).map_err(|errno| unreadable(&TreePath::ROOT, errno))?;
    let entry = walk.describe(directory.as_fd(), &TreePath::ROOT, c".")?;
    walk.add(&TreePath::ROOT, entry);
    while let Some(directory) = walk.pending.pop() {
        walk.enter(&directory)?;
    }
    Ok(walk.view)
}

/// Opens a directory below `root` for reading, following no link.
pub(super) fn open_directory(root: BorrowedFd<'_>, path: &TreePath) -> Result<OwnedFd, Errno> {
    let text = if path.is_root() { b"." } else { path.as_bytes() };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat2(root, text, flags, Mode::empty(), ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS)
}

/// Returns the names in an open directory, sorted: which name of a file is met first does not depend on the file system.
pub(super) fn names(directory: BorrowedFd<'_>) -> Result<Vec<CString>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            names.push(entry.file_name().to_owned());
        }
    }
    names.sort();
    Ok(names)
}

/// Which file a name belongs to, for those with several names.
type Inode = (u64, u64);

struct Found {
    node: Node,
    inode: Option<Inode>,
}

struct Walk<'a> {
    root: BorrowedFd<'a>,
    number: usize,
    ignore: &'a Patterns,
    view: View,
    entries: usize,
    /// The files that have several names.
    first_names: HashMap<Inode, Node>,
    /// Directories that are excluded and walked all the same, listed once something below them is.
    excluded: BTreeMap<TreePath, Found>,
    pending: Vec<TreePath>,
    buffer: Vec<u8>,
}

impl Walk<'_> {
    fn enter(&mut self, path: &TreePath) -> Result<(), DirectoryError> {
        let failed = |errno| unreadable(path, errno);
        let directory = open_directory(self.root, path).map_err(failed)?;
        for name in names(directory.as_fd()).map_err(failed)? {
            let child = path.child(name.to_bytes());
            if child.as_bytes().len() > PATH_BYTES_MAX {
                return Err(DirectoryError::PathTooLong { limit: PATH_BYTES_MAX, directory: path.clone() });
            }
            let excluded = self.ignore.excludes(child.as_bytes());
            if excluded && !self.ignore.may_contain_exception(child.as_bytes()) {
                continue;
            }
            let entry = self.describe(directory.as_fd(), &child, &name)?;
            let is_directory = entry.node.is_directory();
            if is_directory {
                self.pending.push(child.clone());
            }
            if !excluded {
                self.include(&child, entry)?;
            } else if is_directory {
                self.excluded.insert(child, entry);
            }
        }
        Ok(())
    }

    /// Adds an entry, and the directories above it that were excluded.
    fn include(&mut self, path: &TreePath, entry: Found) -> Result<(), DirectoryError> {
        self.add(path, entry);
        let mut parent = path.parent();
        while let Some(path) = parent
            && let Some(entry) = self.excluded.remove(&path)
        {
            self.add(&path, entry);
            parent = path.parent();
        }
        if self.entries > ENTRIES_MAX {
            return Err(DirectoryError::TooManyEntries { limit: ENTRIES_MAX });
        }
        Ok(())
    }

    fn add(&mut self, path: &TreePath, entry: Found) {
        self.entries += 1;
        let Found { node, inode } = entry;
        if let Node::Directory(directory) = &node {
            // What is below it may be there already.
            self.view.make_directory(path).metadata = directory.metadata.clone();
            return;
        }
        let node = match inode {
            Some(inode) => self.first_names.entry(inode).or_insert(node).clone(),
            None => node,
        };
        self.view.insert(path, node);
    }

    fn describe(
        &mut self,
        directory: BorrowedFd<'_>,
        path: &TreePath,
        name: &std::ffi::CStr,
    ) -> Result<Found, DirectoryError> {
        let failed = |errno| unreadable(path, errno);
        let stat = statat(directory, name, AtFlags::SYMLINK_NOFOLLOW).map_err(failed)?;
        let kind = self.kind(directory, path, name, &stat).map_err(failed)?;
        let xattrs = match kind {
            Kind::Directory | Kind::File(_) => self.xattrs(directory, name).map_err(failed)?,
            _ => Vec::new(),
        };
        let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
        let inode = (is_file && stat.st_nlink > 1).then_some((stat.st_dev, stat.st_ino));
        let metadata = Metadata { mode: stat.st_mode & 0o7777, uid: 0, gid: 0, mtime: stat.st_mtime, xattrs };
        Ok(Found { node: Node::new(metadata, kind), inode })
    }

    fn kind(
        &self,
        directory: BorrowedFd<'_>,
        path: &TreePath,
        name: &std::ffi::CStr,
        stat: &Stat,
    ) -> Result<Kind, Errno> {
        let device = Device { major: rustix::fs::major(stat.st_rdev), minor: rustix::fs::minor(stat.st_rdev) };
        Ok(match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => Kind::Directory,
            FileType::Symlink => Kind::Symlink(readlinkat(directory, name, Vec::new())?.into_bytes()),
            FileType::CharacterDevice => Kind::CharacterDevice(device),
            FileType::BlockDevice => Kind::BlockDevice(device),
            FileType::Fifo => Kind::Fifo,
            // A socket has no meaning in an image: its name is kept, as BuildKit does (K9).
            FileType::Socket => {
                Kind::File(FileContent { size: 0, digest: None, location: Location::Inline(Arc::default()) })
            }
            FileType::RegularFile | FileType::Unknown => Kind::File(FileContent {
                size: stat.st_size.cast_unsigned(),
                digest: None,
                location: Location::Context(self.number, path.clone()),
            }),
        })
    }

    /// Reads the attributes that an image keeps: `user.*` and the file capabilities, sorted by name.
    fn xattrs(&mut self, directory: BorrowedFd<'_>, name: &std::ffi::CStr) -> Result<Vec<Xattr>, Errno> {
        // There are no *at calls for attributes. The descriptor's own link leads to the directory, and the last component
        // is not followed.
        let mut path = format!("/proc/self/fd/{}/", directory.as_raw_fd()).into_bytes();
        path.extend_from_slice(name.to_bytes());
        let length = match llistxattr(&path[..], &mut self.buffer[..]) {
            Ok(length) => length,
            Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
            Err(errno) => return Err(errno),
        };
        let names = self.buffer[..length].to_vec();
        let mut xattrs = Vec::new();
        for name in names.split(|byte| *byte == 0) {
            if name.starts_with(b"user.") || name == b"security.capability" {
                let length = lgetxattr(&path[..], name, &mut self.buffer[..])?;
                xattrs.push(Xattr { name: name.to_vec(), value: self.buffer[..length].to_vec() });
            }
        }
        xattrs.sort();
        Ok(xattrs)
    }
}

fn unreadable(path: &TreePath, errno: Errno) -> DirectoryError {
    DirectoryError::Read { path: path.clone(), source: io::Error::from(errno) }
}
