//! `spec.context`: the four places that a build's files come from. Exactly one is set, by a rule of the schema.

use std::collections::BTreeMap;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::spec::LocalReference;

/// Says where the files come from that COPY and ADD read.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new(
    "[has(self.git), has(self.inline), has(self.configMap), has(self.persistentVolumeClaim)].filter(set, set).size() == 1")
    .message("set exactly one of git, inline, configMap and persistentVolumeClaim"))]
pub struct ContextSource {
    /// A git repository over https or http.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub git: Option<GitContext>,

    /// Files written into the resource itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inline: Option<InlineContext>,

    /// A ConfigMap of the same namespace: each key is a file of the context's top directory. A change builds again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_map: Option<ConfigMapContext>,

    /// A volume of the same namespace, mounted read-only. What changes on it cannot be seen: set the annotation
    /// karve.dev/requestedAt to build again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub persistent_volume_claim: Option<VolumeClaimContext>,

    /// The directory of the source that is the context. Absent: its top directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    #[x_kube(validation = Rule::new("!self.startsWith('/') && !self.split('/').exists(part, part == '..')")
        .message("must be a relative path without '..'"))]
    pub sub_path: Option<String>,
}

/// Names a git repository and what to check out of it.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GitContext {
    /// URL of the repository, https or http, without credentials.
    #[schemars(length(min = 1, max = 2048))]
    #[x_kube(validation = Rule::new("self.matches('^https?://[^/@[:space:]]+(/[^[:space:]]*)?$')")
        .message("must be an http or https URL without credentials: name a Secret in secretRef instead"))]
    pub url: String,

    /// What to check out: one of branch, tag and commit. Absent: the remote's HEAD.
    #[serde(default, rename = "ref", skip_serializing_if = "Option::is_none")]
    pub reference: Option<GitRef>,

    /// A Secret with `username` and `password`, or `bearerToken`, and perhaps `ca.crt`; Secrets of type
    /// kubernetes.io/basic-auth fit. Only the container that fetches sees it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<LocalReference>,
}

/// Says what to check out of a git repository.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[x_kube(validation = Rule::new("[has(self.branch), has(self.tag), has(self.commit)].filter(set, set).size() == 1")
    .message("set exactly one of branch, tag and commit"))]
pub struct GitRef {
    /// A branch; its newest commit is built. A later commit is not noticed by itself: set the annotation
    /// karve.dev/requestedAt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255), pattern(r"^[^-\s][^\s]*$"))]
    pub branch: Option<String>,

    /// A tag.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255), pattern(r"^[^-\s][^\s]*$"))]
    pub tag: Option<String>,

    /// A commit by its full hash.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    #[x_kube(validation = Rule::new("self.matches('^[0-9a-f]{40}([0-9a-f]{24})?$')")
        .message("must be a full commit hash of 40 or 64 lower-case hex digits"))]
    pub commit: Option<String>,
}

/// Holds the files of a context.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InlineContext {
    /// Content by relative path, such as `src/main.py`. At most 64 files of 200,000 characters together.
    #[schemars(extend(
        "minProperties" = 1,
        "maxProperties" = 64,
        "additionalProperties" = {"type": "string", "maxLength": 131_072}
    ))]
    #[x_kube(
        validation = Rule::new("self.map(path, self[path].size()).sum() <= 200000")
            .message("the files may have at most 200000 characters together"),
        validation = Rule::new("self.all(path, path.size() <= 512 && path.matches('^[^/]+(/[^/]+)*$') && !path.matches('(^|/)[.][.]?(/|$)'))")
            .message("paths must be relative, of at most 512 characters, without '.', '..' and empty parts")
    )]
    pub files: BTreeMap<String, String>,
}

/// Names the ConfigMap whose keys are the files of the context.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ConfigMapContext {
    /// Name of the ConfigMap.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// Names the volume that holds the context.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VolumeClaimContext {
    /// Name of the PersistentVolumeClaim.
    #[schemars(length(min = 1, max = 253))]
    pub claim_name: String,
}
