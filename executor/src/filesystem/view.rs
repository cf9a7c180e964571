//! The file system that a stack of layers makes: what unpacking them in order would leave, without unpacking.
//!
//! Layer indexes go in ([`View::apply`]); entries, resolved paths and sorted walks come out. A clone costs nothing and shares
//! everything with its original until one of them changes: each step of a build keeps the view that it left.
//! Symlinks are followed inside the root only, and only by [`View::resolve`]: every other function takes paths as they are.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use super::{
    entry::{Action, Change, FileContent, Kind, Location, Metadata},
    path::TreePath,
};
use crate::image::digest::Digest;

mod apply;
mod digest;
mod resolve;

pub use apply::ViewError;
use digest::Memo;
pub use digest::{digest_of_changes, digest_of_entry};
pub use resolve::{ResolveError, Resolved};

/// A merged file system. Its root is always a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    root: Node,
}

/// One entry of a view.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node {
    /// A directory.
    Directory(Arc<Directory>),
    /// Anything else. The names of one file (hard links) share one allocation: compare with [`Arc::ptr_eq`].
    File(Arc<FileNode>),
}

/// A directory and what it holds.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Directory {
    /// The directory's own attributes.
    pub metadata: Metadata,
    children: BTreeMap<Arc<[u8]>, Node>,
    /// The digest of all this, once somebody asked.
    digest: Memo,
}

/// An entry that is not a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileNode {
    /// Attributes.
    pub metadata: Metadata,
    /// The type; never [`Kind::Directory`].
    pub kind: Kind,
}

impl Default for View {
    fn default() -> Self {
        Self::empty()
    }
}

impl View {
    /// Returns an empty file system: a root directory of mode 0755 that root owns (`FROM scratch`).
    pub fn empty() -> Self {
        Self { root: Node::directory(Metadata::directory(0)) }
    }

    /// Returns what lies at a path, following no symlink.
    pub fn get(&self, path: &TreePath) -> Option<&Node> {
        path.components().try_fold(&self.root, |node, name| node.as_directory()?.get(name))
    }

    /// Returns the bytes of a regular file that the view carries itself ([`Location::Inline`]); follows no symlink.
    pub fn read_inline(&self, path: &TreePath) -> Option<&[u8]> {
        match &self.get(path)?.content()?.location {
            Location::Inline(bytes) => Some(bytes),
            Location::Layer(..) | Location::Context(..) | Location::Spool(_) => None,
        }
    }

    /// Iterates over what lies at a path and below it: sorted, parents first, the start itself included.
    /// Yields nothing where nothing is.
    pub fn walk(&self, start: &TreePath) -> Walk<'_> {
        Walk { pending: self.get(start).map(|node| (start.clone(), node)).into_iter().collect() }
    }

    /// Lists the whole view as the changes that make it on an empty root: sorted, parents first, the root included. Every
    /// further name of a file is a [`Action::HardLink`] to its first name.
    pub fn changes(&self) -> Vec<Change> {
        let mut names = Names::default();
        self.walk(&TreePath::ROOT).map(|(path, node)| names.change(path, node)).collect()
    }

    /// Lists what lies at a path and below it as the changes that make it at another path: sorted, parents first. Every
    /// further name of a file is a hard link to its first name among them.
    pub fn changes_at(&self, start: &TreePath, place: &TreePath) -> Vec<Change> {
        let mut names = Names::default();
        let below = self.walk(start).filter_map(|(path, node)| Some((path.relative_to(start)?, node)));
        below.map(|(path, node)| names.change(place.join(path.as_bytes()), node)).collect()
    }

    /// Lists what the view has at each of the given directories and directly below it, as changes that make this part of the
    /// view: enough to tell what somebody changed who touched nothing else. Paths that are no directories here give nothing.
    /// Files have their digest, but not their bytes.
    pub fn part(&self, directories: &[TreePath]) -> Vec<Change> {
        let described = |path: &TreePath| Some((path.clone(), self.get(path)?.as_directory()?));
        let mut changes = Vec::new();
        for (path, directory) in directories.iter().filter_map(described) {
            for (name, node) in directory.children() {
                let kind = match node.kind() {
                    Kind::File(content) => Kind::File(FileContent {
                        location: Location::Inline([].into()),
                        size: content.size,
                        digest: content.digest.clone(),
                    }),
                    kind => kind.clone(),
                };
                changes.push(Change { path: path.child(name), action: Action::Put(node.metadata().clone(), kind) });
            }
            changes.push(Change { path, action: Action::Put(directory.metadata.clone(), Kind::Directory) });
        }
        changes
    }

    /// Gives files the digests of their bytes. The names of one file stay names of one file.
    pub(crate) fn give_digests(&mut self, digests: &HashMap<*const FileNode, Digest>) {
        give_digests(&mut self.root, digests, &mut HashMap::new());
    }

    /// Puts a node at a path, replacing what is there. Directories on the way that are missing are made; what is in the
    /// way and no directory is replaced. At the root only a directory has an effect.
    pub(crate) fn insert(&mut self, path: &TreePath, node: Node) {
        match path.parent() {
            Some(parent) => {
                self.make_directory(&parent).children.insert(path.name().into(), node);
            }
            None if node.is_directory() => self.root = node,
            None => {}
        }
    }

    /// Returns the directory at a path for changing; makes it, and the directories on the way to it, if need be.
    pub(crate) fn make_directory(&mut self, path: &TreePath) -> &mut Directory {
        path.components()
            .fold(self.root.make_directory(), |directory, name| directory.child_or_new(name).make_directory())
    }

    /// [`View::make_directory`] that replaces nothing: `None` where something other than a directory is there or on the way.
    fn make_free_directory(&mut self, path: &TreePath) -> Option<&mut Directory> {
        path.components()
            .try_fold(self.root.directory_mut()?, |directory, name| directory.child_or_new(name).directory_mut())
    }

    /// Returns the directory at a path for changing, if there is one.
    fn directory_mut(&mut self, path: &TreePath) -> Option<&mut Directory> {
        path.components()
            .try_fold(self.root.directory_mut()?, |directory, name| directory.children.get_mut(name)?.directory_mut())
    }
}

impl Node {
    /// Makes an empty directory.
    pub(super) fn directory(metadata: Metadata) -> Self {
        Self::Directory(Arc::new(Directory { metadata, ..Directory::default() }))
    }

    /// Makes the entry that a [`Action::Put`] describes.
    pub(crate) fn new(metadata: Metadata, kind: Kind) -> Self {
        match kind {
            Kind::Directory => Self::directory(metadata),
            kind => Self::File(Arc::new(FileNode { metadata, kind })),
        }
    }

    /// Returns the attributes.
    pub fn metadata(&self) -> &Metadata {
        match self {
            Self::Directory(directory) => &directory.metadata,
            Self::File(file) => &file.metadata,
        }
    }

    /// Returns the type.
    pub fn kind(&self) -> &Kind {
        match self {
            Self::Directory(_) => &Kind::Directory,
            Self::File(file) => &file.kind,
        }
    }

    /// Whether this is a directory.
    pub const fn is_directory(&self) -> bool {
        matches!(self, Self::Directory(_))
    }

    /// Returns the directory that this is.
    pub fn as_directory(&self) -> Option<&Directory> {
        match self {
            Self::Directory(directory) => Some(directory),
            Self::File(_) => None,
        }
    }

    /// Returns what this is, but for a directory.
    pub const fn as_file(&self) -> Option<&Arc<FileNode>> {
        match self {
            Self::Directory(_) => None,
            Self::File(file) => Some(file),
        }
    }

    /// Returns the content of the regular file that this is.
    pub fn content(&self) -> Option<&FileContent> {
        match self.kind() {
            Kind::File(content) => Some(content),
            _ => None,
        }
    }

    /// Returns the target of the symlink that this is.
    pub fn symlink_target(&self) -> Option<&[u8]> {
        match self.kind() {
            Kind::Symlink(target) => Some(target),
            _ => None,
        }
    }

    fn directory_mut(&mut self) -> Option<&mut Directory> {
        match self {
            Self::Directory(directory) => Some(changing(directory)),
            Self::File(_) => None,
        }
    }

    /// Replaces anything but a directory by an empty one.
    fn make_directory(&mut self) -> &mut Directory {
        if let Self::File(_) = self {
            *self = Self::directory(Metadata::directory(0));
        }
        let Self::Directory(directory) = self else { unreachable!("a file was replaced by a directory just now") };
        changing(directory)
    }
}

fn give_digests(
    node: &mut Node,
    digests: &HashMap<*const FileNode, Digest>,
    shared: &mut HashMap<*const FileNode, Arc<FileNode>>,
) {
    match node {
        Node::Directory(directory) => {
            changing(directory).children.values_mut().for_each(|child| give_digests(child, digests, shared));
        }
        Node::File(file) => {
            let known = Arc::as_ptr(file);
            let Some(digest) = digests.get(&known) else { return };
            if let Some(copy) = shared.get(&known) {
                *file = Arc::clone(copy);
                return;
            }
            let is_shared = may_have_more_names(file);
            if let Kind::File(content) = &mut Arc::make_mut(file).kind {
                content.digest = Some(digest.clone());
            }
            if is_shared {
                shared.insert(known, Arc::clone(file));
            }
        }
    }
}

/// Whether a file of a view may have further names there: all but a few have one, which need not be remembered.
pub(crate) fn may_have_more_names(file: &Arc<FileNode>) -> bool {
    // Each name holds it, and whoever else has the view.
    Arc::strong_count(file) > 1
}

/// Takes a directory for changing: its own copy if others have it too, and without the digest, which ends here.
fn changing(directory: &mut Arc<Directory>) -> &mut Directory {
    let directory = Arc::make_mut(directory);
    directory.digest = Memo::default();
    directory
}

impl Directory {
    /// Returns the child of this name.
    pub fn get(&self, name: &[u8]) -> Option<&Node> {
        self.children.get(name)
    }

    /// Iterates over the children in the order of their names' bytes.
    pub fn children(&self) -> impl DoubleEndedIterator<Item = (&[u8], &Node)> {
        self.children.iter().map(|(name, node)| (&name[..], node))
    }

    /// Returns the child of this name for changing; makes a directory if there is none.
    fn child_or_new(&mut self, name: &[u8]) -> &mut Node {
        self.children.entry(name.into()).or_insert_with(|| Node::directory(Metadata::directory(0)))
    }
}

/// The iterator of [`View::walk`].
#[derive(Debug)]
pub struct Walk<'view> {
    /// What is still to be visited; the next one is last.
    pending: Vec<(TreePath, &'view Node)>,
}

impl<'view> Iterator for Walk<'view> {
    type Item = (TreePath, &'view Node);

    fn next(&mut self) -> Option<Self::Item> {
        let (path, node) = self.pending.pop()?;
        if let Some(directory) = node.as_directory() {
            self.pending.extend(directory.children().rev().map(|(name, child)| (path.child(name), child)));
        }
        Some((path, node))
    }
}

/// Turns nodes into changes and remembers the first name of each file, to which its later names become hard links.
#[derive(Debug, Default)]
pub(super) struct Names(HashMap<*const FileNode, TreePath>);

impl Names {
    /// Describes a node at a path. Paths must come in the order in which they will be written.
    pub(super) fn change(&mut self, path: TreePath, node: &Node) -> Change {
        if let Node::File(file) = node
            && may_have_more_names(file)
            && let Some(first) = self.0.insert(Arc::as_ptr(file), path.clone())
        {
            self.0.insert(Arc::as_ptr(file), first.clone());
            return Change { path, action: Action::HardLink(first) };
        }
        Change { path, action: Action::Put(node.metadata().clone(), node.kind().clone()) }
    }
}

#[cfg(test)]
mod tests;
