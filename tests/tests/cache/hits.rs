//! Changes that no step can see, or whose effect ends before a step: it must hit, and the image is still what a clean build
//! makes.

use std::fs;

use crate::{
    bases::Bases,
    scene::{BUSYBOX, Scene},
};

const NOTHING: [&str; 0] = [];

/// Every kind of step that makes a layer, and some that make none.
const EVERYTHING: &str = "\
LABEL one=1
WORKDIR /app
COPY src src
COPY <<EOT /inline
text
EOT
ADD src/a /added/
ENV A=1
RUN cat src/* > all
RUN --mount=target=/m,source=src --mount=type=cache,target=/c --mount=type=tmpfs,target=/t ls /m > mounted
CMD [\"cat\", \"all\"]
";

/// Builds, changes something, and builds again: nothing misses, and the image is right.
#[track_caller]
fn check(mut scene: Scene, change: impl FnOnce(&mut Scene)) {
    scene.check();
    change(&mut scene);
    let ended = scene.check();
    assert_eq!(ended.misses(), NOTHING, "{}", ended.stderr);
}

fn everything() -> Scene {
    Scene::on_busybox(EVERYTHING, &[("src/a", "a"), ("src/b", "b")])
}

#[test]
fn every_step_that_makes_a_layer_hits_when_nothing_was_changed() {
    let scene = everything();
    let first = scene.check();
    assert_eq!((first.hits().len(), first.misses().len()), (0, 6), "{}", first.stderr);
    let second = scene.check_again(&first);
    assert_eq!(second.hits().len(), 6);
    assert_eq!(second.report["cache"]["hits"], 6);
    assert_eq!((&second.report["cache"]["misses"], &first.report["cache"]["misses"]), (&0.into(), &6.into()));
    second.warns_of_no_cache();
}

#[test]
fn a_touch_is_no_change() {
    check(everything(), |scene| {
        for path in ["src/a", "src"] {
            let old = fs::FileTimes::new().set_modified(std::time::SystemTime::UNIX_EPOCH);
            fs::File::open(scene.context(path)).unwrap().set_times(old).unwrap();
        }
    });
}

#[test]
fn another_time_of_the_image_is_no_change() {
    check(everything(), |scene| scene.flags.push("--timestamp=86400".into()));
}

#[test]
fn an_argument_that_nobody_declares_is_no_change() {
    check(everything(), |scene| scene.set("REVISION", "7"));
}

#[test]
fn an_argument_that_a_copy_does_not_use_is_no_change() {
    let mut scene = Scene::new("FROM scratch\nARG V\nLABEL v=$V\nCOPY file /\nWORKDIR /d\n", &[("file", "")]);
    scene.set("V", "1");
    check(scene, |scene| scene.set("V", "2"));
}

#[test]
fn a_proxy_is_no_change_unless_it_is_declared() {
    let proxy = "http://127.0.0.1:9";
    check(everything(), |scene| scene.set("http_proxy", proxy));
    let mut scene = Scene::on_busybox("ARG http_proxy\nRUN echo $http_proxy > /f\n", &[]);
    scene.check();
    scene.set("http_proxy", proxy);
    assert_eq!(scene.check().misses().len(), 1);
}

#[test]
fn metadata_between_steps_is_no_change() {
    check(everything(), |scene| {
        scene.edit("LABEL one=1", "LABEL two=2\nEXPOSE 80\nVOLUME /v\nSTOPSIGNAL 9\nHEALTHCHECK CMD x");
        scene.edit("ENV A=1", "LABEL three=3\nENV A=1\nENTRYPOINT [\"x\"]");
    });
}

#[test]
fn comments_and_spaces_are_no_change() {
    check(everything(), |scene| scene.edit("COPY src src", "# why\nCOPY   src \\\n  src\n"));
}

#[test]
fn files_that_no_step_reads_are_no_change() {
    check(everything(), |scene| scene.write(".dockerignore", "other"));
    let scene = Scene::new("FROM scratch\nCOPY src /\n", &[("src/a", "1")]);
    check(scene, |scene| scene.write("other", "2"));
}

#[test]
fn the_same_files_in_other_layers_of_the_base_hit() {
    let bases = Bases::write();
    let mut scene = everything();
    scene.set("BASE", &bases.reference(0));
    check(scene, |scene| scene.set("BASE", &bases.reference(1)));
}

#[test]
fn what_copy_does_not_read_of_another_base_is_no_change() {
    let bases = Bases::write();
    let mut scene = Scene::on_busybox("COPY src /src\nWORKDIR /app\nCOPY --chown=user src /app\n", &[("src/a", "")]);
    scene.set("BASE", &bases.reference(0));
    check(scene, |scene| scene.set("BASE", &bases.reference(2)));
}

#[test]
fn a_changed_command_with_the_same_files_costs_nothing_behind_it() {
    let scene = Scene::on_busybox(
        "RUN echo made > /f # 1\nRUN cat /f > /g\nCOPY file /h\nRUN cat /* > /i || true\n",
        &[("file", "")],
    );
    scene.check();
    scene.edit("# 1", "# 2");
    let ended = scene.check();
    assert_eq!(ended.misses(), ["RUN echo made > /f # 2"], "{}", ended.stderr);
    assert_eq!(ended.hit("RUN cat /f"), "by content");
}

#[test]
fn a_changed_stage_with_the_same_files_costs_nothing_in_others() {
    let dockerfile = "\
ARG BASE
FROM ${BASE} AS build
RUN echo made > /made && echo 1 > /other
FROM ${BASE}
COPY --from=build /made /
RUN cat /made > /f
RUN --mount=from=build,source=/made,target=/m cat /m > /g
";
    let scene = Scene::new(dockerfile, &[]);
    scene.check();
    scene.edit("echo 1 >", "echo 2 >");
    let ended = scene.check();
    let misses = ["RUN echo made > /made && echo 2 > /other"];
    // What the mount selects is all that the last step sees; the copy's content is known before.
    assert_eq!(ended.misses(), misses, "{}", ended.stderr);
    assert_eq!(ended.hit("COPY --from=build"), "by content");
}

#[test]
fn a_miss_does_not_end_the_search_behind_it() {
    let scene = Scene::on_busybox("COPY a /\nRUN touch /made\nCOPY b /\nWORKDIR /d\n", &[("a", "1"), ("b", "1")]);
    scene.check();
    scene.write("a", "2");
    let ended = scene.check();
    assert_eq!(ended.misses(), ["COPY a /", "RUN touch /made"], "{}", ended.stderr);
}

#[test]
fn steps_that_change_places_hit_by_content() {
    let scene = Scene::on_busybox("COPY a /\nCOPY b /\nRUN cat /a /b > /c\n", &[("a", "1"), ("b", "2")]);
    scene.check();
    scene.write("Dockerfile", &format!("{BUSYBOX}COPY b /\nCOPY a /\nRUN cat /a /b > /c\n"));
    let ended = scene.check();
    assert_eq!(ended.misses(), NOTHING, "{}", ended.stderr);
    assert_eq!(ended.hit("RUN"), "by content");
}

#[test]
fn an_entry_above_evicted_ones_brings_the_whole_stack() {
    let scene = Scene::on_busybox("RUN echo 1 > /one\n", &[]);
    scene.check();
    let evicted = scene.cache().tags();
    scene.edit("RUN echo 1 > /one\n", "RUN echo 1 > /one\nRUN echo 2 > /two\n");
    let ended = scene.check();
    assert_eq!(ended.misses(), ["RUN echo 2 > /two"]);
    scene.cache().retain(|tag| !tag.starts_with("step-") || !evicted.iter().any(|evicted| evicted == tag));
    let again = scene.check_again(&ended);
    assert_eq!((again.hit("RUN echo 1"), again.hit("RUN echo 2")), ("below a later step", "by definition"));
}

#[test]
fn what_is_changed_back_hits() {
    let scene = everything();
    let first = scene.check();
    scene.write("src/a", "other");
    scene.check();
    scene.write("src/a", "a");
    scene.check_again(&first);
}

#[test]
fn a_build_of_an_inner_stage_warms_the_whole() {
    let dockerfile = format!("{BUSYBOX}RUN echo 1 > /f\nFROM scratch\nCOPY --from=0 /f /\n");
    let scene = Scene::new(&dockerfile, &[]);
    scene.build_with(&[&scene.cache_flag(), "--target=0"]);
    assert_eq!(scene.check().misses(), ["COPY --from=0 /f /"]);
}

#[test]
fn a_heredoc_needs_no_stage_that_it_is_said_to_come_from() {
    let stages = "ARG BASE\nFROM ${BASE} AS other\nRUN true\nFROM scratch\nCOPY --from=other <<EOF /file\ntext\nEOF\n";
    let scene = Scene::new(stages, &[]);
    scene.check_again(&scene.check());
}
