//! A namespace of a shared API server, operators that watch it and nothing else, and the kubelet's part, played by the test.

use std::{
    net::TcpListener,
    path::Path,
    sync::{Arc, Mutex, Weak},
    time::{Duration, Instant},
};

use k8s_openapi::{
    api::core::v1::{ConfigMap, Event, Namespace, Pod},
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use karve_api::{BuildReport, CacheReport, ImageBuild, Outcome, Reason, repository_of};
use karve_tests::{api_server::ApiServer, eventually, eventually_async, http, process::Process, programs};
use kube::{
    Api, Client, ResourceExt,
    api::{DynamicObject, ListParams, Patch, PatchParams, PostParams},
    core::ApiResource,
};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Whatever the operator does takes a second; machines are busy.
pub(crate) const DEADLINE: Duration = Duration::from_mins(1);

/// A namespace with what is in it.
pub(crate) struct Scene {
    pub(crate) server: Arc<ApiServer>,
    pub(crate) client: Client,
    pub(crate) namespace: String,
    directory: TempDir,
}

/// A running operator; it is killed when this value is dropped.
pub(crate) struct Operator {
    pub(crate) process: Process,
    admin: String,
}

impl Scene {
    /// Makes a namespace on the API server that all tests share, which lives as long as a test needs it.
    pub(crate) async fn new(namespace: &str) -> Self {
        static SERVER: Mutex<Weak<ApiServer>> = Mutex::new(Weak::new());
        let server = {
            let mut shared = SERVER.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            shared.upgrade().unwrap_or_else(|| {
                let server = Arc::new(ApiServer::start());
                *shared = Arc::downgrade(&server);
                server
            })
        };
        Self::on(server, namespace).await
    }

    /// Makes a namespace on a server, and the definition of `ImageBuild` unless it is there.
    pub(crate) async fn on(server: Arc<ApiServer>, namespace: &str) -> Self {
        let client = server.client().await;
        define(&client).await;
        let object: Namespace = from(json!({"metadata": {"name": namespace}}));
        Api::all(client.clone()).create(&PostParams::default(), &object).await.unwrap();
        let directory = TempDir::with_prefix("karve-operator-").unwrap();
        Self { server, client, namespace: namespace.to_owned(), directory }
    }

    /// Starts an operator that watches this namespace.
    pub(crate) fn operator(&self) -> Operator {
        self.operator_with("one", &[])
    }

    /// Starts an operator with a name and further flags.
    pub(crate) fn operator_with(&self, identity: &str, flags: &[&str]) -> Operator {
        Operator::start(
            &self.directory.path().join(identity),
            &self.server.kubeconfig(),
            &self.namespace,
            identity,
            flags,
        )
    }

    /// Admits Pods to the namespace by a Pod Security Standard.
    pub(crate) async fn enforce_pod_security(&self, standard: &str) {
        let patch = json!({"metadata": {"labels": {"pod-security.kubernetes.io/enforce": standard}}});
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        namespaces.patch(&self.namespace, &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    }

    pub(crate) fn builds(&self) -> Api<ImageBuild> {
        self.api()
    }

    pub(crate) fn pods(&self) -> Api<Pod> {
        self.api()
    }

    pub(crate) fn config_maps(&self) -> Api<ConfigMap> {
        self.api()
    }

    pub(crate) fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Creates an `ImageBuild` whose Dockerfile says that it is of this version.
    pub(crate) async fn create(&self, name: &str, version: &str) -> ImageBuild {
        let object = image_build(name, &spec(name, version));
        self.builds().create(&PostParams::default(), &object).await.unwrap()
    }

    /// Changes an `ImageBuild` by a merge patch.
    pub(crate) async fn edit(&self, name: &str, patch: Value) -> ImageBuild {
        self.builds().patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.unwrap()
    }

    /// Sets the version that the Dockerfile speaks of.
    pub(crate) async fn set_version(&self, name: &str, version: &str) {
        self.edit(name, json!({"spec": spec(name, version)})).await;
    }

    /// Waits until the object is as `look` wants it, and returns what it found.
    pub(crate) async fn until<T>(&self, name: &str, what: &str, look: impl Fn(&ImageBuild) -> Option<T>) -> T {
        let builds = self.builds();
        eventually_async(DEADLINE, &format!("{name}: {what}"), async || look(&builds.get_opt(name).await.unwrap()?))
            .await
    }

    /// Waits until the condition Ready has this status and reason, of this generation; returns the object.
    pub(crate) async fn until_ready_is(&self, name: &str, status: &str, reason: Reason) -> ImageBuild {
        let what = format!("Ready is {status}, {reason}");
        self.until(name, &what, |build| {
            let (seen, ready) = (build.status.as_ref()?.observed_generation, condition(build, "Ready")?);
            let is_new = seen == build.metadata.generation;
            (is_new && ready["status"] == status && ready["reason"] == reason.as_str()).then(|| build.clone())
        })
        .await
    }

    /// Waits until there is a Pod of that name, and returns it.
    pub(crate) async fn pod(&self, name: &str) -> Pod {
        let pods = self.pods();
        eventually_async(DEADLINE, &format!("there is a Pod {name}"), async || pods.get_opt(name).await.unwrap()).await
    }

    /// Returns the names of all Pods, sorted.
    pub(crate) async fn pod_names(&self) -> Vec<String> {
        let pods = self.pods().list(&ListParams::default()).await.unwrap();
        let mut names: Vec<String> = pods.iter().map(ResourceExt::name_any).collect();
        names.sort();
        names
    }

    /// Plays the kubelet: the container `build` of a Pod has ended well, and its image has a digest made of `number`.
    pub(crate) async fn succeed(&self, pod: &str, number: u8) -> String {
        let digest = format!("sha256:{}", format!("{number:02x}").repeat(32));
        let report = BuildReport { result: Outcome::Succeeded, digest: Some(digest.clone()), ..BuildReport::default() };
        self.end(pod, 0, report).await;
        digest
    }

    /// Plays the kubelet: the same, of a build that had a cache.
    pub(crate) async fn succeed_with_cache(&self, pod: &str, number: u8, cache: CacheReport) {
        let digest = Some(format!("sha256:{}", format!("{number:02x}").repeat(32)));
        let report = BuildReport { result: Outcome::Succeeded, digest, cache: Some(cache), ..BuildReport::default() };
        self.end(pod, 0, report).await;
    }

    /// Plays the kubelet: the container `build` of a Pod has failed.
    pub(crate) async fn fail(&self, pod: &str, reason: Reason, message: &str) {
        let report = BuildReport { reason: Some(reason), message: Some(message.to_owned()), ..BuildReport::default() };
        self.end(pod, 1, report).await;
    }

    /// Plays the kubelet: the container `build` of a Pod runs.
    pub(crate) async fn run(&self, pod: &str) {
        self.write_pod_status(pod, "Running", &json!({"running": {}})).await;
    }

    async fn end(&self, name: &str, exit_code: i32, report: BuildReport) {
        let pod = self.pod(name).await;
        let argument = |flag: &str| {
            let arguments = pod.spec.as_ref().unwrap().containers[0].args.as_ref().unwrap();
            arguments.iter().find_map(|argument| argument.strip_prefix(flag)).map(str::to_owned)
        };
        let image = argument("--destination=").map(|image| repository_of(&image).to_owned());
        let report = BuildReport { nonce: argument("--nonce="), image, ..report };
        let message = report.to_termination_message();
        let phase = if exit_code == 0 { "Succeeded" } else { "Failed" };
        self.write_pod_status(name, phase, &json!({"terminated": {"exitCode": exit_code, "message": message}})).await;
    }

    async fn write_pod_status(&self, pod: &str, phase: &str, state: &Value) {
        let status =
            json!({"name": "build", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": state});
        let patch = json!({"status": {"phase": phase, "containerStatuses": [status]}});
        self.pods().patch_status(pod, &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    }

    async fn events(&self, name: &str) -> impl Iterator<Item = Event> {
        let events: Api<Event> = self.api();
        let events = events.list(&ListParams::default()).await.unwrap().items.into_iter();
        events.filter(move |event| event.involved_object.name.as_deref() == Some(name))
    }

    /// Returns what the Events about an object say.
    pub(crate) async fn event_notes(&self, name: &str) -> Vec<String> {
        self.events(name).await.filter_map(|event| event.message).collect()
    }

    /// Returns the reasons of the Events about an object, each once, sorted.
    pub(crate) async fn event_reasons(&self, name: &str) -> Vec<String> {
        let mut reasons: Vec<String> = self.events(name).await.filter_map(|event| event.reason).collect();
        reasons.sort();
        reasons.dedup();
        reasons
    }

    /// Returns kind, name and resourceVersion of everything that the operator may write, Leases excepted.
    pub(crate) async fn versions(&self) -> Vec<String> {
        let kinds = [
            ("karve.dev", "v1alpha1", "ImageBuild", "imagebuilds"),
            ("", "v1", "Pod", "pods"),
            ("", "v1", "ConfigMap", "configmaps"),
            ("", "v1", "Event", "events"),
        ];
        let mut versions = Vec::new();
        for (group, version, kind, plural) in kinds {
            let api_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
            let resource = ApiResource {
                group: group.into(),
                version: version.into(),
                kind: kind.into(),
                plural: plural.into(),
                api_version,
            };
            let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), &self.namespace, &resource);
            let objects = api.list(&ListParams::default()).await.unwrap().items.into_iter();
            versions.extend(objects.map(|object| {
                format!("{kind} {} {}", object.name_any(), object.resource_version().unwrap_or_default())
            }));
        }
        versions
    }
}

impl Operator {
    /// Starts an operator; `path` with further endings are its files.
    pub(crate) fn start(path: &Path, kubeconfig: &Path, namespace: &str, identity: &str, flags: &[&str]) -> Self {
        // Between choosing a free port and its use another process may take it: then the operator ends, and says so.
        let admin = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let arguments = [
            "run".to_owned(),
            "--executor-image=registry.example/karve/executor:test".to_owned(),
            format!("--watch-namespace={namespace}"),
            format!("--lease-namespace={namespace}"),
            format!("--identity={identity}"),
            format!("--admin-address={admin}"),
        ];
        let arguments = arguments.into_iter().chain(flags.iter().map(|flag| (*flag).to_owned()));
        let process = Process::start_with(&path.with_extension("log"), programs::operator(), arguments, |command| {
            command.env("KUBECONFIG", kubeconfig);
        });
        Self { process, admin }
    }

    /// Waits until this operator leads.
    pub(crate) fn leads(mut self) -> Self {
        self.process.ready(DEADLINE, |log| log.contains("lease acquired").then_some(()));
        self
    }

    /// Returns the status and the body of a page of the admin server; nothing while it does not listen.
    pub(crate) fn page(&self, path: &str) -> Option<(u16, String)> {
        let response = http::try_request("GET", &self.admin, path, &[]).ok()?;
        Some((response.status, String::from_utf8_lossy(&response.body).into_owned()))
    }

    /// Returns how many passes over objects have ended.
    pub(crate) fn passes(&self) -> u64 {
        let (_, metrics) = eventually(DEADLINE, "the operator shows metrics", || self.page("/metrics"));
        let lines = metrics.lines().filter(|line| line.starts_with("karve_operator_reconciles_total"));
        lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok()).sum()
    }

    /// Kills the operator as soon as its log has so many lines, looking without a pause.
    pub(crate) fn kill_at_line(mut self, lines: usize) {
        let start = Instant::now();
        while self.process.log().lines().count() < lines {
            assert!(start.elapsed() < DEADLINE, "the log has not got {lines} lines:\n{}", self.process.log());
        }
        self.process.kill();
    }
}

/// Installs the definition of `ImageBuild`, as the operator prints it, and waits until it is served.
async fn define(client: &Client) {
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    let output = std::process::Command::new(programs::operator()).arg("crd").output().unwrap();
    let definition: CustomResourceDefinition = serde_yaml::from_str(&String::from_utf8_lossy(&output.stdout)).unwrap();
    match definitions.create(&PostParams::default(), &definition).await {
        Ok(_) => {}
        Err(kube::Error::Api(status)) if status.is_already_exists() => {}
        Err(error) => panic!("the API server does not take the definition: {error}"),
    }
    let builds: Api<ImageBuild> = Api::all(client.clone());
    eventually_async(DEADLINE, "the definition is served", async || builds.list(&ListParams::default()).await.ok())
        .await;
}

/// Returns an object that only the API server has checked.
pub(crate) fn image_build(name: &str, spec: &Value) -> ImageBuild {
    from(json!({"apiVersion": "karve.dev/v1alpha1", "kind": "ImageBuild", "metadata": {"name": name}, "spec": spec}))
}

/// Returns a spec whose inputs differ by version.
pub(crate) fn spec(name: &str, version: &str) -> Value {
    let dockerfile = format!("FROM scratch\nCOPY Dockerfile /\nLABEL version={version}\n");
    json!({
        "context": {"inline": {"files": {"Dockerfile": dockerfile}}},
        "output": {"image": format!("registry.example/{name}:v1")},
    })
}

/// Returns the condition of a type.
pub(crate) fn condition(build: &ImageBuild, kind: &str) -> Option<Value> {
    let conditions = &build.status.as_ref()?.conditions;
    let found = conditions.iter().find(|condition| condition.type_ == kind)?;
    Some(serde_json::to_value(found).unwrap())
}

/// Reads a typed object from JSON.
#[track_caller]
pub(crate) fn from<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).expect("this is what the type wants")
}
