//! The context as a build sees it: a view of its files after `.dockerignore`, and a way to open them.

use std::{fs::File, io, sync::Arc};

use karve_dockerfile::ignore::Patterns;

use super::{
    directory::{Directory, DirectoryError},
    hash::{self, UnreadableFile},
};
use crate::filesystem::{entry::Location, path::TreePath, view::View};

/// The files that COPY and ADD may read. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct BuildContext {
    directory: Option<Arc<Directory>>,
    /// Names, modes, sizes and link targets; contents are read when a layer is written.
    pub view: View,
}

impl BuildContext {
    /// Lists the directory, without what the patterns exclude. Its files say that they are of the context of this number.
    pub fn scan(directory: Arc<Directory>, number: usize, ignore: &Patterns) -> Result<Self, DirectoryError> {
        let view = directory.scan(number, ignore)?;
        Ok(Self { directory: Some(directory), view })
    }

    /// Makes a context of files that are not opened through it: they lie in the work directory.
    pub fn of_view(view: View) -> Self {
        Self { directory: None, view }
    }

    /// Reads the files that `wanted` names, on `threads` threads, so that the view has their digests.
    pub fn hash(&mut self, wanted: &dyn Fn(&TreePath) -> bool, threads: usize) -> Result<(), UnreadableFile> {
        let mut view = std::mem::take(&mut self.view);
        let open = |location: &Location| match location {
            Location::Context(_, path) => self.open(path),
            Location::Spool(path) => File::open(path),
            Location::Inline(_) | Location::Layer(..) => Err(io::ErrorKind::Unsupported.into()),
        };
        let hashed = hash::hash(&mut view, wanted, &open, threads);
        self.view = view;
        hashed
    }

    /// Opens a file of the view.
    pub fn open(&self, path: &TreePath) -> io::Result<File> {
        self.directory.as_ref().ok_or(io::ErrorKind::NotFound)?.open_file(path)
    }
}
