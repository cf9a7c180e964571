//! Finds the place of a path inside a root, following the root's own symbolic links, and makes what is missing.
//!
//! A path of an image goes in; the real path comes out, with the number of its components that exist. Dangling links are
//! followed to where their target would be. Every look-up starts at the root's descriptor and refuses links in the
//! kernel (openat2), so that no race and no `..` leaves the root.

use std::{
    collections::VecDeque,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, chownat, fstat, mkdirat, openat, openat2, readlinkat},
    io::{self, Errno},
    process::{Gid, Uid},
};

/// Links that one path may lead through; the kernel's own limit.
const LINKS_MAX: usize = 40;

/// What stands at the end of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leaf {
    /// A directory.
    Directory,
    /// A file.
    File,
}

/// A path without links, and how much of it exists.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Place {
    names: Vec<Vec<u8>>,
    existing: usize,
}

impl Place {
    /// Resolves a path, whether it exists or not.
    pub(super) fn find(root: BorrowedFd<'_>, path: &[u8]) -> io::Result<Self> {
        let mut rest = components(path);
        let mut place = Self { names: Vec::new(), existing: 0 };
        let mut links = 0;
        while let Some(name) = rest.pop_front() {
            if name == b".." {
                place.names.pop();
                place.existing = place.existing.min(place.names.len());
                continue;
            }
            place.names.push(name);
            if place.existing + 1 < place.names.len() {
                continue; // below something that is missing
            }
            let entry = match open(root, &place.path()) {
                Err(Errno::NOENT) => continue,
                entry => entry?,
            };
            if FileType::from_raw_mode(fstat(&entry)?.st_mode) != FileType::Symlink {
                place.existing += 1;
                continue;
            }
            links += 1;
            if links > LINKS_MAX {
                return Err(Errno::LOOP);
            }
            let target = readlinkat(&entry, "", Vec::new())?.into_bytes();
            place.names.pop();
            if target.starts_with(b"/") {
                place = Self { names: Vec::new(), existing: 0 };
            }
            for name in components(&target).into_iter().rev() {
                rest.push_front(name);
            }
        }
        Ok(place)
    }

    /// Whether the whole path exists.
    pub(super) fn exists(&self) -> bool {
        self.existing == self.names.len()
    }

    /// Whether something is missing, and would be made in the file system of the root itself, not in one mounted on it.
    pub(super) fn is_missing_in(&self, root: BorrowedFd<'_>) -> io::Result<bool> {
        let above = open(root, &self.names[..self.existing].join(&b'/'))?;
        Ok(!self.exists() && fstat(&above)?.st_dev == fstat(root)?.st_dev)
    }

    /// The names from the root down.
    pub(super) fn names(&self) -> &[Vec<u8>] {
        &self.names
    }

    /// Opens the place (as a path only), after making what is missing: directories of mode 0755, or an empty file.
    pub(super) fn make(&self, root: BorrowedFd<'_>, leaf: Leaf) -> io::Result<OwnedFd> {
        let mut current = open(root, &self.names[..self.existing].join(&b'/'))?;
        for (position, name) in self.names.iter().enumerate().skip(self.existing) {
            let leaf = if position + 1 == self.names.len() { leaf } else { Leaf::Directory };
            current = make_child(current.as_fd(), name, leaf)?;
        }
        Ok(current)
    }

    /// [`Place::make`] of a directory whose missing parts belong to somebody.
    pub(super) fn make_owned(&self, root: BorrowedFd<'_>, uid: u32, gid: u32) -> io::Result<OwnedFd> {
        let mut current = open(root, &self.names[..self.existing].join(&b'/'))?;
        for name in &self.names[self.existing..] {
            current = make_child(current.as_fd(), name, Leaf::Directory)?;
            chownat(&current, "", Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)), AtFlags::EMPTY_PATH)?;
        }
        Ok(current)
    }

    fn path(&self) -> Vec<u8> {
        self.names.join(&b'/')
    }
}

/// Makes a directory or an empty file that may exist already, and opens it as a path.
pub(super) fn make_child(directory: BorrowedFd<'_>, name: &[u8], leaf: Leaf) -> io::Result<OwnedFd> {
    let made = match leaf {
        Leaf::Directory => mkdirat(directory, name, Mode::from_raw_mode(0o755)),
        Leaf::File => {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
            openat(directory, name, flags, Mode::from_raw_mode(0o644)).map(drop)
        }
    };
    match made {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(error),
    }
    openat(directory, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
}

/// Opens a path without links below a root, as a path only; the last component may be a link.
pub(super) fn open(root: BorrowedFd<'_>, path: &[u8]) -> io::Result<OwnedFd> {
    let path = if path.is_empty() { b"." } else { path };
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat2(root, path, flags, Mode::empty(), ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS)
}

fn components(path: &[u8]) -> VecDeque<Vec<u8>> {
    path.split(|byte| *byte == b'/').filter(|name| !matches!(*name, b"" | b".")).map(<[u8]>::to_vec).collect()
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    /// `real|existing` for a path in a root with a directory, a file and links.
    #[track_caller]
    fn check(path: &str, expected: &str) {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("etc")).unwrap();
        fs::write(root.path().join("etc/hosts"), "").unwrap();
        symlink("../run/resolve/stub", root.path().join("etc/resolv.conf")).unwrap();
        symlink("/etc", root.path().join("absolute")).unwrap();
        symlink("../../../..", root.path().join("etc/up")).unwrap();
        symlink("loop", root.path().join("loop")).unwrap();
        let descriptor = fs::File::open(root.path()).unwrap();
        let found = match Place::find(descriptor.as_fd(), path.as_bytes()) {
            Ok(place) => format!("{}|{}", String::from_utf8(place.path()).unwrap(), place.existing),
            Err(error) => error.to_string(),
        };
        assert!(found.contains(expected), "{path}: {found}, not {expected}");
    }

    #[test]
    fn links_are_followed_inside_the_root() {
        check("/", "|0");
        check("/etc/hosts", "etc/hosts|2");
        check("/etc/./x/../hosts", "etc/hosts|");
        check("/absolute/hosts", "etc/hosts|2");
        check("/etc/up/etc/hosts", "etc/hosts|2");
        check("/../../etc", "etc|1");
    }

    #[test]
    fn what_is_missing_is_named_where_it_would_be() {
        check("/run/secrets/key", "run/secrets/key|0");
        check("/etc/new/file", "etc/new/file|1");
        check("/etc/resolv.conf", "run/resolve/stub|0");
    }

    #[test]
    fn a_loop_and_a_file_in_the_middle_are_errors() {
        check("/loop/x", "symbolic link");
        check("/etc/hosts/x", "Not a directory");
    }
}
