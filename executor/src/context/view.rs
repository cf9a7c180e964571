//! The context as a build sees it: a view of its files after `.dockerignore`, and a way to open them.

use std::{fs::File, io, sync::Arc};

use karve_dockerfile::ignore::Patterns;

use super::{
    directory::{Directory, DirectoryError},
    hash::{self, UnreadableFile},
};
use crate::filesystem::{
    entry::Location,
    path::TreePath,
    view::{View, ViewError},
};

/// The files that COPY and ADD may read. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct BuildContext {
    directory: Option<Arc<Directory>>,
    /// Names, modes, sizes and link targets; contents are read when a layer is written.
    pub view: View,
}

/// Why the context cannot be listed.
#[derive(Debug, thiserror::Error)]
pub enum BuildContextError {
    /// The directory cannot be read.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// Its entries do not fit together; it changed while it was read.
    #[error("the build context changed while it was listed")]
    Changed(#[from] ViewError),
}

impl BuildContext {
    /// Lists the directory, without what the patterns exclude. Its files say that they are of the context of this number.
    pub fn scan(directory: Directory, number: usize, ignore: &Patterns) -> Result<Self, BuildContextError> {
        let mut view = View::empty();
        view.apply(&directory.scan(number, ignore)?)?;
        Ok(Self { directory: Some(Arc::new(directory)), view })
    }

    /// Makes a context of files that are not opened through it: they lie in the work directory.
    pub fn of_view(view: View) -> Self {
        Self { directory: None, view }
    }

    /// Reads the files that `wanted` names, on `threads` threads, so that the view has their digests.
    pub fn hash(&mut self, wanted: &dyn Fn(&TreePath) -> bool, threads: usize) -> Result<(), UnreadableFile> {
        let view = std::mem::take(&mut self.view);
        let open = |location: &Location| match location {
            Location::Context(_, path) => self.open(path),
            Location::Spool(path) => File::open(path),
            Location::Inline(_) | Location::Layer(..) => Err(io::ErrorKind::Unsupported.into()),
        };
        self.view = hash::hash(view, wanted, &open, threads)?;
        Ok(())
    }

    /// Opens a file of the view.
    pub fn open(&self, path: &TreePath) -> io::Result<File> {
        self.directory.as_ref().ok_or(io::ErrorKind::NotFound)?.open_file(path)
    }
}
