//! Changes that other builders' caches have overlooked: each must miss, and what comes out must be what a clean build makes.

use std::{
    fs::{self, Permissions},
    os::unix::fs::{PermissionsExt as _, symlink},
};

use karve_tests::layout::Layout;
use serde_json::json;

use crate::scene::Scene;

/// Builds, changes something, and builds again: exactly these steps miss, and the image is right.
#[track_caller]
fn check(mut scene: Scene, change: impl FnOnce(&mut Scene), misses: &[&str]) {
    scene.check_change(change, misses);
}

#[test]
fn a_rename_inside_a_copied_directory_misses() {
    let files = [("src/deep/one", "1"), ("src/two", "2")];
    let scene = Scene::on_busybox("COPY src /src\nRUN find /src | sort > /list\n", &files);
    let misses = ["COPY src /src", "RUN find /src | sort > /list"];
    check(scene, |scene| scene.rename("src/deep/one", "src/deep/renamed"), &misses);
}

#[test]
fn contents_that_change_places_miss() {
    let swap = |scene: &mut Scene| {
        scene.rename("src/one", "src/three");
        scene.rename("src/two", "src/one");
        scene.rename("src/three", "src/two");
    };
    check(Scene::new("FROM scratch\nCOPY src /\n", &[("src/one", "1"), ("src/two", "2")]), swap, &["COPY src /"]);
}

#[test]
fn a_destination_through_a_changed_argument_misses() {
    let mut scene = Scene::new("FROM scratch\nARG DIR\nCOPY file /$DIR/\n", &[("file", "")]);
    scene.set("DIR", "one");
    check(scene, |scene| scene.set("DIR", "two"), &["COPY file /$DIR/"]);
}

#[test]
fn sources_that_join_to_one_text_are_told_apart() {
    let files = [("a b", "1"), ("a", "2"), ("b", "3")];
    let scene = Scene::new("FROM scratch\nCOPY [\"a b\", \"/c/\"]\n", &files);
    check(scene, |scene| scene.edit("[\"a b\", \"/c/\"]", "a b /c/"), &["COPY a b /c/"]);
}

#[test]
fn paths_and_contents_that_join_to_one_text_are_told_apart() {
    let scene = Scene::new("FROM scratch\nCOPY d /d\n", &[("d/ab", "c"), ("d/de", "")]);
    let change = |scene: &mut Scene| {
        scene.rename("d/ab", "d/a");
        scene.write("d/a", "bc");
    };
    check(scene, change, &["COPY d /d"]);
}

#[test]
fn environments_that_join_to_one_text_are_told_apart() {
    let scene = Scene::on_busybox("ENV A=1 B=2\nRUN echo \"$A-$B\" > /f\n", &[]);
    check(scene, |scene| scene.edit("A=1 B=2", "A=\"1 B=2\""), &["RUN echo \"$A-$B\" > /f"]);
}

#[test]
fn words_of_a_command_that_join_to_one_text_are_told_apart() {
    let steps = "RUN [\"/bin/sh\", \"-c\", \"echo $1 > /f\", \"sh\", \"a b\", \"c\"]\n";
    let scene = Scene::on_busybox(steps, &[]);
    let edited = steps.replace("\"a b\", \"c\"", "\"a\", \"b c\"");
    check(scene, |scene| scene.edit(steps, &edited), &[edited.trim_end()]);
}

#[test]
fn a_directory_that_was_replaced_hides_what_was_in_it() {
    let steps = "\
RUN mkdir /d && touch /d/old /d/older
RUN rm -rf /d && mkdir /d && touch /d/new
COPY file /file
RUN ls -A /d > /list
";
    let scene = Scene::on_busybox(steps, &[("file", "1")]);
    check(scene, |scene| scene.write("file", "2"), &["COPY file /file", "RUN ls -A /d > /list"]);
}

#[test]
fn the_body_of_a_heredoc_is_a_part_of_its_step() {
    let steps = "COPY <<one <<two /d/\nfirst\none\nsecond\ntwo\nRUN <<EOT\necho text > /f\nEOT\n";
    let scene = Scene::on_busybox(steps, &[]);
    scene.check();
    scene.edit("echo text", "echo other");
    assert_eq!(scene.check().misses(), ["RUN <<EOT (echo other > /f…)"]);
    scene.edit("second", "changed");
    let ended = scene.check();
    assert!(ended.misses().contains(&"COPY <<one <<two /d/".to_owned()), "{}", ended.stderr);
    scene.check_again(&ended);
}

#[test]
fn the_expansion_of_a_heredoc_is_a_part_of_its_step() {
    let mut scene = Scene::new("FROM scratch\nARG V\nCOPY <<EOT /f\n$V\nEOT\n", &[]);
    scene.set("V", "1");
    check(scene, |scene| scene.set("V", "2"), &["COPY <<EOT /f"]);
}

#[test]
fn what_another_stage_made_is_a_part_of_a_copy() {
    let dockerfile =
        "ARG BASE\nFROM ${BASE} AS build\nCOPY word /\nRUN cp /word /made\nFROM scratch\nCOPY --from=build /made /\n";
    let scene = Scene::new(dockerfile, &[("word", "1")]);
    let misses = ["COPY word /", "RUN cp /word /made", "COPY --from=build /made /"];
    check(scene, |scene| scene.write("word", "2"), &misses);
}

#[test]
fn the_choice_of_another_stage_is_a_part_of_a_copy() {
    let dockerfile =
        "FROM scratch AS one\nCOPY a /f\nFROM scratch AS two\nCOPY b /f\nFROM scratch\nCOPY --from=one /f /\n";
    let scene = Scene::new(dockerfile, &[("a", "1"), ("b", "2")]);
    let change = |scene: &mut Scene| scene.edit("--from=one", "--from=two");
    check(scene, change, &["COPY b /f", "COPY --from=two /f /"]);
}

#[test]
fn a_changed_owner_misses() {
    let scene = Scene::new("FROM scratch\nCOPY --chown=1:2 file /\n", &[("file", "")]);
    check(scene, |scene| scene.edit("1:2", "1:3"), &["COPY --chown=1:3 file /"]);
}

#[test]
fn a_changed_owner_in_another_stage_misses() {
    let dockerfile =
        "ARG BASE\nFROM ${BASE} AS build\nRUN touch /f && chown 1:2 /f\nFROM scratch\nCOPY --from=build /f /\n";
    let misses = ["RUN touch /f && chown 1:3 /f", "COPY --from=build /f /"];
    check(Scene::new(dockerfile, &[]), |scene| scene.edit("1:2", "1:3"), &misses);
}

#[test]
fn a_changed_mode_misses() {
    let scene =
        Scene::on_busybox("COPY d /d\nRUN stat -c '%n %a' /d/* > /modes\n", &[("d/file", ""), ("d/sub/file", "")]);
    scene.check();
    let set = |path: &str, mode| fs::set_permissions(scene.context(path), Permissions::from_mode(mode)).unwrap();
    for (path, mode) in [("d/file", 0o600), ("d/file", 0o4600), ("d/sub", 0o700)] {
        set(path, mode);
        assert_eq!(scene.check().misses().len(), 2, "{path} {mode:o}");
    }
}

#[test]
fn a_changed_file_capability_misses() {
    let dockerfile = "ARG TOOLS\nFROM ${TOOLS} AS tools\nFROM scratch\nCOPY --from=tools /tool /\n";
    let mut scene = Scene::new(dockerfile, &[]);
    let layout = Layout::create(&scene.path("tools"));
    let write = |capability: &str| {
        let list = format!("tool 755 0:0 security.capability=0x{capability} = tool");
        layout.write_image("1", &[&list], &json!({}));
    };
    scene.set("TOOLS", &format!("oci-layout:{}:1", layout.path().display()));
    write("0100000200040000000000000000000000000000");
    check(scene, |_| write("0100000200200000000000000000000000000000"), &["COPY --from=tools /tool /"]);
}

#[test]
fn a_changed_link_misses() {
    let scene = Scene::new("FROM scratch\nCOPY d /d\n", &[("d/a", "same"), ("d/b", "same")]);
    symlink("a", scene.context("d/link")).unwrap();
    let ended = scene.check();
    let replace = |target: &str| {
        fs::remove_file(scene.context("d/link")).unwrap();
        symlink(target, scene.context("d/link")).unwrap();
    };
    replace("b");
    assert_eq!(scene.check().misses(), ["COPY d /d"]);
    fs::remove_file(scene.context("d/link")).unwrap();
    scene.write("d/link", "a"); // a file whose content is the target
    assert_eq!(scene.check().misses(), ["COPY d /d"]);
    fs::remove_file(scene.context("d/link")).unwrap();
    symlink("a", scene.context("d/link")).unwrap();
    scene.check_again(&ended);
}

#[test]
fn a_changed_ignore_file_misses() {
    let scene = Scene::new("FROM scratch\nCOPY d /d\n", &[("d/a", ""), ("d/b", ""), (".dockerignore", "d/a\n")]);
    scene.check();
    scene.write(".dockerignore", "d/b\n");
    assert_eq!(scene.check().misses(), ["COPY d /d"]);
    scene.write(".dockerignore", "d/c\n");
    assert_eq!(scene.check().misses(), ["COPY d /d"]);
    scene.write(".dockerignore", "d/c\nother\n");
    assert_eq!(scene.check().misses(), Vec::<String>::new());
}

#[test]
fn an_empty_directory_is_a_part_of_what_is_copied() {
    let scene = Scene::new("FROM scratch\nCOPY d /d\n", &[("d/a", "")]);
    check(scene, |scene| fs::create_dir(scene.context("d/empty")).unwrap(), &["COPY d /d"]);
}
