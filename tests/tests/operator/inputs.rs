//! Inputs that are not in the spec: ConfigMaps that are missing, appear and change, and requests by annotation.

use k8s_openapi::api::core::v1::ConfigMap;
use karve_api::Reason;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use crate::scene::{Scene, condition, from, image_build};

async fn create_config_map(scene: &Scene, name: &str, data: Value) {
    let object: ConfigMap = from(json!({"metadata": {"name": name}, "data": data}));
    scene.config_maps().create(&PostParams::default(), &object).await.unwrap();
}

#[tokio::test]
async fn a_missing_config_map_is_named_and_its_arrival_starts_the_build() {
    let scene = Scene::new("config-map").await;
    let _operator = scene.operator();
    let spec = json!({
        "context": {"configMap": {"name": "files"}},
        "buildArgs": [{"name": "VERSION", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "version"}}}],
        "output": {"image": "registry.example/web"},
    });
    scene.builds().create(&PostParams::default(), &image_build("web", &spec)).await.unwrap();
    let stalled = scene.until_ready_is("web", "False", Reason::ConfigMapNotFound).await;
    let message = condition(&stalled, "Stalled").unwrap()["message"].to_string();
    assert!(message.contains("files"), "{message}");
    create_config_map(&scene, "files", json!({"Dockerfile": "FROM scratch"})).await;
    let what = "the other ConfigMap is missed";
    scene
        .until("web", what, |build| {
            condition(build, "Stalled")?["message"].as_str()?.contains("settings").then_some(())
        })
        .await;
    create_config_map(&scene, "settings", json!({"version": "1"})).await;
    let pod = scene.pod("web-1-1").await;
    let arguments = pod.spec.unwrap().containers[0].args.clone().unwrap();
    assert!(arguments.contains(&"--build-arg=VERSION=1".to_owned()), "{arguments:?}");
    scene.succeed("web-1-1", 1).await;
    scene.until_ready_is("web", "True", Reason::Succeeded).await;

    let patch = Patch::Merge(json!({"data": {"Dockerfile": "FROM scratch\nLABEL a=b"}}));
    scene.config_maps().patch("files", &PatchParams::default(), &patch).await.unwrap();
    scene.pod("web-2-1").await;
    // The image is of this spec, and a newer one of the same spec is on its way.
    let rebuilding = scene.until_ready_is("web", "True", Reason::Pending).await;
    assert_eq!(rebuilding.status.unwrap().trigger.as_deref(), Some("a ConfigMap changed"));
}

#[tokio::test]
async fn an_annotation_asks_for_a_build_once() {
    let scene = Scene::new("requested").await;
    let _operator = scene.operator();
    scene.create("web", "1").await;
    scene.pod("web-1-1").await;
    scene.succeed("web-1-1", 1).await;
    scene.until_ready_is("web", "True", Reason::Succeeded).await;
    scene.edit("web", json!({"metadata": {"annotations": {"karve.dev/requestedAt": "now"}}})).await;
    scene.pod("web-2-1").await;
    scene.succeed("web-2-1", 2).await;
    let handled = |build: &karve_api::ImageBuild| {
        let status = build.status.clone()?;
        (status.last_handled_reconcile_at? == "now" && status.last_build?.result.is_some()).then_some(())
    };
    scene.until("web", "the request is handled", handled).await;
    scene.edit("web", json!({"metadata": {"annotations": {"karve.dev/requestedAt": null}}})).await;
    let built = scene.until_ready_is("web", "True", Reason::Succeeded).await;
    assert_eq!(built.status.unwrap().last_build.unwrap().number, Some(2));
}
