//! The paths of the two programs under test and of their images, beside the test program in cargo's target directory.

use std::{env, path::PathBuf};

/// Returns the path of `karve`, the executor and command line.
#[track_caller]
pub fn karve() -> PathBuf {
    program("karve")
}

/// Returns the path of `karve-operator`.
#[track_caller]
pub fn operator() -> PathBuf {
    program("karve-operator")
}

/// Returns the directory with the images of both programs, as OCI layouts, that `make images` builds.
#[track_caller]
pub fn images() -> PathBuf {
    // TARGET/images, and the programs are in TARGET/MACHINE/debug.
    let path = karve().ancestors().nth(3).expect("cargo puts programs three levels deep").join("images");
    assert!(path.exists(), "{} is missing: run `make images` first", path.display());
    path
}

#[track_caller]
fn program(name: &str) -> PathBuf {
    let test = env::current_exe().expect("a program knows its own path");
    // TARGET/debug/deps/TEST-HASH, and the programs are in TARGET/debug.
    let directory = test.ancestors().nth(2).expect("cargo puts tests two levels deep");
    let path = directory.join(name);
    assert!(path.exists(), "{} is missing: run `cargo build --workspace` first", path.display());
    path
}
