//! What a layout loses with time: tags that were written long ago go from its list, and then the blobs that nothing on the
//! list names any more.
//!
//! Nothing young is removed. Whoever lists a manifest has just written its blobs, or made them young; so a blob that is old
//! and on no list is nobody's, also while others write.

use std::{
    collections::HashMap,
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
};

use rustix::fs::{AtFlags, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, utimensat};

use super::{
    Descriptor, Digest, Document, INDEX_DEPTH_MAX, Layout, MANIFEST_BYTES_MAX, REF_NAME, RegistryError, blob_path,
    to_json,
};

/// How much was removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Tags.
    pub tags: usize,
    /// Bytes of blobs, and of files that never became one.
    pub bytes: u64,
}

/// The old files among the blobs, with their sizes.
type Old = HashMap<String, u64>;

impl Layout {
    /// Whether the layout has a blob of this size, which is young from now on: it is about to be listed.
    pub fn keeps(&self, blob: &Descriptor) -> bool {
        let is_there = self.blob_exists(blob);
        if is_there {
            self.freshen(&blob.digest);
        }
        is_there
    }

    /// Makes a blob young.
    pub(super) fn freshen(&self, blob: &Digest) {
        let time = |nanoseconds| Timespec { tv_sec: 0, tv_nsec: nanoseconds };
        let times = Timestamps { last_access: time(UTIME_OMIT), last_modification: time(UTIME_NOW) };
        let touched = self.directory().map(|root| utimensat(root, blob_path(blob), &times, AtFlags::SYMLINK_NOFOLLOW));
        if !matches!(touched, Ok(Ok(()))) {
            tracing::debug!(?touched, %blob, "a blob cannot be made young");
        }
    }

    /// Removes tags that `is_own` names and that were written before `oldest`, in seconds since 1970, and then blobs of that
    /// age that nothing names. Where something on the list cannot be read that is not `is_own`'s, blobs stay.
    pub fn prune(&self, oldest: i64, is_own: impl Fn(&str) -> bool) -> Result<Pruned, RegistryError> {
        let _lock = self.lock()?;
        let mut old = self.old(oldest)?;
        let mut pruned = Pruned::default();
        if old.is_empty() {
            return Ok(pruned);
        }
        let mut index = self.index()?;
        let is_owned = |entry: &Descriptor| entry.annotations.get(REF_NAME).is_some_and(|tag| is_own(tag));
        let listed = index.manifests.len();
        index.manifests.retain(|entry| !(is_owned(entry) && old.contains_key(&entry.digest.hex())));
        pruned.tags = listed - index.manifests.len();
        if pruned.tags > 0 {
            self.replace("index.json", &to_json(&index))?;
        }
        for entry in &index.manifests {
            match self.spare(&entry.digest, &mut old, INDEX_DEPTH_MAX) {
                Ok(()) => {}
                // It will be a miss, and written again.
                Err(error) if is_owned(entry) => tracing::debug!(%error, "what an entry names is not known"),
                Err(error) => {
                    tracing::debug!(%error, "old blobs stay, for an image cannot be read that may need them");
                    return Ok(pruned);
                }
            }
        }
        for (name, size) in old {
            // Somebody may need it since.
            if self.age(&name)?.is_some_and(|(written, _)| written < oldest) {
                let path = self.root.join("blobs/sha256").join(&name);
                std::fs::remove_file(&path).map_err(RegistryError::file("remove", &path))?;
                pruned.bytes += size;
            }
        }
        Ok(pruned)
    }

    /// Lists the old files among the blobs.
    fn old(&self, oldest: i64) -> Result<Old, RegistryError> {
        let path = self.root.join("blobs/sha256");
        let mut old = Old::new();
        for entry in std::fs::read_dir(&path).map_err(RegistryError::file("read", &path))? {
            let name = entry.map_err(RegistryError::file("read", &path))?.file_name();
            // Nobody who writes layouts gives other names.
            let Ok(name) = String::from_utf8(name.as_bytes().to_vec()) else { continue };
            if let Some((_, size)) = self.age(&name)?.filter(|(written, _)| *written < oldest) {
                old.insert(name, size);
            }
        }
        Ok(old)
    }

    /// When a file among the blobs was written, in seconds since 1970, and its size; `None` if it is gone or no file.
    fn age(&self, name: &str) -> Result<Option<(i64, u64)>, RegistryError> {
        let path = self.root.join("blobs/sha256").join(name);
        match std::fs::symlink_metadata(&path) {
            Ok(metadata) => Ok(metadata.is_file().then(|| (metadata.mtime(), metadata.len()))),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(RegistryError::file("read", &path)(error)),
        }
    }

    /// Takes out of `old` a document and what it names.
    fn spare(&self, digest: &Digest, old: &mut Old, depth: usize) -> Result<(), RegistryError> {
        old.remove(&digest.hex());
        let what = digest.to_string();
        let bytes = self.blob_bytes(digest, MANIFEST_BYTES_MAX)?;
        let parsed = Document::parse(&bytes, None);
        match parsed.map_err(|source| RegistryError::InvalidManifest { what: what.clone(), source })? {
            Document::Manifest(manifest) => {
                for blob in [&manifest.config].into_iter().chain(&manifest.layers) {
                    old.remove(&blob.digest.hex());
                }
                Ok(())
            }
            Document::Index(index) => {
                let depth = depth.checked_sub(1).ok_or_else(|| self.invalid(format!("{what} lists lists of lists")))?;
                index.manifests.iter().try_for_each(|entry| self.spare(&entry.digest, old, depth))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs::File,
        path::Path,
        time::{Duration, SystemTime},
    };

    use serde_json::json;

    use super::*;
    use crate::image::manifest::{OCI_INDEX, OCI_MANIFEST};

    /// Now, and everything that is older is old.
    const NOW: i64 = 2_000_000_000;
    const OLDEST: i64 = 1_000_000_000;

    fn is_own(tag: &str) -> bool {
        tag.starts_with("step-")
    }

    /// Writes an artifact of one blob under a tag.
    async fn add(layout: &Layout, tag: &str, content: &str) -> Digest {
        let blob = layout.push_bytes(content.as_bytes()).unwrap();
        let descriptor = Descriptor::new("text/plain", blob.clone(), content.len() as u64);
        let manifest = json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": descriptor, "layers": [descriptor],
            "annotations": {"tag": tag}});
        layout.push_manifest([tag], &serde_json::to_vec(&manifest).unwrap(), OCI_MANIFEST).await.unwrap()
    }

    fn set_time(path: &Path, seconds: i64) {
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds.try_into().unwrap());
        File::open(path).unwrap().set_modified(time).unwrap();
    }

    /// Makes all blobs that are there look as if they had been written then.
    fn age(layout: &Layout, seconds: i64) {
        for entry in std::fs::read_dir(layout.root.join("blobs/sha256")).unwrap() {
            set_time(&entry.unwrap().path(), seconds);
        }
    }

    fn tags(layout: &Layout) -> Vec<String> {
        let mut tags: Vec<String> = layout.tags().unwrap().into_keys().collect();
        tags.sort();
        tags
    }

    fn has(layout: &Layout, content: &str) -> bool {
        layout.blob_file(&Digest::of(content.as_bytes())).exists()
    }

    fn layout() -> (tempfile::TempDir, Layout) {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::create(directory.path()).unwrap();
        (directory, layout)
    }

    #[tokio::test]
    async fn old_tags_go_and_blobs_that_nothing_else_names() {
        let (_directory, layout) = layout();
        add(&layout, "step-old", "old").await;
        add(&layout, "step-shared", "shared").await;
        std::fs::write(layout.root.join("blobs/sha256/x.1-1.partial"), "left").unwrap();
        age(&layout, OLDEST - 1);
        let manifest = add(&layout, "step-young", "shared").await;
        layout.push_bytes(b"unlisted").unwrap();
        set_time(&layout.blob_file(&manifest), OLDEST);
        let pruned = layout.prune(OLDEST, is_own).unwrap();
        assert_eq!(tags(&layout), ["step-young"]);
        assert!(!has(&layout, "old") && has(&layout, "shared") && has(&layout, "unlisted"));
        assert_eq!(pruned.tags, 2);
        let left = std::fs::read_dir(layout.root.join("blobs/sha256")).unwrap().count();
        assert_eq!(left, 3, "a manifest, its blob, and one that is not listed yet");
        assert_eq!(layout.prune(OLDEST, is_own).unwrap(), Pruned::default());
    }

    #[tokio::test]
    async fn images_of_others_stay() {
        let (_directory, layout) = layout();
        let manifest = add(&layout, "v1", "image").await;
        let entry = Descriptor::new(OCI_MANIFEST, add(&layout, "step-x", "of an index").await, 1);
        let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry]});
        layout.push_manifest(["multi"], &serde_json::to_vec(&index).unwrap(), OCI_INDEX).await.unwrap();
        add(&layout, "step-old", "old").await;
        age(&layout, OLDEST - 1);
        assert_eq!(layout.prune(OLDEST, is_own).unwrap().tags, 2);
        assert_eq!(tags(&layout), ["multi", "v1"]);
        assert!(has(&layout, "image") && has(&layout, "of an index") && !has(&layout, "old"));
        // Who cannot be read may need everything.
        add(&layout, "step-older", "older").await;
        std::fs::write(layout.blob_file(&manifest), "damaged").unwrap();
        age(&layout, OLDEST - 1);
        let pruned = layout.prune(OLDEST, is_own).unwrap();
        assert_eq!(pruned, Pruned { tags: 1, bytes: 0 });
        assert!(has(&layout, "older"));
    }

    #[tokio::test]
    async fn what_is_written_again_is_young() {
        let (directory, layout) = layout();
        let content = directory.path().join("content");
        std::fs::write(&content, "big").unwrap();
        let blob = Descriptor::of("text/plain", b"big");
        layout.push_blob(&blob, &content).await.unwrap();
        layout.push_bytes(b"small").unwrap();
        for again in 0..3 {
            age(&layout, OLDEST - 1);
            layout.push_bytes(b"small").unwrap();
            match again {
                0 => layout.push_blob(&blob, &content).await.unwrap(),
                1 => layout.mend_blob(&blob, &content).await.unwrap(),
                _ => assert!(layout.keeps(&blob)),
            }
            layout.prune(OLDEST, is_own).unwrap();
            assert!(has(&layout, "small") && has(&layout, "big"), "{again}");
        }
        age(&layout, NOW);
        assert_eq!(layout.prune(OLDEST, is_own).unwrap(), Pruned::default());
    }
}
