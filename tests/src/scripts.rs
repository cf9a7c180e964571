//! Runs the scripts of `tests/cluster`: name and arguments in, standard output out.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// Returns the path of a script.
pub(crate) fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("cluster").join(name)
}

/// Runs a script to its end and returns its standard output; its messages go where the test's go. `None` when it failed.
pub(crate) fn run(name: &str, arguments: &[&str]) -> Option<String> {
    let command = Command::new(path(name)).args(arguments).stdin(Stdio::null()).stderr(Stdio::inherit()).output();
    let output = command.unwrap_or_else(|error| panic!("{} cannot be started: {error}", path(name).display()));
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
}
