//! Named contexts: `--build-context` puts directories and images in the place of stages and images.

use std::{fs, os::unix::fs::symlink, path::PathBuf};

use karve_api::Reason;
use karve_tests::registry::Registry;

use crate::build::{Build, TAG, busybox, reference};

/// Makes a directory beside the context of a build.
fn directory(build: &Build, name: &str, files: &[(&str, &str)]) -> PathBuf {
    let directory = build.context().with_file_name(name);
    for (path, content) in files {
        let path = directory.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    directory
}

#[test]
fn f7_a_directory_replaces_stages_and_images_of_its_name() {
    let dockerfile = "FROM docker.io/library/not-there AS assets\nRUN false\nFROM scratch\n\
                      COPY --from=assets / /stage/\nCOPY --from=icons:latest deep/i.svg /icon\nCOPY file /\n";
    let build = Build::new(&[("Dockerfile", dockerfile), ("file", "main"), (".dockerignore", "a.txt\n")]);
    let assets = directory(&build, "assets", &[("a.txt", "a"), ("b.log", "b"), (".dockerignore", "*.log\n")]);
    let icons = directory(&build, "icons", &[("deep/i.svg", "<svg/>")]);
    symlink("a.txt", assets.join("link")).unwrap();
    let build = build
        .flag(&format!("--build-context=assets={}", assets.display()))
        .flag(&format!("--build-context=docker.io/library/icons={}", icons.display()))
        .flag("--build-context=unused=/not/there");
    let image = build.run().succeeded().image();
    // G5: the ignore file of a named context holds for it, and the build context's does not.
    let stage = ["stage", "stage/.dockerignore", "stage/a.txt", "stage/link"];
    assert_eq!(image.paths(0), stage);
    assert_eq!((image.text("icon").as_str(), image.text("file").as_str()), ("<svg/>", "main"));
    let entry = image.entry("stage/a.txt");
    assert_eq!((entry.owner.as_str(), entry.time.as_str()), ("0/0", "1970-01-01 00:00:00"));
}

#[test]
fn f7_an_image_of_a_layout_replaces_a_base_with_its_configuration_and_triggers() {
    let base = "FROM scratch\nENV KIND=layout\nWORKDIR /srv\nONBUILD COPY file triggered\nCOPY file own\n";
    let base = Build::new(&[("Dockerfile", base), ("file", "base")]).run().succeeded();
    let dockerfile = "FROM company/base:1.2 AS base\nFROM base\nCOPY file second\n";
    let image = Build::new(&[("Dockerfile", dockerfile), ("file", "derived")])
        .flag(&format!("--build-context=company/base:1.2=oci-layout://{}:{TAG}", base.layout().display()))
        .run()
        .succeeded()
        .image();
    assert_eq!(image.config["config"]["Env"].as_array().unwrap()[1], "KIND=layout");
    let texts = ["srv/own", "srv/triggered", "srv/second"].map(|path| image.text(path));
    assert_eq!(texts, ["base", "derived", "derived"]);
}

#[test]
fn f7_an_image_of_a_registry_replaces_a_stage() {
    let registry = Registry::start();
    let tool = format!("{}/tool:1", registry.host());
    let insecure = format!("--insecure-registry={}", registry.host());
    let pushed = Build::new(&[("Dockerfile", "FROM scratch\nENV A=b\nCOPY tool /bin/\n"), ("tool", "built earlier")]);
    let pushed = pushed.flag(&insecure).destination(&tool).run().succeeded();
    let dockerfile = "FROM not-there AS build\nRUN false\nFROM build\nCOPY --from=build /bin/tool /copied\n";
    let ended = Build::new(&[("Dockerfile", dockerfile)])
        .flag(&insecure)
        .flag(&format!("--build-context=build=docker-image://{tool}"))
        .run()
        .succeeded();
    assert_eq!(ended.image().text("copied"), "built earlier");
    assert_eq!(ended.image().config["config"]["Env"][1], "A=b");
    let bases: Vec<&str> = ended.report.bases.iter().map(|base| base.digest.as_str()).collect();
    assert_eq!(bases, [pushed.digest()]);
}

#[test]
fn f7_a_context_for_another_platform_is_left_alone() {
    let dockerfile = "FROM base\nCOPY file /\n";
    Build::new(&[("Dockerfile", dockerfile), ("file", "")])
        .flag("--build-context=base::linux/s390x=oci-layout:///not/there")
        .flag(&format!("--build-context=base={}", busybox().replace("oci-layout:", "oci-layout://")))
        .run()
        .succeeded();
}

#[test]
fn f7_a_directory_is_no_base_and_the_line_is_named() {
    let build = Build::new(&[("Dockerfile", "FROM debian\n\nFROM assets\n")]);
    let assets = directory(&build, "assets", &[("a", "")]);
    let build = build.flag(&format!("--build-context=assets={}", assets.display()));
    build.run().failed(Reason::Unsupported, &["Dockerfile:3:6", "COPY --from=assets / /"]);
}

#[test]
fn f7_a_directory_that_is_not_there_is_named_with_its_context() {
    Build::new(&[("Dockerfile", "FROM scratch\nCOPY --from=assets / /\n")])
        .flag("--build-context=assets=/not/there")
        .run()
        .failed(Reason::ContextNotFound, &["Dockerfile:2", "the named context `assets`", "`/not/there`"]);
}

#[test]
fn g5_a_context_that_came_from_git_keeps_its_ignore_file() {
    // Unlike BuildKit's: an executor cannot tell how a tree came into its volume, and people who come from kaniko rely on it.
    let build =
        Build::new(&[("Dockerfile", "FROM scratch\nCOPY . /\n"), (".dockerignore", "*\n!a\n"), ("a", ""), ("b", "")]);
    let info = build.context().with_file_name("source.json");
    fs::write(&info, r#"{"revision":"main@sha1:0000000000000000000000000000000000000000","commitTime":86400}"#)
        .unwrap();
    let image = build.flag(&format!("--source-info={}", info.display())).run().succeeded().image();
    assert_eq!(image.paths(0), ["a"]);
    assert_eq!(image.entry("a").time, "1970-01-02 00:00:00");
}

#[test]
fn f7_files_of_two_contexts_are_told_apart() {
    // All three have a file of the same path.
    let dockerfile = "FROM scratch\nCOPY --from=one file /one\nCOPY --from=two file /two\nCOPY file /main\n";
    let build = Build::new(&[("Dockerfile", dockerfile), ("file", "main")]);
    let [one, two] = ["one", "two"].map(|name| directory(&build, name, &[("file", name)]));
    let build = build.flag(&format!("--build-context=one={}", one.display()));
    let image = build.flag(&format!("--build-context=two=dir://{}", two.display())).run().succeeded().image();
    assert_eq!(["one", "two", "main"].map(|path| image.text(path)), ["one", "two", "main"]);
}

#[test]
fn f7_names_of_the_dockerfile_win_over_nothing_else() {
    let layout = Build::new(&[("Dockerfile", "FROM scratch\nCOPY f /\n"), ("f", "context")]).run().succeeded();
    let dockerfile = "FROM scratch AS f\nCOPY f /\nFROM scratch\nCOPY --from=0 /f /\n";
    let build = Build::new(&[("Dockerfile", dockerfile), ("f", "stage")]);
    let value = reference(&layout.layout(), TAG).replace("oci-layout:", "oci-layout://");
    let image = build.flag(&format!("--build-context=f={value}")).run().succeeded().image();
    assert_eq!(image.text("f"), "context");
}
