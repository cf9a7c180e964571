//! Builds that use one cache at once.

use karve_tests::registry::Registry;

use crate::{
    evict::{self, Chain},
    scene::Scene,
};

/// Starts builds of one project at once, with one cache: all are right, and what they leave behind is whole.
#[track_caller]
fn check(scene: &Scene, flags: &[&str]) {
    let chain = Chain::new([2, 1, 1, 2]);
    chain.write(scene);
    let running: Vec<_> = (0..3).map(|_| scene.start(flags)).collect();
    for running in running {
        let ended = running.end().succeeded();
        chain.check(&ended);
        ended.warns_of_no_cache();
    }
    let after = scene.build_with(flags);
    chain.check(&after);
    assert_eq!(after.misses(), Vec::<String>::new(), "{}", after.stderr);
    assert_eq!(scene.build_with(flags).digest(), after.digest());
}

#[test]
fn builds_that_race_on_a_layout_are_right() {
    let scene = Scene::new("", &[("token", evict::TOKEN)]);
    check(&scene, &[&scene.cache_flag()]);
}

#[test]
fn builds_that_race_on_a_repository_are_right() {
    let registry = Registry::start();
    let mut scene = Scene::new("", &[("token", evict::TOKEN)]);
    scene.flags.push(format!("--insecure-registry={}", registry.host()));
    check(&scene, &[&format!("--cache-repo={}/cache", registry.host())]);
}
