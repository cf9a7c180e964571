//! What instructions do to an image, seen from outside: layers read by GNU tar, the configuration as it was pushed.

use std::{fs, process::Command};

use serde_json::json;

use crate::build::{Build, TAG, reference};

#[test]
fn copy_leaves_out_what_is_ignored_and_sets_owner_and_mode() {
    let files = [
        ("Dockerfile", "ARG BASE\nFROM ${BASE}\nCOPY --chown=user:root --chmod=u=rwx,go=r . /app/\n"),
        (".dockerignore", "# tools\n*.log\nnode_modules\n!keep.log\nDockerfile\n.dockerignore\n"),
        ("main.py", "print()\n"),
        ("debug.log", ""),
        ("keep.log", ""),
        ("lib/node_modules/x", ""),
        ("node_modules/x", ""),
    ];
    let image = Build::new(&files).run().succeeded().image();
    assert_eq!(
        image.paths(1),
        ["app", "app/keep.log", "app/lib", "app/lib/node_modules", "app/lib/node_modules/x", "app/main.py"]
    );
    let file = image.entry("app/main.py");
    assert_eq!((file.owner.as_str(), file.mode.as_str()), ("1000/0", "-rwxr--r--"));
    assert_eq!(file.time, "1970-01-01 00:00:00");
}

#[test]
fn add_unpacks_an_archive_and_copies_it_from_copy() {
    let dockerfile = "FROM scratch\nADD tree.tar.gz /opt/\nCOPY tree.tar.gz /\n";
    let build = Build::new(&[("Dockerfile", dockerfile), ("tree/bin/tool", "#!/bin/sh\n")]);
    std::os::unix::fs::symlink("tool", build.context().join("tree/bin/link")).unwrap();
    let mut tar = Command::new("tar");
    tar.args([
        "--create",
        "--gzip",
        "--owner=7",
        "--group=8",
        "--mtime=@5",
        "--sort=name",
        "--file=tree.tar.gz",
        "tree",
    ]);
    assert!(tar.current_dir(build.context()).status().unwrap().success());
    let image = build.run().succeeded().image();
    assert_eq!(image.paths(1), ["tree.tar.gz"]);
    let tool = image.entry("opt/tree/bin/tool");
    assert_eq!((tool.owner.as_str(), tool.time.as_str()), ("7/8", "1970-01-01 00:00:05"));
    assert_eq!(image.entry("opt/tree/bin/link").target.as_deref(), Some("tool"));
    assert_eq!(image.text("opt/tree/bin/tool"), "#!/bin/sh\n");
}

#[test]
fn onbuild_is_executed_by_the_image_that_is_built_on_it() {
    let dockerfile = "ARG BASE\nFROM ${BASE}\nONBUILD COPY input /in\nONBUILD RUN tr a-z A-Z < /in > /out\n";
    let base = Build::new(&[("Dockerfile", dockerfile)]).run().succeeded();
    assert_eq!(base.image().layers(), 1);
    let triggers = json!(["COPY input /in", "RUN tr a-z A-Z < /in > /out"]);
    assert_eq!(base.image().config["config"]["OnBuild"], triggers);
    let dockerfile = format!("FROM {}\nCMD [\"cat\", \"/out\"]\n", reference(&base.layout(), TAG));
    let image = Build::new(&[("Dockerfile", &dockerfile), ("input", "quiet\n")]).run().succeeded().image();
    assert_eq!(image.text("out"), "QUIET\n");
    assert_eq!(image.config["config"]["OnBuild"], json!(null));
}

#[test]
fn a_run_step_changes_what_it_changes_and_nothing_else() {
    let dockerfile = "\
ARG BASE
FROM ${BASE}
COPY keep gone dir/ /data/
RUN <<EOT
set -e
rm /data/gone
chmod 4755 /data/keep
ln /data/keep /data/hard
ln -s keep /data/soft
touch /tmp/new
chown 1000:1000 /tmp/new
cat /data/keep > /dev/null
EOT
";
    let files = [("Dockerfile", dockerfile), ("keep", "kept\n"), ("gone", ""), ("dir/inner", "")];
    let image = Build::new(&files).run().succeeded().image();
    assert_eq!(image.layers(), 3);
    let mut paths = image.paths(2);
    paths.retain(|path| !["data", "tmp"].contains(&path.as_str())); // directories changed their times
    assert_eq!(paths, ["data/.wh.gone", "data/hard", "data/keep", "data/soft", "tmp/new"]);
    assert_eq!(image.entry("tmp/new").owner, "1000/1000");
    assert_eq!(image.entry("data/soft").target.as_deref(), Some("keep"));
    let modes = ["data/hard", "data/keep"].map(|path| image.entry(path).mode);
    assert!(modes.contains(&"-rwsr-xr-x".to_owned()), "{modes:?}");
}

#[test]
fn a_run_step_has_the_user_the_directory_and_the_environment_of_its_stage() {
    let dockerfile = "\
ARG BASE
FROM ${BASE}
ARG VERSION
ENV NAME=karve GREETING=\"hello ${VERSION}\"
WORKDIR /job/sub
RUN chown user /job/sub
USER user
SHELL [\"/bin/sh\", \"-ec\"]
RUN echo \"$(id -un) $(pwd) $HOME $NAME $GREETING $VERSION $UNSET\" > seen; ls -A / | grep -c karve >> seen || true
";
    let image = Build::new(&[("Dockerfile", dockerfile)]).flag("--build-arg=VERSION=2").run().succeeded().image();
    let seen = image.text("job/sub/seen");
    assert_eq!(seen, "user /job/sub /tmp karve hello 2 2 \n0\n");
    assert_eq!(image.entry("job/sub/seen").owner, "1000/1000");
}

#[test]
fn the_configuration_holds_what_instructions_say() {
    let dockerfile = "\
ARG BASE
FROM ${BASE}
ENV A=1
LABEL one=1 two=\"2 2\"
EXPOSE 80 53/udp
VOLUME [\"/data\"]
STOPSIGNAL SIGQUIT
HEALTHCHECK --interval=5s --retries=2 CMD true
WORKDIR /srv
USER 1000:1000
ENTRYPOINT [\"httpd\"]
CMD [\"-f\"]
";
    let image = Build::new(&[("Dockerfile", dockerfile)]).run().succeeded().image();
    let config = &image.config["config"];
    assert_eq!(config["Env"], json!(["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "A=1"]));
    assert_eq!(config["Labels"], json!({"one": "1", "two": "2 2"}));
    assert_eq!(config["ExposedPorts"], json!({"80/tcp": {}, "53/udp": {}}));
    assert_eq!(config["Volumes"], json!({"/data": {}}));
    assert_eq!(config["StopSignal"], "SIGQUIT");
    let test = json!({"Test": ["CMD-SHELL", "true"], "Interval": 5_000_000_000_u64, "Retries": 2});
    assert_eq!(config["Healthcheck"], test);
    assert_eq!((&config["WorkingDir"], &config["User"]), (&json!("/srv"), &json!("1000:1000")));
    assert_eq!((&config["Entrypoint"], &config["Cmd"]), (&json!(["httpd"]), &json!(["-f"])));
    let history = image.config["history"].as_array().unwrap();
    let with_layer = history.iter().filter(|entry| entry["empty_layer"] != true).count();
    let layers = image.manifest["layers"].as_array().unwrap().len();
    assert_eq!(layers, image.config["rootfs"]["diff_ids"].as_array().unwrap().len());
    assert!(with_layer <= layers, "{history:?}");
}

#[test]
fn a_context_cannot_be_left() {
    let build = Build::new(&[("Dockerfile", "FROM scratch\nCOPY link /copied\n")]);
    fs::write(build.context().with_file_name("outside"), "secret").unwrap();
    std::os::unix::fs::symlink("../outside", build.context().join("link")).unwrap();
    let ended = build.run();
    if ended.status.success() {
        // BuildKit's way: the link itself, or what it finds within the context.
        assert!(!ended.image().contains("secret"));
    }
}
