//! `status`: what the operator knows. It is the operator's only memory, so every field is optional and wide: an object
//! that another version wrote must still be read.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::cache::CacheStatus;

/// Says how the build stands, and which image the last good build made.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageBuildStatus {
    /// The generation of the spec that the conditions speak of; -1 until the operator has seen the object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// Ready is True when `image` was built from this spec. Reconciling is present while a build waits, runs or is
    /// tried again; Stalled while only a change can help.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,

    /// The image of the last good build by digest, such as `registry.example/shop/web@sha256:…`. It stays while a
    /// newer build runs or fails.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 640))]
    pub image: Option<String>,

    /// The digest of `image`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 71))]
    #[x_kube(validation = Rule::new("self.matches('^sha256:[0-9a-f]{64}$')")
        .message("must be sha256: and 64 lower-case hex digits"))]
    pub digest: Option<String>,

    /// The hash of the inputs that `image` was built from. Absent once an interrupted build of other inputs may have
    /// moved the tag of `image`: then these inputs are built again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub build_key: Option<String>,

    /// The generation of the spec that `image` was built from, or that was found to mean the same inputs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_generation: Option<i64>,

    /// Where the files of `image` came from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<SourceStatus>,

    /// The base images of `image`, by digest.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub bases: Vec<BaseImage>,

    /// Why the last build ran, such as `spec changed` or `requested`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub trigger: Option<String>,

    /// How RUN steps of the last build were isolated: userns, podns, own-root or none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub isolation: Option<String>,

    /// The build that runs, or ran last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_build: Option<LastBuild>,

    /// The last value of the annotation karve.dev/requestedAt (or Flux's) that was taken into a build.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub last_handled_reconcile_at: Option<String>,
}

/// Says where the files of an image came from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SourceStatus {
    /// The revision, such as `main@sha1:…`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub revision: Option<String>,
}

/// Names a base image and the digest that it had.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BaseImage {
    /// The image as the Dockerfile names it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 640))]
    pub reference: String,

    /// The digest that it had when it was used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub digest: Option<String>,
}

/// Says how a build ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum BuildResult {
    /// The image is in the registry.
    Succeeded,
    /// It failed, and `reason` says why.
    Failed,
}

/// Describes the build that runs, or ran last.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LastBuild {
    /// Counts the builds of this object; a number is never used twice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub number: Option<i64>,

    /// The hash of the inputs that are built.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub key: Option<String>,

    /// The generation of the spec that started it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<i64>,

    /// Counts the Pods of this build, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<i64>,

    /// How many of the attempts failed in a way that `spec.retries` counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counted_failures: Option<i64>,

    /// The Pod of this attempt; `kubectl logs` of it shows the build.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub pod_name: Option<String>,

    /// The UID of that Pod, once it was seen: tells a Pod that was deleted from one that is yet to be created.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub pod_uid: Option<String>,

    /// When this attempt started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Time>,

    /// When this attempt ended; absent while it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Time>,

    /// How this attempt ended; absent while it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<BuildResult>,

    /// Why it failed, in one word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub reason: Option<String>,

    /// Why it failed, in a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 8192))]
    pub message: Option<String>,

    /// The stage in which it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub stage: Option<String>,

    /// The last lines of output of a build that failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 8192))]
    pub log_tail: Option<String>,

    /// How long each stage took.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 128))]
    pub stages: Vec<StageStatus>,

    /// What the cache spared; absent if none was used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<CacheStatus>,
}

/// Says how long a stage took.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StageStatus {
    /// Name of the stage, or its number.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 256))]
    pub name: String,

    /// How long it took, as a Go duration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub duration: Option<String>,
}
