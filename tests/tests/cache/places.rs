//! Where entries are read and written, as flags say.

use karve_tests::registry::Registry;

use crate::{
    ended::Ended,
    scene::{CLEAN, Scene},
};

/// A step whose output is never the same twice, and one that copies.
fn random() -> Scene {
    Scene::on_busybox("COPY file /\nRUN head -c 8 /dev/urandom | md5sum > /token\n", &[("file", "")])
}

fn token(ended: &Ended) -> String {
    ended.image().text("token")
}

#[test]
fn no_cache_looks_nothing_up_and_still_saves() {
    let scene = random();
    let first = scene.build();
    let anew = scene.build_with(&[&scene.cache_flag(), "--no-cache"]);
    assert_eq!((anew.hits().len(), token(&first) == token(&anew)), (0, false));
    assert_eq!(token(&scene.check_again(&anew)), token(&anew));
}

#[test]
fn no_push_cache_reads_and_does_not_write() {
    let scene = random();
    let reading = [&scene.cache_flag(), "--no-push-cache"];
    let first = scene.build_with(&reading);
    assert!(!scene.path("cache/index.json").exists() || scene.cache().tags().is_empty());
    first.warns_of_no_cache();
    let written = scene.build();
    assert_eq!(written.misses().len(), 2);
    let tags = scene.cache().tags();
    let read = scene.build_with(&reading);
    assert_eq!((token(&read), read.misses().len()), (token(&written), 0));
    scene.edit("COPY file /", "COPY file /other");
    scene.build_with(&reading);
    assert_eq!(scene.cache().tags(), tags);
}

#[test]
fn several_caches_are_read_and_one_is_written() {
    let mut scene = random();
    let flag = |name: &str, scene: &Scene| format!("oci:{}", scene.path(name).display());
    let [one, two] = ["one", "two"].map(|name| flag(name, &scene));
    let first = scene.build_with(&[&format!("--cache-repo={one}")]);
    scene.edit("COPY file /\n", "");
    scene.edit("RUN head", "RUN : second; head");
    let second = scene.build_with(&[&format!("--cache-repo={two}")]);
    scene.edit(
        "RUN : second",
        "COPY file /\nRUN head -c 8 /dev/urandom | md5sum > /token\nRUN mv /token /first; : second",
    );
    let both = [format!("--cache-from={one}"), format!("--cache-from={two}")];
    scene.flags.extend(both);
    let third = scene.build();
    assert_eq!(third.image().text("first"), token(&first));
    assert_eq!(third.misses().len(), 1, "the last step has another parent: {}", third.stderr);
    scene.edit("RUN mv /token /first; : second", "RUN : third");
    scene.edit("COPY file /\nRUN head -c 8 /dev/urandom | md5sum > /token\n", "");
    scene.edit("RUN : third", "RUN : second");
    assert_eq!(token(&scene.build()), token(&second));
}

#[test]
fn what_another_cache_has_is_copied_to_the_own_one() {
    let scene = Scene::on_busybox(
        "RUN --mount=type=cache,target=/c echo 1 >> /c/runs; cp /c/runs /runs\nWORKDIR /d\nCOPY file /\n",
        &[("file", "")],
    );
    let from = format!("oci:{}", scene.path("from").display());
    let first = scene.build_with(&[&format!("--cache-repo={from}")]);
    let from = format!("--cache-from={from}");
    let copied = scene.build_with(&[&scene.cache_flag(), &from]);
    assert_eq!((copied.misses().len(), copied.digest()), (0, first.digest()), "{}", copied.stderr);
    let alone = scene.check_again(&first);
    alone.warns_of_no_cache();
    // A step in the middle: those before it hit, each by its own entry.
    scene.edit("WORKDIR /d", "WORKDIR /e");
    let middle = scene.build();
    assert_eq!(middle.hits(), ["COPY file /", "RUN --mount=type=cache,target=/c echo 1 >> /c/runs; cp /c/runs /runs"]);
    // A cache mount is copied by the build that uses it.
    scene.edit("echo 1 >>", "echo 2 >>");
    let mounted = scene.build_with(&[&scene.cache_flag(), &from]);
    assert_eq!(mounted.image().text("runs"), "1\n2\n");
    scene.edit("echo 2 >> /c/runs", "true");
    assert_eq!(scene.build().image().text("runs"), "1\n2\n");
}

#[test]
fn a_cache_mount_that_only_another_cache_has_is_copied_unchanged() {
    let scene = Scene::on_busybox("RUN --mount=type=cache,target=/c echo 1 > /c/file\n", &[]);
    let from = format!("oci:{}", scene.path("from").display());
    scene.build_with(&[&format!("--cache-repo={from}")]);
    scene.edit("echo 1 > /c/file", "cp /c/file /seen");
    scene.build_with(&[&scene.cache_flag(), &format!("--cache-from={from}")]);
    assert!(scene.cache().tags().iter().any(|tag| tag.starts_with("index-")), "nor is the base image read again");
    scene.edit("cp /c/file /seen", "cp /c/file /seen-again");
    assert_eq!(scene.build().image().text("seen-again"), "1\n");
}

#[test]
fn run_layers_are_not_cached_when_that_is_asked_for() {
    let scene = random();
    let first = scene.build();
    let second = scene.build_with(&[&scene.cache_flag(), "--cache-run-layers=false"]);
    assert_eq!(second.hits(), ["COPY file /"], "{}", second.stderr);
    assert_ne!(token(&first), token(&second));
    assert_eq!(token(&scene.build()), token(&first), "nor were they written");
}

#[test]
fn copy_layers_are_not_cached_when_that_is_asked_for() {
    let scene = Scene::on_busybox("RUN head -c 8 /dev/urandom | md5sum > /token\nCOPY file /\n", &[("file", "")]);
    let first = scene.build();
    let second = scene.build_with(&[&scene.cache_flag(), "--cache-copy-layers=false"]);
    assert_eq!(second.misses(), ["COPY file /"], "{}", second.stderr);
    assert_eq!(token(&first), token(&second));
}

#[test]
fn a_build_without_a_cache_leaves_it_alone() {
    let scene = random();
    let first = scene.build();
    let tags = scene.cache().tags();
    let second = scene.build_with(&[&scene.cache_flag(), "--cache=false"]);
    assert_eq!((second.hits().len(), token(&first) == token(&second)), (0, false));
    assert_eq!(scene.cache().tags(), tags);
    assert!(!scene.build_with(CLEAN).stderr.contains("miss:"));
}

#[test]
fn a_cache_beside_the_destination_is_the_default() {
    let registry = Registry::start();
    let mut scene = random();
    scene.flags = ["--insecure", "--cache"].map(str::to_owned).into();
    let destination = format!("--destination={}/team/app:v1", registry.host());
    let first = scene.build_with(&[&destination]);
    assert!(registry.tags("team/app/cache").iter().any(|tag| tag.starts_with("step-")));
    let second = scene.build_with(&[&destination]);
    assert_eq!((second.misses().len(), second.digest()), (0, first.digest()));
}

#[test]
fn a_cache_with_a_password_is_read_and_written() {
    let registry = Registry::start_with_password("someone", "secret-word");
    let mut scene = random();
    let auths = serde_json::json!({"auths": {registry.host(): {"username": "someone", "password": "secret-word"}}});
    scene.environment.insert("KARVE_REGISTRY_AUTH_0".into(), auths.to_string());
    scene.flags.push(format!("--insecure-registry={}", registry.host()));
    let flag = format!("--cache-repo={}/cache", registry.host());
    let first = scene.build_with(&[&flag]);
    let second = scene.build_with(&[&flag]);
    assert_eq!((second.misses().len(), second.digest()), (0, first.digest()), "{}", second.stderr);
    second.warns_of_no_cache();
}
