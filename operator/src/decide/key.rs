//! The build key: a hash of the inputs of a build that the API server shows. Equal keys mean that nothing has to be
//! built. Never in it: versions of Karve, resources, podTemplate, timeout, cache, names of credentials, how a registry is
//! spoken to. What only the Pod learns (the commit of a branch, the digest of a base image) is in the report instead.
//!
//! The encoding is fixed for ever: a changed key rebuilds every image of every cluster at the next upgrade. A new field
//! is appended only when it is set, so that the keys of specs without it stay what they are. The golden test holds that.

use std::{collections::BTreeMap, fmt::Write};

use karve_api::{ContextSource, ImageBuildSpec};
use sha2::{Digest, Sha256};

use crate::pod::names::tag_of;

/// The first bytes of every encoding.
const FORMAT: &str = "karve-build-key-v1";

/// What goes into a key beside the spec.
#[derive(Clone, Copy, Debug)]
pub struct KeyInputs<'a> {
    /// The hash of the files of an inline or configMap context.
    pub files_hash: Option<&'a str>,
    /// The build arguments, ConfigMap values read.
    pub build_args: &'a BTreeMap<String, String>,
    /// The request token that is, or was last, taken into a build.
    pub token: Option<&'a str>,
}

/// Returns the build key, 64 lower-case hex digits.
pub fn build_key(spec: &ImageBuildSpec, inputs: &KeyInputs<'_>) -> String {
    let mut encoding = Encoding::new();
    context(&mut encoding, &spec.context, inputs.files_hash);
    if let Some(dockerfile) = &spec.dockerfile {
        encoding.field("dockerfile.path", dockerfile.path.as_deref().filter(|path| *path != "Dockerfile"));
        encoding.field("dockerfile.inline", dockerfile.inline.as_deref());
    }
    encoding.field("target", spec.target.as_deref());
    for (name, value) in inputs.build_args {
        encoding.pair("buildArg", name, value);
    }
    let mut secret_ids: Vec<&str> = spec.secrets.iter().map(|secret| secret.id.as_str()).collect();
    secret_ids.sort_unstable();
    for id in secret_ids {
        encoding.field("secret", Some(id));
    }
    let output = &spec.output;
    let image = format!("{}:{}", karve_api::repository_of(&output.image), tag_of(&output.image));
    encoding.field("output.image", Some(&image));
    let mut tags: Vec<&str> = output.tags.iter().map(String::as_str).collect();
    tags.sort_unstable();
    for tag in tags {
        encoding.field("output.tag", Some(tag));
    }
    for (name, value) in &output.labels {
        encoding.pair("output.label", name, value);
    }
    for (name, value) in &output.annotations {
        encoding.pair("output.annotation", name, value);
    }
    encoding.field("token", inputs.token);
    encoding.finish()
}

fn context(encoding: &mut Encoding, context: &ContextSource, files_hash: Option<&str>) {
    if let Some(git) = &context.git {
        encoding.field("context.git.url", Some(&git.url));
        let reference = git.reference.clone().unwrap_or_default();
        encoding.field("context.git.branch", reference.branch.as_deref());
        encoding.field("context.git.tag", reference.tag.as_deref());
        encoding.field("context.git.commit", reference.commit.as_deref());
    }
    // Whether the files come from the spec or from a ConfigMap makes no difference to the image.
    encoding.field("context.files", files_hash);
    let claim = context.persistent_volume_claim.as_ref().map(|claim| claim.claim_name.as_str());
    encoding.field("context.volume", claim);
    encoding.field("context.subPath", context.sub_path.as_deref().filter(|path| *path != "."));
}

/// A hash over named values, each framed by its length.
struct Encoding(Sha256);

impl Encoding {
    fn new() -> Self {
        let mut encoding = Self(Sha256::new());
        encoding.frame(FORMAT);
        encoding
    }

    /// Adds a value if it is there; an absent one adds nothing.
    fn field(&mut self, name: &str, value: Option<&str>) {
        if let Some(value) = value {
            self.frame(name);
            self.frame(value);
        }
    }

    fn pair(&mut self, name: &str, key: &str, value: &str) {
        self.frame(name);
        self.frame(key);
        self.frame(value);
    }

    fn frame(&mut self, text: &str) {
        self.0.update((text.len() as u64).to_be_bytes());
        self.0.update(text.as_bytes());
    }

    fn finish(self) -> String {
        self.0.finalize().iter().fold(String::new(), |mut text, byte| {
            // Writing to a String cannot fail.
            write!(text, "{byte:02x}").ok();
            text
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use karve_api::ImageBuildSpec;
    use serde_json::{Value, json};

    use super::{KeyInputs, build_key};

    fn key(spec: Value, files_hash: Option<&str>, args: &[(&str, &str)], token: Option<&str>) -> String {
        let spec: ImageBuildSpec = serde_json::from_value(spec).unwrap();
        let build_args: BTreeMap<String, String> =
            args.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        build_key(&spec, &KeyInputs { files_hash, build_args: &build_args, token })
    }

    /// Every spec that a key was ever computed for in a release. A line may be added; none may change.
    #[test]
    fn upgrading_rebuilds_nothing() {
        let golden: Vec<Value> = serde_json::from_str(include_str!("golden_keys.json")).unwrap();
        for case in golden {
            let args: BTreeMap<String, String> = serde_json::from_value(case["buildArgs"].clone()).unwrap();
            let spec: ImageBuildSpec = serde_json::from_value(case["spec"].clone()).unwrap();
            let inputs =
                KeyInputs { files_hash: case["filesHash"].as_str(), build_args: &args, token: case["token"].as_str() };
            assert_eq!(build_key(&spec, &inputs), case["key"].as_str().unwrap(), "{}", case["name"]);
        }
    }

    #[test]
    fn defaults_and_what_no_image_depends_on_add_nothing() {
        let plain = key(
            json!({"context": {"configMap": {"name": "a"}}, "output": {"image": "r.example/web"}}),
            Some("h"),
            &[],
            None,
        );
        let full = json!({
            "context": {"configMap": {"name": "a"}, "subPath": "."},
            "dockerfile": {"path": "Dockerfile"},
            "output": {"image": "r.example/web:latest", "pushSecretRef": {"name": "p"}, "buildTag": false},
            "registrySecretRefs": [{"name": "x"}],
            "registries": [{"host": "r.example", "plainHTTP": true}],
            "cache": {"disabled": true, "repository": "r.example/c", "ttl": "1h", "mounts": false},
            "timeout": "5m", "retries": 3, "runPolicy": "Replace",
            "resources": {"limits": {"cpu": 1}},
            "podTemplate": {"spec": {"priorityClassName": "p"}},
            "history": {"failed": 5}
        });
        assert_eq!(key(full, Some("h"), &[], None), plain);
    }

    #[test]
    fn every_input_counts() {
        let spec = |extra: Value| {
            let mut spec =
                json!({"context": {"git": {"url": "https://g.example/a"}}, "output": {"image": "r.example/web"}});
            for (name, value) in extra.as_object().unwrap() {
                spec[name] = value.clone();
            }
            spec
        };
        let mut keys = vec![
            key(spec(json!({})), None, &[], None),
            key(spec(json!({})), None, &[], Some("now")),
            key(spec(json!({})), None, &[("A", "1")], None),
            key(spec(json!({})), None, &[("A1", "")], None),
            key(spec(json!({"target": "t"})), None, &[], None),
            key(spec(json!({"dockerfile": {"path": "D"}})), None, &[], None),
            key(spec(json!({"dockerfile": {"inline": "D"}})), None, &[], None),
            key(spec(json!({"secrets": [{"id": "s", "secretKeyRef": {"name": "n", "key": "k"}}]})), None, &[], None),
            key(spec(json!({"output": {"image": "r.example/web:v2"}})), None, &[], None),
            key(spec(json!({"output": {"image": "r.example/web", "tags": ["v2"]}})), None, &[], None),
            key(spec(json!({"output": {"image": "r.example/web", "labels": {"v2": "v2"}}})), None, &[], None),
            key(spec(json!({"context": {"git": {"url": "https://g.example/b"}}})), None, &[], None),
            key(
                spec(json!({"context": {"git": {"url": "https://g.example/a", "ref": {"tag": "b"}}}})),
                None,
                &[],
                None,
            ),
            key(
                spec(json!({"context": {"git": {"url": "https://g.example/a", "ref": {"branch": "b"}}}})),
                None,
                &[],
                None,
            ),
            key(spec(json!({"context": {"git": {"url": "https://g.example/a"}, "subPath": "b"}})), None, &[], None),
        ];
        let count = keys.len();
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len(), count);
    }
}
