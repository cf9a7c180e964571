//! `karve run`: an ImageBuild without a cluster. The spec becomes the flags that the operator would give the executor,
//! and the resource is printed with the status that the operator would write.

use std::{
    collections::BTreeMap,
    fs, io,
    io::{Read, Write},
    path::Path,
    process::ExitCode,
    sync::Arc,
};

use jiff::Timestamp;
use karve::{
    build::{self, Built, error::BuildError},
    context::{
        self, FetchRequest, Source,
        git_source::{GitReference, GitSource},
    },
    flags::{BuildFlags, LogFormat, RunFlags, Switch},
    image::platform::Platform,
    options::{Environment, Options},
    progress::explain,
    report,
};
use karve_api::{BuildReport, CacheStatus, GitRef, ImageBuild, ImageBuildSpec, Outcome, Reason, repository_of};
use serde_json::{Value, json};

use super::{build::masks, ended_by, fail, progress, terminated};

/// The largest manifest: etcd holds no larger object.
const MANIFEST_BYTES_MAX: u64 = 3 << 19;

/// The largest context that is fetched: what an executor Pod may hold.
const CONTEXT_BYTES_MAX: u64 = 20 << 30;

/// Runs the command.
pub(crate) async fn main(flags: RunFlags, environment: Environment, format: LogFormat) -> ExitCode {
    match run(flags, &environment, format).await {
        Ok(code) => code,
        Err(message) => fail(&message),
    }
}

async fn run(flags: RunFlags, environment: &Environment, format: LogFormat) -> Result<ExitCode, String> {
    let file = flags.filename.display().to_string();
    let text = read(&flags.filename).map_err(|error| format!("{file}: {error}"))?;
    let mut manifest: Value = serde_yaml::from_str(&text).map_err(|error| format!("{file}: {error}"))?;
    let resource: ImageBuild =
        serde_yaml::from_str(&text).map_err(|error| format!("{file} is not an ImageBuild: {error}"))?;
    let name = resource.metadata.name.clone().ok_or_else(|| format!("{file}: metadata.name is missing"))?;
    let directory = tempfile::tempdir().map_err(|error| format!("a temporary directory: {error}"))?;
    let revision = fetch(&resource.spec, directory.path()).await?;
    let build_flags = build_flags(&resource.spec, &name, &flags, directory.path())?;
    let options = Options::from_flags(build_flags, environment, &Platform::host().to_string())
        .map_err(|error| error.to_string())?;
    let progress = Arc::new(progress(format, masks(&options, environment), environment));
    let started = now();
    let result = build::build(&options, environment, &progress, terminated()).await;
    if let Err(BuildError::Interrupted(signal)) = result {
        return Ok(ended_by(signal));
    }
    let report = report::report(&result, &options.destinations, None, None, &progress);
    manifest["status"] = status(&resource, &report, result.as_ref().ok(), revision, started);
    let yaml = serde_yaml::to_string(&manifest).map_err(|error| format!("the resource: {error}"))?;
    write!(io::stdout(), "{yaml}").map_err(|error| format!("standard output: {error}"))?;
    Ok(match result {
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => fail(&progress.mask(&explain(&error))),
    })
}

fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    let length = if path == Path::new("-") {
        io::stdin().take(MANIFEST_BYTES_MAX + 1).read_to_string(&mut text)?
    } else {
        fs::File::open(path)?.take(MANIFEST_BYTES_MAX + 1).read_to_string(&mut text)?
    };
    if length as u64 > MANIFEST_BYTES_MAX { Err(io::Error::other("larger than 1.5 MiB")) } else { Ok(text) }
}

/// Brings the context into `directory` as the init container does, and returns its revision.
async fn fetch(spec: &ImageBuildSpec, directory: &Path) -> Result<Option<String>, String> {
    let context = &spec.context;
    let source = match (&context.inline, &context.git, &context.config_map, &context.persistent_volume_claim) {
        (Some(inline), None, None, None) => Source::Inline(inline.files.clone()),
        (None, Some(git), None, None) => {
            let reference = git_reference(git.reference.as_ref())?;
            Source::Git(GitSource {
                url: git.url.clone(),
                reference,
                credentials: None,
                ca_pem: None,
                keep_git_directory: false,
                submodules: true,
                checksum: None,
            })
        }
        (None, None, Some(_), None) => {
            return Err("spec.context.configMap needs a cluster: use inline or git with `karve run`".into());
        }
        (None, None, None, Some(_)) => {
            return Err("spec.context.persistentVolumeClaim needs a cluster: use inline or git with `karve run`".into());
        }
        _ => return Err("spec.context: set exactly one of inline, git, configMap and persistentVolumeClaim".into()),
    };
    let sub_path = context.sub_path.clone();
    let output = directory.to_owned();
    let request = FetchRequest { source, sub_path, output, limit_bytes: Some(CONTEXT_BYTES_MAX) };
    Ok(context::fetch(request).await.map_err(|error| explain(&error))?.revision)
}

fn git_reference(reference: Option<&GitRef>) -> Result<GitReference, String> {
    let Some(reference) = reference else { return Ok(GitReference::Default) };
    match (&reference.branch, &reference.tag, &reference.commit) {
        (Some(branch), None, None) => Ok(GitReference::Branch(branch.clone())),
        (None, Some(tag), None) => Ok(GitReference::Tag(tag.clone())),
        (None, None, Some(commit)) => Ok(GitReference::Commit(commit.clone())),
        _ => Err("spec.context.git.ref: set exactly one of branch, tag and commit".into()),
    }
}

/// What the operator would pass to the container `build`.
fn build_flags(spec: &ImageBuildSpec, name: &str, flags: &RunFlags, directory: &Path) -> Result<BuildFlags, String> {
    let mut dockerfile = None;
    if let Some(source) = &spec.dockerfile {
        dockerfile = source.path.clone().map(Into::into);
        if let Some(text) = &source.inline {
            let path = directory.join("Dockerfile.inline");
            fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))?;
            dockerfile = Some(path);
        }
    }
    let mut build_arg = Vec::new();
    for argument in &spec.build_args {
        let value = argument.value.as_ref();
        let value = value.ok_or_else(|| {
            format!("spec.buildArgs: {} takes its value from a ConfigMap, which needs a cluster", argument.name)
        })?;
        build_arg.push(format!("{}={value}", argument.name));
    }
    let repository = repository_of(&spec.output.image);
    let tags = spec.output.tags.iter().map(|tag| format!("{repository}:{tag}"));
    let pairs = |map: &BTreeMap<String, String>| map.iter().map(|(key, value)| format!("{key}={value}")).collect();
    Ok(BuildFlags {
        context: Some(directory.join(context::TREE).to_string_lossy().into_owned()),
        dockerfile,
        destination: std::iter::once(spec.output.image.clone()).chain(tags).collect(),
        build_arg,
        target: spec.target.clone(),
        label: pairs(&spec.output.labels),
        annotation: pairs(&spec.output.annotations),
        secret: flags.secret.clone(),
        no_push: Switch(!flags.push),
        oci_layout_path: match (&flags.oci_layout_path, flags.push) {
            (Some(path), _) => Some(path.clone()),
            (None, true) => None,
            (None, false) => Some(Path::new("karve-output").join(name)),
        },
        insecure_registry: spec
            .registries
            .iter()
            .filter(|registry| registry.plain_http)
            .map(|registry| registry.host.clone())
            .collect(),
        skip_tls_verify_registry: spec
            .registries
            .iter()
            .filter(|registry| registry.insecure_skip_verify)
            .map(|registry| registry.host.clone())
            .collect(),
        isolation: "auto".to_owned(),
        timeout: spec.timeout.clone(),
        work_dir: flags.work_dir.clone(),
        source_info: Some(directory.join(context::SOURCE_INFO)),
        ..cache_flags(spec, flags.push)
    })
}

/// What the operator would pass of the cache. Without a push there is no cache: it would be in a registry that nobody has
/// asked to write to.
fn cache_flags(spec: &ImageBuildSpec, push: bool) -> BuildFlags {
    let given = spec.cache.clone().unwrap_or_default();
    if !push || given.disabled.unwrap_or(false) {
        return BuildFlags { cache: Some(Switch(false)), ..BuildFlags::default() };
    }
    BuildFlags {
        cache: Some(Switch(true)),
        cache_repo: Some(spec.cache_repository()),
        cache_ttl: given.ttl,
        cache_mounts: given.mounts.map(Switch),
        ..BuildFlags::default()
    }
}

/// The status that the operator would write.
fn status(
    resource: &ImageBuild,
    report: &BuildReport,
    built: Option<&Built>,
    revision: Option<String>,
    started: Timestamp,
) -> Value {
    let generation = resource.metadata.generation.unwrap_or(1);
    let ready = report.result == Outcome::Succeeded;
    let reason = report.reason.unwrap_or(Reason::Succeeded);
    let image = report
        .image
        .as_deref()
        .zip(report.digest.as_deref())
        .map(|(repository, digest)| format!("{repository}@{digest}"));
    let cache = report.cache.as_ref().map(CacheStatus::of);
    let cached = cache.as_ref().and_then(CacheStatus::summary);
    let message = match (&image, &cached) {
        (Some(image), Some(cached)) => format!("built {image}; {cached}"),
        (Some(image), None) => format!("built {image}"),
        (None, _) => report.message.clone().unwrap_or_default(),
    };
    let condition = |kind: &str, status: &str| {
        json!({ "type": kind, "status": status, "reason": reason.as_str(), "message": message,
                "observedGeneration": generation, "lastTransitionTime": now().to_string() })
    };
    let mut conditions = vec![condition("Ready", if ready { "True" } else { "False" })];
    if !ready {
        conditions.push(condition("Stalled", "True"));
    }
    let mut status = json!({
        "observedGeneration": generation,
        "conditions": conditions,
        "image": image,
        "digest": report.digest,
        "source": revision.map(|revision| json!({ "revision": revision })),
        "bases": report.bases,
        "isolation": report.isolation,
        "lastBuild": {
            "number": 1,
            "startedAt": started.to_string(),
            "finishedAt": now().to_string(),
            "result": report.result,
            "reason": reason.as_str(),
            "stage": report.stage,
            "logTail": report.log_tail,
            "cache": cache,
            "stages": built.map(|built| {
                let stages = built.stages.iter();
                stages.map(|stage| json!({ "name": stage.name, "duration": format!("{:.1}s", stage.duration.as_secs_f64()) })).collect::<Vec<_>>()
            }),
        },
    });
    prune(&mut status);
    status
}

/// Removes what is not known: a status field is absent, not null.
fn prune(value: &mut Value) {
    if let Value::Object(map) = value {
        map.values_mut().for_each(prune);
        map.retain(|_, value| !value.is_null() && *value != json!([]));
    }
}

#[expect(clippy::disallowed_methods, reason = "the program tells when it ran")]
fn now() -> Timestamp {
    Timestamp::from_second(Timestamp::now().as_second()).unwrap_or_default()
}
