//! Digests of files as a step sees them: what changes a digest changes what a process can read, apart from times.
//!
//! A tree is a Merkle tree over name, kind, mode, owner, size, content, link target, device number and extended attributes,
//! with the groups of names that are one file. Each directory remembers its digest: a step costs what it changed.

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock},
};

use super::{Directory, FileNode, Node, View, may_have_more_names};
use crate::{
    filesystem::{
        entry::{Action, Change, Kind, Metadata},
        path::TreePath,
    },
    image::digest::{Digest, FieldHasher},
};

/// A digest that is computed once. A copy is made to be changed, and forgets it; it says nothing of what is equal.
#[derive(Debug, Default)]
pub(super) struct Memo(OnceLock<Option<Digest>>);

impl Clone for Memo {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl PartialEq for Memo {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Memo {}

impl View {
    /// Returns the digest of what lies at a path and below it; follows no symlink. `None` where nothing is, and where a
    /// file's bytes were not read yet.
    pub fn digest(&self, path: &TreePath) -> Option<Digest> {
        let node = self.get(path)?;
        let tree = tree(node)?;
        let mut hasher = FieldHasher::default();
        hasher.field(tree.as_bytes());
        for (path, group) in self.hard_links(path, node) {
            hasher.number(group);
            hasher.field(path.as_bytes());
        }
        Some(hasher.finish())
    }

    /// Lists the names that are not the only ones of their file, with a number for each file in the order of the walk.
    fn hard_links(&self, start: &TreePath, node: &Node) -> Vec<(TreePath, u64)> {
        let mut names: HashMap<*const FileNode, u64> = HashMap::new();
        count_names(node, &mut names);
        names.retain(|_, count| *count > 1);
        if names.is_empty() {
            return Vec::new();
        }
        let mut groups = HashMap::new();
        let mut links = Vec::new();
        for (path, node) in self.walk(start) {
            let Node::File(file) = node else { continue };
            if names.contains_key(&Arc::as_ptr(file)) {
                let next = groups.len() as u64;
                let group = *groups.entry(Arc::as_ptr(file)).or_insert(next);
                links.push((path.relative_to(start).unwrap_or_default(), group));
            }
        }
        links
    }
}

fn count_names(node: &Node, names: &mut HashMap<*const FileNode, u64>) {
    match node {
        Node::File(file) if may_have_more_names(file) => *names.entry(Arc::as_ptr(file)).or_default() += 1,
        Node::File(_) => {}
        Node::Directory(directory) => directory.children().for_each(|(_, child)| count_names(child, names)),
    }
}

/// The Merkle digest of a node. Its depth is bounded by that of paths (see `apply`).
fn tree(node: &Node) -> Option<Digest> {
    match node {
        Node::File(file) => digest_of_entry(&file.metadata, &file.kind),
        Node::Directory(directory) => directory.digest.0.get_or_init(|| directory_digest(directory)).clone(),
    }
}

fn directory_digest(directory: &Directory) -> Option<Digest> {
    let mut hasher = FieldHasher::default();
    hasher.field(digest_of_entry(&directory.metadata, &Kind::Directory)?.as_bytes());
    for (name, child) in directory.children() {
        hasher.field(name);
        hasher.field(tree(child)?.as_bytes());
    }
    Some(hasher.finish())
}

/// Returns the digest of one entry without its name and what is below it; `None` for a file that nobody has read.
pub fn digest_of_entry(metadata: &Metadata, kind: &Kind) -> Option<Digest> {
    let mut hasher = FieldHasher::default();
    match kind {
        Kind::Directory => hasher.field(b"directory"),
        Kind::File(content) => {
            hasher.field(b"file");
            hasher.number(content.size);
            hasher.field(content.digest.as_ref()?.as_bytes());
        }
        Kind::Symlink(target) => {
            hasher.field(b"symlink");
            hasher.field(target);
        }
        Kind::CharacterDevice(device) | Kind::BlockDevice(device) => {
            hasher.field(if matches!(kind, Kind::BlockDevice(_)) { b"block" } else { b"character" });
            hasher.number(device.major.into());
            hasher.number(device.minor.into());
        }
        Kind::Fifo => hasher.field(b"fifo"),
    }
    let Metadata { mode, uid, gid, mtime: _, xattrs } = metadata;
    for number in [mode, uid, gid] {
        hasher.number((*number).into());
    }
    hasher.number(xattrs.len() as u64);
    for xattr in xattrs {
        hasher.field(&xattr.name);
        hasher.field(&xattr.value);
    }
    Some(hasher.finish())
}

/// Returns the digest of what a layer does; `None` if it has a file that nobody has read.
pub fn digest_of_changes(changes: &[Change]) -> Option<Digest> {
    let mut hasher = FieldHasher::default();
    for change in changes {
        hasher.field(change.path.as_bytes());
        match &change.action {
            Action::Put(metadata, kind) => hasher.field(digest_of_entry(metadata, kind)?.as_bytes()),
            Action::HardLink(target) => {
                hasher.field(b"link");
                hasher.field(target.as_bytes());
            }
            Action::Whiteout => hasher.field(b"whiteout"),
            Action::Opaque => hasher.field(b"opaque"),
        }
    }
    Some(hasher.finish())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filesystem::entry::{Device, FileContent, Location, Xattr};

    fn file(text: &str) -> Kind {
        let (size, digest) = (text.len() as u64, Some(Digest::of(text.as_bytes())));
        Kind::File(FileContent { size, digest, location: Location::Inline(text.as_bytes().into()) })
    }

    fn put(path: &str, mode: u32, kind: Kind) -> Change {
        let metadata = Metadata { mode, ..Metadata::default() };
        Change { path: TreePath::clean(path.as_bytes()), action: Action::Put(metadata, kind) }
    }

    fn link(path: &str, target: &str) -> Change {
        let target = TreePath::clean(target.as_bytes());
        Change { path: TreePath::clean(path.as_bytes()), action: Action::HardLink(target) }
    }

    fn digest(layers: &[Vec<Change>]) -> Digest {
        let mut view = View::empty();
        for changes in layers {
            view.apply(changes).unwrap();
        }
        view.digest(&TreePath::ROOT).unwrap()
    }

    fn base() -> Vec<Change> {
        vec![put("d", 0o755, Kind::Directory), put("d/a", 0o644, file("a")), put("d/b", 0o644, file("b"))]
    }

    #[test]
    fn whatever_a_process_can_tell_apart_has_another_digest() {
        let with = |change: Change| digest(&[base(), vec![change]]);
        let changed = |change: &dyn Fn(&mut Metadata)| {
            let mut metadata = Metadata { mode: 0o644, ..Metadata::default() };
            change(&mut metadata);
            with(Change { path: TreePath::clean(b"d/a"), action: Action::Put(metadata, file("a")) })
        };
        let capability = Xattr { name: b"security.capability".to_vec(), value: vec![1] };
        let all = [
            digest(&[base()]),
            with(put("d/a", 0o644, file("A"))),
            with(put("d/a", 0o4644, file("a"))),
            with(put("d/c", 0o644, file("a"))),
            with(put("d", 0o700, Kind::Directory)),
            with(put("d/a", 0o644, Kind::Symlink(b"b".to_vec()))),
            with(put("d/a", 0o644, Kind::Symlink(b"c".to_vec()))),
            with(put("d/a", 0o644, Kind::Fifo)),
            with(put("d/a", 0o644, Kind::CharacterDevice(Device { major: 1, minor: 3 }))),
            with(put("d/a", 0o644, Kind::BlockDevice(Device { major: 1, minor: 3 }))),
            with(put("d/a", 0o644, Kind::BlockDevice(Device { major: 3, minor: 1 }))),
            with(link("d/c", "d/a")),
            with(Change { path: TreePath::clean(b"d/a"), action: Action::Whiteout }),
            changed(&|metadata| metadata.uid = 1),
            changed(&|metadata| metadata.gid = 1),
            changed(&|metadata| metadata.xattrs.push(capability.clone())),
        ];
        for (position, one) in all.iter().enumerate() {
            assert!(!all[position + 1..].contains(one), "{position}");
        }
        assert_eq!(changed(&|metadata| metadata.mtime = 5), all[0]);
    }

    #[test]
    fn names_of_one_file_are_not_two_files() {
        let one = digest(&[vec![put("a", 0o644, file("x")), link("b", "a"), put("c", 0o644, file("x"))]]);
        let other = digest(&[vec![put("a", 0o644, file("x")), put("b", 0o644, file("x")), link("c", "b")]]);
        assert_ne!(one, other);
    }

    #[test]
    fn layers_that_leave_the_same_files_have_one_digest() {
        let whiteout = Change { path: TreePath::clean(b"d/c"), action: Action::Whiteout };
        let detour = [base(), vec![put("d/c", 0o600, file("c"))], vec![whiteout]];
        assert_eq!(digest(&detour), digest(&[base()]));
    }

    #[test]
    fn a_remembered_digest_ends_with_a_change() {
        let mut view = View::empty();
        view.apply(&base()).unwrap();
        let before = view.digest(&TreePath::ROOT);
        let old = view.clone();
        view.apply(&[put("d/a", 0o644, file("changed"))]).unwrap();
        assert_ne!(view.digest(&TreePath::ROOT), before);
        assert_eq!(old.digest(&TreePath::ROOT), before);
        let mut alone = View::empty();
        alone.apply(&base()).unwrap();
        alone.digest(&TreePath::ROOT).unwrap();
        alone.apply(&[put("d/a", 0o644, file("changed"))]).unwrap();
        assert_eq!(alone.digest(&TreePath::ROOT), view.digest(&TreePath::ROOT));
    }

    #[test]
    fn a_file_that_nobody_read_has_no_digest() {
        let unread = Kind::File(FileContent { size: 1, digest: None, location: Location::Inline([1].into()) });
        let mut view = View::empty();
        view.apply(&[put("a", 0o644, unread)]).unwrap();
        assert_eq!(view.digest(&TreePath::ROOT), None);
        assert_eq!(digest_of_changes(&view.changes()), None);
    }
}
