//! A real API server: it takes every object, admits the operator's Pod as restricted, and gives its account what it needs
//! and nothing else.

use std::{ffi::OsStr, path::Path, process::Output, time::Duration};

use karve_tests::{api_server::ApiServer, eventually, process::Process, programs};
use serde_json::{Value, json};

use crate::{
    BUILD,
    render::{NAMESPACE, arguments, chart, chart_text, kustomization, only, repository, run, succeeded, tool},
};

const ACCOUNT: &str = "system:serviceaccount:karve-system:karve-operator";

/// It takes two seconds.
const DEADLINE: Duration = Duration::from_mins(1);

#[test]
fn the_api_server_takes_the_chart_and_admits_the_operator_as_restricted() {
    let server = ApiServer::start();
    let kubeconfig = server.kubeconfig();
    let namespace = only(&kustomization("config/default"), "Namespace").to_string();
    succeeded(&kubectl(&kubeconfig, &["create", "--filename=-"], &namespace));

    let all = chart_text(&["--set=replicaCount=2"]);
    succeeded(&kubectl(&kubeconfig, &["create", "--dry-run=server", "--filename=-"], &all));

    let pod = pod_of(&chart(&[]));
    succeeded(&create_pod(&kubeconfig, &pod));
    let mut other = pod;
    other["spec"]["containers"][0]["securityContext"]["allowPrivilegeEscalation"] = true.into();
    let refusal = create_pod(&kubeconfig, &other);
    let message = String::from_utf8_lossy(&refusal.stderr);
    assert!(
        message.contains(r#"violates PodSecurity "restricted:latest""#),
        "the namespace is not restricted: {message}"
    );
}

#[test]
fn the_account_may_do_what_the_operator_does_and_nothing_else() {
    let server = ApiServer::start();
    let admin = server.kubeconfig();
    for directory in ["config/default", "config/networkpolicy"] {
        let path = repository(directory);
        let path = path.to_str().expect("the repository's path is text");
        succeeded(&kubectl(&admin, &["apply", "--server-side", "--kustomize", path], ""));
    }
    let account = server.kubeconfig_as(ACCOUNT);
    let check = |expected: &str, request: &str, namespace: &str| {
        let arguments: Vec<&str> = ["auth", "can-i"].into_iter().chain(request.split(' ')).collect();
        let answer = kubectl(&account, &[&arguments[..], &["--namespace", namespace]].concat(), "");
        let answer = String::from_utf8_lossy(&answer.stdout).trim_end().to_owned();
        assert_eq!(answer, expected, "{request} in {namespace}");
    };
    for request in [
        "watch imagebuilds.karve.dev",
        "patch imagebuilds.karve.dev --subresource=status",
        "update imagebuilds.karve.dev --subresource=finalizers",
        "create pods",
        "delete pods",
        "create configmaps",
        "list events",
        "create events.events.k8s.io",
    ] {
        check("yes", request, "shop");
    }
    for request in [
        "get secrets",
        "list secrets",
        "create imagebuilds.karve.dev",
        "patch imagebuilds.karve.dev",
        "create pods --subresource=exec",
        "patch pods",
        "update configmaps",
        "create serviceaccounts --subresource=token",
        "get leases.coordination.k8s.io",
        "create leases.coordination.k8s.io",
    ] {
        check("no", request, "shop");
    }
    check("yes", "create leases.coordination.k8s.io", NAMESPACE);
    check("yes", "update leases.coordination.k8s.io/karve-operator", NAMESPACE);
    check("no", "update leases.coordination.k8s.io/another", NAMESPACE);
    check("no", "get secrets", NAMESPACE);
}

#[test]
fn the_operator_starts_a_build_with_the_arguments_and_the_rights_that_it_is_given() {
    let server = ApiServer::start();
    let admin = server.kubeconfig();
    let directory = repository("config/default");
    let directory = directory.to_str().expect("the repository's path is text");
    succeeded(&kubectl(&admin, &["apply", "--server-side", "--kustomize", directory], ""));

    let objects = kustomization("config/default");
    let expanded: Vec<String> = arguments(&objects)
        .into_iter()
        .map(|argument| argument.replace("$(POD_NAMESPACE)", NAMESPACE).replace("$(POD_NAME)", "operator-of-a-test"))
        .map(|argument| argument.replace("0.0.0.0:8080", "127.0.0.1:0"))
        .collect();
    let log = tempfile::NamedTempFile::new().expect("there is room for a log");
    let operator = Process::start_with(log.path(), programs::operator(), expanded, |command| {
        command.env("KUBECONFIG", server.kubeconfig_as(ACCOUNT));
    });
    succeeded(&kubectl(&admin, &["create", "--filename=-"], BUILD));

    let exists = |what: &str, found: &str| {
        eventually(DEADLINE, &format!("{found} is among {what}"), || {
            let arguments: Vec<&str> = ["get", "--output=name"].into_iter().chain(what.split(' ')).collect();
            let names = succeeded(&kubectl(&admin, &arguments, ""));
            names.contains(found).then_some(())
        });
    };
    exists("lease --namespace=karve-system", "karve-operator");
    exists("pods --namespace=default --selector=karve.dev/imagebuild=web", "pod/web-1");
    exists("configmaps --namespace=default --selector=karve.dev/imagebuild=web", "configmap/web-1");
    exists("events --namespace=default", "event");
    let log = operator.log();
    assert!(!log.contains("forbidden"), "a right is missing:\n{log}");
}

/// Returns the Pod that the Deployment's controller would create.
fn pod_of(objects: &[Value]) -> Value {
    let template = &only(objects, "Deployment")["spec"]["template"];
    let metadata = json!({"name": "operator", "namespace": NAMESPACE, "labels": template["metadata"]["labels"]});
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]})
}

fn create_pod(kubeconfig: &Path, pod: &Value) -> Output {
    kubectl(kubeconfig, &["create", "--dry-run=server", "--filename=-"], &pod.to_string())
}

fn kubectl(kubeconfig: &Path, arguments: &[&str], input: &str) -> Output {
    let configuration = [OsStr::new("--kubeconfig"), kubeconfig.as_os_str()];
    run(&tool("kubectl"), configuration.into_iter().chain(arguments.iter().map(OsStr::new)), input)
}
