//! What a Pod waits for that has not started: a Secret or ConfigMap that is missing, an image that cannot be pulled, a
//! node. The kubelet says it in a container's state for environment variables, and only in Events for volumes.

use k8s_openapi::api::core::v1::Pod;
use karve_api::Reason;

use super::pod_state::container;
use crate::pod::{BUILD_CONTAINER, CONTEXT_CONTAINER};

/// States of a container whose image cannot be had.
const IMAGE_PROBLEMS: [&str; 5] =
    ["ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError"];

/// Returns what the Pod waits for.
pub(super) fn reason(pod: &Pod, events: &[String]) -> (Reason, String) {
    for name in [CONTEXT_CONTAINER, BUILD_CONTAINER] {
        let waiting = container(pod, name).and_then(|status| status.state).and_then(|state| state.waiting);
        let Some(waiting) = waiting else { continue };
        let (word, message) = (waiting.reason.unwrap_or_default(), waiting.message.unwrap_or_default());
        if IMAGE_PROBLEMS.contains(&word.as_str()) {
            let message = format!("the executor's image cannot be pulled: {message}");
            return (Reason::ExecutorImageUnavailable, message);
        }
        if word == "CreateContainerConfigError" {
            let reason = missing(&message).unwrap_or(Reason::PodNotStarted);
            return (reason, with_next_step(reason, &message));
        }
        if matches!(word.as_str(), "CreateContainerError" | "RunContainerError" | "StartError") {
            return (Reason::PodNotStarted, format!("{word}: {message}"));
        }
    }
    if let Some((reason, message)) = unscheduled(pod) {
        return (reason, message);
    }
    for message in events {
        if let Some(reason) = missing(message) {
            return (reason, with_next_step(reason, shortened(message)));
        }
    }
    (Reason::Pending, "the Pod is starting".to_owned())
}

fn unscheduled(pod: &Pod) -> Option<(Reason, String)> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let scheduled = conditions.iter().find(|condition| condition.type_ == "PodScheduled")?;
    if scheduled.status != "False" {
        return None;
    }
    let message = scheduled.message.clone().unwrap_or_default();
    let reason = missing(&message).unwrap_or(Reason::Pending);
    Some((reason, format!("the Pod cannot be scheduled: {message}")))
}

/// Says which kind of object is missing, if that is what the message says.
fn missing(message: &str) -> Option<Reason> {
    let lower = message.to_ascii_lowercase();
    if !["not found", "non-existent", "couldn't find key", "no such key"].iter().any(|words| lower.contains(words)) {
        return None;
    }
    // The name of an object may hold any of these words: the one that comes first is the kind.
    let kinds = [
        ("secret", Reason::SecretNotFound),
        ("configmap", Reason::ConfigMapNotFound),
        ("persistentvolumeclaim", Reason::VolumeNotFound),
    ];
    let after = lower.rfind("failed for volume").map_or(0, |start| start + "failed for volume ".len());
    // The quoted name of a volume (`"run-secret-0" : `) is no kind of an object.
    let lower = &lower[after..];
    let lower = lower.split_once(" : ").map_or(lower, |(_, cause)| cause);
    let found = kinds.iter().filter_map(|(word, reason)| Some((lower.find(word)?, *reason)));
    found.min_by_key(|(position, _)| *position).map(|(_, reason)| reason)
}

/// Cuts off what the kubelet puts before the cause.
fn shortened(message: &str) -> &str {
    message.rsplit_once(" : ").map_or(message, |(_, cause)| cause)
}

fn with_next_step(reason: Reason, message: &str) -> String {
    match reason {
        Reason::SecretNotFound | Reason::ConfigMapNotFound | Reason::VolumeNotFound => {
            format!("{message}; the build starts by itself once it is there")
        }
        _ => message.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::missing;
    use karve_api::Reason;

    #[track_caller]
    fn check(message: &str, expected: Option<Reason>) {
        assert_eq!(missing(message), expected);
    }

    #[test]
    fn the_kubelets_words_name_what_is_missing() {
        check("secret \"registry-auth\" not found", Some(Reason::SecretNotFound));
        check("couldn't find key .dockerconfigjson in Secret default/configmap", Some(Reason::SecretNotFound));
        check("configmap \"a\" not found", Some(Reason::ConfigMapNotFound));
        check(
            "MountVolume.SetUp failed for volume \"run-secret-0\" : secret \"npm\" not found",
            Some(Reason::SecretNotFound),
        );
        check(
            "MountVolume.SetUp failed for volume \"run-secret-0\" : references non-existent secret key: npmrc",
            Some(Reason::SecretNotFound),
        );
        check(
            "MountVolume.SetUp failed for volume \"registry-ca-0\" : configmap \"secret-ca\" not found",
            Some(Reason::ConfigMapNotFound),
        );
        check(
            "0/1 nodes are available: persistentvolumeclaim \"sources\" not found. not found",
            Some(Reason::VolumeNotFound),
        );
        check("Insufficient memory", None);
    }
}
