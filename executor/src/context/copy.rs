//! Copies a directory (a mounted volume) into the context volume: two descriptors go in, an equal tree comes out.
//!
//! Modes, modification times, links, hard links, pipes, devices and the attributes that images keep are carried over;
//! owners are not, for a context has none; a socket becomes an empty file. Links are copied, never followed. What does not
//! fit into the budget is refused before it is written. A file system's own `lost+found` in the root is left out.

use std::{
    collections::HashMap,
    ffi::CStr,
    fs::File,
    io::{self, Read},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::{
    fs::{
        AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps, XattrFlags, fchmod, fgetxattr,
        flistxattr, fsetxattr, futimens, linkat, mkdirat, mknodat, openat, openat2, readlinkat, statat, symlinkat,
        utimensat,
    },
    io::Errno,
};
use thiserror::Error;

use super::{
    budget::{Budget, VolumeFull},
    walk::{PATH_BYTES_MAX, names, open_directory},
};
use crate::filesystem::path::TreePath;

/// The most entries that are copied.
const ENTRIES_MAX: usize = 5_000_000;

/// The largest list of attribute names and the largest value that Linux allows.
const XATTR_BYTES_MAX: usize = 64 * 1024;

/// Why a directory could not be copied.
#[derive(Debug, Error)]
pub enum CopyError {
    /// Reading failed.
    #[error("cannot read `{path}` in the volume")]
    Read {
        /// The path below the directory that is copied.
        path: TreePath,
        /// What the system says.
        source: io::Error,
    },
    /// Writing failed.
    #[error("cannot write `{path}` into the context volume")]
    Write {
        /// The path below the directory that is copied.
        path: TreePath,
        /// What the system says.
        source: io::Error,
    },
    /// More entries, or a longer path, than a context may have.
    #[error("`{path}` {problem}")]
    TooLarge {
        /// Where the copy stopped.
        path: TreePath,
        /// The limit.
        problem: &'static str,
    },
    /// The volume is too small.
    #[error(transparent)]
    VolumeFull(#[from] VolumeFull),
}

/// Copies what is in `source` into `destination`, an empty directory.
pub fn copy_tree(source: BorrowedFd<'_>, destination: BorrowedFd<'_>, budget: &mut Budget) -> Result<(), CopyError> {
    let mut copy = Copy {
        source,
        destination,
        budget,
        first_names: HashMap::new(),
        directories: Vec::new(),
        pending: vec![TreePath::ROOT],
        entries: 0,
    };
    while let Some(path) = copy.pending.pop() {
        copy.directory(&path)?;
    }
    // Children come after their parents here, so that backwards no time is touched again and no directory is closed early.
    for (path, stat) in copy.directories.iter().rev() {
        finish_directory(destination, path, stat)
            .map_err(|errno| CopyError::Write { path: path.clone(), source: errno.into() })?;
    }
    Ok(())
}

struct Copy<'a> {
    source: BorrowedFd<'a>,
    destination: BorrowedFd<'a>,
    budget: &'a mut Budget,
    first_names: HashMap<(u64, u64), TreePath>,
    directories: Vec<(TreePath, Stat)>,
    pending: Vec<TreePath>,
    entries: usize,
}

impl Copy<'_> {
    fn directory(&mut self, path: &TreePath) -> Result<(), CopyError> {
        let unreadable = |errno: Errno| CopyError::Read { path: path.clone(), source: errno.into() };
        let from = open_directory(self.source, path).map_err(unreadable)?;
        let to = open_directory(self.destination, path)
            .map_err(|errno| CopyError::Write { path: path.clone(), source: errno.into() })?;
        let stat = statat(&from, c"", AtFlags::EMPTY_PATH).map_err(unreadable)?;
        self.directories.push((path.clone(), stat));
        for name in names(from.as_fd()).map_err(unreadable)? {
            if path.is_root() && name.to_bytes() == b"lost+found" {
                continue;
            }
            let child = path.child(name.to_bytes());
            self.entries += 1;
            if self.entries > ENTRIES_MAX {
                return Err(CopyError::TooLarge { path: child, problem: "is one of more than 5 million entries" });
            }
            if child.as_bytes().len() > PATH_BYTES_MAX {
                return Err(CopyError::TooLarge {
                    path: path.clone(),
                    problem: "holds a path of more than 4095 bytes",
                });
            }
            self.entry(from.as_fd(), to.as_fd(), &name, child)?;
        }
        Ok(())
    }

    fn entry(
        &mut self,
        from: BorrowedFd<'_>,
        to: BorrowedFd<'_>,
        name: &CStr,
        path: TreePath,
    ) -> Result<(), CopyError> {
        let stat = statat(from, name, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|errno| CopyError::Read { path: path.clone(), source: errno.into() })?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        let mut charge = |bytes| self.budget.charge(bytes);
        let result = match kind {
            FileType::Directory => {
                charge(0)?;
                self.pending.push(path.clone());
                mkdirat(to, name, Mode::from_raw_mode(0o700))
            }
            FileType::Symlink => {
                charge(0)?;
                copy_link(from, to, name, &stat)
            }
            FileType::RegularFile => return self.file(from, to, name, &path, &stat),
            FileType::Socket | FileType::Unknown => create(to, name).map(drop),
            FileType::Fifo | FileType::CharacterDevice | FileType::BlockDevice => {
                mknodat(to, name, kind, Mode::from_raw_mode(stat.st_mode & 0o7777), stat.st_rdev)
            }
        };
        result.map_err(|errno| CopyError::Write { path, source: errno.into() })
    }

    fn file(
        &mut self,
        from: BorrowedFd<'_>,
        to: BorrowedFd<'_>,
        name: &CStr,
        path: &TreePath,
        stat: &Stat,
    ) -> Result<(), CopyError> {
        let unwritable = |source: io::Error| CopyError::Write { path: path.clone(), source };
        if stat.st_nlink > 1 {
            let inode = (stat.st_dev, stat.st_ino);
            if let Some(first) = self.first_names.get(&inode) {
                return linkat(self.destination, first.as_bytes(), to, name, AtFlags::empty())
                    .map_err(|errno| unwritable(errno.into()));
            }
            self.first_names.insert(inode, path.clone());
        }
        let size = stat.st_size.cast_unsigned();
        self.budget.charge(size)?;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let input = openat(from, name, flags, Mode::empty())
            .map_err(|errno| CopyError::Read { path: path.clone(), source: errno.into() })?;
        let output = create(to, name).map_err(|errno| unwritable(errno.into()))?;
        // What is appended meanwhile was not charged, and is left out.
        let mut input = File::from(input).take(size);
        let mut output = File::from(output);
        if let Err(error) = io::copy(&mut input, &mut output) {
            let full = matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
            return Err(if full { self.budget.full().into() } else { unwritable(error) });
        }
        copy_xattrs(&input.into_inner(), &output)
            .and_then(|()| fchmod(&output, Mode::from_raw_mode(stat.st_mode & 0o7777)))
            .and_then(|()| futimens(&output, &times(stat)))
            .map_err(|errno| unwritable(errno.into()))
    }
}

fn create(directory: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    openat(directory, name, flags, Mode::from_raw_mode(0o600))
}

fn copy_link(from: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &CStr, stat: &Stat) -> Result<(), Errno> {
    symlinkat(readlinkat(from, name, Vec::new())?, to, name)?;
    utimensat(to, name, &times(stat), AtFlags::SYMLINK_NOFOLLOW)
}

/// Copies `user.*` and the file capabilities. A file system without attributes has nothing to say.
fn copy_xattrs(from: &File, to: &File) -> Result<(), Errno> {
    let mut list = Vec::with_capacity(XATTR_BYTES_MAX);
    match flistxattr(from, rustix::buffer::spare_capacity(&mut list)) {
        Ok(_) => {}
        Err(Errno::OPNOTSUPP) => return Ok(()),
        Err(errno) => return Err(errno),
    }
    for name in list.split(|byte| *byte == 0) {
        if name.starts_with(b"user.") || name == b"security.capability" {
            let mut value = Vec::with_capacity(XATTR_BYTES_MAX);
            fgetxattr(from, name, rustix::buffer::spare_capacity(&mut value))?;
            fsetxattr(to, name, &value, XattrFlags::empty())?;
        }
    }
    Ok(())
}

fn finish_directory(root: BorrowedFd<'_>, path: &TreePath, stat: &Stat) -> Result<(), Errno> {
    let text = if path.is_root() { b"." } else { path.as_bytes() };
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let directory = openat2(root, text, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty(), resolve)?;
    fchmod(&directory, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
    futimens(&directory, &times(stat))
}

fn times(stat: &Stat) -> Timestamps {
    let time = |seconds, nanoseconds: u64| Timespec { tv_sec: seconds, tv_nsec: nanoseconds.cast_signed() };
    Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::{MetadataExt, PermissionsExt, symlink},
        time::{Duration, UNIX_EPOCH},
    };

    use karve_dockerfile::ignore::Patterns;
    use tempfile::TempDir;

    use super::*;
    use crate::context::directory::Directory;

    fn copy(source: &TempDir, limit: Option<u64>) -> (TempDir, Result<(), CopyError>) {
        let output = TempDir::new().unwrap();
        let from = File::open(source.path()).unwrap();
        let to = File::open(output.path()).unwrap();
        let result = copy_tree(from.as_fd(), to.as_fd(), &mut Budget::new(limit));
        (output, result)
    }

    #[test]
    fn a_copy_lists_like_its_original() {
        let source = TempDir::new().unwrap();
        let path = |name: &str| source.path().join(name);
        fs::create_dir_all(path("a/b/c")).unwrap();
        fs::create_dir(path("lost+found")).unwrap();
        fs::write(path("a/b/file"), "content").unwrap();
        fs::set_permissions(path("a/b/file"), fs::Permissions::from_mode(0o4711)).unwrap();
        fs::hard_link(path("a/b/file"), path("a/again")).unwrap();
        symlink("/etc/passwd", path("a/out")).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, path("fifo"), Mode::from_raw_mode(0o644)).unwrap();
        let earlier = UNIX_EPOCH + Duration::from_secs(1_000_000);
        File::options().write(true).open(path("a/b/file")).unwrap().set_modified(earlier).unwrap();
        fs::set_permissions(path("a/b"), fs::Permissions::from_mode(0o2750)).unwrap();
        File::open(path("a/b")).unwrap().set_modified(earlier).unwrap();

        let (output, result) = copy(&source, None);
        result.unwrap();
        fs::remove_dir(path("lost+found")).unwrap();
        let list = |directory: &TempDir| {
            let directory = Directory::open(&directory.path().display().to_string()).unwrap();
            let mut changes = directory.scan(0, &Patterns::default()).unwrap().changes();
            // The root's time changed with `lost+found`, and a pipe's is not kept.
            changes.retain(|change| !change.path.is_root() && change.path.as_bytes() != b"fifo");
            changes
        };
        assert_eq!(list(&output), list(&source));
        assert_eq!(fs::read_to_string(output.path().join("a/again")).unwrap(), "content");
        assert_eq!(fs::metadata(output.path().join("a/b/file")).unwrap().nlink(), 2);
        assert!(output.path().join("fifo").symlink_metadata().is_ok());
    }

    #[test]
    fn a_file_larger_than_the_volume_is_refused_before_it_is_written() {
        let source = TempDir::new().unwrap();
        fs::write(source.path().join("large"), vec![0; 20_000]).unwrap();
        let (output, result) = copy(&source, Some(16_384));
        assert!(matches!(result, Err(CopyError::VolumeFull(VolumeFull { limit_bytes: 16_384 }))));
        assert_eq!(fs::read_dir(output.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_a_link_points_to_is_not_copied() {
        let outside = TempDir::new().unwrap();
        fs::write(outside.path().join("secret"), "secret").unwrap();
        let source = TempDir::new().unwrap();
        symlink(outside.path(), source.path().join("link")).unwrap();
        let (output, result) = copy(&source, None);
        result.unwrap();
        assert_eq!(fs::read_link(output.path().join("link")).unwrap(), outside.path());
    }
}
