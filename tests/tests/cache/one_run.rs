//! One image, one run of each step: two caches hold different runs of one project, and a build that finds entries of both
//! must not use both.

use crate::{
    ended::Ended,
    scene::{BUSYBOX, Scene},
};

/// A stage whose output is never the same twice, and three that take it in all ways there are.
const STAGES: &str = "\
ARG BASE
FROM ${BASE} AS source
RUN head -c 8 /dev/urandom | md5sum > /token
FROM source AS above
RUN cp /token /seen-above
FROM ${BASE} AS copied
COPY --from=source /token /seen-copied
RUN true
FROM ${BASE} AS mounted
RUN --mount=from=source,target=/m cp /m/token /seen-mounted
FROM scratch
COPY --from=above /seen-above /
COPY --from=copied /seen-copied /
COPY --from=mounted /seen-mounted /
";

/// Fills one cache with the stage of that name, and another with everything; then builds with both.
#[track_caller]
fn check(stage: &str) {
    let mut scene = Scene::new(STAGES, &[]);
    let other = format!("oci:{}", scene.path("other").display());
    tokens(&scene.build_with(&[&format!("--cache-repo={other}")]));
    scene.build_with(&[&scene.cache_flag(), &format!("--target={stage}")]);
    scene.flags.push(format!("--cache-from={other}"));
    let ended = scene.build();
    tokens(&ended);
    tokens(&scene.check_again(&ended));
}

/// Checks that all that an image holds is of one run.
#[track_caller]
fn tokens(ended: &Ended) {
    let image = ended.image();
    let tokens = ["above", "copied", "mounted"].map(|name| image.text(&format!("seen-{name}")));
    assert!(tokens[0] == tokens[1] && tokens[0] == tokens[2], "{tokens:?}\n{}", ended.stderr);
}

#[test]
fn a_stage_above_another_and_a_copy_of_it_are_of_one_run() {
    check("above");
}

#[test]
fn a_copy_of_a_stage_and_what_is_above_it_are_of_one_run() {
    check("copied");
}

#[test]
fn a_mount_of_a_stage_and_a_copy_of_it_are_of_one_run() {
    check("mounted");
}

#[test]
fn the_same_step_in_two_stages_is_of_one_run() {
    let random = "RUN head -c 8 /dev/urandom | md5sum > /token\n";
    let dockerfile = format!(
        "{BUSYBOX}{random}RUN cp /token /one\n\
         FROM ${{BASE}}\n{random}RUN cp /token /two\n\
         FROM scratch\nCOPY --from=0 /token /one /0/\nCOPY --from=1 /token /two /1/\n"
    );
    let scene = Scene::new(&dockerfile, &[]);
    let consistent = |ended: &Ended| {
        let image = ended.image();
        for paths in [["0/token", "0/one"], ["1/token", "1/two"]] {
            assert_eq!(image.text(paths[0]), image.text(paths[1]), "{}", ended.stderr);
        }
    };
    let first = scene.build();
    consistent(&first);
    consistent(&scene.check_again(&first));
    scene.edit("cp /token /one", "cp /token /one # again");
    consistent(&scene.build());
}

#[test]
fn a_step_that_runs_again_takes_all_behind_it_along() {
    let steps = "RUN head -c 8 /dev/urandom | md5sum > /token\nRUN cp /token /one\nRUN cp /token /two\n";
    let mut scene = Scene::on_busybox(steps, &[]);
    let other = format!("oci:{}", scene.path("other").display());
    scene.build_with(&[&format!("--cache-repo={other}")]);
    // The first step is of one run in this cache, and of another in that one, which has the others too.
    scene.edit("RUN cp /token /one\nRUN cp /token /two\n", "");
    scene.build();
    scene.write("Dockerfile", &format!("{BUSYBOX}{steps}"));
    scene.flags.push(format!("--cache-from={other}"));
    let ended = scene.build();
    let image = ended.image();
    let [token, one, two] = ["token", "one", "two"].map(|path| image.text(path));
    assert!(token == one && token == two, "{token} {one} {two}\n{}", ended.stderr);
}
