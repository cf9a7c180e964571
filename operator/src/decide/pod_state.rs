//! What a Pod says of its attempt. In: the Pod as the API server shows it, and its Events while it waits; out: waiting,
//! running, or ended with a result. A success is believed only with exit code 0 of the container `build`, this attempt's
//! nonce, a well-formed digest and the repository that the container was told: a message alone may be left over from a
//! container that was killed, or forged by a RUN step.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{ContainerStateTerminated, ContainerStatus, Pod};
use karve_api::{BuildReport, ContextReport, Outcome, Reason, canonical_repository};
use kube::ResourceExt;

use super::waiting;
use crate::pod::{BUILD_CONTAINER, CONTEXT_CONTAINER};

/// How long after its grace period a Pod that cannot be reached is given up.
const LOST_AFTER: SignedDuration = SignedDuration::from_mins(5);
/// The longest text that is taken over from a Pod.
const TEXT_LENGTH_MAX: usize = 2000;

/// What a Pod says of its attempt.
#[derive(Clone, Debug, PartialEq)]
pub enum PodState {
    /// Its container `build` has not started.
    Waiting {
        /// What it waits for.
        reason: Reason,
        /// What it waits for, in a sentence.
        message: String,
    },
    /// It runs.
    Running,
    /// It is being deleted, and its containers have not ended.
    Ending,
    /// The image is in the registry.
    Succeeded(Box<BuildReport>),
    /// It failed.
    Failed(Failure),
}

/// Why an attempt failed.
#[derive(Clone, Debug, PartialEq)]
pub struct Failure {
    /// Why, in one word.
    pub reason: Reason,
    /// Why, in a sentence.
    pub message: String,
    /// What the executor reported beside it, if that can be believed.
    pub report: Option<Box<BuildReport>>,
}

impl Failure {
    /// Returns a failure without a report.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into(), report: None }
    }
}

/// Says whether the Pod's controller is the object with the UID.
pub fn is_controlled_by(pod: &Pod, uid: &str) -> bool {
    pod.owner_references().iter().any(|owner| owner.controller == Some(true) && owner.uid == uid)
}

/// Says whether nothing of the Pod can push any more: its containers have ended, or its node is lost for good.
pub fn has_ended(pod: &Pod, now: Timestamp) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    if matches!(phase, Some("Succeeded" | "Failed")) || terminated(pod, BUILD_CONTAINER).is_some() {
        return true;
    }
    let context_failed = terminated(pod, CONTEXT_CONTAINER).is_some_and(|state| state.exit_code != 0);
    context_failed || is_lost(pod, now)
}

/// Returns what the Pod says of its attempt. `events` are the messages of its warnings while it waits; `waited_for` is the
/// reason that was recorded while it waited.
pub fn pod_state(pod: &Pod, nonce: &str, events: &[String], waited_for: Option<Reason>, now: Timestamp) -> PodState {
    if let Some(build) = terminated(pod, BUILD_CONTAINER) {
        return build_result(pod, build, nonce);
    }
    if let Some(failure) = context_failure(pod) {
        return PodState::Failed(failure);
    }
    let status = pod.status.clone().unwrap_or_default();
    if matches!(status.phase.as_deref(), Some("Failed" | "Succeeded")) {
        return PodState::Failed(pod_failure(pod, waited_for));
    }
    if pod.metadata.deletion_timestamp.is_some() {
        if is_lost(pod, now) {
            let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_default();
            return PodState::Failed(Failure::new(Reason::NodeLost, format!("node {node:?} was lost")));
        }
        return PodState::Ending;
    }
    let runs =
        |name: &str| container(pod, name).and_then(|status| status.state).is_some_and(|state| state.running.is_some());
    if runs(BUILD_CONTAINER) || runs(CONTEXT_CONTAINER) {
        return PodState::Running;
    }
    // Once the context is there all volumes are: what Events said of them is old, and only `build` can wait for something.
    let has_context = terminated(pod, CONTEXT_CONTAINER).is_some();
    match waiting::reason(pod, if has_context { &[] } else { events }) {
        (Reason::Pending, _) if has_context => PodState::Running,
        (reason, message) => PodState::Waiting { reason, message },
    }
}

/// Says whether the Pod was to be gone long ago: its node does not answer.
fn is_lost(pod: &Pod, now: Timestamp) -> bool {
    // The deletion timestamp is the end of the grace period.
    pod.metadata.deletion_timestamp.as_ref().is_some_and(|end| now.duration_since(end.0) > LOST_AFTER)
}

fn build_result(pod: &Pod, state: &ContainerStateTerminated, nonce: &str) -> PodState {
    let report = state.message.as_deref().map(serde_json::from_str::<BuildReport>);
    let report = report.and_then(Result::ok).filter(|report| report.nonce.as_deref() == Some(nonce));
    if let Some(failure) = killed(pod, state) {
        return PodState::Failed(failure);
    }
    let Some(report) = report else {
        let message = format!("container {BUILD_CONTAINER} ended with exit code {} and no report", state.exit_code);
        return PodState::Failed(interrupted(pod, Failure::new(Reason::ReportInvalid, message)));
    };
    match report.result {
        Outcome::Succeeded if state.exit_code == 0 => match check_success(pod, &report) {
            Ok(()) => PodState::Succeeded(Box::new(report)),
            Err(message) => PodState::Failed(Failure::new(Reason::ReportInvalid, message)),
        },
        Outcome::Succeeded => {
            let message = format!("container {BUILD_CONTAINER} reported success and exit code {}", state.exit_code);
            PodState::Failed(interrupted(pod, Failure::new(Reason::ReportInvalid, message)))
        }
        Outcome::Failed => {
            let reason = failure_reason(report.reason);
            let message = report.message.clone().unwrap_or_else(|| format!("exit code {}", state.exit_code));
            PodState::Failed(Failure { reason, message: clip(&message), report: Some(Box::new(report)) })
        }
    }
}

fn check_success(pod: &Pod, report: &BuildReport) -> Result<(), String> {
    let digest = report.digest.as_deref().unwrap_or_default();
    let hex = digest.strip_prefix("sha256:").unwrap_or_default();
    if hex.len() != 64 || !hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
        return Err(format!("the report's digest {:?} is malformed", clip(digest)));
    }
    let destination = argument(pod, "--destination=").unwrap_or_default();
    let image = report.image.as_deref().unwrap_or_default();
    if destination.is_empty() || canonical_repository(image) != canonical_repository(destination) {
        return Err(format!("the report is of repository {:?}, not of {destination:?}", clip(image)));
    }
    Ok(())
}

/// Returns the reason that a report of a failure may give: one of a failure.
fn failure_reason(reason: Option<Reason>) -> Reason {
    match reason {
        Some(reason) if reason.class() != karve_api::ReasonClass::Progress && reason != Reason::Cancelled => reason,
        _ => Reason::Internal,
    }
}

/// Returns the failure of a container that the kernel or the kubelet ended, whatever it wrote before.
fn killed(pod: &Pod, state: &ContainerStateTerminated) -> Option<Failure> {
    if state.exit_code != 0 && state.reason.as_deref() == Some("OOMKilled") {
        let limit =
            pod.spec.iter().flat_map(|spec| &spec.containers).find(|container| container.name == BUILD_CONTAINER);
        let limit = limit.and_then(|container| container.resources.as_ref()?.limits.as_ref()?.get("memory"));
        let limit = limit.map_or("the node's memory".to_owned(), |limit| format!("the limit of {}", limit.0));
        let message = format!("the build needed more memory than {limit}; raise spec.resources.limits.memory");
        return Some(Failure::new(Reason::OutOfMemory, message));
    }
    let pod_failed = pod.status.as_ref().and_then(|status| status.reason.as_deref());
    (state.exit_code != 0 && matches!(pod_failed, Some("Evicted" | "DeadlineExceeded"))).then(|| pod_failure(pod, None))
}

/// Returns why a container has left nothing to believe: its Pod was deleted or disrupted, if it was.
fn interrupted(pod: &Pod, otherwise: Failure) -> Failure {
    if let Some(message) = disruption(pod) {
        return Failure::new(Reason::Disrupted, message);
    }
    if pod.metadata.deletion_timestamp.is_some() {
        return Failure::new(Reason::PodDeleted, format!("Pod {} was deleted while it ran", pod.name_any()));
    }
    otherwise
}

fn context_failure(pod: &Pod) -> Option<Failure> {
    let state = terminated(pod, CONTEXT_CONTAINER).filter(|state| state.exit_code != 0)?;
    if let Some(failure) = killed(pod, state) {
        return Some(failure);
    }
    let report = state.message.as_deref().map(serde_json::from_str::<ContextReport>).and_then(Result::ok);
    let report = report.filter(|report| report.result == Outcome::Failed && report.reason.is_some());
    Some(report.map_or_else(
        || {
            let exit_code = state.exit_code;
            let message = format!("container {CONTEXT_CONTAINER} ended with exit code {exit_code} and no report");
            interrupted(pod, Failure::new(Reason::ReportInvalid, message))
        },
        |report| Failure::new(failure_reason(report.reason), clip(&report.message.unwrap_or_default())),
    ))
}

/// Returns why a Pod ended whose container `build` says nothing.
fn pod_failure(pod: &Pod, waited_for: Option<Reason>) -> Failure {
    let status = pod.status.clone().unwrap_or_default();
    let message = clip(&status.message.unwrap_or_default());
    let disrupted = disruption(pod);
    match status.reason.as_deref() {
        _ if disrupted.is_some() => Failure::new(Reason::Disrupted, disrupted.unwrap_or_default()),
        Some("Evicted") => {
            let next_step =
                "raise spec.resources.limits of ephemeral-storage, or make the context or the image smaller";
            Failure::new(Reason::VolumeFull, format!("{message}; {next_step}"))
        }
        Some("DeadlineExceeded") if container(pod, BUILD_CONTAINER).is_some_and(|status| started(&status)) => {
            Failure::new(Reason::Timeout, "the build took longer than spec.timeout; raise it")
        }
        Some("DeadlineExceeded") => {
            let reason = waited_for.unwrap_or(Reason::PodNotStarted);
            Failure::new(reason, format!("Pod {} did not start before its deadline", pod.name_any()))
        }
        Some("NodeLost") => Failure::new(Reason::NodeLost, message),
        Some(reason) => Failure::new(Reason::PodNotStarted, format!("{reason}: {message}")),
        None => interrupted(pod, Failure::new(Reason::ReportInvalid, "the Pod ended without a report")),
    }
}

fn disruption(pod: &Pod) -> Option<String> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let found =
        conditions.iter().find(|condition| condition.type_ == "DisruptionTarget" && condition.status == "True")?;
    let reason = found.reason.clone().unwrap_or_default();
    Some(clip(&format!("{reason}: {}", found.message.clone().unwrap_or_default())))
}

/// Returns the status of a container or an init container.
pub(super) fn container(pod: &Pod, name: &str) -> Option<ContainerStatus> {
    let status = pod.status.as_ref()?;
    let all = status.container_statuses.iter().flatten().chain(status.init_container_statuses.iter().flatten());
    all.into_iter().find(|status| status.name == name).cloned()
}

fn started(status: &ContainerStatus) -> bool {
    status.state.as_ref().is_some_and(|state| state.running.is_some() || state.terminated.is_some())
}

fn terminated<'a>(pod: &'a Pod, name: &str) -> Option<&'a ContainerStateTerminated> {
    let status = pod.status.as_ref()?;
    let all = status.container_statuses.iter().flatten().chain(status.init_container_statuses.iter().flatten());
    all.into_iter().find(|status| status.name == name)?.state.as_ref()?.terminated.as_ref()
}

/// Returns when the attempt ended, as far as the Pod says.
pub(super) fn finished_at(pod: &Pod) -> Option<Timestamp> {
    let state = terminated(pod, BUILD_CONTAINER).or_else(|| terminated(pod, CONTEXT_CONTAINER))?;
    state.finished_at.as_ref().map(|time| time.0)
}

/// Returns the value of the container's first argument with the prefix. Arguments of a Pod never change.
fn argument<'a>(pod: &'a Pod, prefix: &str) -> Option<&'a str> {
    let build = pod.spec.as_ref()?.containers.iter().find(|container| container.name == BUILD_CONTAINER)?;
    build.args.as_ref()?.iter().find_map(|argument| argument.strip_prefix(prefix))
}

fn clip(text: &str) -> String {
    text.chars().take(TEXT_LENGTH_MAX).collect()
}
