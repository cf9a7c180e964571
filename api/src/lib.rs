//! What the operator and the executor agree on: the `ImageBuild` resource, the reports that a build Pod hands back,
//! the closed list of reasons, and the hash over a file context.
//!
//! Everything here is data and pure functions: no client calls, no clock, no file system. Whatever is read from a
//! cluster or from a Pod may be hostile or of another version, so no type here is narrower than what it is read from.

mod files_hash;
mod imagebuild;
mod reason;
mod report;

pub use files_hash::files_hash;
pub use imagebuild::{
    BaseImage, BuildArg, BuildArgSource, BuildResult, Cache, CacheStatus, ConfigMapContext, ConfigMapKeyReference,
    ContextSource, Dockerfile, GitContext, GitRef, History, ImageBuild, ImageBuildSpec, ImageBuildStatus,
    InlineContext, LastBuild, LocalReference, Output, PodTemplate, PodTemplateMetadata, PodTemplateSpec, Registry,
    ResourceQuantity, Resources, RunPolicy, RunSecret, SecretKeyReference, SourceStatus, StageStatus,
    VolumeClaimContext, custom_resource_definition,
};
pub use reason::{Reason, ReasonClass};
pub use report::{
    BaseReport, BuildReport, CONTEXT_MESSAGE_BYTES_MAX, CacheReport, ContextReport, Counters, MissReport, Outcome,
    SourceInfo, SourceReport, StageReport, TERMINATION_MESSAGE_BYTES_MAX,
};

/// The API group of every Karve resource, and the prefix of its labels and annotations.
pub const GROUP: &str = "karve.dev";
/// Asks for one more build: any new value of this annotation starts one.
pub const ANNOTATION_REQUESTED_AT: &str = "karve.dev/requestedAt";
/// Flux's spelling of [`ANNOTATION_REQUESTED_AT`], honoured in the same way.
pub const ANNOTATION_FLUX_REQUESTED_AT: &str = "reconcile.fluxcd.io/requestedAt";
/// Cancels the running build whose number (`status.lastBuild.number`) is the annotation's value.
pub const ANNOTATION_CANCEL: &str = "karve.dev/cancel";
/// Names the `ImageBuild` that a child object belongs to.
pub const LABEL_IMAGE_BUILD: &str = "karve.dev/imagebuild";
/// The common label of whatever Karve creates; its value is [`MANAGED_BY`].
pub const LABEL_MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// The value of [`LABEL_MANAGED_BY`].
pub const MANAGED_BY: &str = "karve";

/// Returns an image's `registry/repository` part as it was written: the text without its digest and its tag.
///
/// A colon before the last slash belongs to the registry's port.
pub fn repository_of(image: &str) -> &str {
    let without_digest = image.split_once('@').map_or(image, |(name, _)| name);
    match without_digest.rfind(':') {
        Some(colon) if !without_digest[colon..].contains('/') => &without_digest[..colon],
        _ => without_digest,
    }
}

/// Returns an image's repository with Docker Hub spelled out, as `docker.io/library/debian` for `debian:bookworm`.
///
/// The first component is a registry if it holds a dot or a colon or is `localhost`; every client reads it so. Two
/// spellings name one repository exactly if this returns the same of both.
pub fn canonical_repository(image: &str) -> String {
    let repository = repository_of(image);
    let (registry, name) = match repository.split_once('/') {
        Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => (first, rest),
        _ => ("docker.io", repository),
    };
    match registry {
        "docker.io" | "index.docker.io" if !name.contains('/') => format!("docker.io/library/{name}"),
        "docker.io" | "index.docker.io" => format!("docker.io/{name}"),
        _ => format!("{registry}/{name}"),
    }
}

#[cfg(test)]
mod tests {
    use super::{canonical_repository, repository_of};

    #[test]
    fn docker_hub_is_spelled_out() {
        for image in
            ["debian", "debian:bookworm", "library/debian", "docker.io/debian", "index.docker.io/library/debian"]
        {
            assert_eq!(canonical_repository(image), "docker.io/library/debian");
        }
        assert_eq!(canonical_repository("org/app:1"), "docker.io/org/app");
        assert_eq!(canonical_repository("localhost/app"), "localhost/app");
        assert_eq!(canonical_repository("r:5000/app@sha256:00"), "r:5000/app");
    }

    #[track_caller]
    fn check(image: &str, repository: &str) {
        assert_eq!(repository_of(image), repository);
    }

    #[test]
    fn tag_and_digest_are_cut_off_and_a_port_is_not() {
        check("registry.example/web:v1", "registry.example/web");
        check("localhost:5000/web", "localhost:5000/web");
        check("localhost:5000/web:v1@sha256:00", "localhost:5000/web");
        check("[::1]:5000/web", "[::1]:5000/web");
        check("web", "web");
    }
}
