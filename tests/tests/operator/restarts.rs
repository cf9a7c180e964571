//! The operator ends at any moment and comes back: the same end, one Pod for each attempt; and rest is rest.

use std::collections::BTreeSet;

use k8s_openapi::api::coordination::v1::Lease;
use karve_api::Reason;
use karve_tests::eventually;
use kube::{Api, api::DeleteParams};
use serde_json::json;

use crate::scene::{DEADLINE, Scene};

/// A killed operator's Lease holds for 15 seconds, which another test waits for.
async fn expire_lease(scene: &Scene) {
    let leases: Api<Lease> = scene.api();
    drop(leases.delete("karve-operator", &DeleteParams::default()).await);
}

#[tokio::test]
async fn an_operator_that_is_killed_at_any_moment_leaves_one_pod_and_one_result() {
    let scene = Scene::new("killed").await;
    // Every request to the API server is a line of this log: the moments are between any two of them.
    let debug = ["--log=karve_operator=debug,kube_client=debug,info"];
    let mut moments = BTreeSet::new();
    for line in (1..65).step_by(4) {
        let name = format!("web-{line}");
        scene.create(&name, "1").await;
        scene.operator_with("victim", &debug).kill_at_line(line);
        expire_lease(&scene).await;
        let pod = format!("{name}-1-1");
        let seen = scene.builds().get(&name).await.unwrap();
        let is_named = seen.status.is_some_and(|status| status.last_build.is_some());
        moments.insert((is_named, scene.pods().get_opt(&pod).await.unwrap().is_some()));
        let successor = scene.operator();
        scene.pod(&pod).await;
        scene.run(&pod).await;
        drop(successor);
        expire_lease(&scene).await;

        scene.succeed(&pod, 1).await;
        scene.operator_with("victim", &debug).kill_at_line(line);
        expire_lease(&scene).await;
        let _successor = scene.operator();
        let built = scene.until_ready_is(&name, "True", Reason::Succeeded).await;
        let last = built.status.unwrap().last_build.unwrap();
        assert_eq!((last.number, last.attempt), (Some(1), Some(1)), "killed at line {line}");
        expire_lease(&scene).await;
        let pods = scene.pod_names().await;
        let of_build: Vec<&String> = pods.iter().filter(|pod| pod.starts_with(&format!("{name}-1"))).collect();
        assert_eq!(of_build, [&pod], "killed at line {line}");
        // The next operator's log is not to be of this object.
        scene.builds().delete(&name, &DeleteParams::default()).await.unwrap();
    }
    // Before the first write and after the last one, and, as the machine's load has it, between them.
    assert!(moments.contains(&(false, false)) && moments.contains(&(true, true)), "too few moments: {moments:?}");
}

#[tokio::test]
async fn an_operator_that_is_killed_between_status_and_pod_is_followed_by_one_that_creates_the_pod() {
    let scene = Scene::new("between").await;
    // A Pod that is refused is one that is not there yet.
    scene.enforce_pod_security("restricted").await;
    let operator = scene.operator();
    scene.create("web", "1").await;
    let refused = scene.until_ready_is("web", "False", Reason::PodRefused).await;
    drop(operator);
    expire_lease(&scene).await;
    scene.enforce_pod_security("baseline").await;
    let _successor = scene.operator();
    let pod = scene.pod("web-1-1").await;
    scene.succeed("web-1-1", 1).await;
    let built = scene.until_ready_is("web", "True", Reason::Succeeded).await;
    let last = |build: karve_api::ImageBuild| build.status.unwrap().last_build.unwrap();
    let (before, after) = (last(refused), last(built));
    assert_eq!((before.number, before.attempt, before.key), (after.number, after.attempt, after.key));
    assert_eq!(after.pod_uid, pod.metadata.uid);
    assert_eq!(scene.pod_names().await, ["web-1-1"]);
}

#[tokio::test]
async fn nothing_is_written_at_rest() {
    let scene = Scene::new("rest").await;
    let operator = scene.operator().leads();
    for (name, number) in [("built", 1), ("failed", 2), ("suspended", 3)] {
        scene.create(name, "1").await;
        let pod = format!("{name}-1-1");
        scene.pod(&pod).await;
        if name == "failed" {
            scene.fail(&pod, Reason::RunFailed, "exit code: 1").await;
            scene.until_ready_is(name, "False", Reason::RunFailed).await;
        } else {
            scene.succeed(&pod, number).await;
            scene.until_ready_is(name, "True", Reason::Succeeded).await;
        }
    }
    scene.edit("suspended", json!({"spec": {"suspend": true}})).await;
    scene.until_ready_is("suspended", "True", Reason::Suspended).await;

    // A first touch: what follows of it, such as deleting what is not needed any more, is over when versions are read.
    for name in ["built", "failed", "suspended"] {
        touch(&scene, &operator, name, "1").await;
    }
    let before = scene.versions().await;
    for name in ["built", "failed", "suspended"] {
        // The touch itself is a write, and is put back: what was there is compared with what is there, but for it.
        touch(&scene, &operator, name, "2").await;
    }
    drop(operator);
    expire_lease(&scene).await;
    let operator = scene.operator().leads();
    eventually(DEADLINE, "every object was looked at again", || (operator.passes() >= 3).then_some(()));
    let after = scene.versions().await;
    let of_others = |versions: &[String]| -> Vec<String> {
        versions.iter().filter(|version| !version.starts_with("ImageBuild ")).cloned().collect()
    };
    assert_eq!(of_others(&before), of_others(&after));
    for build in scene.builds().list(&kube::api::ListParams::default()).await.unwrap() {
        // The last writer of the status came before the touches.
        let fields = build.metadata.managed_fields.clone().unwrap_or_default();
        let is_status = |field: &&k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry| {
            field.subresource.as_deref() == Some("status")
        };
        let written = fields.iter().filter(is_status).filter_map(|field| field.time.clone()).max();
        let touched = fields.iter().filter(|field| !is_status(field)).filter_map(|field| field.time.clone()).max();
        assert!(written <= touched, "the status of {:?} was written at rest", build.metadata.name);
    }
}

/// Changes something that is no input, and waits until the operator has looked at it.
async fn touch(scene: &Scene, operator: &crate::scene::Operator, name: &str, value: &str) {
    let passes = operator.passes();
    scene.edit(name, json!({"metadata": {"labels": {"touched": value}}})).await;
    eventually(DEADLINE, "the operator looks at what changed", || (operator.passes() > passes).then_some(()));
}
