//! `ImageBuild` -> Pod, a pure function: what is mounted where, who sees which credential, and what each container is told.
//!
//! ```text
//! /karve/source      the files of an inline, configMap or volume context   context only, read-only
//! /karve/context     tree/ and source.json                                 context writes, build reads
//! /karve/work        the executor's own space                              build only
//! /karve/secrets/N   the secrets that RUN steps mount                      build only
//! ```
//!
//! The container `context` gets the source's credentials, the container `build` the registries'; neither gets a service
//! account token. Nothing of the parent's labels is passed on: a GitOps tool would take the Pod for its own.

mod build;
mod cache;
mod context;
mod files;
pub mod names;

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::{
    api::core::v1::{
        ConfigMapVolumeSource, Container, EmptyDirVolumeSource, EnvVar, EnvVarSource, KeyToPath, LocalObjectReference,
        Pod, PodSpec, SecretKeySelector, SecretVolumeSource, Volume, VolumeMount,
    },
    apimachinery::pkg::{
        api::resource::Quantity,
        apis::meta::v1::{ObjectMeta, OwnerReference},
    },
};
use karve_api::{ImageBuild, LABEL_IMAGE_BUILD, LABEL_MANAGED_BY, MANAGED_BY, PodTemplate, PodTemplateSpec, RunSecret};
use kube::{Resource, ResourceExt};

pub use files::config_map;

/// The name of the init container that fetches the context.
pub const CONTEXT_CONTAINER: &str = "context";
/// The name of the container that builds.
pub const BUILD_CONTAINER: &str = "build";
/// The label with the number of the build.
pub const LABEL_NUMBER: &str = "karve.dev/build-number";
/// The label with the number of the attempt.
pub const LABEL_ATTEMPT: &str = "karve.dev/attempt";

/// How much later than the executor's own timeout the kubelet ends a Pod: time for pulling images and for fetching.
const DEADLINE_MARGIN_SECONDS: i64 = 600;
/// Bytes of a GiB.
const GIBIBYTE: i64 = 1 << 30;
/// How long a Pod that is deleted may take. The executor has nothing to save.
const GRACE_PERIOD_SECONDS: i64 = 10;

/// What is the same for all builds of an operator.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The executor's image.
    pub executor_image: String,
    /// The executor's pull policy: `Always`, `IfNotPresent` or `Never`; absent: Kubernetes' default.
    pub executor_pull_policy: Option<String>,
    /// Names of Secrets, in each build's namespace, for pulling the executor's image.
    pub executor_image_pull_secrets: Vec<String>,
    /// Registries that are spoken to in plain HTTP, unless a build says otherwise.
    pub plain_http_registries: Vec<String>,
    /// The size of each of the Pod's two scratch volumes, in GiB.
    pub volume_size_gibibytes: i64,
    /// How the cache is used unless a build says otherwise.
    pub cache: CachePolicy,
}

/// How the cache is used unless a build says otherwise. Never where it is: builds of one repository trust each other's
/// results, so the repository follows from each build's own output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CachePolicy {
    /// Whether it is used.
    pub enabled: bool,
    /// How old a result may be that is taken from it.
    pub ttl: Duration,
}

impl Default for CachePolicy {
    fn default() -> Self {
        Self { enabled: true, ttl: Duration::from_hours(336) }
    }
}

impl Settings {
    /// Returns how many bytes a container may write into a volume: less than its size, so that the container stops, and
    /// names the limit, before the kubelet evicts the Pod.
    fn stop_at_bytes(&self) -> i64 {
        self.volume_size_gibibytes.saturating_mul(GIBIBYTE) / 100 * 95
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            executor_image: "karve:latest".to_owned(),
            executor_pull_policy: None,
            executor_image_pull_secrets: Vec::new(),
            plain_http_registries: Vec::new(),
            volume_size_gibibytes: 20,
            cache: CachePolicy::default(),
        }
    }
}

/// One attempt of one build, with everything resolved that the API server had to be asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// The number of the build.
    pub number: i64,
    /// The number of the attempt, from 1.
    pub attempt: i64,
    /// The hash of the files of an inline or configMap context.
    pub files_hash: Option<String>,
    /// The build arguments by name, ConfigMap values read.
    pub build_args: BTreeMap<String, String>,
    /// How long the executor may run.
    pub timeout: Duration,
    /// How old a result may be that is taken from the cache; `None`: as the operator was started.
    pub cache_ttl: Option<Duration>,
}

/// Returns the Pod of one attempt.
pub fn pod(object: &ImageBuild, attempt: &Attempt, settings: &Settings) -> Pod {
    let template = object.spec.pod_template.clone().unwrap_or_default();
    let mut volumes = vec![scratch("context", settings), scratch("work", settings)];
    volumes.extend(context::source_volume(object, attempt));
    volumes.extend(object.spec.secrets.iter().enumerate().map(|(index, secret)| secret_volume(index, secret)));
    volumes.extend(build::certificate_volumes(object));
    volumes.extend(build::dockerfile_volume(object, attempt));
    let timeout_seconds = i64::try_from(attempt.timeout.as_secs()).unwrap_or(i64::MAX - DEADLINE_MARGIN_SECONDS);
    Pod {
        metadata: metadata(object, attempt, &template),
        spec: Some(PodSpec {
            restart_policy: Some("Never".to_owned()),
            automount_service_account_token: Some(false),
            enable_service_links: Some(false),
            active_deadline_seconds: Some(timeout_seconds.saturating_add(DEADLINE_MARGIN_SECONDS)),
            termination_grace_period_seconds: Some(GRACE_PERIOD_SECONDS),
            init_containers: Some(vec![context::container(object, attempt, settings)]),
            containers: vec![build::container(object, attempt, settings)],
            volumes: Some(volumes),
            ..scheduling(template.spec.unwrap_or_default(), settings)
        }),
        status: None,
    }
}

/// Returns the reference by which a child is deleted with its `ImageBuild`.
pub fn owner_reference(object: &ImageBuild) -> OwnerReference {
    OwnerReference {
        api_version: ImageBuild::api_version(&()).into_owned(),
        kind: ImageBuild::kind(&()).into_owned(),
        name: object.name_any(),
        uid: object.uid().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// Returns the labels that every child carries.
pub fn child_labels(object: &ImageBuild, number: i64) -> BTreeMap<String, String> {
    BTreeMap::from([
        (LABEL_MANAGED_BY.to_owned(), MANAGED_BY.to_owned()),
        (LABEL_IMAGE_BUILD.to_owned(), object.name_any()),
        (LABEL_NUMBER.to_owned(), number.to_string()),
    ])
}

fn metadata(object: &ImageBuild, attempt: &Attempt, template: &PodTemplate) -> ObjectMeta {
    let given = template.metadata.clone().unwrap_or_default();
    let mut labels = given.labels;
    labels.extend(child_labels(object, attempt.number));
    labels.insert(LABEL_ATTEMPT.to_owned(), attempt.attempt.to_string());
    ObjectMeta {
        name: Some(names::pod_name(&object.name_any(), attempt.number, attempt.attempt)),
        namespace: object.namespace(),
        labels: Some(labels),
        annotations: Some(given.annotations).filter(|annotations| !annotations.is_empty()),
        owner_references: Some(vec![owner_reference(object)]),
        ..ObjectMeta::default()
    }
}

/// Returns the part of the Pod that `spec.podTemplate` sets, field by field: nothing else gets through.
fn scheduling(given: PodTemplateSpec, settings: &Settings) -> PodSpec {
    let names = settings.executor_image_pull_secrets.iter().cloned();
    let mut pull_secrets: Vec<LocalObjectReference> = names.map(|name| LocalObjectReference { name }).collect();
    let of_build = given.image_pull_secrets.into_iter().map(|secret| LocalObjectReference { name: secret.name });
    pull_secrets.extend(of_build);
    PodSpec {
        node_selector: Some(given.node_selector).filter(|selector| !selector.is_empty()),
        tolerations: non_empty(given.tolerations),
        affinity: given.affinity,
        topology_spread_constraints: non_empty(given.topology_spread_constraints),
        priority_class_name: given.priority_class_name,
        runtime_class_name: given.runtime_class_name,
        scheduler_name: given.scheduler_name,
        image_pull_secrets: non_empty(pull_secrets),
        service_account_name: given.service_account_name,
        host_aliases: non_empty(given.host_aliases),
        dns_policy: given.dns_policy,
        dns_config: given.dns_config,
        ..PodSpec::default()
    }
}

/// Returns a container of the executor's image with what both have in common.
fn executor(name: &str, settings: &Settings) -> Container {
    Container {
        name: name.to_owned(),
        image: Some(settings.executor_image.clone()),
        image_pull_policy: settings.executor_pull_policy.clone(),
        termination_message_policy: Some("File".to_owned()),
        ..Container::default()
    }
}

/// Returns arguments that the kubelet passes on as they are. It would put the values of the container's environment in place
/// of `$(NAME)`, and that environment holds credentials.
fn literal(args: Vec<String>) -> Vec<String> {
    args.into_iter().map(|arg| arg.replace('$', "$$")).collect()
}

fn scratch(name: &str, settings: &Settings) -> Volume {
    Volume {
        name: name.to_owned(),
        empty_dir: Some(EmptyDirVolumeSource {
            size_limit: Some(Quantity(format!("{}Gi", settings.volume_size_gibibytes))),
            medium: None,
        }),
        ..Volume::default()
    }
}

fn secret_volume(index: usize, secret: &RunSecret) -> Volume {
    let key = secret.secret_key_ref.key.clone();
    Volume {
        name: format!("run-secret-{index}"),
        secret: Some(SecretVolumeSource {
            secret_name: Some(secret.secret_key_ref.name.clone()),
            items: Some(vec![KeyToPath { key, path: "value".to_owned(), mode: None }]),
            ..SecretVolumeSource::default()
        }),
        ..Volume::default()
    }
}

/// Returns a volume with the given (key, path) pairs of a ConfigMap.
fn config_map_volume(name: &str, config_map: &str, items: Vec<(String, String)>) -> Volume {
    let items: Vec<KeyToPath> = items.into_iter().map(|(key, path)| KeyToPath { key, path, mode: None }).collect();
    Volume {
        name: name.to_owned(),
        config_map: Some(ConfigMapVolumeSource {
            name: config_map.to_owned(),
            items: non_empty(items),
            ..ConfigMapVolumeSource::default()
        }),
        ..Volume::default()
    }
}

fn mount(volume: &str, path: impl Into<String>, read_only: bool) -> VolumeMount {
    VolumeMount {
        name: volume.to_owned(),
        mount_path: path.into(),
        read_only: read_only.then_some(true),
        ..VolumeMount::default()
    }
}

fn secret_env(name: String, secret: &str, key: &str) -> EnvVar {
    let selector = SecretKeySelector { name: secret.to_owned(), key: key.to_owned(), optional: None };
    let value_from = Some(EnvVarSource { secret_key_ref: Some(selector), ..EnvVarSource::default() });
    EnvVar { name, value: None, value_from }
}

fn non_empty<T>(list: Vec<T>) -> Option<Vec<T>> {
    Some(list).filter(|list| !list.is_empty())
}

#[cfg(test)]
mod tests;
