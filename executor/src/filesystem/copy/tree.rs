//! The copy of a directory: a walk over the source that writes into the target.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use super::{Copier, CopyError};
use crate::filesystem::{
    entry::Kind,
    path::TreePath,
    view::{FileNode, Node, may_have_more_names},
};

/// A directory being copied.
struct Tree<'plan> {
    /// The directory in the source.
    root: &'plan TreePath,
    /// The directory in the target.
    destination: TreePath,
    /// Directories that are copied already, relative to both.
    made: HashSet<TreePath>,
    /// Copies of the files met so far: the names of one file in the source are names of one file in the target.
    files: HashMap<*const FileNode, Node>,
}

impl Copier<'_> {
    /// Copies what lies at and below some paths, each relative to a root in the source, into the destination directory. Of the
    /// root itself only the contents are copied; directories between the root and a path come with their own attributes.
    pub(super) fn copy_tree(&mut self, root: &TreePath, starts: &[TreePath]) -> Result<(), CopyError> {
        let destination = self.target.resolve(&self.request.destination_path())?.path;
        self.target.make_directories(&destination, &self.request.directory_metadata())?;
        if let Some(node) = self.source.get(root) {
            self.target.set_mtime(&destination, self.request.entry_mtime(node.metadata()));
        }
        let mut tree = Tree { root, destination, made: HashSet::from([TreePath::ROOT]), files: HashMap::new() };
        for start in starts {
            for (path, node) in self.source.walk(&root.join(start.as_bytes())) {
                let Some(relative) = path.relative_to(root).filter(|relative| !relative.is_root()) else { continue };
                if (self.request.excluded)(&relative) {
                    continue;
                }
                self.make_parents(&mut tree, &relative)?;
                match node {
                    Node::Directory(_) => self.make_directory(&mut tree, &relative)?,
                    Node::File(file) => {
                        let copied = if may_have_more_names(file) {
                            tree.files.entry(Arc::as_ptr(file)).or_insert_with(|| self.copied(file)).clone()
                        } else {
                            self.copied(file)
                        };
                        self.target.put_file(tree.destination.join(relative.as_bytes()), copied)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Makes the directories above a path that the walk has left out or not met.
    fn make_parents(&mut self, tree: &mut Tree<'_>, relative: &TreePath) -> Result<(), CopyError> {
        let mut missing = Vec::new();
        let mut parent = relative.parent();
        while let Some(path) = parent.filter(|path| !tree.made.contains(path)) {
            parent = path.parent();
            missing.push(path);
        }
        missing.iter().rev().try_for_each(|path| self.make_directory(tree, path))
    }

    fn make_directory(&mut self, tree: &mut Tree<'_>, relative: &TreePath) -> Result<(), CopyError> {
        if let Some(node) = self.source.get(&tree.root.join(relative.as_bytes())) {
            let metadata = self.request.entry_metadata(node.metadata(), &Kind::Directory);
            self.target.put_directory(tree.destination.join(relative.as_bytes()), metadata)?;
        }
        tree.made.insert(relative.clone());
        Ok(())
    }
}
