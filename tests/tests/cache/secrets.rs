//! Secrets of steps: their values are in no key, and neither they nor their hashes are in what a cache keeps.

use std::{fs, io::Read as _, process::Command};

use flate2::read::MultiGzDecoder;
use karve_tests::layout::hex;
use sha2::{Digest as _, Sha256};

use crate::scene::Scene;

const VALUE: &str = "the-first-value-of-the-secret";
const OTHER: &str = "another-value-of-this-length!";

fn scene() -> Scene {
    let steps = "\
RUN --mount=type=secret,id=token wc -c < /run/secrets/token > /length
RUN --mount=type=secret,id=token,env=TOKEN echo ${#TOKEN} > /again
";
    let mut scene = Scene::on_busybox(steps, &[]);
    scene.flags.push("--secret=id=token,env=GIVEN".into());
    scene.environment.insert("GIVEN".into(), VALUE.into());
    scene
}

#[test]
fn a_changed_secret_is_no_change() {
    let mut scene = scene();
    let first = scene.check();
    scene.environment.insert("GIVEN".into(), OTHER.into());
    scene.check_again(&first);
}

#[test]
fn another_place_of_a_secret_is_a_change() {
    let scene = scene();
    scene.check();
    scene.edit("id=token,env=TOKEN echo ${#TOKEN}", "id=token,env=OTHER echo ${#TOKEN}${#OTHER}");
    assert_eq!(scene.check().misses().len(), 1);
}

#[test]
fn a_cache_holds_neither_a_secret_nor_its_hash() {
    let scene = scene();
    let ended = scene.build();
    let digest = Sha256::digest(VALUE.as_bytes());
    let hidden = [VALUE.as_bytes().to_vec(), hex(&digest).into_bytes(), digest.to_vec()];
    let mut count = 0;
    for path in scene.cache().blobs().into_iter().chain([scene.path("cache/index.json")]) {
        let bytes = unpacked(fs::read(&path).unwrap());
        count += usize::from(contains(&bytes, b"length"));
        for hidden in &hidden {
            assert!(!contains(&bytes, hidden), "{} holds a secret", path.display());
        }
    }
    assert!(count >= 2, "a layer and its index are read");
    for hidden in &hidden {
        assert!(!contains(ended.stderr.as_bytes(), hidden) && !contains(ended.report.to_string().as_bytes(), hidden));
    }
}

/// Returns what a blob holds, whichever of two ways it is compressed.
fn unpacked(bytes: Vec<u8>) -> Vec<u8> {
    match bytes[..4.min(bytes.len())] {
        [0x1f, 0x8b, ..] => {
            let mut unpacked = Vec::new();
            MultiGzDecoder::new(&bytes[..]).read_to_end(&mut unpacked).unwrap();
            unpacked
        }
        [0x28, 0xb5, 0x2f, 0xfd] => {
            let file = tempfile::NamedTempFile::new().unwrap();
            fs::write(file.path(), bytes).unwrap();
            let output = Command::new("zstd").args(["--decompress", "--stdout"]).arg(file.path()).output();
            output.expect("the corpus needs zstd too").stdout
        }
        _ => bytes,
    }
}

fn contains(bytes: &[u8], wanted: &[u8]) -> bool {
    bytes.windows(wanted.len()).any(|window| window == wanted)
}
