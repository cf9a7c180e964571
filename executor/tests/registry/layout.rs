//! OCI image layouts: what is written is read, and what a hostile one may try.

use std::{fs, os::unix::fs::symlink};

use karve::{
    image::manifest::{Descriptor, OCI_INDEX, OCI_MANIFEST},
    registry::{
        ErrorKind,
        layout::{self, Layout, Selector},
    },
};

use crate::{digest, holds, image, index, layer};

#[test]
fn locations_are_split_from_the_right() {
    let hex = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    let by_digest = Selector::Digest(format!("sha256:{hex}").parse().unwrap());
    for (text, path, selector) in [
        ("/a/b", "/a/b", Selector::Default),
        ("/a/b:v1", "/a/b", Selector::Tag("v1".into())),
        ("/a:b/c", "/a:b/c", Selector::Default),
        (&format!("/a@sha256:{hex}"), "/a", by_digest.clone()),
        (&format!("/a:v1@sha256:{hex}"), "/a", by_digest),
        ("/a@b:v1", "/a@b", Selector::Tag("v1".into())),
    ] {
        assert_eq!(layout::parse(text), (path.into(), selector), "{text}");
    }
}

#[tokio::test]
async fn images_are_written_and_read_by_tag_digest_and_platform() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("layout");
    let spool = directory.path().join("spool");
    fs::write(&spool, b"layer").unwrap();
    let written = Layout::create(&root).unwrap();
    let layer = layer(b"layer");
    written.push_blob(&layer, &spool).await.unwrap();
    let (amd_config, amd) = image("amd64", std::slice::from_ref(&layer));
    let (arm_config, arm) = image("arm64", std::slice::from_ref(&layer));
    for bytes in [&amd_config, &arm_config, &arm] {
        written.push_bytes(bytes).unwrap();
    }
    written.push_manifest(Some("v1"), &amd, OCI_MANIFEST).await.unwrap();
    let linux_amd = "linux/amd64".parse().unwrap();
    assert_eq!(layout::open(&root, &Selector::Default, &linux_amd).unwrap().digest, digest(&amd));
    let all = index(&[("linux/amd64", &amd), ("linux/arm64", &arm)]);
    written.push_manifest(Some("all"), &all, OCI_INDEX).await.unwrap();
    written.push_manifest(Some("v1"), &all, OCI_INDEX).await.unwrap();
    written.push_manifest(None, &amd, OCI_MANIFEST).await.unwrap();
    written.push_manifest(None, &amd, OCI_MANIFEST).await.unwrap();
    holds(&root, &["blobs", "index.json", "oci-layout"]);

    let linux_arm = "linux/arm64".parse().unwrap();
    let base = layout::open(&root, &Selector::Tag("v1".into()), &linux_arm).unwrap();
    assert_eq!((base.named_digest, base.digest, base.config_bytes), (digest(&all), digest(&arm), arm_config));
    let listed = fs::read_to_string(root.join("index.json")).unwrap();
    assert_eq!(listed.matches("\"digest\"").count(), 3, "{listed}");
    assert_eq!(layout::open(&root, &Selector::Digest(digest(&arm)), &linux_arm).unwrap().digest, digest(&arm));
    let missing = layout::open(&root, &Selector::Tag("v2".into()), &linux_arm).unwrap_err();
    assert_eq!(missing.to_string(), format!("`oci-layout:{}:v2` does not exist", root.display()));
    let missing = layout::open(&root, &Selector::Tag("all".into()), &"linux/s390x".parse().unwrap()).unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound);

    Layout::open(&root).unwrap().fetch_blob(&layer, &spool).await.unwrap();
    assert_eq!(fs::read(&spool).unwrap(), b"layer");
}

/// Many writers of one new layout: each makes it, if need be, and lists an image of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 8)]
async fn a_layout_that_many_make_at_once_has_what_each_of_them_lists() {
    for _ in 0..50 {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("layout");
        let writers = (0..8).map(|number| {
            let root = root.clone();
            tokio::spawn(async move {
                let (tag, manifest) = (number.to_string(), image("amd64", &[]).1);
                let layout = Layout::create(&root).unwrap();
                layout.push_manifest(Some(tag.as_str()), &manifest, OCI_MANIFEST).await.unwrap();
            })
        });
        for writer in writers.collect::<Vec<_>>() {
            writer.await.unwrap();
        }
        let tags = Layout::open(&root).unwrap().tags().unwrap();
        assert_eq!(tags.len(), 8, "{tags:?}");
    }
}

#[tokio::test]
async fn links_stay_inside_and_wrong_bytes_are_found() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("layout");
    let outside = directory.path().join("outside");
    fs::write(&outside, b"secret").unwrap();
    let layout = Layout::create(&root).unwrap();
    let stolen = Descriptor::of(OCI_MANIFEST, b"secret");
    symlink(&outside, root.join("blobs/sha256").join(stolen.digest.hex())).unwrap();
    let wrong = Descriptor::of(OCI_MANIFEST, b"right");
    fs::write(root.join("blobs/sha256").join(wrong.digest.hex()), b"wrong").unwrap();
    let target = directory.path().join("target");
    assert_eq!(layout.fetch_blob(&stolen, &target).await.unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(layout.fetch_blob(&wrong, &target).await.unwrap_err().kind(), ErrorKind::Corrupt);
    assert_eq!(layout.blob_bytes(&wrong.digest, 100).unwrap_err().kind(), ErrorKind::Corrupt);
    holds(directory.path(), &["layout", "outside"]);
    assert_eq!(Layout::open(directory.path()).unwrap_err().kind(), ErrorKind::Invalid);
}
