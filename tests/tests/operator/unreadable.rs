//! An object that the API server admits and the operator cannot read, as one of another version would be, stops nobody.

use std::sync::Arc;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use karve_api::{ImageBuild, Reason};
use karve_tests::{api_server::ApiServer, eventually_async};
use kube::{
    Api,
    api::{DynamicObject, Patch, PatchParams, PostParams},
    core::ApiResource,
};
use serde_json::json;

use crate::scene::{DEADLINE, Scene, from, spec};

/// Lets the definition admit anything for `spec.retries`.
async fn loosen_definition(scene: &Scene) {
    let field = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/retries";
    let anything = json!({"description": "anything", "x-kubernetes-preserve-unknown-fields": true});
    let patch = json!([{"op": "replace", "path": field, "value": anything}]);
    let definitions: Api<CustomResourceDefinition> = Api::all(scene.client.clone());
    let loosened: Patch<CustomResourceDefinition> = Patch::Json(from(patch));
    definitions.patch("imagebuilds.karve.dev", &PatchParams::default(), &loosened).await.unwrap();
}

#[tokio::test]
async fn an_object_that_cannot_be_read_is_told_so_and_others_build() {
    // A server of its own: the definition is everybody's.
    let server = Arc::new(ApiServer::start());
    let scene = Scene::on(Arc::clone(&server), "good").await;
    let other = Scene::on(server, "bad").await;
    loosen_definition(&scene).await;
    let both = ["--watch-namespace=bad"];
    let operator = scene.operator_with("one", &both);

    let mut wrong = spec("web", "1");
    wrong["retries"] = json!({"of": "another version"});
    let resource = ApiResource::erase::<ImageBuild>(&());
    let untyped: Api<DynamicObject> = Api::namespaced_with(other.client.clone(), "bad", &resource);
    let wrong: DynamicObject = from(
        json!({"apiVersion": "karve.dev/v1alpha1", "kind": "ImageBuild", "metadata": {"name": "web"}, "spec": wrong}),
    );
    eventually_async(DEADLINE, "the looser definition is in force", async || {
        untyped.create(&PostParams::default(), &wrong).await.ok()
    })
    .await;
    let told = async || {
        eventually_async(DEADLINE, "the object is told", async || {
            let object = untyped.get("web").await.unwrap();
            let conditions = object.data["status"]["conditions"].as_array()?.clone();
            let stalled = conditions.into_iter().find(|condition| condition["type"] == "Stalled")?;
            Some((stalled, object.metadata.resource_version))
        })
        .await
    };
    let (stalled, version) = told().await;
    assert_eq!((&stalled["reason"], &stalled["status"]), (&json!(Reason::InvalidSpec), &json!("True")));
    let message = stalled["message"].as_str().unwrap();
    assert!(message.contains("cannot be read"), "{message}");

    scene.create("before", "1").await;
    scene.pod("before-1-1").await;
    drop(operator);
    let _operator = scene.operator_with("two", &[&both[..], &["--lease-name=another"]].concat()).leads();
    scene.create("after", "1").await;
    scene.pod("after-1-1").await;
    scene.succeed("before-1-1", 1).await;
    scene.until_ready_is("before", "True", Reason::Succeeded).await;
    assert_eq!(told().await.1, version, "it is told once");
}
