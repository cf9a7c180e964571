//! The policy over tables of situations, and its two laws over any situation: deciding again changes nothing, and no
//! attempt starts while another of ours may still push.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use karve_api::{BuildResult, ImageBuild, LastBuild};
use kube::ResourceExt;
use proptest::{collection::vec, option, prelude::*, sample::select};
use serde_json::{Value, json};

use super::{Decision, Observed, decide, has_ended, is_controlled_by};
use crate::pod::{Settings, names::nonce};

const UID: &str = "0a1b2c3d-0000-4000-8000-000000000000";
const START: i64 = 1_800_000_000;

fn now() -> Timestamp {
    Timestamp::from_second(START).unwrap()
}

fn time(offset_seconds: i64) -> String {
    Timestamp::from_second(START + offset_seconds).unwrap().to_string()
}

fn object(spec: &Value, status: &Value) -> ImageBuild {
    let mut whole = json!({
        "context": {"inline": {"files": {"Dockerfile": "FROM scratch\n"}}},
        "output": {"image": "registry.example/web:v1"}
    });
    for (name, value) in spec.as_object().unwrap() {
        whole[name] = value.clone();
    }
    serde_json::from_value(json!({
        "apiVersion": "karve.dev/v1alpha1", "kind": "ImageBuild",
        "metadata": {"name": "web", "namespace": "shop", "uid": UID, "generation": 1},
        "spec": whole, "status": status,
    }))
    .unwrap()
}

fn observed(spec: &Value, status: &Value, pods: Vec<Pod>) -> Observed {
    Observed {
        object: object(spec, status),
        pods,
        config_maps: std::collections::BTreeMap::new(),
        owned_config_maps: Vec::new(),
        pod_events: Vec::new(),
        refusal: None,
    }
}

fn pod(number: i64, attempt: i64, status: &Value) -> Pod {
    serde_json::from_value(json!({
        "metadata": {
            "name": format!("web-{number}-{attempt}"), "uid": format!("pod-{number}-{attempt}"),
            "labels": {"karve.dev/build-number": number.to_string(), "karve.dev/attempt": attempt.to_string()},
            "ownerReferences": [{"apiVersion": "karve.dev/v1alpha1", "kind": "ImageBuild", "name": "web", "uid": UID, "controller": true}],
        },
        "spec": {"containers": [{
            "name": "build",
            "args": ["build", "--destination=registry.example/web:v1"],
            "resources": {"limits": {"memory": "1Gi"}}
        }]},
        "status": status,
    }))
    .unwrap()
}

fn terminated(exit_code: i32, reason: &str, message: &str, phase: &str) -> Value {
    json!({"phase": phase, "containerStatuses": [{
        "name": "build", "image": "", "imageID": "", "ready": false, "restartCount": 0,
        "state": {"terminated": {"exitCode": exit_code, "reason": reason, "message": message, "finishedAt": time(-1)}}
    }]})
}

fn report(extra: &Value) -> String {
    let mut report = json!({"nonce": nonce(UID, 1, 1), "image": "registry.example/web"});
    for (name, value) in extra.as_object().unwrap() {
        report[name] = value.clone();
    }
    report.to_string()
}

fn success() -> String {
    report(&json!({"result": "Succeeded", "digest": format!("sha256:{}", "a".repeat(64))}))
}

fn success_with_cache() -> String {
    let missed = json!([{"stage": "0", "line": 2, "instruction": "RUN a\nb", "reason": "\u{7}"}]);
    let cache = json!({"hits": -1, "misses": i64::MAX, "missed": missed});
    report(&json!({"result": "Succeeded", "digest": format!("sha256:{}", "b".repeat(64)), "cache": cache}))
}

/// Returns the status of an object whose first attempt runs, as `decide` itself writes it.
fn running_status() -> Value {
    let decision = decide(&observed(&json!({}), &json!({}), vec![]), &Settings::default(), now());
    let mut status = serde_json::to_value(decision.status).unwrap();
    status["lastBuild"]["podUid"] = json!("pod-1-1");
    status
}

/// Decides about an object whose first attempt ran in the given Pod, and says how it stands.
fn outcome(pod_status: &Value) -> (Decision, String) {
    let decision =
        decide(&observed(&json!({}), &running_status(), vec![pod(1, 1, pod_status)]), &Settings::default(), now());
    let standing = standing(&decision);
    (decision, standing)
}

fn standing(decision: &Decision) -> String {
    let words = decision.status.conditions.iter().map(|condition| format!("{}={}", condition.type_, condition.status));
    let reason = decision.status.conditions.first().map(|condition| condition.reason.clone()).unwrap_or_default();
    format!("{} {reason}", words.collect::<Vec<_>>().join(" "))
}

#[track_caller]
fn check(pod_status: &Value, expected: &str) {
    let (decision, standing) = outcome(pod_status);
    assert_eq!(standing, expected, "{:#?}", decision.status);
}

#[test]
fn the_first_build_is_written_down_before_its_pod_is_made() {
    let decision =
        decide(&observed(&json!({}), &json!({"observedGeneration": -1}), vec![]), &Settings::default(), now());
    let last = decision.status.last_build.clone().unwrap();
    assert_eq!((last.number, last.attempt, last.result), (Some(1), Some(1), None));
    assert_eq!(last.pod_name.as_deref(), Some("web-1-1"));
    assert_eq!(decision.status.trigger.as_deref(), Some("first build"));
    assert_eq!(decision.create_pod.as_ref().unwrap().name_any(), "web-1-1");
    assert_eq!(decision.create_config_map.as_ref().unwrap().name_any(), "web-1-files");
    assert_eq!(standing(&decision), "Ready=Unknown Reconciling=True Pending");
}

#[test]
fn a_success_needs_exit_code_nonce_digest_and_repository() {
    let (decision, standing) = outcome(&terminated(0, "Completed", &success(), "Succeeded"));
    assert_eq!(standing, "Ready=True Succeeded");
    assert_eq!(decision.status.image, Some(format!("registry.example/web@sha256:{}", "a".repeat(64))));
    // An injected container may run on.
    check(&terminated(0, "Completed", &success(), "Running"), "Ready=True Succeeded");
    let refused = "Ready=False Reconciling=True ReportInvalid";
    check(&terminated(1, "Error", &success(), "Failed"), refused);
    check(&terminated(0, "Completed", "", "Succeeded"), refused);
    let digest = format!("sha256:{}", "a".repeat(64));
    let forged = |extra: Value| terminated(0, "Completed", &report(&extra), "Succeeded");
    check(&forged(json!({"result": "Succeeded", "digest": digest, "nonce": "other"})), refused);
    check(&forged(json!({"result": "Succeeded", "digest": "sha256:beef"})), refused);
    check(&forged(json!({"result": "Succeeded", "digest": digest, "image": "registry.example/other"})), refused);
    check(&forged(json!({"result": "Succeeded"})), refused);
}

#[test]
fn what_the_cache_spared_is_told_of_the_build_that_made_the_image() {
    let miss = json!({"stage": "builder", "line": 7, "instruction": "COPY . .", "reason": "file src/main.c changed"});
    let cache = json!({"hits": 5, "misses": 2, "missed": [miss, {"stage": "builder", "line": 8}]});
    let digest = format!("sha256:{}", "a".repeat(64));
    let message = report(&json!({"result": "Succeeded", "digest": digest, "cache": cache}));
    let ended = terminated(0, "Completed", &message, "Succeeded");
    let (decision, _) = outcome(&ended);
    let told = format!("built registry.example/web@{digest}; 5 of 7 steps cached");
    assert_eq!(decision.status.conditions[0].message, told);
    assert_eq!(decision.notices.last().map(|notice| notice.note.clone()), Some(told));
    let last = decision.status.last_build.clone().unwrap();
    assert_eq!(
        serde_json::to_value(last.cache).unwrap(),
        json!({"hits": 5, "misses": 2, "missed": "builder line 7 `COPY . .`: file src/main.c changed"})
    );
    // At rest: the same words again, so nothing is written.
    let mut looked = observed(&json!({}), &serde_json::to_value(&decision.status).unwrap(), vec![pod(1, 1, &ended)]);
    let again = decide(&looked, &Settings::default(), now());
    assert_eq!(again.status, decision.status);
    assert_eq!(again.notices, vec![]);
    // Another build has failed since, and the spec is what the image was built from.
    let last = looked.object.status.as_mut().unwrap().last_build.as_mut().unwrap();
    (last.result, last.key) = (Some(BuildResult::Failed), Some("other".to_owned()));
    let back = decide(&looked, &Settings::default(), now());
    assert_eq!(back.status.conditions[0].message, format!("built registry.example/web@{digest}"));
}

#[test]
fn a_report_without_a_cache_says_nothing_of_it() {
    let (decision, _) = outcome(&terminated(0, "Completed", &success(), "Succeeded"));
    assert_eq!(decision.status.last_build.unwrap().cache, None);
    assert!(decision.status.conditions[0].message.ends_with(&"a".repeat(64)));
}

#[test]
fn a_container_that_was_killed_is_not_believed() {
    check(&terminated(137, "OOMKilled", &success(), "Failed"), "Ready=False Stalled=True OutOfMemory");
    let mut evicted = terminated(137, "Error", &success(), "Failed");
    evicted["reason"] = json!("Evicted");
    evicted["message"] = json!("Usage of EmptyDir volume \"work\" exceeds the limit \"20Gi\".");
    check(&evicted, "Ready=False Stalled=True VolumeFull");
    evicted["conditions"] = json!([{"type": "DisruptionTarget", "status": "True", "reason": "TerminationByKubelet"}]);
    check(&evicted, "Ready=False Reconciling=True Disrupted");
    let mut late = terminated(137, "Error", "", "Failed");
    late["reason"] = json!("DeadlineExceeded");
    check(&late, "Ready=False Stalled=True Timeout");
}

#[test]
fn reported_failures_are_the_users_or_the_infrastructures() {
    let failed = |reason: &str| {
        terminated(1, "Error", &report(&json!({"result": "Failed", "reason": reason, "message": "m"})), "Failed")
    };
    check(&failed("RunFailed"), "Ready=False Stalled=True RunFailed");
    check(&failed("DockerfileInvalid"), "Ready=False Stalled=True DockerfileInvalid");
    check(&failed("Unauthorized"), "Ready=False Stalled=True Unauthorized");
    check(&failed("RegistryUnavailable"), "Ready=False Reconciling=True RegistryUnavailable");
    check(&failed("Succeeded"), "Ready=False Reconciling=True Internal");
    let (decision, _) = outcome(&failed("Unauthorized"));
    assert!(decision.look_again.is_some(), "a repaired Secret cannot be seen");
}

#[test]
fn a_failed_context_is_the_attempts_failure() {
    let state = |exit_code: i32, message: &str| {
        json!({"phase": "Failed", "initContainerStatuses": [{
            "name": "context", "image": "", "imageID": "", "ready": false, "restartCount": 0,
            "state": {"terminated": {"exitCode": exit_code, "message": message}}
        }]})
    };
    check(
        &state(1, r#"{"result":"Failed","reason":"ContextNotFound","message":"no branch"}"#),
        "Ready=False Stalled=True ContextNotFound",
    );
    check(
        &state(1, r#"{"result":"Failed","reason":"ContextChanged","message":"m"}"#),
        "Ready=False Reconciling=True ContextChanged",
    );
    check(&state(1, ""), "Ready=False Reconciling=True ReportInvalid");
}

#[test]
fn a_missing_secret_stalls_while_the_pod_waits() {
    let waiting = json!({"phase": "Pending", "containerStatuses": [{
        "name": "build", "image": "", "imageID": "", "ready": false, "restartCount": 0,
        "state": {"waiting": {"reason": "CreateContainerConfigError", "message": "secret \"auth\" not found"}}
    }]});
    let (decision, standing) = outcome(&waiting);
    assert_eq!(standing, "Ready=False Stalled=True SecretNotFound");
    assert!(decision.delete_pods.is_empty() && decision.create_pod.is_none());
    let mut late = json!({"phase": "Failed", "reason": "DeadlineExceeded"});
    late["message"] = json!("Pod was active on the node longer than the specified deadline");
    let mut status = running_status();
    status["conditions"] = serde_json::to_value(&decision.status.conditions).unwrap();
    let decision = decide(&observed(&json!({}), &status, vec![pod(1, 1, &late)]), &Settings::default(), now());
    let last = decision.status.last_build.unwrap();
    assert_eq!(last.reason.as_deref(), Some("SecretNotFound"));
}

#[test]
fn a_registry_secret_is_missed_only_after_the_context_is_there() {
    let pod_status = |waiting: &str| {
        json!({"phase": "Pending",
            "initContainerStatuses": [{
                "name": "context", "image": "", "imageID": "", "ready": true, "restartCount": 0,
                "state": {"terminated": {"exitCode": 0}}
            }],
            "containerStatuses": [{
                "name": "build", "image": "", "imageID": "", "ready": false, "restartCount": 0,
                "state": {"waiting": {"reason": waiting, "message": "secret \"auth\" not found"}}
            }]
        })
    };
    check(&pod_status("CreateContainerConfigError"), "Ready=False Stalled=True SecretNotFound");
    check(&pod_status("PodInitializing"), "Ready=Unknown Reconciling=True Building");
}

#[test]
fn a_deleted_pod_is_tried_again_after_its_pause() {
    let mut looked = observed(&json!({}), &running_status(), vec![]);
    let decision = decide(&looked, &Settings::default(), now());
    assert_eq!(standing(&decision), "Ready=False Reconciling=True PodDeleted");
    looked.object.status = Some(decision.status);
    let later = now().saturating_add(SignedDuration::from_secs(11)).unwrap();
    let decision = decide(&looked, &Settings::default(), later);
    let last = decision.status.last_build.unwrap();
    assert_eq!((last.number, last.attempt, last.result), (Some(1), Some(2), None));
    let args = decision.create_pod.unwrap().spec.unwrap().containers[0].args.clone().unwrap();
    assert!(args.contains(&"--adopt=registry.example/web:v1-1-0a1b".to_owned()), "{args:?}");
}

#[test]
fn a_foreign_pod_is_not_read_and_not_deleted() {
    let mut foreign = pod(1, 1, &terminated(0, "Completed", &success(), "Succeeded"));
    foreign.metadata.owner_references = None;
    let decision = decide(&observed(&json!({}), &running_status(), vec![foreign]), &Settings::default(), now());
    assert_eq!(standing(&decision), "Ready=False Reconciling=True PodNameTaken");
    assert!(decision.delete_pods.is_empty() && decision.status.image.is_none());
}

#[test]
fn back_to_the_first_spec_builds_it_again_if_the_tag_may_have_moved() {
    let (built, _) = outcome(&terminated(0, "Completed", &success(), "Succeeded"));
    let first = serde_json::to_value(&built.status).unwrap();
    let second = json!({"target": "other"});
    let mut looked = observed(&second, &first, vec![]);
    looked.object.metadata.generation = Some(2);
    let decision = decide(&looked, &Settings::default(), now());
    assert_eq!(decision.status.last_build.as_ref().unwrap().number, Some(2));
    // The second build ran and was lost: whether it pushed is not known.
    let mut status = serde_json::to_value(&decision.status).unwrap();
    status["lastBuild"]["podUid"] = json!("pod-2-1");
    let mut looked = observed(&json!({}), &status, vec![]);
    looked.object.metadata.generation = Some(3);
    let decision = decide(&looked, &Settings::default(), now());
    let last = decision.status.last_build.unwrap();
    assert_eq!((last.number, last.key.as_ref()), (Some(3), built.status.build_key.as_ref()));
    assert_eq!(decision.status.image, built.status.image, "the last good image stays");
}

#[test]
fn newer_inputs_wait_or_replace() {
    let run = json!({"phase": "Running", "containerStatuses": [{
        "name": "build", "image": "", "imageID": "", "ready": true, "restartCount": 0,
        "state": {"running": {"startedAt": time(-5)}}
    }]});
    let decide_with = |spec: &Value| {
        let mut looked = observed(spec, &running_status(), vec![pod(1, 1, &run)]);
        looked.object.metadata.generation = Some(2);
        decide(&looked, &Settings::default(), now())
    };
    let finish = decide_with(&json!({"target": "other"}));
    assert_eq!(standing(&finish), "Ready=Unknown Reconciling=True Building");
    assert!(finish.delete_pods.is_empty());
    let replace = decide_with(&json!({"target": "other", "runPolicy": "Replace"}));
    assert_eq!(standing(&replace), "Ready=Unknown Reconciling=True Queued");
    assert_eq!(replace.delete_pods.len(), 1);
    assert!(replace.create_pod.is_none());
}

#[test]
fn suspended_and_unusable_specs_start_nothing() {
    for (spec, expected) in [
        (json!({"suspend": true}), "Ready=False Suspended"),
        (json!({"context": {}}), "Ready=False Stalled=True InvalidSpec"),
        (json!({"timeout": "soon"}), "Ready=False Stalled=True InvalidSpec"),
        (json!({"cache": {"ttl": "soon"}}), "Ready=False Stalled=True InvalidSpec"),
        (json!({"cache": {"ttl": "1s"}}), "Ready=False Stalled=True InvalidSpec"),
        (json!({"cache": {"repository": "registry.example/c:v1"}}), "Ready=False Stalled=True InvalidSpec"),
        (json!({"cache": {"repository": "oci:/tmp"}}), "Ready=False Stalled=True InvalidSpec"),
        (json!({"context": {"configMap": {"name": "c"}}}), "Ready=False Stalled=True ConfigMapNotFound"),
    ] {
        let decision = decide(&observed(&spec, &json!({}), vec![]), &Settings::default(), now());
        assert_eq!(standing(&decision), expected);
        assert!(decision.create_pod.is_none() && decision.status.last_build.is_none());
        assert_eq!(decision.status.observed_generation, Some(1));
    }
}

#[test]
fn retries_are_for_failures_of_the_builds_own() {
    let failed = terminated(1, "Error", &report(&json!({"result": "Failed", "reason": "RunFailed"})), "Failed");
    let spec = json!({"retries": 1});
    let looked = observed(&spec, &running_status(), vec![pod(1, 1, &failed)]);
    let decision = decide(&looked, &Settings::default(), now());
    assert_eq!(standing(&decision), "Ready=False Reconciling=True RunFailed");
    let mut status = decision.status;
    status.last_build.as_mut().unwrap().counted_failures = Some(2);
    let looked = observed(&spec, &serde_json::to_value(status).unwrap(), vec![]);
    assert_eq!(standing(&decide(&looked, &Settings::default(), now())), "Ready=False Stalled=True RunFailed");
}

#[test]
fn finished_pods_beyond_the_history_go() {
    let failed = terminated(1, "Error", &report(&json!({"result": "Failed", "reason": "RunFailed"})), "Failed");
    let pods: Vec<Pod> = (1..=4)
        .map(|number| {
            let ended = terminated(i32::from(number % 2 == 0), "x", "", "Failed");
            pod(number, 1, if number == 4 { &failed } else { &ended })
        })
        .collect();
    let mut status = running_status();
    status["lastBuild"]["number"] = json!(4);
    status["lastBuild"]["podName"] = json!("web-4-1");
    let decision = decide(&observed(&json!({}), &status, pods), &Settings::default(), now());
    let mut gone: Vec<String> = decision.delete_pods.into_iter().map(|child| child.name).collect();
    gone.sort();
    assert_eq!(gone, ["web-1-1", "web-2-1"]);
}

fn pods() -> impl Strategy<Value = Vec<Pod>> {
    let state = select(vec![
        json!({"phase": "Pending"}),
        json!({"phase": "Running", "containerStatuses": [{"name": "build", "image": "", "imageID": "", "ready": true,
            "restartCount": 0, "state": {"running": {}}}]}),
        terminated(0, "Completed", &success(), "Succeeded"),
        terminated(0, "Completed", &success_with_cache(), "Succeeded"),
        terminated(1, "Error", &report(&json!({"result": "Failed", "reason": "RunFailed"})), "Failed"),
        terminated(1, "Error", &report(&json!({"result": "Failed", "reason": "RegistryUnavailable"})), "Failed"),
        terminated(137, "OOMKilled", "", "Failed"),
        json!({"phase": "Failed", "reason": "Evicted"}),
        json!({"phase": "Unknown"}),
        json!({}),
    ]);
    let one = (1..4_i64, 1..3_i64, state, any::<bool>(), option::of(-1000..1000_i64)).prop_map(
        |(number, attempt, status, ours, deleted)| {
            let mut pod = pod(number, attempt, &status);
            if !ours {
                pod.metadata.owner_references = None;
            }
            pod.metadata.deletion_timestamp =
                deleted.map(|offset| serde_json::from_value(json!(time(offset))).unwrap());
            pod
        },
    );
    vec(one, 0..4).prop_map(|mut pods| {
        pods.sort_by_key(ResourceExt::name_any);
        pods.dedup_by_key(|pod| pod.name_any());
        pods
    })
}

fn last_build() -> impl Strategy<Value = LastBuild> {
    let result = select(vec![None, Some(BuildResult::Succeeded), Some(BuildResult::Failed)]);
    let reason = select(vec!["RunFailed", "Disrupted", "Unauthorized", "Cancelled", "Timeout", "Novel"]);
    let key = select(vec![None, Some("other".to_owned()), running_key()]);
    (1..4_i64, 1..3_i64, result, reason, key, any::<bool>(), 0..3_i64, option::of(-2000..100_i64)).prop_map(
        |(number, attempt, result, reason, key, seen, generation, finished)| LastBuild {
            number: Some(number),
            attempt: Some(attempt),
            key,
            generation: Some(generation),
            pod_name: Some(format!("web-{number}-{attempt}")),
            pod_uid: seen.then(|| format!("pod-{number}-{attempt}")),
            result,
            reason: (result == Some(BuildResult::Failed)).then(|| reason.to_owned()),
            finished_at: finished.map(|offset| serde_json::from_value(json!(time(offset))).unwrap()),
            ..LastBuild::default()
        },
    )
}

fn running_key() -> Option<String> {
    running_status()["lastBuild"]["key"].as_str().map(str::to_owned)
}

proptest! {
    #[test]
    fn deciding_again_changes_nothing_and_attempts_never_overlap(
        pods in pods(),
        last in option::of(last_build()),
        built in any::<bool>(),
        suspend in any::<bool>(),
        replace in any::<bool>(),
        cancel in option::of(1..4_i64),
        requested in option::of("[a-c]"),
    ) {
        let policy = if replace { "Replace" } else { "Finish" };
        let mut status = json!({"lastBuild": last});
        if built {
            status["image"] = json!("registry.example/web@sha256:00");
            status["buildKey"] = json!(running_key());
            status["imageGeneration"] = json!(1);
        }
        let mut looked = observed(&json!({"suspend": suspend, "runPolicy": policy}), &status, pods);
        let mut annotations = std::collections::BTreeMap::new();
        annotations.extend(cancel.map(|number| ("karve.dev/cancel".to_owned(), number.to_string())));
        annotations.extend(requested.map(|token| ("karve.dev/requestedAt".to_owned(), token)));
        looked.object.metadata.annotations = Some(annotations);

        let first = decide(&looked, &Settings::default(), now());
        if let Some(created) = &first.create_pod {
            let others = looked.pods.iter().filter(|pod| is_controlled_by(pod, UID) && pod.name_any() != created.name_any());
            prop_assert!(others.into_iter().all(|pod| has_ended(pod, now())), "two attempts at once");
            let before = last.as_ref().and_then(|last| last.number).unwrap_or(0);
            prop_assert!(first.status.last_build.as_ref().unwrap().number.unwrap() >= before, "a number was reused");
        }
        looked.object.status = Some(first.status.clone());
        let second = decide(&looked, &Settings::default(), now());
        prop_assert_eq!(&second.status, &first.status);
        prop_assert_eq!(second.notices, vec![]);
    }
}
