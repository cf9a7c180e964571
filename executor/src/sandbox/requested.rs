//! The mounts that a step's `--mount` flags ask for: requests come in, detached mounts with their attributes come out.
//!
//! Whatever a mount shows lies below a directory that the executor names, and is looked up from that directory's descriptor:
//! neither `..` nor a link in what is mounted leads out of it. Devices do nothing in any of them.

use std::{
    fs,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

use rustix::{
    fs::{FileType, Gid, Mode, OFlags, Uid, fchmod, fchown, fstat, openat},
    io::Errno,
    mount::MountAttrFlags,
};

use super::{
    child,
    error::{Failure, cannot},
    overlay::{Area, Upper, open_directory},
    place::{Leaf, Place},
    request::{LOWERS_MAX, Mount, OverlayMount},
    root::Placement,
    stubs,
    tree::{self, INERT},
};

/// Makes the mounts in the order of the requests.
pub(super) fn mounts(requests: &[Mount], area: &Area) -> Result<Vec<Placement>, Failure> {
    requests.iter().enumerate().map(|(number, request)| mount(request, number, area)).collect()
}

fn mount(request: &Mount, number: usize, area: &Area) -> Result<Placement, Failure> {
    let target = request.target().to_owned();
    let cannot_make = || cannot(format!("make the mount for {target}"));
    let (leaf, tree) = match request {
        Mount::Overlay(overlay) => part_of_overlay(overlay, &format!("mount-{number}"), area)?,
        Mount::Own { root, source, read_only, .. } => part(open_directory(root)?.as_fd(), source, &target, *read_only)?,
        Mount::Secret { value, mode, uid, gid, .. } => {
            (Leaf::File, secret_file(value.expose(), *mode, *uid, *gid).map_err(cannot_make())?)
        }
        Mount::Tmpfs { size, read_only, .. } => {
            let size = size.map(|bytes| bytes.to_string());
            let mut options = vec![("mode", "1777")];
            options.extend(size.as_deref().map(|size| ("size", size)));
            let mut attributes = MountAttrFlags::MOUNT_ATTR_NOSUID;
            attributes.set(MountAttrFlags::MOUNT_ATTR_RDONLY, *read_only);
            let tree = tree::new("tmpfs", &options, attributes).map_err(std::io::Error::from);
            (Leaf::Directory, tree.map_err(cannot_make())?)
        }
    };
    Ok(Placement { target, leaf, tree })
}

/// Mounts an overlay and gives back a mount of just the part that is asked for.
fn part_of_overlay(request: &OverlayMount, name: &str, area: &Area) -> Result<(Leaf, OwnedFd), Failure> {
    let action = || format!("make the mount for {}", request.target);
    let Some(topmost) = request.lowers.first().filter(|_| request.lowers.len() <= LOWERS_MAX) else {
        return Err(cannot(action())(format!("{} lower directories", request.lowers.len())));
    };
    if let Some(upper) = &request.upper {
        stubs::copy_all_attributes(open_directory(topmost)?.as_fd(), open_directory(&upper.upper)?.as_fd())
            .map_err(cannot(action()))?;
    }
    let lowers: Vec<&Path> = request.lowers.iter().map(AsRef::as_ref).collect();
    let upper = request.upper.as_ref().map(|upper| Upper { directory: &upper.upper, work: &upper.work });
    let root = area.overlay(name, &lowers, upper)?;
    part(root.as_fd(), &request.source, &request.target, upper.is_none())
}

/// Makes a mount of what lies at a path inside a directory.
fn part(root: BorrowedFd<'_>, source: &str, target: &str, read_only: bool) -> Result<(Leaf, OwnedFd), Failure> {
    let place = match Place::find(root, source.as_bytes()) {
        Ok(place) if place.exists() => place,
        Ok(_) | Err(Errno::NOTDIR) => {
            return Err(Failure::MountSource { path: source.to_owned(), target: target.to_owned() });
        }
        Err(error) => return Err(cannot(format!("find {source} for the mount at {target}"))(error)),
    };
    let source = place.make(root, Leaf::Directory).map_err(std::io::Error::from);
    source.and_then(|source| bind(source.as_fd(), read_only)).map_err(cannot(format!("make the mount for {target}")))
}

fn bind(source: BorrowedFd<'_>, read_only: bool) -> std::io::Result<(Leaf, OwnedFd)> {
    let is_directory = FileType::from_raw_mode(fstat(source)?.st_mode) == FileType::Directory;
    let mut attributes = MountAttrFlags::MOUNT_ATTR_NODEV;
    attributes.set(MountAttrFlags::MOUNT_ATTR_RDONLY, read_only);
    let leaf = if is_directory { Leaf::Directory } else { Leaf::File };
    Ok((leaf, tree::copy_with(source, attributes)?))
}

/// Puts a secret's value into a file on a tmpfs of its own, and gives back a mount of just that file.
fn secret_file(value: &[u8], mode: u32, uid: u32, gid: u32) -> std::io::Result<OwnedFd> {
    let directory = tree::new("tmpfs", &[("mode", "0700")], INERT)?;
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
    let file = openat(&directory, "value", flags, Mode::RUSR)?;
    let mut writer = fs::File::from(file);
    std::io::Write::write_all(&mut writer, value)?;
    fchown(&writer, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
    fchmod(&writer, Mode::from_raw_mode(mode))?;
    let tree = tree::copy(directory.as_fd(), "value")?;
    child::add_mount_attributes(tree.as_fd(), INERT | MountAttrFlags::MOUNT_ATTR_RDONLY)?;
    Ok(tree)
}
