//! The init container `context`: fetches the source with the source's credentials and writes the tree, and beside it the
//! revision and commit time. It runs no code of the user's, so it is confined as far as reading the source allows.

use k8s_openapi::api::core::v1::{
    Capabilities, Container, EnvFromSource, PersistentVolumeClaimVolumeSource, SeccompProfile, SecretEnvSource,
    SecurityContext, Volume,
};
use karve_api::{ContextSource, GitContext, ImageBuild};

use super::{Attempt, CONTEXT_CONTAINER, Settings, build, config_map_volume, executor, files, literal, mount};

/// Where a source that is mounted is found.
const SOURCE_PATH: &str = "/karve/source";

/// Returns the container.
pub(super) fn container(object: &ImageBuild, attempt: &Attempt, settings: &Settings) -> Container {
    let context = &object.spec.context;
    let mut args = vec!["context".to_owned()];
    args.extend(source_args(context, attempt));
    args.extend(context.sub_path.iter().map(|path| format!("--sub-path={path}")));
    args.push("--output=/karve/context".to_owned());
    args.push("--report=/dev/termination-log".to_owned());
    args.push(format!("--limit-bytes={}", settings.stop_at_bytes()));
    let mut mounts = vec![mount("context", "/karve/context", false)];
    if context.git.is_none() {
        mounts.push(mount("source", SOURCE_PATH, true));
    }
    let secret = context.git.as_ref().and_then(|git| git.secret_ref.as_ref());
    let env_from = secret.map(|secret| {
        let secret_ref = Some(SecretEnvSource { name: secret.name.clone(), optional: None });
        vec![EnvFromSource { prefix: Some("KARVE_GIT_".to_owned()), secret_ref, ..EnvFromSource::default() }]
    });
    Container {
        args: Some(literal(args)),
        env_from,
        // The Pod needs no more for it, since containers of this kind run before the others; and what a repository unpacks to
        // in memory is bounded as the build is.
        resources: Some(build::resources(object.spec.resources.as_ref())),
        volume_mounts: Some(mounts),
        security_context: Some(security_context(context)),
        ..executor(CONTEXT_CONTAINER, settings)
    }
}

fn source_args(context: &ContextSource, attempt: &Attempt) -> Vec<String> {
    if let Some(git) = &context.git {
        return git_args(git);
    }
    if context.persistent_volume_claim.is_some() {
        return vec![format!("--directory={SOURCE_PATH}")];
    }
    let hash = attempt.files_hash.iter().map(|hash| format!("--files-hash={hash}"));
    std::iter::once(format!("--files={SOURCE_PATH}")).chain(hash).collect()
}

fn git_args(git: &GitContext) -> Vec<String> {
    let reference = git.reference.clone().unwrap_or_default();
    let mut args = vec![format!("--git-url={}", git.url)];
    args.extend(reference.branch.map(|branch| format!("--git-branch={branch}")));
    args.extend(reference.tag.map(|tag| format!("--git-tag={tag}")));
    args.extend(reference.commit.map(|commit| format!("--git-commit={commit}")));
    args
}

/// Root without capabilities reads what everybody may read; files on a volume may belong to anybody, so there the
/// container may pass their permissions.
fn security_context(context: &ContextSource) -> SecurityContext {
    let add = context.persistent_volume_claim.is_some().then(|| vec!["DAC_OVERRIDE".to_owned()]);
    SecurityContext {
        allow_privilege_escalation: Some(false),
        capabilities: Some(Capabilities { add, drop: Some(vec!["ALL".to_owned()]) }),
        run_as_user: Some(0),
        seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".to_owned(), localhost_profile: None }),
        ..SecurityContext::default()
    }
}

/// Returns the volume with the source, if it is one that is mounted.
pub(super) fn source_volume(object: &ImageBuild, attempt: &Attempt) -> Option<Volume> {
    let context = &object.spec.context;
    if let Some(claim) = &context.persistent_volume_claim {
        let source = PersistentVolumeClaimVolumeSource { claim_name: claim.claim_name.clone(), read_only: Some(true) };
        let persistent_volume_claim = Some(source);
        return Some(Volume { name: "source".to_owned(), persistent_volume_claim, ..Volume::default() });
    }
    if let Some(config_map) = &context.config_map {
        return Some(config_map_volume("source", &config_map.name, Vec::new()));
    }
    context.inline.as_ref().map(|inline| {
        let name = files::config_map_name_of(object, attempt.number);
        config_map_volume("source", &name, files::items(inline))
    })
}
