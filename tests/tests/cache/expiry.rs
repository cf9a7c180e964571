//! Entries that are too old.

use karve_tests::layout::Layout;

use crate::{ended::Ended, scene::Scene};

/// The annotation that says when an entry was made.
const CREATED: &str = "dev.karve.cache.created";

fn scene() -> Scene {
    Scene::on_busybox("RUN head -c 8 /dev/urandom | md5sum > /one\nRUN cat /one > /two\n", &[])
}

/// Returns what both steps wrote, which is one thing if both are of one run.
fn token(ended: &Ended) -> String {
    let image = ended.image();
    let [one, two] = ["one", "two"].map(|path| image.text(path));
    assert_eq!(one, two, "two runs in one image:\n{}", ended.stderr);
    one
}

/// Makes the entries of some steps look as if they were made long ago.
pub(crate) fn age(cache: &Layout, mut ages: impl FnMut(&str) -> bool) {
    // A loss may have taken the manifest of an entry that no build has needed since.
    let is_there = |tag: &String| cache.blob_path(&cache.digest(tag)).exists();
    for tag in cache.tags().into_iter().filter(|tag| tag.starts_with("step-") && ages(tag)).filter(is_there) {
        let mut manifest = cache.manifest(&tag);
        let layers = manifest["layers"].as_array().expect("an entry has layers").len();
        // The entry's own age, and that of each layer; every other blob is an index.
        let places = (0..layers).step_by(2).map(|layer| format!("/layers/{layer}/annotations/{CREATED}"));
        for place in places.chain([format!("/annotations/{CREATED}")]) {
            let created = manifest.pointer_mut(&place).filter(|created| created.is_string());
            *created.unwrap_or_else(|| panic!("an entry says when it was made: {place}")) =
                "2020-01-01T00:00:00Z".into();
        }
        cache.write_manifest(&tag, &manifest);
    }
}

#[test]
fn everything_is_too_old_for_a_lifetime_of_nothing() {
    let scene = scene();
    let first = scene.build();
    for lifetime in ["0s", "1ns"] {
        let second = scene.build_with(&[&scene.cache_flag(), &format!("--cache-ttl={lifetime}")]);
        assert_eq!(second.hits(), Vec::<String>::new(), "{lifetime}");
        assert_ne!(token(&first), token(&second), "{lifetime}");
    }
}

#[test]
fn an_old_entry_misses_and_is_made_anew() {
    let scene = scene();
    let first = scene.build();
    age(&scene.cache(), |_| true);
    let flags = [&scene.cache_flag(), "--cache-ttl=100000h"];
    let patient = scene.build_with(&flags);
    assert_eq!((token(&first), patient.misses().len()), (token(&patient), 0), "{}", patient.stderr);
    let second = scene.build();
    assert_eq!(second.misses().len(), 2, "{}", second.stderr);
    assert_ne!(token(&first), token(&second));
    scene.check_again(&second);
}

#[test]
fn an_old_entry_below_a_young_one_does_not_mix_runs() {
    let scene = scene();
    scene.build();
    let tags = scene.cache().tags();
    let steps: Vec<&String> = tags.iter().filter(|tag| tag.starts_with("step-")).collect();
    assert!(steps.len() > 1, "{tags:?}");
    for old in &steps {
        age(&scene.cache(), |tag| tag == *old);
        token(&scene.build());
    }
}

#[test]
fn a_hit_makes_nothing_younger() {
    let scene = scene();
    scene.build();
    age(&scene.cache(), |_| true);
    let flags = [&scene.cache_flag(), "--cache-ttl=100000h"];
    scene.build_with(&flags);
    assert_eq!(scene.build().hits(), Vec::<String>::new());
}
