//! Mount points that an image lacks, in a lower directory of their own.
//!
//! `/etc/resolv.conf`, `/dev` or the target of a secret must exist before anything can be mounted there, and must not be
//! in the layer. Made in the upper directory they would have to be taken out again, together with the parents that they
//! copied up and the times that they changed. So they lie in the topmost *lower* directory: the upper one never sees
//! them. Topmost, because a lower one may be hidden by an opaque directory or a whiteout of the image; and therefore the
//! parents in it carry the attributes that the image gives them, since overlayfs shows those of the topmost.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::{
    fs::{
        Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, XattrFlags, fchmod, fchown, fgetxattr, flistxattr,
        fsetxattr, fstat, futimens, openat,
    },
    io::{self, Errno},
};

use super::place::{Leaf, Place, make_child, open};

/// The largest extended attribute that Linux knows: 64 KiB.
const XATTR_BYTES_MAX: usize = 64 << 10;

/// Makes the stubs for the targets that are missing in `image` below `stubs`, an empty directory, and gives the root of
/// `stubs` the attributes of the image's root.
pub(super) fn make(
    image: BorrowedFd<'_>,
    stubs: BorrowedFd<'_>,
    targets: impl Iterator<Item = (String, Leaf)>,
) -> io::Result<()> {
    let mut directories = vec![(reopen(stubs)?, fstat(image)?)];
    copy_attributes(image, directories[0].0.as_fd())?;
    for (target, leaf) in targets {
        let place = Place::find(image, target.as_bytes())?;
        if place.exists() {
            continue;
        }
        let mut current = reopen(stubs)?;
        for (position, name) in place.names().iter().enumerate() {
            let is_leaf = position + 1 == place.names().len();
            let child = make_child(current.as_fd(), name, if is_leaf { leaf } else { Leaf::Directory })?;
            if is_leaf {
                break;
            }
            current = reopen(child.as_fd())?;
            match open(image, &place.names()[..=position].join(&b'/')).and_then(|entry| reopen(entry.as_fd())) {
                Ok(original) => {
                    copy_attributes(original.as_fd(), current.as_fd())?;
                    directories.push((reopen(current.as_fd())?, fstat(&original)?));
                }
                Err(Errno::NOENT) => {}
                Err(error) => return Err(error),
            }
        }
    }
    // Times last: each stub has changed its parent's.
    directories.iter().try_for_each(|(directory, original)| futimens(directory, &times(original)))
}

/// Gives a directory the owner, mode and extended attributes of another; times are the caller's, when it is done.
fn copy_attributes(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> io::Result<()> {
    let original = fstat(from)?;
    fchown(to, Some(Uid::from_raw(original.st_uid)), Some(Gid::from_raw(original.st_gid)))?;
    fchmod(to, Mode::from_raw_mode(original.st_mode))?;
    let mut names = vec![0; XATTR_BYTES_MAX];
    let length = match flistxattr(from, &mut names[..]) {
        Err(Errno::NOTSUP) => 0,
        length => length?,
    };
    let mut value = vec![0; XATTR_BYTES_MAX];
    for name in names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let length = fgetxattr(from, name, &mut value[..])?;
        match fsetxattr(to, name, &value[..length], XattrFlags::empty()) {
            // Labels of security modules are the kernel's to set.
            Ok(()) | Err(Errno::NOTSUP | Errno::PERM) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// [`copy_attributes`], and the times.
pub(super) fn copy_all_attributes(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> io::Result<()> {
    copy_attributes(from, to)?;
    futimens(to, &times(&fstat(from)?))
}

fn times(original: &Stat) -> Timestamps {
    #[expect(clippy::cast_possible_wrap, reason = "nanoseconds are below 10^9")]
    let time = |seconds, nanoseconds: u64| Timespec { tv_sec: seconds, tv_nsec: nanoseconds as i64 };
    Timestamps {
        last_access: time(original.st_atime, original.st_atime_nsec),
        last_modification: time(original.st_mtime, original.st_mtime_nsec),
    }
}

/// Opens the directory that a path-only descriptor refers to for work on its attributes.
fn reopen(directory: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    openat(directory, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}
