//! The registry client against a real registry (Debian's `docker-registry`) and against one that misbehaves on purpose.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on should panic where it stands")]

mod docker_registry;
mod faults;
mod layout;

use std::{collections::BTreeMap, path::Path, time::Duration};

use karve::{
    image::{
        digest::Digest,
        manifest::{self, Descriptor, ImageIndex, OCI_CONFIG, OCI_INDEX, OCI_MANIFEST},
        reference::{Reference, Repository},
    },
    layer::Compression,
    registry::{HostPolicy, RegistryOptions, retry::RetryPolicy},
};

/// Options for one registry that speaks plain http, with pauses that a test can wait for.
fn options(host: &str) -> RegistryOptions {
    let policy = HostPolicy { plain_http: true, ..HostPolicy::default() };
    let millisecond = Duration::from_millis(1);
    RegistryOptions {
        hosts: BTreeMap::from([(host.to_owned(), policy)]),
        retry: RetryPolicy { base: millisecond, backoff_max: millisecond, ..RetryPolicy::default() },
        ..RegistryOptions::default()
    }
}

fn repository(host: &str, name: &str) -> Repository {
    format!("{host}/{name}").parse().unwrap()
}

fn reference(text: &str) -> Reference {
    text.parse().unwrap()
}

/// Bytes that do not compress and differ by seed.
fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let step = |state: &mut u64| {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        state.to_le_bytes()[3]
    };
    (0..length).map(|_| step(&mut state)).collect()
}

fn layer(bytes: &[u8]) -> Descriptor {
    Descriptor::of(manifest::layer_media_type(Compression::Gzip), bytes)
}

/// The configuration of an image whose layers stand for themselves.
fn config(architecture: &str, layers: &[Descriptor]) -> Vec<u8> {
    let diff_ids: Vec<String> = layers.iter().map(|layer| layer.digest.to_string()).collect();
    let document = serde_json::json!({
        "architecture": architecture, "os": "linux", "config": {"Env": ["A=b"]},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    });
    serde_json::to_vec(&document).unwrap()
}

/// The documents of an image: configuration and manifest.
fn image(architecture: &str, layers: &[Descriptor]) -> (Vec<u8>, Vec<u8>) {
    let config = config(architecture, layers);
    let manifest = manifest::manifest(&Descriptor::of(OCI_CONFIG, &config), layers, &BTreeMap::new()).unwrap();
    (config, manifest)
}

/// An index of manifests and their platforms.
fn index(manifests: &[(&str, &[u8])]) -> Vec<u8> {
    let entry = |(platform, bytes): &(&str, &[u8])| Descriptor {
        platform: Some(platform.parse().unwrap()),
        ..Descriptor::of(OCI_MANIFEST, bytes)
    };
    let manifests = manifests.iter().map(entry).collect();
    serde_json::to_vec(&ImageIndex { media_type: Some(OCI_INDEX.into()), manifests, ..ImageIndex::default() }).unwrap()
}

/// Asserts that a directory holds exactly these names: no unfinished file was left.
#[track_caller]
fn holds(directory: &Path, expected: &[&str]) {
    let entries = std::fs::read_dir(directory).unwrap();
    let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names, expected);
}

fn digest(bytes: &[u8]) -> Digest {
    Digest::of(bytes)
}
