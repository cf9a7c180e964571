//! Documents that are made from the program: a text comes in, and is what the file of that name holds, or the test fails.

use std::{fs, path::Path};

/// Set to anything, it makes the tests write the files instead of comparing them.
const UPDATE: &str = "KARVE_UPDATE_DOCS";

/// Compares a file, named from the workspace's root, with what it should hold.
#[track_caller]
pub(crate) fn check(file: &str, expected: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(file);
    if std::env::var_os(UPDATE).is_some() {
        fs::write(&path, expected).unwrap();
    }
    let found = fs::read_to_string(&path).unwrap_or_default();
    assert!(found == expected, "{file} is stale: run `make generate`");
}
