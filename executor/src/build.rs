//! One build, from checked options to a digest that the registry confirmed.

pub mod error;

use std::{
    collections::BTreeMap,
    fs::{self, File},
    future::pending,
    io::Read,
    path::Path,
    pin::pin,
    sync::{Arc, atomic::Ordering},
    thread,
};

use futures::future::{join, try_join_all};
use karve_api::{CacheReport, Reason, SourceInfo};
use karve_dockerfile::{self as dockerfile, diagnostic::Diagnostics, ignore::Patterns, lint::Findings};

use self::error::BuildError;
use crate::{
    cache::store::Cache,
    context::{directory::Directory, view::BuildContext},
    image::{
        digest::Digest,
        manifest::OCI_MANIFEST,
        platform::Platform,
        reference::{Reference, Repository},
    },
    options::{Environment, Options},
    plan::{
        self,
        graph::{self, From, Graph, ImageName, Need, Operation, Planned},
    },
    progress::Progress,
    registry::{
        BaseImage, HostPolicy, Registry, RegistryError, RegistryOptions,
        credentials::Credentials,
        layout::{self, Layout},
        retry::RetryPolicy,
    },
    sandbox::{Isolation, client::Sandbox},
    secret::Secret,
    solve::{
        Mounts, Roots, Solved, Solver, StageTime,
        agents::Agents,
        assemble::{self, Image},
        caching::Caching,
        contexts::Contexts,
        definitions::context_files,
        error::SolveError,
        layers::{Layers, StageLayer},
        remote::Remotes,
        saved_caches::SavedCaches,
        secrets::Secrets,
        upload::Uploader,
        work::WorkDirectory,
    },
};

/// What a build made.
#[derive(Clone, Debug, Default)]
pub struct Built {
    /// The digest of the manifest.
    pub digest: Option<Digest>,
    /// Whether an earlier attempt had pushed it already.
    pub adopted: bool,
    /// How RUN was isolated; `None` when nothing ran.
    pub isolation: Option<String>,
    /// The base images with the digests that their names had.
    pub bases: Vec<(String, Digest)>,
    /// How long each stage took.
    pub stages: Vec<StageTime>,
    /// Steps that made a layer.
    pub steps: i64,
    /// Layers of the image.
    pub layers: i64,
    /// Bytes of layers that were sent.
    pub bytes_pushed: i64,
    /// Bytes of layers that were fetched from registries.
    pub bytes_pulled: i64,
    /// What the cache spared, if one was used.
    pub cache: Option<CacheReport>,
}

/// The largest file of CA certificates that is read.
const CERTIFICATES_BYTES_MAX: u64 = 16 << 20;

/// How many warnings of the lint rules a build shows.
const WARNINGS_SHOWN_MAX: usize = 20;

/// More compressors than this gain nothing.
const THREADS_MAX: usize = 8;

/// Builds the image and pushes it, or writes it where the options say.
///
/// Ends early at the timeout, at the limit of the work directory, and when `interrupted` returns the number of a signal.
/// Whatever the end, the processes of all steps are killed and the work directory is removed.
pub async fn build(
    options: &Options,
    environment: &Environment,
    progress: &Arc<Progress>,
    interrupted: impl Future<Output = u8>,
) -> Result<Built, BuildError> {
    let registry = registry(options, environment)?;
    let work = Arc::new(work_directory(options)?);
    let mounts = Arc::new(Mounts::default());
    let (mut interrupted, mut overrun) = (pin!(interrupted), pin!(overrun(options, &work)));
    let result = tokio::select! {
        biased;
        signal = &mut interrupted => Err(BuildError::Interrupted(signal)),
        result = make(options, &registry, &work, &mounts, progress, environment.now) => result,
        error = &mut overrun => Err(error),
    };
    let result = result.map_err(|error| match error.reason() {
        Reason::VolumeFull if !matches!(error, BuildError::VolumeFull { .. }) => BuildError::DiskFull(error.into()),
        Reason::RunFailed if work.is_disk_full() => BuildError::DiskFull(error.into()),
        _ => error,
    });
    if !result.as_ref().is_err_and(BuildError::is_cut_off) {
        // Last: the image is where it belongs, or the step has failed that will find its caches the next time.
        tokio::select! {
            biased;
            _ = interrupted => {}
            () = mounts.save() => {}
            error = overrun => progress.warning(&format!("not all cache mounts are saved: {error}")),
        }
    }
    work.remove().await;
    result
}

/// Returns when the build has had its time or its disk space.
async fn overrun(options: &Options, work: &WorkDirectory) -> BuildError {
    let too_late = async {
        match options.timeout {
            Some(timeout) => tokio::time::sleep(timeout).await,
            None => pending().await,
        }
    };
    let too_large = async {
        match options.work_limit_bytes {
            Some(limit_bytes) => {
                work.exceeds(limit_bytes).await;
                limit_bytes
            }
            None => pending().await,
        }
    };
    tokio::select! {
        () = too_late => BuildError::Timeout(format!("{}s", options.timeout.unwrap_or_default().as_secs())),
        limit_bytes = too_large => BuildError::VolumeFull { limit_bytes },
    }
}

/// Makes the image, however long it takes.
async fn make(
    options: &Options,
    registry: &Registry,
    work: &Arc<WorkDirectory>,
    mounts: &Arc<Mounts>,
    progress: &Arc<Progress>,
    now: i64,
) -> Result<Built, BuildError> {
    if let Some(digest) = adopt(options, registry).await? {
        return Ok(Built { digest: Some(digest), adopted: true, ..Built::default() });
    }
    let mut directory = Directory::open(&options.context.to_string_lossy())?;
    if let Some(path) = &options.context_sub_path {
        directory = directory.subdirectory(path)?;
    }
    let name = options.dockerfile.as_ref().map(|path| path.to_string_lossy());
    let source = directory.dockerfile(name.as_deref(), Some(Path::new(".")))?;
    let dockerfile_name = shown_name(&source.path);
    let wrong = |diagnostics| BuildError::Dockerfile { file: dockerfile_name.clone(), diagnostics };
    let dockerfile = dockerfile::parse(&source.text).map_err(wrong)?;
    let planned = graph::Options { ignored: source.ignore.clone(), ..options.plan.clone() };
    let (graph, images) = plan_with_images(&dockerfile, &planned, registry, &dockerfile_name, wrong).await?;
    tell_warnings(&dockerfile, &graph.lint, &dockerfile_name, progress)?;
    let bases = images.iter().map(|(name, image)| (name.reference.clone(), image.named_digest.clone())).collect();
    let threads = thread::available_parallelism().map_or(1, std::num::NonZero::get).min(THREADS_MAX);
    let hashing_threads = options.cache.as_ref().map(|_| threads);
    let context = if reads_context(&graph) {
        scan(directory, source.ignore, &graph, hashing_threads).await?
    } else {
        BuildContext::default()
    };
    let sandbox = sandbox(options, &graph, work.path()).await?;
    let isolation = sandbox.isolation.as_ref().map(ToString::to_string);
    let planned = Prepared { dockerfile_name, graph, images, context, sandbox, threads };
    let solver = solver(options, registry, work, mounts, progress, planned, now)?;
    mounts.keep(SavedCaches::of(&solver, &options.plan.platform));
    let finished = solver.run().await;
    // Side by side: they wait for the same registry, and for different things.
    let (published, ()) = join(publish(options, registry, &solver, finished), solver.keep()).await;
    let (image, finished) = published?;
    Ok(Built {
        layers: image.layers.len().try_into().unwrap_or(i64::MAX),
        digest: Some(image.digest),
        adopted: false,
        isolation,
        bases,
        stages: finished.stages,
        steps: solver.steps.load(Ordering::Relaxed),
        bytes_pushed: finished.bytes_pushed,
        bytes_pulled: solver.layers.bytes_pulled(),
        cache: solver.caching.as_ref().map(Caching::report),
    })
}

/// Puts the image together and brings it where the options say.
async fn publish(
    options: &Options,
    registry: &Registry,
    solver: &Solver,
    finished: Result<Solved, SolveError>,
) -> Result<(Image, Solved), BuildError> {
    let finished = finished?;
    let target = &solver.graph.stages[solver.graph.target];
    let image =
        assemble::image(&target.config, &finished.layers, &finished.history, &options.annotations, solver.epoch)?;
    if let Some(path) = &options.oci_layout {
        write_layout(path, options, solver, &finished.layers, &image).await?;
    }
    if options.push {
        push(options, registry, &image).await?;
    }
    Ok((image, finished))
}

/// What is known before the first step.
struct Prepared {
    dockerfile_name: String,
    graph: Graph,
    images: BTreeMap<ImageName, BaseImage>,
    context: BuildContext,
    sandbox: Probed,
    threads: usize,
}

/// What the kernel allows.
struct Probed {
    sandbox: Sandbox,
    /// `None` when nothing runs.
    isolation: Option<Isolation>,
    /// Why no RUN can be executed, where the cache may have all of them.
    missing: Option<String>,
}

/// Puts together what the steps of a build share.
fn solver(
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
        mounts: Arc::clone(mounts),
        sandbox: sandbox.sandbox,
        secrets: secrets(),
        agents,
        work: Arc::clone(work),
        progress: Arc::clone(progress),
        epoch: epoch(options)?,
        hostname: options.hostname.clone(),
        keeps_layers: options.oci_layout.is_some(),
        threads,
        steps: 0.into(),
        graph,
    })
}

/// Shows what the lint rules found. Fails the build when `# check=error=true` asks for that.
fn tell_warnings(
    dockerfile: &dockerfile::ast::Dockerfile,
    findings: &Findings,
    file: &str,
    progress: &Progress,
) -> Result<(), BuildError> {
    for warning in findings.show(dockerfile).iter().take(WARNINGS_SHOWN_MAX) {
        progress.warning(&warning.render(file));
    }
    let more = (findings.warnings.len() + findings.omitted).saturating_sub(WARNINGS_SHOWN_MAX);
    if more > 0 {
        progress.warning(&format!("{file}: {more} more warnings: `karve check` shows them"));
    }
    if findings.violated.is_empty() { Ok(()) } else { Err(BuildError::Lint(findings.violated.names())) }
}

/// Lists the context off the runtime's threads; with `hashing_threads`, reads the files that the keys of steps need.
async fn scan(
    directory: Directory,
    ignore: Patterns,
    graph: &Graph,
    hashing_threads: Option<usize>,
) -> Result<BuildContext, BuildError> {
    let panicked = |_| SolveError::Internal("the thread that lists the context panicked");
    let listed = tokio::task::spawn_blocking(move || BuildContext::scan(directory, 0, &ignore)).await;
    let mut context = listed.map_err(panicked)??;
    let Some(threads) = hashing_threads else { return Ok(context) };
    let wanted = context_files(graph, &context.view);
    let hashed = tokio::task::spawn_blocking(move || {
        context.hash(&|path| wanted.contains(path), threads)?;
        Ok::<_, SolveError>(context)
    });
    Ok(hashed.await.map_err(panicked)??)
}

/// How messages call the Dockerfile: by its path in the context; one from elsewhere by its name.
fn shown_name(path: &str) -> String {
    let name = Path::new(path).file_name().filter(|_| path.starts_with('/'));
    name.map_or_else(|| path.to_owned(), |name| name.to_string_lossy().into_owned())
}

/// Looks for the image that an earlier attempt at this build may have pushed: its own tag is pushed last of all.
async fn adopt(options: &Options, registry: &Registry) -> Result<Option<Digest>, BuildError> {
    let Some(reference) = &options.adopt else { return Ok(None) };
    Ok(registry.head_manifest(reference).await?.map(|descriptor| descriptor.digest))
}

/// Plans, and resolves the images that the plan asks for, until nothing is left to ask.
async fn plan_with_images(
    dockerfile: &dockerfile::ast::Dockerfile,
    options: &graph::Options,
    registry: &Registry,
    file: &str,
    wrong: impl Fn(Diagnostics) -> BuildError,
) -> Result<(Graph, BTreeMap<ImageName, BaseImage>), BuildError> {
    let mut images = BTreeMap::new();
    loop {
        let configs = images.iter().map(|(name, image): (&ImageName, &BaseImage)| (name.clone(), image.config.clone()));
        match plan::build(dockerfile, options, &configs.collect()).map_err(&wrong)? {
            Planned::Graph(graph) => return Ok((graph, images)),
            Planned::Needs(needed) => {
                let resolved = needed.into_iter().map(|Need { image: name, line }| async move {
                    match resolve(&name, registry).await {
                        Ok(image) => Ok((name, image)),
                        Err(error) => {
                            let (file, image) = (file.to_owned(), name.reference);
                            Err(BuildError::Image { file, line, image, source: Box::new(error) })
                        }
                    }
                });
                images.extend(try_join_all(resolved).await?);
            }
        }
    }
}

/// Finds an image in its registry, or in the OCI layout that it names.
pub(crate) async fn resolve(name: &ImageName, registry: &Registry) -> Result<BaseImage, BuildError> {
    let platform: Platform = name.platform.parse()?;
    if let Some(layout) = name.reference.strip_prefix("oci-layout:") {
        let (path, selector) = layout::parse(layout.strip_prefix("//").unwrap_or(layout));
        return Ok(layout::open(&path, &selector, &platform)?);
    }
    let reference: Reference = name.reference.parse().map_err(RegistryError::from)?;
    Ok(registry.resolve(&reference, &platform).await?)
}

/// The client, with what the options and the environment say about registries.
pub(crate) fn registry(options: &Options, environment: &Environment) -> Result<Registry, BuildError> {
    let mut hosts = BTreeMap::new();
    for (host, special) in &options.registries {
        let mut ca_pem = Vec::new();
        for path in &special.certificates {
            let file = |source| BuildError::File { path: path.clone(), source };
            File::open(path).map_err(file)?.take(CERTIFICATES_BYTES_MAX).read_to_end(&mut ca_pem).map_err(file)?;
        }
        let policy = HostPolicy { plain_http: special.plain_http, skip_tls_verify: special.skip_tls_verify, ca_pem };
        hosts.insert(host.clone(), policy);
    }
    let parse = |document: &Secret, name: &str| {
        Credentials::parse(document.expose().as_bytes(), name).map_err(RegistryError::from)
    };
    let mut credentials = Credentials::default();
    for document in &environment.registry_auth {
        credentials.merge(parse(document, "the registry credentials")?);
    }
    let push_credentials = match (&environment.push_auth, options.destinations.first()) {
        (Some(document), Some(destination)) => {
            Some((destination.repository().clone(), parse(document, "the push credentials")?))
        }
        _ => None,
    };
    let user_agent = concat!("karve/", env!("CARGO_PKG_VERSION")).to_owned();
    Ok(Registry::new(RegistryOptions {
        hosts,
        credentials,
        push_credentials,
        user_agent,
        retry: RetryPolicy::default(),
    })?)
}

fn work_directory(options: &Options) -> Result<WorkDirectory, BuildError> {
    let parent = options.work_dir.clone().unwrap_or_else(std::env::temp_dir);
    WorkDirectory::create(&parent).map_err(|source| BuildError::File { path: parent, source })
}

fn operations(graph: &Graph) -> impl Iterator<Item = &Operation> {
    graph.stages.iter().flat_map(|stage| &stage.steps).map(|step| &step.operation)
}

fn reads_context(graph: &Graph) -> bool {
    operations(graph).any(|operation| operation.sources().contains(&&From::Context))
}

/// Asks the kernel what a RUN may do, if there is one. Without permission a Dockerfile without RUN still builds.
///
/// With a cache that may have all RUN steps, what is missing is returned: the first that must be executed fails.
async fn sandbox(options: &Options, graph: &Graph, work: &Path) -> Result<Probed, BuildError> {
    let sandbox = Sandbox::default();
    let run = operations(graph).any(|operation| matches!(operation, Operation::Run(_)));
    if !run && !options.require_userns {
        return Ok(Probed { sandbox, isolation: None, missing: None });
    }
    let isolation = sandbox.probe(work).await;
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

/// Reads what `karve context` wrote beside the tree.
pub fn source_info(path: &Path) -> Result<SourceInfo, BuildError> {
    let text = fs::read(path).map_err(|source| BuildError::File { path: path.to_owned(), source })?;
    Ok(serde_json::from_slice(&text)?)
}

/// Writes the image, base layers included, into an OCI image layout under every destination's tag.
async fn write_layout(
    path: &Path,
    options: &Options,
    solver: &Solver,
    stage_layers: &[Arc<StageLayer>],
    image: &Image,
) -> Result<(), BuildError> {
    let layout = Layout::create(path)?;
    for (layer, descriptor) in stage_layers.iter().zip(&image.layers) {
        layout.push_blob(descriptor, solver.layers.blob(layer).await?).await?;
    }
    layout.push_bytes(&image.config)?;
    let tags = options.destinations.iter().filter_map(Reference::tag);
    layout.push_manifest(tags, &image.manifest, OCI_MANIFEST).await?;
    Ok(())
}

/// Pushes the configuration to every repository and then the manifest under every destination, in the order given: the
/// tag by which a later attempt recognises this build comes last.
async fn push(options: &Options, registry: &Registry, image: &Image) -> Result<(), BuildError> {
    for destination in &options.destinations {
        registry.push_bytes(destination.repository(), &image.config).await?;
        registry.push_manifest(destination, &image.manifest, OCI_MANIFEST).await?;
    }
    Ok(())
}
