//! `spec`: what to build, how, and where the result goes. Absent fields mean the default that their text names; no
//! default is written into the object, so that what a GitOps tool applied is what it reads back.

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    cache::Cache,
    context::ContextSource,
    output::{Output, Registry},
    pod_template::{PodTemplate, Resources},
    status::ImageBuildStatus,
};

/// Says what image is built from what, and where it is pushed.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "karve.dev",
    version = "v1alpha1",
    kind = "ImageBuild",
    namespaced,
    status = "ImageBuildStatus",
    derive = "PartialEq",
    shortname = "ib",
    shortname = "imgbuild",
    category = "all",
    category = "karve",
    doc = "ImageBuild builds a container image from a Dockerfile in a Pod of its own namespace, pushes it, and says in `status.image` by which digest workloads run it. It builds again when an input changes.",
    printcolumn(name = "Ready", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].status"#),
    printcolumn(name = "Reason", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].reason"#),
    printcolumn(name = "Image", type_ = "string", json_path = ".status.image"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("self.metadata.name.size() <= 63")
        .message("metadata.name may have at most 63 characters: it is the value of the label karve.dev/imagebuild")
)]
#[serde(rename_all = "camelCase")]
pub struct ImageBuildSpec {
    /// Where the files come from that COPY and ADD read. Exactly one source; `subPath` picks a directory of it.
    pub context: ContextSource,

    /// The Dockerfile: a path in the context, or its text. Absent: the file `Dockerfile` of the context.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dockerfile: Option<Dockerfile>,

    /// The stage to build, by name or number. Absent: the last stage of the Dockerfile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128), pattern(r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"))]
    pub target: Option<String>,

    /// Values of the Dockerfile's ARGs. They are no secrets: whoever has the image can read them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub build_args: Vec<BuildArg>,

    /// Secrets for `RUN --mount=type=secret,id=…`. They are files of the one step that mounts them, may be binary, and
    /// never land in the image.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["id".into()]))]
    pub secrets: Vec<RunSecret>,

    /// Secrets of type kubernetes.io/dockerconfigjson with the credentials for pulling base images, for the cache and for
    /// pushing. They are merged; of several entries that fit an image the one with the longest path wins.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub registry_secret_refs: Vec<LocalReference>,

    /// How to speak to single registries: plain HTTP, or a certificate authority of their own. Added to the operator's
    /// defaults; an entry here wins over one for the same host.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["host".into()]))]
    pub registries: Vec<Registry>,

    /// What is kept between builds, where and how long: a step whose inputs are the same is not run again. A change of
    /// these fields starts no build. Absent: results of steps are kept for two weeks, in the repository `cache` below that
    /// of `output.image`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<Cache>,

    /// Where the image is pushed, and what is written into it.
    pub output: Output,

    /// How long a build may run from the start of its container, as a Go duration such as `1h30m`. Absent: `1h`; at
    /// most `24h`. A build that runs longer fails with reason Timeout.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    #[x_kube(validation = Rule::new("duration(self) >= duration('1s') && duration(self) <= duration('24h')")
        .message("must be a duration from 1s to 24h, such as 1h30m"))]
    pub timeout: Option<String>,

    /// How often a build is tried again whose RUN step failed or that ran into its timeout. Absent: 0. Failures of the
    /// infrastructure (a drained node, a registry that is down) are tried again in any case and are not counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 10))]
    pub retries: Option<i32>,

    /// What happens when an input changes while a build runs. `Finish` (the default): the running build ends, then
    /// the newest inputs are built. `Replace`: the running Pod is deleted first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_policy: Option<RunPolicy>,

    /// Starts no build while true; one that runs already comes to its end. The last image stays in `status.image`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub suspend: bool,

    /// Requests and limits of the container `build`. Absent: requests of 500m CPU, 512Mi memory and 2Gi
    /// ephemeral-storage, and no limits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,

    /// What may be set on the build's Pod: scheduling, DNS, service account, labels. Never containers, volumes or
    /// security settings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_template: Option<PodTemplate>,

    /// How many finished Pods, with their logs, are kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub history: Option<History>,
}

/// Says what happens when an input changes while a build runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RunPolicy {
    /// The running build ends, then the newest inputs are built.
    #[default]
    Finish,
    /// The running Pod is deleted, then the newest inputs are built.
    Replace,
}

/// Names the Dockerfile by path, or holds its text.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[x_kube(validation = Rule::new("has(self.path) != has(self.inline)").message("set exactly one of path and inline"))]
pub struct Dockerfile {
    /// Path of the Dockerfile, relative to the context.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    #[x_kube(validation = Rule::new("!self.startsWith('/') && !self.split('/').exists(part, part == '..')")
        .message("must be a relative path without '..'"))]
    pub path: Option<String>,

    /// The text of the Dockerfile; the context then needs none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 131_072))]
    pub inline: Option<String>,
}

/// Gives one ARG of the Dockerfile a value.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.value) != has(self.valueFrom)")
    .message("set exactly one of value and valueFrom"))]
pub struct BuildArg {
    /// Name of the ARG.
    #[schemars(length(min = 1, max = 128), pattern(r"^[A-Za-z_][A-Za-z0-9_]*$"))]
    pub name: String,

    /// The value itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32_768))]
    pub value: Option<String>,

    /// Where the value is read from. A change of it builds again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value_from: Option<BuildArgSource>,
}

/// Says where the value of a build argument is read from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BuildArgSource {
    /// One key of a ConfigMap of the same namespace.
    pub config_map_key_ref: ConfigMapKeyReference,
}

/// Gives a `RUN --mount=type=secret` its content.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RunSecret {
    /// The `id=` by which the Dockerfile mounts it.
    #[schemars(length(min = 1, max = 128), pattern(r"^[A-Za-z0-9_][A-Za-z0-9._-]*$"))]
    pub id: String,

    /// One key of a Secret of the same namespace.
    pub secret_key_ref: SecretKeyReference,
}

/// Names an object of the same namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LocalReference {
    /// Name of the object.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// Names one key of a Secret of the same namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SecretKeyReference {
    /// Name of the Secret.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,

    /// Key of the Secret.
    #[schemars(length(min = 1, max = 253), pattern(r"^[-._a-zA-Z0-9]+$"))]
    pub key: String,
}

/// Names one key of a ConfigMap of the same namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ConfigMapKeyReference {
    /// Name of the ConfigMap.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,

    /// Key of the ConfigMap.
    #[schemars(length(min = 1, max = 253), pattern(r"^[-._a-zA-Z0-9]+$"))]
    pub key: String,
}

/// Says how many finished Pods, with their logs, are kept.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    /// Pods of builds that succeeded. Absent: 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100))]
    pub succeeded: Option<i32>,

    /// Pods of builds that failed. Absent: 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100))]
    pub failed: Option<i32>,

    /// How long a finished Pod is kept at most, as a Go duration. Absent: without end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    #[x_kube(validation = Rule::new("duration(self) >= duration('1m')")
        .message("must be a duration of at least 1m, such as 24h"))]
    pub ttl: Option<String>,
}
