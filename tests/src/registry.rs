//! Registries: Debian's `docker-registry` on a loopback port, with or without a password, and a client to look into any.

use std::{fs, path::PathBuf, process::Command, time::Duration};

use tempfile::TempDir;

use crate::{
    http::{self, Credentials, Response},
    process::Process,
};

/// All kinds of manifest: a registry that may not answer with the stored one converts it, which changes the digest.
const MANIFESTS: &str = "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, \
    application/vnd.docker.distribution.manifest.v2+json, application/vnd.docker.distribution.manifest.list.v2+json";

/// A registry in a temporary directory; it is gone when this value is dropped.
#[derive(Debug)]
pub struct Registry {
    process: Process,
    client: RegistryClient,
    directory: TempDir,
}

impl Registry {
    /// Starts a registry that asks for no password.
    pub fn start() -> Self {
        Self::serve(Self::directory(), None, false)
    }

    /// Starts a registry that asks everybody for this user and password.
    pub fn start_with_password(user: &str, password: &str) -> Self {
        Self::serve(Self::directory(), Some((user.to_owned(), password.to_owned())), false)
    }

    /// Starts the registry anew, on another port, so that it refuses everything that is written.
    #[must_use]
    pub fn read_only(self) -> Self {
        let Self { process, client, directory } = self;
        drop(process);
        Self::serve(directory, client.credentials, true)
    }

    fn directory() -> TempDir {
        TempDir::with_prefix("karve-registry-").expect("there is room for a registry")
    }

    fn serve(directory: TempDir, credentials: Option<Credentials>, is_read_only: bool) -> Self {
        let path = directory.path();
        // JSON is YAML too.
        let mut configuration = serde_json::json!({
            "version": 0.1,
            "storage": {
                "filesystem": {"rootdirectory": path.join("data")},
                "delete": {"enabled": true},
                "maintenance": {"readonly": {"enabled": is_read_only}},
            },
            "http": {"addr": "127.0.0.1:0"},
        });
        if let Some(credentials) = &credentials {
            fs::write(path.join("users"), password_file(credentials)).expect("the directory is ours");
            configuration["auth"] = serde_json::json!({"htpasswd": {"realm": "karve", "path": path.join("users")}});
        }
        let file = path.join("registry.yaml");
        fs::write(&file, configuration.to_string()).expect("the directory is ours");
        let arguments = ["serve".as_ref(), file.as_os_str()];
        let mut process = Process::start(&path.join("log"), "docker-registry", arguments);
        // The kernel chose the port, and the registry's log tells which.
        let host = process.ready(Duration::from_secs(30), |log| {
            let (_, rest) = log.split_once("listening on ")?;
            Some(rest.split_once('"')?.0.to_owned())
        });
        Self { process, client: RegistryClient { host, credentials }, directory }
    }

    /// Returns address and port, as they stand in a reference: `127.0.0.1:PORT`.
    pub fn host(&self) -> &str {
        &self.client.host
    }

    /// Returns a client that may see everything in this registry.
    pub fn client(&self) -> &RegistryClient {
        &self.client
    }

    /// Returns the digest of a manifest by `HEAD`, or nothing when there is none of that tag or digest.
    pub fn digest(&self, repository: &str, reference: &str) -> Option<String> {
        self.client.digest(repository, reference)
    }

    /// Returns the tags of a repository, sorted; there are none in a repository that does not exist.
    pub fn tags(&self, repository: &str) -> Vec<String> {
        self.client.tags(repository)
    }

    /// Returns the path of a blob, which may be missing: for damage.
    pub fn blob_path(&self, digest: &str) -> PathBuf {
        let (algorithm, hex) = digest.split_once(':').expect("a digest is ALGORITHM:HEX");
        let blobs = self.directory.path().join("data/docker/registry/v2/blobs");
        blobs.join(algorithm).join(&hex[..2]).join(hex).join("data")
    }

    /// Returns what the registry has logged: one line for each request among others.
    pub fn log(&self) -> String {
        self.process.log()
    }
}

/// A client of any registry that speaks plain http.
#[derive(Debug, Clone)]
pub struct RegistryClient {
    host: String,
    credentials: Option<Credentials>,
}

impl RegistryClient {
    /// Returns a client of the registry at `host`, an address with a port.
    pub fn new(host: &str, credentials: Option<Credentials>) -> Self {
        Self { host: host.to_owned(), credentials }
    }

    /// Returns the digest of a manifest by `HEAD`, or nothing when there is none of that tag or digest.
    pub fn digest(&self, repository: &str, reference: &str) -> Option<String> {
        let response = self.request("HEAD", &format!("/v2/{repository}/manifests/{reference}"))?;
        Some(response.header("docker-content-digest").expect("a registry names the digest of a manifest").to_owned())
    }

    /// Returns the bytes of a manifest, or nothing when there is none of that tag or digest.
    pub fn manifest(&self, repository: &str, reference: &str) -> Option<Vec<u8>> {
        Some(self.request("GET", &format!("/v2/{repository}/manifests/{reference}"))?.body)
    }

    /// Returns the bytes of a blob, or nothing when the repository has none of that digest.
    pub fn blob(&self, repository: &str, digest: &str) -> Option<Vec<u8>> {
        Some(self.request("GET", &format!("/v2/{repository}/blobs/{digest}"))?.body)
    }

    /// Returns the tags of a repository, sorted; there are none in a repository that does not exist.
    pub fn tags(&self, repository: &str) -> Vec<String> {
        let Some(response) = self.request("GET", &format!("/v2/{repository}/tags/list")) else {
            return Vec::new();
        };
        let list: serde_json::Value = serde_json::from_slice(&response.body).expect("a list of tags is JSON");
        let mut tags: Vec<String> =
            list["tags"].as_array().into_iter().flatten().filter_map(|tag| Some(tag.as_str()?.to_owned())).collect();
        tags.sort();
        tags
    }

    /// Returns the answer, or nothing when there is no such thing; panics at any other error.
    #[track_caller]
    fn request(&self, method: &str, path: &str) -> Option<Response> {
        let authorization = self.credentials.as_ref().map(http::basic_authorization);
        let mut fields = vec![("Accept", MANIFESTS)];
        fields.extend(authorization.as_deref().map(|value| ("Authorization", value)));
        let response = http::request(method, &self.host, path, &fields);
        match response.status {
            200 => Some(response),
            404 => None,
            status => panic!("{method} http://{}{path} answered {status}", self.host),
        }
    }
}

/// Returns the line of a user for the registry, which takes bcrypt only: libcrypt makes it, and every Debian's perl reaches that.
fn password_file((user, password): &Credentials) -> String {
    let script = r#"print "$ARGV[0]:", crypt($ARGV[1], "\$2y\$05\$abcdefghijklmnopqrstuu"), "\n""#;
    let output = Command::new("perl").args(["-e", script, user, password]).output().expect("every Debian has perl");
    String::from_utf8(output.stdout).expect("bcrypt is text")
}
