//! OCI layouts on disk, for tests: images made of lists of files in, and what a layout holds, to be read or damaged, out.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::archive;

/// The annotation that names an image of a layout.
const NAME: &str = "org.opencontainers.image.ref.name";

/// A directory that is a layout, or will be.
#[derive(Debug, Clone)]
pub struct Layout(PathBuf);

impl Layout {
    /// Names a layout that is there, or that somebody else writes.
    pub fn at(path: &Path) -> Self {
        Self(path.to_owned())
    }

    /// Makes an empty layout in a directory that may not exist.
    pub fn create(path: &Path) -> Self {
        let layout = Self(path.to_owned());
        fs::create_dir_all(path.join("blobs/sha256")).expect("there is room for a layout");
        fs::write(path.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).expect("the directory is ours");
        layout.write_index(&json!({"schemaVersion": 2, "manifests": []}));
        layout
    }

    /// Returns the directory.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Writes an image under a tag, in place of one that has it. Each layer is a list of files as
    /// [`archive::tar`] reads them; `config` is the `config` of the configuration.
    pub fn write_image(&self, tag: &str, layers: &[&str], config: &Value) {
        self.write_layers(tag, Vec::new(), Vec::new(), layers, config);
    }

    /// Does the same as [`Layout::write_image`] with the layers on top of another image's.
    pub fn derive_image(&self, tag: &str, base: &Self, base_tag: &str, layers: &[&str], config: &Value) {
        let manifest = base.manifest(base_tag);
        let text = |value: &Value| value["digest"].as_str().expect("a descriptor has a digest").to_owned();
        let base_config: Value =
            serde_json::from_slice(&base.blob(&text(&manifest["config"]))).expect("a configuration is JSON");
        let list = |value: &Value| value.as_array().expect("it is a list").clone();
        let base_layers = list(&manifest["layers"]);
        for layer in &base_layers {
            fs::write(self.blob_path(&text(layer)), base.blob(&text(layer))).expect("the directory is ours");
        }
        self.write_layers(tag, base_layers, list(&base_config["rootfs"]["diff_ids"]), layers, config);
    }

    fn write_layers(
        &self,
        tag: &str,
        mut descriptors: Vec<Value>,
        mut diff_ids: Vec<Value>,
        layers: &[&str],
        config: &Value,
    ) {
        let media_type = |kind: &str| format!("application/vnd.oci.image.{kind}");
        for list in layers {
            let tar = archive::tar(list, tag);
            diff_ids.push(digest(&tar).into());
            descriptors.push(self.write_blob(&media_type("layer.v1.tar"), &tar));
        }
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        let config = json!({
            "architecture": architecture,
            "os": "linux",
            "config": config,
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": media_type("manifest.v1+json"),
            "config": self.write_blob(&media_type("config.v1+json"), config.to_string().as_bytes()),
            "layers": descriptors,
        });
        self.write_manifest(tag, &manifest);
    }

    /// Writes a manifest under a tag, in place of one that has it.
    pub fn write_manifest(&self, tag: &str, manifest: &Value) {
        let mut descriptor =
            self.write_blob("application/vnd.oci.image.manifest.v1+json", manifest.to_string().as_bytes());
        descriptor["annotations"] = json!({NAME: tag});
        self.retain(|other| other != tag);
        let mut index = self.index();
        index["manifests"].as_array_mut().expect("an index lists manifests").push(descriptor);
        self.write_index(&index);
    }

    /// Returns all tags, in the order of the index.
    pub fn tags(&self) -> Vec<String> {
        let index = self.index();
        let manifests = index["manifests"].as_array().expect("an index lists manifests").iter();
        manifests.filter_map(|manifest| Some(manifest["annotations"][NAME].as_str()?.to_owned())).collect()
    }

    /// Removes the tags that `keep` does not want; blobs stay.
    pub fn retain(&self, mut keep: impl FnMut(&str) -> bool) {
        let mut index = self.index();
        let manifests = index["manifests"].as_array_mut().expect("an index lists manifests");
        manifests.retain(|manifest| manifest["annotations"][NAME].as_str().is_none_or(&mut keep));
        self.write_index(&index);
    }

    /// Returns the digest of the manifest with the tag; panics when there is none.
    #[track_caller]
    pub fn digest(&self, tag: &str) -> String {
        let index = self.index();
        let mut manifests = index["manifests"].as_array().expect("an index lists manifests").iter();
        let found = manifests.find(|manifest| manifest["annotations"][NAME] == tag);
        let found = found.unwrap_or_else(|| panic!("{} has no image with the tag `{tag}`", self.0.display()));
        found["digest"].as_str().expect("a descriptor has a digest").to_owned()
    }

    /// Returns the manifest with the tag; panics when there is none.
    #[track_caller]
    pub fn manifest(&self, tag: &str) -> Value {
        serde_json::from_slice(&self.blob(&self.digest(tag))).expect("a manifest is JSON")
    }

    /// Returns the bytes of a blob; panics when there is none.
    #[track_caller]
    pub fn blob(&self, digest: &str) -> Vec<u8> {
        let path = self.blob_path(digest);
        fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    /// Returns the path of a blob, which may be missing.
    pub fn blob_path(&self, digest: &str) -> PathBuf {
        self.0.join("blobs").join(digest.replace(':', "/"))
    }

    /// Returns the paths of all blobs.
    pub fn blobs(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.0.join("blobs/sha256")).expect("a layout has blobs");
        entries.map(|entry| entry.expect("the directory is ours").path()).collect()
    }

    /// Writes a blob and returns its descriptor.
    fn write_blob(&self, media_type: &str, bytes: &[u8]) -> Value {
        let digest = digest(bytes);
        fs::write(self.blob_path(&digest), bytes).expect("the directory is ours");
        json!({"mediaType": media_type, "digest": digest, "size": bytes.len()})
    }

    fn index(&self) -> Value {
        let path = self.0.join("index.json");
        let index = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        serde_json::from_slice(&index).expect("an index is JSON")
    }

    fn write_index(&self, index: &Value) {
        fs::write(self.0.join("index.json"), index.to_string()).expect("the directory is ours");
    }
}

/// Writes bytes as people write digests.
pub fn hex(bytes: &[u8]) -> String {
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 0xf]);
    digits.map(|digit| char::from_digit(digit.into(), 16).expect("four bits are a digit")).collect()
}

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex(&Sha256::digest(bytes)))
}
