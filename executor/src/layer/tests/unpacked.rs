//! Unpacking into a directory and reading it back with GNU tar and the standard library. Owners, devices and capabilities
//! need root: without it those assertions are skipped, and the tests say so.

use std::{
    fs::{self, File},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::{
            ffi::OsStrExt,
            fs::{FileTypeExt, MetadataExt},
        },
    },
};

use rustix::fs::lgetxattr;

use super::*;
use crate::{
    filesystem::{entry::Device, index::Index, view::View},
    image::digest::Digest,
    layer::{
        changes::{changes, directories},
        error::Problem,
        unpack::{Contents, UnpackLayer, Warning, unpack_overlay},
    },
};

pub(super) fn unpackable<'a>(blob: &'a Path, compression: Compression, index: &Index) -> UnpackLayer<'a> {
    UnpackLayer { blob, compression, contents: Contents::of(index) }
}

/// Unpacks one layer.
pub(super) fn unpack(root: &Path, layer: UnpackLayer<'_>, index: &Index) -> Result<Vec<Warning>, LayerError> {
    let mut view = View::empty();
    view.apply(&index.changes)?;
    unpack_overlay(File::open(root).unwrap().as_fd(), &View::empty(), &view, &[layer], 1)
}

#[expect(clippy::print_stdout, reason = "the test harness shows what a test printed, and this is what it is for")]
pub(super) fn skip(reason: &str, skipped: &str) {
    println!("skipped, {reason}: {skipped}");
}

pub(super) fn is_root(skipped: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        skip("not root", skipped);
    }
    root
}

/// Layers in a folder, and a root to unpack them into.
pub(super) struct Stack {
    pub(super) folder: tempfile::TempDir,
    pub(super) layers: Vec<Written>,
}

impl Stack {
    #[track_caller]
    pub(super) fn new(layers: &[Vec<Change>]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let layers = layers.iter().enumerate();
        let layers = layers
            .map(|(number, changes)| {
                write_to(&folder.path().join(format!("{number}.blob")), changes, Compression::Gzip)
            })
            .collect();
        let stack = Self { folder, layers };
        fs::create_dir(stack.root()).unwrap();
        stack
    }

    pub(super) fn root(&self) -> std::path::PathBuf {
        self.folder.path().join("root")
    }

    pub(super) fn unpack_layers(&self) -> Vec<UnpackLayer<'_>> {
        self.layers.iter().map(|Written { layer, index }| unpackable(&layer.blob, layer.compression, index)).collect()
    }

    pub(super) fn unpack(&self) -> Result<Vec<Warning>, LayerError> {
        unpack_overlay(File::open(self.root()).unwrap().as_fd(), &View::empty(), &self.view(), &self.unpack_layers(), 2)
    }

    pub(super) fn view(&self) -> View {
        let mut view = View::empty();
        for written in &self.layers {
            view.apply(&written.index.changes).unwrap();
        }
        view
    }
}

/// What the unpacked directory holds, as changes on nothing: the walk that reads an overlay's upper directory sees it all.
#[track_caller]
pub(super) fn read_back(root: &Path) -> View {
    let directory = File::open(root).unwrap();
    let mut changes = changes(directory.as_fd(), &View::empty(), &[]).unwrap();
    for change in &mut changes {
        if let Action::Put(_, Kind::File(content)) = &mut change.action {
            let bytes = fs::read(root.join(std::ffi::OsStr::from_bytes(change.path.as_bytes()))).unwrap();
            content.digest = Some(Digest::of(&bytes));
            content.location = Location::Inline(bytes.into());
        }
    }
    let mut view = View::empty();
    view.apply(&changes).unwrap();
    view
}

/// A view as text, without the places of bytes.
pub(super) fn listing(view: &View) -> String {
    let describe = |change: Change| {
        let what = match change.action {
            Action::Put(metadata, kind) => {
                let kind = match kind {
                    Kind::File(content) => format!("{} {:?}", content.size, content.digest),
                    kind => format!("{kind:?}"),
                };
                let Metadata { mode, uid, gid, mtime, xattrs } = metadata;
                format!("{mode:04o} {uid}:{gid} {mtime} {xattrs:?} {kind}")
            }
            action => format!("{action:?}"),
        };
        format!("{} {what}\n", change.path)
    };
    view.changes().into_iter().map(describe).collect()
}

#[track_caller]
fn check(layers: &[Vec<Change>]) {
    if !is_root("unpacking with owners") {
        return;
    }
    let stack = Stack::new(layers);
    assert_eq!(stack.unpack().unwrap(), []);
    assert_eq!(listing(&read_back(&stack.root())), listing(&stack.view()));
}

pub(super) fn put_as(text: &str, mode: u32, uid: u32, gid: u32, xattrs: Vec<Xattr>, kind: Kind) -> Change {
    let metadata = Metadata { mode, uid, gid, mtime: 1_600_000_000, xattrs };
    Change { path: path(text), action: Action::Put(metadata, kind) }
}

pub(super) fn capability() -> Xattr {
    xattr("security.capability", &[1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])
}

fn base() -> Vec<Change> {
    vec![
        put_as("", 0o711, 0, 0, vec![], Kind::Directory),
        put_as("bin", 0o755, 0, 0, vec![], Kind::Directory),
        put_as("bin/ping", 0o755, 0, 0, vec![capability(), xattr("user.note", b"\0\n")], content(b"ping")),
        put_as("bin/sudo", 0o6755, 0, 42, vec![], content(b"sudo")),
        act("bin/sudoedit", Action::HardLink(path("bin/sudo"))),
        put_as("closed", 0o000, 1, 2, vec![], Kind::Directory),
        put_as("closed/a", 0o000, 1000, 1000, vec![], content(&noise(MIB))),
        put_as("closed/b", 0o000, 1000, 1000, vec![], Kind::Directory),
        put_as("closed/b/c", 0o644, 0, 0, vec![], content(b"c")),
        put_as("etc/passwd", 0o644, 0, 0, vec![], content(b"root:x:0:0::/:/bin/sh\n")),
        put_as("fifo", 0o640, 3, 4, vec![], Kind::Fifo),
        symlink("lib", "usr/lib"),
        put_as("null", 0o666, 0, 0, vec![], Kind::CharacterDevice(Device { major: 1, minor: 3 })),
        put_as("tmp", 0o1777, 0, 0, vec![xattr("user.dir", b"1")], Kind::Directory),
        directory("usr/lib"),
        file("usr/lib/libc.so", b"libc"),
    ]
}

#[test]
fn one_layer_is_unpacked_as_it_was_written() {
    check(&[base()]);
    let odd = Change {
        path: TreePath::clean(b"odd/\xff\xfe\n\"' \x7f"),
        action: Action::Put(metadata(0o644), content(b"o")),
    };
    check(&[vec![odd]]);
    check(&[]);
}

#[test]
fn each_path_is_written_by_the_layer_that_wins_it() {
    let upper = vec![
        act("bin", Action::Opaque),
        file("bin/new", b"new"),
        act("closed/a", Action::Whiteout),
        file("closed/b", b"was a directory"),
        directory("fifo"),
        file("fifo/below", b"was a fifo"),
        file("usr/lib/libc.so", b"libc 2"),
        act("usr/lib/libc.so.6", Action::HardLink(path("usr/lib/libc.so"))),
    ];
    let mut top = vec![directory("bin"), file("bin/new", b"newer"), act("tmp", Action::Whiteout)];
    top.sort_by(|one, other| one.path.cmp(&other.path));
    check(&[base(), upper, top.clone()]);
    check(&[top.clone(), top]);
}

#[test]
fn gnu_tar_packs_what_we_unpacked_into_the_same_entries() {
    if !is_root("unpacking with owners") {
        return;
    }
    let stack = Stack::new(&[base()]);
    stack.unpack().unwrap();
    let tar = std::process::Command::new("tar")
        .args(["--format=pax", "--sort=name", "--xattrs", "--xattrs-include=*", "-c", "-C"])
        .arg(stack.root())
        .arg(".")
        .output()
        .unwrap();
    assert!(tar.status.success(), "{}", String::from_utf8_lossy(&tar.stderr));
    let mut view = View::empty();
    view.apply(&index_of(&tar.stdout).unwrap().changes).unwrap();
    // GNU tar writes directory times to the nanosecond, we to the second.
    assert_eq!(listing(&view), listing(&stack.view()));
}

#[test]
fn hostile_layers_stay_inside_the_root() {
    let outside = tempfile::tempdir().unwrap();
    let target = outside.path().to_str().unwrap();
    for script in [
        format!("add('out',b'2',linkname='{target}');add('out/file',data=b'x')"),
        format!("add('out',b'2',linkname='../../../../../../../../{target}');add('out/file',data=b'x')"),
        format!("add('a',b'2',linkname='{target}/file');add('a',data=b'x')"),
        format!("add('a/b',b'2',linkname='{target}');add('a/b/../b/file',data=b'x')"),
        "add('../../../../../../../../tmp/karve-escaped',data=b'x')".to_owned(),
        "add('passwd',b'1',linkname='../../../../../../../../etc/passwd')".to_owned(),
        format!("add('l',b'2',linkname='{target}/file');add('h',b'1',linkname='l');add('h',data=b'x')"),
    ] {
        let tar = python_tar(&script);
        let folder = tempfile::tempdir().unwrap();
        let [blob, root] = ["blob", "root"].map(|name| folder.path().join(name));
        fs::write(&blob, &tar).unwrap();
        fs::create_dir(&root).unwrap();
        let index = index_of(&tar).unwrap();
        let result = unpack(&root, unpackable(&blob, Compression::None, &index), &index);
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0, "{script}: {result:?}");
        assert!(!Path::new("/tmp/karve-escaped").exists());
        assert!(fs::symlink_metadata(root.join("passwd")).is_err());
    }
}

#[test]
fn overlay_attributes_of_an_image_are_never_orders() {
    if !is_root("trusted attributes") {
        return;
    }
    let xattrs = vec![xattr("trusted.overlay.opaque", b"y"), xattr("user.overlay.opaque", b"y")];
    let stack = Stack::new(&[vec![put_as("d", 0o755, 0, 0, xattrs.clone(), Kind::Directory)]]);
    let warning = Warning::Attribute { path: path("d"), name: "trusted.overlay.opaque".into() };
    assert_eq!(stack.unpack().unwrap(), [warning]);
    let stored = |name: &str| lgetxattr(stack.root().join("d"), name, &mut [0; 8][..]).ok();
    assert_eq!(stored("user.overlay.opaque"), None);
    assert_eq!(stored("trusted.overlay.opaque"), None);
    assert_eq!(stored("user.overlay.overlay.opaque"), Some(1));
    let node = read_back(&stack.root());
    assert_eq!(node.get(&path("d")).unwrap().metadata().xattrs, xattrs[1..]);
}

#[test]
fn a_device_that_an_overlay_takes_for_a_deletion_is_left_out_with_its_links() {
    let device = put("device", 0o600, Kind::CharacterDevice(Device { major: 0, minor: 0 }));
    let stack = Stack::new(&[vec![device, act("link", Action::HardLink(path("device")))]]);
    assert_eq!(stack.unpack().unwrap(), [Warning::Device { path: path("device") }]);
    assert_eq!(fs::read_dir(stack.root()).unwrap().count(), 0);
}

#[test]
fn a_blob_that_is_not_the_layer_of_its_index_is_an_error() {
    let stack = Stack::new(&[vec![file("a", b"A")], vec![file("a", b"B")]]);
    let wrong = UnpackLayer { blob: &stack.layers[1].layer.blob, ..stack.unpack_layers().remove(0) };
    let result = unpack(&stack.root(), wrong, &stack.layers[0].index);
    let [expected, found] = [0, 1].map(|number: usize| stack.layers[number].layer.diff_id.clone());
    match result {
        Err(LayerError::WrongLayer { expected: one, found: other }) => assert_eq!((one, other), (expected, found)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_file_that_no_layer_has_is_an_error_that_names_it() {
    let mut index = Index { diff_id: Digest::of(b""), changes: vec![file("a", b"A")] };
    if let Action::Put(_, Kind::File(content)) = &mut index.changes[0].action {
        content.location = Location::Layer(Digest::of(b"elsewhere"), path("a"));
    }
    let root = tempfile::tempdir().unwrap();
    match unpack(root.path(), unpackable(Path::new("/nowhere"), Compression::None, &index), &index) {
        Err(LayerError::Entry { path: at, problem: Problem::NotInLayer }) => assert_eq!(at, path("a")),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_path_that_a_layer_repeats_gives_each_name_its_own_content() {
    let tar = python_tar(
        "add('a',data=b'first');add('b',b'1',linkname='a');add('a',data=b'second');add('c',b'1',linkname='a')",
    );
    let folder = tempfile::tempdir().unwrap();
    let [blob, root] = ["blob", "root"].map(|name| folder.path().join(name));
    fs::write(&blob, &tar).unwrap();
    fs::create_dir(&root).unwrap();
    let index = index_of(&tar).unwrap();
    unpack(&root, unpackable(&blob, Compression::None, &index), &index).unwrap();
    assert_eq!(["a", "b", "c"].map(|name| fs::read_to_string(root.join(name)).unwrap()), ["second", "first", "second"]);
    assert_eq!(fs::metadata(root.join("a")).unwrap().ino(), fs::metadata(root.join("c")).unwrap().ino());
}

#[test]
fn an_overlay_layer_holds_the_difference_alone() {
    if !is_root("unpacking with owners") {
        return;
    }
    let stack = Stack::new(&[base(), vec![file("bin/new", b"new"), act("null", Action::Whiteout)]]);
    let mut below = View::empty();
    below.apply(&stack.layers[0].index.changes).unwrap();
    let directory = File::open(stack.root()).unwrap();
    unpack_overlay(directory.as_fd(), &below, &stack.view(), &stack.unpack_layers(), 2).unwrap();
    let mut names: Vec<_> = fs::read_dir(stack.root()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["bin", "null"]);
    assert!(fs::metadata(stack.root().join("null")).unwrap().file_type().is_char_device());
    assert_eq!(fs::read_dir(stack.root().join("bin")).unwrap().count(), 1);
    // Read back as an upper directory, it gives the layer again.
    let found = changes(directory.as_fd(), &below, &[]).unwrap();
    let paths: Vec<_> = found.iter().map(|change| change.path.to_string()).collect();
    assert_eq!(paths, ["/bin", "/bin/new", "/null"]);
}

#[test]
fn a_file_that_is_larger_than_its_index_says_is_not_unpacked() {
    let mut stack = Stack::new(&[vec![file("a", b"content")]]);
    let Action::Put(_, Kind::File(content)) = &mut stack.layers[0].index.changes[0].action else {
        panic!("a file is a file")
    };
    content.size = 1;
    let error = stack.unpack().unwrap_err();
    assert!(matches!(error, LayerError::Entry { problem: Problem::NotInLayer, .. }), "{error}");
}

/// What the view has in the directories of an upper directory.
pub(super) fn part(upper: BorrowedFd<'_>, below: &View) -> View {
    let mut part = View::empty();
    part.apply(&below.part(&directories(upper).unwrap())).unwrap();
    part
}
