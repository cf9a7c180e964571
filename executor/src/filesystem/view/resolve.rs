//! Symlinks in a view, followed as the kernel follows them for a process whose root is the view's root.

use super::{Node, View};
use crate::filesystem::path::TreePath;

/// As many symlinks as Linux follows in one path (`path_resolution(7)`).
pub(super) const LINKS_MAX: u32 = 40;

/// Where a path leads.
#[derive(Clone, Debug)]
pub struct Resolved<'view> {
    /// The path without symlinks, also where its tail does not exist (yet).
    pub path: TreePath,
    /// What is there.
    pub node: Option<&'view Node>,
}

/// Says why a path leads nowhere.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    /// Symlinks in a circle, or too many of them.
    #[error("{path} leads through more than {LINKS_MAX} symlinks")]
    TooManyLinks {
        /// The path that was asked for.
        path: TreePath,
    },
    /// A file where the path needs a directory.
    #[error("{path} leads through {component}, which is not a directory")]
    NotADirectory {
        /// The path that was asked for.
        path: TreePath,
        /// The file in the way.
        component: TreePath,
    },
}

impl View {
    /// Follows every symlink of a path, the last one included.
    ///
    /// A relative path starts at `base`, an absolute one at the root; `..` at the root stays there. Where something is missing
    /// the rest of the path is appended as it is: the answer is where a process would create it.
    pub fn resolve(&self, path: &[u8], base: &TreePath) -> Result<Resolved<'_>, ResolveError> {
        self.follow(path, base, true)
    }

    /// [`View::resolve`] without following the last component.
    pub fn resolve_entry(&self, path: &[u8], base: &TreePath) -> Result<Resolved<'_>, ResolveError> {
        self.follow(path, base, false)
    }

    fn follow(&self, path: &[u8], base: &TreePath, follow_last: bool) -> Result<Resolved<'_>, ResolveError> {
        let start = if path.first() == Some(&b'/') { &TreePath::ROOT } else { base };
        let mut here = start.clone();
        // What lies at the root and at each component of `here`.
        let mut nodes = vec![Some(&self.root)];
        start.components().for_each(|name| nodes.push(child(&nodes, name)));
        let mut rest: Vec<&[u8]> = names(path).rev().collect();
        let mut links = 0;
        while let Some(name) = rest.pop() {
            if nodes.last().copied().flatten().is_some_and(|node| !node.is_directory()) {
                return Err(ResolveError::NotADirectory { path: start.join(path), component: here });
            }
            if name == b".." {
                here = here.parent().unwrap_or_default();
                nodes.truncate((nodes.len() - 1).max(1));
                continue;
            }
            let node = child(&nodes, name);
            match node.and_then(Node::symlink_target) {
                Some(target) if follow_last || !rest.is_empty() => {
                    links += 1;
                    if links > LINKS_MAX {
                        return Err(ResolveError::TooManyLinks { path: start.join(path) });
                    }
                    if target.first() == Some(&b'/') {
                        here = TreePath::ROOT;
                        nodes.truncate(1);
                    }
                    rest.extend(names(target).rev());
                }
                _ => {
                    here = here.child(name);
                    nodes.push(node);
                }
            }
        }
        Ok(Resolved { path: here, node: nodes.last().copied().flatten() })
    }
}

/// What the last of the nodes, a directory, holds under a name.
fn child<'view>(nodes: &[Option<&'view Node>], name: &[u8]) -> Option<&'view Node> {
    nodes.last().copied().flatten()?.as_directory()?.get(name)
}

/// The components of a path but the empty ones and `.`.
fn names(path: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    path.split(|byte| *byte == b'/').filter(|name| !name.is_empty() && *name != b".")
}
