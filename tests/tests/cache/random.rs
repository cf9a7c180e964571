//! The whole claim: whatever a project is and however it is edited, a build with a cache makes what one without makes.
//!
//! The cases are always the same. More of them: `KARVE_CASES=200 cargo test …`; others: `KARVE_SEED=7 cargo test …`.

use std::fs;

use karve_tests::layout::Layout;
use proptest::{
    collection::vec,
    strategy::Strategy,
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};

use crate::{
    bases::Bases,
    evict::{self, Chain, Round},
    generate,
    project::{Edit, Project},
    scene::{CLEAN, Scene},
};

/// How many projects, each with its edits; three builds of a second or so follow on every edit.
const PROJECTS: u32 = 8;

/// How many edits a project has at most.
const EDITS_MAX: usize = 5;

/// How many chains of steps whose output is never the same.
const CHAINS: u32 = 8;

/// How often a failing case is made smaller: it takes as long as the case each time.
const SHRINKS_MAX: u32 = 60;

#[test]
fn a_cached_build_makes_what_a_clean_build_makes_whatever_is_edited() {
    let bases = Bases::write();
    check(PROJECTS, &(generate::project(), vec(generate::edit(), 1..EDITS_MAX)), |(project, edits)| {
        check_project(&bases, project, &edits);
    });
}

#[test]
fn an_image_holds_one_run_of_each_step_whatever_is_evicted() {
    check(CHAINS, &(evict::chain(), vec(evict::round(), 1..EDITS_MAX)), |(chain, rounds)| check_chain(chain, &rounds));
}

/// Builds a project after each edit.
fn check_project(bases: &Bases, mut project: Project, edits: &[Edit]) {
    let mut scene = Scene::new("", &[]);
    project.write(&mut scene, bases);
    check_state(&scene);
    for edit in edits {
        project.apply(edit);
        project.write(&mut scene, bases);
        check_state(&scene);
    }
}

/// Builds with the cache and without; both fail for one reason, or make the same image. What succeeds is in the cache then.
fn check_state(scene: &Scene) {
    let (cached, clean) = (scene.start(&[&scene.cache_flag()]), scene.start(CLEAN));
    let (cached, clean) = (cached.end(), clean.end());
    if !clean.status.success() {
        assert!(!cached.status.success(), "without a cache it fails:\n{}", clean.stderr);
        let fact = |name: &str| (cached.report[name].clone(), clean.report[name].clone());
        let (ours, theirs) = fact("reason");
        assert_eq!(ours, theirs, "{}\n{}", cached.stderr, clean.stderr);
        return;
    }
    let cached = cached.succeeded();
    cached.warns_of_no_cache();
    scene.compare(&cached, &clean);
    scene.check_again(&cached);
}

/// Builds a chain after each round of losses, with a second cache that another run of everything has filled.
fn check_chain(mut chain: Chain, rounds: &[Round]) {
    let mut scene = Scene::new("", &[("token", evict::TOKEN)]);
    chain.write(&scene);
    let other = Layout::at(&scene.path("other"));
    let flag = format!("=oci:{}", other.path().display());
    chain.check(&scene.build_with(&[&format!("--cache-repo{flag}")]));
    let index = fs::read(other.path().join("index.json")).expect("the cache was written");
    chain.check(&scene.build());
    scene.flags.push(format!("--cache-from{flag}"));
    for round in rounds {
        fs::write(other.path().join("index.json"), &index).expect("the directory is ours");
        chain.lose(&scene, &other, round);
        let built = scene.build();
        chain.check(&built);
        scene.check_again(&built);
    }
}

/// Runs cases that are the same every time, unless somebody asks for others.
#[expect(clippy::disallowed_methods, reason = "cargo hands no more to a test than its name")]
fn check<S: Strategy>(cases: u32, strategy: &S, test: impl Fn(S::Value)) {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u32>().expect("it is a number"));
    let config = Config {
        cases: number("KARVE_CASES").unwrap_or(cases),
        max_shrink_iters: SHRINKS_MAX,
        failure_persistence: None,
        ..Config::default()
    };
    let mut seed = [0; 32];
    seed[..4].copy_from_slice(&number("KARVE_SEED").unwrap_or(1).to_le_bytes());
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &seed));
    let result = runner.run(strategy, |value| {
        test(value);
        Ok(())
    });
    result.unwrap_or_else(|error| panic!("{error}"));
}
