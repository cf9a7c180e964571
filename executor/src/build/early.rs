//! What is begun while registries answer, because the Dockerfile looks as if it were needed: a listed context and what the
//! kernel allows come out. What turns out to be needed and was not begun is asked for later.

use std::{path::Path, sync::Arc};

use futures::future::join;
use karve_dockerfile::{
    ast::{Dockerfile, Kind},
    ignore::Patterns,
};

use super::error::BuildError;
use crate::{
    context::{directory::Directory, view::BuildContext},
    sandbox::{Isolation, client::Sandbox},
    solve::error::SolveError,
};

/// What was begun. A context that cannot be listed is a mistake only if somebody reads it.
#[derive(Debug, Default)]
pub(super) struct Early {
    pub(super) listed: Option<Result<BuildContext, BuildError>>,
    pub(super) isolation: Option<Isolation>,
}

/// Lists and asks, side by side.
pub(super) async fn begin(
    dockerfile: &Dockerfile,
    directory: &Arc<Directory>,
    ignore: &Patterns,
    work: &Path,
) -> Result<Early, BuildError> {
    let instructions = || dockerfile.stages.iter().flat_map(|stage| &stage.instructions);
    let reads = instructions().any(|instruction| match &instruction.kind {
        Kind::Add(_) | Kind::Copy(_) => true,
        Kind::Run(run) => !run.mounts.is_empty(),
        _ => false,
    });
    let runs = instructions().any(|instruction| matches!(instruction.kind, Kind::Run(_)));
    let listed = async { if reads { Some(list(directory, ignore).await) } else { None } };
    let isolation = async { if runs { Some(Sandbox::default().probe(work).await) } else { None } };
    let (listed, isolation) = join(listed, isolation).await;
    Ok(Early { listed, isolation })
}

/// Lists a context off the runtime's threads.
pub(super) async fn list(directory: &Arc<Directory>, ignore: &Patterns) -> Result<BuildContext, BuildError> {
    let (directory, ignore) = (Arc::clone(directory), ignore.clone());
    let listed = tokio::task::spawn_blocking(move || BuildContext::scan(directory, 0, &ignore)).await;
    Ok(listed.map_err(|_| SolveError::Internal("the thread that lists the context panicked"))??)
}
