//! Layers -> directories: the merged view as one root, or the difference of two views as a lower directory of an overlay.
//!
//! ```text
//! view -> plan -> directories -> files, of several layers at once (files.rs) -> hard links -> directory attributes
//! ```
//!
//! Each path is written once, by the layer that wins it; what upper layers delete or replace is never written. A layer that
//! wins nothing is not even read. The target must be empty, and belongs to this module until it returns.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    os::fd::BorrowedFd,
    path::Path,
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use super::{
    Compression,
    error::{LayerError, Problem},
    files::{Files, Job, Wanted, unpack_files},
    place::Place,
};
use crate::{
    filesystem::{
        entry::{Action, Change, FileContent, Kind, Location, Metadata},
        index::Index,
        path::TreePath,
        view::{Directory, FileNode, Node, View, may_have_more_names},
    },
    image::digest::Digest,
};

/// More warnings than this are only counted.
const WARNINGS_MAX: usize = 1000;

/// A layer that lies in a file.
#[derive(Clone, Debug)]
pub struct UnpackLayer<'a> {
    /// The file.
    pub blob: &'a Path,
    /// How it is compressed.
    pub compression: Compression,
    /// What is in it.
    pub contents: Contents,
}

/// What is left of an index once it is part of a view: enough to tell the layer's files apart, in a fifth of its memory.
#[derive(Clone, Debug)]
pub struct Contents {
    pub(super) diff_id: Digest,
    /// Path and digest of each regular file, in the order of the layer.
    pub(super) files: Vec<(TreePath, Option<Digest>)>,
}

impl Contents {
    /// Takes what is needed out of an index.
    pub fn of(index: &Index) -> Self {
        let file = |change: &Change| match &change.action {
            Action::Put(_, Kind::File(FileContent { digest, location, .. })) => {
                Some((shared_with(change.path.clone(), location), digest.clone()))
            }
            _ => None,
        };
        Self { diff_id: index.diff_id.clone(), files: index.changes.iter().filter_map(file).collect() }
    }
}

/// Returns a path as the one that the location names, where they are equal: nearly all files lie at one path in the layer and
/// in the view, which then is in memory once.
fn shared_with(path: TreePath, location: &Location) -> TreePath {
    match location {
        Location::Layer(_, place) if *place == path => place.clone(),
        _ => path,
    }
}

/// Something of an image that could not be made here. It stays true in the image; only the unpacked root lacks it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, thiserror::Error)]
pub enum Warning {
    /// A device node that this process may not make.
    #[error("`{path}` is a device that cannot be made here: it is missing in the steps that run")]
    Device {
        /// The device.
        path: TreePath,
    },
    /// An owner that is not mapped into this user namespace.
    #[error("`{path}` belongs to {uid}:{gid}, which does not exist here: steps that run see 65534")]
    Owner {
        /// The entry.
        path: TreePath,
        /// The true owner.
        uid: u32,
        /// The true group.
        gid: u32,
    },
    /// An extended attribute that cannot be set.
    #[error("`{path}` has the extended attribute `{name}`, which cannot be set here: steps that run do not see it")]
    Attribute {
        /// The entry.
        path: TreePath,
        /// The attribute.
        name: String,
    },
    /// Warnings beyond the first thousand.
    #[error("{count} more entries could not be made as they are in the image")]
    More {
        /// How many.
        count: usize,
    },
}

/// Unpacks what turns the view `below` into the view `above`, with files that are in the given layers, into an empty directory,
/// on at most `threads` threads; the order of the layers does not matter. It is a lower directory of an overlay that is mounted
/// with `userxattr` on top of `below`: deletions are devices of number 0:0, one for each name. Above an empty view it is a root.
///
/// # Errors
/// Fails where a blob is damaged or not the layer of its index, where a file is in none of the layers, and where the target
/// cannot be written or is not empty.
pub fn unpack_overlay(
    directory: BorrowedFd<'_>,
    below: &View,
    above: &View,
    layers: &[UnpackLayer<'_>],
    threads: usize,
) -> Result<Vec<Warning>, LayerError> {
    let mut plan = Plan::default();
    let (below, above) = (below.get(&TreePath::ROOT), above.get(&TreePath::ROOT));
    let mut pending: Vec<(TreePath, Option<&Node>, &Node)> = Vec::new();
    pending.extend(above.map(|above| (TreePath::ROOT, below, above)));
    while let Some((path, below, above)) = pending.pop() {
        plan.add(path.clone(), above)?;
        let below = below.and_then(Node::as_directory);
        let Some(above) = above.as_directory() else { continue };
        for (name, _) in below.into_iter().flat_map(Directory::children) {
            if above.get(name).is_none() {
                plan.whiteouts.push(path.child(name));
            }
        }
        for (name, node) in above.children().rev() {
            let old = below.and_then(|below| below.get(name));
            // Views share what did not change, and what is shared compares at once.
            if old != Some(node) {
                pending.push((path.child(name), old, node));
            }
        }
    }
    plan.run(directory, layers, threads)
}

/// Gives an overlay's new upper directory the attributes that the root has in the view below: an overlay shows its upper
/// directory's own. Without it every layer would change the root.
///
/// # Errors
/// Fails where the directory cannot be changed.
pub fn prepare_upper(upper: BorrowedFd<'_>, below: &View) -> Result<Vec<Warning>, LayerError> {
    let mut place = Place::new(upper)?;
    if let Some(root) = below.get(&TreePath::ROOT) {
        place.finish_directory(&TreePath::ROOT, root.metadata())?;
    }
    Ok(place.into_warnings())
}

/// What is to be made, sorted by how.
#[derive(Default)]
struct Plan<'a> {
    /// Parents first.
    directories: Vec<(TreePath, &'a Metadata)>,
    /// Files whose bytes come with their layer, by diffID and path in the layer.
    files: HashMap<&'a Digest, Files<'a>>,
    /// Everything else.
    others: Vec<(TreePath, &'a FileNode)>,
    /// Further names of a file, behind its first.
    links: Vec<(TreePath, TreePath)>,
    whiteouts: Vec<TreePath>,
    first_names: HashMap<*const FileNode, TreePath>,
}

impl<'a> Plan<'a> {
    fn add(&mut self, path: TreePath, node: &'a Node) -> Result<(), LayerError> {
        let file = match node {
            Node::Directory(directory) => {
                self.directories.push((path, &directory.metadata));
                return Ok(());
            }
            Node::File(file) => file,
        };
        if may_have_more_names(file) {
            if let Some(first) = self.first_names.get(&Arc::as_ptr(file)) {
                self.links.push((first.clone(), path));
                return Ok(());
            }
            self.first_names.insert(Arc::as_ptr(file), path.clone());
        }
        match &file.kind {
            Kind::File(content @ FileContent { location: location @ Location::Layer(diff_id, place), .. }) => {
                let path = shared_with(path, location);
                let wanted = Wanted { path, metadata: &file.metadata, content };
                // Hardly ever more than one.
                let files = self.files.entry(diff_id).or_default();
                files.entry(place).or_insert_with(|| Vec::with_capacity(1)).push(wanted);
            }
            Kind::File(FileContent { location: Location::Context(..) | Location::Spool(_), .. }) => {
                return Err(Problem::NotInLayer.of(&path));
            }
            _ => self.others.push((path, file)),
        }
        Ok(())
    }

    fn run(
        mut self,
        root: BorrowedFd<'_>,
        layers: &[UnpackLayer<'_>],
        threads: usize,
    ) -> Result<Vec<Warning>, LayerError> {
        let mut place = Place::new(root)?;
        for (path, _) in &self.directories {
            place.directory(path)?;
        }
        let mut absent = HashSet::new();
        for (path, file) in &self.others {
            if !make_other(&mut place, path, file)? {
                absent.insert(path);
            }
        }
        let jobs = jobs(std::mem::take(&mut self.files), layers)?;
        let mut warnings = unpack_files(root, jobs, threads)?;
        for (first, path) in self.links.iter().filter(|(first, _)| !absent.contains(first)) {
            place.link(first, path)?;
        }
        for path in &self.whiteouts {
            place.whiteout(path)?;
        }
        for (path, metadata) in self.directories.iter().rev() {
            place.finish_directory(path, metadata)?;
        }
        warnings.extend(place.into_warnings());
        warnings.sort();
        let count = warnings.len().saturating_sub(WARNINGS_MAX);
        warnings.truncate(WARNINGS_MAX);
        warnings.extend((count > 0).then_some(Warning::More { count }));
        Ok(warnings)
    }
}

/// Makes what needs no layer. Returns false for what had to be left out.
fn make_other(place: &mut Place, path: &TreePath, node: &FileNode) -> Result<bool, LayerError> {
    let Kind::File(FileContent { location: Location::Inline(bytes), .. }) = &node.kind else {
        return place.special(path, &node.kind, &node.metadata);
    };
    place.whole_file(path, &node.metadata, bytes)?;
    Ok(true)
}

/// Finds the layer of each file.
fn jobs<'a>(
    mut files: HashMap<&'a Digest, Files<'a>>,
    layers: &'a [UnpackLayer<'a>],
) -> Result<VecDeque<Job<'a>>, LayerError> {
    let mut jobs = VecDeque::new();
    for layer in layers {
        // A layer that comes twice in a stack is read once.
        jobs.extend(files.remove(&layer.contents.diff_id).map(|files| (layer, files)));
    }
    match files.into_values().flat_map(HashMap::into_values).flatten().map(|wanted| wanted.path).min() {
        Some(path) => Err(Problem::NotInLayer.of(&path)),
        None => Ok(jobs),
    }
}
