//! The chart and the kustomizations: they install the same, their values mean what they say, and an API server takes them.

#![expect(clippy::expect_used, reason = "tests fail by panicking; clippy knows only those in `#[test]` functions")]

mod admission;
mod agreement;
mod permissions;
mod release;
mod render;
mod values;

/// A build that asks for nothing special.
const BUILD: &str = r#"
apiVersion: karve.dev/v1alpha1
kind: ImageBuild
metadata: {name: web, namespace: default}
spec:
  context: {inline: {files: {Dockerfile: "FROM scratch"}}}
  output: {image: "registry.example/web:1"}
"#;
