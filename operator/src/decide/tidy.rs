//! What may go: finished Pods beyond `spec.history`, Pods that nobody waits for, and ConfigMaps of builds that are over.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use karve_api::BuildResult;
use kube::ResourceExt;

use super::{
    Child, Decision, Observed, child,
    inputs::parse_duration,
    pod_state::{finished_at, has_ended, is_controlled_by},
    uid,
};
use crate::pod::{LABEL_ATTEMPT, LABEL_NUMBER, names};

/// How many finished Pods of each kind are kept if the spec does not say.
const DEFAULT_KEPT: i32 = 1;

/// Adds to the decision what may be deleted.
pub(super) fn tidy(decision: &mut Decision, observed: &Observed, now: Timestamp) {
    tidy_pods(decision, observed, now);
    tidy_config_maps(decision, observed);
}

fn tidy_pods(decision: &mut Decision, observed: &Observed, now: Timestamp) {
    let object = &observed.object;
    let uid = uid(object);
    let last = decision.status.last_build.clone().unwrap_or_default();
    let running = last.pod_name.filter(|_| last.result.is_none());
    let history = object.spec.history.clone().unwrap_or_default();
    let ttl = history.ttl.as_deref().and_then(parse_duration).and_then(|ttl| SignedDuration::try_from(ttl).ok());
    let mut finished: Vec<&Pod> = Vec::new();
    for pod in observed.pods.iter().filter(|pod| is_controlled_by(pod, &uid)) {
        if Some(pod.name_any()) == running || pod.metadata.deletion_timestamp.is_some() {
            continue;
        }
        if has_ended(pod, now) {
            finished.push(pod);
        } else if running.is_some() {
            // Two operators at once, or one that was killed, may have left a Pod that no status names.
            push(&mut decision.delete_pods, child(pod));
        }
    }
    finished.sort_by_key(|pod| std::cmp::Reverse((label(pod, LABEL_NUMBER), label(pod, LABEL_ATTEMPT))));
    let kept = |number: Option<i32>| usize::try_from(number.unwrap_or(DEFAULT_KEPT)).unwrap_or(0);
    let mut room = [kept(history.failed), kept(history.succeeded)];
    for pod in finished {
        let ended = finished_at(pod).unwrap_or(now);
        let expired = ttl.is_some_and(|ttl| now.duration_since(ended) >= ttl);
        let room = &mut room[usize::from(succeeded(pod))];
        if *room == 0 || expired {
            push(&mut decision.delete_pods, child(pod));
            continue;
        }
        *room -= 1;
        if let Some(ttl) = ttl {
            decision.look_again_in((ttl - now.duration_since(ended)).as_secs() + 1);
        }
    }
}

/// The ConfigMap of a build is needed until its last attempt has started; kept until the build is over.
fn tidy_config_maps(decision: &mut Decision, observed: &Observed) {
    let last = decision.status.last_build.as_ref();
    let open = last.filter(|last| last.result != Some(BuildResult::Succeeded)).and_then(|last| last.number);
    let needed = open.map(|number| names::config_map_name(&observed.object.name_any(), number));
    let unneeded = observed.owned_config_maps.iter().filter(|config_map| Some(&config_map.name) != needed.as_ref());
    decision.delete_config_maps.extend(unneeded.cloned());
}

fn push(list: &mut Vec<Child>, wanted: Child) {
    if !list.contains(&wanted) {
        list.push(wanted);
    }
}

fn succeeded(pod: &Pod) -> bool {
    let statuses = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    let mut build = statuses.filter(|status| status.name == crate::pod::BUILD_CONTAINER);
    let state = build.next().and_then(|status| status.state.as_ref()?.terminated.as_ref());
    state.is_some_and(|state| state.exit_code == 0)
}

fn label(pod: &Pod, name: &str) -> i64 {
    pod.labels().get(name).and_then(|value| value.parse().ok()).unwrap_or(0)
}
