//! The custom resource definition as it is installed: what the derive makes of the types, plus what it cannot express.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{CustomResourceDefinition, JSON};
use kube::CustomResourceExt;
use serde_json::json;

use super::spec::ImageBuild;

/// Returns the `CustomResourceDefinition` of `ImageBuild`.
///
/// Its status has the default `{observedGeneration: -1}`: kstatus calls an object current whose status says nothing,
/// and the default makes one that was just created wait for the operator.
pub fn custom_resource_definition() -> CustomResourceDefinition {
    let mut definition = ImageBuild::crd();
    for version in &mut definition.spec.versions {
        let status = version
            .schema
            .as_mut()
            .and_then(|validation| validation.open_api_v3_schema.as_mut())
            .and_then(|schema| schema.properties.as_mut())
            .and_then(|properties| properties.get_mut("status"));
        if let Some(status) = status {
            status.default = Some(JSON(json!({"observedGeneration": -1})));
        }
    }
    definition
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::custom_resource_definition;

    /// `kubectl apply` keeps the whole object in one annotation, of at most 256 kB.
    const YAML_BYTES_MAX: usize = 200_000;

    fn schema() -> Value {
        let definition = serde_json::to_value(custom_resource_definition()).unwrap();
        definition.pointer("/spec/versions/0/schema/openAPIV3Schema").unwrap().clone()
    }

    #[test]
    fn the_yaml_is_small_enough_for_kubectl_apply() {
        let yaml = serde_yaml::to_string(&custom_resource_definition()).unwrap();
        assert!(yaml.len() < YAML_BYTES_MAX, "{} bytes", yaml.len());
    }

    #[test]
    fn status_has_the_default_that_keeps_a_new_object_in_progress() {
        assert_eq!(schema().pointer("/properties/status/default"), Some(&json!({"observedGeneration": -1})));
    }

    #[test]
    fn nothing_else_has_a_default() {
        let mut schema = schema();
        schema.pointer_mut("/properties/status").unwrap().as_object_mut().unwrap().remove("default");
        let found = paths_with(&schema, "", &|node| node.get("default").is_some());
        assert_eq!(found, Vec::<String>::new());
    }

    #[test]
    fn every_field_of_ours_is_documented() {
        let found = undocumented(&schema(), "");
        assert_eq!(found, Vec::<String>::new());
    }

    #[test]
    fn every_string_list_and_map_of_ours_is_bounded() {
        let unbounded = |node: &Value| match node.get("type").and_then(Value::as_str) {
            Some("string") => {
                node.get("maxLength").is_none() && node.get("enum").is_none() && node.get("format").is_none()
            }
            Some("array") => node.get("maxItems").is_none(),
            Some("object") => node.get("additionalProperties").is_some() && node.get("maxProperties").is_none(),
            _ => false,
        };
        let found: Vec<String> =
            paths_with(&schema(), "", &unbounded).into_iter().filter(|path| !is_foreign(path)).collect();
        assert_eq!(found, Vec::<String>::new());
    }

    /// Says whether the path lies within a type of Kubernetes itself, which has its own documentation and limits.
    fn is_foreign(path: &str) -> bool {
        ["affinity", "tolerations", "topologySpreadConstraints", "hostAliases", "dnsConfig", "conditions"]
            .iter()
            .any(|name| path.contains(&format!("/{name}/")))
            || ["/apiVersion", "/kind", "/metadata"].contains(&path)
    }

    fn paths_with(node: &Value, path: &str, wanted: &dyn Fn(&Value) -> bool) -> Vec<String> {
        let mut found = Vec::new();
        if wanted(node) {
            found.push(path.to_owned());
        }
        for (name, child) in node.get("properties").and_then(Value::as_object).into_iter().flatten() {
            found.extend(paths_with(child, &format!("{path}/{name}"), wanted));
        }
        for inner in ["items", "additionalProperties"] {
            if let Some(child) = node.get(inner) {
                found.extend(paths_with(child, &format!("{path}/{inner}"), wanted));
            }
        }
        found
    }

    fn undocumented(node: &Value, path: &str) -> Vec<String> {
        let mut found = Vec::new();
        for (name, child) in node.get("properties").and_then(Value::as_object).into_iter().flatten() {
            let path = format!("{path}/{name}");
            if child.get("description").is_none() && !is_foreign(&path) && path != "/metadata" {
                found.push(path.clone());
            }
            found.extend(undocumented(child, &path));
        }
        for inner in ["items", "additionalProperties"] {
            if let Some(child) = node.get(inner) {
                found.extend(undocumented(child, &format!("{path}/{inner}")));
            }
        }
        found
    }
}
