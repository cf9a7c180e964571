//! A step by the content of what it sees: its key, and what the cache has under it.

use futures::future::join;

use super::{
    caching::{Caching, Lookup, Made},
    definitions::platform,
    error::StepError,
    layers::blocking,
    rootfs::watching_memory,
    stage::{StageRun, Work},
};
use crate::{
    cache::key::{self, Key},
    filesystem::{path::TreePath, view::digest_of_changes},
    plan::graph::Step,
};

/// The key of a step, if it has one, and what was found under it.
type LookedUp = (Option<Key>, Option<Made>);

impl StageRun<'_> {
    /// Whether a step is a RUN behind one that had to be made: it sees something new.
    pub(super) fn is_hardly_found(&self, work: &Work<'_>) -> bool {
        self.has_made && matches!(work, Work::Run(_)) && self.solver.isolation_missing.is_none()
    }

    /// Looks for a RUN, and materialises the stage meanwhile. Whether that succeeds matters only if the step is not found.
    pub(super) async fn look_up_and_prepare(
        &mut self,
        caching: &Caching,
        step: &Step,
        work: &Work<'_>,
    ) -> Result<LookedUp, StepError> {
        let (solver, mut ahead) = (self.solver, self.state.clone());
        let materialised = watching_memory(solver.materialise(&mut ahead));
        let (materialised, looked_up) = join(materialised, self.look_up(caching, step, work)).await;
        let looked_up = looked_up?;
        match (materialised, &looked_up) {
            (Ok(_), _) => self.state.rootfs = ahead.rootfs,
            (Err(error), (_, Some(_))) => tracing::debug!(%error, "the stage is not needed on disk"),
            (Err(error), (_, None)) => return Err(error),
        }
        Ok(looked_up)
    }

    /// Looks for a step by the content of what it sees.
    pub(super) async fn look_up(
        &mut self,
        caching: &Caching,
        step: &Step,
        work: &Work<'_>,
    ) -> Result<LookedUp, StepError> {
        if !caching.caches(&step.operation) {
            return Ok((None, None));
        }
        let content = self.content_key(work).await?;
        let mut found = None;
        if let Some(key) = content.as_ref().filter(|_| caching.options.reads_steps)
            && let Lookup::Entry(entry, source) = caching.find(key).await
            && let Some(entry) = entry.layers.last()
            && let Some(layer) = Caching::layer(&self.solver.layers, entry, &source)
        {
            found = Some(Made { layer, created: entry.created });
        }
        Ok((content, found))
    }

    /// The key by what the step sees; `None` where something was not read yet.
    async fn content_key(&mut self, work: &Work<'_>) -> Result<Option<Key>, StepError> {
        let run = match work {
            Work::Write(changes) => return Ok(digest_of_changes(changes).map(|digest| key::layer(digest).key())),
            Work::Run(run) => *run,
        };
        let mut mounted = Vec::with_capacity(run.mounts.len());
        for mount in &run.mounts {
            let Some(from) = mount.from() else {
                mounted.push(None);
                continue;
            };
            let view = self.view_of(from).await?;
            // What is missing is said when it is mounted.
            let source = mount.source().unwrap_or_default();
            let Ok(resolved) = view.resolve(source.as_bytes(), &TreePath::ROOT) else { return Ok(None) };
            let Some(digest) = view.digest(&resolved.path) else { return Ok(None) };
            mounted.push(Some((key::MOUNTED.to_owned(), digest)));
        }
        let view = self.state.view(self.solver).await?.clone();
        // Of many files it takes a while, in which others should not have to wait.
        let Some(files) = blocking(move || Ok(view.digest(&TreePath::ROOT))).await? else { return Ok(None) };
        let platform = platform(&self.stage.config);
        Ok(Some(key::run(run, &platform, mounted, (key::ALL_FILES, &files)).key()))
    }
}
