//! What a COPY or an ADD reads of its source, before anything is known of where it goes.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use super::{CopyError, sources};
use crate::{
    filesystem::{
        path::TreePath,
        view::{FileNode, Node, View, digest_of_entry},
    },
    image::digest::{Digest, FieldHasher},
    plan::graph::Source,
};

/// One entry that is read.
#[derive(Clone, Debug)]
pub struct Read<'view> {
    /// Which of the sources brings it.
    source: usize,
    /// What the copy calls it: the name of a file, or the path in the directory that is copied, of which the root itself is
    /// part without its attributes.
    name: TreePath,
    /// Where it lies.
    pub path: TreePath,
    /// What it is.
    pub node: &'view Node,
}

impl Read<'_> {
    /// Returns the digest of the entry; of a root that is copied, only that it is a directory. `None` for a file that nobody
    /// has read.
    pub fn digest(&self) -> Option<Digest> {
        match self.node {
            Node::Directory(_) if self.name.is_root() => Some(Digest::of(b"directory")),
            node => digest_of_entry(node.metadata(), node.kind()),
        }
    }
}

/// Lists everything that the sources bring, in the order of the copy. `excluded` and `parents` are those of a
/// [`super::CopyRequest`].
pub fn reads<'view>(
    view: &'view View,
    texts: &[Source],
    excluded: &dyn Fn(&TreePath) -> bool,
    parents: bool,
) -> Result<Vec<Read<'view>>, CopyError> {
    let mut reads = Vec::new();
    for (source, text) in texts.iter().enumerate() {
        let Source::Path(text) = text else { continue };
        if parents {
            let (pivot, selection) = sources::select_below_pivot(view, text)?;
            tree(view, source, &pivot, &selection.into_paths(), excluded, &mut reads);
            continue;
        }
        for path in sources::select(view, text)?.into_paths() {
            let resolved = view.resolve(path.as_bytes(), &TreePath::ROOT).map_err(CopyError::Unresolved)?;
            let name = TreePath::clean(path.name());
            match resolved.node {
                None => return Err(CopyError::Missing { path }),
                Some(Node::Directory(_)) => {
                    tree(view, source, &resolved.path, &[TreePath::ROOT], excluded, &mut reads);
                }
                Some(Node::File(_)) if excluded(&name) => {}
                Some(node) => reads.push(Read { source, name, path: resolved.path, node }),
            }
        }
    }
    Ok(reads)
}

/// Lists what lies at and below some paths of a directory, and the directories on the way to it.
fn tree<'view>(
    view: &'view View,
    source: usize,
    root: &TreePath,
    starts: &[TreePath],
    excluded: &dyn Fn(&TreePath) -> bool,
    reads: &mut Vec<Read<'view>>,
) {
    let mut listed: HashSet<TreePath> = HashSet::new();
    let mut list = |name: TreePath, path: TreePath, node: &'view Node| {
        if listed.insert(name.clone()) {
            reads.push(Read { source, name, path, node });
        }
    };
    // Where nothing matches, nothing is made.
    if let Some(node) = view.get(root).filter(|_| !starts.is_empty()) {
        list(TreePath::ROOT, root.clone(), node);
    }
    for start in starts {
        for (path, node) in view.walk(&root.join(start.as_bytes())) {
            let Some(name) = path.relative_to(root) else { continue };
            if excluded(&name) {
                continue;
            }
            let mut missing = Vec::new();
            let mut parent = name.parent();
            while let Some(above) = parent.filter(|above| !above.is_root()) {
                parent = above.parent();
                missing.push(above);
            }
            for above in missing.into_iter().rev() {
                let place = root.join(above.as_bytes());
                if let Some(node) = view.get(&place) {
                    list(above, place, node);
                }
            }
            list(name, path, node);
        }
    }
}

/// Returns the digest of what is read, given the digest of each entry.
pub fn digest_of_reads(reads: &[Read<'_>], digests: &[Digest]) -> Digest {
    let mut hasher = FieldHasher::default();
    let mut first_names: HashMap<*const FileNode, usize> = HashMap::new();
    for (number, (read, digest)) in reads.iter().zip(digests).enumerate() {
        hasher.number(read.source as u64);
        hasher.field(read.name.as_bytes());
        if let Node::File(file) = read.node {
            // Names of one file become names of one file.
            hasher.number(*first_names.entry(Arc::as_ptr(file)).or_insert(number) as u64);
        }
        hasher.field(digest.as_bytes());
    }
    hasher.finish()
}
