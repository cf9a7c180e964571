//! Base images for tests: OCI layouts that `tests/cluster/images.sh` makes of Debian packages, the same bytes every time.

use std::path::PathBuf;

use crate::scripts;

/// The tag of every image here, in its layout and in the registries of the node.
pub const TAG: &str = "1";

/// Returns the layout of busybox: a shell with all common commands, root and one more user, one layer.
#[track_caller]
pub fn busybox() -> PathBuf {
    layout("busybox")
}

/// Returns the layout of a minimal Debian; it takes a minute and a mirror the first time.
#[track_caller]
pub fn debian() -> PathBuf {
    layout("debian")
}

#[track_caller]
fn layout(name: &str) -> PathBuf {
    let directory =
        scripts::run("images.sh", &[name]).unwrap_or_else(|| panic!("images.sh cannot make `{name}`: see above"));
    PathBuf::from(directory).join(name)
}
