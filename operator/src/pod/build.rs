//! The container `build`: has the tree read-only and the registries' credentials. It runs the user's RUN steps, as root
//! with the default capabilities and the node's default seccomp profile: what the namespace's Pod Security level
//! `baseline` admits, and what a nested user namespace needs.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{Container, EnvVar, ResourceRequirements, SecurityContext, Volume},
    apimachinery::pkg::api::resource::Quantity,
};
use karve_api::{ConfigMapKeyReference, ImageBuild, Resources, repository_of};
use kube::ResourceExt;

use super::{
    Attempt, BUILD_CONTAINER, Settings, cache, config_map_volume, executor, files, literal, mount, names, non_empty,
    secret_env,
};

/// The key of a Secret of type kubernetes.io/dockerconfigjson.
const DOCKER_CONFIG_KEY: &str = ".dockerconfigjson";
/// What a build asks for if it does not say.
const DEFAULT_REQUESTS: [(&str, &str); 3] = [("cpu", "500m"), ("memory", "512Mi"), ("ephemeral-storage", "2Gi")];

/// Returns the container.
pub(super) fn container(object: &ImageBuild, attempt: &Attempt, settings: &Settings) -> Container {
    let spec = &object.spec;
    let mut mounts = vec![mount("context", "/karve/context", true), mount("work", "/karve/work", false)];
    let secrets = 0..spec.secrets.len();
    mounts.extend(secrets.map(|index| mount(&format!("run-secret-{index}"), format!("/karve/secrets/{index}"), true)));
    let certificates = certificates(object);
    mounts.extend(certificates.iter().map(|(index, ..)| mount(&certificate_volume(*index), authority(*index), true)));
    if inline_dockerfile(object) {
        mounts.push(mount("dockerfile", "/karve/dockerfile", true));
    }
    Container {
        args: Some(literal(args(object, attempt, settings))),
        env: non_empty(environment(object)),
        resources: Some(resources(spec.resources.as_ref())),
        volume_mounts: Some(mounts),
        security_context: Some(SecurityContext { run_as_user: Some(0), ..SecurityContext::default() }),
        ..executor(BUILD_CONTAINER, settings)
    }
}

fn args(object: &ImageBuild, attempt: &Attempt, settings: &Settings) -> Vec<String> {
    let spec = &object.spec;
    let mut args = vec!["build".to_owned(), "--context=dir:///karve/context/tree".to_owned()];
    let path = spec.dockerfile.as_ref().and_then(|dockerfile| dockerfile.path.as_deref()).unwrap_or("Dockerfile");
    let path = if inline_dockerfile(object) { "/karve/dockerfile/Dockerfile" } else { path };
    args.push(format!("--dockerfile={path}"));
    let uid = object.uid().unwrap_or_default();
    let repository = repository_of(&spec.output.image);
    let build_tag = names::build_tag(&spec.output.image, attempt.number, &uid);
    let has_build_tag = spec.output.build_tag.unwrap_or(true);
    args.push(format!("--destination={}", spec.output.image));
    args.extend(spec.output.tags.iter().map(|tag| format!("--destination={repository}:{tag}")));
    args.extend(has_build_tag.then(|| format!("--destination={repository}:{build_tag}")));
    args.extend(attempt.build_args.iter().map(|(name, value)| format!("--build-arg={name}={value}")));
    args.extend(spec.target.iter().map(|target| format!("--target={target}")));
    args.extend(spec.output.labels.iter().map(|(name, value)| format!("--label={name}={value}")));
    args.extend(spec.output.annotations.iter().map(|(name, value)| format!("--annotation={name}={value}")));
    args.extend(registry_args(object, settings));
    args.extend(cache::args(object, attempt, settings));
    let secrets = spec.secrets.iter().enumerate();
    args.extend(secrets.map(|(index, secret)| format!("--secret=id={},src=/karve/secrets/{index}/value", secret.id)));
    args.push("--source-info=/karve/context/source.json".to_owned());
    args.push("--work-dir=/karve/work".to_owned());
    args.push("--keep-work-dir".to_owned());
    args.push(format!("--work-limit-bytes={}", settings.stop_at_bytes()));
    args.push("--report=/dev/termination-log".to_owned());
    args.push(format!("--nonce={}", names::nonce(&uid, attempt.number, attempt.attempt)));
    args.push(format!("--timeout={}", go_duration(attempt.timeout.as_secs())));
    if attempt.attempt > 1 && has_build_tag {
        args.push(format!("--adopt={repository}:{build_tag}"));
    }
    args
}

/// Returns how single registries are spoken to; what the build says of a host wins over the operator's default.
fn registry_args(object: &ImageBuild, settings: &Settings) -> Vec<String> {
    let registries = &object.spec.registries;
    let mut args = Vec::new();
    for host in &settings.plain_http_registries {
        if registries.iter().all(|registry| registry.host != *host) {
            args.push(format!("--insecure-registry={host}"));
        }
    }
    for registry in registries {
        if registry.plain_http {
            args.push(format!("--insecure-registry={}", registry.host));
        }
        if registry.insecure_skip_verify {
            args.push(format!("--skip-tls-verify-registry={}", registry.host));
        }
    }
    for (index, host, _) in certificates(object) {
        args.push(format!("--registry-certificate={host}={}/ca.crt", authority(index)));
    }
    args
}

fn environment(object: &ImageBuild) -> Vec<EnvVar> {
    let spec = &object.spec;
    let mut environment: Vec<EnvVar> = Vec::new();
    for (index, secret) in spec.registry_secret_refs.iter().enumerate() {
        environment.push(secret_env(format!("KARVE_REGISTRY_AUTH_{index}"), &secret.name, DOCKER_CONFIG_KEY));
    }
    if let Some(secret) = &spec.output.push_secret_ref {
        environment.push(secret_env("KARVE_PUSH_AUTH".to_owned(), &secret.name, DOCKER_CONFIG_KEY));
    }
    environment
}

/// Returns requests and limits. A default request never exceeds a limit that the build sets for itself.
pub(super) fn resources(given: Option<&Resources>) -> ResourceRequirements {
    let given = given.cloned().unwrap_or_default();
    let quantities = |map: BTreeMap<String, karve_api::ResourceQuantity>| -> BTreeMap<String, Quantity> {
        map.into_iter().map(|(name, quantity)| (name, Quantity(quantity.to_string()))).collect()
    };
    let limits = quantities(given.limits);
    let mut requests = quantities(given.requests);
    for (name, quantity) in DEFAULT_REQUESTS {
        // With a limit and no request Kubernetes itself requests the limit.
        if !limits.contains_key(name) {
            requests.entry(name.to_owned()).or_insert_with(|| Quantity(quantity.to_owned()));
        }
    }
    ResourceRequirements {
        limits: Some(limits).filter(|limits| !limits.is_empty()),
        requests: Some(requests).filter(|requests| !requests.is_empty()),
        claims: None,
    }
}

/// Returns the volumes with the certificate authorities of single registries.
pub(super) fn certificate_volumes(object: &ImageBuild) -> Vec<Volume> {
    let volume = |(index, _, reference): (usize, String, ConfigMapKeyReference)| {
        config_map_volume(&certificate_volume(index), &reference.name, vec![(reference.key, "ca.crt".to_owned())])
    };
    certificates(object).into_iter().map(volume).collect()
}

/// Returns the volume with the inline Dockerfile.
pub(super) fn dockerfile_volume(object: &ImageBuild, attempt: &Attempt) -> Option<Volume> {
    inline_dockerfile(object).then(|| {
        let items = vec![(files::DOCKERFILE_KEY.to_owned(), "Dockerfile".to_owned())];
        config_map_volume("dockerfile", &files::config_map_name_of(object, attempt.number), items)
    })
}

/// Returns index, host and ConfigMap key of each registry with a certificate authority of its own.
fn certificates(object: &ImageBuild) -> Vec<(usize, String, ConfigMapKeyReference)> {
    let registries = object.spec.registries.iter().enumerate();
    registries
        .filter_map(|(index, registry)| Some((index, registry.host.clone(), registry.ca_config_map_ref.clone()?)))
        .collect()
}

fn certificate_volume(index: usize) -> String {
    format!("registry-ca-{index}")
}

fn authority(index: usize) -> String {
    format!("/karve/certificates/{index}")
}

fn inline_dockerfile(object: &ImageBuild) -> bool {
    object.spec.dockerfile.as_ref().is_some_and(|dockerfile| dockerfile.inline.is_some())
}

/// Returns a duration as Go prints it, such as `1h0m0s`.
pub(super) fn go_duration(seconds: u64) -> String {
    format!("{}h{}m{}s", seconds / 3600, seconds / 60 % 60, seconds % 60)
}
