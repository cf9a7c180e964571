//! A namespace on the node and the ImageBuilds in it: manifests in, conditions, Events, Pods and pushed images out.

use std::{fmt::Debug, time::Duration};

use k8s_openapi::{
    NamespaceResourceScope,
    api::core::v1::{ConfigMap, Event, Pod},
};
use karve_api::{ImageBuild, LABEL_IMAGE_BUILD, Reason};
use karve_tests::{eventually_async, inspect::Image};
use kube::{
    Api, Client, ResourceExt,
    api::{ListParams, Patch, PatchParams},
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::karve::cluster;

/// The longest that a test waits for a build: images are small, machines are busy.
pub(crate) const DEADLINE: Duration = Duration::from_mins(5);

/// A namespace that admits what Pod Security calls baseline; it is deleted when this value is dropped, unless the test
/// failed.
pub(crate) struct Namespace {
    pub(crate) name: String,
    client: Client,
}

impl Namespace {
    /// Makes a namespace; its name begins like this.
    pub(crate) async fn new(name: &str) -> Self {
        let name = format!("{name}-{}", std::process::id());
        cluster().kubectl_ok(&["create", "namespace", &name]);
        cluster().kubectl_ok(&["label", "namespace", &name, "pod-security.kubernetes.io/enforce=baseline"]);
        cluster().wait_for(DEADLINE, &name, "serviceaccount/default", "{.metadata.name}", "default");
        Self { name, client: cluster().client().await }
    }

    /// Applies a manifest in which `registry.example` stands for the node's registry.
    #[track_caller]
    pub(crate) fn apply(&self, manifest: &str) {
        cluster().apply(&self.name, &manifest.replace("registry.example", cluster().registry_host()));
    }

    /// Applies an `ImageBuild` of a Dockerfile in which `BASE` stands for busybox; the image is `NAMESPACE/NAME:v1`.
    #[track_caller]
    pub(crate) fn build(&self, name: &str, dockerfile: &str) {
        self.build_with(name, dockerfile, &json!({}));
    }

    /// Does the same with a spec that has more.
    #[track_caller]
    pub(crate) fn build_with(&self, name: &str, dockerfile: &str, more: &Value) {
        let dockerfile = dockerfile.replace("BASE", &format!("{}/busybox:1", cluster().registry_host()));
        let mut spec = json!({
            "context": {"inline": {"files": {"Dockerfile": dockerfile, "file": "content\n"}}},
            "output": {"image": format!("registry.example/{}:v1", self.repository(name))},
            "resources": {"requests": requests()},
            "timeout": "10m",
        });
        for (field, value) in more.as_object().expect("a spec is an object") {
            spec[field] = value.clone();
        }
        let object = json!({
            "apiVersion": "karve.dev/v1alpha1", "kind": "ImageBuild", "metadata": {"name": name}, "spec": spec,
        });
        self.apply(&object.to_string());
    }

    /// Returns the repository of a build's image.
    pub(crate) fn repository(&self, name: &str) -> String {
        format!("{}/{name}", self.name)
    }

    /// Changes an `ImageBuild` by a merge patch.
    pub(crate) async fn edit(&self, name: &str, patch: Value) {
        let builds: Api<ImageBuild> = self.api();
        builds.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    }

    /// Waits until the object is as `look` wants it, and returns what it found.
    pub(crate) async fn until<T>(&self, name: &str, what: &str, look: impl Fn(&ImageBuild) -> Option<T>) -> T {
        let builds: Api<ImageBuild> = self.api();
        let what = format!("{name} in {}: {what}", self.name);
        // The API server may be busy for a moment: a look that fails is repeated.
        eventually_async(DEADLINE, &what, async || look(&builds.get_opt(name).await.ok()??)).await
    }

    /// Waits until the condition Ready of the newest spec has this status and reason.
    pub(crate) async fn until_ready_is(&self, name: &str, status: &str, reason: Reason) -> ImageBuild {
        let what = format!("Ready is {status}, {reason}");
        self.until(name, &what, |build| {
            let is_new = build.status.as_ref()?.observed_generation == build.metadata.generation;
            let ready = condition(build, "Ready")?;
            (is_new && ready["status"] == status && ready["reason"] == reason.as_str()).then(|| build.clone())
        })
        .await
    }

    /// Waits until a build has succeeded, and checks that the registry has under its tag what the status says.
    pub(crate) async fn until_built(&self, name: &str) -> Image {
        let build = self.until_ready_is(name, "True", Reason::Succeeded).await;
        let status = build.status.unwrap();
        let (host, output) = (cluster().registry_host(), &build.spec.output.image);
        let tagged = output.strip_prefix(&format!("{host}/")).expect("tests push to the node's registry");
        let (repository, tag) = tagged.rsplit_once(':').expect("tests push with a tag");
        let image = Image::of_registry(&cluster().registry(), repository, tag);
        assert_eq!(status.digest.as_ref(), Some(&image.digest), "{name}: the tag is not on the image of the status");
        assert_eq!(status.image, Some(format!("{host}/{repository}@{}", image.digest)));
        image
    }

    /// Returns how many manifests were pushed to the repository of a build under a tag.
    pub(crate) fn pushes(&self, name: &str, tag: &str) -> usize {
        let request = format!("\"PUT /v2/{}/manifests/{tag} ", self.repository(name));
        cluster().registry_log().matches(&request).count()
    }

    /// Waits until a build runs its steps.
    pub(crate) async fn until_running(&self, name: &str) {
        let pods: Api<Pod> = self.api();
        eventually_async(DEADLINE, &format!("{name} in {} runs", self.name), async || {
            let pods = pods.list(&of_build(name)).await.ok()?;
            let is_running = |pod: &Pod| {
                let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.clone());
                statuses
                    .iter()
                    .flatten()
                    .any(|status| status.state.as_ref().is_some_and(|state| state.running.is_some()))
            };
            pods.iter().any(is_running).then_some(())
        })
        .await;
    }

    /// Returns the names of a build's Pods, sorted.
    pub(crate) async fn pods(&self, name: &str) -> Vec<String> {
        let pods: Api<Pod> = self.api();
        let mut names: Vec<String> =
            pods.list(&of_build(name)).await.unwrap().iter().map(ResourceExt::name_any).collect();
        names.sort();
        names
    }

    /// Waits until there is an Event of this reason about an `ImageBuild`.
    pub(crate) async fn until_event(&self, name: &str, reason: Reason) {
        let events: Api<Event> = self.api();
        eventually_async(DEADLINE, &format!("an Event {reason} about {name} in {}", self.name), async || {
            let events = events.list(&ListParams::default()).await.ok()?;
            let is_it = |event: &Event| {
                event.involved_object.name.as_deref() == Some(name) && event.reason.as_deref() == Some(reason.as_str())
            };
            events.iter().any(is_it).then_some(())
        })
        .await;
    }

    /// Returns all that the operator may write here, Leases excepted, each with what changes at every write.
    pub(crate) async fn versions(&self) -> Vec<String> {
        let mut versions = self.versions_of::<ImageBuild>().await;
        versions.extend(self.versions_of::<ConfigMap>().await);
        let everything = ListParams::default();
        let of_builds = everything.clone().fields("involvedObject.kind=ImageBuild");
        let events = self.api::<Event>().list(&of_builds).await.unwrap();
        versions.extend(events.iter().map(version));
        // The status of a Pod is the kubelet's, which has its last word some time after the containers have ended.
        let pods = self.api::<Pod>().list(&everything).await.unwrap();
        versions.extend(pods.into_iter().map(|mut pod| {
            (pod.status, pod.metadata.managed_fields, pod.metadata.resource_version) = (None, None, None);
            serde_json::to_string(&pod).unwrap()
        }));
        versions
    }

    async fn versions_of<K>(&self) -> Vec<String>
    where
        K: kube::Resource<Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug,
        K::DynamicType: Default,
    {
        let objects = self.api::<K>().list(&ListParams::default()).await.unwrap();
        objects.iter().map(version).collect()
    }

    fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.client.clone(), &self.name)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            cluster().kubectl(&["delete", "namespace", &self.name, "--wait=false"]);
        }
    }
}

/// Returns kind, name and resourceVersion.
fn version<K>(object: &K) -> String
where
    K: kube::Resource,
    K::DynamicType: Default,
{
    let kind = K::kind(&K::DynamicType::default()).into_owned();
    format!("{kind} {} {}", object.name_any(), object.resource_version().unwrap_or_default())
}

/// Returns requests so small that all builds of a test run at once, on any machine.
pub(crate) fn requests() -> Value {
    json!({"cpu": "20m", "memory": "32Mi", "ephemeral-storage": "1Mi"})
}

fn of_build(name: &str) -> ListParams {
    ListParams::default().labels(&format!("{LABEL_IMAGE_BUILD}={name}"))
}

/// Returns the condition of a type.
pub(crate) fn condition(build: &ImageBuild, kind: &str) -> Option<Value> {
    let conditions = &build.status.as_ref()?.conditions;
    let found = conditions.iter().find(|condition| condition.type_ == kind)?;
    Some(serde_json::to_value(found).unwrap())
}

/// Makes a Secret with the password of a registry.
pub(crate) fn create_registry_secret(namespace: &Namespace, name: &str, host: &str, user: &str, password: &str) {
    let flags = [("server", host), ("username", user), ("password", password)];
    let flags = flags.map(|(flag, value)| format!("--docker-{flag}={value}"));
    let [server, username, password] = flags.each_ref().map(String::as_str);
    let create = ["create", "secret", "docker-registry", name, server, username, password];
    cluster().kubectl_ok(&[&["--namespace", &namespace.name], &create[..]].concat());
}
