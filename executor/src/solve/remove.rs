//! Removes what steps have left: a directory goes in, and is gone with everything in it.
//!
//! The standard library descends with one descriptor and one stack frame for each level, and a step can nest directories
//! until that ends the whole process. Here every directory is moved up to the top before it is emptied.

use std::{fs, io, path::Path};

/// What begins the names of directories on their way out.
const MOVED: &str = "removed-";

/// Removes a directory of this process's own. Nothing outside is touched: no link is followed.
pub(super) fn remove_all(top: &Path) -> io::Result<()> {
    // First the whole list: what is renamed meanwhile could be listed again.
    let entries: Vec<_> = fs::read_dir(top)?.collect::<Result<_, _>>()?;
    // By number: a directory may hold millions. An earlier try may have left some.
    let used = entries.iter().filter_map(|entry| entry.file_name().to_str()?.strip_prefix(MOVED)?.parse::<u64>().ok());
    let (mut next, mut pending) = (used.max().map_or(0, |number| number + 1), Vec::new());
    let moved = |number: u64| top.join(format!("{MOVED}{number}"));
    let mut take = |entry: &fs::DirEntry, pending: &mut Vec<u64>| {
        if !entry.file_type()?.is_dir() {
            return fs::remove_file(entry.path());
        }
        fs::rename(entry.path(), moved(next))?;
        pending.push(next);
        next += 1;
        Ok(())
    };
    entries.iter().try_for_each(|entry| take(entry, &mut pending))?;
    while let Some(number) = pending.pop() {
        for entry in fs::read_dir(moved(number))? {
            take(&entry?, &mut pending)?;
        }
        fs::remove_dir(moved(number))?;
    }
    fs::remove_dir(top)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use rustix::fs::{CWD, Mode, OFlags, mkdirat, openat};

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
