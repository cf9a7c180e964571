//! BuildKit as a server of the tests: it builds, and leaves nothing behind.

use std::{fs, path::PathBuf, process};

use karve_tests::{buildkit::BuildKit, images, inspect::Image, registry::Registry};
use tempfile::TempDir;

#[test]
fn a_daemon_builds_pushes_and_leaves_nothing() {
    let before = cgroups();
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
    assert_eq!(cgroups(), before);
}

/// The cgroups that a daemon and its steps could leave: its own, and BuildKit's where it does not know of that.
fn cgroups() -> Vec<PathBuf> {
    let own = format!("karve-judge-{}", process::id());
    let hierarchies = fs::read_dir("/sys/fs/cgroup").unwrap().map(|entry| entry.unwrap().path());
    let hierarchies = hierarchies.chain([PathBuf::from("/sys/fs/cgroup")]);
    hierarchies.flat_map(|path| [path.join(&own), path.join("buildkit")]).filter(|path| path.exists()).collect()
}
