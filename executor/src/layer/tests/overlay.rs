//! Upper directories, first made by hand and then by a real overlay in namespaces of its own. The real one is skipped, and
//! the test says so, where `unshare` may not make them.

use std::{fs, os::fd::AsFd, process::Command};

use super::{
    unpacked::{Stack, is_root, part, skip},
    *,
};
use crate::{
    filesystem::view::{Node, View},
    layer::{
        changes::{changes, open as open_upper},
        unpack::prepare_upper,
    },
};

fn described(changes: &[Change]) -> Vec<String> {
    let describe = |change: &Change| match &change.action {
        Action::Put(_, Kind::File(content)) => format!("{} {}", change.path, content.size),
        Action::Put(_, kind) => format!("{} {kind:?}", change.path),
        action => format!("{} {action:?}", change.path),
    };
    changes.iter().map(describe).collect()
}

/// Runs a script on an overlay above the unpacked layers, and compares what changed.
#[track_caller]
fn check(layers: &[Vec<Change>], script: &str, expected: &[&str]) {
    if !is_root("overlay mounts") {
        return;
    }
    let stack = Stack::new(layers);
    stack.unpack().unwrap();
    let folder = stack.folder.path();
    for name in ["upper", "work", "merged"] {
        fs::create_dir(folder.join(name)).unwrap();
    }
    let upper = open(&folder.join("upper"));
    prepare_upper(upper.as_fd(), &stack.view()).unwrap();
    // A tmpfs is an upper directory on any machine; the changes are copied out of it, since it ends with the namespace.
    let mount = "set -eu; mount -t tmpfs tmpfs work; mkdir work/upper work/work; \
        tar -C upper -c . | tar -C work/upper -xp; \
        mount -t overlay -o userxattr,lowerdir=root,upperdir=work/upper,workdir=work/work overlay merged";
    let pack =
        "tar --format=pax --sort=name --xattrs --xattrs-include='user.*' --xattrs-include='security.capability' -c";
    let copy = format!(
        "cd ..; {pack} -C merged . > merged.tar; umount merged; \
         {pack} -C work/upper . | tar --xattrs --xattrs-include='*' -C upper -xp"
    );
    let script = format!("{mount}\numask 022; cd merged\n{script}\n{copy}\n");
    let run = Command::new("unshare").args(["-Urm", "sh", "-c", &script]).current_dir(folder).output().unwrap();
    if !run.status.success() && String::from_utf8_lossy(&run.stderr).contains("unshare") {
        skip("no namespaces", "overlay mounts");
        return;
    }
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));

    let below = stack.view();
    let stubs = [path("stub"), path("stubs")];
    let found = changes(upper.as_fd(), &below, &stubs).unwrap();
    assert_eq!(described(&found), expected);
    assert_eq!(changes(upper.as_fd(), &part(upper.as_fd(), &below), &stubs).unwrap(), found);

    // The layer, laid over what is below, is what the step saw.
    let blob = folder.join("step.blob");
    let written = write(found, &mut |at| open_upper(upper.as_fd(), at), &blob, &options(Compression::Gzip, 1)).unwrap();
    assert_eq!(crate::layer::read::index(open(&blob), Compression::Gzip).unwrap(), written.index);
    let mut above = below;
    above.apply(&written.index.changes).unwrap();
    let mut seen = View::empty();
    seen.apply(&index_of(&fs::read(folder.join("merged.tar")).unwrap()).unwrap().changes).unwrap();
    assert_eq!(entries(&above), entries(&seen));
}

/// Every path with what can be seen of it, but for the stubs, the times of directories and which names are one file:
/// overlayfs shows links to a lower file as files of their own until it is mounted again.
fn entries(view: &View) -> Vec<String> {
    let walk = view.walk(&TreePath::ROOT).filter(|(at, _)| !at.as_bytes().starts_with(b"stub"));
    let describe = |(at, node): (TreePath, &Node)| {
        let Metadata { mode, uid, gid, mtime, xattrs } = node.metadata();
        let mtime = if node.is_directory() { &0 } else { mtime };
        let digest = node.content().map(|content| content.digest.clone());
        format!("{at} {mode:o} {uid} {gid} {mtime} {xattrs:?} {digest:?} {:?}", node.symlink_target())
    };
    walk.map(describe).collect()
}

fn lower() -> Vec<Change> {
    vec![
        directory("d"),
        file("d/a", b"a"),
        file("d/b", b"b"),
        directory("d/e"),
        file("d/e/f", b"f"),
        symlink("s", "same"),
        file("same", b"same"),
    ]
}

#[test]
fn nothing_done_is_no_change() {
    check(&[lower()], "true", &[]);
}

#[test]
fn copied_up_and_unchanged_is_no_change() {
    check(&[lower()], "chmod 600 same; chmod 644 same; chmod 700 d/e; chmod 755 d/e; touch x; rm x", &[]);
}

#[test]
fn additions_and_their_parents_are_entries() {
    check(
        &[lower()],
        "echo new > d/e/new; mkdir -p n/o; ln -s x n/o/l; mkfifo n/p; ln d/e/new d/linked",
        &[
            "/d Directory",
            "/d/e Directory",
            "/d/e/new 4",
            "/d/linked HardLink(/d/e/new)",
            "/n Directory",
            "/n/o Directory",
            "/n/o/l Symlink([120])",
            "/n/p Fifo",
        ],
    );
}

#[test]
fn deletions_are_names_that_the_lower_view_has() {
    check(&[lower()], "rm d/a; rm -r d/e; echo x > t; rm t", &["/d Directory", "/d/a Whiteout", "/d/e Whiteout"]);
}

#[test]
fn a_directory_made_anew_deletes_what_it_lacks_name_by_name() {
    check(
        &[lower()],
        "rm -r d; mkdir d; echo other > d/b; mkdir d/e",
        &["/d Directory", "/d/a Whiteout", "/d/b 6", "/d/e Directory", "/d/e/f Whiteout"],
    );
}

#[test]
fn files_become_directories_and_directories_files() {
    check(
        &[lower()],
        "rm -r d s same; echo file > d; mkdir s; echo x > s/x; ln -s d same",
        &["/d 5", "/s Directory", "/s/x 2", "/same Symlink([100])"],
    );
}

#[test]
fn attributes_count() {
    check(
        &[lower()],
        "chmod 4755 same; chmod 1777 d/e; touch -h -d @5 s",
        &["/d Directory", "/d/e Directory", "/s Symlink([115, 97, 109, 101])", "/same 4"],
    );
}

#[test]
fn content_counts_though_size_and_time_are_kept() {
    check(&[lower()], "echo -n SAME > same; touch -d @1700000000 same", &["/same 4"]);
}

#[test]
fn a_new_link_to_an_old_file_brings_the_file_along() {
    check(&[lower()], "ln same zzz; ln same aaa", &["/aaa 4", "/same HardLink(/aaa)", "/zzz HardLink(/aaa)"]);
}

#[test]
fn stubs_are_left_out_while_they_are_empty() {
    check(&[lower()], ": > stub; mkdir stubs; chmod 755 .", &[]);
    check(&[lower()], "echo x > stub; mkdir stubs; echo y > stubs/y", &["/stub 2", "/stubs Directory", "/stubs/y 2"]);
}

#[test]
fn sockets_are_skipped_and_the_root_counts() {
    let bind = "python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind(\"socket\")'; rm socket; chmod 700 .";
    check(&[lower()], bind, &["/ Directory"]);
}

#[test]
fn features_that_must_be_off_and_reserved_names_are_errors() {
    let folder = tempfile::tempdir().unwrap();
    let upper = open(folder.path());
    let message = || changes(upper.as_fd(), &View::empty(), &[]).unwrap_err().to_string();
    let attribute = |name: &str, value: &[u8]| {
        fs::create_dir_all(folder.path().join("d")).unwrap();
        rustix::fs::setxattr(folder.path().join("d"), name, value, rustix::fs::XattrFlags::empty()).unwrap();
        let message = message();
        fs::remove_dir(folder.path().join("d")).unwrap();
        message
    };
    let off = "the overlay must be mounted with metacopy=off and redirect_dir=off";
    assert_eq!(attribute("user.overlay.redirect", b"x"), format!("`/d` carries `user.overlay.redirect`: {off}"));
    assert_eq!(attribute("user.overlay.opaque", b"x"), format!("`/d` carries `user.overlay.opaque`: {off}"));
    fs::write(folder.path().join(".wh.x"), "").unwrap();
    assert_eq!(message(), "`/.wh.x` uses a name beginning with `.wh.`, which layers keep for deletions");
}
