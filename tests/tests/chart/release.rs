//! A release's life on a real API server: installed, upgraded, gone, and back under another name; ImageBuilds stay.

use std::process::Output;

use karve_tests::api_server::ApiServer;

use crate::{
    BUILD,
    render::{NAMESPACE, helm, run, succeeded, tool},
};

#[test]
fn a_release_comes_and_goes_and_its_builds_stay() {
    let server = ApiServer::start();
    let kubeconfig = server.kubeconfig();
    let kubeconfig = kubeconfig.to_str().expect("a temporary directory has a plain name");
    let kubectl = |arguments: &[&str], input: &str| {
        succeeded(&run(&tool("kubectl"), [&["--kubeconfig", kubeconfig], arguments].concat(), input))
    };
    let install = |release: &str, flags: &[&str]| -> Output {
        let common = ["--kubeconfig", kubeconfig, "--install", "--namespace", NAMESPACE, "--create-namespace"];
        helm(&["upgrade", release], &[&common, flags].concat())
    };

    succeeded(&install("karve", &[]));
    kubectl(&["create", "--filename=-"], BUILD);
    succeeded(&install("karve", &["--set=replicaCount=2"]));
    succeeded(&run(&tool("helm"), ["--kubeconfig", kubeconfig, "--namespace", NAMESPACE, "uninstall", "karve"], ""));
    let left = kubectl(&["get", "deployments,roles,clusterroles,services", "--all-namespaces", "--output=name"], "");
    assert!(!left.contains("karve"), "this is left:\n{left}");

    let refusal = install("karve-two", &[]);
    let message = String::from_utf8_lossy(&refusal.stderr);
    assert!(message.contains("imagebuilds.karve.dev"), "the kept definition is another release's: {message}");
    succeeded(&install("karve-two", &["--take-ownership"]));
    assert_eq!(kubectl(&["get", "imagebuilds", "--output=name"], ""), "imagebuild.karve.dev/web\n");
}
