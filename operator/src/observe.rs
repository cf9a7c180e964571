//! Reads what a decision is made from: the object as it is now, its Pods, and what it names. Reads only; never a Secret.
//!
//! The object is read afresh and not from the watch's memory: an old status would start an attempt twice. It is read
//! untyped first, since one object that does not parse must be told so and must not stop the others.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{ConfigMap, Event, Pod};
use karve_api::{ImageBuild, LABEL_IMAGE_BUILD, LABEL_MANAGED_BY, MANAGED_BY};
use kube::{
    Api, ResourceExt,
    api::ListParams,
    core::{ApiResource, DynamicObject, PartialObjectMeta},
};

use crate::{
    controller::Context,
    decide::{Child, ConfigMaps, Observed, config_map_names},
};

/// How long a Pod may wait before its Events are asked why.
const PATIENCE: SignedDuration = SignedDuration::from_secs(5);
/// The most Events that are read of one Pod.
const EVENTS_MAX: u32 = 50;
/// The most Pods and ConfigMaps that are read of one object.
const CHILDREN_MAX: u32 = 500;

/// What was found of one object.
#[derive(Debug)]
pub enum Observation {
    /// It is gone.
    Gone,
    /// It does not parse.
    Unparsable {
        /// The object as it is.
        object: Box<DynamicObject>,
        /// What the parser says.
        message: String,
    },
    /// It, and what belongs to it.
    Object(Box<Observed>),
}

/// Reads one object and what belongs to it.
pub async fn observe(namespace: &str, name: &str, ctx: &Context, now: Timestamp) -> kube::Result<Observation> {
    let resource = ApiResource::erase::<ImageBuild>(&());
    let objects: Api<DynamicObject> = Api::namespaced_with(ctx.client.clone(), namespace, &resource);
    let Some(untyped) = objects.get_opt(name).await? else { return Ok(Observation::Gone) };
    let object = match parse(&untyped) {
        Ok(object) => object,
        Err(message) => return Ok(Observation::Unparsable { object: Box::new(untyped), message }),
    };
    let pods = pods(&object, namespace, ctx).await?;
    let pod_events = pod_events(&object, &pods, namespace, ctx, now).await?;
    let config_maps = config_maps(&object, namespace, ctx).await?;
    let owned_config_maps = owned_config_maps(&object, namespace, ctx).await?;
    let refusal = ctx.refusal(&object.uid().unwrap_or_default());
    Ok(Observation::Object(Box::new(Observed { object, pods, config_maps, owned_config_maps, pod_events, refusal })))
}

/// Reads an object, or says which field of it cannot be read, and why.
fn parse(untyped: &DynamicObject) -> Result<ImageBuild, String> {
    let value = serde_json::to_value(untyped).map_err(|error| error.to_string())?;
    serde_path_to_error::deserialize(value).map_err(|error| format!("{}: {}", error.path(), error.inner()))
}

/// Returns the Pods with the object's label and the one that its status names, whoever that belongs to.
async fn pods(object: &ImageBuild, namespace: &str, ctx: &Context) -> kube::Result<Vec<Pod>> {
    let api: Api<Pod> = Api::namespaced(ctx.client.clone(), namespace);
    let mut pods = api.list(&children(object)).await?.items;
    let named = object.status.as_ref().and_then(|status| status.last_build.as_ref());
    if let Some(name) = named.and_then(|last| last.pod_name.as_deref())
        && pods.iter().all(|pod| pod.name_any() != name)
    {
        pods.extend(api.get_opt(name).await?);
    }
    Ok(pods)
}

/// Returns the warnings about the running attempt's Pod if it has waited for a while: what is missing for a volume is said
/// nowhere else.
async fn pod_events(
    object: &ImageBuild,
    pods: &[Pod],
    namespace: &str,
    ctx: &Context,
    now: Timestamp,
) -> kube::Result<Vec<String>> {
    let last = object.status.as_ref().and_then(|status| status.last_build.as_ref());
    let name = last.filter(|last| last.result.is_none()).and_then(|last| last.pod_name.as_deref());
    let Some(pod) = pods.iter().find(|pod| Some(pod.name_any().as_str()) == name) else { return Ok(Vec::new()) };
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    let created = pod.metadata.creation_timestamp.as_ref().map_or(now, |time| time.0);
    if phase != Some("Pending") || now.duration_since(created) < PATIENCE {
        return Ok(Vec::new());
    }
    let api: Api<Event> = Api::namespaced(ctx.client.clone(), namespace);
    let uid = pod.uid().unwrap_or_default();
    let parameters = ListParams::default().fields(&format!("involvedObject.uid={uid},type=Warning")).limit(EVENTS_MAX);
    let mut events = api.list(&parameters).await?.items;
    // The newest first: what was missing before may be there by now.
    events.sort_by_key(|event| std::cmp::Reverse(last_seen(event)));
    Ok(events.into_iter().filter_map(|event| event.message).collect())
}

/// Returns when an Event was seen last, in whichever of its fields its writer put that.
fn last_seen(event: &Event) -> Option<Timestamp> {
    let series = event.series.as_ref().and_then(|series| series.last_observed_time.as_ref()).map(|time| time.0);
    let last = event.last_timestamp.as_ref().map(|time| time.0);
    series.max(last).max(event.event_time.as_ref().map(|time| time.0))
}

async fn config_maps(object: &ImageBuild, namespace: &str, ctx: &Context) -> kube::Result<ConfigMaps> {
    let api: Api<ConfigMap> = Api::namespaced(ctx.client.clone(), namespace);
    let mut config_maps = BTreeMap::new();
    for name in config_map_names(&object.spec) {
        let config_map = api.get_opt(&name).await?;
        config_maps.insert(name, config_map);
    }
    Ok(config_maps)
}

async fn owned_config_maps(object: &ImageBuild, namespace: &str, ctx: &Context) -> kube::Result<Vec<Child>> {
    // Their content is not needed.
    let api: Api<PartialObjectMeta<ConfigMap>> = Api::namespaced(ctx.client.clone(), namespace);
    let uid = object.uid().unwrap_or_default();
    let found = api.list_metadata(&children(object)).await?.items.into_iter();
    let ours = found.filter(|meta| meta.metadata.owner_references.iter().flatten().any(|owner| owner.uid == uid));
    Ok(ours.map(|meta| Child { name: meta.name_any(), uid: meta.uid().unwrap_or_default() }).collect())
}

fn children(object: &ImageBuild) -> ListParams {
    let selector = format!("{LABEL_MANAGED_BY}={MANAGED_BY},{LABEL_IMAGE_BUILD}={}", object.name_any());
    ListParams::default().labels(&selector).limit(CHILDREN_MAX)
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn the_field_that_cannot_be_read_is_named() {
        let object = serde_json::json!({
            "apiVersion": "karve.dev/v1alpha1", "kind": "ImageBuild", "metadata": {"name": "web"},
            "spec": {"context": {}, "output": {"image": "r.example/web"}, "retries": {"of": "another version"}},
        });
        let untyped = serde_json::from_value(object).unwrap();
        assert_eq!(parse(&untyped).unwrap_err(), "spec.retries: invalid type: map, expected i32");
    }
}
