//! Registries, with skopeo as the independent client.

use std::process::Command;

use karve_tests::{http, images, registry::Registry};

/// Copies busybox to a registry as `busybox:1`; tells whether it may.
fn push_busybox(registry: &Registry, credentials: &[&str]) -> bool {
    let source = format!("oci:{}:{}", images::busybox().display(), images::TAG);
    let destination = format!("docker://{}/busybox:1", registry.host());
    let mut command = Command::new("skopeo");
    command.args(["copy", "--quiet", "--dest-tls-verify=false", "--insecure-policy"]).args(credentials);
    command.args([source, destination]).output().expect("skopeo is installed").status.success()
}

#[test]
fn a_new_registry_is_empty() {
    let registry = Registry::start();
    assert_eq!(registry.digest("busybox", "1"), None);
    assert_eq!(registry.tags("busybox"), Vec::<String>::new());
}

#[test]
fn a_pushed_image_has_the_digest_of_its_layout() {
    let registry = Registry::start();
    assert!(push_busybox(&registry, &[]));
    let index = std::fs::read(images::busybox().join("index.json")).expect("a layout has an index");
    let index: serde_json::Value = serde_json::from_slice(&index).expect("an index is JSON");
    let digest = index["manifests"][0]["digest"].as_str().expect("an index names a manifest");
    assert_eq!(registry.digest("busybox", "1").as_deref(), Some(digest));
    assert_eq!(registry.digest("busybox", digest).as_deref(), Some(digest));
    assert_eq!(registry.tags("busybox"), ["1"]);
    assert!(registry.client().manifest("busybox", digest).is_some());
}

#[test]
fn a_registry_with_a_password_admits_who_knows_it() {
    let registry = Registry::start_with_password("someone", "a pass:word");
    assert_eq!(http::request("GET", registry.host(), "/v2/", &[]).status, 401);
    assert!(!push_busybox(&registry, &["--dest-creds", "someone:wrong"]));
    assert!(push_busybox(&registry, &["--dest-creds", "someone:a pass:word"]));
    assert_eq!(registry.tags("busybox"), ["1"]);
}

#[test]
fn a_dropped_registry_answers_no_more() {
    let registry = Registry::start();
    let host = registry.host().to_owned();
    drop(registry);
    assert!(http::try_request("GET", &host, "/v2/", &[]).is_err());
}
