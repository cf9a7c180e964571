//! Removes what steps have left: a directory goes in, and is gone with everything in it.
//!
//! The standard library descends with one descriptor and one stack frame for each level, and a step can nest directories
//! until that ends the whole process. Here every directory is moved up to the top before it is emptied.

use std::{ffi::CStr, fs, io, os::fd::OwnedFd, path::Path};

use rustix::{
    fs::{AtFlags, CWD, Dir, Mode, OFlags, openat, renameat, unlinkat},
    io::Errno,
};

/// What begins the names of directories on their way out.
const MOVED: &str = "removed-";

/// Removes a directory of this process's own. Nothing outside is touched: everything goes by descriptors, and no link is
/// followed, not even one that a dying step puts in the place of a directory meanwhile.
pub(super) fn remove_all(path: &Path) -> io::Result<()> {
    let top = open(CWD, path)?;
    // First the whole list: what is renamed meanwhile could be listed again.
    let names = names(&top)?.collect::<Result<Vec<_>, _>>()?;
    // By number: a directory may hold millions. An earlier try may have left some.
    let used = names.iter().filter_map(|name| name.to_str().ok()?.strip_prefix(MOVED)?.parse::<u64>().ok());
    let (mut next, mut pending) = (used.max().map_or(0, |number| number + 1), Vec::new());
    let mut take = |directory: &OwnedFd, name: &CStr, pending: &mut Vec<u64>| {
        match unlinkat(directory, name, AtFlags::empty()) {
            Err(Errno::ISDIR) => {}
            done => return done,
        }
        renameat(directory, name, &top, moved(next))?;
        pending.push(next);
        next += 1;
        Ok(())
    };
    names.iter().try_for_each(|name| take(&top, name, &mut pending))?;
    while let Some(number) = pending.pop() {
        let directory = match open(&top, moved(number).as_ref()) {
            // It has become something else since it was looked at.
            Err(Errno::NOTDIR | Errno::LOOP) => {
                unlinkat(&top, moved(number), AtFlags::empty())?;
                continue;
            }
            directory => directory?,
        };
        for name in self::names(&directory)? {
            take(&directory, &name?, &mut pending)?;
        }
        unlinkat(&top, moved(number), AtFlags::REMOVEDIR)?;
    }
    fs::remove_dir(path)
}

fn moved(number: u64) -> String {
    format!("{MOVED}{number}")
}

fn open(parent: impl std::os::fd::AsFd, path: &Path) -> Result<OwnedFd, Errno> {
    openat(parent, path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
}

/// Lists a directory, without the two names that every directory has.
fn names(directory: &OwnedFd) -> io::Result<impl Iterator<Item = io::Result<std::ffi::CString>>> {
    let entries = Dir::read_from(directory)?.map(|entry| Ok(entry?.file_name().to_owned()));
    Ok(entries.filter(|name| !matches!(name, Ok(name) if [c".", c".."].contains(&name.as_c_str()))))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use rustix::fs::mkdirat;

    use super::*;

    #[test]
    fn a_tree_of_any_depth_is_removed_and_links_are_not_followed() {
        let parent = tempfile::tempdir().unwrap();
        let (top, kept) = (parent.path().join("top"), parent.path().join("kept"));
        fs::create_dir_all(top.join("a/b")).unwrap();
        fs::create_dir_all(top.join("removed-0/left")).unwrap();
        fs::create_dir_all(&kept).unwrap();
        fs::write(kept.join("file"), "").unwrap();
        symlink(&kept, top.join("a/b/link")).unwrap();
        fs::write(top.join("a/file"), "").unwrap();
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let mut current = openat(CWD, &top, flags, Mode::empty()).unwrap();
        for _ in 0..20_000 {
            mkdirat(&current, "d", Mode::RWXU).unwrap();
            current = openat(&current, "d", flags, Mode::empty()).unwrap();
        }
        remove_all(&top).unwrap();
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 1);
        assert!(kept.join("file").exists());
    }
}
