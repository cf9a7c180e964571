//! The whole node: a Pod runs from each of its registries.

use std::{process::Command, time::Duration};

use karve_tests::cluster::Cluster;

const DEADLINE: Duration = Duration::from_mins(1);

const PODS: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: open}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{name: main, image: "REGISTRY/busybox:1", command: [sleep, "1000"]}]
---
apiVersion: v1
kind: Pod
metadata: {name: with-password}
spec:
  hostUsers: false
  terminationGracePeriodSeconds: 0
  imagePullSecrets: [{name: registry}]
  containers: [{name: main, image: "REGISTRY_WITH_PASSWORD/busybox:1", command: [sleep, "1000"]}]
"#;

#[test]
fn pods_run_from_both_registries() {
    let cluster = Cluster::up();
    let (open, with_password) = (cluster.registry_host(), cluster.registry_with_password_host());
    let (user, password) = cluster.registry_credentials();
    let mut copy = Command::new("skopeo");
    copy.args(["--insecure-policy", "copy", "--quiet", "--src-tls-verify=false", "--dest-tls-verify=false"]);
    copy.args(["--dest-creds", &format!("{user}:{password}")]);
    copy.args([format!("docker://{open}/busybox:1"), format!("docker://{with_password}/busybox:1")]);
    assert!(copy.status().expect("skopeo is installed").success());
    let digest = cluster.registry().digest("busybox", "1");
    assert!(digest.is_some());
    assert_eq!(cluster.registry_with_password().digest("busybox", "1"), digest);

    // A node that was up before may have the namespace of an earlier run, not yet deleted.
    let namespace = format!("harness-{}", std::process::id());
    cluster.kubectl_ok(&["create", "namespace", &namespace]);
    cluster.wait_for(DEADLINE, &namespace, "serviceaccount/default", "{.metadata.name}", "default");
    let server = format!("--docker-server={with_password}");
    let (user, password) = (format!("--docker-username={user}"), format!("--docker-password={password}"));
    let secret = ["create", "secret", "docker-registry", "registry", &server, &user, &password];
    cluster.kubectl_ok(&[&["--namespace", &namespace], secret.as_slice()].concat());
    cluster.apply(&namespace, &PODS.replace("REGISTRY_WITH_PASSWORD", with_password).replace("REGISTRY", open));
    for pod in ["pod/open", "pod/with-password"] {
        cluster.wait_for(DEADLINE, &namespace, pod, "{.status.phase}", "Running");
    }
    cluster.kubectl_ok(&["delete", "namespace", &namespace, "--wait=false"]);
    cluster.helm(&["list", "--all-namespaces"]);
}
