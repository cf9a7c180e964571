//! How a build stands, and the conditions that say so. Ready is always there once the object was seen; Reconciling and
//! Stalled only while they are true, as kstatus and everything built on it expects.
//!
//! | standing | Ready | Reconciling | Stalled |
//! |---|---|---|---|
//! | in progress, the image is not of this spec | Unknown | True | - |
//! | in progress, the image is of this spec | True | True | - |
//! | infrastructure failing | False | True | - |
//! | the user's to repair | False | - | True |
//! | suspended, with / without an image of this spec | True / False | - | - |
//! | built | True | - | - |

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use karve_api::Reason;

/// The longest message of a condition; Kubernetes admits 32 kB.
const MESSAGE_LENGTH_MAX: usize = 4096;

/// How a build stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// A build waits, runs, or is tried again without a failure of the infrastructure.
    InProgress {
        /// Why, in one word.
        reason: Reason,
        /// Why, in a sentence.
        message: String,
        /// Whether `status.image` was built from this spec.
        image_is_current: bool,
    },
    /// The infrastructure fails; it is tried again without end.
    Failing {
        /// Why, in one word.
        reason: Reason,
        /// Why, in a sentence that says when it is tried again.
        message: String,
    },
    /// Only the user can help.
    Stalled {
        /// Why, in one word.
        reason: Reason,
        /// Why, in a sentence that names the next step.
        message: String,
    },
    /// `spec.suspend` is set.
    Suspended {
        /// Whether `status.image` was built from this spec.
        image_is_current: bool,
    },
    /// The image of this spec is in the registry.
    Built {
        /// The sentence that names the image.
        message: String,
    },
}

/// Returns the conditions of a standing. A condition whose status does not flip keeps its transition time; conditions of
/// other types are kept.
pub fn conditions(previous: &[Condition], standing: &Standing, generation: i64, now: Timestamp) -> Vec<Condition> {
    let (ready, reconciling, stalled) = match standing {
        Standing::InProgress { image_is_current, .. } => {
            (if *image_is_current { "True" } else { "Unknown" }, true, false)
        }
        Standing::Failing { .. } => ("False", true, false),
        Standing::Stalled { .. } => ("False", false, true),
        Standing::Suspended { image_is_current } => (if *image_is_current { "True" } else { "False" }, false, false),
        Standing::Built { .. } => ("True", false, false),
    };
    let (reason, message) = words(standing);
    let condition = |type_: &str, status: &str| {
        let kept = previous.iter().find(|condition| condition.type_ == type_ && condition.status == status);
        Condition {
            type_: type_.to_owned(),
            status: status.to_owned(),
            reason: reason.as_str().to_owned(),
            message: message.chars().take(MESSAGE_LENGTH_MAX).collect(),
            observed_generation: Some(generation),
            last_transition_time: kept
                .map_or(Time(whole_seconds(now)), |condition| condition.last_transition_time.clone()),
        }
    };
    let mut conditions = vec![condition("Ready", ready)];
    conditions.extend(reconciling.then(|| condition("Reconciling", "True")));
    conditions.extend(stalled.then(|| condition("Stalled", "True")));
    let ours = ["Ready", "Reconciling", "Stalled"];
    conditions.extend(previous.iter().filter(|condition| !ours.contains(&condition.type_.as_str())).cloned());
    conditions
}

fn words(standing: &Standing) -> (Reason, String) {
    match standing {
        Standing::InProgress { reason, message, .. }
        | Standing::Failing { reason, message }
        | Standing::Stalled { reason, message } => (*reason, message.clone()),
        Standing::Suspended { image_is_current: true } => {
            (Reason::Suspended, "suspended; the image is of this spec".to_owned())
        }
        Standing::Suspended { image_is_current: false } => {
            (Reason::Suspended, "suspended; set spec.suspend to false to build".to_owned())
        }
        Standing::Built { message } => (Reason::Succeeded, message.clone()),
    }
}

/// Drops the fraction, which the API server would not keep: what is read back must equal what was written.
pub(super) fn whole_seconds(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
    use karve_api::Reason;

    use super::{Standing, conditions};

    /// kstatus' published rules for an object without a rule of its own, in their order.
    fn kstatus(generation: i64, observed: i64, conditions: &[Condition]) -> &'static str {
        let status = |type_: &str| {
            conditions.iter().find(|condition| condition.type_ == type_).map(|condition| condition.status.as_str())
        };
        if observed != generation || status("Reconciling") == Some("True") {
            return "InProgress";
        }
        if status("Stalled") == Some("True") {
            return "Failed";
        }
        match status("Ready") {
            Some("False" | "Unknown") => "InProgress",
            _ => "Current",
        }
    }

    #[track_caller]
    fn check(standing: &Standing, expected: &[(&str, &str)], verdict: &str) {
        let made = conditions(&[], standing, 3, Timestamp::UNIX_EPOCH);
        let found: Vec<(&str, &str)> =
            made.iter().map(|condition| (condition.type_.as_str(), condition.status.as_str())).collect();
        assert_eq!(found, expected);
        assert_eq!(kstatus(3, 3, &made), verdict);
        assert!(made.iter().all(|condition| condition.observed_generation == Some(3)));
    }

    #[test]
    fn every_standing_has_its_conditions_and_kstatus_verdict() {
        assert_eq!(kstatus(1, -1, &[]), "InProgress");
        let (reason, message) = (Reason::Building, String::new());
        let progress = |image_is_current| Standing::InProgress { reason, message: message.clone(), image_is_current };
        check(&progress(false), &[("Ready", "Unknown"), ("Reconciling", "True")], "InProgress");
        check(&progress(true), &[("Ready", "True"), ("Reconciling", "True")], "InProgress");
        let failing = Standing::Failing { reason: Reason::Disrupted, message: message.clone() };
        check(&failing, &[("Ready", "False"), ("Reconciling", "True")], "InProgress");
        let stalled = Standing::Stalled { reason: Reason::RunFailed, message: message.clone() };
        check(&stalled, &[("Ready", "False"), ("Stalled", "True")], "Failed");
        check(&Standing::Suspended { image_is_current: true }, &[("Ready", "True")], "Current");
        check(&Standing::Suspended { image_is_current: false }, &[("Ready", "False")], "InProgress");
        check(&Standing::Built { message }, &[("Ready", "True")], "Current");
    }

    #[test]
    fn the_transition_time_moves_only_when_the_status_flips() {
        let later = Timestamp::from_second(60).unwrap();
        let built = Standing::Built { message: "a".into() };
        let first = conditions(&[], &built, 1, Timestamp::UNIX_EPOCH);
        let same = conditions(&first, &Standing::Built { message: "b".into() }, 2, later);
        assert_eq!(same[0].last_transition_time.0, Timestamp::UNIX_EPOCH);
        let flipped = conditions(&first, &Standing::Suspended { image_is_current: false }, 2, later);
        assert_eq!(flipped[0].last_transition_time.0, later);
    }
}
