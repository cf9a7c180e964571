//! Owners and modes of what is unpacked, whatever the umask and the top directory do to what is made below it.

use std::{
    fs::{self, Permissions},
    os::unix::fs::{MetadataExt, PermissionsExt, chown},
    process::Command,
};

use rustix::{
    fs::{XattrFlags, lsetxattr},
    io::Errno,
};

use super::{
    unpacked::{Stack, capability, is_root, put_as, skip},
    *,
};
use crate::{filesystem::entry::Device, layer::unpack::Warning};

/// An ACL of Linux's version 2: tag, permissions and id of each entry.
fn acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut bytes = 2_u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        bytes.extend([tag.to_le_bytes(), permissions.to_le_bytes()].concat());
        bytes.extend(id.to_le_bytes());
    }
    bytes
}

/// Owner, group and others, without an id.
fn acl_of_mode(mode: [u16; 3]) -> Vec<u8> {
    let [owner, group, others] = mode;
    acl(&[(1, owner, u32::MAX), (4, group, u32::MAX), (32, others, u32::MAX)])
}

/// User 5 may read; the mask that allows it is in the place of the group's permissions.
fn acl_for_user_5() -> Vec<u8> {
    acl(&[(1, 6, u32::MAX), (2, 4, 5), (4, 0, u32::MAX), (16, 4, u32::MAX), (32, 0, u32::MAX)])
}

fn every_kind() -> Vec<Change> {
    let mut changes = vec![put_as("", 0o751, 0, 0, vec![], Kind::Directory)];
    let modes = [0o000, 0o444, 0o600, 0o644, 0o664, 0o666, 0o755, 0o777, 0o1644, 0o2755, 0o2644, 0o4755, 0o6755];
    for (uid, gid) in [(0, 0), (0, 42), (42, 0), (1000, 1000), (65534, 65534)] {
        for mode in modes {
            let name = |kind| format!("{kind}-{mode:o}-{uid}-{gid}");
            let put = |path: &str, xattrs, kind| put_as(path, mode, uid, gid, xattrs, kind);
            let access = xattr("system.posix_acl_access", &acl_for_user_5());
            let directory = name("directory");
            changes.extend([
                put(&name("capable"), vec![capability()], content(b"capable")),
                put(&name("controlled"), vec![access], content(b"controlled")),
                put(&name("device"), vec![], Kind::CharacterDevice(Device { major: 1, minor: 3 })),
                put(&directory, vec![], Kind::Directory),
                put(&format!("{directory}/file"), vec![], content(b"below")),
                put(&name("fifo"), vec![], Kind::Fifo),
                put(&name("file"), vec![], content(b"file")),
                put_as(&name("symlink"), 0o777, uid, gid, vec![], Kind::Symlink(b"file".into())),
            ]);
        }
    }
    changes.sort_by(|one, other| one.path.cmp(&other.path));
    changes
}

#[track_caller]
fn check(prepare: impl FnOnce(&Path)) {
    let changes = every_kind();
    let stack = Stack::new(std::slice::from_ref(&changes));
    prepare(&stack.root());
    assert_eq!(stack.unpack().unwrap(), []);
    for Change { path, action } in &changes {
        let Action::Put(metadata, _) = action else { panic!("only entries are put") };
        let at = stack.root().join(path.to_string().trim_start_matches('/'));
        let found = fs::symlink_metadata(&at).unwrap();
        let found = (found.mode() & 0o7777, found.uid(), found.gid(), found.mtime());
        assert_eq!(found, (metadata.mode, metadata.uid, metadata.gid, metadata.mtime), "{path}");
        for xattr in metadata.xattrs.iter().filter(|xattr| xattr.name.starts_with(b"security.")) {
            let mut value = [0; 64];
            let length = rustix::fs::lgetxattr(&at, &xattr.name[..], &mut value).unwrap();
            assert_eq!(value[..length], xattr.value, "{path}");
        }
    }
}

#[test]
fn owners_and_modes_are_those_of_the_image() {
    if is_root("unpacking with owners") {
        check(|_| ());
    }
}

#[test]
fn the_group_of_the_top_directory_is_not_inherited() {
    if is_root("unpacking with owners") {
        check(|top| {
            chown(top, Some(7), Some(42)).unwrap();
            fs::set_permissions(top, Permissions::from_mode(0o6777)).unwrap();
        });
    }
}

#[test]
fn the_default_acl_of_the_top_directory_changes_no_mode() {
    if !is_root("unpacking with owners") {
        return;
    }
    for default in [acl_of_mode([7, 0, 0]), acl_of_mode([0, 0, 0]), acl_of_mode([7, 7, 7]), acl_for_user_5()] {
        check(|top| match lsetxattr(top, "system.posix_acl_default", &default, XattrFlags::empty()) {
            Err(Errno::OPNOTSUPP) => skip("no ACLs", "default ACLs"),
            result => result.unwrap(),
        });
    }
}

/// Runs a test in a process of its own, below the program that the words name.
#[track_caller]
fn run_below(words: &[&str], test: &str) -> std::process::Output {
    let program = std::env::current_exe().unwrap();
    let test = format!("layer::tests::attributes::{test}");
    let output = Command::new(words[0]).args(&words[1..]).arg(program).args(["--exact", &test]).output().unwrap();
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(!output.status.success() || printed.contains(" 1 passed;"), "{printed}");
    output
}

#[test]
fn the_umask_does_not_matter() {
    for umask in ["000", "027", "077", "777"] {
        let script = format!("umask {umask}; exec \"$@\"");
        let output = run_below(&["sh", "-c", &script, "sh"], "owners_and_modes_are_those_of_the_image");
        assert!(output.status.success(), "{umask}: {}", String::from_utf8_lossy(&output.stdout));
    }
}

/// In a user namespace where this process's ids are 0 and no others exist. The test runs itself there.
#[test]
fn owners_that_do_not_exist_here_are_warnings() {
    let inside = ["uid_map", "gid_map"].iter().all(|map| {
        let map = fs::read_to_string(Path::new("/proc/self").join(map)).unwrap();
        let words: Vec<_> = map.split_whitespace().collect();
        matches!(words[..], ["0", _, "1"])
    });
    if !inside {
        let output = run_below(&["unshare", "-Ur"], "owners_that_do_not_exist_here_are_warnings");
        if String::from_utf8_lossy(&output.stderr).contains("unshare") {
            skip("no namespaces", "owners that do not exist");
        } else {
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        }
        return;
    }
    let owners = [(0, 0), (0, 7), (0, 65534), (7, 0), (7, 7), (65534, 0), (65534, 65534)];
    let mut changes = Vec::new();
    let mut warnings = Vec::new();
    for (uid, gid) in owners {
        for (name, kind) in [("directory", Kind::Directory), ("fifo", Kind::Fifo), ("file", content(b"file"))] {
            let put = put_as(&format!("{name}-{uid}-{gid}"), 0o640, uid, gid, vec![], kind);
            warnings.extend(((uid, gid) != (0, 0)).then(|| Warning::Owner { path: put.path.clone(), uid, gid }));
            changes.push(put);
        }
    }
    changes.sort_by(|one, other| one.path.cmp(&other.path));
    warnings.sort();
    let stack = Stack::new(std::slice::from_ref(&changes));
    assert_eq!(stack.unpack().unwrap(), warnings);
    for Change { path, .. } in changes {
        let found = fs::metadata(stack.root().join(path.to_string().trim_start_matches('/'))).unwrap();
        assert_eq!((found.mode() & 0o7777, found.uid(), found.gid()), (0o640, 0, 0), "{path}");
    }
}
