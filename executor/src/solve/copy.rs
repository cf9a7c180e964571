//! COPY, ADD and WORKDIR: layers from views, without unpacking anything.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read},
    sync::Arc,
};

use karve_dockerfile::{chmod::Chmod, ignore::Patterns};

use super::{
    Solver,
    contexts::Contexts,
    error::{SolveError, StepError},
    layers::{Known, StageLayer, blocking},
    remote::FetchedSource,
    result_of,
    stage::{StageResult, StageRun},
};
use crate::{
    filesystem::{
        copy::{self, CopyRequest, Fetched},
        entry::{Action, Change, FileContent, Kind, Location},
        path::TreePath,
        users,
        view::{Node, View},
    },
    layer::{
        Compression,
        read::{self, archive_kind},
        write::{WriteOptions, Written, write},
    },
    plan::{
        graph::{Copy, From, Source},
        remote::Remote,
    },
};

/// The largest layer, in bytes of its tar stream: 1 TiB. The work volume's own limit is met long before.
pub(super) const LAYER_BYTES_MAX: u64 = 1 << 40;

impl StageRun<'_> {
    /// Decides what a COPY or an ADD changes.
    pub(super) async fn copy(&mut self, operation: &Copy) -> Result<Vec<Change>, StepError> {
        let solver = self.solver;
        // Nobody waits for a stage of which nothing is copied: it may not be built.
        let reads = operation.sources.iter().any(|source| matches!(source, Source::Path(_)));
        let source = if reads { self.view_of(&operation.from).await? } else { View::empty() };
        let lower = self.state.view(solver).await?;
        let ownership = operation.chown.as_deref().map(|owner| users::resolve_ownership(lower, owner)).transpose()?;
        let chmod = operation.chmod.as_deref().map(Chmod::parse).transpose()?;
        let exclude = Patterns::from_lines(&operation.exclude)?;
        let archives =
            if operation.unpack { solver.archives(&source, &operation.sources).await? } else { BTreeMap::new() };
        let fetched = solver.fetched(operation).await?;
        let request = CopyRequest {
            sources: &operation.sources,
            destination: &operation.destination,
            working_directory: &operation.working_directory,
            ownership,
            chmod,
            excluded: &|path: &TreePath| exclude.excludes(path.as_bytes()),
            parents: operation.parents,
            link: operation.link,
            from_context: operation.from.is_context(),
            mtime: Some(solver.epoch),
            archives: &archives,
            fetched: &fetched,
        };
        let plan = copy::plan(lower, &source, &request)?;
        plan.warnings.iter().for_each(|warning| solver.progress.warning(warning));
        Ok(plan.changes)
    }

    /// The files that a COPY or a mount takes from; waits for a stage that is not finished.
    pub(super) async fn view_of(&self, from: &From) -> Result<View, SolveError> {
        let mut result = match from {
            From::Context => return Ok(self.solver.contexts.main().clone()),
            From::Named(number) => return Ok(self.solver.contexts.named(*number, &self.solver.remotes).await?.clone()),
            From::Stage(number) => StageResult::clone(&*result_of(self.slots, *number).await?),
            From::Image(name) => self.solver.image(name)?,
        };
        Ok(result.view(self.solver).await?.clone())
    }
}

impl Solver {
    /// The entries of the archives among the sources of an ADD; their files are spooled.
    async fn archives(&self, source: &View, sources: &[Source]) -> Result<BTreeMap<TreePath, Vec<Change>>, StepError> {
        let mut archives = BTreeMap::new();
        for path in copy::archive_candidates(source, sources)? {
            let content = source.get(&path).and_then(Node::content);
            let Some(Location::Context(0, location)) = content.map(|content| &content.location) else { continue };
            let (contexts, file) = (Arc::clone(&self.contexts), location.clone());
            if let Some(entries) = self.archive(location.clone(), move || contexts.open(0, &file)).await? {
                archives.insert(path, entries);
            }
        }
        Ok(archives)
    }

    /// What an ADD takes from elsewhere, the entries of archives that it unpacks included.
    async fn fetched(&self, operation: &Copy) -> Result<BTreeMap<Remote, Fetched>, StepError> {
        let mut all = BTreeMap::new();
        for source in &operation.sources {
            let Source::Remote { remote, .. } = source else { continue };
            let fetched = match (self.remotes.get(remote).await?, remote) {
                (FetchedSource::File(file), Remote::Url(url)) => {
                    let opened = file.path.clone();
                    let open = move || File::open(&opened);
                    let entries = if operation.unpack_remote {
                        self.archive(TreePath::clean(url.name.as_bytes()), open).await?
                    } else {
                        None
                    };
                    let content = FileContent { size: file.bytes, digest: None, location: Location::Spool(file.path) };
                    Fetched::File { name: url.name.clone(), mtime: file.mtime, content, entries }
                }
                (FetchedSource::Tree(tree), Remote::Git(repository)) => {
                    let mtime = repository.commit_time.then_some(tree.commit_time);
                    Fetched::Tree { view: tree.view, root: tree.root, mtime }
                }
                _ => return Err(SolveError::Internal("what was fetched is of another kind").into()),
            };
            all.insert(remote.clone(), fetched);
        }
        Ok(all)
    }

    /// The entries of a file, or `None` when it is not an archive.
    async fn archive(
        &self,
        path: TreePath,
        open: impl Fn() -> io::Result<File> + Send + 'static,
    ) -> Result<Option<Vec<Change>>, StepError> {
        let spool = self.work.directory("archive").map_err(StepError::Work)?;
        let changes = blocking(move || {
            let unreadable = |source| SolveError::Context { path: path.clone(), source };
            let open = || open().map_err(unreadable);
            let Some(kind) = archive_kind(open()?).map_err(unreadable)? else { return Ok(None) };
            let index = read::index(open()?, kind)?;
            let mut spooled = BTreeMap::new();
            read::files(open()?, kind, &mut |path| {
                let file = spool.join(spooled.len().to_string());
                Some(spooled.entry(path.clone()).or_insert(file).clone())
            })?;
            Ok(Some(relocate(index.changes, &mut |location| match location {
                Location::Layer(_, path) => spooled.get(path).cloned().map(Location::Spool),
                _ => None,
            })))
        });
        Ok(changes.await?)
    }

    /// Writes a layer.
    pub(super) async fn write(&self, changes: Vec<Change>) -> Result<Arc<StageLayer>, StepError> {
        let written = self.spool(changes, Compression::Gzip).await?;
        Ok(self.layers.written(written.layer, Known::Index(written.index)))
    }

    /// Writes changes into a file that is no layer yet; files that lie in layers are taken out of these first.
    pub(super) async fn spool(&self, changes: Vec<Change>, compression: Compression) -> Result<Written, StepError> {
        let changes = self.extract(changes).await?;
        let contexts = Arc::clone(&self.contexts);
        let blob = self.work.unused("layer");
        let options = WriteOptions { compression, threads: self.threads, size_max: LAYER_BYTES_MAX };
        Ok(blocking(move || Ok(write(changes, &mut |location| open(&contexts, location), &blob, &options)?)).await?)
    }
}

/// Gives files another location where the function knows one.
pub(super) fn relocate(mut changes: Vec<Change>, place: &mut dyn FnMut(&Location) -> Option<Location>) -> Vec<Change> {
    for change in &mut changes {
        if let Action::Put(_, Kind::File(content)) = &mut change.action
            && let Some(location) = place(&content.location)
        {
            content.location = location;
        }
    }
    changes
}

fn open(contexts: &Contexts, location: &Location) -> io::Result<Box<dyn Read>> {
    match location {
        Location::Inline(bytes) => Ok(Box::new(io::Cursor::new(Arc::clone(bytes)))),
        Location::Context(number, path) => Ok(Box::new(contexts.open(*number, path)?)),
        Location::Spool(path) => Ok(Box::new(File::open(path)?)),
        Location::Layer(..) => Err(io::Error::other("a file of a layer was not extracted")),
    }
}
