//! The Kubernetes node of `tests/cluster` as a value: nothing in, kubectl, helm, clients and registries out.
//!
//! A node that is up already (`make cluster`) is used and left as it is. Needs root. There is one node on a machine, so
//! tests that use it run one after the other.

use std::{
    collections::BTreeMap,
    fs,
    net::Ipv4Addr,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::Duration,
};

use kube::Client;

use crate::{api_server, eventually, registry::RegistryClient, scripts};

/// Where Pods reach servers on this machine: bind a test's server to it.
pub const HOST_ADDRESS: Ipv4Addr = Ipv4Addr::new(172, 30, 0, 1);

/// A node that is up; if it was brought up here, it goes down when this value is dropped or the test program ends.
#[derive(Debug)]
pub struct Cluster {
    environment: BTreeMap<String, String>,
    _keeper: Option<Keeper>,
}

impl Cluster {
    /// Brings the node up, or uses the one that is; the first call on a machine builds Kubernetes, which takes minutes.
    pub fn up() -> Self {
        if let Some(environment) = environment() {
            return Self { environment, _keeper: None };
        }
        let keeper = Keeper::start();
        scripts::run("up.sh", &[]).expect("up.sh cannot bring a node up: see above");
        let environment = environment().expect("a node that is up has an environment");
        Self { environment, _keeper: Some(keeper) }
    }

    /// Returns the kubeconfig of the admin.
    pub fn kubeconfig(&self) -> PathBuf {
        self.value("KUBECONFIG").into()
    }

    /// Returns a client for the admin. It belongs to the runtime that it was made in: make one in each test.
    pub async fn client(&self) -> Client {
        api_server::client(&self.kubeconfig()).await
    }

    /// Returns address and port of the registry that asks for no password, the same from here, the node and Pods.
    pub fn registry_host(&self) -> &str {
        self.value("REGISTRY")
    }

    /// Returns address and port of the registry that asks for user and password.
    pub fn registry_with_password_host(&self) -> &str {
        self.value("REGISTRY_WITH_PASSWORD")
    }

    /// Returns the user and the password of that registry.
    pub fn registry_credentials(&self) -> (String, String) {
        let password = fs::read_to_string(self.value("REGISTRY_PASSWORD_FILE")).expect("up.sh wrote the password");
        (self.value("REGISTRY_USER").to_owned(), password)
    }

    /// Returns a client of the registry that asks for no password.
    pub fn registry(&self) -> RegistryClient {
        RegistryClient::new(self.registry_host(), None)
    }

    /// Returns a client of the registry that asks for a password, which knows it.
    pub fn registry_with_password(&self) -> RegistryClient {
        RegistryClient::new(self.registry_with_password_host(), Some(self.registry_credentials()))
    }

    /// Returns what the registry that asks for no password has logged: one line for each request among others.
    pub fn registry_log(&self) -> String {
        let state = Path::new(self.value("REGISTRY_PASSWORD_FILE")).parent().expect("the file is in a directory");
        let log = fs::read(state.join("log/registry.log")).expect("node.sh keeps the registry's log");
        String::from_utf8_lossy(&log).into_owned()
    }

    /// Runs kubectl as the admin and returns what came of it, whatever it was.
    pub fn kubectl(&self, arguments: &[&str]) -> Output {
        self.run("kubectl", arguments)
    }

    /// Runs kubectl as the admin and returns its standard output without the last line end; panics when it fails.
    #[track_caller]
    pub fn kubectl_ok(&self, arguments: &[&str]) -> String {
        succeed("kubectl", arguments, &self.kubectl(arguments))
    }

    /// Runs helm as the admin and returns its standard output without the last line end; panics when it fails.
    #[track_caller]
    pub fn helm(&self, arguments: &[&str]) -> String {
        succeed("helm", arguments, &self.run("helm", arguments))
    }

    /// Applies a manifest, which may hold several documents, to a namespace; panics when the API server refuses it.
    #[track_caller]
    pub fn apply(&self, namespace: &str, manifest: &str) {
        let file = tempfile::NamedTempFile::with_prefix("karve-manifest-").expect("there is room for a manifest");
        fs::write(file.path(), manifest).expect("the file is ours");
        let path = file.path().to_str().expect("a temporary file has a plain name");
        self.kubectl_ok(&["--namespace", namespace, "apply", "--filename", path]);
    }

    /// Waits until the field of an object at `path`, such as `{.status.phase}`, is `expected`.
    #[track_caller]
    pub fn wait_for(&self, deadline: Duration, namespace: &str, object: &str, path: &str, expected: &str) {
        let output = format!("--output=jsonpath={path}");
        let arguments = ["--namespace", namespace, "get", object, &output];
        eventually(deadline, &format!("{path} of {object} in {namespace} is `{expected}`"), || {
            (self.kubectl(&arguments).stdout == expected.as_bytes()).then_some(())
        });
    }

    fn run(&self, program: &str, arguments: &[&str]) -> Output {
        let mut command = Command::new(program);
        command.args(arguments).env("PATH", self.value("PATH")).env("KUBECONFIG", self.value("KUBECONFIG"));
        command.output().unwrap_or_else(|error| panic!("{program} cannot be started: {error}"))
    }

    fn value(&self, variable: &str) -> &str {
        self.environment.get(variable).unwrap_or_else(|| panic!("env.sh says nothing of {variable}"))
    }
}

/// A process that brings the node down when it is dropped, or when this program ends in whatever way.
#[derive(Debug)]
struct Keeper(Child);

impl Keeper {
    fn start() -> Self {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", r#"read -r _; exec "$1""#, "sh"]).arg(scripts::path("down.sh"));
        // In a process group of its own: an interrupt at the terminal ends the tests and must not end this.
        command.stdin(Stdio::piped()).stdout(Stdio::null()).process_group(0);
        Self(command.spawn().expect("there is a shell in /bin/sh"))
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        drop(self.0.wait());
    }
}

/// Returns the variables of a shell that works with the node, or nothing when there is no node.
fn environment() -> Option<BTreeMap<String, String>> {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", r#"variables=$("$1") && eval "$variables" && env -0"#, "sh"]).arg(scripts::path("env.sh"));
    let output = command.stderr(Stdio::null()).output().expect("there is a shell in /bin/sh");
    let variables = String::from_utf8_lossy(&output.stdout)
        .split('\0')
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    output.status.success().then_some(variables)
}

#[track_caller]
fn succeed(program: &str, arguments: &[&str], output: &Output) -> String {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {} failed: {errors}", arguments.join(" "));
    String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
}
