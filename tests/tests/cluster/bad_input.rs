//! What is wrong is said in status, with a reason and a message, and as an Event; and nothing is pushed.

use std::{
    fs::File,
    time::{Duration, Instant},
};

use karve_api::{ImageBuild, Reason};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    karve::{closed_port, cluster, kill_operator},
    namespace::{DEADLINE, Namespace, condition, create_registry_secret, requests},
};

/// A Pod that waits for a Secret starts when the kubelet looks again, seconds after its arrival; the rest is the build.
const START_DEADLINE: Duration = Duration::from_mins(1);

/// Waits until a build is stalled for a reason, with words in its message; checks that it is told and that nothing is pushed.
async fn check(namespace: &Namespace, name: &str, reason: Reason, words: &[&str]) -> ImageBuild {
    let failed = namespace.until_ready_is(name, "False", reason).await;
    check_words(&failed, "Stalled", reason, words);
    namespace.until_event(name, reason).await;
    assert_eq!(cluster().registry().tags(&namespace.repository(name)), Vec::<String>::new(), "{name} was pushed");
    failed
}

#[track_caller]
fn check_words(build: &ImageBuild, kind: &str, reason: Reason, words: &[&str]) {
    let condition =
        condition(build, kind).unwrap_or_else(|| panic!("there is no condition {kind}: {:?}", build.status));
    assert_eq!((&condition["reason"], &condition["status"]), (&json!(reason), &json!("True")));
    let message = condition["message"].as_str().unwrap_or_default();
    for word in words {
        assert!(message.contains(word), "`{word}` is not in: {message}");
    }
}

#[tokio::test]
async fn mistakes_in_a_dockerfile_have_their_place() {
    let namespace = Namespace::new("dockerfiles").await;
    namespace.build("syntax", "FROM BASE\nCOPPY file /\n");
    namespace.build("run", "FROM BASE AS test\nRUN echo first; echo last; exit 7\n");
    namespace.build_with("stage", "FROM BASE AS one\n", &json!({"target": "two"}));
    namespace.build("copy", "FROM BASE\nCOPY missing /\n");
    let memory = json!({"resources": {"requests": requests(), "limits": {"memory": "128Mi"}}});
    namespace.build_with("memory", "FROM BASE\nRUN dd if=/dev/zero of=/dev/null bs=512M count=1\n", &memory);
    check(&namespace, "syntax", Reason::DockerfileInvalid, &["Dockerfile:2:1", "COPPY"]).await;
    let failed = check(&namespace, "run", Reason::RunFailed, &["Dockerfile:2", "exit code: 7"]).await;
    let last = failed.status.unwrap().last_build.unwrap();
    assert_eq!((last.stage.as_deref(), last.log_tail.as_deref()), (Some("test"), Some("first\nlast")));
    check(&namespace, "stage", Reason::StageNotFound, &["two"]).await;
    check(&namespace, "copy", Reason::FileNotFound, &["Dockerfile:2", "missing"]).await;
    check(&namespace, "memory", Reason::OutOfMemory, &["128Mi", "limits"]).await;
}

#[tokio::test]
async fn a_missing_secret_is_named_and_its_arrival_starts_the_build() {
    let namespace = Namespace::new("secrets").await;
    let (host, (user, password)) = (cluster().registry_with_password_host(), cluster().registry_credentials());
    let output = json!({"image": format!("{host}/{}:v1", namespace.repository("web"))});
    let dockerfile = "FROM BASE\nRUN --mount=type=secret,id=token test \"$(cat /run/secrets/token)\" = hunter22\n";
    let token = json!([{"id": "token", "secretKeyRef": {"name": "token", "key": "value"}}]);
    namespace.build_with(
        "registry",
        "FROM BASE\nCOPY file /\n",
        &json!({
            "registrySecretRefs": [{"name": "registry-auth"}], "output": output,
        }),
    );
    namespace.build_with("run", dockerfile, &json!({"secrets": token}));
    check(&namespace, "registry", Reason::SecretNotFound, &["registry-auth"]).await;
    check(&namespace, "run", Reason::SecretNotFound, &["token"]).await;

    let arrival = Instant::now();
    create_registry_secret(&namespace, "registry-auth", host, &user, &password);
    let secret = ["create", "secret", "generic", "token", "--from-literal=value=hunter22"];
    cluster().kubectl_ok(&[&["--namespace", &namespace.name], &secret[..]].concat());
    let built = namespace.until_ready_is("registry", "True", Reason::Succeeded).await;
    let digest = cluster().registry_with_password().digest(&namespace.repository("web"), "v1");
    assert_eq!(built.status.unwrap().digest, digest);
    namespace.until_built("run").await;
    assert!(arrival.elapsed() < START_DEADLINE, "{:?} from the Secrets' arrival to the images", arrival.elapsed());
    for name in ["registry", "run"] {
        let last = namespace.until(name, "it has a build", |build| build.status.clone()?.last_build).await;
        assert_eq!((last.number, last.attempt), (Some(1), Some(1)), "the Pod that waited started by itself");
    }
}

#[tokio::test]
async fn registries_that_refuse_or_do_not_answer_are_named() {
    let namespace = Namespace::new("registries").await;
    let host = cluster().registry_with_password_host();
    create_registry_secret(&namespace, "wrong", host, "karve", "not-the-password");
    let output = |host: &str, name: &str| json!({"image": format!("{host}/{}:v1", namespace.repository(name))});
    namespace.build_with(
        "password",
        "FROM BASE\nCOPY file /\n",
        &json!({
            "registrySecretRefs": [{"name": "wrong"}], "output": output(host, "password"),
        }),
    );
    let down = closed_port();
    namespace.build_with(
        "down",
        "FROM BASE\nCOPY file /\n",
        &json!({
            "output": output(&down, "down"), "registries": [{"host": down, "plainHTTP": true}],
        }),
    );
    check(&namespace, "password", Reason::Unauthorized, &[host, "karve.dev/requestedAt"]).await;
    assert_eq!(cluster().registry_with_password().tags(&namespace.repository("password")), Vec::<String>::new());
    let failing = namespace.until_ready_is("down", "False", Reason::RegistryUnavailable).await;
    check_words(&failing, "Reconciling", Reason::RegistryUnavailable, &[&down, "tried again at"]);
    namespace.until_event("down", Reason::RegistryUnavailable).await;
    // It is tried again without anybody's doing.
    namespace
        .until("down", "a second attempt", |build| (build.status.clone()?.last_build?.attempt? > 1).then_some(()))
        .await;
}

#[tokio::test]
async fn a_context_that_is_larger_than_its_volume_is_refused() {
    let namespace = Namespace::new("large").await;
    let directory = TempDir::new().unwrap();
    File::create(directory.path().join("large")).unwrap().set_len(1100 << 20).unwrap();
    crate::samples::provide_volume(&namespace, directory.path());
    let context = json!({"context": {"persistentVolumeClaim": {"claimName": "sources"}}});
    namespace.build_with("web", "", &context);
    check(&namespace, "web", Reason::VolumeFull, &["executor.volumeSizeGiB"]).await;
    cluster().kubectl_ok(&["delete", "persistentvolume", &namespace.name, "--wait=false"]);
}

#[tokio::test]
async fn two_contexts_are_refused_by_the_api_server() {
    let namespace = Namespace::new("contexts").await;
    let object = json!({
        "apiVersion": "karve.dev/v1alpha1", "kind": "ImageBuild", "metadata": {"name": "web"},
        "spec": {
            "context": {"configMap": {"name": "files"}, "git": {"url": "https://git.example/x.git"}},
            "output": {"image": "registry.example/web"},
        },
    });
    let refusal = create(&namespace, &object);
    assert!(refusal.contains("set exactly one of git, inline, configMap and persistentVolumeClaim"), "{refusal}");
}

#[tokio::test]
async fn an_object_that_cannot_be_read_is_told_so_and_others_build() {
    let namespace = Namespace::new("readable").await;
    let other = Namespace::new("unreadable").await;
    // As another version of the definition would: it admits what this operator has no type for.
    let definition = LooserDefinition::put_in_force();
    let object = json!({
        "apiVersion": "karve.dev/v1alpha1", "kind": "ImageBuild", "metadata": {"name": "web"},
        "spec": {
            "context": {"inline": {"files": {"Dockerfile": "FROM scratch"}}}, "retries": {"of": "another version"},
            "output": {"image": "registry.example/web"},
        },
    });
    karve_tests::eventually(DEADLINE, "the looser definition is in force", || {
        create(&other, &object).is_empty().then_some(())
    });
    let reason = "{.status.conditions[?(@.type==\"Stalled\")].reason}";
    cluster().wait_for(DEADLINE, &other.name, "imagebuild/web", reason, "InvalidSpec");
    other.until_event("web", Reason::InvalidSpec).await;
    let message = "--output=jsonpath={.status.conditions[?(@.type==\"Stalled\")].message}";
    let message = cluster().kubectl_ok(&["--namespace", &other.name, "get", "imagebuild/web", message]);
    assert!(message.contains("spec.retries: "), "{message}");
    namespace.build("before", "FROM BASE\nCOPY file /\n");
    namespace.until_built("before").await;
    kill_operator();
    namespace.build("after", "FROM BASE\nCOPY file /\n");
    namespace.until_built("after").await;
    cluster().kubectl_ok(&["--namespace", &other.name, "delete", "imagebuild", "web"]);
    drop(definition);
}

/// A definition of `ImageBuild` that admits anything as `retries`; the true one is back when this value is dropped.
struct LooserDefinition(Value);

impl LooserDefinition {
    const NAME: &str = "customresourcedefinition/imagebuilds.karve.dev";
    const FIELD: &str = "{.spec.versions[0].schema.openAPIV3Schema.properties.spec.properties.retries}";
    const POINTER: &str = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/retries";

    fn put_in_force() -> Self {
        let output = format!("--output=jsonpath={}", Self::FIELD);
        let before = serde_json::from_str(&cluster().kubectl_ok(&["get", Self::NAME, &output])).unwrap();
        Self::replace(&json!({"description": "anything", "x-kubernetes-preserve-unknown-fields": true}));
        Self(before)
    }

    fn replace(schema: &Value) {
        let patch = json!([{"op": "replace", "path": Self::POINTER, "value": schema}]).to_string();
        cluster().kubectl(&["patch", Self::NAME, "--type=json", "--patch", &patch]);
    }
}

impl Drop for LooserDefinition {
    fn drop(&mut self) {
        Self::replace(&self.0);
    }
}

/// Creates an object, and returns the words of the refusal, if there is one.
fn create(namespace: &Namespace, object: &Value) -> String {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), object.to_string()).unwrap();
    let path = file.path().to_str().unwrap();
    let output = cluster().kubectl(&["--namespace", &namespace.name, "create", "--filename", path]);
    String::from_utf8_lossy(&output.stderr).into_owned()
}
