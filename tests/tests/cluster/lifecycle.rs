//! A build's life on a node: edits, the same inputs again, rest, deletion.

use karve_api::Reason;
use karve_tests::eventually_async;
use serde_json::json;

use crate::{
    karve::{cluster, kill_operator},
    namespace::{DEADLINE, Namespace},
};

fn dockerfile(version: &str) -> String {
    format!("FROM BASE\nARG PAUSE=0\nRUN sleep ${{PAUSE}}\nCOPY file /{version}\n")
}

#[tokio::test]
async fn an_edit_builds_again_and_going_back_ends_with_the_first_form() {
    let namespace = Namespace::new("edits").await;
    namespace.build("web", &dockerfile("a"));
    namespace.build("there-and-back", &dockerfile("a"));
    let first = namespace.until_built("web").await;
    assert_eq!(namespace.until_built("there-and-back").await.text("a"), "content\n");

    namespace.build("web", &dockerfile("b"));
    let slow = json!({"buildArgs": [{"name": "PAUSE", "value": "5"}]});
    namespace.build_with("there-and-back", &dockerfile("b"), &slow);
    namespace.until_running("there-and-back").await;
    namespace.build_with("there-and-back", &dockerfile("a"), &json!({"buildArgs": null}));

    let second = namespace.until_built("web").await;
    assert_ne!(first.digest, second.digest);
    assert_eq!(second.text("b"), "content\n");
    let back = namespace.until_built("there-and-back").await;
    assert_eq!(back.text("a"), "content\n");
    let number = namespace.until("there-and-back", "it counts", |build| build.status.clone()?.last_build?.number).await;
    assert_eq!(number, 3, "b was built, and a after it");
    // The image of the first build is still there, under its own tag.
    assert_eq!(cluster().registry().tags(&namespace.repository("web")).len(), 3);
    assert!(cluster().registry().digest(&namespace.repository("web"), &first.digest).is_some());
}

#[tokio::test]
async fn the_same_config_map_gives_the_same_digest_in_every_pod() {
    let namespace = Namespace::new("digest").await;
    let dockerfile = format!("FROM {}/busybox:1\nCOPY . /app\n", cluster().registry_host());
    let config_map = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "files"},
        "data": {"Dockerfile": dockerfile, "b.txt": "b", "a.txt": "a"}, "binaryData": {"raw": "AAEC"},
    });
    namespace.apply(&config_map.to_string());
    let context = json!({"context": {"configMap": {"name": "files"}}});
    namespace.build_with("web", "", &context);
    let first = namespace.until_built("web").await;
    assert_eq!(first.paths(1), ["app", "app/Dockerfile", "app/a.txt", "app/b.txt", "app/raw"]);
    namespace.edit("web", json!({"metadata": {"annotations": {"karve.dev/requestedAt": "again"}}})).await;
    let what = "the second build has ended";
    namespace
        .until("web", what, |build| {
            let last = build.status.clone()?.last_build?;
            (last.number == Some(2) && last.result.is_some()).then_some(())
        })
        .await;
    assert_eq!(namespace.until_built("web").await.digest, first.digest);
}

#[tokio::test]
async fn nothing_is_written_at_rest() {
    let namespace = Namespace::new("rest").await;
    namespace.build("built", &dockerfile("a"));
    namespace.build("failed", "FROM BASE\nRUN exit 3\n");
    namespace.until_built("built").await;
    namespace.until_ready_is("failed", "False", Reason::RunFailed).await;
    // What is deleted and reported after the result is so before another operator starts.
    eventually_async(DEADLINE, "what the builds needed is gone", async || {
        let versions = namespace.versions().await;
        (!versions.iter().any(|version| version.starts_with("ConfigMap built"))).then_some(())
    })
    .await;
    namespace.until_event("failed", Reason::RunFailed).await;
    let before = namespace.versions().await;
    // A new operator looks at every object, whatever it is told of changes.
    kill_operator();
    let witness = Namespace::new("witness").await;
    witness.build("suspended", &dockerfile("a"));
    witness.edit("suspended", json!({"spec": {"suspend": true}})).await;
    witness.until_ready_is("suspended", "False", Reason::Suspended).await;
    assert_eq!(namespace.versions().await, before);
}

#[tokio::test]
async fn the_pods_of_a_build_go_with_it() {
    let namespace = Namespace::new("deleted").await;
    namespace.build("done", &dockerfile("a"));
    namespace.build_with("running", &dockerfile("a"), &json!({"buildArgs": [{"name": "PAUSE", "value": "600"}]}));
    namespace.until_built("done").await;
    namespace.until_running("running").await;
    assert_eq!((namespace.pods("done").await.len(), namespace.pods("running").await.len()), (1, 1));
    cluster().kubectl_ok(&["--namespace", &namespace.name, "delete", "imagebuild", "done", "running"]);
    eventually_async(DEADLINE, "the Pods are gone", async || {
        let names = [namespace.pods("done").await, namespace.pods("running").await].concat();
        names.is_empty().then_some(())
    })
    .await;
}
