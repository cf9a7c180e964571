//! What a build says about a step that missed: the part that is not as it was.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt as _,
};

use crate::{bases::Bases, scene::Scene};

/// Builds, changes something, and builds again: the step says these words, and none of those that tell a value.
#[track_caller]
fn check(mut scene: Scene, change: impl FnOnce(&mut Scene), instruction: &str, words: &[&str]) {
    scene.build();
    change(&mut scene);
    let ended = scene.build();
    let why = ended.why(instruction);
    for word in words {
        assert!(why.contains(word), "`{why}` does not say `{word}`");
    }
    assert!(!ended.stderr.contains("value-of-"), "a value is told:\n{}", ended.stderr);
}

fn copy() -> Scene {
    let files = [("src/main.c", "1"), ("src/deep/other.c", "2"), ("single", "1")];
    Scene::on_busybox("COPY src /src\nCOPY single /dir/\nRUN cat /src/* > /all || true\n", &files)
}

#[test]
fn the_first_build_has_nothing_to_compare_with() {
    let ended = copy().build();
    for instruction in ["COPY src", "RUN cat"] {
        assert!(ended.why(instruction).contains("no earlier build"), "{}", ended.why(instruction));
    }
}

#[test]
fn a_changed_file_is_named() {
    check(copy(), |scene| scene.write("src/deep/other.c", "3"), "COPY src", &["src/deep/other.c", "changed"]);
    check(copy(), |scene| scene.write("single", "3"), "COPY single", &["single", "changed"]);
}

#[test]
fn a_changed_mode_is_named() {
    let change = |scene: &mut Scene| {
        fs::set_permissions(scene.context("src/main.c"), Permissions::from_mode(0o600)).unwrap();
    };
    check(copy(), change, "COPY src", &["src/main.c", "changed"]);
}

#[test]
fn an_added_file_is_named() {
    check(copy(), |scene| scene.write("src/new.c", ""), "COPY src", &["src/new.c", "new"]);
}

#[test]
fn a_removed_file_is_named() {
    let change = |scene: &mut Scene| fs::remove_file(scene.context("src/main.c")).unwrap();
    check(copy(), change, "COPY src", &["src/main.c", "gone"]);
}

#[test]
fn a_run_behind_a_changed_step_names_the_step_before() {
    check(copy(), |scene| scene.write("src/main.c", "3"), "RUN cat", &["step before"]);
}

#[test]
fn a_changed_command_is_named() {
    check(copy(), |scene| scene.edit("/all ||", "/every ||"), "RUN cat", &["instruction", "/all"]);
}

#[test]
fn a_changed_destination_is_named() {
    check(copy(), |scene| scene.edit("single /dir/", "single /other/"), "COPY single", &["instruction", "/dir/"]);
}

#[test]
fn changed_flags_are_named() {
    check(
        copy(),
        |scene| scene.edit("COPY single", "COPY --chown=7 single"),
        "COPY --chown",
        &["instruction", "COPY single"],
    );
}

#[test]
fn a_changed_argument_is_named_and_its_value_is_not() {
    let mut scene = Scene::on_busybox("ARG V\nENV W=1\nRUN true\n", &[]);
    scene.set("V", "value-of-1");
    check(scene, |scene| scene.set("V", "value-of-2"), "RUN", &["V", "changed"]);
}

#[test]
fn a_changed_variable_is_named_and_its_value_is_not() {
    let scene = Scene::on_busybox("ENV OTHER=1 NAME=value-of-1\nRUN true\n", &[]);
    check(scene, |scene| scene.edit("value-of-1", "value-of-2"), "RUN", &["NAME", "changed"]);
}

#[test]
fn changed_surroundings_are_named() {
    let scene = || Scene::on_busybox("USER user\nWORKDIR /tmp\nRUN true\n", &[]);
    check(scene(), |scene| scene.edit("USER user", "USER 7"), "RUN", &["USER"]);
    check(scene(), |scene| scene.edit("WORKDIR /tmp", "WORKDIR /var"), "RUN", &["WORKDIR"]);
}

#[test]
fn a_changed_heredoc_is_named() {
    let scene = || Scene::on_busybox("RUN <<EOT\necho 1\nEOT\nCOPY <<name /f\n1\nname\n", &[]);
    check(scene(), |scene| scene.edit("echo 1", "echo 2"), "RUN", &["changed"]);
    check(scene(), |scene| scene.edit("1\nname\n", "2\nname\n"), "COPY", &["heredoc", "name"]);
}

#[test]
fn a_changed_base_image_is_named() {
    let bases = Bases::write();
    let mut scene = Scene::on_busybox("RUN true\n", &[]);
    scene.set("BASE", &bases.reference(0));
    check(scene, |scene| scene.set("BASE", &bases.reference(2)), "RUN", &["base image"]);
}

#[test]
fn a_changed_stage_is_named() {
    let dockerfile = "FROM scratch AS files\nCOPY single /f\nFROM scratch\nCOPY --from=files /f /\n";
    let scene = Scene::new(dockerfile, &[("single", "1")]);
    check(scene, |scene| scene.write("single", "2"), "COPY --from=files", &["files", "changed"]);
}

#[test]
fn an_inserted_step_names_what_was_in_its_place() {
    let change = |scene: &mut Scene| scene.edit("COPY single", "RUN echo new\nCOPY single");
    check(copy(), change, "RUN echo new", &["instruction", "COPY single"]);
}

#[test]
fn an_appended_step_says_that_it_is_new() {
    check(copy(), |scene| scene.edit("|| true\n", "|| true\nRUN echo last\n"), "RUN echo", &["no such step"]);
}

#[test]
fn an_evicted_entry_says_that_nothing_was_changed() {
    let scene = Scene::on_busybox("RUN true\n", &[]);
    scene.build();
    scene.cache().retain(|tag| !tag.starts_with("step-"));
    assert!(scene.build().why("RUN true").contains("nothing changed"));
}
