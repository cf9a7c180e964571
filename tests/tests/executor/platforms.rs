//! Images for other platforms than this machine's: all but RUN, and RUN in stages for this machine.

use std::{fs, path::Path};

use karve_api::Reason;
use karve_tests::layout::hex;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::build::{Build, Ended, TAG, reference};

/// A platform that no machine with tests has.
const FOREIGN: &str = "linux/s390x";

fn architecture(ended: &Ended) -> String {
    ended.image().config["architecture"].as_str().unwrap().to_owned()
}

#[test]
fn f8_cross_compilation_runs_on_this_machine_for_another() {
    let dockerfile = "ARG BASE\nFROM --platform=$BUILDPLATFORM ${BASE} AS build\nARG TARGETARCH TARGETOS\n\
                      RUN echo for $TARGETOS $TARGETARCH > /program\nFROM scratch\nWORKDIR /app\n\
                      COPY --from=build /program ./\nARG TARGETPLATFORM BUILDPLATFORM\n\
                      LABEL target=$TARGETPLATFORM build=$BUILDPLATFORM\n";
    let ended = Build::new(&[("Dockerfile", dockerfile)]).flag(&format!("--platform={FOREIGN}")).run().succeeded();
    assert_eq!(ended.image().text("app/program"), "for linux s390x\n");
    assert_eq!(architecture(&ended), "s390x");
    let labels = &ended.image().config["config"]["Labels"];
    assert_eq!(labels["target"], FOREIGN);
    assert_ne!(labels["build"], FOREIGN);
}

#[test]
fn f8_a_foreign_run_is_refused_before_anything_is_built() {
    let dockerfile = "ARG BASE\nFROM scratch\nCOPY Dockerfile /\nRUN true\n";
    let ended = Build::new(&[("Dockerfile", dockerfile)]).flag(&format!("--platform={FOREIGN}")).run();
    let ended = ended.failed(Reason::Unsupported, &["Dockerfile:4:1", "RUN for linux/s390x needs emulation"]);
    assert!(!ended.work.contains("layer"), "{:?}", ended.work);
}

#[test]
fn f8_variants_are_in_the_configuration_and_in_arguments() {
    let dockerfile = "FROM scratch\nARG TARGETARCH TARGETVARIANT\nCOPY Dockerfile /$TARGETARCH-$TARGETVARIANT\n";
    let ended = Build::new(&[("Dockerfile", dockerfile)]).flag("--platform=linux/armhf").run().succeeded();
    assert_eq!(ended.image().paths(0), ["arm-v7"]);
    let config = ended.image().config;
    assert_eq!((&config["architecture"], &config["variant"]), (&json!("arm"), &json!("v7")));
}

#[test]
fn f8_several_platforms_are_refused_on_the_command_line() {
    let ended = Build::new(&[("Dockerfile", "FROM scratch\n")]).flag("--platform=linux/amd64,linux/arm64").run();
    assert_eq!(ended.status.code(), Some(2), "{}", ended.stderr);
    assert!(ended.stderr.contains("names several platforms"), "{}", ended.stderr);
}

/// Writes a blob into a layout and returns its descriptor.
fn write_blob(layout: &Path, document: &Value, media_type: &str) -> Value {
    let bytes = serde_json::to_vec(document).unwrap();
    let hex = hex(&Sha256::digest(&bytes));
    fs::write(layout.join("blobs/sha256").join(&hex), &bytes).unwrap();
    json!({"mediaType": media_type, "digest": format!("sha256:{hex}"), "size": bytes.len()})
}

/// Makes one layout with an index of images for these platforms; each image has a file with its platform.
fn index_of(platforms: &[&str]) -> Ended {
    let images: Vec<Ended> = platforms
        .iter()
        .map(|platform| {
            let build = Build::new(&[("Dockerfile", "FROM scratch\nCOPY platform /\n"), ("platform", platform)]);
            build.flag(&format!("--platform={platform}")).run().succeeded()
        })
        .collect();
    let mut manifests = Vec::new();
    let target = images[0].layout();
    for (image, platform) in images.iter().zip(platforms) {
        // The first layout takes in what the others have.
        for blob in fs::read_dir(image.layout().join("blobs/sha256")).unwrap().filter(|_| image.layout() != target) {
            let blob = blob.unwrap();
            fs::copy(blob.path(), target.join("blobs/sha256").join(blob.file_name())).unwrap();
        }
        let index: Value = serde_json::from_slice(&fs::read(image.layout().join("index.json")).unwrap()).unwrap();
        let mut descriptor = index["manifests"][0].clone();
        let parts: Vec<&str> = platform.split('/').collect();
        descriptor["platform"] = json!({"os": parts[0], "architecture": parts[1]});
        if let Some(variant) = parts.get(2) {
            descriptor["platform"]["variant"] = json!(variant);
        }
        manifests.push(descriptor);
    }
    let media_type = "application/vnd.oci.image.index.v1+json";
    let index = json!({"schemaVersion": 2, "mediaType": media_type, "manifests": manifests});
    let mut descriptor = write_blob(&target, &index, media_type);
    descriptor["annotations"] = json!({"org.opencontainers.image.ref.name": TAG});
    let top = json!({"schemaVersion": 2, "mediaType": media_type, "manifests": [descriptor]});
    fs::write(target.join("index.json"), top.to_string()).unwrap();
    images.into_iter().next().unwrap()
}

#[test]
fn f8_the_image_of_an_index_is_the_one_for_the_stage() {
    let index = index_of(&["linux/s390x", "linux/arm/v6", "linux/arm/v7", "linux/arm64"]);
    let base = reference(&index.layout(), TAG);
    for (flag, wanted) in [
        ("linux/arm64/v8", "linux/arm64"),
        ("linux/s390x", "linux/s390x"),
        ("linux/arm/v7", "linux/arm/v7"),
        ("linux/arm/v6", "linux/arm/v6"),
        ("linux/arm64/v9", "linux/arm64"),
    ] {
        let dockerfile = format!("FROM {base}\nLABEL a=b\n");
        let build = Build::new(&[("Dockerfile", &dockerfile)]).flag(&format!("--platform={flag}"));
        assert_eq!(build.run().succeeded().image().text("platform"), wanted, "{flag}");
    }
    let dockerfile = format!("FROM {base}\n");
    let missing = Build::new(&[("Dockerfile", &dockerfile)]).flag("--platform=linux/arm/v5").run();
    missing.failed(Reason::BaseImageNotFound, &["no image for linux/arm/v5", "linux/arm/v6"]);
}

#[test]
fn f8_a_base_for_another_platform_is_taken_at_its_word() {
    // BuildKit: the lint rule InvalidBaseImagePlatform, no error; the configuration says what the base is for.
    let foreign = Build::new(&[("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")]);
    let foreign = foreign.flag(&format!("--platform={FOREIGN}")).run().succeeded();
    let dockerfile = format!("FROM {}\nCOPY Dockerfile /again\n", reference(&foreign.layout(), TAG));
    let ended = Build::new(&[("Dockerfile", &dockerfile)]).run().succeeded();
    assert_eq!(architecture(&ended), "s390x");
}
