//! Registries that want a password, have none of the image, or are not there; and an image that an earlier attempt pushed.

use std::net::TcpListener;

use base64::Engine as _;
use karve_api::Reason;
use karve_tests::{inspect::Image, registry::Registry};

use crate::build::Build;

const DOCKERFILE: &str = "FROM scratch\nCOPY file /\n";

fn build() -> Build {
    Build::new(&[("Dockerfile", DOCKERFILE), ("file", "content\n")]).flag("--insecure")
}

/// Returns a docker `config.json` with one user.
fn docker_config(host: &str, user: &str, password: &str) -> String {
    let auth = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
    serde_json::json!({"auths": {host: {"auth": auth}}}).to_string()
}

#[test]
fn the_right_password_pushes_and_pulls() {
    let registry = Registry::start_with_password("someone", "a pass:word");
    let config = docker_config(registry.host(), "someone", "a pass:word");
    let image = format!("{}/app:v1", registry.host());
    build().destination(&image).environment("KARVE_REGISTRY_AUTH_0", &config).run().succeeded();
    let derived = format!("FROM {image}\nCOPY file /second\n");
    Build::new(&[("Dockerfile", &derived), ("file", "")])
        .flag("--insecure")
        .destination(&format!("{}/derived:v1", registry.host()))
        .environment("KARVE_REGISTRY_AUTH_0", &config)
        .run()
        .succeeded();
    let derived = Image::of_registry(registry.client(), "derived", "v1");
    assert_eq!((derived.text("file").as_str(), derived.layers()), ("content\n", 2));
}

#[test]
fn the_credentials_for_pushing_win_over_others() {
    let registry = Registry::start_with_password("someone", "right");
    let config = |password| docker_config(registry.host(), "someone", password);
    build()
        .destination(&format!("{}/app:v1", registry.host()))
        .environment("KARVE_REGISTRY_AUTH_0", &config("wrong"))
        .environment("KARVE_PUSH_AUTH", &config("right"))
        .run()
        .succeeded();
    assert_eq!(registry.tags("app"), ["v1"]);
}

#[test]
fn a_wrong_password_is_refused_and_not_told() {
    let registry = Registry::start_with_password("someone", "right");
    let config = docker_config(registry.host(), "someone", "wrong-password");
    let build = build().destination(&format!("{}/app:v1", registry.host()));
    let ended = build.environment("KARVE_REGISTRY_AUTH_0", &config).run();
    let ended = ended.failed(Reason::Unauthorized, &[registry.host()]);
    assert!(!ended.stderr.contains("wrong-password"), "{}", ended.stderr);
    assert_eq!(registry.tags("app"), Vec::<String>::new());
}

#[test]
fn no_password_at_all_is_refused() {
    let registry = Registry::start_with_password("someone", "right");
    build().destination(&format!("{}/app:v1", registry.host())).run().failed(Reason::Unauthorized, &[registry.host()]);
}

#[test]
fn a_registry_that_is_down_is_nobodys_fault() {
    // Nobody listens on the port of a socket that was bound and closed.
    let host = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    build().destination(&format!("{host}/app:v1")).run().failed(Reason::RegistryUnavailable, &[&host]);
}

#[test]
fn a_base_image_that_does_not_exist_is_named() {
    let registry = Registry::start();
    let dockerfile = format!("FROM {}/missing:v1\nCOPY file /\n", registry.host());
    let build = Build::new(&[("Dockerfile", &dockerfile), ("file", "")])
        .flag(&format!("--insecure-registry={}", registry.host()));
    build.run().failed(Reason::BaseImageNotFound, &["missing:v1"]);
}

#[test]
fn an_image_of_an_earlier_attempt_is_taken_over() {
    let registry = Registry::start();
    let image = format!("{}/app:v1-1-abcd", registry.host());
    let first = build().destination(&image).run().succeeded();
    let broken = Build::new(&[("Dockerfile", "FROM broken-and-not-read")]).flag("--insecure").destination(&image);
    let second = broken.flag(&format!("--adopt={image}")).run().succeeded();
    assert_eq!(second.digest(), first.digest());
    assert_eq!(second.report.digest, first.report.digest);
}

#[test]
fn where_no_earlier_attempt_pushed_the_image_is_built() {
    let registry = Registry::start();
    let image = format!("{}/app:v1-1-abcd", registry.host());
    let ended = build().destination(&image).flag(&format!("--adopt={image}")).run().succeeded();
    assert_eq!(registry.digest("app", "v1-1-abcd"), Some(ended.digest()));
}
