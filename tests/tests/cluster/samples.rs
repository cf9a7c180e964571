//! The samples of `config/samples`, as somebody would apply them, and a workload that runs one by its digest.

use std::{fs, path::Path};

use karve_tests::{cluster::HOST_ADDRESS, git_server::GitServer};
use tempfile::TempDir;

use crate::{
    karve::cluster,
    namespace::{DEADLINE, Namespace},
};

const DOCKERFILE: &str = "ARG BASE\nFROM ${BASE}\nCOPY . /www\nRUN grep -q . /www/index.html\n";

fn sample(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/samples").join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Makes the volume `sources` out of a directory of this machine, whose files the node shares.
pub(crate) fn provide_volume(namespace: &Namespace, directory: &Path) {
    let (name, directory) = (&namespace.name, directory.display());
    namespace.apply(&format!(
        r#"
apiVersion: v1
kind: PersistentVolume
metadata: {{name: {name}}}
spec:
  capacity: {{storage: 1Gi}}
  accessModes: [ReadWriteOnce]
  storageClassName: ""
  hostPath: {{path: "{directory}"}}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {{name: sources}}
spec:
  accessModes: [ReadWriteOnce]
  storageClassName: ""
  volumeName: {name}
  resources: {{requests: {{storage: 1Gi}}}}
"#
    ));
}

#[tokio::test]
async fn the_samples_are_built_and_a_deployment_runs_one_by_digest() {
    let namespace = Namespace::new("samples").await;
    let server = GitServer::start_on(HOST_ADDRESS.into(), None);
    let shop = server.create("shop");
    let commit = shop.commit(&[("web/Dockerfile", DOCKERFILE), ("web/index.html", "from git\n"), ("README", "")]);
    let directory = TempDir::new().unwrap();
    fs::create_dir(directory.path().join("web")).unwrap();
    fs::write(directory.path().join("web/Dockerfile"), DOCKERFILE).unwrap();
    fs::write(directory.path().join("web/index.html"), "from a volume\n").unwrap();
    provide_volume(&namespace, directory.path());

    for name in ["inline.yaml", "configmap.yaml", "git.yaml", "persistentvolumeclaim.yaml"] {
        namespace.apply(&sample(name).replace("http://git.example/shop.git", shop.url()));
    }
    let inline = namespace.until_built("inline").await;
    assert_eq!(inline.text("www/index.html"), "HELLO FROM AN INLINE CONTEXT\n");

    let host = cluster().registry_host();
    let placeholder = format!("samples/inline@sha256:{}", "0".repeat(64));
    let deployment = sample("deployment.yaml");
    assert!(deployment.contains(&placeholder), "the Deployment names no image by digest");
    namespace.apply(&deployment.replace(&placeholder, &format!("samples/inline@{}", inline.digest)));

    let config_map = namespace.until_built("configmap").await;
    assert_eq!(cluster().registry().digest("samples/configmap", "latest"), Some(config_map.digest.clone()));
    assert_eq!(config_map.paths(1), ["app", "app/Dockerfile", "app/app.conf", "app/run.sh"]);

    let git = namespace.until_built("git").await;
    assert_eq!(git.text("www/index.html"), "from git\n");
    let revision = namespace.until("git", "it has a revision", |build| build.status.clone()?.source?.revision).await;
    assert_eq!(revision, format!("main@sha1:{commit}"));

    let volume = namespace.until_built("persistentvolumeclaim").await;
    assert_eq!(volume.text("www/index.html"), "from a volume\n");
    let isolation =
        namespace.until("persistentvolumeclaim", "it has an isolation", |build| build.status.clone()?.isolation);
    assert_eq!(isolation.await, "userns");

    let available = "{.status.conditions[?(@.type==\"Available\")].status}";
    cluster().wait_for(DEADLINE, &namespace.name, "deployment/web", available, "True");
    let columns = cluster().kubectl_ok(&["--namespace", &namespace.name, "get", "imagebuild", "inline"]);
    for word in ["READY", "REASON", "IMAGE", "AGE", "True", "Succeeded", &format!("{host}/samples/inline@sha256:")] {
        assert!(columns.contains(word), "{word} is not in:\n{columns}");
    }
    cluster().kubectl_ok(&["delete", "persistentvolume", &namespace.name, "--wait=false"]);
}

#[tokio::test]
async fn the_definition_explains_itself() {
    let words = cluster().kubectl_ok(&["explain", "imagebuild.spec.context"]);
    for word in ["configMap", "git", "inline", "persistentVolumeClaim", "subPath", "Exactly one source"] {
        assert!(words.contains(word), "{word} is not in:\n{words}");
    }
}
