//! BuildKit as a server of the tests: it builds, and leaves nothing behind.

use std::{fs, path::Path, process};

use karve_tests::{buildkit::BuildKit, images, inspect::Image, registry::Registry};
use tempfile::TempDir;

#[test]
fn a_daemon_builds_pushes_and_leaves_nothing() {
    let registry = Registry::start();
    let buildkit = BuildKit::start(registry.host());
    let context = TempDir::new().unwrap();
    fs::write(context.path().join("Dockerfile"), "FROM stored\nRUN echo built > /file\n").unwrap();
    let mut command = buildkit.build();
    for name in ["context", "dockerfile"] {
        command.arg(format!("--local={name}={}", context.path().display()));
    }
    let digest = Image::of_layout(&images::busybox(), images::TAG).digest;
    command.arg(format!("--oci-layout=layout={}", images::busybox().display()));
    command.arg(format!("--opt=context:stored=oci-layout://layout@{digest}"));
    command.arg(format!("--output=type=image,push=true,name={}/built:1", registry.host()));
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(Image::of_registry(registry.client(), "built", "1").text("file"), "built\n");
    drop(buildkit);
    let mounts = fs::read_to_string("/proc/mounts").unwrap();
    assert!(!mounts.contains("karve-judge"), "{mounts}");
    let hierarchies = fs::read_dir("/sys/fs/cgroup").unwrap().map(|entry| entry.unwrap().path());
    let cgroup = format!("karve-judge-{}", process::id());
    let left: Vec<_> =
        hierarchies.chain([Path::new("/sys/fs/cgroup").to_owned()]).map(|path| path.join(&cgroup)).collect();
    assert!(left.iter().all(|path| !path.exists()), "{left:?}");
}
