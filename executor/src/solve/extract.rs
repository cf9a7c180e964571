//! Files that lie in layers -> files of the work directory: out of a directory in which their layer lies unpacked, if there is
//! one, and else in one pass over the layer.

use std::{
    collections::{BTreeMap, HashMap},
    fs::{self, File},
    io,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use rustix::fs::{CWD, Mode, OFlags, openat};

use super::{
    Solver,
    copy::relocate,
    error::SolveError,
    layers::{StageLayer, blocking},
};
use crate::{
    filesystem::{
        copy::needed_layers,
        entry::{Change, FileContent, Location},
        path::TreePath,
    },
    hash::{PIECE_BYTES, copy},
    image::digest::Digest,
    layer::{changes::open_file, read},
};

/// The directories in which files of layers lie, by diffID: each holds those of the layer's files that nothing above has
/// replaced.
#[derive(Debug, Default)]
pub struct Unpacked(Mutex<HashMap<Digest, Vec<PathBuf>>>);

impl Unpacked {
    /// Remembers that layers were unpacked into a directory, or made of it.
    pub(super) fn add<'a>(&self, layers: impl IntoIterator<Item = &'a Arc<StageLayer>>, directory: &Path) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for layer in layers {
            known.entry(layer.diff_id.clone()).or_default().push(directory.to_owned());
        }
    }

    fn directories(&self, diff_id: &Digest) -> Vec<PathBuf> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(diff_id).cloned().unwrap_or_default()
    }
}

/// What is wanted of a layer: the files with where they go.
type Wanted = BTreeMap<TreePath, (FileContent, PathBuf)>;

impl Solver {
    /// Brings files that lie in layers into the work directory, and says in the changes that they are there.
    pub(super) async fn extract(&self, changes: Vec<Change>) -> Result<Vec<Change>, SolveError> {
        let mut spooled: HashMap<(Digest, TreePath), PathBuf> = HashMap::new();
        for (diff_id, files) in needed_layers(&changes) {
            let layer =
                self.layers.find(&diff_id).ok_or(SolveError::Internal("a copied file lies in an unknown layer"))?;
            let directory =
                self.work.directory("files").map_err(|source| SolveError::file(self.work.path(), source))?;
            let numbered = files.into_iter().enumerate();
            let wanted: Wanted = numbered
                .map(|(number, (path, content))| (path, (content.clone(), directory.join(number.to_string()))))
                .collect();
            spooled.extend(wanted.iter().map(|(path, (_, file))| ((diff_id.clone(), path.clone()), file.clone())));
            let directories = self.unpacked.directories(&diff_id);
            let missing = blocking(move || Ok(take_unpacked(&directories, wanted))).await?;
            if !missing.is_empty() {
                let blob = self.layers.blob(&layer).await?.clone();
                let read = read_layer(&layer, blob, missing).await;
                read.map_err(|error| if layer.is_of_cache() { layer.blame(error) } else { error })?;
            }
        }
        Ok(relocate(changes, &mut |location| match location {
            Location::Layer(diff_id, path) => {
                spooled.get(&(diff_id.clone(), path.clone())).cloned().map(Location::Spool)
            }
            _ => None,
        }))
    }
}

/// Takes files out of a layer.
async fn read_layer(layer: &StageLayer, blob: PathBuf, wanted: Wanted) -> Result<(), SolveError> {
    let (compression, expected, digest) = (layer.compression, layer.diff_id.clone(), layer.descriptor.digest.clone());
    blocking(move || {
        let file = File::open(&blob).map_err(|source| SolveError::file(&blob, source))?;
        let found = read::files(file, compression, &mut |path| Some(wanted.get(path)?.1.clone()))?;
        if found != expected {
            return Err(SolveError::DiffId { layer: digest, expected, found });
        }
        let missing = wanted.into_values().map(|(_, file)| file).find(|file| !file.exists());
        missing.map_or(Ok(()), |file| Err(SolveError::file(&file, io::ErrorKind::NotFound.into())))
    })
    .await
}

/// Copies what is found in the directories, and returns the rest. Whatever lies there is what is wanted only if its digest
/// says so: it may be of a layer above.
fn take_unpacked(directories: &[PathBuf], mut wanted: Wanted) -> Wanted {
    let mut buffer = vec![0; PIECE_BYTES];
    for directory in directories {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let Ok(root) = openat(CWD, directory, flags, Mode::empty()) else { continue };
        wanted.retain(|path, (content, target)| !is_taken(&root, path, content, target, &mut buffer));
    }
    wanted
}

/// Whether the file that lies at a path is the one that is wanted; the target has its bytes then, and is not there otherwise.
fn is_taken(root: &OwnedFd, path: &TreePath, content: &FileContent, target: &Path, buffer: &mut [u8]) -> bool {
    let mut copied = || {
        let file = open_file(root.as_fd(), path)?;
        let status = file.metadata()?;
        if !status.is_file() || status.len() != content.size {
            return Ok(None);
        }
        copy(file, File::create(target)?, buffer).map(Some)
    };
    let copied: io::Result<Option<Digest>> = copied();
    let is_taken = matches!(&copied, Ok(Some(digest)) if content.digest.as_ref() == Some(digest));
    if !is_taken {
        // Hardly ever is there anything, and what stays would pass for a file of the layer.
        let removed = fs::remove_file(target);
        tracing::debug!(?copied, ?removed, %path, "a file is taken out of its layer");
    }
    is_taken
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_has_the_wanted_digest_is_taken() {
        let folder = tempfile::tempdir().unwrap();
        let [above, below, target] = ["above", "below", "target"].map(|name| folder.path().join(name));
        for directory in [&above, &below, &target] {
            fs::create_dir(directory).unwrap();
        }
        for (file, text) in [("same", "same"), ("other", "OTHER"), ("long", "longer")] {
            fs::write(above.join(file), text).unwrap();
        }
        std::os::unix::fs::symlink("same", above.join("link")).unwrap();
        fs::write(below.join("other"), "other").unwrap();
        let wanted = ["same", "other", "long", "link", "gone"].map(|name| {
            let text = if name == "link" { "same" } else { name };
            let content = FileContent {
                size: text.len() as u64,
                digest: Some(Digest::of(text.as_bytes())),
                location: Location::unknown(),
            };
            (TreePath::clean(name.as_bytes()), (content, target.join(name)))
        });
        let missing = take_unpacked(&[above, folder.path().join("none"), below], wanted.into());
        assert!(missing.values().all(|(_, target)| !target.exists()));
        assert_eq!(missing.into_keys().map(|path| path.to_string()).collect::<Vec<_>>(), ["/gone", "/link", "/long"]);
        for name in ["same", "other"] {
            assert_eq!(fs::read_to_string(target.join(name)).unwrap(), name);
        }
    }
}
