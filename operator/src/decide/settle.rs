//! What became of the running attempt: its Pod's result is taken over into `status.lastBuild`, and a good one into
//! `status.image`. Only the Pod that the status names is read, and only if its controller is our object.

use jiff::Timestamp;
use k8s_openapi::{api::core::v1::Pod, apimachinery::pkg::apis::meta::v1::Time};
use karve_api::{
    ANNOTATION_CANCEL, BaseImage, BuildReport, BuildResult, CacheStatus, LastBuild, Reason, ReasonClass, RunPolicy,
    SourceStatus, StageStatus, repository_of,
};
use kube::ResourceExt;

use super::{
    Decision, Inputs, Observed, child,
    conditions::whole_seconds,
    pod_state::{self, Failure, PodState, has_ended, is_controlled_by, pod_state},
    uid,
};
use crate::pod::names::nonce;

/// The longest log tail that is kept.
const LOG_TAIL_LENGTH_MAX: usize = 4000;
/// The most bases and stages that are kept.
const LIST_LENGTH_MAX: usize = 64;

/// What the running attempt does.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Activity {
    /// There is none.
    Idle,
    /// It is in the status, and its Pod was never seen.
    NotCreated,
    /// Its Pod exists.
    Active(PodState),
}

/// Takes the result of the running attempt into the status, and ends the attempt if it is cancelled or replaced.
pub(super) fn settle(
    decision: &mut Decision,
    observed: &Observed,
    inputs: Option<&Inputs>,
    now: Timestamp,
) -> Activity {
    let object = &observed.object;
    let Some(last) = decision.status.last_build.clone() else { return Activity::Idle };
    let pod = last.pod_name.as_deref().and_then(|name| observed.pods.iter().find(|pod| pod.name_any() == name));
    if is_cancelled(observed, &last) {
        let number = last.number.unwrap_or_default();
        fail(decision, &Failure::new(Reason::Cancelled, format!("build {number} was cancelled")), now);
        delete(decision, pod.filter(|pod| !has_ended(pod, now)), observed);
        return Activity::Idle;
    }
    if last.result.is_some() {
        return Activity::Idle;
    }
    let Some(pod) = pod else {
        return absent(decision, &last, observed, inputs, now);
    };
    if !is_controlled_by(pod, &uid(object)) {
        let message = format!("Pod {} exists and does not belong to this ImageBuild", pod.name_any());
        fail(decision, &Failure::new(Reason::PodNameTaken, message), now);
        return Activity::Idle;
    }
    if let Some(last) = &mut decision.status.last_build {
        last.pod_uid = pod.uid();
    }
    let nonce = nonce(&uid(object), last.number.unwrap_or_default(), last.attempt.unwrap_or_default());
    let state = pod_state(pod, &nonce, &observed.pod_events, waited_for(decision), now);
    let ended = pod_state::finished_at(pod).unwrap_or(now);
    match state {
        PodState::Succeeded(report) => succeed(decision, &report, &last, object, ended),
        PodState::Failed(failure) => fail(decision, &failure, ended),
        PodState::Ending => return Activity::Active(PodState::Ending),
        state => {
            if !is_superseded(observed, &last, inputs, &state) {
                return Activity::Active(state);
            }
            fail(decision, &Failure::new(Reason::Cancelled, "replaced by newer inputs"), now);
            delete(decision, Some(pod), observed);
        }
    }
    Activity::Idle
}

/// Decides about an attempt without a Pod: it is to be created, unless it was seen before or the inputs have changed.
fn absent(
    decision: &mut Decision,
    last: &LastBuild,
    observed: &Observed,
    inputs: Option<&Inputs>,
    now: Timestamp,
) -> Activity {
    if last.pod_uid.is_some() {
        let pod_name = last.pod_name.as_deref().unwrap_or_default();
        fail(decision, &Failure::new(Reason::PodDeleted, format!("Pod {pod_name} was deleted while it ran")), now);
        return Activity::Idle;
    }
    // Its Pod is made of the spec as it is now: only the inputs that the attempt was written down for may go into it.
    let wanted = inputs.is_some_and(|inputs| last.key.as_deref() == Some(&inputs.key));
    if !wanted || observed.object.spec.suspend || last.generation != observed.object.metadata.generation {
        fail(decision, &Failure::new(Reason::Cancelled, "replaced before it started"), now);
        return Activity::Idle;
    }
    Activity::NotCreated
}

/// Says whether the annotation names this build, and there is something to cancel.
fn is_cancelled(observed: &Observed, last: &LastBuild) -> bool {
    let wanted = observed.object.annotations().get(ANNOTATION_CANCEL);
    let named = wanted.is_some_and(|wanted| Some(wanted) == last.number.map(|number| number.to_string()).as_ref());
    let retried = match last.result {
        None => true,
        Some(BuildResult::Succeeded) => false,
        Some(BuildResult::Failed) => last.reason.as_deref() != Some(Reason::Cancelled.as_str()),
    };
    named && retried
}

/// Says whether newer inputs end the attempt now: by policy, or because it has not started and waits for something that the
/// newer spec may no longer name.
fn is_superseded(observed: &Observed, last: &LastBuild, inputs: Option<&Inputs>, state: &PodState) -> bool {
    let object = &observed.object;
    if matches!(state, PodState::Waiting { .. }) && last.generation != object.metadata.generation {
        return true;
    }
    let changed = inputs.is_some_and(|inputs| last.key.as_deref() != Some(&inputs.key));
    changed && object.spec.run_policy == Some(RunPolicy::Replace)
}

/// Returns what the attempt was last seen to wait for: the reason that outlives a deadline.
fn waited_for(decision: &Decision) -> Option<Reason> {
    let ready = decision.status.conditions.iter().find(|condition| condition.type_ == "Ready")?;
    let waited_for = [Reason::SecretNotFound, Reason::ConfigMapNotFound, Reason::VolumeNotFound];
    Reason::parse(&ready.reason).filter(|reason| waited_for.contains(reason))
}

fn delete(decision: &mut Decision, pod: Option<&Pod>, observed: &Observed) {
    let ours = pod.filter(|pod| is_controlled_by(pod, &uid(&observed.object)));
    decision.delete_pods.extend(ours.filter(|pod| pod.metadata.deletion_timestamp.is_none()).map(child));
}

/// Records a good build.
fn succeed(
    decision: &mut Decision,
    report: &BuildReport,
    last: &LastBuild,
    object: &karve_api::ImageBuild,
    ended: Timestamp,
) {
    let status = &mut decision.status;
    let digest = report.digest.clone().unwrap_or_default();
    let repository = repository_of(report.image.as_deref().unwrap_or(&object.spec.output.image));
    status.image = Some(format!("{repository}@{digest}"));
    status.digest = Some(digest);
    status.build_key.clone_from(&last.key);
    status.image_generation = last.generation;
    let revision = report.source.as_ref().and_then(|source| source.revision.clone());
    status.source = revision.map(|revision| SourceStatus { revision: Some(clip(&revision, 512)) });
    let bases = report.bases.iter().take(LIST_LENGTH_MAX);
    status.bases = bases
        .map(|base| BaseImage { reference: clip(&base.reference, 640), digest: Some(clip(&base.digest, 128)) })
        .collect();
    close(decision, BuildResult::Succeeded, ended, Some(report));
}

/// Records a failed attempt.
pub(super) fn fail(decision: &mut Decision, failure: &Failure, ended: Timestamp) {
    close(decision, BuildResult::Failed, ended, failure.report.as_deref());
    let last = decision.status.last_build.as_ref();
    if last.is_some_and(|last| last.pod_uid.is_some()) && may_have_pushed(failure.reason) {
        // Its tags may name the failed attempt's image now, so the image that was built before is not to be relied on.
        decision.status.build_key = None;
    }
    if let Some(last) = &mut decision.status.last_build {
        last.reason = Some(failure.reason.as_str().to_owned());
        last.message = Some(clip(&failure.message, LOG_TAIL_LENGTH_MAX));
        if counts(failure.reason) {
            last.counted_failures = Some(last.counted_failures.unwrap_or_default().saturating_add(1));
        }
        if let Some(report) = &failure.report {
            last.stage = report.stage.as_deref().map(|stage| clip(stage, 256));
            last.log_tail = report.log_tail.as_deref().map(|tail| clip(tail, LOG_TAIL_LENGTH_MAX));
        }
    }
}

/// Says whether an attempt that failed like this may have pushed all the same: it was ended from outside, or says nothing.
fn may_have_pushed(reason: Reason) -> bool {
    let before_the_push = [
        Reason::DockerfileInvalid,
        Reason::StageNotFound,
        Reason::FileNotFound,
        Reason::RunFailed,
        Reason::Unsupported,
        Reason::BaseImageNotFound,
        Reason::ContextNotFound,
        Reason::ContextInvalid,
        Reason::ContextFetchFailed,
        Reason::ContextChanged,
        Reason::IsolationUnavailable,
        Reason::SecretNotFound,
        Reason::ConfigMapNotFound,
        Reason::VolumeNotFound,
        Reason::Unauthorized,
    ];
    !before_the_push.contains(&reason)
}

/// Says whether `spec.retries` counts a failure: one of the build's own that another try may not meet again.
pub(super) fn counts(reason: Reason) -> bool {
    matches!(reason, Reason::RunFailed | Reason::Timeout) && reason.class() == ReasonClass::User
}

fn close(decision: &mut Decision, result: BuildResult, ended: Timestamp, report: Option<&BuildReport>) {
    if let Some(isolation) = report.and_then(|report| report.isolation.as_deref()) {
        decision.status.isolation = Some(clip(isolation, 64));
    }
    let Some(last) = &mut decision.status.last_build else { return };
    last.result = Some(result);
    last.finished_at = Some(Time(whole_seconds(ended)));
    last.cache = report.and_then(|report| report.cache.as_ref()).map(CacheStatus::of);
    last.stages = report
        .map(|report| report.stages.as_slice())
        .unwrap_or_default()
        .iter()
        .take(LIST_LENGTH_MAX)
        .map(|stage| StageStatus {
            name: clip(&stage.name, 256),
            duration: Some(format!("{:.1}s", stage.duration_seconds.clamp(0.0, 1e9))),
        })
        .collect();
}

fn clip(text: &str, length_max: usize) -> String {
    text.chars().take(length_max).collect()
}
