//! The files that contexts hold: the build context and those that `--build-context` names. A named one is listed, or fetched
//! first, when the first step reads it, and never again.

use std::{fs::File, io, sync::Arc};

use tokio::sync::OnceCell;

use super::{
    error::SolveError,
    layers::blocking,
    remote::{FetchedSource, Remotes},
};
use crate::{
    context::{
        directory::{Directory, DirectoryError},
        view::BuildContext,
    },
    filesystem::{
        entry::{Action, Change, FileContent, Kind, Location, Metadata},
        path::TreePath,
        view::View,
    },
    options::ContextSource,
};

/// The name of the file that a URL is as a context.
const FILE_NAME: &str = "context";

/// All contexts of a build. The build context has the number 0.
#[derive(Debug, Default)]
pub struct Contexts {
    main: BuildContext,
    named: Vec<Named>,
    /// On how many threads the files of named contexts are hashed, if at all.
    hashing_threads: Option<usize>,
}

#[derive(Debug)]
struct Named {
    name: String,
    source: ContextSource,
    opened: OnceCell<BuildContext>,
}

impl Contexts {
    /// Takes the build context, which may be empty when nothing reads it, and where the others are. With
    /// `hashing_threads`, their views have the digests of all files.
    pub fn new(main: BuildContext, named: Vec<(String, ContextSource)>, hashing_threads: Option<usize>) -> Self {
        let named = named.into_iter().map(|(name, source)| Named { name, source, opened: OnceCell::new() });
        Self { main, named: named.collect(), hashing_threads }
    }

    /// The name of a named context, by its number from 1.
    pub(super) fn name(&self, number: usize) -> &str {
        number.checked_sub(1).and_then(|index| self.named.get(index)).map_or("", |named| &named.name)
    }

    /// The build context.
    pub(super) fn main(&self) -> &View {
        &self.main.view
    }

    /// A named context, by its number from 1.
    pub(super) async fn named(&self, number: usize, remotes: &Remotes) -> Result<&View, SolveError> {
        let named = number.checked_sub(1).and_then(|index| self.named.get(index));
        let named = named.ok_or(SolveError::Internal("a named context has no such number"))?;
        let opened = named.opened.get_or_try_init(|| async {
            let mut context = named.open(number, remotes).await?;
            let Some(threads) = self.hashing_threads else { return Ok(context) };
            blocking(move || {
                context.hash(&|_| true, threads).map_err(SolveError::from)?;
                Ok(context)
            })
            .await
        });
        Ok(&opened.await?.view)
    }

    /// Opens a file that one of the views lists.
    pub(super) fn open(&self, number: usize, path: &TreePath) -> io::Result<File> {
        let context = match number.checked_sub(1) {
            None => Some(&self.main),
            Some(index) => self.named.get(index).and_then(|named| named.opened.get()),
        };
        context.ok_or(io::ErrorKind::NotFound)?.open(path)
    }
}

impl Named {
    async fn open(&self, number: usize, remotes: &Remotes) -> Result<BuildContext, SolveError> {
        match &self.source {
            ContextSource::Directory(path) => {
                let (path, name) = (path.to_string_lossy().into_owned(), self.name.clone());
                blocking(move || {
                    list(&path, number).map_err(|source| SolveError::NamedContext { name, source: Box::new(source) })
                })
                .await
            }
            ContextSource::Remote(remote) => {
                let fetched = remotes.get(remote).await;
                let fetched =
                    fetched.map_err(|source| SolveError::RemoteContext { name: self.name.clone(), source })?;
                view_of(fetched).map(BuildContext::of_view)
            }
        }
    }
}

/// The view of what was fetched: a directory of a repository, or, as BuildKit has it, one file named `context`.
fn view_of(fetched: FetchedSource) -> Result<View, SolveError> {
    let mut view = View::empty();
    let changes = match fetched {
        FetchedSource::Tree(tree) if tree.root.is_root() => return Ok(tree.view),
        FetchedSource::Tree(tree) => {
            let moved = |change: Change| {
                let path = change.path.relative_to(&tree.root)?;
                Some(Change { path, action: change.action })
            };
            tree.view.changes().into_iter().filter_map(moved).collect()
        }
        FetchedSource::File(file) => {
            let content = FileContent { size: file.bytes, digest: None, location: Location::Spool(file.path) };
            let metadata = Metadata { mode: 0o600, mtime: file.mtime, ..Metadata::default() };
            let path = TreePath::clean(FILE_NAME.as_bytes());
            vec![Change { path, action: Action::Put(metadata, Kind::File(content)) }]
        }
    };
    view.apply(&changes).map_err(SolveError::Base)?;
    Ok(view)
}

/// Lists a directory by its own `.dockerignore`.
fn list(path: &str, number: usize) -> Result<BuildContext, DirectoryError> {
    let directory = Directory::open(path)?;
    let ignore = directory.ignore()?;
    BuildContext::scan(Arc::new(directory), number, &ignore)
}
