//! The node with Karve on it, brought up and installed by the first test that needs it; and its operator's process.

use std::{
    fs,
    net::{IpAddr, TcpListener},
    path::Path,
    process::Command,
    sync::OnceLock,
    time::Duration,
};

use karve_tests::{
    cluster::{Cluster, HOST_ADDRESS},
    eventually, programs,
};
use rustix::process::{Pid, Signal, kill_process};

/// The namespace of the release.
const SYSTEM: &str = "karve-system";

/// Scratch volumes are small here, so that a context can be too large for them.
const FLAGS: [&str; 1] = ["--set=executor.volumeSizeGiB=1"];

/// The version that the first installation has.
const VERSION: &str = "0.0.1-test";

/// Returns the node, with Karve installed.
pub(crate) fn cluster() -> &'static Cluster {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    CLUSTER.get_or_init(|| {
        let cluster = Cluster::up();
        install(VERSION);
        // From now on every Pod of the operator is checked.
        let restricted = "pod-security.kubernetes.io/enforce=restricted";
        cluster.kubectl_ok(&["label", "namespace", SYSTEM, restricted, "--overwrite"]);
        cluster
    })
}

/// Installs Karve, or upgrades it to another version of the same programs; returns when the operator is ready.
pub(crate) fn install(version: &str) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut command = Command::new(root.join("cluster/install.sh"));
    command.arg(programs::images()).arg(version).args(FLAGS);
    let output = command.output().expect("install.sh can be started");
    assert!(output.status.success(), "install.sh failed: {}", String::from_utf8_lossy(&output.stderr));
}

/// Returns the image that the operator runs.
pub(crate) fn operator_image() -> String {
    let path = "--output=jsonpath={.spec.template.spec.containers[0].image}";
    cluster().kubectl_ok(&["--namespace", SYSTEM, "get", "deployment/karve-operator", path])
}

/// Kills the operator's process as a crash would; the kubelet starts its container again, and its Lease runs out.
pub(crate) fn crash_operator() -> Pid {
    let process = eventually(Duration::from_mins(1), "the operator runs on the node", operator_process);
    kill_process(process, Signal::KILL).expect("the process can be killed");
    process
}

/// Does the same, and removes what delays its successor: the kubelet's back-off and the Lease's remaining seconds.
pub(crate) fn kill_operator() {
    let process = crash_operator();
    let namespace = ["--namespace", SYSTEM];
    let pods = ["delete", "pod", "--selector=app.kubernetes.io/component=operator", "--grace-period=0", "--force"];
    cluster().kubectl_ok(&[&namespace[..], &pods].concat());
    cluster().kubectl_ok(&[&namespace[..], &["delete", "lease", "karve-operator", "--ignore-not-found"]].concat());
    eventually(Duration::from_mins(2), "another operator runs", || operator_process().filter(|next| *next != process));
}

/// Finds the operator's process: this machine sees the node's processes, and the node's control groups tell them apart.
fn operator_process() -> Option<Pid> {
    let processes = fs::read_dir("/proc").ok()?.flatten();
    let mut found = processes.filter_map(|entry| {
        let number: i32 = entry.file_name().to_str()?.parse().ok()?;
        let is_operator = fs::read_to_string(entry.path().join("comm")).ok()?.trim_end() == "karve-operator";
        let is_on_node = fs::read_to_string(entry.path().join("cgroup")).ok()?.contains("karve-node");
        (is_operator && is_on_node).then_some(number)
    });
    Pid::from_raw(found.next()?)
}

/// Returns an address of this machine, as Pods see it, where nobody listens.
pub(crate) fn closed_port() -> String {
    let listener = TcpListener::bind((IpAddr::from(HOST_ADDRESS), 0)).expect("the node's network is there");
    listener.local_addr().expect("a bound socket has an address").to_string()
}
