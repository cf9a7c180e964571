//! ADD of an archive: its entries are unpacked into the destination directory, with their own mode, owner and time.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use super::{CopyError, CopyRequest, Target};
use crate::filesystem::{
    entry::{Action, Change, Metadata},
    path::TreePath,
    view::{FileNode, Node, View},
};

/// Unpacks one archive, given as the changes that its entries are, and returns warnings. Of the request only `destination`,
/// `working_directory`, `ownership` and `mtime` count: `--chmod` has no effect on an archive.
///
/// An entry replaces whatever has its path, but a directory over a directory keeps the children. Directories that the archive
/// implies without an entry are as they were (behind symlinks too), or new: mode 0755 and root's even with `--chown`.
/// Names that would be whiteouts in a layer are left out with a warning.
pub(super) fn unpack(
    target: &mut Target,
    path: &TreePath,
    archive: &[Change],
    request: &CopyRequest<'_>,
) -> Result<Vec<String>, CopyError> {
    let (entries, whiteouts): (Vec<Change>, Vec<Change>) =
        archive.iter().cloned().partition(|change| matches!(change.action, Action::Put(..) | Action::HardLink(_)));
    let mut unpacked = View::empty();
    unpacked.apply(&entries).map_err(|source| CopyError::Archive { path: path.clone(), source })?;
    let named: HashSet<&TreePath> = entries.iter().map(|change| &change.path).collect();

    let destination = target.resolve(&request.destination_path())?.path;
    let directory = CopyRequest { chmod: None, ..request.clone() }.directory_metadata();
    target.make_directories(&destination, &directory)?;
    let mut unpacking = Unpacking { request, target, files: HashMap::new() };
    // Where each directory of the archive went: not always below its parent, for an implied one may be a symlink.
    let mut places = HashMap::from([(TreePath::ROOT, destination)]);
    for (path, node) in unpacked.walk(&TreePath::ROOT) {
        let Some(parent) = path.parent().and_then(|parent| places.get(&parent)) else { continue };
        let place = parent.child(path.name());
        match node {
            Node::Directory(_) if *node.metadata() == Metadata::directory(0) && !named.contains(&path) => {
                places.insert(path, unpacking.imply(&place)?);
            }
            Node::Directory(_) => {
                unpacking.put_directory(&place, node.metadata());
                places.insert(path, place);
            }
            Node::File(file) => unpacking.put_file(place, file),
        }
    }
    let left_out = |change: &Change| {
        format!("the archive's entry for {} is left out: in a layer its name would be a whiteout", change.path)
    };
    Ok(whiteouts.iter().map(left_out).collect())
}

/// An archive being unpacked.
struct Unpacking<'plan> {
    request: &'plan CopyRequest<'plan>,
    target: &'plan mut Target,
    /// What became of the files met so far: so that hard links stay hard links.
    files: HashMap<*const FileNode, Node>,
}

impl Unpacking<'_> {
    /// Makes a directory that the archive has no entry for, if it is missing, and returns where it is.
    fn imply(&mut self, place: &TreePath) -> Result<TreePath, CopyError> {
        let path = self.target.resolve(place)?.path;
        self.target.make_directories(&path, &Metadata::directory(self.request.mtime.unwrap_or_default()))?;
        Ok(path)
    }

    fn put_directory(&mut self, place: &TreePath, metadata: &Metadata) {
        let metadata = self.owned(metadata);
        self.target.replace_by_directory(place.clone(), metadata);
    }

    fn put_file(&mut self, place: TreePath, file: &Arc<FileNode>) {
        let metadata = self.owned(&file.metadata);
        let node =
            self.files.entry(Arc::as_ptr(file)).or_insert_with(|| Node::new(metadata, file.kind.clone())).clone();
        self.target.write(place, node);
    }

    fn owned(&self, metadata: &Metadata) -> Metadata {
        let (uid, gid) = self.request.ownership.unwrap_or((metadata.uid, metadata.gid));
        Metadata { uid, gid, ..metadata.clone() }
    }
}
