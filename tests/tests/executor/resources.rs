//! What a build costs: memory that does not grow with its layers, and no unpacking where no step runs.

use std::{fs::File, path::Path};

use tempfile::TempDir;

use crate::build::{Build, Ended, TAG, reference};

const MEBIBYTE: u64 = 1 << 20;

/// The most memory that the executor and its helpers may hold together, whatever the layer.
const MEMORY_BYTES_MAX: u64 = 150 * MEBIBYTE;

/// Writes a file of zeros that takes no room.
fn write_zeros(path: &Path, bytes: u64) {
    File::create(path).unwrap().set_len(bytes).unwrap();
}

#[track_caller]
fn check_memory(ended: &Ended) {
    let mebibytes = ended.memory_bytes_peak / MEBIBYTE;
    assert!(ended.memory_bytes_peak > 5 * MEBIBYTE, "{mebibytes} MiB cannot be all of it");
    assert!(ended.memory_bytes_peak <= MEMORY_BYTES_MAX, "{mebibytes} MiB");
}

#[test]
fn a_gibibyte_that_is_copied_fits_into_little_memory() {
    let build = Build::new(&[("Dockerfile", "FROM scratch\nCOPY large /\n")]);
    write_zeros(&build.context().join("large"), 1024 * MEBIBYTE);
    check_memory(&build.run().succeeded());
}

#[test]
fn a_gibibyte_that_a_step_wrote_fits_into_little_memory() {
    let run = "RUN dd if=/dev/urandom of=/noise bs=1M count=256 && dd if=/dev/zero of=/zeros bs=1M count=768";
    let build = Build::new(&[("Dockerfile", &format!("ARG BASE\nFROM ${{BASE}}\n{run}\n"))]);
    check_memory(&build.run().succeeded());
}

#[test]
fn a_cache_mount_is_saved_and_restored_in_little_memory() {
    let cache = TempDir::with_prefix("karve-cache-").unwrap();
    let run = |command: &str| {
        let dockerfile = format!("ARG BASE\nFROM ${{BASE}}\nRUN --mount=type=cache,target=/c {command}\n");
        let build = Build::new(&[("Dockerfile", &dockerfile)]).flag("--cache-run-layers=false");
        let ended = build.flag(&format!("--cache-repo=oci:{}", cache.path().display())).run().succeeded();
        check_memory(&ended);
        ended.stderr
    };
    let filled = run("dd if=/dev/urandom of=/c/noise bs=1M count=192 && dd if=/dev/zero of=/c/zeros bs=1M count=320");
    assert!(filled.contains("cache mount /c: saved 536 MB"), "{filled}");
    let used = run("ls /c/noise && touch /c/used");
    assert!(used.contains("cache mount /c: restored 536 MB") && used.contains("saved 536 MB"), "{used}");
}

#[test]
fn copying_onto_a_large_base_unpacks_nothing() {
    let base = Build::new(&[("Dockerfile", "FROM scratch\nCOPY large usr /usr/\n"), ("usr/lib/x", "")]);
    write_zeros(&base.context().join("large"), 500 * MEBIBYTE);
    let base = base.run().succeeded();
    let dockerfile = format!(
        "FROM {} AS base\nWORKDIR /app\nCOPY --chown=1000 . .\nFROM base\nCOPY --from=base /app/file /usr/lib/\nENV A=1\n",
        reference(&base.layout(), TAG)
    );
    let ended = Build::new(&[("Dockerfile", &dockerfile), ("file", "")]).run().succeeded();
    assert_eq!(ended.image().entry("usr/lib/file").owner, "1000/1000");
    assert_eq!(ended.report.isolation, None, "no sandbox was needed");
    let directories: Vec<&String> = ended
        .work
        .iter()
        .filter(|kind| ["base", "lower", "upper", "root", "overlay"].contains(&kind.as_str()))
        .collect();
    assert!(directories.is_empty(), "root file systems were made: {directories:?}");
    check_memory(&ended);
}

#[test]
fn a_step_materialises_its_base_where_the_work_directory_is() {
    // The counterpart of the test above: what it does not see is what this one sees.
    let ended = Build::new(&[("Dockerfile", "ARG BASE\nFROM ${BASE}\nRUN sleep 1\n")]).run().succeeded();
    assert!(ended.work.contains("base"), "{:?}", ended.work);
}
