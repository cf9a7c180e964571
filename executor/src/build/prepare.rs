//! What a build needs before its first step: checked options and a graph come in; the listed context, what the kernel allows and
//! the solver come out.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use karve_dockerfile::ignore::Patterns;

use super::{early, error::BuildError, source_info};
use crate::{
    cache::store::Cache,
    context::{directory::Directory, view::BuildContext},
    image::reference::Repository,
    options::Options,
    plan::graph::{From, Graph, ImageName, Operation},
    progress::Progress,
    registry::{BaseImage, Registry, layout::Layout},
    sandbox::{Isolation, client::Sandbox},
    solve::{
        Mounts, Roots, Solver, Unpacked, agents::Agents, caching::Caching, contexts::Contexts,
        definitions::context_files, error::SolveError, layers::Layers, remote::Remotes, secrets::Secrets,
        upload::Uploader, work::WorkDirectory,
    },
};

/// What is known before the first step.
pub(super) struct Prepared {
    pub(super) dockerfile_name: String,
    pub(super) graph: Graph,
    pub(super) images: BTreeMap<ImageName, BaseImage>,
    pub(super) context: BuildContext,
    pub(super) sandbox: Probed,
    pub(super) threads: usize,
}

/// What the kernel allows.
pub(super) struct Probed {
    sandbox: Sandbox,
    /// `None` when nothing runs.
    pub(super) isolation: Option<Isolation>,
    /// Why no RUN can be executed, where the cache may have all of them.
    missing: Option<String>,
}

/// Puts together what the steps of a build share.
pub(super) fn solver(
    options: &Options,
    registry: &Registry,
    work: &Arc<WorkDirectory>,
    mounts: &Arc<Mounts>,
    progress: &Arc<Progress>,
    prepared: Prepared,
    now: i64,
) -> Result<Solver, BuildError> {
    let Prepared { dockerfile_name, graph, images, context, sandbox, threads } = prepared;
    let hashing_threads = options.cache.as_ref().map(|_| threads);
    let cache = options.cache.as_ref().map(|cache| {
        let places = cache.places.clone();
        Arc::new(Cache::new(registry.clone(), Arc::clone(progress), work.path(), places, cache.writes))
    });
    let store = options.cache_dir.as_deref().map(Layout::create).transpose()?;
    let layers = Arc::new(Layers::new(registry.clone(), Arc::clone(work), cache.clone(), store, threads));
    let uploader = Uploader::new(registry.clone(), Arc::clone(&layers), repositories(options));
    let caching = cache.zip(options.cache.clone());
    let caching = caching.map(|(cache, options)| Caching::new(cache, &layers, &uploader, options, now));
    let secrets = || Secrets::new(options.secrets.clone());
    let remotes = Remotes::new(registry.clone(), secrets(), Arc::clone(work), options.work_limit_bytes);
    let agents = Agents::open(&options.agents).map_err(|(id, source)| BuildError::Agent { id, source })?;
    Ok(Solver {
        dockerfile_name,
        contexts: Arc::new(Contexts::new(context, options.contexts.clone(), hashing_threads)),
        remotes: Arc::new(remotes),
        registry: registry.clone(),
        caching,
        isolation_missing: sandbox.missing,
        images,
        uploader,
        layers,
        roots: Roots::default(),
        unpacked: Unpacked::default(),
        mounts: Arc::clone(mounts),
        sandbox: sandbox.sandbox,
        secrets: secrets(),
        agents,
        work: Arc::clone(work),
        progress: Arc::clone(progress),
        epoch: epoch(options)?,
        annotations: options.annotations.clone(),
        hostname: options.hostname.clone(),
        keeps_layers: options.oci_layout.is_some(),
        threads,
        steps: 0.into(),
        graph,
    })
}

/// The context, if somebody reads it; with `hashing_threads`, the files that the keys of steps need are read.
pub(super) async fn context(
    listed: Option<Result<BuildContext, BuildError>>,
    directory: &Arc<Directory>,
    ignore: &Patterns,
    graph: &Graph,
    hashing_threads: Option<usize>,
) -> Result<BuildContext, BuildError> {
    if !operations(graph).any(|operation| operation.sources().contains(&&From::Context)) {
        return Ok(BuildContext::default());
    }
    let mut context = match listed {
        Some(listed) => listed?,
        None => early::list(directory, ignore).await?,
    };
    let Some(threads) = hashing_threads else { return Ok(context) };
    let wanted = context_files(graph, &context.view);
    let hashed = tokio::task::spawn_blocking(move || {
        context.hash(&|path| wanted.contains(path), threads)?;
        Ok::<_, SolveError>(context)
    });
    Ok(hashed.await.map_err(|_| SolveError::Internal("the thread that reads the context panicked"))??)
}

fn operations(graph: &Graph) -> impl Iterator<Item = &Operation> {
    graph.stages.iter().flat_map(|stage| &stage.steps).map(|step| &step.operation)
}

/// What the kernel lets a RUN do, if there is one: `probed`, or it is asked. Without permission a Dockerfile without RUN still
/// builds.
///
/// With a cache that may have all RUN steps, what is missing is returned: the first that must be executed fails.
pub(super) async fn sandbox(
    probed: Option<Isolation>,
    options: &Options,
    graph: &Graph,
    work: &Path,
) -> Result<Probed, BuildError> {
    let sandbox = Sandbox::default();
    let run = operations(graph).any(|operation| matches!(operation, Operation::Run(_)));
    if !run && !options.require_userns {
        return Ok(Probed { sandbox, isolation: None, missing: None });
    }
    let isolation = match probed {
        Some(isolation) => isolation,
        None => sandbox.probe(work).await,
    };
    let Isolation::None { reason } = &isolation else {
        return Ok(Probed { sandbox, isolation: Some(isolation), missing: None });
    };
    let reason = reason.clone();
    match (options.require_userns, run, &options.cache) {
        (true, ..) => Err(BuildError::IsolationRequired(reason)),
        (false, true, None) => Err(BuildError::Isolation(reason)),
        (false, true, Some(_)) => Ok(Probed { sandbox, isolation: None, missing: Some(reason) }),
        (false, false, _) => Ok(Probed { sandbox, isolation: Some(isolation), missing: None }),
    }
}

/// The repositories that the image is pushed to, each once.
fn repositories(options: &Options) -> Vec<Repository> {
    let mut repositories: Vec<Repository> = Vec::new();
    for destination in options.destinations.iter().filter(|_| options.push) {
        if !repositories.contains(destination.repository()) {
            repositories.push(destination.repository().clone());
        }
    }
    repositories
}

/// The time of the image: what was asked for, or the source's own, or the beginning of time.
fn epoch(options: &Options) -> Result<i64, BuildError> {
    if let Some(timestamp) = options.timestamp {
        return Ok(timestamp);
    }
    let Some(path) = &options.source_info else { return Ok(0) };
    Ok(source_info(path)?.commit_time.unwrap_or(0))
}
