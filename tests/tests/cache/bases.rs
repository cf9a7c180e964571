//! The base images that projects change between: busybox, and images that add something to it.

use karve_tests::{images, layout::Layout};
use serde_json::json;
use tempfile::TempDir;

/// Base images in one layout.
#[derive(Debug)]
pub(crate) struct Bases {
    layout: Layout,
    _directory: TempDir,
}

impl Bases {
    /// How many there are.
    pub(crate) const COUNT: usize = 4;

    /// Writes them.
    pub(crate) fn write() -> Self {
        let directory = TempDir::with_prefix("karve-bases-").expect("there is room for images");
        let layout = Layout::create(&directory.path().join("bases"));
        let path = json!({"Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]});
        let busybox = Layout::at(&images::busybox());
        let on_busybox =
            |tag: &str, layers: &[&str], config| layout.derive_image(tag, &busybox, images::TAG, layers, config);
        on_busybox("0", &[], &path);
        // The same files, but not the same layers.
        on_busybox("1", &["tmp/ 1777 0:0"], &path);
        // Other files where COPY and RUN look.
        on_busybox("2", &["d/ 750 3:4\nd/old 644 3:4 = old\nw/ 700 0:0\nw/link -> ../d"], &path);
        // Another configuration.
        let config = json!({"Env": [path["Env"][0], "A=base", "X=base"], "WorkingDir": "/w", "User": "user"});
        on_busybox("3", &["tmp/ 1777 0:0", "w/ 755 1000:1000"], &config);
        Self { layout, _directory: directory }
    }

    /// Returns the reference of one.
    pub(crate) fn reference(&self, number: usize) -> String {
        format!("oci-layout:{}:{}", self.layout.path().display(), number % Self::COUNT)
    }
}
