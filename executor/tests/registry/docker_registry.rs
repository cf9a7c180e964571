//! Against Debian's `docker-registry`, on a loopback port of its own, with and without a password.

use std::{
    fs,
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    thread,
};

use karve::{
    image::{
        manifest::{Descriptor, OCI_CONFIG, OCI_INDEX, OCI_MANIFEST},
        reference::Reference,
    },
    registry::{Blob, ErrorKind, ImageSource, Pushed, Registry, RegistryError, credentials::Credentials},
    secret::Secret,
};
use tempfile::TempDir;

use crate::{config, digest, holds, image, index, layer, noise, options, reference, repository};

/// `alice` with the password `wonderland`, bcrypt with the lowest cost.
const HTPASSWD: &str = "alice:$2y$04$abcdefghijklmnopqrstuujZkTwHUiJ9XdZPwKfcfDo7dMp5DjlTu\n";

/// A registry that ends with the test.
struct DockerRegistry {
    process: Child,
    host: String,
    _directory: TempDir,
}

impl Drop for DockerRegistry {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

impl DockerRegistry {
    fn start(password: bool) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().display().to_string();
        let mut config = format!(
            "version: 0.1\nlog: {{level: info, formatter: json}}\nstorage: {{filesystem: {{rootdirectory: {root}/data}}}}\n\
             http: {{addr: \"127.0.0.1:0\", secret: test}}\n"
        );
        if password {
            fs::write(format!("{root}/htpasswd"), HTPASSWD).unwrap();
            config.extend(["auth: {htpasswd: {realm: test, path: ", &root, "/htpasswd}}\n"]);
        }
        fs::write(format!("{root}/config.yml"), config).unwrap();
        let mut process = Command::new("docker-registry")
            .args(["serve", &format!("{root}/config.yml")])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("docker-registry (Debian's package of that name) is needed: {error}"));
        let mut log = BufReader::new(process.stderr.take().unwrap()).lines();
        let announced = log.by_ref().map(Result::unwrap).find_map(|line| {
            let (_, rest) = line.split_once("listening on ")?;
            Some(rest.chars().take_while(|character| "0123456789.:".contains(*character)).collect::<String>())
        });
        thread::spawn(move || log.count());
        Self { process, host: announced.expect("the registry listens"), _directory: directory }
    }

    fn client(&self) -> Registry {
        Registry::new(options(&self.host)).unwrap()
    }
}

async fn push_image(registry: &Registry, target: &Reference, architecture: &str, layer_bytes: &[u8]) -> Vec<u8> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("layer");
    fs::write(&path, layer_bytes).unwrap();
    let layer = layer(layer_bytes);
    let blob = Blob { digest: &layer.digest, size: layer.size, path: &path };
    registry.push_blob(target.repository(), &blob, &[]).await.unwrap();
    let (config, manifest) = image(architecture, &[layer]);
    registry.push_bytes(target.repository(), &config).await.unwrap();
    let pushed = registry.push_manifest(target, &manifest, OCI_MANIFEST).await.unwrap();
    assert_eq!(pushed, digest(&manifest));
    manifest
}

#[tokio::test]
async fn what_is_pushed_is_pulled_unchanged() {
    let server = DockerRegistry::start(false);
    let registry = server.client();
    let target = reference(&format!("{}/team/app:v1", server.host));
    let layer_bytes = noise(3 << 20, 7);
    let manifest = push_image(&registry, &target, "amd64", &layer_bytes).await;

    let base = registry.resolve(&target, &"linux/amd64".parse().unwrap()).await.unwrap();
    assert_eq!((base.digest.clone(), base.named_digest.clone()), (digest(&manifest), digest(&manifest)));
    assert_eq!(base.config.config.env, ["A=b"]);
    assert_eq!(base.config_bytes, config("amd64", &base.layers));
    assert!(matches!(&base.source, ImageSource::Registry(reference) if *reference == target));

    let directory = tempfile::tempdir().unwrap();
    base.source.fetch_blob(&registry, &base.layers[0], &directory.path().join("layer")).await.unwrap();
    assert!(fs::read(directory.path().join("layer")).unwrap() == layer_bytes);
    holds(directory.path(), &["layer"]);

    let head = registry.head_manifest(&target).await.unwrap();
    assert_eq!(head, Some(Descriptor::of(OCI_MANIFEST, &manifest)));
    let by_digest = target.pinned(digest(&manifest));
    assert_eq!(registry.resolve(&by_digest, &"linux/amd64".parse().unwrap()).await.unwrap().digest, base.digest);
}

#[tokio::test]
async fn the_empty_blob_travels_too() {
    let server = DockerRegistry::start(false);
    let (registry, target) = (server.client(), repository(&server.host, "empty"));
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("blob");
    fs::write(&path, b"").unwrap();
    let empty = layer(b"");
    let blob = Blob { digest: &empty.digest, size: 0, path: &path };
    assert_eq!(registry.push_blob(&target, &blob, &[]).await.unwrap(), Pushed::Uploaded);
    registry.fetch_blob(&target, &empty, &path).await.unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"");
}

#[tokio::test]
async fn an_index_leads_to_the_platforms_image_or_names_those_that_exist() {
    let server = DockerRegistry::start(false);
    let registry = server.client();
    let [tag_amd, tag_arm, tag_all] =
        ["amd", "arm", "all"].map(|tag| reference(&format!("{}/multi:{tag}", server.host)));
    let amd = push_image(&registry, &tag_amd, "amd64", b"amd").await;
    let arm = push_image(&registry, &tag_arm, "arm64", b"arm").await;
    let all = index(&[("linux/amd64", &amd), ("linux/arm64", &arm)]);
    registry.push_manifest(&tag_all, &all, OCI_INDEX).await.unwrap();

    let base = registry.resolve(&tag_all, &"linux/arm64/v8".parse().unwrap()).await.unwrap();
    assert_eq!((base.named_digest, base.digest), (digest(&all), digest(&arm)));
    assert_eq!(base.config.architecture, "arm64");
    let error = registry.resolve(&tag_all, &"linux/s390x".parse().unwrap()).await.unwrap_err();
    let expected = format!("`{tag_all}` has no image for linux/s390x: it has linux/amd64, linux/arm64");
    assert_eq!((error.to_string(), error.kind()), (expected, ErrorKind::NotFound));
}

#[tokio::test]
async fn blobs_are_sent_once_and_mounted_or_copied_after_that() {
    let (server, other) = (DockerRegistry::start(false), DockerRegistry::start(false));
    let mut both = options(&server.host);
    both.hosts.extend(options(&other.host).hosts);
    let registry = Registry::new(both).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("blob");
    let bytes = noise(100_000, 3);
    fs::write(&path, &bytes).unwrap();
    let descriptor = layer(&bytes);
    let blob = Blob { digest: &descriptor.digest, size: descriptor.size, path: &path };
    let [first, second, third] = ["first", "second", "third"].map(|name| repository(&server.host, name));
    assert_eq!(registry.push_blob(&first, &blob, &[]).await.unwrap(), Pushed::Uploaded);
    assert_eq!(registry.push_blob(&first, &blob, &[]).await.unwrap(), Pushed::Existed);
    assert_eq!(registry.push_blob(&second, &blob, &[third.clone(), first.clone()]).await.unwrap(), Pushed::Mounted);
    assert!(registry.mount_blob(&second, &third, &descriptor.digest).await.unwrap());
    assert!(!registry.mount_blob(&second, &third, &digest(b"nowhere")).await.unwrap());

    let away = repository(&other.host, "away");
    assert_eq!(registry.copy_blob(&first, &away, &descriptor, directory.path()).await.unwrap(), Pushed::Uploaded);
    assert_eq!(registry.copy_blob(&first, &away, &descriptor, directory.path()).await.unwrap(), Pushed::Existed);
    assert!(registry.blob_exists(&away, &descriptor.digest).await.unwrap());
    holds(directory.path(), &["blob"]);
}

#[tokio::test]
async fn what_does_not_exist_is_not_found_and_leaves_no_file() {
    let server = DockerRegistry::start(false);
    let registry = server.client();
    let missing = reference(&format!("{}/no/such:tag", server.host));
    let error = registry.resolve(&missing, &"linux/amd64".parse().unwrap()).await.unwrap_err();
    assert_eq!(error.to_string(), format!("`{missing}` does not exist (it says: manifest unknown)"));
    assert_eq!(registry.head_manifest(&missing).await.unwrap(), None);
    let directory = tempfile::tempdir().unwrap();
    let absent = Descriptor::of(OCI_CONFIG, b"absent");
    let fetched = registry.fetch_blob(missing.repository(), &absent, &directory.path().join("blob")).await;
    assert_eq!(fetched.unwrap_err().kind(), ErrorKind::NotFound);
    holds(directory.path(), &[]);
}

#[tokio::test]
async fn a_manifest_without_its_blobs_is_refused_in_the_registrys_words() {
    let server = DockerRegistry::start(false);
    let (_, manifest) = image("amd64", &[layer(b"never pushed")]);
    let target = reference(&format!("{}/half:v1", server.host));
    let error = server.client().push_manifest(&target, &manifest, OCI_MANIFEST).await.unwrap_err();
    assert!(
        matches!(&error, RegistryError::Refused { status: 400, detail, .. } if detail.contains("blob unknown")),
        "{error}"
    );
}

#[tokio::test]
async fn passwords_are_found_for_the_repository_and_refusals_say_whose_they_were() {
    let server = DockerRegistry::start(true);
    let target = reference(&format!("{}/team/app:v1", server.host));
    let login =
        |key: &str, password: &str| Credentials::default().with_basic(key, "alice", Secret::new(password.to_owned()));
    let team = format!("{}/team", server.host);
    let registry = Registry::new(karve::registry::RegistryOptions {
        credentials: login(&server.host, "wrong"),
        push_credentials: Some((target.repository().clone(), login(&team, "wonderland"))),
        ..options(&server.host)
    })
    .unwrap();
    push_image(&registry, &target, "amd64", b"layer").await;

    let elsewhere = repository(&server.host, "elsewhere");
    let error = registry.push_bytes(&elsewhere, b"x").await.unwrap_err();
    let expected = format!(
        "the registry `{host}` denies `pull` on `elsewhere`: the credentials of `{host}` were refused",
        host = server.host
    );
    assert_eq!((error.to_string(), error.kind()), (expected, ErrorKind::Unauthorized));

    let anonymous = server.client().resolve(&target, &"linux/amd64".parse().unwrap()).await.unwrap_err();
    assert!(anonymous.to_string().contains("no credentials were given for it (it says: "), "{anonymous}");
}

#[tokio::test]
async fn tls_to_a_plain_registry_names_the_flag() {
    let server = DockerRegistry::start(false);
    let registry = Registry::new(karve::registry::RegistryOptions::default()).unwrap();
    let target = reference(&format!("{}/app:v1", server.host));
    let error = registry.head_manifest(&target).await.unwrap_err();
    assert!(matches!(&error, RegistryError::TlsRequired { registry } if *registry == server.host), "{error:?}");
}
