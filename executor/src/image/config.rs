//! The image configuration (OCI image-spec, config.md) with the fields that Docker adds and the specification does not
//! name: `Healthcheck`, `OnBuild`, `Shell`. Whatever else a base image carries is kept as it came.

#![expect(clippy::zero_sized_map_values, reason = "the specification writes sets as objects with empty values")]

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::digest::Digest;

/// The configuration document of an image.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ImageConfig {
    /// When the image was made, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// Who made it (`MAINTAINER`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    /// The CPU architecture in Go's words, such as `amd64`.
    pub architecture: String,
    /// The operating system, `linux`.
    pub os: String,
    /// The variant of the architecture, such as `v7`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// What a container of this image runs by default.
    #[serde(default)]
    pub config: ContainerConfig,
    /// The layers' uncompressed digests, lowest first.
    pub rootfs: RootFs,
    /// One record for each instruction, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<History>,
    /// Fields that this version does not know.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// The execution parameters of an image. An absent list and an empty one mean the same when read; absent ones are not written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ContainerConfig {
    /// `USER`, as written in the Dockerfile.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub user: String,
    /// `EXPOSE`: `port/protocol`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_as_default")]
    pub exposed_ports: BTreeMap<String, Empty>,
    /// `ENV`: `KEY=value` in the order of first setting.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    pub env: Vec<String>,
    /// `ENTRYPOINT`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<Vec<String>>,
    /// `CMD`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cmd: Option<Vec<String>>,
    /// `VOLUME`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_as_default")]
    pub volumes: BTreeMap<String, Empty>,
    /// `WORKDIR`, absolute but not normalised.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub working_dir: String,
    /// `LABEL`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_as_default")]
    pub labels: BTreeMap<String, String>,
    /// `STOPSIGNAL`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub stop_signal: String,
    /// `HEALTHCHECK`; durations are nanoseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<Healthcheck>,
    /// `ONBUILD` triggers, as written.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    pub on_build: Vec<String>,
    /// `SHELL`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shell: Option<Vec<String>>,
    /// Fields that this version does not know.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// The value of a set that JSON writes as a map: `{}`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Empty {}

/// `HEALTHCHECK` as Docker stores it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Healthcheck {
    /// `["NONE"]`, `["CMD", …]` or `["CMD-SHELL", command]`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub test: Vec<String>,
    /// Nanoseconds between two checks; 0 inherits.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub interval: i64,
    /// Nanoseconds until a check counts as failed; 0 inherits.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub timeout: i64,
    /// Nanoseconds in which failures do not count; 0 inherits.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub start_period: i64,
    /// Nanoseconds between two checks during the start period; 0 inherits.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub start_interval: i64,
    /// Failures until the container is unhealthy; 0 inherits.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub retries: i64,
}

/// The layers of an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootFs {
    /// Always `layers`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The uncompressed digest of each layer, lowest first.
    pub diff_ids: Vec<Digest>,
}

impl Default for RootFs {
    fn default() -> Self {
        Self { kind: "layers".into(), diff_ids: Vec::new() }
    }
}

impl ImageConfig {
    /// Returns the history with exactly one record that is not `empty_layer` for each layer, as readers expect it. Records that
    /// an image lacks come first, for later stages add theirs at the end; records beyond the last layer become empty.
    pub fn history_of_layers(&self) -> Vec<History> {
        let mut missing = self.rootfs.diff_ids.len();
        let mut records = self.history.clone();
        for record in &mut records {
            record.empty_layer |= missing == 0;
            missing -= usize::from(!record.empty_layer);
        }
        let unknown = History { created: self.created.clone(), ..History::default() };
        [vec![unknown; missing], records].concat()
    }
}

/// What one instruction did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    /// When, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// The instruction.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_by: Option<String>,
    /// The author at that point.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    /// Who wrote the record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    /// Whether the instruction made no layer.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub empty_layer: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
const fn is_zero(value: &i64) -> bool {
    *value == 0
}

/// Reads JSON `null` as the empty value: Go writes nil maps and slices so.
fn null_as_default<'de, D: serde::Deserializer<'de>, T: Default + Deserialize<'de>>(from: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::digest::Digest;

    /// `layers` and one letter for each record, `l` for a layer and `e` for none, before and after.
    #[track_caller]
    fn check(layers: usize, records: &str, expected: &str) {
        let record = |letter| History { empty_layer: letter == 'e', ..History::default() };
        let diff_ids = vec![Digest::of(b""); layers];
        let rootfs = RootFs { diff_ids, ..RootFs::default() };
        let config = ImageConfig { history: records.chars().map(record).collect(), rootfs, ..ImageConfig::default() };
        let history = config.history_of_layers();
        let shown: String = history.iter().map(|record| if record.empty_layer { 'e' } else { 'l' }).collect();
        assert_eq!(shown, expected, "{layers} {records}");
    }

    #[test]
    fn the_history_has_one_record_for_each_layer() {
        check(0, "", "");
        check(2, "elel", "elel");
        check(2, "", "ll");
        check(2, "ele", "lele");
        check(1, "llel", "leee");
    }
}
