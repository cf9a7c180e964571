//! The overlay that is a step's root: lower directories, an upper directory and a place go in, a mounted root comes out.
//!
//! A small tmpfs (the [`Area`]) holds the mount points and whatever the helper makes for one step. It exists only in the
//! helper's mount namespace and goes away with it.

use std::{
    ffi::CString,
    fs,
    os::{
        fd::OwnedFd,
        unix::fs::{DirBuilderExt, symlink},
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
    mount::{MountFlags, UnmountFlags, mount, unmount},
    process::chdir,
};

use super::error::Failure;

/// The largest size of the area: it holds empty stubs and two files of `/etc`.
const AREA_OPTIONS: &std::ffi::CStr = c"mode=0700,size=16m";

/// Where a helper keeps what only it must see.
#[derive(Debug)]
pub(super) struct Area {
    path: PathBuf,
    empty: PathBuf,
}

/// A directory that receives changes, with the scratch directory that overlayfs wants beside it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Upper<'a> {
    pub(super) directory: &'a Path,
    pub(super) work: &'a Path,
}

impl Area {
    /// Mounts the area over an existing directory of the executor's tree.
    pub(super) fn mount(directory: &Path) -> Result<Self, Failure> {
        mount("tmpfs", directory, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, AREA_OPTIONS)
            .map_err(mounting(format!("tmpfs on {}", directory.display())))?;
        let area = Self { path: directory.to_owned(), empty: directory.join("empty") };
        area.directory("empty")?;
        Ok(area)
    }

    /// A directory with nothing in it.
    pub(super) fn empty(&self) -> &Path {
        &self.empty
    }

    /// Makes a directory of mode 0755 in the area.
    pub(super) fn directory(&self, name: &str) -> Result<PathBuf, Failure> {
        let path = self.path.join(name);
        fs::DirBuilder::new().mode(0o755).create(&path).map_err(mounting(format!("mkdir {}", path.display())))?;
        Ok(path)
    }

    /// Mounts an overlay of the lower directories (topmost first) and opens its root. Without an upper directory it is
    /// read-only. Changes the working directory.
    pub(super) fn overlay(&self, name: &str, lowers: &[&Path], upper: Option<Upper<'_>>) -> Result<OwnedFd, Failure> {
        let root = self.directory(name)?;
        // overlayfs wants two lower directories where there is no upper one.
        let options = match upper {
            Some(_) => self.options(name, lowers, upper),
            None => self.options(name, &[lowers, &[self.empty()]].concat(), upper),
        }?;
        let mount_with = |tail: &str| {
            let options = CString::new(format!("{options}{tail}")).map_err(|_| Errno::INVAL)?;
            mount("overlay", &root, "overlay", MountFlags::empty(), &*options)
        };
        // userxattr: the only way to mark opaque directories in a user namespace; without it re-creating a deleted
        // directory gives EIO. volatile: nothing has to survive a crash; Linux 5.10 refuses it beside userxattr.
        let mounted = match upper {
            Some(_) => mount_with(",userxattr,volatile").or_else(|_| mount_with(",userxattr")),
            None => mount_with(",userxattr"),
        };
        mounted.map_err(mounting("overlay with userxattr"))?;
        open_directory(&root)
    }

    /// Unmounts an overlay of this area.
    pub(super) fn unmount(&self, name: &str) -> Result<(), Failure> {
        unmount(self.path.join(name), UnmountFlags::empty()).map_err(mounting(format!("unmount {name}")))
    }

    /// The options, with one-letter relative names: mount(2) takes one page of them, and `:` and `,` in paths would have
    /// to be escaped.
    fn options(&self, name: &str, lowers: &[&Path], upper: Option<Upper<'_>>) -> Result<String, Failure> {
        let links = self.directory(&format!("{name}-links"))?;
        let link = |name: &str, target: &Path| symlink(target, links.join(name)).map_err(mounting("symlink"));
        let mut names = Vec::with_capacity(lowers.len());
        for (number, lower) in lowers.iter().enumerate() {
            link(&number.to_string(), lower)?;
            names.push(number.to_string());
        }
        let mut options = format!("lowerdir={}", names.join(":"));
        if let Some(upper) = upper {
            link("u", upper.directory)?;
            link("w", upper.work)?;
            options.push_str(",upperdir=u,workdir=w,index=off");
        }
        chdir(&links).map_err(mounting("chdir"))?;
        Ok(options)
    }
}

/// Opens a directory of the executor's own tree for reading its entries and attributes.
pub(super) fn open_directory(path: &Path) -> Result<OwnedFd, Failure> {
    rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(mounting(format!("open {}", path.display())))
}

/// Makes a [`Failure::Mount`] of an error.
pub(super) fn mounting<E: std::fmt::Display>(action: impl Into<String>) -> impl FnOnce(E) -> Failure {
    move |error| Failure::Mount { action: action.into(), reason: error.to_string() }
}
