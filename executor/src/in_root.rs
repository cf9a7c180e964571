//! A directory and a path come in, and what lies there when the directory is `/` comes out.

use std::os::fd::{AsFd, OwnedFd};

use rustix::{
    fs::{Mode, OFlags, ResolveFlags, openat2},
    io::Errno,
};

/// How often the kernel is asked again. It gives up on `..` whenever something is renamed or mounted meanwhile, anywhere
/// (openat2(2), EAGAIN): somebody who renames without end must not hold a build up without end.
const TRIES_MAX: usize = 1000;

/// Opens a path below a directory as if the directory were `/`: links are followed, and none leads out of it.
pub(crate) fn open_in_root(root: impl AsFd, path: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
    let path = if path.is_empty() { "." } else { path };
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let mut tries = 1;
    loop {
        match openat2(&root, path, flags, Mode::empty(), resolve) {
            Err(Errno::AGAIN) if tries < TRIES_MAX => tries += 1,
            opened => return opened,
        }
    }
}
