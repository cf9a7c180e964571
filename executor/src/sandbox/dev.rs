//! What a step finds in `/dev`: an empty tmpfs comes in, and leaves with devices, terminals and shared memory of its own.
//!
//! Never a bind of the Pod's `/dev`: only single devices of it.

use std::{
    fs::File,
    io::Write,
    os::fd::{AsFd, OwnedFd},
};

use rustix::{
    fs::{Mode, OFlags, mkdirat, openat, symlinkat},
    io::Errno,
    mount::MountAttrFlags,
};

use super::{
    child,
    error::{Failure, cannot},
    overlay::mounting,
    place::{Leaf, make_child},
    request::Script,
    tree::{self, DEVICE, INERT},
};

/// Device nodes that a step gets, bound one by one from the Pod's `/dev`.
const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];

/// Links that every `/dev` has.
const DEVICE_LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];

/// Fills an empty tmpfs that is mounted as /dev: devices, links, terminals, shared memory, message queues, and the script of a heredoc.
pub(super) fn fill(dev: &OwnedFd, script: Option<&Script>) -> Result<(), Failure> {
    for name in DEVICES {
        let Ok(device) = tree::copy_own(&format!("/dev/{name}")) else {
            tracing::debug!(name, "the Pod lacks a device");
            continue;
        };
        child::add_mount_attributes(device.as_fd(), DEVICE)
            .and_then(|()| Ok(make_child(dev.as_fd(), name.as_bytes(), Leaf::File)?))
            .and_then(|place| Ok(tree::attach(&device, place.as_fd())?))
            .map_err(mounting(format!("/dev/{name}")))?;
    }
    for (name, target) in DEVICE_LINKS {
        symlinkat(target, dev, name).map_err(mounting(format!("/dev/{name}")))?;
    }
    let terminals = |options: &[(&str, &str)]| {
        let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
        tree::new("devpts", options, attributes)
    };
    // Group 5 is `tty` in every distribution; a Pod with few ids may lack it.
    let pts = terminals(&[("ptmxmode", "0666"), ("mode", "0620"), ("gid", "5")])
        .or_else(|_| terminals(&[("ptmxmode", "0666"), ("mode", "0620")]));
    for (name, made) in [
        ("pts", pts),
        ("shm", tree::new("tmpfs", &[("mode", "1777"), ("size", "65536k")], INERT)),
        ("mqueue", tree::new("mqueue", &[], INERT)),
    ] {
        made.and_then(|tree| tree::attach(&tree, make_child(dev.as_fd(), name.as_bytes(), Leaf::Directory)?.as_fd()))
            .map_err(mounting(format!("/dev/{name}")))?;
    }
    script.map_or(Ok(()), |script| write_script(dev, script).map_err(cannot("place the script of the step")))
}

fn write_script(dev: &OwnedFd, script: &Script) -> std::io::Result<()> {
    if script.name.contains('/') {
        return Err(Errno::INVAL.into());
    }
    mkdirat(dev, "pipes", Mode::from_raw_mode(0o755))?;
    let pipes = openat(dev, "pipes", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
    let file = openat(&pipes, script.name.as_str(), flags, Mode::from_raw_mode(0o755))?;
    File::from(file).write_all(&script.content)
}
