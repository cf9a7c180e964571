//! Base images, read by skopeo.

use std::process::Command;

use karve_tests::images;

#[test]
fn busybox_is_a_layout_with_a_shell() {
    let image = format!("oci:{}:{}", images::busybox().display(), images::TAG);
    let output = Command::new("skopeo").args(["inspect", "--config", &image]).output().expect("skopeo is installed");
    let config: serde_json::Value = serde_json::from_slice(&output.stdout).expect("a configuration is JSON");
    assert_eq!(config["config"]["Cmd"], serde_json::json!(["/bin/sh"]));
    assert_eq!(config["rootfs"]["diff_ids"].as_array().map(Vec::len), Some(1));
}
