//! `spec.output` and `spec.registries`: where an image is pushed, and how each registry is spoken to.

use std::collections::BTreeMap;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::spec::{ConfigMapKeyReference, LocalReference};

/// Says where the image is pushed, and what is written into it.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Output {
    /// The image to push, such as `registry.example/shop/web:v1`. Without a tag: `latest`. `status.image` names the same
    /// repository, by digest.
    #[schemars(length(min = 1, max = 512))]
    #[x_kube(validation = Rule::new(
        "self.matches('^(([a-zA-Z0-9]([a-zA-Z0-9.-]*[a-zA-Z0-9])?|[[][0-9a-fA-F:]+[]])(:[0-9]{1,5})?/)?[a-z0-9]+(([._]|__|-+)[a-z0-9]+)*(/[a-z0-9]+(([._]|__|-+)[a-z0-9]+)*)*(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?$')")
        .message("must be an image such as registry.example/shop/web:v1, without a digest"))]
    pub image: String,

    /// Further tags of the same repository that are set to the image.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(min = 1, max = 128), pattern(r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$")))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub tags: Vec<String>,

    /// Whether each build also sets a tag of its own that never moves (`<tag>-<build number>-<four hex digits>`). Absent:
    /// true. It keeps the image of `status.image` from being collected by the registry once a later build has moved
    /// the tag, and lets a build that was interrupted after its push find that image again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub build_tag: Option<bool>,

    /// A Secret of type kubernetes.io/dockerconfigjson that is used to push; for this repository and those below it,
    /// hence for the cache that belongs to it, it wins over `registrySecretRefs`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub push_secret_ref: Option<LocalReference>,

    /// Labels of the image, added to the Dockerfile's.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64, "additionalProperties" = {"type": "string", "maxLength": 4096}))]
    pub labels: BTreeMap<String, String>,

    /// Annotations of the image's manifest.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64, "additionalProperties" = {"type": "string", "maxLength": 4096}))]
    pub annotations: BTreeMap<String, String>,
}

/// Says how one registry is spoken to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Registry {
    /// Host and port of the registry, as images name it, such as `registry.local:5000`.
    #[schemars(length(min = 1, max = 253), pattern(r"^([A-Za-z0-9.-]+|\[[0-9a-fA-F:]+\])(:[0-9]{1,5})?$"))]
    pub host: String,

    /// Speaks plain HTTP. Credentials and images then cross the network unprotected.
    #[serde(default, rename = "plainHTTP", skip_serializing_if = "std::ops::Not::not")]
    pub plain_http: bool,

    /// Accepts any certificate. `caConfigMapRef` is the better way.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub insecure_skip_verify: bool,

    /// One key of a ConfigMap of the same namespace with the certificates, in PEM, that vouch for the registry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_config_map_ref: Option<ConfigMapKeyReference>,
}
