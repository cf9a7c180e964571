//! Where the image and its digest end up: registry, layout, files, standard output; and that they are the same every time.

use std::{fs, path::Path, process::Command};

use karve_api::{ImageBuild, ImageBuildStatus};
use karve_tests::{images, inspect::Image, programs, registry::Registry};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::build::{Build, TAG};

const TWO_STAGES: &str = "\
ARG BASE
FROM ${BASE} AS build
ARG VERSION=0
WORKDIR /src
COPY greeting.txt .
RUN tr a-z A-Z < greeting.txt > loud.txt && echo \"version ${VERSION}\" >> loud.txt
FROM scratch
COPY --from=build /src/loud.txt /
LABEL from=dockerfile
CMD [\"/loud.txt\"]
";

fn two_stages() -> Build {
    Build::new(&[("Dockerfile", TWO_STAGES), ("greeting.txt", "hello\n")])
}

#[test]
fn an_image_is_pushed_under_every_tag_and_its_digest_is_written_down() {
    let registry = Registry::start();
    let repository = format!("{}/shop/web", registry.host());
    let files = TempDir::new().unwrap();
    let path = |name: &str| files.path().join(name);
    let ended = two_stages()
        .destination(&format!("{repository}:v1"))
        .destination(&format!("{repository}:latest"))
        .flag("--insecure")
        .flag("--build-arg=VERSION=7")
        .flag("--label=from=flag")
        .flag(&format!("--digest-file={}", path("digest").display()))
        .flag(&format!("--image-name-with-digest-file={}", path("name").display()))
        .flag(&format!("--image-name-tag-with-digest-file={}", path("tag").display()))
        .run()
        .succeeded();
    let image = Image::of_registry(registry.client(), "shop/web", "v1");
    assert_eq!(registry.tags("shop/web"), ["latest", "v1"]);
    assert_eq!(registry.digest("shop/web", "latest"), Some(image.digest.clone()));
    assert_eq!(image.text("loud.txt"), "HELLO\nversion 7\n");
    assert_eq!(image.config["config"]["Labels"], json!({"from": "flag"}));
    assert_eq!(image.config["config"]["Cmd"], json!(["/loud.txt"]));

    let digest = &image.digest;
    assert_eq!(ended.stdout, format!("{repository}@{digest}\n"));
    assert_eq!(fs::read_to_string(path("digest")).unwrap(), *digest);
    let name = format!("{repository}@{digest}\n");
    assert_eq!(fs::read_to_string(path("name")).unwrap(), name.repeat(2));
    let tags = format!("{repository}:v1@{digest}\n{repository}:latest@{digest}\n");
    assert_eq!(fs::read_to_string(path("tag")).unwrap(), tags);
    assert_eq!(ended.report.digest.as_ref(), Some(digest));
    assert_eq!(ended.report.image, Some(repository));
    assert_eq!(ended.report.isolation.as_deref(), Some("userns"));
}

#[test]
fn without_a_push_the_image_is_in_a_layout_that_others_read() {
    let ended = two_stages().run().succeeded();
    let image = ended.image();
    assert_eq!(ended.digest(), image.digest);
    let mut skopeo = Command::new("skopeo");
    skopeo.args(["inspect", "--format={{.Digest}}"]).arg(format!("oci:{}:{TAG}", ended.layout().display()));
    let output = skopeo.output().expect("skopeo is installed");
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim_end(), image.digest, "{output:?}");
}

#[test]
fn flags_without_a_command_build() {
    let help = |arguments: &[&str]| Command::new(programs::karve()).args(arguments).output().unwrap().stdout;
    let version = help(&["--version"]);
    assert!(String::from_utf8_lossy(&version).starts_with("karve "));
    let build = two_stages().flag("--target=build").run().succeeded();
    let context = build.layout().with_file_name("context");
    let output = Command::new(programs::karve())
        .args(["--target=build", "--no-push", "--oci-layout-path=layout-2", "--destination=registry.example/app:v1"])
        .arg(format!("--context=dir://{}", context.display()))
        .arg(format!("--build-arg=BASE={}", crate::build::busybox()))
        .current_dir(context.parent().unwrap())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let image = Image::of_layout(&context.with_file_name("layout-2"), "v1");
    assert_eq!(image.text("src/loud.txt"), "HELLO\nversion 0\n");
}

#[test]
fn two_builds_in_two_places_have_one_digest() {
    // What a step writes has the time when it wrote it: such files are not in this image.
    let dockerfile = "\
ARG BASE
FROM ${BASE} AS check
COPY . /src
RUN grep -r . /src > /dev/null
FROM ${BASE}
WORKDIR /app
COPY . .
COPY --from=check /src/b /bin/
RUN test -d /app
CMD [\"/bin/b\"]
";
    let digest = || Build::new(&[("Dockerfile", dockerfile), ("a", "1"), ("b", "2")]).run().succeeded().digest();
    assert_eq!(digest(), digest());
}

#[test]
fn the_time_of_the_image_is_what_is_asked_for() {
    let build = Build::new(&[("Dockerfile", "FROM scratch\nCOPY file /\nWORKDIR /app\n"), ("file", "")]);
    let image = build.environment("SOURCE_DATE_EPOCH", "86400").run().succeeded().image();
    assert_eq!(image.config["created"], "1970-01-02T00:00:00Z");
    for path in ["file", "app"] {
        assert_eq!(image.entry(path).time, "1970-01-02 00:00:00");
    }
}

#[test]
fn stages_that_the_target_does_not_need_are_not_built() {
    let dockerfile = "ARG BASE\nFROM ${BASE} AS broken\nRUN false\nFROM ${BASE} AS good\nCOPY file /\nFROM broken\n";
    let build = Build::new(&[("Dockerfile", dockerfile), ("file", "")]).flag("--target=good");
    assert_eq!(build.run().succeeded().image().paths(1), ["file"]);
}

#[test]
fn the_sample_runs_without_a_cluster_and_prints_its_status() {
    let directory = TempDir::new().unwrap();
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    let sample = fs::read_to_string(format!("{root}/config/samples/demo.yaml")).unwrap();
    let base = images::busybox().parent().unwrap().to_string_lossy().into_owned();
    let sample = sample.replace("oci-layout:target/base", &format!("oci-layout:{base}"));
    fs::write(directory.path().join("demo.yaml"), sample).unwrap();
    let mut karve = Command::new(programs::karve());
    karve.args(["run", "-f", "demo.yaml", "--work-dir=work"]).current_dir(directory.path());
    let output = karve.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

    let build: ImageBuild = serde_yaml::from_str(&String::from_utf8_lossy(&output.stdout)).expect("it prints YAML");
    let image = Image::of_layout(&directory.path().join("karve-output/demo"), "v1");
    let status = build.status.expect("the resource has a status");
    assert_eq!(status.image, Some(format!("registry.example/demo@{}", image.digest)));
    assert_eq!(status.digest, Some(image.digest.clone()));
    assert_eq!(status.isolation.as_deref(), Some("userns"));
    let ready = status.conditions.iter().find(|condition| condition.type_ == "Ready").expect("there is a condition");
    assert_eq!((ready.status.as_str(), ready.reason.as_str()), ("True", "Succeeded"));

    assert_eq!(image.text("www/index.html"), "<h1>Built by Karve, version 1.0</h1>\n");
    let page = image.entry("www/index.html");
    assert_eq!((page.owner.as_str(), page.mode.as_str()), ("10001/10001", "-rw-r--r--"));
    assert_eq!(image.entry("entrypoint").mode, "-rwxr-xr-x");
    assert_eq!(image.config["config"]["User"], "web");
}

/// Runs an ImageBuild with these flags, and returns its status.
fn run_manifest(manifest: &Value, directory: &Path, flags: &[&str]) -> ImageBuildStatus {
    fs::write(directory.join("build.yaml"), manifest.to_string()).unwrap();
    let mut karve = Command::new(programs::karve());
    let output = karve.args(["run", "-f", "build.yaml"]).args(flags).current_dir(directory).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let build: ImageBuild = serde_yaml::from_str(&String::from_utf8_lossy(&output.stdout)).expect("it prints YAML");
    build.status.expect("the resource has a status")
}

#[test]
fn a_manifest_that_is_pushed_has_the_cache_that_the_operator_would_give_it() {
    let registry = Registry::start();
    let directory = TempDir::new().unwrap();
    let mut manifest = json!({
        "apiVersion": "karve.dev/v1alpha1", "kind": "ImageBuild", "metadata": {"name": "web"},
        "spec": {
            "context": {"inline": {"files": {"Dockerfile": "FROM scratch\nCOPY file /\n", "file": "1"}}},
            "output": {"image": format!("{}/shop/web:v1", registry.host())},
            "registries": [{"host": registry.host(), "plainHTTP": true}],
        },
    });
    let cache = |status: &ImageBuildStatus| {
        let cache = status.last_build.as_ref().and_then(|last| last.cache.clone())?;
        Some((cache.hits?, cache.misses?))
    };
    assert_eq!(cache(&run_manifest(&manifest, directory.path(), &[])), None);
    assert_eq!(registry.tags("shop/web/cache"), Vec::<String>::new());

    assert_eq!(cache(&run_manifest(&manifest, directory.path(), &["--push"])), Some((0, 1)));
    assert_ne!(registry.tags("shop/web/cache"), Vec::<String>::new());
    let again = run_manifest(&manifest, directory.path(), &["--push"]);
    assert_eq!(cache(&again), Some((1, 0)));
    assert!(again.conditions[0].message.ends_with("; 1 of 1 steps cached"), "{:?}", again.conditions);

    manifest["spec"]["context"]["inline"]["files"]["file"] = json!("2");
    let changed = run_manifest(&manifest, directory.path(), &["--push"]);
    assert_eq!(cache(&changed), Some((0, 1)));
    let missed = changed.last_build.unwrap().cache.unwrap().missed.expect("it says why");
    assert!(missed.contains("line 2 `COPY file /`: ") && missed.ends_with("file changed"), "{missed}");

    manifest["spec"]["cache"] = json!({"disabled": true});
    assert_eq!(cache(&run_manifest(&manifest, directory.path(), &["--push"])), None);
    manifest["spec"]["cache"] = json!({"repository": format!("{}/other", registry.host())});
    assert_eq!(cache(&run_manifest(&manifest, directory.path(), &["--push"])), Some((0, 1)));
    assert_ne!(registry.tags("other"), Vec::<String>::new());
}
