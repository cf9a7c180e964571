//! The definition of `ImageBuild` on a real API server: what it admits, and in which words it refuses.

use karve_api::ImageBuild;
use kube::{
    Api,
    api::{DynamicObject, PostParams},
    core::ApiResource,
};
use serde_json::{Value, json};

use crate::scene::{Scene, from, spec};

/// Sends an object that is not stored; an error is the API server's words.
async fn send(scene: &Scene, object: Value) -> Result<(), String> {
    let resource = ApiResource::erase::<ImageBuild>(&());
    let api: Api<DynamicObject> = Api::namespaced_with(scene.client.clone(), &scene.namespace, &resource);
    let parameters = PostParams { dry_run: true, ..PostParams::default() };
    api.create(&parameters, &from(object)).await.map(drop).map_err(|error| error.to_string())
}

fn object(name: &str, spec: &Value) -> Value {
    json!({"apiVersion": "karve.dev/v1alpha1", "kind": "ImageBuild", "metadata": {"name": name}, "spec": spec})
}

/// Changes a good spec by a merge, and expects a refusal with these words.
async fn check(scene: &Scene, change: Value, words: &str) {
    let mut wrong = spec("web", "1");
    merge(&mut wrong, change);
    let refusal = send(scene, object("web", &wrong)).await.expect_err(words);
    assert!(refusal.contains(words), "`{words}` is not in: {refusal}");
}

fn merge(target: &mut Value, change: Value) {
    match (target, change) {
        (Value::Object(target), Value::Object(change)) => {
            for (key, value) in change {
                merge(target.entry(key).or_insert(Value::Null), value);
            }
        }
        (target, change) => *target = change,
    }
}

#[tokio::test]
async fn rules_refuse_in_words_that_help() {
    let scene = Scene::new("rules").await;
    send(&scene, object("web", &spec("web", "1"))).await.unwrap();
    let context = |context: Value| json!({"context": context});
    let one = "set exactly one of git, inline, configMap and persistentVolumeClaim";
    check(&scene, context(json!({"configMap": {"name": "files"}})), one).await;
    check(&scene, context(json!({"inline": null})), one).await;
    let git = |git: Value| json!({"context": {"inline": null, "git": git}});
    check(&scene, git(json!({"url": "https://user:pass@git.example/x.git"})), "without credentials").await;
    check(&scene, git(json!({"url": "ssh://git.example/x.git"})), "must be an http or https URL").await;
    let two = json!({"url": "https://git.example/x.git", "ref": {"branch": "main", "tag": "v1"}});
    check(&scene, git(two), "set exactly one of branch, tag and commit").await;
    let short = json!({"url": "https://git.example/x.git", "ref": {"commit": "abc123"}});
    check(&scene, git(short), "must be a full commit hash").await;
    check(&scene, context(json!({"subPath": "../other"})), "must be a relative path without '..'").await;
    let files = |path: &str, content: &str| json!({"context": {"inline": {"files": {path: content}}}});
    check(&scene, files("../Dockerfile", ""), "paths must be relative").await;
    check(&scene, files("/etc/passwd", ""), "paths must be relative").await;
    let large = json!({"context": {"inline": {"files": {"a": "x".repeat(131_072), "b": "x".repeat(80_000)}}}});
    check(&scene, large, "at most 200000 characters together").await;
    let dockerfile = json!({"dockerfile": {"path": "Dockerfile", "inline": "FROM scratch"}});
    check(&scene, dockerfile, "set exactly one of path and inline").await;
    let argument = json!({"buildArgs": [{"name": "A", "value": "1", "valueFrom": {"configMapKeyRef": {"name": "a", "key": "b"}}}]});
    check(&scene, argument, "set exactly one of value and valueFrom").await;
    check(&scene, json!({"buildArgs": [{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]}), "Duplicate value")
        .await;
    let digest = format!("registry.example/web@sha256:{}", "0".repeat(64));
    check(&scene, json!({"output": {"image": digest}}), "without a digest").await;
    check(&scene, json!({"output": {"image": null}}), "spec.output.image: Required value").await;
    check(&scene, json!({"timeout": "25h"}), "must be a duration from 1s to 24h").await;
    check(&scene, json!({"history": {"ttl": "1s"}}), "must be a duration of at least 1m").await;
    let cache = |field: &str, value: &str| json!({"cache": {field: value}});
    check(&scene, cache("ttl", "1s"), "must be a duration from 1m to 87600h").await;
    check(&scene, cache("ttl", "14d"), "spec.cache.ttl").await;
    for repository in
        ["registry.example/c:v1", "registry.example/c@sha256:00", "https://registry.example/c", "oci:5000/c", ""]
    {
        check(&scene, cache("repository", repository), "spec.cache.repository").await;
    }
    check(&scene, cache("repository", "registry.example/c:v1"), "without a tag and without a digest").await;
    check(&scene, cache("disabled", "yes"), "spec.cache.disabled").await;
    check(&scene, json!({"retries": -1}), "should be greater than or equal to 0").await;
    let label = json!({"podTemplate": {"metadata": {"labels": {"karve.dev/imagebuild": "other"}}}});
    check(&scene, label, "keys under karve.dev/ are set by the operator alone").await;
    let refusal = send(&scene, object(&"a".repeat(64), &spec("web", "1"))).await.unwrap_err();
    assert!(refusal.contains("metadata.name may have at most 63 characters"), "{refusal}");
}

#[tokio::test]
async fn every_field_of_the_cache_is_admitted() {
    let scene = Scene::new("cache-fields").await;
    for cache in [
        json!({}),
        json!({"disabled": true}),
        json!({"disabled": false, "repository": "registry.local:5000/shop/web/cache", "ttl": "336h", "mounts": false}),
        json!({"repository": "cache", "ttl": "1m"}),
    ] {
        let mut cached = spec("web", "1");
        cached["cache"] = cache;
        send(&scene, object("web", &cached)).await.unwrap();
    }
}

#[tokio::test]
async fn what_a_new_object_says_keeps_tools_waiting() {
    let scene = Scene::new("new-object").await;
    let build = scene.create("web", "1").await;
    assert_eq!(build.status.unwrap().observed_generation, Some(-1));
}
