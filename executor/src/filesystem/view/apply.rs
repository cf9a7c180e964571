//! One layer on top of a view. The rules are those of unpacking, in the order of the tar stream, into an empty directory that
//! is then laid over what is below (OCI image-spec, layer.md, "Applying Changesets"; containerd does it so):
//! whiteouts hit lower layers only; a parent without an entry of its own is the lower directory, and where the lower entry is
//! no directory, not even through a symlink, it is a new one of mode 0755; symlinks of the same layer are followed.

use std::collections::HashSet;

use super::{Node, View, resolve::LINKS_MAX};
use crate::filesystem::{
    entry::{Action, Change, Kind},
    path::TreePath,
};

/// The longest path that Linux takes in one call, and so the longest that a running image can use. It also bounds the depth.
const PATH_BYTES_MAX: usize = 4096;

/// The name of the entry that makes its directory opaque.
const OPAQUE_MARKER: &[u8] = b".wh..wh..opq";

/// Says why a layer cannot lie on what is below it.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ViewError {
    /// A hard link to nothing.
    #[error("hard link {path} names {target}, which is neither in this layer nor below it")]
    MissingTarget {
        /// The new name.
        path: TreePath,
        /// The missing file.
        target: TreePath,
    },
    /// A hard link to a directory.
    #[error("hard link {path} names {target}, which is a directory")]
    DirectoryTarget {
        /// The new name.
        path: TreePath,
        /// The directory.
        target: TreePath,
    },
    /// An entry below an entry that the same layer makes a file.
    #[error("{path} lies below {parent}, which the same layer makes something other than a directory")]
    BelowFile {
        /// The entry.
        path: TreePath,
        /// What is in its way.
        parent: TreePath,
    },
    /// The root would become a file, or vanish.
    #[error("a layer may neither remove the root directory nor replace it by something else")]
    Root,
    /// Symlinks of the layer that lead in a circle.
    #[error("{path} leads through more than {LINKS_MAX} symlinks")]
    TooManyLinks {
        /// The entry.
        path: TreePath,
    },
    /// A path that no kernel call would take.
    #[error("a path of {bytes} bytes exceeds the limit of {PATH_BYTES_MAX}: {}…", start.escape_ascii())]
    PathTooLong {
        /// How long it is.
        bytes: usize,
        /// Its first 64 bytes.
        start: Vec<u8>,
    },
}

impl View {
    /// Lays one layer over the view.
    ///
    /// Whiteouts and opaque directories remove what lower layers have, never what this layer has, wherever in the layer they
    /// stand. After an error the view holds a part of the layer and is of no use.
    pub fn apply(&mut self, changes: &[Change]) -> Result<(), ViewError> {
        changes.iter().try_for_each(|change| self.remove_lower(change))?;
        let mut own = Own::default();
        for run in changes.chunk_by(are_put_side_by_side) {
            if !self.put_freely(run, &mut own)? {
                run.iter().try_for_each(|change| self.apply_one(change, &mut own))?;
            }
        }
        Ok(())
    }

    fn remove_lower(&mut self, change: &Change) -> Result<(), ViewError> {
        match &change.action {
            Action::Whiteout => {
                let parent = change.path.parent().ok_or(ViewError::Root)?;
                if let Some(directory) = self.directory_mut(&parent) {
                    directory.children.remove(change.path.name());
                }
            }
            Action::Opaque => {
                if let Some(directory) = self.directory_mut(&change.path) {
                    directory.children.clear();
                }
            }
            Action::Put(..) | Action::HardLink(_) => {}
        }
        Ok(())
    }

    /// Puts the entries of a run, which have their directory in common: it is looked for once. Does nothing and returns `false`
    /// where anything but directories is on the way to it, and for what puts nothing.
    fn put_freely(&mut self, run: &[Change], own: &mut Own) -> Result<bool, ViewError> {
        let Some(Change { path: first, action: Action::Put(..) }) = run.first() else { return Ok(false) };
        // First of all, since it also bounds the depth of what is made.
        check_length(first)?;
        let Some(parent) = first.parent() else { return Ok(false) };
        let Some(directory) = self.make_free_directory(&parent) else { return Ok(false) };
        for Change { path, action } in run {
            let Action::Put(metadata, kind) = action else { continue };
            check_length(path)?;
            if *kind == Kind::Directory {
                directory.child_or_new(path.name()).make_directory().metadata = metadata.clone();
            } else {
                directory.children.insert(path.name().into(), Node::new(metadata.clone(), kind.clone()));
                own.push(path.clone());
            }
        }
        Ok(true)
    }

    fn apply_one(&mut self, change: &Change, own: &mut Own) -> Result<(), ViewError> {
        let path = self.locate(&change.path, own)?;
        if let Some(parent) = path.parent() {
            self.make_directory(&parent);
        }
        match &change.action {
            Action::Put(metadata, Kind::Directory) => self.make_directory(&path).metadata = metadata.clone(),
            Action::Put(metadata, kind) => self.put_file(path, Node::new(metadata.clone(), kind.clone()), own)?,
            Action::HardLink(target) => {
                let target_path = self.locate(target, own)?;
                match self.get(&target_path).cloned() {
                    Some(node @ Node::File(_)) => self.put_file(path, node, own)?,
                    Some(Node::Directory(_)) => {
                        return Err(ViewError::DirectoryTarget { path: change.path.clone(), target: target.clone() });
                    }
                    None => return Err(ViewError::MissingTarget { path: change.path.clone(), target: target.clone() }),
                }
            }
            Action::Opaque => {
                let marker = self.locate(&change.path.child(OPAQUE_MARKER), own)?;
                self.make_directory(&marker.parent().unwrap_or_default());
            }
            Action::Whiteout => {}
        }
        Ok(())
    }

    fn put_file(&mut self, path: TreePath, node: Node, own: &mut Own) -> Result<(), ViewError> {
        if path.is_root() {
            return Err(ViewError::Root);
        }
        self.insert(&path, node);
        own.push(path);
        Ok(())
    }

    /// Returns where an entry of the layer really goes: symlinks that the layer itself has put on the way to it are followed,
    /// its last name is not.
    fn locate(&self, path: &TreePath, own: &mut Own) -> Result<TreePath, ViewError> {
        check_length(path)?;
        if !self.has_file_on_the_way(path) {
            return Ok(path.clone());
        }
        let mut here = TreePath::ROOT;
        let mut rest: Vec<&[u8]> = path.components().collect();
        rest.reverse();
        let mut links = 0;
        while let Some(name) = rest.pop() {
            let next = here.join(name);
            let in_the_way = if rest.is_empty() || !own.contains(&next) { None } else { self.get(&next) };
            match in_the_way {
                None | Some(Node::Directory(_)) => here = next,
                Some(node @ Node::File(_)) => {
                    let Some(target) = node.symlink_target() else {
                        return Err(ViewError::BelowFile { path: path.clone(), parent: next });
                    };
                    links += 1;
                    if links > LINKS_MAX {
                        return Err(ViewError::TooManyLinks { path: path.clone() });
                    }
                    if target.first() == Some(&b'/') {
                        here = TreePath::ROOT;
                    }
                    rest.extend(target.split(|byte| *byte == b'/').rev());
                }
            }
        }
        check_length(&here)?;
        Ok(here)
    }

    /// Whether something other than a directory lies above a path. Most paths have nothing there, and are where they say
    /// without a look at each of their beginnings, which takes time by the square of the depth.
    fn has_file_on_the_way(&self, path: &TreePath) -> bool {
        let mut node = Some(&self.root);
        path.components().any(|name| {
            let directory = node.map(Node::as_directory);
            node = directory.flatten().and_then(|directory| directory.get(name));
            matches!(directory, Some(None))
        })
    }
}

/// The paths where a layer has put something other than a directory. Only where a file is on the way of an entry does anybody
/// ask for them, which few layers make happen: until then they are merely noted.
#[derive(Default)]
struct Own {
    noted: Vec<TreePath>,
    paths: HashSet<TreePath>,
}

impl Own {
    fn push(&mut self, path: TreePath) {
        self.noted.push(path);
    }

    fn contains(&mut self, path: &TreePath) -> bool {
        self.paths.extend(self.noted.drain(..));
        self.paths.contains(path)
    }
}

/// Whether two changes put entries into the same directory.
fn are_put_side_by_side(one: &Change, next: &Change) -> bool {
    matches!((&one.action, &next.action), (Action::Put(..), Action::Put(..))) && one.path.is_beside(&next.path)
}

fn check_length(path: &TreePath) -> Result<(), ViewError> {
    let bytes = path.as_bytes();
    if bytes.len() <= PATH_BYTES_MAX {
        return Ok(());
    }
    Err(ViewError::PathTooLong { bytes: bytes.len(), start: bytes.iter().copied().take(64).collect() })
}

#[cfg(test)]
mod tests;
