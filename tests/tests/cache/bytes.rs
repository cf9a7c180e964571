//! What goes over the wire when every step hits, by the log of a registry: no layer in either direction.

use karve_tests::{inspect::Image, registry::Registry};

use crate::scene::Scene;

/// A base image and a cache in one registry.
struct Wire {
    registry: Registry,
    scene: Scene,
}

impl Wire {
    fn new(steps: &str) -> Self {
        let registry = Registry::start();
        let mut scene = Scene::on_busybox("COPY file /of-the-base\n", &[("file", "content\n")]);
        let host = registry.host();
        scene.flags.push(format!("--insecure-registry={host}"));
        let base = format!("{host}/base:1");
        scene.build_with(&[&format!("--destination={base}")]);
        scene.set("BASE", &base);
        scene.write("Dockerfile", &format!("{}{steps}", crate::scene::BUSYBOX));
        Self { registry, scene }
    }

    /// Builds, and returns what the registry was asked for meanwhile: methods and paths.
    #[track_caller]
    fn build(&self, repository: &str, misses: usize) -> Vec<(String, String)> {
        self.build_with(repository, &[&format!("--cache-repo={}/cache", self.registry.host())], misses)
    }

    /// Does the same as [`Wire::build`] with these flags in place of the cache's.
    #[track_caller]
    fn build_with(&self, repository: &str, flags: &[&str], misses: usize) -> Vec<(String, String)> {
        let seen = self.registry.log().len();
        let host = self.registry.host();
        let destination = format!("--destination={host}/{repository}:v1");
        let ended = self.scene.build_with(&[&[&*destination], flags].concat());
        assert_eq!(ended.misses().len(), misses, "{}", ended.stderr);
        ended.warns_of_no_cache();
        if misses == 0 {
            let counters = &ended.report["counters"];
            assert_eq!((&counters["bytesPushed"], &counters["bytesPulled"]), (&0.into(), &0.into()));
        }
        let log = self.registry.log().split_off(seen);
        let requests = log.lines().filter_map(|line| {
            // 127.0.0.1 - - [time] "GET /v2/ HTTP/1.1" 200 …
            let request = line.split('"').nth(1).filter(|request| request.ends_with(" HTTP/1.1"))?;
            let mut words = request.split(' ').map(str::to_owned);
            Some((words.next()?, words.next()?))
        });
        let requests: Vec<(String, String)> = requests.collect();
        assert!(requests.iter().any(|(method, path)| method == "PUT" && path.contains("manifests/v1")), "{log}");
        requests
    }

    /// Checks that no layer of the image was fetched or sent.
    #[track_caller]
    fn check(&self, repository: &str, requests: &[(String, String)]) {
        let image = Image::of_registry(self.registry.client(), repository, "v1");
        let layers = image.manifest["layers"].as_array().unwrap();
        assert!(layers.len() > 3);
        for layer in layers {
            let digest = layer["digest"].as_str().unwrap();
            let moved: Vec<_> = requests
                .iter()
                .filter(|(_, path)| path.contains(digest) || path.contains(&digest.replace(':', "%3A")))
                .filter(|(method, path)| method != "HEAD" && !(method == "POST" && path.contains("mount=")))
                .collect();
            assert_eq!(moved, Vec::<&(String, String)>::new(), "{requests:#?}");
        }
        let sent = requests.iter().filter(|(method, _)| method == "PATCH").count();
        let put = requests.iter().filter(|(method, path)| method == "PUT" && path.contains("/blobs/")).count();
        assert!(sent <= 1 && put <= 1, "more than the configuration was sent: {requests:#?}");
    }
}

const STEPS: &str = "\
WORKDIR /app
COPY file .
RUN cat file > /made
COPY --from=base /of-the-base /taken
";

#[test]
fn a_build_in_which_all_hits_moves_no_layer() {
    let wire = Wire::new(STEPS);
    wire.scene.edit("ARG BASE\n", "ARG BASE\nFROM ${BASE} AS base\n");
    let first = wire.build("app", 4);
    assert!(first.iter().any(|(method, _)| method == "PATCH" || method == "PUT"));
    let second = wire.build("app", 0);
    wire.check("app", &second);
}

#[test]
fn an_image_for_another_repository_is_mounted_from_the_cache() {
    let wire = Wire::new(STEPS);
    wire.scene.edit("ARG BASE\n", "ARG BASE\nFROM ${BASE} AS base\n");
    wire.build("app", 4);
    let other = wire.build("other/place", 0);
    wire.check("other/place", &other);
    assert!(other.iter().any(|(method, path)| method == "POST" && path.contains("mount=")), "{other:#?}");
}

#[test]
fn what_another_cache_of_the_registry_has_is_mounted_in_the_own_one() {
    let wire = Wire::new(STEPS);
    wire.scene.edit("ARG BASE\n", "ARG BASE\nFROM ${BASE} AS base\n");
    wire.build("app", 4);
    let [from, own] = ["from=", "repo="].map(|flag| format!("--cache-{flag}{}/", wire.registry.host()));
    let (from, own) = (format!("{from}cache"), format!("{own}own/cache"));
    let copied = wire.build_with("app", &[&own, &from], 0);
    wire.check("app", &copied);
    let steps = |repository| {
        let tags = wire.registry.tags(repository).into_iter();
        tags.filter(|tag| tag.starts_with("step-")).collect::<Vec<_>>()
    };
    assert_eq!(steps("own/cache"), steps("cache"));
    let alone = wire.build_with("app", &[&own], 0);
    wire.check("app", &alone);
    // What is there is not copied again.
    let again = wire.build_with("app", &[&own, &from], 0);
    assert!(!again.iter().any(|(method, path)| method != "GET" && path.contains("/own/cache/")), "{again:#?}");
    wire.scene.edit("COPY --from=base /of-the-base /taken", "COPY --from=base /of-the-base /elsewhere");
    wire.build_with("app", &[&own], 1);
}

#[test]
fn what_a_cache_elsewhere_has_is_copied_only_when_it_was_fetched() {
    let mut wire = Wire::new(STEPS);
    wire.scene.edit("ARG BASE\n", "ARG BASE\nFROM ${BASE} AS base\n");
    wire.build("app", 4);
    let elsewhere = Registry::start();
    wire.scene.flags.push(format!("--insecure-registry={}", elsewhere.host()));
    let own = format!("--cache-repo={}/cache", elsewhere.host());
    let from = format!("--cache-from={}/cache", wire.registry.host());
    let hit = wire.build_with("app", &[&own, &from], 0);
    wire.check("app", &hit);
    let is_empty = |registry: &Registry| !registry.tags("cache").iter().any(|tag| tag.starts_with("step-"));
    assert!(is_empty(&elsewhere));
    // A layout gets all layers, so they are here.
    let fetched = wire.scene.build_with(&[&own, &from]);
    assert_eq!((fetched.misses().len(), is_empty(&elsewhere)), (0, false), "{}", fetched.stderr);
    let alone = wire.scene.check_with(&[&own]);
    assert_eq!((alone.misses().len(), alone.digest()), (0, fetched.digest()), "{}", alone.stderr);
}

#[test]
fn a_changed_file_that_no_run_reads_moves_its_layer_alone() {
    let wire = Wire::new("RUN cat /of-the-base > /made\nCOPY file /\n");
    wire.build("app", 2);
    wire.scene.write("file", "other\n");
    let requests = wire.build("app", 1);
    let fetched = requests.iter().filter(|(method, path)| method == "GET" && path.contains("/blobs/"));
    let image = Image::of_registry(wire.registry.client(), "app", "v1");
    let layers = image.manifest["layers"].as_array().unwrap();
    let is_layer = |path: &str| layers.iter().any(|layer| path.contains(layer["digest"].as_str().unwrap()));
    let fetched: Vec<&(String, String)> = fetched.filter(|(_, path)| is_layer(path)).collect();
    assert_eq!(fetched, Vec::<&(String, String)>::new());
}

#[test]
fn a_directory_of_layers_spares_fetching_the_base_image() {
    let wire = Wire::new("RUN cat /of-the-base > /made\n");
    let directory = format!("--cache-dir={}", wire.scene.path("layers").display());
    let fetched = || {
        let seen = wire.registry.log().len();
        wire.scene.build_with(&["--cache=false", &directory]);
        wire.registry.log().split_off(seen).matches("\"GET /v2/base/blobs/").count()
    };
    // Two layers and the configuration, and then the configuration alone.
    assert_eq!((fetched(), fetched()), (3, 1));
}
