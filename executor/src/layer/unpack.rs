//! Layers -> directories: the merged view as one root, or the difference of two views as a lower directory of an overlay.
//!
//! ```text
//! view -> plan -> directories -> files, several layers at once -> hard links -> directory attributes
//! ```
//!
//! Each path is written once, by the layer that wins it; what upper layers delete or replace is never written. A layer that
//! wins nothing is not even read. The target must be empty, and belongs to this module until it returns.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    fs::File,
    io::Write,
    os::fd::{AsFd, BorrowedFd},
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    thread,
};

use serde::{Deserialize, Serialize};

use super::{
    Compression,
    compress::read_ahead,
    error::{LayerError, Problem},
    place::Place,
    tar::TarReader,
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
    diff_id: Digest,
    /// Path and digest of each regular file, in the order of the layer.
    files: Vec<(TreePath, Option<Digest>)>,
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
/// at most `threads` layers at once; their order does not matter. It is a lower directory of an overlay that is mounted with
/// `userxattr` on top of `below`: deletions are devices of number 0:0, one for each name. Above an empty view it is a root.
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

type Files<'a> = HashMap<&'a TreePath, Vec<Wanted<'a>>>;

/// A file that is to be made of one entry of a layer.
struct Wanted<'a> {
    path: TreePath,
    metadata: &'a Metadata,
    content: &'a FileContent,
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
        let mut warnings = unpack_layers(root, jobs, threads)?;
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
    let mut file = place.file(path, &node.metadata)?;
    file.write_all(bytes).map_err(|source| LayerError::Operation { operation: "write", path: path.clone(), source })?;
    place.finish(file.as_fd(), path, &node.metadata)?;
    Ok(true)
}

/// One layer with the files that are wanted of it.
type Job<'a> = (&'a UnpackLayer<'a>, Files<'a>);

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

/// Unpacks the wanted files of all layers, at most `threads` layers at once. Each has a second thread that inflates.
fn unpack_layers(root: BorrowedFd<'_>, jobs: VecDeque<Job<'_>>, threads: usize) -> Result<Vec<Warning>, LayerError> {
    let workers = threads.clamp(1, jobs.len().max(1));
    let queue = Mutex::new(jobs);
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
    let work = || -> Result<Vec<Warning>, LayerError> {
        let mut place = Place::new(root)?;
        while let Some((layer, files)) = next() {
            if let Err(error) = unpack_files(&mut place, layer, files) {
                queue.lock().unwrap_or_else(PoisonError::into_inner).clear();
                return Err(error);
            }
        }
        Ok(place.into_warnings())
    };
    thread::scope(|scope| {
        let others = (1..workers)
            .map(|number| thread::Builder::new().name(format!("unpack-{number}")).spawn_scoped(scope, work))
            .collect::<Result<Vec<_>, _>>()
            .map_err(LayerError::Read)?;
        let mut warnings = work()?;
        for other in others {
            match other.join() {
                Ok(result) => warnings.extend(result?),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        Ok(warnings)
    })
}

/// Reads one layer and writes what is wanted of it.
fn unpack_files(place: &mut Place, layer: &UnpackLayer<'_>, mut files: Files<'_>) -> Result<(), LayerError> {
    let blob = File::open(layer.blob).map_err(LayerError::Read)?;
    let (read, found) = read_ahead(blob, layer.compression, |stream| {
        let mut tar = TarReader::new(stream);
        let mut described = layer.contents.files.iter();
        while let Some(change) = tar.next()? {
            // The same path may come several times in a layer; the digest says which of them is meant. What is larger than an
            // index from elsewhere says is none of them: the room for it was never asked for.
            let Action::Put(_, Kind::File(found)) = &change.action else { continue };
            let Some((_, digest)) = described.next().filter(|(path, _)| *path == change.path) else { continue };
            let mut wanted = Vec::new();
            if let Some(files) = files.get_mut(&change.path) {
                let is_meant = |file: &Wanted<'_>| file.content.digest == *digest && file.content.size == found.size;
                wanted.extend(files.extract_if(.., |file| is_meant(file)));
            }
            write_files(place, &mut tar, &change, &wanted)?;
        }
        tar.finish()
    })
    .map_err(LayerError::Read)?;
    read?;
    let expected = &layer.contents.diff_id;
    if found != *expected {
        return Err(LayerError::WrongLayer { expected: expected.clone(), found });
    }
    match files.into_values().flatten().map(|file| file.path).min() {
        Some(path) => Err(Problem::NotInLayer.of(&path)),
        None => Ok(()),
    }
}

/// Writes one entry's content to every file that is made of it: one, but for layers that repeat a path.
fn write_files<R: std::io::Read>(
    place: &mut Place,
    tar: &mut TarReader<R>,
    change: &Change,
    wanted: &[Wanted<'_>],
) -> Result<(), LayerError> {
    if wanted.is_empty() {
        return Ok(());
    }
    let mut files =
        wanted.iter().map(|wanted| place.file(&wanted.path, wanted.metadata)).collect::<Result<Vec<_>, _>>()?;
    while let Some(piece) = tar.content()? {
        for file in &mut files {
            file.write_all(piece).map_err(|source| LayerError::Operation {
                operation: "write",
                path: change.path.clone(),
                source,
            })?;
        }
    }
    for (file, wanted) in files.iter().zip(wanted) {
        place.finish(file.as_fd(), &wanted.path, wanted.metadata)?;
    }
    Ok(())
}
