//! The only code that writes to the cluster. Status first, with the resourceVersion that the decision was made on; then
//! Events; then the ConfigMap and the Pod; then deletions. Each write may be the last one before the process dies: the next
//! observation shows what is still to be done.

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{ConfigMap, ObjectReference, Pod},
    apimachinery::pkg::apis::meta::v1::Condition,
};
use karve_api::{ImageBuild, Reason};
use kube::{
    Api, Resource, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions},
    core::{ApiResource, DynamicObject},
    runtime::events::{Event, EventType},
};
use serde_json::json;

use crate::{
    controller::Context,
    decide::{Child, Decision, Notice, Observed, Standing, conditions},
};

/// The name under which the API server records our writes.
const FIELD_MANAGER: &str = "karve-operator";
/// The longest note of an Event, well below the 1024 bytes that are admitted.
const NOTE_LENGTH_MAX: usize = 250;

/// What became of a decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was carried out.
    Done,
    /// The object, or what belongs to it, is not what was observed: observe again.
    Outdated,
}

/// Carries out a decision.
pub async fn act(
    observed: &Observed,
    decision: &Decision,
    namespace: &str,
    ctx: &Context,
    now: Timestamp,
) -> kube::Result<Outcome> {
    if decision.status != observed.object.status.clone().unwrap_or_default() {
        match write_status(observed, decision, namespace, ctx).await {
            Ok(()) => publish(&observed.object.object_ref(&()), &decision.notices, ctx).await,
            Err(error) if is_conflict(&error) || is_not_found(&error) => return Ok(Outcome::Outdated),
            Err(error) => return Err(error),
        }
    }
    let outcome = create(observed, decision, namespace, ctx, now).await?;
    let pods: Api<Pod> = Api::namespaced(ctx.client.clone(), namespace);
    for pod in &decision.delete_pods {
        delete(&pods, pod).await?;
    }
    let config_maps: Api<ConfigMap> = Api::namespaced(ctx.client.clone(), namespace);
    for config_map in &decision.delete_config_maps {
        delete(&config_maps, config_map).await?;
    }
    Ok(outcome)
}

async fn write_status(observed: &Observed, decision: &Decision, namespace: &str, ctx: &Context) -> kube::Result<()> {
    let api: Api<ImageBuild> = Api::namespaced(ctx.client.clone(), namespace);
    // The object carries the resourceVersion that was read: the write fails if anything changed since.
    let mut object = observed.object.clone();
    object.metadata.managed_fields = None;
    object.status = Some(decision.status.clone());
    api.replace_status(&object.name_any(), &post(), &object).await.map(|_| ())
}

/// Creates the ConfigMap and then the Pod. Whoever was faster made the same ones.
async fn create(
    observed: &Observed,
    decision: &Decision,
    namespace: &str,
    ctx: &Context,
    now: Timestamp,
) -> kube::Result<Outcome> {
    let uid = observed.object.uid().unwrap_or_default();
    let Some(pod) = &decision.create_pod else { return Ok(Outcome::Done) };
    let pod_name = pod.name_any();
    if let Some(config_map) = &decision.create_config_map {
        let api: Api<ConfigMap> = Api::namespaced(ctx.client.clone(), namespace);
        match api.create(&post(), config_map).await {
            Ok(_) => {}
            Err(error) if is_already_there(&error) => {}
            Err(error) if is_refusal(&error) => {
                ctx.refuse(&uid, &pod_name, &words_of(&error), now);
                return Ok(Outcome::Outdated);
            }
            Err(error) => return Err(error),
        }
    }
    let api: Api<Pod> = Api::namespaced(ctx.client.clone(), namespace);
    match api.create(&post(), pod).await {
        Ok(_) => {
            ctx.accept(&uid);
            ctx.metrics.pods_created.inc();
            Ok(Outcome::Done)
        }
        Err(error) if is_already_there(&error) => Ok(Outcome::Outdated),
        Err(error) if is_refusal(&error) => {
            ctx.refuse(&uid, &pod_name, &words_of(&error), now);
            Ok(Outcome::Outdated)
        }
        Err(error) => Err(error),
    }
}

/// Deletes the very object that was seen; one that is gone or was replaced is none of ours.
async fn delete<K>(api: &Api<K>, child: &Child) -> kube::Result<()>
where
    K: Resource + Clone + serde::de::DeserializeOwned + std::fmt::Debug,
{
    let preconditions = Some(Preconditions { uid: Some(child.uid.clone()), resource_version: None });
    let parameters = DeleteParams { preconditions, ..DeleteParams::background() };
    match api.delete(&child.name, &parameters).await {
        Ok(_) => Ok(()),
        Err(error) if is_not_found(&error) || is_conflict(&error) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Publishes Events. They are news, not state: one that is lost is not missed.
async fn publish(object: &ObjectReference, notices: &[Notice], ctx: &Context) {
    for notice in notices {
        ctx.metrics.count_notice(&notice.reason);
        let event = Event {
            type_: if notice.is_warning { EventType::Warning } else { EventType::Normal },
            reason: notice.reason.clone(),
            note: Some(notice.note.clone()),
            action: notice.action.clone(),
            secondary: None,
        };
        if let Err(error) = ctx.recorder.publish(&event, object).await {
            tracing::warn!(%error, reason = notice.reason, "event not published");
        }
    }
}

/// Tells an object that does not parse so. Nothing is written if it was told before.
pub async fn report_unparsable(
    object: &DynamicObject,
    message: &str,
    namespace: &str,
    ctx: &Context,
    now: Timestamp,
) -> kube::Result<()> {
    let status = &object.data["status"];
    let previous: Vec<Condition> = serde_json::from_value(status["conditions"].clone()).unwrap_or_default();
    let generation = object.metadata.generation.unwrap_or_default();
    let message = format!("the resource cannot be read: {message}");
    let standing = Standing::Stalled { reason: Reason::InvalidSpec, message: message.clone() };
    let wanted = conditions(&previous, &standing, generation, now);
    if wanted == previous && status["observedGeneration"] == json!(generation) {
        return Ok(());
    }
    let resource = ApiResource::erase::<ImageBuild>(&());
    let api: Api<DynamicObject> = Api::namespaced_with(ctx.client.clone(), namespace, &resource);
    let patch = json!({
        "metadata": {"resourceVersion": object.metadata.resource_version},
        "status": {"observedGeneration": generation, "conditions": wanted},
    });
    let parameters = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
    match api.patch_status(&object.name_any(), &parameters, &Patch::Merge(&patch)).await {
        Ok(_) => {
            let notice = Notice {
                is_warning: true,
                reason: Reason::InvalidSpec.as_str().to_owned(),
                action: format!("Generation-{generation}"),
                note: message.chars().take(NOTE_LENGTH_MAX).collect(),
            };
            publish(&object.object_ref(&resource), &[notice], ctx).await;
            Ok(())
        }
        Err(error) if is_conflict(&error) || is_not_found(&error) => Ok(()),
        Err(error) => Err(error),
    }
}

fn post() -> PostParams {
    PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), dry_run: false }
}

/// Returns what the API server said, without what the client puts around it.
fn words_of(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}

fn is_already_there(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.is_already_exists())
}

fn is_conflict(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.is_conflict())
}

fn is_not_found(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.is_not_found())
}

/// Says whether the API server understood and will not have it: Pod Security, quota, an admission webhook, a bad value.
fn is_refusal(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if (400..500).contains(&status.code) && status.code != 429 && status.code != 401)
}
