//! All policy: what was observed -> the status that is true, and what is to be created and deleted. Total and pure: every
//! observation yields a decision, and deciding again on its outcome changes nothing.
//!
//! ```text
//! settle: what became of the running attempt   -> status.lastBuild, status.image
//! next:   built? suspended? wait? try again?   -> a standing, perhaps a new attempt
//! tidy:   which Pods and ConfigMaps may go
//! ```
//!
//! The status is the only memory. A new attempt is written there first (`lastBuild`), its Pod is created second; an attempt
//! in the status whose Pod was never seen is one whose Pod is to be created.

mod conditions;
mod inputs;
mod key;
mod next;
mod notices;
mod pod_state;
mod settle;
mod tidy;
mod waiting;

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use karve_api::{ImageBuild, ImageBuildStatus};
use kube::ResourceExt;

pub use conditions::{Standing, conditions};
pub use inputs::{CACHE_TTL_BOUNDS, ConfigMaps, Inputs, Unusable, config_map_names, parse_duration, resolve};
pub use key::{KeyInputs, build_key};
pub use notices::{Notice, notices};
pub use pod_state::{Failure, PodState, has_ended, is_controlled_by, pod_state};

use crate::pod::Settings;

/// What was read from the API server about one object.
#[derive(Clone, Debug)]
pub struct Observed {
    /// The object itself.
    pub object: ImageBuild,
    /// The Pods that carry its label, and the one that its status names.
    pub pods: Vec<Pod>,
    /// The ConfigMaps that its spec names.
    pub config_maps: ConfigMaps,
    /// The ConfigMaps that were made for its builds.
    pub owned_config_maps: Vec<Child>,
    /// The messages of the warnings about the running attempt's Pod while it waits.
    pub pod_events: Vec<String>,
    /// The API server's last refusal to create the running attempt's Pod.
    pub refusal: Option<Refusal>,
}

/// Names an object that is ours and may be deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Child {
    /// Its name.
    pub name: String,
    /// Its UID, so that another object of that name is not deleted in its place.
    pub uid: String,
}

/// Says why a Pod could not be created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The Pod.
    pub pod_name: String,
    /// The API server's words.
    pub message: String,
    /// How often in a row.
    pub count: u32,
    /// When last.
    pub at: Timestamp,
}

/// What is to be done about one object.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Decision {
    /// The status that is true; written only if it differs from the one that was read.
    pub status: ImageBuildStatus,
    /// What happened, for Events; published once the status is written.
    pub notices: Vec<Notice>,
    /// The ConfigMap that the Pod mounts, created before it.
    pub create_config_map: Option<Box<ConfigMap>>,
    /// The Pod to create.
    pub create_pod: Option<Box<Pod>>,
    /// Pods to delete.
    pub delete_pods: Vec<Child>,
    /// ConfigMaps to delete.
    pub delete_config_maps: Vec<Child>,
    /// When to look again though nothing was seen to change.
    pub look_again: Option<Duration>,
}

impl Decision {
    /// Asks to be run again after the time, or sooner if that was already asked.
    fn look_again_in(&mut self, seconds: i64) {
        let wanted = Duration::from_secs(u64::try_from(seconds.max(1)).unwrap_or(1));
        self.look_again = Some(self.look_again.map_or(wanted, |planned| planned.min(wanted)));
    }
}

/// Decides what is to be done about one object.
pub fn decide(observed: &Observed, settings: &Settings, now: Timestamp) -> Decision {
    let object = &observed.object;
    let before = object.status.clone().unwrap_or_default();
    let mut decision = Decision { status: before.clone(), ..Decision::default() };
    if object.metadata.deletion_timestamp.is_some() {
        // The garbage collector deletes what the object owns.
        return decision;
    }
    let generation = object.metadata.generation.unwrap_or_default();
    let resolved = resolve(object, &observed.config_maps);
    let activity = settle::settle(&mut decision, observed, resolved.as_ref().ok(), now);
    let standing = next::next(&mut decision, observed, &activity, resolved.as_ref(), settings, now);
    decision.status.conditions = conditions(&before.conditions, &standing, generation, now);
    decision.status.observed_generation = Some(generation);
    tidy::tidy(&mut decision, observed, now);
    decision.notices = notices(&before, &decision.status);
    decision
}

/// Returns the object's UID.
fn uid(object: &ImageBuild) -> String {
    object.uid().unwrap_or_default()
}

/// Names a Pod as a child that may be deleted.
fn child(pod: &Pod) -> Child {
    Child { name: pod.name_any(), uid: pod.uid().unwrap_or_default() }
}

#[cfg(test)]
mod tests;
