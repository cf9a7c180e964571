//! What the chart installs by default is what `config/default` installs, object by object.

use std::collections::BTreeMap;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use karve_tests::programs;
use serde_json::{Value, json};

use crate::render::{arguments, chart, kustomization, run, succeeded};

/// What only Helm says of an object.
const OF_HELM: [(&str, &str); 4] = [
    ("labels", "helm.sh/chart"),
    ("labels", "app.kubernetes.io/managed-by"),
    ("labels", "app.kubernetes.io/version"),
    ("annotations", "helm.sh/resource-policy"),
];

#[test]
fn the_chart_and_the_kustomization_install_the_same_objects() {
    let of_chart = by_name(chart(&[]));
    let mut of_kustomization = by_name(kustomization("config/default"));
    // Helm makes the namespace by a flag, and has no label for it.
    let namespace = of_kustomization.remove("Namespace //karve-system").expect("config/default has the namespace");
    assert_eq!(namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"], "restricted");

    let names = |objects: &BTreeMap<String, Value>| objects.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&of_chart), names(&of_kustomization));
    for (name, object) in &of_chart {
        assert_eq!(object, &of_kustomization[name], "{name} differs: left is the chart's, right the kustomization's");
    }
}

#[test]
fn the_program_knows_every_flag_that_the_chart_passes() {
    let objects = chart(&[
        "--set=watchNamespaces={shop,web},registries.plainHTTP={registry.local:5000},executor.imagePullSecrets={pull}",
        "--set=cache.enabled=false,cache.ttl=1.5h30m10s",
    ]);
    // It reads flags and their values in order, and `--help` ends it before it does anything.
    let output = run(&programs::operator(), arguments(&objects).into_iter().chain(["--help"]), "");
    let help = succeeded(&output);
    assert!(help.contains("--lease-name"), "this is not the help of `karve-operator run`:\n{help}");
}

/// Returns the objects by kind, namespace and name, without what only Helm says.
fn by_name(objects: Vec<Value>) -> BTreeMap<String, Value> {
    let named = objects.into_iter().map(|mut object| {
        for (map, key) in OF_HELM {
            let metadata = &mut object["metadata"];
            metadata.get_mut(map).and_then(Value::as_object_mut).and_then(|entries| entries.remove(key));
            if metadata.get(map) == Some(&json!({})) {
                metadata.as_object_mut().and_then(|metadata| metadata.remove(map));
            }
        }
        // One writes `100.0` where the other writes `100`.
        if object["kind"] == "CustomResourceDefinition" {
            let typed: CustomResourceDefinition = serde_json::from_value(object).expect("this is a definition");
            object = serde_json::to_value(typed).expect("a definition is JSON");
        }
        let metadata = &object["metadata"];
        let namespace = metadata["namespace"].as_str().unwrap_or("/");
        let name = metadata["name"].as_str().expect("an object has a name");
        let kind = object["kind"].as_str().expect("an object has a kind");
        (format!("{kind} {namespace}/{name}"), object)
    });
    named.collect()
}
