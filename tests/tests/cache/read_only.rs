//! Caches that may be read and not written: what they have is used, what is made is right, and one warning says why it is
//! not kept.

use karve_tests::{
    http,
    registry::Registry,
    web_server::{Answer, WebServer},
};

use crate::scene::Scene;

/// Changes the mode of a directory for one program: as root nothing but a mount does.
const READ_ONLY: &str =
    r#"mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && ! touch "$0/file" 2> /dev/null && exec "$@""#;

/// A project with steps of each kind, and several of them behind the change that tests make.
fn scene() -> Scene {
    let steps = "\
COPY file /
RUN echo $(wc -c < /file) > /count
RUN --mount=type=cache,target=/c echo 1 >> /c/runs
WORKDIR /d
COPY file /d/
RUN cat /file /count > all
";
    Scene::on_busybox(steps, &[("file", "content\n")])
}

/// Starts a registry whose repository `cache` has all of the project.
fn warm(scene: &mut Scene) -> Registry {
    let registry = Registry::start();
    scene.flags.push(format!("--insecure-registry={}", registry.host()));
    scene.build_with(&[&format!("--cache-repo={}/cache", registry.host())]);
    registry
}

/// Builds with a warm cache that `flag` names: nothing is said while there is nothing to keep, and then one thing.
#[track_caller]
fn check(scene: &Scene, flag: &str, words: &[&str]) {
    let unchanged = scene.check_with(&[flag]);
    assert_eq!(unchanged.misses(), Vec::<String>::new(), "{}", unchanged.stderr);
    unchanged.warns_of_no_cache();
    scene.edit("RUN echo $", "RUN echo  $");
    scene.edit("echo 1 >>", "echo 2 >>");
    let changed = scene.check_with(&[flag]);
    assert!(changed.hits().contains(&"COPY file /".to_owned()), "{}", changed.stderr);
    assert!(changed.misses().len() > 1, "{}", changed.stderr);
    changed.warns_once(words);
}

#[test]
fn a_registry_in_maintenance_is_read() {
    let mut scene = scene();
    let registry = warm(&mut scene).read_only();
    scene.flags.push(format!("--insecure-registry={}", registry.host()));
    let cache = format!("{}/cache", registry.host());
    let tags = registry.tags("cache");
    check(&scene, &format!("--cache-repo={cache}"), &[&cache, "cannot be written", "405"]);
    assert_eq!(registry.tags("cache"), tags);
}

#[test]
fn a_registry_that_lets_nobody_write_is_read() {
    for status in [401, 403, 405] {
        let mut scene = scene();
        let registry = warm(&mut scene);
        let behind = registry.host().to_owned();
        let guard = WebServer::start(move |request| {
            if !["GET", "HEAD"].contains(&request.method.as_str()) {
                return Answer::status(status).field("WWW-Authenticate", "Basic realm=\"writers\"");
            }
            let accept = request.field("accept").unwrap_or("*/*");
            // The length of a body that is not sent is that of the body.
            let answer = http::request("GET", &behind, &request.target, &[("Accept", accept)]);
            let fields = answer.headers.into_iter().filter(|(name, _)| name != "content-length");
            Answer { status: answer.status, fields: fields.collect(), body: answer.body }
        });
        scene.flags.push(format!("--insecure-registry={}", guard.host()));
        let cache = format!("{}/cache", guard.host());
        check(&scene, &format!("--cache-repo={cache}"), &[&cache, "cannot be written"]);
    }
}

#[test]
fn a_directory_that_may_not_be_written_is_read() {
    let mut scene = scene();
    scene.build();
    let path = scene.path("cache").display().to_string();
    let mut wrapper = vec!["unshare", "--mount"];
    if !rustix::process::geteuid().is_root() {
        wrapper.extend(["--map-root-user", "--map-auto"]);
    }
    wrapper.extend(["sh", "-c", READ_ONLY, &path]);
    scene.wrapper = wrapper.into_iter().map(str::to_owned).collect();
    let flag = scene.cache_flag();
    check(&scene, &flag, &[&path, "cannot be written"]);
}
