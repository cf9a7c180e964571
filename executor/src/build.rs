//! One build, from checked options to a digest that the registry confirmed.

mod early;
pub mod error;
mod prepare;
mod publish;

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

use futures::future::{join, try_join, try_join_all};
use karve_api::{CacheReport, Reason, SourceInfo};
use karve_dockerfile::{self as dockerfile, diagnostic::Diagnostics, lint::Findings};

use self::{
    error::BuildError,
    prepare::{Prepared, context, sandbox, solver},
    publish::publish,
};
use crate::{
    context::directory::Directory,
    image::{digest::Digest, platform::Platform, reference::Reference},
    options::{Environment, Options},
    plan::{
        self,
        graph::{self, Graph, ImageName, Need, Planned},
    },
    progress::Progress,
    registry::{
        BaseImage, HostPolicy, Registry, RegistryError, RegistryOptions, credentials::Credentials, layout,
        retry::RetryPolicy,
    },
    secret::Secret,
    solve::{Mounts, StageTime, caching::Caching, saved_caches::SavedCaches, work::WorkDirectory},
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
/// Whatever the end, the processes of all steps are killed, and the work directory is removed unless it is to be kept.
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
    let directory = Arc::new(directory);
    let ((graph, images), early) = try_join(
        plan_with_images(&dockerfile, &planned, registry, &dockerfile_name, wrong),
        early::begin(&dockerfile, &directory, &source.ignore, work.path()),
    )
    .await?;
    tell_warnings(&dockerfile, &graph.lint, &dockerfile_name, progress)?;
    let bases = images.iter().map(|(name, image)| (name.reference.clone(), image.named_digest.clone())).collect();
    let threads = thread::available_parallelism().map_or(1, std::num::NonZero::get).min(THREADS_MAX);
    let hashing_threads = options.cache.as_ref().map(|_| threads);
    let context = context(early.listed, &directory, &source.ignore, &graph, hashing_threads).await?;
    let sandbox = sandbox(early.isolation, options, &graph, work.path()).await?;
    let isolation = sandbox.isolation.as_ref().map(ToString::to_string);
    let planned = Prepared { dockerfile_name, graph, images, context, sandbox, threads };
    let solver = solver(options, registry, work, mounts, progress, planned, now)?;
    mounts.keep(SavedCaches::of(&solver, &options.plan.platform));
    let finished = solver.run().await;
    // Side by side: they wait for the same registry, and for different things.
    let (finished, ()) = join(publish(options, registry, &solver, finished), solver.keep()).await;
    let finished = finished?;
    Ok(Built {
        layers: finished.layers.len().try_into().unwrap_or(i64::MAX),
        digest: Some(finished.image.digest),
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
    WorkDirectory::create(&parent, options.keep_work_dir).map_err(|source| BuildError::File { path: parent, source })
}

/// Reads what `karve context` wrote beside the tree.
pub fn source_info(path: &Path) -> Result<SourceInfo, BuildError> {
    let text = fs::read(path).map_err(|source| BuildError::File { path: path.to_owned(), source })?;
    Ok(serde_json::from_slice(&text)?)
}
