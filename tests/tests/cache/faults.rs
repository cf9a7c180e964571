//! Entries that are damaged, and caches that do not answer: each is a warning, and the build is right.

use std::{collections::BTreeSet, fs, net::TcpListener, path::PathBuf};

use karve_tests::registry::Registry;
use serde_json::Value;

use crate::scene::Scene;

/// Ways to damage a file.
#[derive(Debug, Clone, Copy)]
enum Damage {
    Missing,
    Empty,
    Truncated,
    Poisoned,
}

const DAMAGES: [Damage; 4] = [Damage::Missing, Damage::Empty, Damage::Truncated, Damage::Poisoned];

impl Damage {
    /// Damages a file; its length stays if it is poisoned.
    fn inflict(self, path: &PathBuf) {
        let mut bytes = fs::read(path).unwrap();
        match self {
            Self::Missing => return fs::remove_file(path).unwrap(),
            Self::Empty => bytes.clear(),
            Self::Truncated => bytes.truncate(bytes.len() / 2),
            Self::Poisoned => bytes.iter_mut().for_each(|byte| *byte ^= 0x55),
        }
        fs::write(path, bytes).unwrap();
    }
}

fn scene() -> Scene {
    Scene::on_busybox("COPY file /\nRUN cp /file /copy\nWORKDIR /d\nRUN cat /copy > all\n", &[("file", "content\n")])
}

/// Returns the descriptors of all blobs that entries name.
fn parts(scene: &Scene) -> Vec<Value> {
    let cache = scene.cache();
    let manifests = cache.tags().into_iter().map(|tag| cache.manifest(&tag));
    manifests.flat_map(|manifest| manifest["layers"].as_array().unwrap().clone()).collect()
}

/// Damages what the entries of a warm cache have, in each way: the next build warns and is right, also when a step on
/// top wants the files; and the cache is whole again. What is not always read is damaged unseen.
#[track_caller]
fn check(files: impl Fn(&Scene) -> Vec<PathBuf>, is_always_read: bool) {
    for damage in DAMAGES {
        for step in ["", "RUN cat /d/all > /top\n"] {
            let scene = scene();
            scene.build();
            let mut files = files(&scene);
            files.sort();
            files.dedup();
            assert!(!files.is_empty(), "there is something to damage");
            for path in &files {
                damage.inflict(path);
            }
            scene.edit("RUN cat /copy > all\n", &format!("RUN cat /copy > all\n{step}"));
            let ended = scene.check();
            if is_always_read || !step.is_empty() {
                ended.warns(&["cache"]);
            }
            let healed = scene.check_again(&ended);
            healed.warns_of_no_cache();
        }
    }
}

/// Returns the paths of blobs of a type, each once: what is damaged twice may be whole again.
fn of_type(scene: &Scene, word: &str) -> Vec<PathBuf> {
    let parts = parts(scene).into_iter().filter(|part| part["mediaType"].as_str().unwrap().contains(word));
    let paths: BTreeSet<_> = parts.map(|part| scene.cache().blob_path(part["digest"].as_str().unwrap())).collect();
    paths.into_iter().collect()
}

#[test]
fn a_damaged_layer_is_made_again() {
    check(|scene| of_type(scene, "image.layer"), true);
}

#[test]
fn a_damaged_index_is_made_again() {
    check(|scene| of_type(scene, "layer.index"), false);
}

#[test]
fn a_damaged_manifest_is_made_again() {
    let manifests = |scene: &Scene| {
        let cache = scene.cache();
        let steps = cache.tags().into_iter().filter(|tag| tag.starts_with("step-"));
        steps.map(|tag| cache.blob_path(&cache.digest(&tag))).collect()
    };
    check(manifests, true);
}

#[test]
fn one_damaged_layer_of_many_is_made_again() {
    let scene = scene();
    let ended = scene.build();
    let count = of_type(&scene, "image.layer").len();
    for number in 0..count {
        let path = of_type(&scene, "image.layer").swap_remove(number);
        DAMAGES[number % DAMAGES.len()].inflict(&path);
        scene.compare(&scene.check(), &ended);
    }
}

#[test]
fn an_entry_under_the_tag_of_another_is_no_entry() {
    let scene = scene();
    let first = scene.build();
    let cache = scene.cache();
    let steps: Vec<String> = cache.tags().into_iter().filter(|tag| tag.starts_with("step-")).collect();
    let manifests: Vec<Value> = steps.iter().map(|tag| cache.manifest(tag)).collect();
    for (tag, manifest) in steps.iter().zip(manifests.iter().cycle().skip(2)) {
        cache.write_manifest(tag, manifest);
    }
    scene.compare(&scene.check(), &first);
}

#[test]
fn a_tag_of_something_else_is_no_entry() {
    let scene = scene();
    scene.build();
    let cache = scene.cache();
    for tag in cache.tags() {
        cache.write_image(&tag, &["file 644 0:0 = other"], &serde_json::json!({}));
    }
    let ended = scene.check();
    ended.warns(&["cache"]);
    scene.check_again(&ended);
}

#[test]
fn a_layout_that_was_copied_half_is_made_anew() {
    for (name, content) in [("index.json", "{\"manifests\": ["), ("index.json", ""), ("oci-layout", "")] {
        let scene = scene();
        scene.build();
        fs::write(scene.path("cache").join(name), content).unwrap();
        let ended = scene.check();
        ended.warns(&["cache"]);
        scene.check_again(&ended).warns_of_no_cache();
        assert_eq!(fs::read_to_string(scene.path("cache").join(format!("{name}.damaged"))).unwrap(), content);
    }
}

#[test]
fn damage_in_another_cache_is_not_the_fault_of_the_own_one() {
    let scene = scene();
    scene.build();
    // Nobody reads an index when everything is found, but whoever copies it.
    for path in of_type(&scene, "index") {
        Damage::Poisoned.inflict(&path);
    }
    let (from, own) = (scene.cache_flag().replace("repo", "from"), scene.path("own"));
    let ended = scene.build_with(&[&format!("--cache-repo=oci:{}", own.display()), &from]);
    assert_eq!(ended.misses(), Vec::<String>::new());
    ended.warns(&["not copied"]);
    assert!(!ended.stderr.contains("cannot be written"), "{}", ended.stderr);
    scene.compare(&ended, &scene.build_with(crate::scene::CLEAN));
}

#[test]
fn a_damaged_blob_that_nobody_reads_is_replaced_when_it_is_made_again() {
    let scene = scene();
    scene.build();
    for path in of_type(&scene, "image.layer") {
        Damage::Poisoned.inflict(&path);
    }
    scene.build_with(&[&scene.cache_flag(), "--no-cache"]);
    // COPY and WORKDIR make the same layers again.
    scene.edit("RUN cp", "RUN cp ");
    let ended = scene.check();
    ended.warns_of_no_cache();
    assert!(ended.hits().contains(&"COPY file /".to_owned()), "{}", ended.stderr);
}

#[test]
fn what_a_broken_build_left_unfinished_is_no_blob() {
    let scene = scene();
    let path = scene.path("cache/blobs/sha256");
    let first = scene.build();
    let mut layers = of_type(&scene, "image.layer");
    let (name, left) = (layers.remove(0), path.join("unfinished.1-1.partial"));
    fs::rename(&name, left).unwrap();
    fs::write(name, "").unwrap();
    let ended = scene.check();
    scene.compare(&ended, &first);
    scene.check_again(&ended).warns_of_no_cache();
}

#[test]
fn a_layout_that_cannot_be_written_is_a_warning() {
    let scene = scene();
    scene.build();
    scene.cache().retain(|_| false);
    for blob in scene.cache().blobs() {
        fs::remove_file(blob).unwrap();
    }
    // Permissions do not stop root, a file in the way does.
    fs::remove_dir(scene.path("cache/blobs/sha256")).unwrap();
    fs::write(scene.path("cache/blobs/sha256"), "").unwrap();
    let ended = scene.check();
    ended.warns(&["cache"]);
    assert_eq!(ended.hits(), Vec::<String>::new());
}

#[test]
fn a_layout_that_cannot_be_made_is_a_warning() {
    let scene = scene();
    fs::write(scene.path("cache"), "a file").unwrap();
    scene.check().warns(&["cache"]);
}

#[test]
fn a_registry_that_is_down_is_a_warning() {
    let mut scene = scene();
    // Nobody listens on the port of a socket that was bound and closed.
    let host = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    scene.flags.push(format!("--insecure-registry={host}"));
    scene.check_with(&[&format!("--cache-repo={host}/cache")]).warns(&["cache", &host]);
}

#[test]
fn a_registry_that_wants_a_password_is_a_warning() {
    let registry = Registry::start_with_password("someone", "secret-word");
    let mut scene = scene();
    scene.flags.push(format!("--insecure-registry={}", registry.host()));
    scene.check_with(&[&format!("--cache-repo={}/cache", registry.host())]).warns(&["cache", registry.host()]);
}

#[test]
fn a_damaged_blob_in_a_registry_is_made_again() {
    for damage in DAMAGES {
        let registry = Registry::start();
        let mut scene = scene();
        scene.flags.push(format!("--insecure-registry={}", registry.host()));
        let cache = format!("--cache-repo={}/cache", registry.host());
        let first = scene.check_with(&[&cache]);
        let mut paths = BTreeSet::new();
        for tag in registry.tags("cache") {
            let manifest: Value = serde_json::from_slice(&registry.client().manifest("cache", &tag).unwrap()).unwrap();
            let parts = manifest["layers"].as_array().unwrap().iter();
            paths.extend(parts.map(|part| registry.blob_path(part["digest"].as_str().unwrap())));
        }
        for path in &paths {
            damage.inflict(path);
        }
        scene.edit("RUN cat /copy > all\n", "RUN cat /copy > all\nRUN cat all > /top\n");
        let second = scene.check_with(&[&cache]);
        second.warns(&["cache"]);
        assert_ne!(second.digest(), first.digest());
        // The registry takes a blob that it has lost, and keeps one that is damaged, whatever it is sent: whoever needs that
        // one makes it again. One that is too short is asked for several times.
        let is_healed = match damage {
            Damage::Missing => true,
            Damage::Poisoned => false,
            Damage::Empty | Damage::Truncated => continue,
        };
        let third = scene.check_with(&[&cache, "--no-push-cache"]);
        assert_eq!(third.misses().is_empty(), is_healed, "{}", third.stderr);
        if is_healed {
            assert_eq!(third.digest(), second.digest());
            third.warns_of_no_cache();
        }
    }
}
