//! What happened between two statuses, for the object's Events: every transition once, none at rest.

use karve_api::{BuildResult, ImageBuildStatus, Reason, ReasonClass};

use super::next::told;

/// The longest note of an Event is 1024 bytes.
const NOTE_LENGTH_MAX: usize = 250;

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// Whether it is bad news.
    pub is_warning: bool,
    /// What happened, in one word.
    pub reason: String,
    /// Which build it happened to, so that the same news of another build is not taken for a repetition.
    pub action: String,
    /// What happened, in a sentence.
    pub note: String,
}

/// Returns what happened between two statuses.
pub fn notices(before: &ImageBuildStatus, after: &ImageBuildStatus) -> Vec<Notice> {
    let mut notices = Vec::new();
    let (old, new) = (before.last_build.clone().unwrap_or_default(), after.last_build.clone().unwrap_or_default());
    let old_attempt = (old.number, old.attempt);
    let new_attempt = (new.number, new.attempt);
    if old_attempt == new_attempt && old.result != new.result && new.result.is_some() {
        notices.push(ended(after));
    }
    if old_attempt != new_attempt && old.result.is_none() && old.number.is_some() && new.result.is_none() {
        // The attempt ended and the next one started in one step.
        notices.push(notice(true, Reason::Retrying.as_str(), after, "the attempt ended; another one starts"));
    }
    if old_attempt != new_attempt && new.number.is_some() {
        let pod_name = new.pod_name.clone().unwrap_or_default();
        let trigger = after.trigger.clone().unwrap_or_default();
        let (number, attempt) = (new.number.unwrap_or_default(), new.attempt.unwrap_or_default());
        let note = if attempt > 1 {
            format!("build {number}, attempt {attempt} starts in Pod {pod_name}")
        } else {
            format!("build {number} starts in Pod {pod_name}: {trigger}")
        };
        notices.push(notice(false, "BuildStarted", after, &note));
    }
    notices.extend(standing_changed(before, after, &notices));
    notices
}

fn ended(after: &ImageBuildStatus) -> Notice {
    let last = after.last_build.clone().unwrap_or_default();
    if last.result == Some(BuildResult::Succeeded) {
        return notice(false, Reason::Succeeded.as_str(), after, &told(after));
    }
    let reason = last.reason.unwrap_or_default();
    notice(true, &reason, after, &last.message.unwrap_or_default())
}

/// Returns the news that the Ready condition's reason changed, unless it was told already.
fn standing_changed(before: &ImageBuildStatus, after: &ImageBuildStatus, told: &[Notice]) -> Option<Notice> {
    let ready = |status: &ImageBuildStatus| {
        let found = status.conditions.iter().find(|condition| condition.type_ == "Ready");
        found.map(|condition| (condition.reason.clone(), condition.message.clone()))
    };
    let (reason, message) = ready(after)?;
    let before = ready(before).map(|(reason, _)| reason);
    if before.as_deref() == Some(reason.as_str()) || told.iter().any(|notice| notice.reason == reason) {
        return None;
    }
    let word = Reason::parse(&reason)?;
    let is_worth_telling =
        word.class() != ReasonClass::Progress || matches!(word, Reason::Suspended | Reason::Building);
    is_worth_telling.then(|| notice(word.class() != ReasonClass::Progress, &reason, after, &message))
}

fn notice(is_warning: bool, reason: &str, after: &ImageBuildStatus, note: &str) -> Notice {
    let last = after.last_build.clone().unwrap_or_default();
    let (number, attempt) = (last.number.unwrap_or_default(), last.attempt.unwrap_or_default());
    let clipped: String = note.chars().take(NOTE_LENGTH_MAX).collect();
    Notice { is_warning, reason: reason.to_owned(), action: format!("Build-{number}-{attempt}"), note: clipped }
}
