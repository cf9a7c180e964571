//! The destination of a copy: a view that is written to and remembers where.

use std::collections::BTreeSet;

use super::{CopyError, Resolved};
use crate::filesystem::{
    entry::{Change, Metadata},
    path::TreePath,
    view::{Names, Node, ResolveError, View},
};

/// A view with the paths that were written.
pub(super) struct Target {
    view: View,
    written: BTreeSet<TreePath>,
}

impl Target {
    pub(super) fn new(view: View) -> Self {
        Self { view, written: BTreeSet::new() }
    }

    /// Follows every symlink of a path.
    pub(super) fn resolve(&self, path: &TreePath) -> Result<Resolved<'_>, CopyError> {
        self.view.resolve(path.as_bytes(), &TreePath::ROOT).map_err(|error| match error {
            ResolveError::NotADirectory { component, .. } => CopyError::NotADirectory { path: component },
            error @ ResolveError::TooManyLinks { .. } => CopyError::Unresolved(error),
        })
    }

    /// Makes the directories that are missing on a path without symlinks. What exists stays as it is.
    pub(super) fn make_directories(&mut self, path: &TreePath, metadata: &Metadata) -> Result<(), CopyError> {
        // From below: most of the path is there.
        let mut missing = Vec::new();
        let mut here = path.clone();
        loop {
            match self.view.get(&here) {
                Some(Node::Directory(_)) => break,
                Some(Node::File(_)) => return Err(CopyError::NotADirectory { path: here }),
                None => {
                    let parent = here.parent().unwrap_or_default();
                    missing.push(std::mem::replace(&mut here, parent));
                }
            }
        }
        missing.into_iter().rev().for_each(|path| self.write(path, Node::directory(metadata.clone())));
        Ok(())
    }

    /// Writes a directory, keeping the children of one that exists.
    pub(super) fn put_directory(&mut self, path: TreePath, metadata: Metadata) -> Result<(), CopyError> {
        if self.view.get(&path).is_some_and(|node| !node.is_directory()) {
            return Err(CopyError::NotADirectory { path });
        }
        self.replace_by_directory(path, metadata);
        Ok(())
    }

    /// Writes a directory over anything, keeping the children of one that exists.
    pub(super) fn replace_by_directory(&mut self, path: TreePath, metadata: Metadata) {
        self.view.make_directory(&path).metadata = metadata;
        self.written.insert(path);
    }

    /// Writes anything else, over anything but a directory.
    pub(super) fn put_file(&mut self, path: TreePath, node: Node) -> Result<(), CopyError> {
        if self.view.get(&path).is_some_and(Node::is_directory) {
            return Err(CopyError::FileOverDirectory { path });
        }
        self.write(path, node);
        Ok(())
    }

    /// Writes a node, over anything.
    pub(super) fn write(&mut self, path: TreePath, node: Node) {
        self.view.insert(&path, node);
        self.written.insert(path);
    }

    /// Gives a directory a time. The root has none in a layer.
    pub(super) fn set_mtime(&mut self, path: &TreePath, mtime: i64) {
        if !path.is_root() {
            self.view.make_directory(path).metadata.mtime = mtime;
            self.written.insert(path.clone());
        }
    }

    /// Lists what was written, as it is now, and the directories above it: so no layer leaves a parent to be guessed.
    pub(super) fn into_changes(self) -> Vec<Change> {
        let mut paths = self.written;
        let mut parents = BTreeSet::new();
        for path in &paths {
            // What is there already has its own parents there, or is about to get them.
            let mut parent = path.parent();
            while let Some(path) = parent.filter(|parent| !paths.contains(parent) && !parents.contains(parent)) {
                parent = path.parent();
                parents.insert(path);
            }
        }
        paths.append(&mut parents);
        paths.remove(&TreePath::ROOT);
        let mut names = Names::default();
        paths.into_iter().filter_map(|path| self.view.get(&path).map(|node| names.change(path.clone(), node))).collect()
    }
}
