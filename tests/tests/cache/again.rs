//! Builds that begin again, because a layer that the cache promised is damaged, while steps have used mounts: what the
//! second attempt mounts is its own, and a cache mount goes on from build to build.

use std::{fs, path::PathBuf};

use crate::{
    ended::Ended,
    scene::{BUSYBOX, Scene},
};

const SEED: &str = "FROM ${BASE} AS seed\nRUN head -c 8 /dev/urandom | md5sum > /token\n";

/// The second stage stands on the first. The last stage mounts it, and only then needs a file of the first.
const STEPS: &str = "\
FROM ${BASE} AS tool
COPY --from=seed /token /tool
FROM ${BASE}
RUN --mount=type=bind,from=tool,target=/t --mount=type=bind,source=file,target=/f \\
    --mount=type=cache,target=/c --mount=type=cache,target=/d,from=tool --mount=type=secret,id=word,env=WORD \\
    echo $WORD >> /c/log && echo $WORD >> /d/log && \\
    cp /t/tool /bound && cp /f /file && cp /c/log /log && cat /d/tool /d/log > /began
COPY --from=seed /token /copied
";

/// A project whose cache has a result of the first stage, and the path of its layer.
fn scene() -> (Scene, PathBuf) {
    let argument = BUSYBOX.lines().next().unwrap();
    let mut scene = Scene::new(&format!("{argument}\n{SEED}"), &[("file", "content\n")]);
    scene.flags.push("--secret=id=word,env=WORD".into());
    scene.environment.insert("WORD".into(), "one".into());
    scene.build();
    let cache = scene.cache();
    let step = cache.tags().into_iter().find(|tag| tag.starts_with("step-")).unwrap();
    let layer = cache.blob_path(cache.manifest(&step)["layers"][0]["digest"].as_str().unwrap());
    scene.write("Dockerfile", &format!("{argument}\n{SEED}{STEPS}"));
    (scene, layer)
}

/// Demands that all of an image is of one run of the first stage, and returns what that had made.
#[track_caller]
fn token(ended: &Ended) -> String {
    let [bound, began, copied] = ["bound", "began", "copied"].map(|path| ended.image().text(path));
    let (began, _) = began.split_at(copied.len());
    assert_eq!((&*bound, began), (&*copied, &*copied), "{}", ended.stderr);
    copied
}

#[test]
fn mounts_of_a_second_attempt_are_its_own() {
    let (mut scene, layer) = scene();
    let first = scene.build();
    assert_eq!(first.image().text("log"), "one\n");
    // The step with the mounts runs before anybody reads the layer.
    scene.edit("cp /f /file", "cp /f  /file");
    scene.edit("COPY --from=seed /token /copied", "COPY --from=seed --chmod=600 /token /copied");
    scene.environment.insert("WORD".into(), "two".into());
    fs::write(&layer, vec![0; fs::read(&layer).unwrap().len()]).unwrap();
    let second = scene.build();
    assert_eq!(second.stderr.matches("the build begins again without it").count(), 1, "{}", second.stderr);
    assert_ne!(token(&first), token(&second));
    let image = second.image();
    assert_eq!(image.text("file"), "content\n");
    // Both attempts ran the step, after the first build: its cache went on, and the one that began with a stage's files did not.
    assert_eq!(image.text("log"), "one\ntwo\ntwo\n", "{}", second.stderr);
    assert_eq!(image.text("began"), format!("{}two\n", token(&second)));
    second.warns(&["cache"]);
    scene.check_again(&second).warns_of_no_cache();
    // What the next build finds is what the last attempt left.
    scene.edit("cp /f  /file", "cp /f   /file");
    let third = scene.build();
    assert_eq!(third.image().text("log"), "one\ntwo\ntwo\ntwo\n");
    assert_eq!(third.image().text("began"), format!("{}two\ntwo\n", token(&second)));
    assert_eq!(token(&third), token(&second));
}
