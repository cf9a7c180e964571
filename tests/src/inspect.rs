//! What is in an image: a registry or an OCI layout in, its manifest, configuration and the entries of its layers out.
//!
//! GNU tar reads the layers: a reader that shares no code with the writer under test.

use std::{
    io::Write as _,
    path::Path,
    process::{Command, Output},
};

use serde_json::Value;
use tempfile::NamedTempFile;

use crate::{layout::Layout, registry::RegistryClient};

/// An image, all of it on disk.
#[derive(Debug)]
pub struct Image {
    /// The digest of the manifest.
    pub digest: String,
    /// The manifest.
    pub manifest: Value,
    /// The configuration: what runs, and the history.
    pub config: Value,
    layers: Vec<NamedTempFile>,
}

/// One entry of a layer, in the words of `tar --list --verbose`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Type and permissions, such as `-rwxr-xr-x`.
    pub mode: String,
    /// Owner and group by number, such as `0/0`.
    pub owner: String,
    /// Time of the last change, in UTC.
    pub time: String,
    /// The path without `/` at either end.
    pub path: String,
    /// Where a link leads.
    pub target: Option<String>,
}

impl Image {
    /// Reads an image by tag or digest; panics when the registry has none.
    #[track_caller]
    pub fn of_registry(registry: &RegistryClient, repository: &str, reference: &str) -> Self {
        let digest = registry.digest(repository, reference);
        let digest = digest.unwrap_or_else(|| panic!("the registry has no {repository}, {reference}"));
        let manifest = registry.manifest(repository, &digest).expect("a registry has what it names");
        let blob = |digest: &str| registry.blob(repository, digest).expect("a registry has the blobs of a manifest");
        Self::new(digest, &manifest, blob)
    }

    /// Reads the image of an OCI layout with the tag; panics when there is none.
    #[track_caller]
    pub fn of_layout(layout: &Path, tag: &str) -> Self {
        let layout = Layout::at(layout);
        let digest = layout.digest(tag);
        Self::new(digest.clone(), &layout.blob(&digest), |digest| layout.blob(digest))
    }

    fn new(digest: String, manifest: &[u8], blob: impl Fn(&str) -> Vec<u8>) -> Self {
        let manifest = json(manifest);
        let config = json(&blob(&text(&manifest["config"]["digest"])));
        let layers = manifest["layers"].as_array().expect("a manifest lists layers").iter();
        let layers = layers.map(|layer| {
            let mut file = NamedTempFile::with_prefix("karve-layer-").expect("there is room for a layer");
            file.write_all(&blob(&text(&layer["digest"]))).expect("the file is ours");
            file
        });
        Self { digest, layers: layers.collect(), manifest, config }
    }

    /// Returns how many layers there are.
    pub fn layers(&self) -> usize {
        self.layers.len()
    }

    /// Returns the entries of a layer, in its order; the lowest layer is 0.
    pub fn entries(&self, layer: usize) -> Vec<Entry> {
        let output = tar(&self.layers[layer], &["--list", "--verbose", "--numeric-owner", "--utc", "--full-time"]);
        assert!(output.status.success(), "tar cannot read layer {layer}: {output:?}");
        String::from_utf8_lossy(&output.stdout).lines().map(entry).collect()
    }

    /// Returns the paths of a layer, in its order.
    pub fn paths(&self, layer: usize) -> Vec<String> {
        self.entries(layer).into_iter().map(|entry| entry.path).collect()
    }

    /// Returns the entry of a path in the topmost layer that has one.
    #[track_caller]
    pub fn entry(&self, path: &str) -> Entry {
        let mut layers = (0..self.layers()).rev();
        let found = layers.find_map(|layer| self.entries(layer).into_iter().find(|entry| entry.path == path));
        found.unwrap_or_else(|| panic!("no layer of {} has {path}", self.digest))
    }

    /// Returns the content of a file in the topmost layer that has it.
    #[track_caller]
    pub fn text(&self, path: &str) -> String {
        let mut outputs = self.layers.iter().rev().map(|layer| tar(layer, &["--extract", "--to-stdout", path]));
        let found = outputs.find(|output| output.status.success());
        let found = found.unwrap_or_else(|| panic!("no layer of {} has {path}", self.digest));
        String::from_utf8_lossy(&found.stdout).into_owned()
    }

    /// Tells whether the bytes stand anywhere in the configuration, the manifest or the layers, unpacked.
    pub fn contains(&self, wanted: &str) -> bool {
        let everything = self.layers.iter().map(|layer| {
            let file = layer.reopen().expect("the file is ours");
            let mut gzip = Command::new("gzip");
            gzip.args(["--decompress", "--stdout"]).stdin(file).output().expect("every Debian has gzip").stdout
        });
        let documents = [self.config.to_string().into_bytes(), self.manifest.to_string().into_bytes()];
        everything.chain(documents).any(|bytes| bytes.windows(wanted.len()).any(|window| window == wanted.as_bytes()))
    }
}

fn tar(layer: &NamedTempFile, arguments: &[&str]) -> Output {
    let mut command = Command::new("tar");
    command.env("LC_ALL", "C").arg("--gzip").arg("--file").arg(layer.path()).args(arguments);
    command.output().expect("every Debian has tar")
}

/// Reads a line such as `-rw-r--r-- 0/0  5 1970-01-01 00:00:00 app/file`.
fn entry(line: &str) -> Entry {
    let mut rest = line;
    let mut word = || {
        let (word, tail) = rest.trim_start().split_once(' ').expect("tar prints five columns before the name");
        rest = tail;
        word.to_owned()
    };
    let (mode, owner, _size, day, time) = (word(), word(), word(), word(), word());
    let name = rest.trim_start();
    let linked = name.split_once(" -> ").or_else(|| name.split_once(" link to "));
    let (path, target) = linked.map_or((name, None), |(path, target)| (path, Some(target.to_owned())));
    Entry { mode, owner, time: format!("{day} {time}"), path: path.trim_matches('/').to_owned(), target }
}

fn json(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).expect("a document of an image is JSON")
}

fn text(value: &Value) -> String {
    value.as_str().expect("a digest is text").to_owned()
}
