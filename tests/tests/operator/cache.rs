//! The cache as the operator sees it: flags of the Pod by the spec and by the operator's policy, and what the report says of
//! it in status, in the condition and in an Event.

use karve_api::{CacheReport, MissReport, Reason};
use karve_tests::eventually_async;
use kube::api::PostParams;
use serde_json::{Value, json};

use crate::scene::{DEADLINE, Scene, condition, image_build, spec};

/// Creates a build with these fields in `spec.cache`, and returns what its Pod is told of the cache.
async fn flags(scene: &Scene, name: &str, cache: Value) -> Vec<String> {
    let mut cached = spec(name, "1");
    cached["cache"] = cache;
    scene.builds().create(&PostParams::default(), &image_build(name, &cached)).await.unwrap();
    let pod = scene.pod(&format!("{name}-1-1")).await;
    let arguments = pod.spec.unwrap().containers[0].args.clone().unwrap();
    arguments.into_iter().filter(|argument| argument.starts_with("--cache")).collect()
}

#[tokio::test]
async fn the_spec_wins_over_the_policy_of_the_operator() {
    let scene = Scene::new("cache-policy").await;
    let operator = scene.operator();
    let own =
        ["--cache=true", "--cache-repo=registry.example/own/cache", "--cache-ttl=336h0m0s", "--cache-mounts=true"];
    assert_eq!(flags(&scene, "own", Value::Null).await, own);
    assert_eq!(flags(&scene, "off", json!({"disabled": true})).await, ["--cache=false"]);
    drop(operator);

    let _operator = scene.operator_with("two", &["--cache-enabled=false", "--cache-ttl=1h", "--lease-name=two"]);
    assert_eq!(flags(&scene, "by-policy", Value::Null).await, ["--cache=false"]);
    let on = json!({"disabled": false, "repository": "registry.example/c", "mounts": false});
    let on_flags = ["--cache=true", "--cache-repo=registry.example/c", "--cache-ttl=1h0m0s", "--cache-mounts=false"];
    assert_eq!(flags(&scene, "on", on).await, on_flags);
}

#[tokio::test]
async fn the_status_says_what_the_cache_spared_and_an_edit_of_the_cache_builds_nothing() {
    let scene = Scene::new("cache-report").await;
    let _operator = scene.operator();
    scene.create("web", "1").await;
    scene.pod("web-1-1").await;
    let missed = MissReport {
        stage: "builder".into(),
        line: 7,
        instruction: "COPY . .".into(),
        reason: "file src/main.c changed".into(),
    };
    let report = CacheReport { hits: 5, misses: 2, missed: vec![missed] };
    scene.succeed_with_cache("web-1-1", 1, report).await;
    let built = scene.until_ready_is("web", "True", Reason::Succeeded).await;
    let message = condition(&built, "Ready").unwrap()["message"].to_string();
    assert!(message.contains("; 5 of 7 steps cached"), "{message}");
    let last = built.status.unwrap().last_build.unwrap();
    let expected = json!({"hits": 5, "misses": 2, "missed": "builder line 7 `COPY . .`: file src/main.c changed"});
    assert_eq!(json!(last.cache), expected);
    eventually_async(DEADLINE, "an Event says so", async || {
        scene.event_notes("web").await.iter().any(|note| note.contains("; 5 of 7 steps cached")).then_some(())
    })
    .await;

    scene.edit("web", json!({"spec": {"cache": {"ttl": "1h"}}})).await;
    let edited = scene.until_ready_is("web", "True", Reason::Succeeded).await;
    let last = edited.status.unwrap().last_build.unwrap();
    assert_eq!((last.number, json!(last.cache)), (Some(1), expected));
    assert_eq!(scene.pod_names().await, ["web-1-1"]);
}
