//! Mounts as descriptors: made detached, given their attributes, then attached where the caller resolved the place.
//!
//! Nothing is ever mounted by a path inside a root: a symbolic link of the image cannot redirect a mount.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::{
    fs::CWD,
    io,
    mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create, fsconfig_set_string,
        fsmount, fsopen, move_mount, open_tree,
    },
};

use super::child;

/// nosuid, nodev and noexec.
pub(super) const INERT: MountAttrFlags =
    MountAttrFlags::MOUNT_ATTR_NOSUID.union(MountAttrFlags::MOUNT_ATTR_NODEV).union(MountAttrFlags::MOUNT_ATTR_NOEXEC);

/// For a device of the Pod: root of a step is the owner of its node, and would change it for the Pod and all other steps.
/// Reading from and writing to the device itself needs no writable mount.
pub(super) const DEVICE: MountAttrFlags =
    MountAttrFlags::MOUNT_ATTR_NOSUID.union(MountAttrFlags::MOUNT_ATTR_NOEXEC).union(MountAttrFlags::MOUNT_ATTR_RDONLY);

/// Makes a mount of a new file system.
pub(super) fn new(kind: &str, options: &[(&str, &str)], attributes: MountAttrFlags) -> io::Result<OwnedFd> {
    let filesystem = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (key, value) in options {
        fsconfig_set_string(&filesystem, *key, *value)?;
    }
    fsconfig_create(&filesystem)?;
    fsmount(&filesystem, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

/// Makes a copy of the mounts at and below a path, as a recursive bind does. (One level alone is refused where an outer
/// namespace has covered something below.)
pub(super) fn copy(directory: BorrowedFd<'_>, path: &str) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
    open_tree(directory, path, flags)
}

/// [`copy`] by an absolute path of the executor's own tree.
pub(super) fn copy_own(path: &str) -> io::Result<OwnedFd> {
    copy(CWD, path)
}

/// [`copy`] of what a descriptor refers to, with attributes added to each of the mounts.
pub(super) fn copy_with(place: BorrowedFd<'_>, attributes: MountAttrFlags) -> std::io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_RECURSIVE
        | OpenTreeFlags::AT_EMPTY_PATH;
    let tree = open_tree(place, "", flags)?;
    child::add_mount_attributes(tree.as_fd(), attributes)?;
    Ok(tree)
}

/// Attaches a detached mount at the place that a descriptor refers to.
pub(super) fn attach(tree: &OwnedFd, place: BorrowedFd<'_>) -> io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(tree, "", place, "", flags)
}
