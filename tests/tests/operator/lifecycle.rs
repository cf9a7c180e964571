//! From a spec to a digest in status, and on: edits, failures, deletions, a foreign Pod.

use k8s_openapi::api::core::v1::Pod;
use karve_api::{BuildResult, ImageBuild, ImageBuildStatus, LastBuild, Reason};
use karve_tests::eventually_async;
use kube::{
    ResourceExt,
    api::{DeleteParams, PostParams},
};
use serde_json::json;

use crate::scene::{DEADLINE, Scene, condition, from, spec};

fn status(build: &ImageBuild) -> ImageBuildStatus {
    build.status.clone().unwrap_or_default()
}

fn last(build: &ImageBuild) -> LastBuild {
    status(build).last_build.unwrap_or_default()
}

#[tokio::test]
async fn a_build_ends_with_a_digest_in_status() {
    let scene = Scene::new("digest").await;
    let _operator = scene.operator();
    let created = scene.create("web", "1").await;
    let pod = scene.pod("web-1-1").await;
    let owner = &pod.owner_references()[0];
    assert_eq!((owner.uid.clone(), owner.controller), (created.uid().unwrap(), Some(true)));
    assert_eq!(pod.labels()["karve.dev/imagebuild"], "web");

    let pending = scene.until_ready_is("web", "Unknown", Reason::Pending).await;
    assert_eq!(condition(&pending, "Reconciling").unwrap()["status"], "True");
    assert_eq!(last(&pending).pod_name.as_deref(), Some("web-1-1"));
    scene.run("web-1-1").await;
    scene.until_ready_is("web", "Unknown", Reason::Building).await;
    let digest = scene.succeed("web-1-1", 1).await;
    let built = scene.until_ready_is("web", "True", Reason::Succeeded).await;
    assert_eq!(status(&built).image, Some(format!("registry.example/web@{digest}")));
    assert_eq!(status(&built).digest, Some(digest));
    assert_eq!(status(&built).trigger.as_deref(), Some("first build"));
    assert_eq!(last(&built).result, Some(BuildResult::Succeeded));
    assert_eq!((condition(&built, "Reconciling"), condition(&built, "Stalled")), (None, None));
    let events = eventually_async(DEADLINE, "there are Events", async || {
        let reasons = scene.event_reasons("web").await;
        reasons.contains(&"Succeeded".to_owned()).then_some(reasons)
    })
    .await;
    assert!(events.contains(&"BuildStarted".to_owned()), "{events:?}");
}

#[tokio::test]
async fn the_status_names_a_pod_before_there_is_one() {
    let scene = Scene::new("status-first").await;
    scene.enforce_pod_security("restricted").await;
    let _operator = scene.operator();
    scene.create("web", "1").await;
    let refused = scene.until_ready_is("web", "False", Reason::PodRefused).await;
    assert_eq!(last(&refused).pod_name.as_deref(), Some("web-1-1"));
    let message = condition(&refused, "Ready").unwrap()["message"].to_string();
    assert!(message.contains("violates PodSecurity"), "{message}");
    assert_eq!(scene.pod_names().await, Vec::<String>::new());
    scene.enforce_pod_security("baseline").await;
    scene.pod("web-1-1").await;
}

#[tokio::test]
async fn a_failure_of_the_users_waits_for_an_edit() {
    let scene = Scene::new("failure").await;
    let _operator = scene.operator();
    scene.create("web", "1").await;
    scene.pod("web-1-1").await;
    scene.fail("web-1-1", Reason::RunFailed, "Dockerfile:3: RUN false: exit code: 1").await;
    let failed = scene.until_ready_is("web", "False", Reason::RunFailed).await;
    assert_eq!(condition(&failed, "Stalled").unwrap()["reason"], "RunFailed");
    assert_eq!(condition(&failed, "Ready").unwrap()["message"], "Dockerfile:3: RUN false: exit code: 1");
    assert_eq!(status(&failed).image, None);
    scene.set_version("web", "2").await;
    scene.pod("web-2-1").await;
    let digest = scene.succeed("web-2-1", 2).await;
    let built = scene.until_ready_is("web", "True", Reason::Succeeded).await;
    assert_eq!(status(&built).digest, Some(digest));
    assert_eq!(status(&built).trigger.as_deref(), Some("spec changed"));
}

#[tokio::test]
async fn an_image_stays_while_a_newer_build_runs_and_fails() {
    let scene = Scene::new("kept-image").await;
    let _operator = scene.operator();
    scene.create("web", "1").await;
    scene.pod("web-1-1").await;
    let digest = scene.succeed("web-1-1", 1).await;
    scene.until_ready_is("web", "True", Reason::Succeeded).await;
    scene.set_version("web", "2").await;
    scene.pod("web-2-1").await;
    let running = scene.until_ready_is("web", "Unknown", Reason::Pending).await;
    assert_eq!(status(&running).digest.as_ref(), Some(&digest));
    scene.fail("web-2-1", Reason::FileNotFound, "no such file").await;
    let failed = scene.until_ready_is("web", "False", Reason::FileNotFound).await;
    assert_eq!(status(&failed).digest, Some(digest));
}

#[tokio::test]
async fn a_spec_that_returns_to_its_first_form_ends_with_that_form_built() {
    let scene = Scene::new("there-and-back").await;
    let _operator = scene.operator();
    scene.create("web", "a").await;
    scene.pod("web-1-1").await;
    scene.succeed("web-1-1", 1).await;
    let first = scene.until_ready_is("web", "True", Reason::Succeeded).await;

    scene.set_version("web", "b").await;
    scene.pod("web-2-1").await;
    scene.run("web-2-1").await;
    scene.set_version("web", "a").await;
    let waiting = scene.until("web", "the new generation is seen", |build| {
        (status(build).observed_generation == build.metadata.generation).then(|| build.clone())
    });
    // The tag is about to be moved to b: a is not built, though its image exists.
    assert_ne!(condition(&waiting.await, "Reconciling"), None);
    scene.succeed("web-2-1", 2).await;
    scene.pod("web-3-1").await;
    let digest = scene.succeed("web-3-1", 3).await;
    let built = scene.until_ready_is("web", "True", Reason::Succeeded).await;
    assert_eq!(status(&built).digest, Some(digest));
    assert_eq!(status(&built).build_key, status(&first).build_key);
    assert_eq!(last(&built).number, Some(3));
}

#[tokio::test]
async fn newer_inputs_replace_a_running_build_where_the_spec_says_so() {
    let scene = Scene::new("replace").await;
    let _operator = scene.operator();
    scene.create("web", "1").await;
    scene.edit("web", json!({"spec": {"runPolicy": "Replace"}})).await;
    let pod = scene.until("web", "a Pod is named", |build| last(build).pod_name).await;
    scene.pod(&pod).await;
    scene.run(&pod).await;
    scene.set_version("web", "2").await;
    let newer = scene.until("web", "the next build", |build| {
        let last = last(build);
        (last.generation == build.metadata.generation).then_some(last.pod_name?)
    });
    let newer = newer.await;
    scene.pod(&newer).await;
    assert_eq!(scene.pod_names().await, [newer]);
}

#[tokio::test]
async fn a_pod_of_somebody_else_is_left_alone_and_not_believed() {
    let scene = Scene::new("foreign").await;
    let foreign = json!({"metadata": {"name": "web-1-1"}, "spec": {"containers": [{"name": "build", "image": "x", "args": ["--nonce=x"]}]}});
    let foreign: Pod = from(foreign);
    let foreign = scene.pods().create(&PostParams::default(), &foreign).await.unwrap();
    scene.succeed("web-1-1", 9).await;
    let _operator = scene.operator();
    scene.create("web", "1").await;
    let refused = scene.until_ready_is("web", "False", Reason::PodNameTaken).await;
    assert!(condition(&refused, "Ready").unwrap()["message"].as_str().unwrap().contains("web-1-1"));
    assert_eq!(status(&refused).image, None);
    // The next attempt has another name.
    scene.pod("web-1-2").await;
    let digest = scene.succeed("web-1-2", 1).await;
    let built = scene.until_ready_is("web", "True", Reason::Succeeded).await;
    assert_eq!(status(&built).digest, Some(digest));
    assert_eq!(scene.pod("web-1-1").await.uid(), foreign.uid());
}

#[tokio::test]
async fn a_pod_that_is_deleted_while_it_runs_gets_a_successor_that_looks_for_its_image() {
    let scene = Scene::new("deleted-pod").await;
    let _operator = scene.operator();
    let build = scene.create("web", "1").await;
    scene.pod("web-1-1").await;
    scene.run("web-1-1").await;
    scene.until_ready_is("web", "Unknown", Reason::Building).await;
    scene.pods().delete("web-1-1", &DeleteParams::default()).await.unwrap();
    let lost = scene.until_ready_is("web", "False", Reason::PodDeleted).await;
    assert_eq!(condition(&lost, "Stalled"), None);
    let pod = scene.pod("web-1-2").await;
    let adopt = format!("--adopt=registry.example/web:v1-1-{}", &build.uid().unwrap()[..4]);
    assert!(pod.spec.unwrap().containers[0].args.as_ref().unwrap().contains(&adopt));
    scene.succeed("web-1-2", 1).await;
    scene.until_ready_is("web", "True", Reason::Succeeded).await;
}

#[tokio::test]
async fn a_deleted_object_is_forgotten_and_one_of_its_name_starts_anew() {
    let scene = Scene::new("deleted").await;
    let operator = scene.operator().leads();
    scene.create("web", "1").await;
    let first = scene.pod("web-1-1").await;
    scene.builds().delete("web", &DeleteParams::default()).await.unwrap();
    // Nobody collects garbage here: the first Pod stays, and is not taken for the second object's.
    let second = scene.create("web", "1").await;
    let pod = scene.pod("web-2-1").await;
    assert_eq!(Some(&pod.owner_references()[0].uid), second.metadata.uid.as_ref());
    assert_eq!(scene.pod("web-1-1").await.uid(), first.uid());
    assert!(operator.page("/healthz").is_some());
}

#[tokio::test]
async fn a_suspended_object_starts_nothing() {
    let scene = Scene::new("suspended").await;
    let _operator = scene.operator();
    let mut suspended = spec("web", "1");
    suspended["suspend"] = true.into();
    scene.builds().create(&PostParams::default(), &crate::scene::image_build("web", &suspended)).await.unwrap();
    scene.until_ready_is("web", "False", Reason::Suspended).await;
    assert_eq!(scene.pod_names().await, Vec::<String>::new());
    scene.edit("web", json!({"spec": {"suspend": false}})).await;
    scene.pod("web-1-1").await;
    scene.edit("web", json!({"metadata": {"annotations": {"karve.dev/cancel": "1"}}})).await;
    scene.until_ready_is("web", "False", Reason::Cancelled).await;
    assert_eq!(scene.pod_names().await, Vec::<String>::new());
}

#[tokio::test]
async fn finished_pods_are_kept_as_the_spec_says() {
    let scene = Scene::new("history").await;
    let _operator = scene.operator();
    scene.create("web", "1").await;
    for number in 1..=3_u8 {
        let pod = format!("web-{number}-1");
        scene.pod(&pod).await;
        scene.succeed(&pod, number).await;
        scene.until_ready_is("web", "True", Reason::Succeeded).await;
        scene.set_version("web", &format!("{}", number + 1)).await;
    }
    eventually_async(DEADLINE, "one finished Pod is kept beside the new one", async || {
        (scene.pod_names().await == ["web-3-1", "web-4-1"]).then_some(())
    })
    .await;
}
