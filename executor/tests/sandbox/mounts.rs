//! What a step can do with mounts of the executor's directories.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use karve::sandbox::{
    error::{Failure, SandboxError},
    request::{Exit, Mount, OverlayMount, UpperDirectories},
};

use super::fixture::Fixture;

/// A directory beside the image with a file, a directory and links out of it.
fn files(fixture: &Fixture) -> PathBuf {
    let files = fixture.path("files");
    fs::create_dir_all(files.join("d/e")).unwrap();
    fs::write(files.join("d/f"), "content\n").unwrap();
    symlink(fixture.path("outside"), files.join("out")).unwrap();
    symlink("../../../outside", files.join("up")).unwrap();
    fs::write(fixture.path("outside"), "outside\n").unwrap();
    files
}

fn overlay(files: &Path, source: &str) -> OverlayMount {
    OverlayMount { target: "/m".into(), lowers: vec![files.to_owned()], source: source.into(), upper: None }
}

/// Returns the output of a script with mounts, and the attributes of what is mounted at `/m`.
#[track_caller]
fn run(fixture: &Fixture, script: &str, mounts: Vec<Mount>) -> String {
    let mut step = fixture.step(&format!("{script}; grep ' /m ' /proc/self/mountinfo | cut -d' ' -f6"));
    step.mounts = mounts;
    let (exit, output) = Fixture::run(step);
    assert_eq!(exit, Exit::Code(0), "{output}");
    output
}

#[test]
fn r3_a_part_of_an_overlay_is_read_only_and_has_no_devices() {
    let Some(fixture) = Fixture::new() else { return };
    let files = files(&fixture);
    let part = |source| vec![Mount::Overlay(overlay(&files, source))];
    let script = "ls /m; touch /m/x 2>/dev/null || echo refused; ls -d /m/.. | wc -l";
    assert_eq!(run(&fixture, script, part("/d")), "e\nf\nrefused\n1\nro,nodev,relatime\n");
    let script = "cat /m; echo x 2>/dev/null > /m || echo refused";
    assert_eq!(run(&fixture, script, part("d/../d/f")), "content\nrefused\nro,nodev,relatime\n");
    assert!(!fixture.is_mounted());
}

#[test]
fn r3_a_writable_part_leaves_its_lower_directories_alone() {
    let Some(fixture) = Fixture::new() else { return };
    let files = files(&fixture);
    let upper = UpperDirectories { upper: fixture.path("mount-upper"), work: fixture.path("mount-work") };
    fs::create_dir_all(&upper.upper).unwrap();
    fs::create_dir_all(&upper.work).unwrap();
    let mount = OverlayMount { upper: Some(upper), ..overlay(&files, "/") };
    let script = "stat -c %a /m; rm -r /m/d; mkdir /m/d; echo x > /m/d/f; cat /m/d/f";
    assert_eq!(run(&fixture, script, vec![Mount::Overlay(mount)]), "755\nx\nrw,nodev,relatime\n");
    assert_eq!(fs::read_to_string(files.join("d/f")).unwrap(), "content\n");
    assert!(files.join("d/e").is_dir());
    assert_eq!(fixture.changes(), ["/made", "/made/here"]);
}

#[test]
fn r3_links_of_what_is_mounted_stay_inside() {
    let Some(fixture) = Fixture::new() else { return };
    let files = files(&fixture);
    for source in ["/out", "/up", "/../outside", "/missing", "/d/f/x"] {
        let own = Mount::Own { target: "/m".into(), root: files.clone(), source: source.into(), read_only: false };
        for mount in [own, Mount::Overlay(overlay(&files, source))] {
            let mut step = fixture.step("true");
            step.mounts = vec![mount];
            let (result, _) = Fixture::run_with(step, |_, _| ());
            let Err(SandboxError::Failed(failure)) = result else { panic!("{source}: {result:?}") };
            assert_eq!(failure, Failure::MountSource { path: source.into(), target: "/m".into() });
        }
    }
}

#[test]
fn r4_a_directory_of_the_executor_is_mounted_as_it_is() {
    let Some(fixture) = Fixture::new() else { return };
    let files = files(&fixture);
    let own = |read_only| vec![Mount::Own { target: "/m".into(), root: files.clone(), source: "/d".into(), read_only }];
    assert_eq!(run(&fixture, "echo new > /m/new; cat /m/f", own(false)), "content\nrw,nodev,relatime\n");
    assert_eq!(fs::read_to_string(files.join("d/new")).unwrap(), "new\n");
    assert_eq!(run(&fixture, "touch /m/x 2>/dev/null || echo refused", own(true)), "refused\nro,nodev,relatime\n");
    // What lies beside it cannot be reached, nor what is outside be linked into it.
    let script = "cat /m/../outside 2>/dev/null || echo refused; ls /m/..";
    assert_eq!(
        run(&fixture, script, own(false)),
        "refused\nbin\ndev\netc\nm\nmade\nproc\nsys\ntmp\nrw,nodev,relatime\n"
    );
    assert_eq!(fixture.changes(), ["/made", "/made/here"]);
}

#[test]
fn r5_a_tmpfs_may_be_read_only() {
    let Some(fixture) = Fixture::new() else { return };
    let tmpfs = |read_only| vec![Mount::Tmpfs { target: "/m".into(), size: None, read_only }];
    assert_eq!(run(&fixture, "touch /m/x && ls /m", tmpfs(false)), "x\nrw,nosuid,relatime\n");
    assert_eq!(run(&fixture, "touch /m/x 2>/dev/null || echo refused", tmpfs(true)), "refused\nro,nosuid,relatime\n");
}
