//! What comes next for an object whose running attempt is settled: nothing, waiting, another attempt, or a new build.
//!
//! A good build is known by its key, a failed one by key and generation: any edit of the spec tries a failed build again,
//! and only other inputs rebuild a good one. Time alone starts nothing but retries.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{api::core::v1::Pod, apimachinery::pkg::apis::meta::v1::Time};
use karve_api::{ANNOTATION_CANCEL, BuildResult, ImageBuild, ImageBuildStatus, LastBuild, Reason, ReasonClass};
use kube::ResourceExt;

use super::{
    Decision, Inputs, Observed, Standing, Unusable, child,
    conditions::whole_seconds,
    pod_state::{PodState, has_ended, is_controlled_by},
    settle::{Activity, counts},
    uid,
};
use crate::pod::{self, Attempt, LABEL_NUMBER, Settings, names};

/// The first and the longest pause before an infrastructure failure is tried again.
const INFRASTRUCTURE_BACKOFF_SECONDS: (i64, i64) = (10, 600);
/// The first and the longest pause before refused credentials are tried again: a repaired Secret cannot be seen.
const CREDENTIALS_BACKOFF_SECONDS: (i64, i64) = (60, 900);
/// How often the Events of a Pod that waits are read.
const WAITING_LOOK_SECONDS: i64 = 5;
/// How often a Pod that should be gone is looked at.
const ENDING_LOOK_SECONDS: i64 = 30;

/// Decides what comes next, and returns how the object stands then.
pub(super) fn next(
    decision: &mut Decision,
    observed: &Observed,
    activity: &Activity,
    resolved: Result<&Inputs, &Unusable>,
    settings: &Settings,
    now: Timestamp,
) -> Standing {
    let object = &observed.object;
    let built = resolved.is_ok_and(|inputs| is_built(&decision.status, &inputs.key));
    if built {
        decision.status.image_generation = object.metadata.generation;
    }
    if object.spec.suspend {
        return Standing::Suspended { image_is_current: built };
    }
    let inputs = match resolved {
        Ok(inputs) => inputs,
        Err(unusable) => return Standing::Stalled { reason: unusable.reason, message: unusable.message.clone() },
    };
    match activity {
        Activity::NotCreated => match blocked(decision, observed, now) {
            Some(standing) => standing,
            None => create(decision, observed, inputs, settings, now),
        },
        Activity::Active(state) => active(decision, object, state, inputs),
        Activity::Idle if built => Standing::Built { message: told(&decision.status) },
        Activity::Idle => idle(decision, observed, inputs, settings, now),
    }
}

/// Names the image, and says what the cache spared if the last build is the one that made it.
pub(super) fn told(status: &ImageBuildStatus) -> String {
    let image = status.image.as_deref().unwrap_or_default();
    let made_it = |last: &&LastBuild| last.result == Some(BuildResult::Succeeded) && last.key == status.build_key;
    let last = status.last_build.as_ref().filter(made_it);
    let cached = last.and_then(|last| last.cache.as_ref()?.summary());
    cached.map_or_else(|| format!("built {image}"), |cached| format!("built {image}; {cached}"))
}

/// Says whether the image is of these inputs, and no later build may have moved its tags.
fn is_built(status: &ImageBuildStatus, key: &str) -> bool {
    let settled = status.last_build.as_ref().is_none_or(|last| last.result.is_some());
    settled && status.image.is_some() && status.build_key.as_deref() == Some(key)
}

fn active(decision: &mut Decision, object: &ImageBuild, state: &PodState, inputs: &Inputs) -> Standing {
    let last = decision.status.last_build.clone().unwrap_or_default();
    let number = last.number.unwrap_or_default();
    let image_is_current = is_current(&decision.status, object);
    let queued = last.key.as_deref() != Some(&inputs.key);
    match state {
        PodState::Waiting { reason, message } => {
            decision.look_again_in(WAITING_LOOK_SECONDS);
            let (reason, message) = (*reason, message.clone());
            match reason.class() {
                ReasonClass::User | ReasonClass::Credentials => Standing::Stalled { reason, message },
                ReasonClass::Infrastructure => Standing::Failing { reason, message },
                ReasonClass::Progress => Standing::InProgress { reason, message, image_is_current },
            }
        }
        PodState::Ending => {
            decision.look_again_in(ENDING_LOOK_SECONDS);
            let pod_name = last.pod_name.unwrap_or_default();
            let message = format!("Pod {pod_name} is being deleted; the build is tried again when it is gone");
            Standing::InProgress { reason: Reason::Queued, message, image_is_current }
        }
        _ => {
            let then = if queued { "; the newer inputs are built when it has ended" } else { "" };
            let pod_name = last.pod_name.unwrap_or_default();
            let message = format!("build {number} runs in Pod {pod_name}{then}");
            Standing::InProgress { reason: Reason::Building, message, image_is_current }
        }
    }
}

/// Says whether the image was built from this spec, though perhaps of another commit or another ConfigMap's data.
fn is_current(status: &ImageBuildStatus, object: &ImageBuild) -> bool {
    status.image.is_some() && status.image_generation == object.metadata.generation
}

/// Decides about an object without a running attempt whose image is not of these inputs.
fn idle(
    decision: &mut Decision,
    observed: &Observed,
    inputs: &Inputs,
    settings: &Settings,
    now: Timestamp,
) -> Standing {
    let object = &observed.object;
    let last = decision.status.last_build.clone().unwrap_or_default();
    let same = last.key.as_deref() == Some(&inputs.key) && last.generation == object.metadata.generation;
    if !same || last.result != Some(BuildResult::Failed) || was_replaced(&last) {
        if let Some(standing) = blocked(decision, observed, now) {
            return standing;
        }
        start_build(decision, observed, inputs, now);
        return create(decision, observed, inputs, settings, now);
    }
    let reason = last.reason.as_deref().and_then(Reason::parse).unwrap_or(Reason::Internal);
    let message = last.message.clone().unwrap_or_default();
    let Some(pause) = pause(reason, &last, inputs) else {
        return Standing::Stalled { reason, message };
    };
    let ended = last.finished_at.as_ref().map_or(now, |time| time.0);
    let due = ended.saturating_add(pause).unwrap_or(now);
    if now < due {
        decision.look_again_in(due.duration_since(now).as_secs() + 1);
        return waiting_for_retry(reason, &message, due);
    }
    if let Some(standing) = blocked(decision, observed, now) {
        return standing;
    }
    start_attempt(decision, observed, &last, now);
    create(decision, observed, inputs, settings, now)
}

/// Says whether the attempt was ended to make room for other inputs, and not by its user.
fn was_replaced(last: &LastBuild) -> bool {
    last.reason.as_deref() == Some(Reason::Cancelled.as_str())
        && last.message.as_deref().is_some_and(|message| message.starts_with("replaced "))
}

/// Returns the pause before the next attempt; `None` if there is none.
fn pause(reason: Reason, last: &LastBuild, inputs: &Inputs) -> Option<SignedDuration> {
    let attempt = last.attempt.unwrap_or(1);
    match reason.class() {
        ReasonClass::Infrastructure | ReasonClass::Progress => Some(backoff(attempt, INFRASTRUCTURE_BACKOFF_SECONDS)),
        ReasonClass::Credentials => Some(backoff(attempt, CREDENTIALS_BACKOFF_SECONDS)),
        ReasonClass::User if counts(reason) && last.counted_failures.unwrap_or(0) <= inputs.retries => {
            Some(backoff(attempt, INFRASTRUCTURE_BACKOFF_SECONDS))
        }
        // What the Pod waited for until its deadline may be there now.
        ReasonClass::User if matches!(reason, Reason::ConfigMapNotFound | Reason::VolumeNotFound) => {
            Some(backoff(attempt, CREDENTIALS_BACKOFF_SECONDS))
        }
        ReasonClass::User => None,
    }
}

/// Returns a pause that doubles with every attempt.
fn backoff(attempt: i64, (first, longest): (i64, i64)) -> SignedDuration {
    let doublings = u32::try_from((attempt - 1).clamp(0, 20)).unwrap_or(20);
    SignedDuration::from_secs(first.saturating_mul(1 << doublings).min(longest))
}

fn waiting_for_retry(reason: Reason, message: &str, due: Timestamp) -> Standing {
    let due = whole_seconds(due);
    match reason.class() {
        ReasonClass::Credentials => {
            let hint = "after repairing the Secret, set the annotation karve.dev/requestedAt to try at once";
            Standing::Stalled { reason, message: format!("{message}; tried again at {due}; {hint}") }
        }
        ReasonClass::User if !counts(reason) => {
            Standing::Stalled { reason, message: format!("{message}; tried again at {due}") }
        }
        _ => Standing::Failing { reason, message: format!("{message}; tried again at {due}") },
    }
}

/// Waits while another Pod of ours may still push; one that nobody needs any more is deleted.
fn blocked(decision: &mut Decision, observed: &Observed, now: Timestamp) -> Option<Standing> {
    let uid = uid(&observed.object);
    let mut running = observed.pods.iter().filter(|pod| is_controlled_by(pod, &uid) && !has_ended(pod, now)).peekable();
    let name = running.peek()?.name_any();
    for pod in running {
        let wanted = child(pod);
        if pod.metadata.deletion_timestamp.is_none() && !decision.delete_pods.contains(&wanted) {
            decision.delete_pods.push(wanted);
        }
    }
    decision.look_again_in(ENDING_LOOK_SECONDS);
    let image_is_current = is_current(&decision.status, &observed.object);
    let message = format!("the build starts when Pod {name} has ended");
    Some(Standing::InProgress { reason: Reason::Queued, message, image_is_current })
}

/// Writes down a new build. Its number was never used before, even if the status was lost.
fn start_build(decision: &mut Decision, observed: &Observed, inputs: &Inputs, now: Timestamp) {
    let object = &observed.object;
    let trigger = trigger(&decision.status, object, inputs);
    let status = &mut decision.status;
    let of_pods = observed.pods.iter().filter(|pod| is_controlled_by(pod, &uid(object))).map(number_of).max();
    let used = status.last_build.as_ref().and_then(|last| last.number).max(of_pods).unwrap_or(0);
    let mut number = used.saturating_add(1);
    let left_over = object.annotations().get(ANNOTATION_CANCEL);
    // An annotation that is left over, perhaps from an object of this name that was deleted, must cancel nothing.
    while left_over == Some(&number.to_string()) || is_taken(observed, number, 1) {
        number = number.saturating_add(1);
    }
    status.trigger = Some(trigger);
    status.last_handled_reconcile_at.clone_from(&inputs.token);
    status.last_build = Some(LastBuild {
        number: Some(number),
        key: Some(inputs.key.clone()),
        generation: object.metadata.generation,
        attempt: Some(1),
        pod_name: Some(names::pod_name(&object.name_any(), number, 1)),
        started_at: Some(Time(whole_seconds(now))),
        ..LastBuild::default()
    });
}

/// Writes down another attempt of the same build.
fn start_attempt(decision: &mut Decision, observed: &Observed, last: &LastBuild, now: Timestamp) {
    let number = last.number.unwrap_or(1);
    let mut attempt = last.attempt.unwrap_or(1).saturating_add(1);
    while is_taken(observed, number, attempt) {
        attempt = attempt.saturating_add(1);
    }
    decision.status.last_build = Some(LastBuild {
        attempt: Some(attempt),
        pod_name: Some(names::pod_name(&observed.object.name_any(), number, attempt)),
        started_at: Some(Time(whole_seconds(now))),
        number: Some(number),
        key: last.key.clone(),
        generation: last.generation,
        counted_failures: last.counted_failures,
        ..LastBuild::default()
    });
}

/// Says whether a Pod of the name exists, whoever it belongs to. There are as many names as Pods, so the search ends.
fn is_taken(observed: &Observed, number: i64, attempt: i64) -> bool {
    let name = names::pod_name(&observed.object.name_any(), number, attempt);
    observed.pods.iter().any(|pod| pod.name_any() == name)
}

fn number_of(pod: &Pod) -> i64 {
    pod.labels().get(LABEL_NUMBER).and_then(|number| number.parse().ok()).unwrap_or(0)
}

/// Says why a build starts.
fn trigger(status: &ImageBuildStatus, object: &ImageBuild, inputs: &Inputs) -> String {
    let Some(last) = &status.last_build else { return "first build".to_owned() };
    if inputs.token != status.last_handled_reconcile_at {
        let token = inputs.token.clone().unwrap_or_default();
        return format!("requested by annotation: {token}").chars().take(1000).collect();
    }
    if ![last.generation, status.image_generation].contains(&object.metadata.generation) {
        return "spec changed".to_owned();
    }
    if last.key.as_deref() != Some(&inputs.key) {
        return "a ConfigMap changed".to_owned();
    }
    "a build that was interrupted may have moved the tag".to_owned()
}

/// Creates the Pod of the attempt that the status names.
fn create(
    decision: &mut Decision,
    observed: &Observed,
    inputs: &Inputs,
    settings: &Settings,
    now: Timestamp,
) -> Standing {
    let object = &observed.object;
    let last = decision.status.last_build.clone().unwrap_or_default();
    let pod_name = last.pod_name.clone().unwrap_or_default();
    let refusal = observed.refusal.as_ref().filter(|refusal| refusal.pod_name == pod_name);
    if let Some(refusal) = refusal {
        let message = format!("the API server refuses Pod {pod_name}: {}", refusal.message);
        let pause = backoff(i64::from(refusal.count), INFRASTRUCTURE_BACKOFF_SECONDS);
        let due = refusal.at.saturating_add(pause).unwrap_or(now);
        let standing = Standing::Failing { reason: Reason::PodRefused, message };
        if now < due {
            decision.look_again_in(due.duration_since(now).as_secs() + 1);
            return standing;
        }
        decision.create_pod = Some(Box::new(new_pod(object, &last, inputs, settings)));
        decision.create_config_map = pod::config_map(object, last.number.unwrap_or(1)).map(Box::new);
        return standing;
    }
    decision.create_pod = Some(Box::new(new_pod(object, &last, inputs, settings)));
    decision.create_config_map = pod::config_map(object, last.number.unwrap_or(1)).map(Box::new);
    let image_is_current = is_current(&decision.status, object);
    let attempt = last.attempt.unwrap_or(1);
    let number = last.number.unwrap_or(1);
    let message = format!("build {number}, attempt {attempt} starts in Pod {pod_name}");
    Standing::InProgress { reason: Reason::Pending, message, image_is_current }
}

fn new_pod(object: &ImageBuild, last: &LastBuild, inputs: &Inputs, settings: &Settings) -> Pod {
    let attempt = Attempt {
        number: last.number.unwrap_or(1),
        attempt: last.attempt.unwrap_or(1),
        files_hash: inputs.files_hash.clone(),
        build_args: inputs.build_args.clone(),
        timeout: inputs.timeout,
        cache_ttl: inputs.cache_ttl,
    };
    pod::pod(object, &attempt, settings)
}
