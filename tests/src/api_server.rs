//! A real Kubernetes API server with its etcd, on loopback, without root: nothing in, a kubeconfig and clients out.
//!
//! There are no controllers and there is no kubelet: a Pod stays as the test made it, an owner's end deletes nothing, and
//! no service account exists until a test makes it. RBAC is on; [`ApiServer::kubeconfig_as`] is for others than the admin.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use kube::{Client, Config, config::KubeConfigOptions, config::Kubeconfig};
use tempfile::TempDir;

use crate::{process::Process, scripts};

/// It takes 3 seconds on an idle machine.
const START_DEADLINE: Duration = Duration::from_secs(90);

/// Between choosing a free port and its use by the server, another process may take it.
const ATTEMPTS: usize = 3;

/// The password of the admin, for a server that nobody else can reach for longer than a test.
const TOKEN: &str = "admin-of-a-test";

/// An API server; it is gone when this value is dropped.
#[derive(Debug)]
pub struct ApiServer {
    server: Process,
    _etcd: Process,
    url: String,
    directory: TempDir,
}

impl ApiServer {
    /// Starts an API server that has nothing but what it makes for itself; the first call on a machine builds it.
    pub fn start() -> Self {
        let tools = scripts::run("build.sh", &[]).expect("build.sh cannot build the API server: see above");
        let tools = Path::new(&tools);
        (1..ATTEMPTS)
            .find_map(|_| Self::try_start(tools))
            .or_else(|| Self::try_start(tools))
            .unwrap_or_else(|| panic!("no API server in {ATTEMPTS} attempts: its ports are taken, or it ends at once"))
    }

    fn try_start(tools: &Path) -> Option<Self> {
        let directory = TempDir::with_prefix("karve-api-server-").expect("there is room for an API server");
        let path = directory.path();
        let [client_port, peer_port, port] = free_ports();
        let etcd = start_etcd(tools, path, client_port, peer_port);
        let server = start_server(tools, path, client_port, port);
        let url = format!("https://127.0.0.1:{port}");
        let mut this = Self { server, _etcd: etcd, url, directory };
        this.write_kubeconfig("admin", None);
        let kubectl = tools.join("kubectl");
        let ready = this.ready(&kubectl);
        ready.then_some(this)
    }

    /// Waits until the server says that it is ready; tells whether it lived so long.
    fn ready(&mut self, kubectl: &Path) -> bool {
        let kubeconfig = self.kubeconfig();
        crate::eventually(START_DEADLINE, "the API server is ready", || {
            let mut command = Command::new(kubectl);
            command.arg("--kubeconfig").arg(&kubeconfig).args(["get", "--raw", "/readyz"]);
            let output = command.output().expect("build.sh built kubectl");
            if output.stdout == b"ok" { Some(true) } else { self.server.has_ended().then_some(false) }
        })
    }

    /// Returns the kubeconfig of the admin, who may do everything.
    pub fn kubeconfig(&self) -> PathBuf {
        self.directory.path().join("admin.yaml")
    }

    /// Returns a kubeconfig of `user`, for example `system:serviceaccount:NAMESPACE:NAME`, who may do what RBAC says.
    pub fn kubeconfig_as(&self, user: &str) -> PathBuf {
        self.write_kubeconfig(&user.replace(':', "-"), Some(user))
    }

    /// Returns a client for the admin. It belongs to the runtime that it was made in: make one in each test.
    pub async fn client(&self) -> Client {
        client(&self.kubeconfig()).await
    }

    /// Returns a client for `user`, who may do what RBAC says.
    pub async fn client_as(&self, user: &str) -> Client {
        client(&self.kubeconfig_as(user)).await
    }

    fn write_kubeconfig(&self, name: &str, user: Option<&str>) -> PathBuf {
        let path = self.directory.path();
        let authority = path.join("certificates/apiserver.crt");
        let mut identity = serde_json::json!({"token": TOKEN});
        if let Some(user) = user {
            identity["as"] = user.into();
        }
        let configuration = serde_json::json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": {"server": self.url, "certificate-authority": authority}}],
            "users": [{"name": "test", "user": identity}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
            "current-context": "test",
        });
        let file = path.join(format!("{name}.yaml"));
        fs::write(&file, configuration.to_string()).expect("the directory is ours");
        file
    }
}

/// Returns a client from a kubeconfig file.
pub(crate) async fn client(kubeconfig: &Path) -> Client {
    let kubeconfig = Kubeconfig::read_from(kubeconfig).expect("the harness wrote this kubeconfig");
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await;
    Client::try_from(config.expect("the harness wrote this kubeconfig")).expect("a kubeconfig makes a client")
}

fn start_etcd(tools: &Path, directory: &Path, client_port: u16, peer_port: u16) -> Process {
    let client = format!("http://127.0.0.1:{client_port}");
    let peer = format!("http://127.0.0.1:{peer_port}");
    let data = directory.join("etcd");
    let arguments = [
        format!("--data-dir={}", data.display()),
        format!("--listen-client-urls={client}"),
        format!("--advertise-client-urls={client}"),
        format!("--listen-peer-urls={peer}"),
        format!("--initial-advertise-peer-urls={peer}"),
        format!("--initial-cluster=default={peer}"),
        "--unsafe-no-fsync".to_owned(),
        "--log-level=warn".to_owned(),
    ];
    Process::start(&directory.join("etcd.log"), tools.join("etcd"), arguments)
}

fn start_server(tools: &Path, directory: &Path, etcd_port: u16, port: u16) -> Process {
    let key = directory.join("service-account.key");
    let mut openssl = Command::new("openssl");
    let made =
        openssl.args(["genrsa", "-out"]).arg(&key).arg("2048").output().expect("the package `openssl` is installed");
    assert!(made.status.success(), "openssl makes no key: {}", String::from_utf8_lossy(&made.stderr));
    let tokens = directory.join("tokens.csv");
    fs::write(&tokens, format!("{TOKEN},admin,admin,system:masters\n")).expect("the directory is ours");
    let certificates = directory.join("certificates");
    let arguments = [
        format!("--etcd-servers=http://127.0.0.1:{etcd_port}"),
        "--bind-address=127.0.0.1".to_owned(),
        format!("--secure-port={port}"),
        // It signs a certificate for its address by itself.
        format!("--cert-dir={}", certificates.display()),
        format!("--token-auth-file={}", tokens.display()),
        "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
        format!("--service-account-signing-key-file={}", key.display()),
        format!("--service-account-key-file={}", key.display()),
        "--service-cluster-ip-range=10.96.0.0/16".to_owned(),
        "--authorization-mode=RBAC".to_owned(),
        // Nobody makes the account `default` of a namespace here, without which it would refuse Pods.
        "--disable-admission-plugins=ServiceAccount".to_owned(),
        "--allow-privileged=true".to_owned(),
    ];
    Process::start(&directory.join("api-server.log"), tools.join("kube-apiserver"), arguments)
}

/// Returns ports of loopback that nobody listened on a moment ago, all different.
fn free_ports<const COUNT: usize>() -> [u16; COUNT] {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let listeners = [(); COUNT].map(|()| TcpListener::bind(address).expect("loopback has free ports"));
    listeners.map(|listener| listener.local_addr().expect("a bound socket has an address").port())
}
