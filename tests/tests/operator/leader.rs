//! Of several operators one acts: it gives way when it is asked to end, and is succeeded when it is killed.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use karve_api::Reason;
use karve_tests::eventually;
use kube::Api;

use crate::scene::{DEADLINE, Scene};

async fn holder(scene: &Scene) -> String {
    let leases: Api<Lease> = scene.api();
    let lease = leases.get("karve-operator").await.unwrap();
    lease.spec.unwrap().holder_identity.unwrap_or_default()
}

#[tokio::test]
async fn one_operator_acts_and_gives_way_when_it_ends() {
    let scene = Scene::new("leader").await;
    let mut first = scene.operator_with("first", &[]).leads();
    let second = scene.operator_with("second", &[]);
    // Who waits is ready too, or an upgrade could not replace who leads.
    eventually(DEADLINE, "the second is ready", || (second.page("/readyz")?.0 == 200).then_some(()));
    assert!(holder(&scene).await.starts_with("first_"));
    scene.create("web", "1").await;
    scene.pod("web-1-1").await;
    assert_eq!(second.passes(), 0);

    let status = first.process.terminate(Duration::from_secs(20));
    assert!(status.success(), "{status}:\n{}", first.process.log());
    let second = second.leads();
    assert!(holder(&scene).await.starts_with("second_"));
    scene.succeed("web-1-1", 1).await;
    scene.until_ready_is("web", "True", Reason::Succeeded).await;
    // A pass is counted when it is over: a moment after what it wrote can be seen.
    eventually(DEADLINE, "the second has counted a pass", || (second.passes() > 0).then_some(()));
}

#[tokio::test]
async fn a_killed_leader_is_succeeded_when_its_lease_has_run_out() {
    let scene = Scene::new("killed-leader").await;
    let mut first = scene.operator_with("first", &[]).leads();
    let second = scene.operator_with("second", &[]);
    first.process.kill();
    scene.create("web", "1").await;
    let _second = second.leads();
    scene.pod("web-1-1").await;
    assert_eq!(scene.pod_names().await, ["web-1-1"]);
}
