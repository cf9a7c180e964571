//! Directories packed and unpacked again: what is the same, what counts as a change, and what a bound leaves out.

use std::{
    fs::{self, File, Permissions},
    os::{
        fd::AsFd,
        unix::fs::{MetadataExt, PermissionsExt, symlink},
    },
    path::PathBuf,
};

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, XattrFlags, setxattr, utimensat};

use super::{
    unpacked::{is_root, skip, unpack, unpackable},
    *,
};
use crate::layer::{
    pack::{PackOptions, Packed, pack},
    trim::Omitted,
};

/// Something that is done to a directory.
type Edit<'a> = &'a dyn Fn(&Folder, PathBuf);

/// A directory with a file of each kind, all of a fixed time.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        let root = folder.path("root");
        fs::create_dir_all(root.join("d/empty")).unwrap();
        fs::write(root.join("d/one"), "one").unwrap();
        fs::hard_link(root.join("d/one"), root.join("two")).unwrap();
        fs::write(root.join("d/program"), "program").unwrap();
        fs::set_permissions(root.join("d/program"), Permissions::from_mode(0o4751)).unwrap();
        symlink("d/one", root.join("link")).unwrap();
        for name in ["d/one", "d/program", "link"] {
            folder.set_times(name, 100, 100);
        }
        folder
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn set_times(&self, name: &str, read: i64, written: i64) {
        let time = |seconds| Timespec { tv_sec: seconds, tv_nsec: 0 };
        let times = Timestamps { last_access: time(read), last_modification: time(written) };
        utimensat(CWD, self.path("root").join(name), &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
    }

    fn pack(&self, root: &str, before: &[Change], content_max: u64) -> Option<Packed> {
        let options = PackOptions { before, content_max, compression: Compression::Zstd, threads: 1 };
        pack(File::open(self.path(root)).unwrap().as_fd(), &self.path("blob"), &options).unwrap()
    }

    fn unpack(&self, packed: &Packed, root: &str) {
        fs::create_dir(self.path(root)).unwrap();
        let Packed { layer, index, .. } = packed;
        unpack(&self.path(root), unpackable(&layer.blob, layer.compression, index), index).unwrap();
    }
}

fn paths(packed: &Packed) -> Vec<String> {
    packed.index.changes.iter().map(|change| change.path.to_string()).collect()
}

#[test]
fn what_is_packed_is_unpacked_and_then_unchanged() {
    let folder = Folder::new();
    let root = folder.path("root");
    setxattr(root.join("d/one"), "user.note", b"x", XattrFlags::empty()).unwrap();
    fs::set_permissions(&root, Permissions::from_mode(0o1777)).unwrap();
    if is_root("owners and capabilities") {
        std::os::unix::fs::lchown(root.join("link"), Some(5), Some(6)).unwrap();
        std::os::unix::fs::chown(root.join("d/one"), Some(7), Some(8)).unwrap();
        let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        match setxattr(root.join("d/one"), "security.capability", &capability, XattrFlags::empty()) {
            Ok(()) => {}
            Err(error) => skip(&error.to_string(), "file capabilities"),
        }
    }
    let packed = folder.pack("root", &[], 1 << 20).unwrap();
    assert_eq!(paths(&packed), ["/", "/d", "/d/empty", "/d/one", "/d/program", "/link", "/two"]);
    assert_eq!((packed.content, packed.omitted), (10, Omitted::default()));
    folder.unpack(&packed, "again");
    assert!(folder.pack("again", &packed.index.changes, 1 << 20).is_none());
    let again = folder.path("again");
    let [one, two] = ["d/one", "two"].map(|name| fs::metadata(again.join(name)).unwrap());
    assert_eq!((one.ino(), one.nlink(), one.mtime()), (two.ino(), 2, 100));
    assert_eq!(fs::metadata(again.join("d/program")).unwrap().mode() & 0o7777, 0o4751);
}

#[test]
fn every_difference_but_the_time_of_a_directory_is_a_change() {
    let change = |what: Edit<'_>| {
        let folder = Folder::new();
        let packed = folder.pack("root", &[], 1 << 20).unwrap();
        what(&folder, folder.path("root"));
        folder.pack("root", &packed.index.changes, 1 << 20).map(|packed| paths(&packed))
    };
    assert_eq!(change(&|_, _| ()), None);
    assert_eq!(change(&|folder, _| folder.set_times("d", 7, 7)), None);
    assert_eq!(
        change(&|_, root| fs::write(root.join("x"), "").and_then(|()| fs::remove_file(root.join("x"))).unwrap()),
        None
    );
    assert_eq!(change(&|folder, _| folder.set_times("d/one", 999, 100)), None);
    // The same size at the same time: only reading tells.
    let rewrite = |folder: &Folder, root: PathBuf| {
        fs::write(root.join("d/one"), "eno").unwrap();
        folder.set_times("d/one", 100, 100);
    };
    let changes: [Edit<'_>; 8] = [
        &rewrite,
        &|folder, _| folder.set_times("d/one", 100, 101),
        &|_, root| fs::remove_file(root.join("two")).unwrap(),
        &|_, root| fs::create_dir(root.join("new")).unwrap(),
        &|_, root| fs::set_permissions(root.join("d/one"), Permissions::from_mode(0o600)).unwrap(),
        &|_, root| fs::set_permissions(root.join("d/empty"), Permissions::from_mode(0o700)).unwrap(),
        &|_, root| fs::rename(root.join("d/empty"), root.join("d/void")).unwrap(),
        &|_, root| setxattr(root.join("d"), "user.note", b"x", XattrFlags::empty()).unwrap(),
    ];
    for (number, what) in changes.iter().enumerate() {
        assert!(change(what).is_some(), "{number}");
    }
}

#[test]
fn what_a_layer_cannot_hold_is_named() {
    let folder = Folder::new();
    fs::write(folder.path("root/d/.wh.one"), "").unwrap();
    let options = PackOptions { before: &[], content_max: 1 << 20, compression: Compression::Zstd, threads: 1 };
    let error = pack(File::open(folder.path("root")).unwrap().as_fd(), &folder.path("blob"), &options).unwrap_err();
    assert!(error.to_string().contains("`/d/.wh.one` uses a name beginning with `.wh.`"), "{error}");
    assert!(!folder.path("blob").exists());
}

#[test]
fn an_empty_directory_is_no_news_but_one_that_was_emptied_is() {
    let folder = Folder::new();
    fs::create_dir(folder.path("new")).unwrap();
    fs::set_permissions(folder.path("new"), Permissions::from_mode(0o755)).unwrap();
    let owner = fs::metadata(folder.path("new")).unwrap();
    if (owner.uid(), owner.gid()) == (0, 0) {
        assert!(folder.pack("new", &[], 1 << 20).is_none());
    }
    let before = folder.pack("root", &[], 1 << 20).unwrap().index.changes;
    assert!(!folder.pack("new", &before, 1 << 20).unwrap().index.changes.iter().any(|change| !change.path.is_root()));
}

#[test]
fn what_does_not_fit_goes_by_the_time_of_its_last_use() {
    let trimmed = |content_max| {
        let folder = Folder::new();
        for name in ["old", "read", "written"] {
            fs::write(folder.path("root").join(name), "12345").unwrap();
        }
        let times =
            [("old", 10, 10), ("read", 500, 20), ("written", 20, 400), ("d/one", 450, 100), ("d/program", 30, 30)];
        for (name, read, written) in times {
            folder.set_times(name, read, written);
        }
        folder.pack("root", &[], content_max).unwrap()
    };
    assert_eq!(trimmed(25).omitted, Omitted::default());
    let packed = trimmed(13);
    assert_eq!(packed.omitted, Omitted { files: 2, bytes: 12 });
    assert_eq!(paths(&packed), ["/d", "/d/empty", "/d/one", "/link", "/read", "/two", "/written"]);
    assert_eq!(paths(&trimmed(5)), ["/d", "/d/empty", "/link", "/read"]);
}
