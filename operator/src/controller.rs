//! The loop: whatever changes about an `ImageBuild`, its Pods, or a ConfigMap that it names brings it here, and
//! `observe -> decide -> act` does the rest. No object waits for another, and none is worked on twice at once.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use karve_api::{ImageBuild, LABEL_MANAGED_BY, MANAGED_BY};
use kube::{
    Api, Client, ResourceExt,
    core::{DeserializeGuard, PartialObjectMeta},
    runtime::{
        controller::{Action, Config, Controller},
        events::Recorder,
        reflector::{ObjectRef, Store},
        watcher,
    },
};
use tokio_util::sync::CancellationToken;

use crate::{
    act::{Outcome, act, report_unparsable},
    decide::{Refusal, config_map_names, decide},
    metrics::Metrics,
    observe::{Observation, observe},
    pod::Settings,
};

/// How many objects are worked on at once.
const CONCURRENCY: u16 = 16;
/// How long one pass may take: the client retries by itself for minutes.
const RECONCILE_TIMEOUT: Duration = Duration::from_mins(1);
/// The first and the longest pause after an error.
const ERROR_BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_mins(2));
/// The pause before an outdated observation is made again.
const OUTDATED_PAUSE: Duration = Duration::from_millis(500);

/// What every pass shares.
#[expect(missing_debug_implementations, reason = "the recorder has none")]
pub struct Context {
    /// The API server's client.
    pub client: Client,
    /// What is the same for all builds.
    pub settings: Settings,
    /// Publishes Events; one for all, since it tells repetitions by what it published before.
    pub recorder: Recorder,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Refused Pods by the object's UID. Lost with the process: then the Pod is tried once more.
    refusals: Mutex<HashMap<String, Refusal>>,
    /// How often in a row an object's pass failed.
    errors: Mutex<HashMap<ObjectRef<DeserializeGuard<ImageBuild>>, u32>>,
}

impl Context {
    /// Returns a context that remembers nothing yet.
    pub fn new(client: Client, settings: Settings, recorder: Recorder, metrics: Arc<Metrics>) -> Self {
        Self { client, settings, recorder, metrics, refusals: Mutex::default(), errors: Mutex::default() }
    }

    /// Returns the last refusal of the object's Pod.
    pub fn refusal(&self, uid: &str) -> Option<Refusal> {
        lock(&self.refusals).get(uid).cloned()
    }

    /// Remembers that the object's Pod was refused.
    pub fn refuse(&self, uid: &str, pod_name: &str, message: &str, at: Timestamp) {
        let mut refusals = lock(&self.refusals);
        let before = refusals.get(uid).filter(|refusal| refusal.pod_name == pod_name);
        let count = before.map_or(1, |refusal| refusal.count.saturating_add(1));
        let refusal = Refusal { pod_name: pod_name.to_owned(), message: message.to_owned(), count, at };
        refusals.insert(uid.to_owned(), refusal);
    }

    /// Forgets a refusal.
    pub fn accept(&self, uid: &str) {
        lock(&self.refusals).remove(uid);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Why a pass failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server did not do what it was asked.
    #[error("API server: {0}")]
    Kube(#[from] kube::Error),
    /// The pass took too long.
    #[error("the pass took longer than {} s", RECONCILE_TIMEOUT.as_secs())]
    Timeout,
}

/// Works on the objects of one namespace, or of all, until the token is cancelled; the passes that run are finished.
pub async fn run(namespace: Option<String>, ctx: Arc<Context>, shutdown: CancellationToken) {
    let objects: Api<DeserializeGuard<ImageBuild>> = scoped(&ctx.client, namespace.as_deref());
    let pods: Api<Pod> = scoped(&ctx.client, namespace.as_deref());
    let config_maps: Api<PartialObjectMeta<ConfigMap>> = scoped(&ctx.client, namespace.as_deref());
    let children = watcher::Config::default().labels(&format!("{LABEL_MANAGED_BY}={MANAGED_BY}"));
    let controller = Controller::new(objects, watcher::Config::default());
    let store = controller.store();
    controller
        .owns(pods, children)
        .watches(config_maps, watcher::Config::default(), move |config_map| referrers(&store, &config_map))
        .with_config(Config::default().concurrency(CONCURRENCY))
        .graceful_shutdown_on(async move { shutdown.cancelled().await })
        .run(reconcile, error_policy, ctx)
        .for_each(|result| async move {
            if let Err(error) = result {
                // What a pass failed of was logged with its object; this is the watches.
                tracing::debug!(%error, "controller");
            }
        })
        .await;
}

fn scoped<K>(client: &Client, namespace: Option<&str>) -> Api<K>
where
    K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope>,
    K::DynamicType: Default,
{
    match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}

/// Returns the objects whose inputs are read from the ConfigMap.
fn referrers(
    store: &Store<DeserializeGuard<ImageBuild>>,
    config_map: &PartialObjectMeta<ConfigMap>,
) -> Vec<ObjectRef<DeserializeGuard<ImageBuild>>> {
    let (namespace, name) = (config_map.namespace(), config_map.name_any());
    let names_it = |object: &ImageBuild| config_map_names(&object.spec).contains(&name);
    let objects = store.state().into_iter().filter(|object| object.namespace() == namespace);
    objects
        .filter(|object| object.0.as_ref().is_ok_and(names_it))
        .map(|object| ObjectRef::from_obj(object.as_ref()))
        .collect()
}

async fn reconcile(object: Arc<DeserializeGuard<ImageBuild>>, ctx: Arc<Context>) -> Result<Action, Error> {
    let started = std::time::Instant::now();
    let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
    let pass = tokio::time::timeout(RECONCILE_TIMEOUT, pass(&namespace, &name, &ctx));
    let result = pass.await.map_err(|_| Error::Timeout).and_then(|result| result.map_err(Error::from));
    ctx.metrics.observe_reconcile(result.is_ok(), started.elapsed());
    if result.is_ok() {
        lock(&ctx.errors).remove(&ObjectRef::from_obj(object.as_ref()));
    }
    result
}

/// Observes, decides and acts once.
async fn pass(namespace: &str, name: &str, ctx: &Context) -> kube::Result<Action> {
    let now = now();
    let observed = match observe(namespace, name, ctx, now).await? {
        Observation::Gone => return Ok(Action::await_change()),
        Observation::Unparsable { object, message } => {
            tracing::warn!(namespace, name, message, "the object does not parse");
            report_unparsable(&object, &message, namespace, ctx, now).await?;
            return Ok(Action::await_change());
        }
        Observation::Object(observed) => observed,
    };
    let decision = decide(&observed, &ctx.settings, now);
    for notice in &decision.notices {
        tracing::info!(namespace, name, reason = notice.reason, note = notice.note, "transition");
    }
    match act(&observed, &decision, namespace, ctx, now).await? {
        Outcome::Outdated => Ok(Action::requeue(OUTDATED_PAUSE)),
        Outcome::Done => Ok(decision.look_again.map_or_else(Action::await_change, Action::requeue)),
    }
}

#[expect(clippy::needless_pass_by_value, reason = "the signature that the controller asks for")]
fn error_policy(object: Arc<DeserializeGuard<ImageBuild>>, error: &Error, ctx: Arc<Context>) -> Action {
    let mut errors = lock(&ctx.errors);
    let count = errors.entry(ObjectRef::from_obj(object.as_ref())).or_insert(0);
    let pause = ERROR_BACKOFF.0.saturating_mul(1 << (*count).min(10)).min(ERROR_BACKOFF.1);
    *count = count.saturating_add(1);
    tracing::warn!(namespace = object.namespace(), name = object.name_any(), %error, ?pause, "pass failed");
    Action::requeue(pause)
}

#[expect(clippy::disallowed_methods, reason = "here the clock enters; everything below gets the time as an argument")]
fn now() -> Timestamp {
    Timestamp::now()
}
