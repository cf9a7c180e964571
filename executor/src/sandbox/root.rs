//! The root that a step sees: the overlay with its own /proc, /dev, /sys and the two files of /etc that follow the Pod.
//!
//! Runs as PID 1 of the step's namespaces. Nothing of the executor's tree is mounted writable, and never the Pod's
//! `/dev`, which holds the container's termination log.

use std::{
    fs,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

use rustix::{
    fs::{FileType, Mode, OFlags, fstat, openat},
    io::{self, Errno},
    mount::{MountAttrFlags, MountPropagationFlags, UnmountFlags, mount_change, unmount},
    process::{chdir, fchdir, pivot_root},
    thread::UnshareFlags,
};

use super::{
    child, dev,
    error::{Failure, cannot},
    overlay::{Area, Upper, mounting, open_directory},
    place::{Leaf, Place, open},
    request::Step,
    requested, stubs,
    tree::{self, DEVICE, INERT},
};
use crate::filesystem::path::TreePath;

/// What tells more about the machine than a build should know.
const MASKED: [&str; 17] = [
    "proc/acpi",
    "proc/asound",
    "proc/interrupts",
    "proc/kcore",
    "proc/keys",
    "proc/kpagecgroup",
    "proc/kpagecount",
    "proc/kpageflags",
    "proc/latency_stats",
    "proc/sched_debug",
    "proc/scsi",
    "proc/slabinfo",
    "proc/timer_list",
    "proc/timer_stats",
    "proc/vmallocinfo",
    "sys/devices/virtual/powercap",
    "sys/firmware",
];

/// A file of the Pod's `/etc` that is larger than this is no resolver configuration: 1 MiB.
const ETC_FILE_BYTES_MAX: u64 = 1 << 20;

/// A detached mount and where it goes.
pub(super) struct Placement {
    pub(super) target: String,
    pub(super) leaf: Leaf,
    pub(super) tree: OwnedFd,
}

/// What is opened while the root is built, by descriptors that nothing in it can redirect.
pub(super) struct Entered {
    /// The working directory.
    pub working_directory: OwnedFd,
    /// The empty input of the step's process.
    pub input: OwnedFd,
}

/// Builds the root in a mount namespace of its own, enters it, and opens what the step's process starts with.
pub(super) fn enter(step: &Step) -> Result<Entered, Failure> {
    child::unshare(UnshareFlags::NEWNS).map_err(mounting("unshare the mount namespace"))?;
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .map_err(mounting("make all mounts private"))?;
    let area = Area::mount(&step.mount_point)?;
    let system = system_mounts(step, &area)?;
    let requested = requested::mounts(&step.mounts, &area)?;
    let targets: Vec<_> = system.iter().chain(&requested).map(|mount| (mount.target.clone(), mount.leaf)).collect();
    let root = mount_overlay(step, &area, &targets)?;
    for placement in &system {
        place(&root, placement)?;
    }
    guard(&root)?;
    let dev = open(root.as_fd(), b"dev").map_err(mounting("open /dev"))?;
    dev::fill(&dev, step.script.as_ref())?;
    // Before any mount that the step asks for: one at /dev could lead `null` to a file of the executor's own.
    let input = openat(&dev, "null", OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
        .map_err(cannot("open an empty input"))?;
    for placement in &requested {
        place(&root, placement)?;
    }
    let working_directory = Place::find(root.as_fd(), step.working_directory.as_bytes())
        .and_then(|place| place.make_owned(root.as_fd(), step.user.uid, step.user.gid))
        .map_err(cannot(format!("make the working directory {}", step.working_directory)))?;
    pivot(&root).map_err(mounting("pivot_root"))?;
    Ok(Entered { working_directory, input })
}

/// Mounts the step's overlay over a lower directory of stubs.
fn mount_overlay(step: &Step, area: &Area, targets: &[(String, Leaf)]) -> Result<OwnedFd, Failure> {
    let stubs = area.directory("stubs")?;
    let mut lowers: Vec<&Path> = step.lowers.iter().map(AsRef::as_ref).collect();
    // Read-only first, to see what the image has.
    let image = if lowers.is_empty() { open_directory(area.empty())? } else { area.overlay("image", &lowers, None)? };
    // What lies below a mount is made inside that mount.
    let uncovered = targets.iter().enumerate().filter(|(position, (target, _))| {
        let path = TreePath::clean(target.as_bytes());
        !targets[..*position].iter().any(|(above, _)| path.starts_with(&TreePath::clean(above.as_bytes())))
    });
    stubs::make(image.as_fd(), open_directory(&stubs)?.as_fd(), uncovered.map(|(_, target)| target.clone()))
        .map_err(cannot("make the mount points of the step"))?;
    stubs::copy_all_attributes(image.as_fd(), open_directory(&step.upper)?.as_fd())
        .map_err(cannot("give the upper directory the attributes of the image's root"))?;
    drop(image);
    if !step.lowers.is_empty() {
        area.unmount("image")?;
    }
    lowers.insert(0, &stubs);
    area.overlay("root", &lowers, Some(Upper { directory: &step.upper, work: &step.work }))
}

/// What every step gets. Order matters: parents first.
fn system_mounts(step: &Step, area: &Area) -> Result<Vec<Placement>, Failure> {
    let mut mounts = Vec::new();
    let mut add = |target: &str, leaf, tree| mounts.push(Placement { target: target.to_owned(), leaf, tree });
    // Read-only as a whole: the ids of a step are the Pod's own, so that modes do not stop it from writing to the machine's
    // settings, from changing the modes of files that all of the machine shares, or from making another process of the
    // Pod the first to be killed when memory runs out.
    let read_only = INERT | MountAttrFlags::MOUNT_ATTR_RDONLY;
    add("/proc", Leaf::Directory, proc(read_only).map_err(mounting("/proc"))?);
    let dev = tree::new("tmpfs", &[("mode", "0755"), ("size", "65536k")], MountAttrFlags::MOUNT_ATTR_NOSUID);
    add("/dev", Leaf::Directory, dev.map_err(mounting("/dev"))?);
    // Some platforms forbid any mount of sysfs; builds rarely look at it.
    match tree::copy_own("/sys") {
        Ok(sys) => {
            child::add_mount_attributes(sys.as_fd(), read_only).map_err(mounting("/sys read-only"))?;
            add("/sys", Leaf::Directory, sys);
        }
        Err(error) => tracing::debug!(%error, "the step has no /sys"),
    }
    // Copies: a step with uid 0 could write through a bind of the Pod's files, which the node's kubelet made.
    let etc = area.directory("etc")?;
    for (name, content) in
        [("resolv.conf", read_etc("/etc/resolv.conf")?), ("hosts", hosts(&step.hostname, &read_etc("/etc/hosts")?))]
    {
        fs::write(etc.join(name), content).map_err(cannot(format!("write {name}")))?;
        let file = rustix::fs::open(etc.join(name), OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
        let file = file.map_err(cannot(format!("open {name}")))?;
        let bind = tree::copy_with(file.as_fd(), read_only).map_err(mounting(format!("/etc/{name}")))?;
        add(&format!("/etc/{name}"), Leaf::File, bind);
    }
    Ok(mounts)
}

/// Makes a new /proc, or copies the Pod's where the container runtime has covered parts of it (`mount_too_revealing`).
fn proc(attributes: MountAttrFlags) -> std::io::Result<OwnedFd> {
    if let Ok(own) = tree::new("proc", &[], attributes) {
        return Ok(own);
    }
    let shared = tree::copy_own("/proc")?;
    child::add_mount_attributes(shared.as_fd(), attributes)?;
    Ok(shared)
}

fn read_etc(path: &str) -> Result<String, Failure> {
    match fs::metadata(path) {
        Ok(metadata) if metadata.len() > ETC_FILE_BYTES_MAX => {
            return Err(cannot(format!("read {path}"))("over 1 MiB"));
        }
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(String::new()),
        Err(error) => return Err(cannot(format!("read {path}"))(error)),
    }
    fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).map_err(cannot(format!("read {path}")))
}

/// The step's `/etc/hosts`: its own loopback names, then what the Pod's says about other addresses (`hostAliases`).
fn hosts(hostname: &str, pod: &str) -> String {
    let mut text = format!("127.0.0.1\tlocalhost {hostname}\n::1\tlocalhost ip6-localhost ip6-loopback\n");
    for line in pod.lines() {
        let address = line.split_ascii_whitespace().next().unwrap_or_default();
        if !address.is_empty() && !address.starts_with('#') && address != "::1" && !address.starts_with("127.") {
            text.push_str(line);
            text.push('\n');
        }
    }
    text
}

/// Attaches a mount at its target. A target inside another mount of the step is made there.
fn place(root: &OwnedFd, placement: &Placement) -> Result<(), Failure> {
    let target = &placement.target;
    let unusable = |reason: String| Failure::MountPoint { target: target.clone(), reason };
    let failed = |error: Errno| unusable(error.to_string());
    let place = Place::find(root.as_fd(), target.as_bytes()).map_err(failed)?;
    // What an image lacks is a stub by now: only a link in another mount leads to where a step's layer would have it.
    if place.is_missing_in(root.as_fd()).map_err(failed)? {
        return Err(unusable("a symbolic link leads out of the mount that it is in".into()));
    }
    let place = place.make(root.as_fd(), placement.leaf).map_err(failed)?;
    let is_directory = fstat(&place).map(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory);
    match (placement.leaf, is_directory.map_err(mounting(format!("look at {target}")))?) {
        (Leaf::Directory, false) => Err(unusable("a directory cannot be mounted over a file".into())),
        (Leaf::File, true) => Err(unusable("a file cannot be mounted over a directory".into())),
        _ => tree::attach(&placement.tree, place.as_fd()).map_err(mounting(format!("mount {target}"))),
    }
}

/// Hides parts of /proc and /sys.
fn guard(root: &OwnedFd) -> Result<(), Failure> {
    for path in MASKED {
        let place = match open(root.as_fd(), path.as_bytes()) {
            Ok(place) => place,
            Err(Errno::NOENT | Errno::ACCESS) => continue,
            Err(error) => return Err(mounting(format!("open /{path}"))(error)),
        };
        hide(place.as_fd()).map_err(mounting(format!("hide /{path}")))?;
    }
    Ok(())
}

/// Covers a directory by an empty one, a file by /dev/null.
fn hide(place: BorrowedFd<'_>) -> std::io::Result<()> {
    let cover = if FileType::from_raw_mode(fstat(place)?.st_mode) == FileType::Directory {
        tree::new("tmpfs", &[("size", "4k"), ("mode", "0555")], INERT | MountAttrFlags::MOUNT_ATTR_RDONLY)?
    } else {
        let null = tree::copy_own("/dev/null")?;
        child::add_mount_attributes(null.as_fd(), DEVICE)?;
        null
    };
    Ok(tree::attach(&cover, place)?)
}

/// Makes the overlay the root of this mount namespace and lets go of everything else.
fn pivot(root: &OwnedFd) -> io::Result<()> {
    fchdir(root)?;
    pivot_root(".", ".")?;
    // The old root now lies over the new one, and "." is the old one.
    unmount(".", UnmountFlags::DETACH)?;
    chdir("/")
}

#[cfg(test)]
mod tests {
    use super::hosts;

    #[track_caller]
    fn check(pod: &str, expected_tail: &str) {
        let own = "127.0.0.1\tlocalhost builder\n::1\tlocalhost ip6-localhost ip6-loopback\n";
        assert_eq!(hosts("builder", pod), format!("{own}{expected_tail}"));
    }

    #[test]
    fn the_pods_other_entries_are_kept() {
        check("", "");
        check("# Kubernetes-managed\n127.0.0.1 localhost\n::1 localhost\n", "");
        check("10.1.2.3\tpod-a\n\n10.9.9.9 alias", "10.1.2.3\tpod-a\n10.9.9.9 alias\n");
    }
}
