//! A cache in a directory does not grow for ever: what was written too long ago to be found goes when a build saves
//! something, and nothing else.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    path::PathBuf,
    time::Duration,
};

use crate::scene::Scene;

fn scene() -> Scene {
    let steps = "COPY file /\nRUN --mount=type=cache,target=/c cp /file /copy && touch /c/x\nCOPY other /\n";
    Scene::on_busybox(steps, &[("file", "content\n"), ("other", "other\n")])
}

/// Makes all of the cache look as if it had been written that long ago.
fn age(scene: &Scene, hours: u64) {
    // The last build has just written it.
    let now = fs::metadata(scene.path("cache/index.json")).unwrap().modified().unwrap();
    let time = now - Duration::from_hours(hours);
    for blob in scene.cache().blobs() {
        File::open(blob).unwrap().set_modified(time).unwrap();
    }
}

/// Returns the files that the cache's tags name: manifests, and what these have.
fn named(scene: &Scene) -> BTreeSet<PathBuf> {
    let cache = scene.cache();
    let mut named = BTreeSet::new();
    for tag in cache.tags() {
        let manifest = cache.manifest(&tag);
        let parts = manifest["layers"].as_array().unwrap().iter().chain([&manifest["config"]]);
        named.extend(parts.map(|part| cache.blob_path(part["digest"].as_str().unwrap())));
        named.insert(cache.blob_path(&cache.digest(&tag)));
    }
    named
}

#[test]
fn what_is_too_old_goes_when_something_is_saved() {
    let scene = scene();
    scene.build();
    let first: BTreeSet<String> = scene.cache().tags().into_iter().collect();
    age(&scene, 15 * 24);
    // Nothing is saved, and nothing goes.
    scene.build();
    assert_eq!(scene.cache().tags().into_iter().collect::<BTreeSet<_>>(), first);
    scene.write("other", "another\n");
    let second = scene.check();
    assert_eq!(second.misses(), ["COPY other /"]);
    assert!(second.stderr.contains("old entries"), "{}", second.stderr);
    second.warns_of_no_cache();
    // The entry of the last step has the layers of all.
    let tags: BTreeSet<String> = scene.cache().tags().into_iter().collect();
    let kept: Vec<&String> = tags.intersection(&first).collect();
    assert!(kept.iter().all(|tag| tag.starts_with("build-")), "{kept:?}");
    assert_eq!(scene.cache().blobs().into_iter().collect::<BTreeSet<_>>(), named(&scene));
    scene.check_again(&second).warns_of_no_cache();
}

#[test]
fn what_may_still_be_found_or_in_use_stays() {
    // The age that counts is the longer one of a day and `--cache-ttl`.
    for (hours, ttl) in [(13 * 24, None), (20, Some("--cache-ttl=1h"))] {
        let mut scene = scene();
        scene.flags.extend(ttl.map(str::to_owned));
        scene.build();
        let tags = scene.cache().tags();
        let unlisted = scene.path("cache/blobs/sha256/unfinished");
        fs::write(&unlisted, "").unwrap();
        age(&scene, hours);
        scene.write("file", "another\n");
        let ended = scene.build();
        assert!(!ended.stderr.contains("old entries"), "{}", ended.stderr);
        assert!(unlisted.exists());
        let now = scene.cache().tags();
        assert!(tags.iter().all(|tag| now.contains(tag)));
    }
}

#[test]
fn images_of_somebody_else_stay() {
    let scene = scene();
    scene.build();
    scene.cache().write_image("v1", &["file 644 0:0 = other"], &serde_json::json!({}));
    age(&scene, 15 * 24);
    let manifest = scene.cache().manifest("v1");
    scene.write("file", "another\n");
    let ended = scene.build();
    assert!(ended.stderr.contains("old entries"), "{}", ended.stderr);
    let layer = scene.cache().blob_path(manifest["layers"][0]["digest"].as_str().unwrap());
    assert!(layer.exists() && scene.cache().tags().contains(&"v1".to_owned()));
}
