//! The ConfigMap with what the spec holds inline: files and Dockerfile. Keys cannot hold `/`, so files are keyed by
//! index and get their paths when they are mounted. It is immutable and belongs to one build number, so that what an
//! attempt mounts is what its key was computed from.

use std::collections::BTreeMap;

use k8s_openapi::{api::core::v1::ConfigMap, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use karve_api::{ImageBuild, InlineContext};
use kube::ResourceExt;

use super::{child_labels, names, owner_reference};

/// The key of the inline Dockerfile.
pub(super) const DOCKERFILE_KEY: &str = "dockerfile";

/// Returns the ConfigMap of one build, or `None` if its spec holds nothing inline.
pub fn config_map(object: &ImageBuild, number: i64) -> Option<ConfigMap> {
    let inline_files = object.spec.context.inline.iter().flat_map(|inline| inline.files.values().enumerate());
    let mut data: BTreeMap<String, String> =
        inline_files.map(|(index, content)| (file_key(index), content.clone())).collect();
    let dockerfile = object.spec.dockerfile.as_ref().and_then(|dockerfile| dockerfile.inline.as_ref());
    data.extend(dockerfile.map(|text| (DOCKERFILE_KEY.to_owned(), text.clone())));
    if data.is_empty() {
        return None;
    }
    Some(ConfigMap {
        metadata: ObjectMeta {
            name: Some(config_map_name_of(object, number)),
            namespace: object.namespace(),
            labels: Some(child_labels(object, number)),
            owner_references: Some(vec![owner_reference(object)]),
            ..ObjectMeta::default()
        },
        data: Some(data),
        immutable: Some(true),
        ..ConfigMap::default()
    })
}

/// Returns the (key, path) pairs of the inline files.
pub(super) fn items(inline: &InlineContext) -> Vec<(String, String)> {
    inline.files.keys().enumerate().map(|(index, path)| (file_key(index), path.clone())).collect()
}

/// Returns the name of the ConfigMap of one build.
pub(super) fn config_map_name_of(object: &ImageBuild, number: i64) -> String {
    names::config_map_name(&object.name_any(), number)
}

fn file_key(index: usize) -> String {
    format!("file-{index}")
}
