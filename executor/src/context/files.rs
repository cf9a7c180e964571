//! Inline and ConfigMap contexts: a mounted ConfigMap goes in, plain files come out.
//!
//! The kubelet mounts a ConfigMap as links through `..data` into a directory with a time in its name, and swaps that
//! directory when the ConfigMap changes. So `..data` is opened once, only regular files below it are taken, and what was
//! read is compared with the hash that the build was made for: other files are refused, and the next try may see the right
//! ones. Modes are 0644 and 0755; links, devices and names that are not UTF-8 are refused.

use std::{
    fs::File,
    io::{self, Read, Write},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

use karve_api::files_hash;
use rustix::{
    fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, fchmod, mkdirat, openat, openat2, statat},
    io::Errno,
};
use thiserror::Error;

use super::{
    budget::{Budget, VolumeFull},
    walk::{names, open_directory},
};
use crate::{filesystem::path::TreePath, in_root::open_in_root};

/// The most bytes that the files may have together. A ConfigMap holds at most 1 MiB.
const TOTAL_BYTES_MAX: u64 = 4 << 20;

/// The most files.
const FILES_MAX: usize = 10_000;

/// The link that the kubelet swaps.
const CURRENT: &str = "..data";

/// Why mounted files cannot be taken.
#[derive(Debug, Error)]
pub enum FilesError {
    /// The directory is no mounted ConfigMap.
    #[error("`{path}` is not a mounted ConfigMap: it has no `..data`")]
    NotMounted {
        /// The directory.
        path: String,
    },
    /// Something that is neither a regular file nor a directory.
    #[error("`{path}` in the ConfigMap is not a regular file")]
    NotRegular {
        /// Its path.
        path: TreePath,
    },
    /// A name that is not text.
    #[error("`{path}` in the ConfigMap is not UTF-8")]
    NotText {
        /// Its path.
        path: TreePath,
    },
    /// More or larger files than a ConfigMap can hold.
    #[error("the ConfigMap holds more than {FILES_MAX} files or {TOTAL_BYTES_MAX} bytes")]
    TooLarge,
    /// Other files than those that the build was made for; the mount may be newer or older.
    #[error("the mounted files have the hash {found}, the build is for {expected}: the ConfigMap changed meanwhile")]
    Changed {
        /// The hash in the build's key.
        expected: String,
        /// The hash of what is mounted.
        found: String,
    },
    /// Reading failed. A swap of the mount looks like this too.
    #[error("cannot read `{path}` in the ConfigMap")]
    Read {
        /// The path.
        path: TreePath,
        /// What the system says.
        source: io::Error,
    },
    /// Writing failed.
    #[error("cannot write `{path}`")]
    Write {
        /// The path in the context.
        path: TreePath,
        /// What the system says.
        source: io::Error,
    },
    /// The volume is too small.
    #[error(transparent)]
    VolumeFull(#[from] VolumeFull),
}

/// Copies the files of a mounted ConfigMap into an empty directory, when they have the expected hash.
pub fn copy_config_map(
    mounted: &Path,
    expected_hash: &str,
    destination: BorrowedFd<'_>,
    budget: &mut Budget,
) -> Result<(), FilesError> {
    let files = read_config_map(mounted)?;
    let found = files_hash(files.iter().map(|(path, content)| (path, content)));
    if found != expected_hash {
        return Err(FilesError::Changed { expected: expected_hash.to_owned(), found });
    }
    write_files(files.iter().map(|(path, content)| (path.as_str(), content.as_slice())), destination, budget)
}

/// Writes files into an empty directory; a path never leads out of it.
pub(super) fn write_files<'a>(
    files: impl Iterator<Item = (&'a str, &'a [u8])>,
    destination: BorrowedFd<'_>,
    budget: &mut Budget,
) -> Result<(), FilesError> {
    for (path, content) in files {
        budget.charge(content.len() as u64)?;
        let path = TreePath::clean(path.as_bytes());
        write_file(destination, &path, content).map_err(|source| FilesError::Write { path, source })?;
    }
    Ok(())
}

/// Reads all files of a mounted ConfigMap, sorted by path.
fn read_config_map(mounted: &Path) -> Result<Vec<(String, Vec<u8>)>, FilesError> {
    let not_mounted = || FilesError::NotMounted { path: mounted.display().to_string() };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mount = openat(CWD, mounted, flags, Mode::empty()).map_err(|_| not_mounted())?;
    let current = open_in_root(mount.as_fd(), CURRENT, flags).map_err(|_| not_mounted())?;
    let mut reader = Reader { current, files: Vec::new(), left: TOTAL_BYTES_MAX };
    let mut pending = vec![TreePath::ROOT];
    while let Some(directory) = pending.pop() {
        pending.extend(reader.read_directory(&directory)?);
    }
    reader.files.sort();
    Ok(reader.files)
}

struct Reader {
    current: OwnedFd,
    files: Vec<(String, Vec<u8>)>,
    left: u64,
}

impl Reader {
    /// Reads the files of one directory and returns its directories.
    fn read_directory(&mut self, path: &TreePath) -> Result<Vec<TreePath>, FilesError> {
        let failed = |errno: Errno| FilesError::Read { path: path.clone(), source: errno.into() };
        let directory = open_directory(self.current.as_fd(), path).map_err(failed)?;
        let mut directories = Vec::new();
        for name in names(directory.as_fd()).map_err(failed)? {
            let child = path.child(name.to_bytes());
            let stat = statat(&directory, &name, AtFlags::SYMLINK_NOFOLLOW).map_err(failed)?;
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => directories.push(child),
                FileType::RegularFile => self.read_file(directory.as_fd(), &name, child)?,
                _ => return Err(FilesError::NotRegular { path: child }),
            }
        }
        Ok(directories)
    }

    fn read_file(
        &mut self,
        directory: BorrowedFd<'_>,
        name: &std::ffi::CStr,
        path: TreePath,
    ) -> Result<(), FilesError> {
        let Ok(text) = std::str::from_utf8(path.as_bytes()).map(str::to_owned) else {
            return Err(FilesError::NotText { path });
        };
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let mut content = Vec::new();
        let read = openat(directory, name, flags, Mode::empty())
            .map_err(io::Error::from)
            .and_then(|file| File::from(file).take(self.left + 1).read_to_end(&mut content));
        match read {
            Ok(length) if length as u64 <= self.left && self.files.len() < FILES_MAX => {
                self.left -= length as u64;
                self.files.push((text, content));
                Ok(())
            }
            Ok(_) => Err(FilesError::TooLarge),
            Err(source) => Err(FilesError::Read { path, source }),
        }
    }
}

fn write_file(root: BorrowedFd<'_>, path: &TreePath, content: &[u8]) -> io::Result<()> {
    let mut parent = TreePath::ROOT;
    for component in path.parent().unwrap_or(TreePath::ROOT).components() {
        parent = parent.child(component);
        match mkdirat(root, parent.as_bytes(), Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let mode = Mode::from_raw_mode(0o644);
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let mut file = File::from(openat2(root, path.as_bytes(), flags, mode, resolve)?);
    fchmod(&file, mode)?;
    file.write_all(content)
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use tempfile::TempDir;

    use super::*;

    /// A directory as the kubelet makes it: `..data` -> a directory with a time, and links at the top.
    fn mount(files: &[(&str, &str)]) -> TempDir {
        let temporary = TempDir::new().unwrap();
        let timed = temporary.path().join("..2026_11_24_06_00_00.1");
        for (path, content) in files {
            fs::create_dir_all(timed.join(path).parent().unwrap()).unwrap();
            fs::write(timed.join(path), content).unwrap();
            let top = path.split('/').next().unwrap();
            let link = temporary.path().join(top);
            if fs::symlink_metadata(&link).is_err() {
                std::os::unix::fs::symlink(format!("..data/{top}"), link).unwrap();
            }
        }
        std::os::unix::fs::symlink("..2026_11_24_06_00_00.1", temporary.path().join("..data")).unwrap();
        temporary
    }

    fn hash(files: &[(&str, &str)]) -> String {
        files_hash(files.iter().copied())
    }

    fn copy(mounted: &Path, hash: &str, limit: Option<u64>) -> (TempDir, Result<(), FilesError>) {
        let output = TempDir::new().unwrap();
        let root = File::open(output.path()).unwrap();
        let result = copy_config_map(mounted, hash, root.as_fd(), &mut Budget::new(limit));
        (output, result)
    }

    const FILES: [(&str, &str); 2] = [("Dockerfile", "FROM scratch\n"), ("src/app/main.py", "print()\n")];

    #[test]
    fn regular_files_come_out_without_links() {
        let mounted = mount(&FILES);
        let (output, result) = copy(mounted.path(), &hash(&FILES), None);
        result.unwrap();
        for (path, content) in FILES {
            let path = output.path().join(path);
            assert_eq!(fs::read_to_string(&path).unwrap(), content);
            let metadata = fs::symlink_metadata(&path).unwrap();
            assert!(metadata.is_file());
            assert_eq!(metadata.permissions().mode() & 0o7777, 0o644);
        }
        assert_eq!(fs::read_dir(output.path()).unwrap().count(), 2);
    }

    #[test]
    fn the_hash_is_that_of_the_operator() {
        assert_eq!(
            hash(&[("Dockerfile", "FROM scratch\n")]),
            "sha256:71f65ce0621739697d706cb3067259f552d8ab276a941bd2d4234d934311f7db"
        );
    }

    #[test]
    fn other_files_than_the_key_is_for_are_refused() {
        let mounted = mount(&FILES);
        let (output, result) = copy(mounted.path(), "sha256:other", None);
        assert!(matches!(result, Err(FilesError::Changed { expected, .. }) if expected == "sha256:other"));
        assert_eq!(fs::read_dir(output.path()).unwrap().count(), 0);
    }

    #[test]
    fn links_in_the_data_are_refused() {
        let mounted = mount(&FILES);
        std::os::unix::fs::symlink("/etc/passwd", mounted.path().join("..data/passwd")).unwrap();
        let (_output, result) = copy(mounted.path(), "", None);
        assert_eq!(result.unwrap_err().to_string(), "`/passwd` in the ConfigMap is not a regular file");
    }

    #[test]
    fn a_plain_directory_is_no_config_map() {
        let plain = TempDir::new().unwrap();
        let (_output, result) = copy(plain.path(), "", None);
        assert!(matches!(result, Err(FilesError::NotMounted { .. })));
    }

    #[test]
    fn the_volume_bounds_what_is_written() {
        let mounted = mount(&FILES);
        let (_output, result) = copy(mounted.path(), &hash(&FILES), Some(4096));
        assert!(matches!(result, Err(FilesError::VolumeFull(VolumeFull { limit_bytes: 4096 }))));
    }
}
