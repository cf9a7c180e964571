//! What is interrupted goes on: the operator is killed or upgraded, a build's Pod is deleted.

use karve_api::Reason;
use karve_tests::eventually_async;
use serde_json::json;

use crate::{
    karve::{cluster, crash_operator, install, kill_operator, operator_image},
    namespace::{DEADLINE, Namespace},
};

/// A build that takes a while.
const SLOW: &str = "FROM BASE\nRUN sleep 8 && date > /built\nCOPY file /\n";

/// Checks that a build was made by one Pod, which pushed its tags and no others.
async fn check_built_once(namespace: &Namespace, name: &str) {
    namespace.until_built(name).await;
    let last = namespace.until(name, "it has a build", |build| build.status.clone()?.last_build).await;
    assert_eq!((last.number, last.attempt), (Some(1), Some(1)), "{name}");
    assert_eq!(namespace.pods(name).await, [format!("{name}-1-1")]);
    let tags = cluster().registry().tags(&namespace.repository(name));
    assert_eq!((tags.len(), &tags[0], &tags[1][..5]), (2, &"v1".to_owned(), "v1-1-"), "{name}");
    for tag in tags {
        assert_eq!(namespace.pushes(name, &tag), 1, "{name}: {tag} was pushed once");
    }
}

#[tokio::test]
async fn an_operator_that_is_killed_during_a_build_builds_it_once() {
    let namespace = Namespace::new("killed").await;
    // At once, before or after the status was written.
    namespace.build("created", SLOW);
    kill_operator();
    // The Pod is named, and there or not.
    namespace.build("named", SLOW);
    namespace.until("named", "a Pod is named", |build| build.status.clone()?.last_build?.pod_name).await;
    kill_operator();
    // Its steps run; the others have perhaps ended, and nobody has read how.
    namespace.build("running", SLOW);
    namespace.until_running("running").await;
    kill_operator();
    for name in ["created", "named", "running"] {
        check_built_once(&namespace, name).await;
    }
}

#[tokio::test]
async fn an_operator_that_crashes_comes_back_by_itself() {
    let namespace = Namespace::new("crashed").await;
    namespace.build("web", SLOW);
    namespace.until_running("web").await;
    crash_operator();
    check_built_once(&namespace, "web").await;
}

#[tokio::test]
async fn an_upgrade_during_a_build_repeats_nothing() {
    let namespace = Namespace::new("upgraded").await;
    namespace.build("done", "FROM BASE\nCOPY file /\n");
    namespace.until_built("done").await;
    namespace.build("running", SLOW);
    namespace.until_running("running").await;
    let before = operator_image();
    install("0.0.2-test");
    assert_ne!(operator_image(), before);
    for name in ["done", "running"] {
        check_built_once(&namespace, name).await;
    }
    // The new operator builds with the new executor.
    namespace.build("after", "FROM BASE\nCOPY file /\n");
    check_built_once(&namespace, "after").await;
    let path = "--output=jsonpath={.spec.containers[0].image}";
    let image = cluster().kubectl_ok(&["--namespace", &namespace.name, "get", "pod/after-1-1", path]);
    assert!(image.ends_with("karve/executor:0.0.2-test"), "{image}");
}

#[tokio::test]
async fn a_pod_that_is_deleted_while_it_runs_is_followed_by_another() {
    let namespace = Namespace::new("deleted-pod").await;
    namespace.build("web", SLOW);
    namespace.until_running("web").await;
    cluster().kubectl_ok(&["--namespace", &namespace.name, "delete", "pod", "web-1-1"]);
    namespace.until_event("web", Reason::PodDeleted).await;
    namespace.until_built("web").await;
    let last = namespace.until("web", "it has a build", |build| build.status.clone()?.last_build).await;
    assert_eq!((last.number, last.attempt), (Some(1), Some(2)));
}

#[tokio::test]
async fn a_cancelled_build_ends_and_leaves_the_last_image() {
    let namespace = Namespace::new("cancelled").await;
    namespace.build("web", "FROM BASE\nCOPY file /\n");
    let first = namespace.until_built("web").await;
    namespace.build("web", "FROM BASE\nRUN sleep 600\n");
    namespace.until_running("web").await;
    namespace.edit("web", json!({"metadata": {"annotations": {"karve.dev/cancel": "2"}}})).await;
    let cancelled = namespace.until_ready_is("web", "False", Reason::Cancelled).await;
    assert_eq!(cancelled.status.unwrap().digest, Some(first.digest));
    eventually_async(DEADLINE, "the Pod is gone", async || {
        (!namespace.pods("web").await.contains(&"web-2-1".to_owned())).then_some(())
    })
    .await;
}
