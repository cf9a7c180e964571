//! Cache mounts as artifacts: what makes two mounts of two builds one cache, and the manifest of what one held. Pure.
//!
//! The manifest has the archive, which is a layer, and the archive's index.

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;

use super::entry::{CREATED, DIFF_ID, INDEX_MEDIA_TYPE, InvalidEntry, annotation};
use crate::{
    image::{
        digest::{Digest, FieldHasher},
        manifest::{Descriptor, Manifest, layer_media_type},
    },
    layer::Compression,
    plan::graph::Attributes,
};

/// What kind of artifact a kept cache mount is.
pub const MOUNT_TYPE: &str = "application/vnd.karve.cache.mount.v1";

/// How the archives are compressed.
pub const COMPRESSION: Compression = Compression::Zstd;

/// Part of every identity. Raised whenever the archives change their meaning.
const FORMAT: &str = "karve cache mount 1";

/// The tag that an artifact was made for, and the bytes of its files.
const MOUNT: &str = "dev.karve.cache.mount";
const CONTENT_BYTES: &str = "dev.karve.cache.mount.bytes";

/// What makes two cache mounts one, from build to build.
#[derive(Clone, Copy, Debug)]
pub struct Identity<'a> {
    /// The platform that is built for: caches hold what compilers made.
    pub platform: &'a str,
    /// Namespace and id.
    pub id: &'a str,
    /// The part of `from` that it begins with.
    pub source: &'a str,
    /// What was asked for of the directory itself.
    pub attributes: Option<Attributes>,
    /// The files that it begins with, by content: the number or name of a stage means another one in the next Dockerfile,
    /// and a cache of other files is another cache.
    pub seed: Option<&'a Digest>,
}

/// What a cache mount held at the end of a build.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SavedMount {
    /// The archive.
    pub archive: Descriptor,
    /// The digest of its tar stream.
    pub diff_id: Digest,
    /// Its index.
    pub index: Descriptor,
    /// Bytes of its files.
    pub content: u64,
    /// When it was saved, in seconds since 1970.
    pub created: i64,
}

impl Identity<'_> {
    /// Returns the tag.
    pub fn tag(&self) -> String {
        let mut hasher = FieldHasher::default();
        for text in [FORMAT, self.platform, self.id, self.source] {
            hasher.field(text.as_bytes());
        }
        let numbers = self.attributes.map(|Attributes { mode, uid, gid }| [mode, uid, gid].map(u32::to_le_bytes));
        hasher.list(numbers.iter().flatten().map(|number| &number[..]).collect::<Vec<_>>().into_iter());
        hasher.list(self.seed.iter().map(|seed| &seed.as_bytes()[..]));
        format!("mount-{}", hasher.finish().hex())
    }
}

impl SavedMount {
    /// Reads the manifest that was found under `tag`.
    ///
    /// # Errors
    /// [`InvalidEntry`] where something is missing, malformed or made for another mount.
    pub fn parse(manifest: &Manifest, tag: &str) -> Result<Self, InvalidEntry> {
        let annotations = &manifest.annotations;
        if annotation::<String>(annotations, MOUNT)? != tag {
            return Err(InvalidEntry("it was made for another mount".into()));
        }
        let [archive, index] = &manifest.layers[..] else {
            return Err(InvalidEntry(format!("it has {} blobs", manifest.layers.len())));
        };
        for (blob, expected) in [(archive, layer_media_type(COMPRESSION)), (index, INDEX_MEDIA_TYPE)] {
            if blob.media_type != expected {
                return Err(InvalidEntry(format!("it has a blob of the type `{}`", blob.media_type)));
            }
        }
        let created: Timestamp = annotation(annotations, CREATED)?;
        Ok(Self {
            diff_id: annotation(&archive.annotations, DIFF_ID)?,
            archive: Descriptor::new(&archive.media_type, archive.digest.clone(), archive.size),
            index: Descriptor::new(&index.media_type, index.digest.clone(), index.size),
            content: annotation(annotations, CONTENT_BYTES)?,
            created: created.as_second(),
        })
    }

    /// The facts of the manifest.
    pub fn annotations(&self, tag: &str) -> BTreeMap<String, String> {
        let created = Timestamp::from_second(self.created).unwrap_or_default();
        [(MOUNT, tag.to_owned()), (CONTENT_BYTES, self.content.to_string()), (CREATED, created.to_string())]
            .map(|(name, value)| (name.to_owned(), value))
            .into()
    }

    /// The archive's descriptor as it stands in the manifest.
    pub fn descriptor(&self) -> Descriptor {
        Descriptor { annotations: [(DIFF_ID.to_owned(), self.diff_id.to_string())].into(), ..self.archive.clone() }
    }

    /// Says why it is left alone, if it is too old at `now`, in seconds since 1970, or too large.
    pub fn refusal(&self, now: i64, ttl: Duration, bytes_max: u64) -> Option<String> {
        let oldest = now.saturating_sub(ttl.as_secs().try_into().unwrap_or(i64::MAX));
        if self.created < oldest || ttl.is_zero() {
            return Some("older than --cache-ttl allows".to_owned());
        }
        (self.content > bytes_max).then(|| format!("larger than --cache-mount-max-size: {} bytes", self.content))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDENTITY: Identity<'_> =
        Identity { platform: "linux/amd64", id: "/x", source: "/", attributes: None, seed: None };

    fn mount() -> SavedMount {
        SavedMount {
            archive: Descriptor::of(layer_media_type(COMPRESSION), b"archive"),
            diff_id: Digest::of(b"tar"),
            index: Descriptor::of(INDEX_MEDIA_TYPE, b"index"),
            content: 7,
            created: 1_700_000_000,
        }
    }

    fn manifest(mount: &SavedMount) -> Manifest {
        Manifest {
            schema_version: 2,
            media_type: None,
            artifact_type: Some(MOUNT_TYPE.into()),
            config: Descriptor::of("application/vnd.oci.empty.v1+json", b"{}"),
            layers: vec![mount.descriptor(), mount.index.clone()],
            subject: None,
            annotations: mount.annotations("mount-x"),
        }
    }

    #[test]
    fn every_part_of_an_identity_counts() {
        let attributes = |mode, uid, gid| Some(Attributes { mode, uid, gid });
        let seeds = [Digest::of(b"one"), Digest::of(b"two")];
        let all = [
            IDENTITY,
            Identity { platform: "linux/arm64", ..IDENTITY },
            Identity { id: "/y", ..IDENTITY },
            Identity { id: "team/x", ..IDENTITY },
            Identity { id: "/x/", source: "", ..IDENTITY },
            Identity { source: "/part", ..IDENTITY },
            Identity { attributes: attributes(0o755, 0, 0), ..IDENTITY },
            Identity { attributes: attributes(0o755, 1, 0), ..IDENTITY },
            Identity { attributes: attributes(0o755, 0, 1), ..IDENTITY },
            Identity { seed: Some(&seeds[0]), ..IDENTITY },
            Identity { seed: Some(&seeds[1]), ..IDENTITY },
        ];
        let tags: std::collections::BTreeSet<_> = all.iter().map(Identity::tag).collect();
        assert_eq!(tags.len(), all.len());
        assert_eq!(IDENTITY.tag().len(), "mount-".len() + 64);
    }

    #[test]
    fn the_tag_stays_from_version_to_version() {
        assert_eq!(IDENTITY.tag(), "mount-5398782579ad822959cbd0559364b70bca764a0da94f8324ae6ba090b939d415");
    }

    #[test]
    fn a_mount_is_read_as_it_was_written() {
        assert_eq!(SavedMount::parse(&manifest(&mount()), "mount-x"), Ok(mount()));
    }

    #[test]
    fn what_is_damaged_is_refused() {
        let says = |text: &str, damage: &dyn Fn(&mut Manifest)| {
            let mut manifest = manifest(&mount());
            damage(&mut manifest);
            let error = SavedMount::parse(&manifest, "mount-x").unwrap_err().to_string();
            assert!(error.contains(text), "{error}");
        };
        says("1 blobs", &|manifest| drop(manifest.layers.pop()));
        says("a blob of the type", &|manifest| manifest.layers.swap(0, 1));
        says("no annotation dev.karve.layer.diffid", &|manifest| manifest.layers[0].annotations.clear());
        for name in [CREATED, CONTENT_BYTES] {
            says("malformed", &|manifest| drop(manifest.annotations.insert(name.into(), "-".into())));
        }
        says("another mount", &|manifest| drop(manifest.annotations.insert(MOUNT.into(), "mount-y".into())));
    }

    #[test]
    fn what_is_too_old_or_too_large_is_left_alone() {
        let refusal = |now, ttl, bytes| mount().refusal(now, Duration::from_secs(ttl), bytes);
        assert_eq!(refusal(1_700_000_010, 10, 7), None);
        // A clock that is behind.
        assert_eq!(refusal(1_600_000_000, 10, 7), None);
        assert!(refusal(1_700_000_011, 10, 7).unwrap().contains("--cache-ttl"));
        assert!(refusal(1_700_000_000, 0, 7).unwrap().contains("--cache-ttl"));
        assert!(refusal(1_700_000_000, 10, 6).unwrap().contains("--cache-mount-max-size: 7 bytes"));
    }
}
